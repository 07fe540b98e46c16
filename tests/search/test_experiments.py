"""Experiments: sentences are what the intervals say, criteria are exact, files are checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from merge_core import MergePlan, Recipe
from merge_core.errors import CheckpointError
from merge_core.reference import nearest
from merge_core.yaml_io import dump_yaml
from objectives import Estimate, ItemScore
from objectives.comparing import paired
from objectives.scorers.base import Measure
from search.config import Objective
from search.demo import write_items
from search.errors import ConfigError
from search.experiments import EXPERIMENTS, get_experiment
from search.experiments.layer_schedules import LayerSchedules
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
from search.experiments.restoring import KINDS, criterion_of, fingerprint_of, write_restored
from search.experiments.running import run
from search.results import Result

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
    assert table(values, "length")[2] == r"| a\|&lt;b&gt; | 10.512 | .500 [.250, 1.000] |"


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


# --- Files and commands --------------------------------------------------------------------------

SCHEDULES = {
    "experiment": "layer-schedules",
    "base_model": "models/base",
    "language": "models/thai",
    "reasoning": "models/r1",
    "schedules": {"low": 0.25, "M3": [0.75, 0.75, 0.75, 0.125]},
    "methods": {"linear": {"merge_method": "linear"}},
    "tasks": {"sums": {"items": "items.jsonl", "scorers": ["math"]}},
    "objectives": {"right": "sums/math"},
    "splits": {"dev": 4, "confirm": 4, "test": 4},
    "engine": {"kind": "scripted", "default": "The answer is 7."},
}
SLACK = {
    **{key: SCHEDULES[key] for key in ("base_model", "tasks", "objectives", "splits", "engine")},
    "experiment": "slack",
    "experts": {"thai": "models/thai", "r1": "models/r1"},
    "restored": "r1",
    "slacks": [0, 0.5],
    "judge": "right",
    "settings": [
        {"merge_method": "ties_sv", "experts": {"r1": {"weight": 1}, "thai": {"weight": 1}}}
    ],
}


def test_experiments_are_listed_and_known(mergefront) -> None:
    listed = mergefront("experiment")
    assert listed.code == 0
    for name in EXPERIMENTS:
        experiment = get_experiment(name)
        assert experiment.name == name
        assert f"{name} " in listed.out
        assert experiment.kind.model_fields["experiment"].default == name
    wrong = mergefront("experiment", "plato")
    assert wrong.code == 2
    assert "did you mean 'plateau'" in wrong.err


@pytest.mark.parametrize(
    ("base", "change_", "said"),
    [
        (SCHEDULES, {"experiment": "slack"}, ":1:1: is a file of the experiment slack"),
        (SCHEDULES, {"lanugage": 1}, "unknown key 'lanugage'; did you mean 'language'"),
        (SCHEDULES, {"reasoning": "models/nowhere"}, ":4:1: "),
        (SCHEDULES, {"schedules": {"low": 1.5}}, ":5:1: schedules: low is a share from 0 to 1"),
        (SCHEDULES, {"methods": {"a": {"merge_method": "linaer"}}}, "did you mean 'linear'"),
        (SCHEDULES, {"methods": {"a": {"merge_method": "slerp"}}}, "slerp"),
        (SCHEDULES, {"objectives": {"right": "sums/nope"}}, "unknown score of task 'sums' 'nope'"),
        (SCHEDULES, {"splits": {"dev": 40}}, "task sums"),
        (SLACK, {"judge": "wrong"}, "unknown objective 'wrong'"),
        (SLACK, {"restored": "r2"}, "'r2' is no role of experts"),
        (SLACK, {"slacks": [0, 2]}, "slack 2 lies outside 0 to 1"),
        (SLACK, {"settings": [{"merge_method": "linear"}]}, "linear elects no signs"),
        (SLACK, {"settings": [{"merge_method": "ties", "experts": {"x": {}}}]}, "names 'x'"),
    ],
)
def test_a_bad_file_is_one_line_before_anything_is_written(
    workplace, mergefront, base, change_, said
) -> None:
    (workplace / "own.yaml").write_text(dump_yaml({**base, **change_}))
    ended = mergefront("experiment", base["experiment"], "--config", "own.yaml", "--out", "out")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "own.yaml:" in ended.err
    assert said in ended.err
    assert not (workplace / "out").exists()


def test_an_experiment_s_own_file_runs_and_leaves_other_folders_alone(
    workplace, mergefront
) -> None:
    (workplace / "own.yaml").write_text(dump_yaml(SLACK))
    ended = mergefront("experiment", "slack", "--config", "own.yaml")
    assert ended.code == 0, ended.err
    folder = workplace / "experiments" / "slack-own"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("report.md", "results.json", "values.csv", "differences.csv"),
        *("plot.png", "plot.html", "points"),
    }
    found = json.loads((folder / "results.json").read_text())
    # Whatever is merged, the scripted engine says the same.
    assert "not told apart" in found["findings"][0]
    assert {row["sign"] for row in found["differences"]} == {"not told apart"}


def test_all_criteria_that_one_sentence_tells_of_hold_together(workplace, mergefront) -> None:
    kinds = ["magnitude", "random", "farthest"]
    data = {**SLACK, "experiment": "criteria", "slacks": [0.5, 1], "criteria": kinds, "draws": 1}
    (workplace / "own.yaml").write_text(dump_yaml(data))
    ended = mergefront("experiment", "criteria", "--config", "own.yaml", "--out", "out")
    assert ended.code == 0, ended.err
    found = json.loads((workplace / "out" / "results.json").read_text())["differences"]
    counts = {rival: sum(row["b"] == rival for row in found) for rival in (*kinds[:2], "TIES")}
    assert counts == {"magnitude": 4, "random": 4, "TIES": 6}
    alike = [result([0.0] * 4)]  # as the scripted engine's answers are
    for row in found:
        held = difference(RIGHT, alike, alike, counts[row["b"]])
        assert (row["estimate"]["low"], row["estimate"]["high"]) == (held.low, held.high)
    wide, wider = (difference(RIGHT, alike, alike, count).high for count in (4, 6))
    assert 0.0 < wide < wider


def test_models_of_one_s_own_are_scored_once_and_alike_each_time(trio, tmp_path) -> None:
    write_items(tmp_path / "items.jsonl", dev=2, confirm=10, test=2)
    data = {
        **SCHEDULES,
        "base_model": str(trio.base),
        "language": str(trio.language),
        "reasoning": str(trio.reasoning),
        "schedules": {"0": 0, "1": 1},
        "tasks": {
            "sums": {
                "items": "items.jsonl",
                "generate": {"max_tokens": 40},
                "scorers": ["math", {"language": {"expect": "th"}}],
            }
        },
        "objectives": {"right": "sums/math", "thai": "sums/language"},
        "splits": {"dev": 2, "confirm": 10, "test": 2},
        "engine": {"kind": "transformers", "device": "cpu"},
    }
    (tmp_path / "own.yaml").write_text(dump_yaml(data))
    lines: list[str] = []

    def once(folder: str) -> dict[str, object]:
        lines.clear()
        run(LayerSchedules(), tmp_path / folder, config=tmp_path / "own.yaml", told=lines.append)
        return json.loads((tmp_path / folder / "results.json").read_text())

    first = once("one")
    assert len(lines) == 4
    written = (tmp_path / "one" / "report.md").read_text()
    assert LayerSchedules.limits in written
    assert LayerSchedules.miniature not in written
    # A share of 0 or 1 is the one expert, to the bit.
    held = {(v["series"], v["at"], v["score"]): v["estimate"] for v in first["values"]}
    for score in ("right", "thai"):
        assert held["linear", "0", score] == held["language expert", "0", score]
        assert held["linear", "1", score] == held["reasoning expert", "1", score]
    assert once("one") == first
    assert lines == []
    min((tmp_path / "one" / "points").iterdir()).unlink()
    assert once("one") == first
    assert len(lines) == 1
    assert once("two") == first
