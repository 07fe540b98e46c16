"""Experiments: sentences are what the intervals say, and criteria are exact."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from merge_core import MergePlan, Recipe
from merge_core.errors import CheckpointError
from merge_core.reference import nearest
from objectives import Estimate, ItemScore
from objectives.comparing import paired
from objectives.scorers.base import Measure
from search.config import Objective
from search.errors import ConfigError
from search.experiments.chart import panel_of
from search.experiments.outcome import (
    Difference,
    Value,
    change,
    difference,
    mean,
    table,
    trend,
    verdict,
)
from search.experiments.restoring import Kind, criterion_of, fingerprint_of, write_restored
from search.figures.chart import Axis, Points
from search.results import Result

KINDS = get_args(Kind)
RIGHT = Objective("right", (("sums", "math"),), "maximize", 0.0, (Measure(binary=True),))
LONG = Objective(
    "long", (("sums", "math"),), "minimize", 1.0, (Measure(binary=True, direction="minimize"),)
)


def result(scores: list[float]) -> Result:
    items = [ItemScore(f"i{n}", {"math": s}, "", 1, "stop") for n, s in enumerate(scores)]
    return Result({}, "", "confirm", {"sums": items})


def told(value: float, low: float, high: float, at: str) -> Difference:
    return Difference("a", "b", at, "right", Estimate(value, low, high, 10))


# --- Sentences -----------------------------------------------------------------------------------


def test_a_verdict_says_where_something_is_ahead_behind_and_neither() -> None:
    rows = [
        told(0.2, 0.1, 0.3, "1"),
        told(0.05, -0.1, 0.2, "2"),
        told(-0.3, -0.4, -0.2, "3"),
        told(0.3, 0.01, 0.5, "4"),
    ]
    assert verdict("A against B", rows, "amounts") == (
        "A against B: ahead at 2 of 4 amounts (1, 4), behind at 1 (3), not told apart at 1 (2); "
        "the largest difference is -.300 [-.400, -.200] at 3."
    )
    assert verdict("A against B", rows[:1], "amounts").startswith("A against B: ahead, +.200")
    both = verdict("A", [rows[0], rows[3]], "amounts")
    assert both.startswith("A: ahead at all 2 amounts;")


def test_a_table_shows_what_is_over_one_and_names_as_they_are() -> None:
    values = [Value("a|<b>", "1", "length", Estimate(n, n, n, 9)) for n in (10.512,)]
    values.append(Value("a|<b>", "2", "length", Estimate(0.5, 0.25, 1.0, 9)))
    rows = table(values, "length").splitlines()
    assert rows[2] == r"| a\|\<b\> | 10.512 | .500 [.250, 1.000] |"


def test_a_panel_shows_values_whose_intervals_have_no_end() -> None:
    told = [Value("a", at, "ppl", Estimate(9.0, 1.0, math.inf, 1)) for at in ("1", "2")]
    panel = panel_of(told, "ppl", Axis("slack"), ["a"])
    assert panel.y.span is not None
    low, high = panel.y.span
    assert low < 1.0 < 9.0 < high < math.inf
    points = panel.series[1]
    assert isinstance(points, Points)
    assert points.y_bars == [(1.0, high)] * 2


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.1, 0.2, "grows"), (-0.2, -0.1, "shrinks"), (-1, 1, "neither")]
)
def test_a_trend_is_what_its_interval_says(low, high, said) -> None:
    assert f"The gain {said}" in trend("The gain", Estimate(0.0, low, high, 9), "1", "2")


scores = st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=20)


@settings(max_examples=15)
@given(scores, st.randoms(use_true_random=False))
def test_a_difference_is_paired_by_item_and_turned_so_that_more_is_better(one, rng) -> None:
    other = [rng.choice([0.0, 1.0]) for _ in one]
    found = difference(RIGHT, [result(one)], [result(other)])
    held = paired(one, other, True)
    assert (found.value, found.low, found.high) == (held.value, held.low, held.high)
    turned = difference(LONG, [result(one)], [result(other)])
    assert (turned.value, turned.low, turned.high) == (-found.value, -found.high, -found.low)
    wider = difference(RIGHT, [result(one)], [result(other)], family=5)
    assert wider.low <= found.low
    assert found.high <= wider.high


def test_several_draws_are_averaged_item_by_item() -> None:
    draws = [result([1.0, 0.0, 1.0, 0.0]), result([1.0, 1.0, 0.0, 0.0])]
    assert mean(draws, RIGHT).value == 0.5
    assert mean(draws, RIGHT).n == 4
    assert difference(RIGHT, draws, [result([0.0] * 4)]).value == 0.5


def test_draws_of_a_perplexity_are_averaged_as_perplexities_are() -> None:
    measure = Measure((1.0, math.inf), "minimize", aggregation="geometric", weights="ppl.tokens")
    told = Objective("ppl", (("sums", "ppl"),), "minimize", 100.0, (measure,))

    def draw(*scores: tuple[float, float]) -> Result:
        items = [
            ItemScore(f"i{n}", {"ppl": score, "ppl.tokens": tokens}, "", 1, "stop")
            for n, (score, tokens) in enumerate(scores)
        ]
        return Result({}, "", "confirm", {"sums": items})

    draws = [draw((2.0, 3.0), (16.0, 1.0)), draw((8.0, 3.0), (16.0, 1.0))]
    # 4 over three tokens, 16 over one.
    assert mean(draws, told).value == pytest.approx((4.0**3 * 16.0) ** 0.25)
    alone, twice = mean(draws[:1], told), mean(draws[:1] * 2, told)
    assert alone == draws[0].estimate(told)
    assert (twice.value, twice.low) == pytest.approx((alone.value, alone.low))


def test_a_change_is_the_gain_there_less_the_gain_here() -> None:
    none, all_, half = result([0.0] * 8), result([1.0] * 8), result([1.0, 0.0] * 4)
    found = change(RIGHT, ([all_], [none]), ([half], [none]))
    assert found.value == -0.5
    assert found.low <= -0.5 <= found.high
    assert change(RIGHT, ([half], [half]), ([half], [half])).value == 0.0


# --- Criteria ------------------------------------------------------------------------------------


def restored(workplace: Path, slack: float, expert: int = 1) -> Recipe:
    models = [
        {"model": f"models/{name}", "name": name, "parameters": {"weight": 1, "density": 0.6}}
        for name in ("thai", "r1")
    ]
    models[expert]["parameters"] |= {"slack": slack, "weight": 0.9}
    data = {
        "merge_method": "ties_sv",
        "base_model": "models/base",
        "models": models,
        "parameters": {"normalize": False},
        "tokenizer_source": "base",
    }
    return Recipe.parse(data).resolved(workplace)


def merged(recipe: Recipe) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in MergePlan(recipe).tensors()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert set(one) == set(other)
    return all(torch.equal(one[name], other[name]) for name in one)


def made(recipe: Recipe, kind: str, folder: Path, **given: object) -> dict[str, torch.Tensor]:
    write_restored(recipe, criterion_of(kind, **given), folder)
    return load_file(folder / "model.safetensors")


@pytest.fixture
def fisher(workplace: Path) -> Path:
    held = load_file(workplace / "models" / "r1" / "model.safetensors")
    rng = np.random.default_rng(0)
    path = workplace / "fisher.safetensors"
    save_file({n: torch.from_numpy(rng.random(t.shape, np.float32)) for n, t in held.items()}, path)
    return path


@pytest.mark.parametrize("slack", [0.0, 0.3, 1.0])
def test_the_paper_s_criterion_gives_the_bits_of_any_other_merge(workplace, slack) -> None:
    recipe = restored(workplace, slack)
    assert same(made(recipe, "magnitude", workplace / "out"), merged(recipe))


def test_criteria_differ_between_the_ends_of_slack_and_agree_at_them(workplace, fisher) -> None:
    for slack, alike in ((0.0, True), (0.5, False), (1.0, True)):
        recipe = restored(workplace, slack)
        plain = merged(recipe)
        for kind in KINDS[1:]:
            other = made(recipe, kind, workplace / f"{kind}-{slack}", fisher=fisher)
            assert same(plain, other) is alike, (kind, slack)


def test_chance_is_drawn_by_its_seed(workplace) -> None:
    recipe = restored(workplace, 0.5)
    one, other, again = (
        made(recipe, "random", workplace / f"r{n}", seed=seed) for n, seed in enumerate((1, 2, 1))
    )
    assert same(one, again)
    assert not same(one, other)


def test_fisher_and_farthest_turn_an_order_round_exactly(workplace, fisher) -> None:
    name, held = next(iter(load_file(fisher).items()))
    delta = np.zeros(held.numel(), np.float32)
    key = criterion_of("fisher", fisher=fisher)(0, name, delta, delta)
    assert np.isfinite(key).all()
    assert (key >= 0).all()
    assert np.array_equal(np.argsort(key), np.argsort(-held.numpy().reshape(-1)))
    rng = np.random.default_rng(1)
    delta, opponent = rng.normal(size=(2, 50)).astype(np.float32)
    near = nearest(0, name, delta, np.abs(opponent))
    far = criterion_of("farthest")(0, name, delta, np.abs(opponent))
    assert np.array_equal(np.argsort(far), np.argsort(-near))


def test_fisher_needs_a_file_that_fits(workplace, fisher) -> None:
    recipe = restored(workplace, 0.5)
    with pytest.raises(ConfigError, match="needs a file"):
        criterion_of("fisher")
    held = load_file(fisher)
    name = sorted(held)[0]
    save_file({**held, name: torch.full_like(held[name], -1.0)}, fisher)
    with pytest.raises(CheckpointError, match=f"tensor {name} is not"):
        made(recipe, "fisher", workplace / "out", fisher=fisher)
    save_file({other: tensor for other, tensor in held.items() if other != name}, fisher)
    with pytest.raises(CheckpointError, match=f"lacks tensor {name}"):
        made(recipe, "fisher", workplace / "out2", fisher=fisher)


def test_a_fingerprint_covers_criterion_seed_and_the_file_s_contents(fisher) -> None:
    def named(kind: str, seed: int = 0) -> str:
        return fingerprint_of("abc", kind, seed=seed, fisher=fisher)

    before = {named(kind) for kind in KINDS} | {named("random", 1)}
    assert len(before) == len(KINDS) + 1
    assert named("magnitude", 1) == "abc"
    assert named("farthest", 1) == named("farthest")
    held = load_file(fisher)
    save_file({name: tensor + 1 for name, tensor in held.items()}, fisher)
    assert named("fisher") not in before
