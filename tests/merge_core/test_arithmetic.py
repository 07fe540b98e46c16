"""Small merges worked out by hand: what the reference and the executor might both get wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_core import MergePlan, Recipe, RecipeError, Sources
from merge_core.arithmetic import (
    BLOCK,
    band,
    coefficients,
    della_allows,
    della_table,
    kept_count,
    multipliers,
    pair_products,
    restored_count,
    slerp_factors,
)
from merge_core.methods import get_method
from merge_core.random import drop_bits, drop_threshold, tensor_ids
from tests.merge_core.conftest import CONFIG, write_checkpoint
from tests.merge_core.method_suite import NAMES, Case, bits

ROW = NAMES[1]


def merged(
    method: str,
    base: list[float],
    experts: list[list[float]],
    own: list[dict],
    shared: dict | None = None,
) -> list[float]:
    """Merge one row in float32, by the reference and the executor, which must agree."""

    def model(row: list[float]) -> dict:
        return {name: torch.tensor(row, dtype=torch.float32) for name in NAMES}

    models = [
        {"model": f"expert-{i}", "name": f"e{i}", "parameters": parameters}
        for i, parameters in enumerate(own)
    ]
    data = {"merge_method": method, "base_model": "base", "models": models}
    with Case({**data, "parameters": shared or {}}, model(base), [model(e) for e in experts]) as c:
        got, expected = c.plan.tensor(ROW), c.expected()[ROW]
        np.testing.assert_array_equal(bits(got), bits(expected))
        return got.tolist()


ZEROS = [0.0] * 4
PLAIN = {"normalize": False}


def test_a_sum_of_zero_elects_the_positive() -> None:
    own = [{"weight": 1.0}, {"weight": 1.0}]
    assert merged("ties", [0.0] * 2, [[2.0, -3.0], [-2.0, 3.0]], own, PLAIN) == [2.0, 3.0]


def test_weights_vote_in_the_election() -> None:
    own = [{"weight": 1.0}, {"weight": 0.25}]
    assert merged("ties", [0.0], [[1.0], [-3.0]], own, PLAIN) == [1.0]
    own = [{"weight": 1.0}, {"weight": 0.5}]
    assert merged("ties", [0.0], [[1.0], [-3.0]], own, PLAIN) == [-1.5]


def test_normalize_divides_by_the_kept_weights_only() -> None:
    own = [{"weight": 0.5}, {"weight": 0.25}]
    assert merged("ties", [1.0, 1.0], [[5.0, 5.0], [5.0, -1.0]], own) == [5.0, 5.0]
    shared = {"normalize": True}
    assert merged("task_arithmetic", [1.0, 1.0], [[4.0, 4.0], [4.0, 1.0]], own, shared) == [
        4.0,
        3.0,
    ]


def test_trim_keeps_the_largest_and_at_least_one() -> None:
    own = [{"weight": 1.0, "density": 0.5}]
    row = [0.25, -4.0, 1.0, 2.0]
    assert merged("ties", ZEROS, [row], own, PLAIN) == [0.0, -4.0, 0.0, 2.0]
    own = [{"weight": 1.0, "density": 0.01}]
    assert merged("ties", ZEROS, [row], own, PLAIN) == [0.0, -4.0, 0.0, 0.0]
    own = [{"weight": 1.0, "density": 0.74}]  # floor(2.96)
    assert merged("ties", ZEROS, [row], own, PLAIN) == [0.0, -4.0, 0.0, 2.0]


# Expert 1 loses everywhere to expert 0; unweighted, its distances are 1, 5, 2 and 7.
LOST = [[4.0, 6.0, 5.0, 9.0], [-3.0, -1.0, -3.0, -2.0]]


@pytest.mark.parametrize(
    ("slack", "mode", "expected"),
    [
        (0.0, "replace", [4.0, 6.0, 5.0, 9.0]),
        (0.24, "replace", [4.0, 6.0, 5.0, 9.0]),  # floor(.96) entries
        (0.25, "replace", [-1.5, 6.0, 5.0, 9.0]),
        (0.5, "replace", [-1.5, 6.0, -1.5, 9.0]),
        (0.5, "both", [2.5, 6.0, 3.5, 9.0]),
        (1.0, "replace", [-1.5, -0.5, -1.5, -1.0]),
    ],
)
def test_slack_gives_back_the_narrowest_losses(slack, mode, expected) -> None:
    own = [{"weight": 1.0}, {"weight": 0.5, "slack": slack}]
    shared = {"normalize": False, "slack_mode": mode}
    assert merged("ties_sv", ZEROS, LOST, own, shared) == expected


def test_slack_ranks_unweighted_differences() -> None:
    """Weighted, the second entry would be the narrower one."""
    rows = [[4.0, 0.75], [-3.0, -2.0]]
    own = [{"weight": 1.0}, {"weight": 0.25, "slack": 0.5}]
    assert merged("ties_sv", [0.0] * 2, rows, own, PLAIN) == [-0.75, 0.75]


def test_slack_measures_against_the_largest_kept() -> None:
    """Distances 1 and 2 to the largest; to the smallest kept they would be 2 and 0."""
    rows = [[5.0, 7.0], [2.0, 5.0], [-4.0, -5.0]]
    own = [{"weight": 1.0}, {"weight": 1.0}, {"weight": 1.0, "slack": 0.5}]
    assert merged("ties_sv", [0.0] * 2, rows, own, PLAIN) == [-4.0, 12.0]


def test_what_an_earlier_expert_won_back_is_no_longer_free() -> None:
    rows = [[9.0, 9.0], [-4.0, -3.0], [-3.0, -4.0]]
    own = [{"weight": 1.0}, *[{"weight": 1.0, "slack": 0.5}] * 2]
    # Expert 1 takes entry 0 (distance 5); floor(.5 * 1) of what is left for expert 2 is none.
    assert merged("ties_sv", [0.0] * 2, rows, own, PLAIN) == [-4.0, 9.0]
    own[2] = {"weight": 1.0, "slack": 1.0}
    assert merged("ties_sv", [0.0] * 2, rows, own, PLAIN) == [-4.0, -4.0]


def test_dare_rescales_by_the_exact_share() -> None:
    """a = w 65536 / T, T = floor(.3 * 65536 + .5) = 19661: not w / .3."""
    row = merged("dare_linear", [0.0] * 64, [[1.0] * 64], [{"weight": 1.0, "density": 0.3}])
    assert set(row) == {0.0, float(np.float32(65536 / 19661))}


def test_breadcrumbs_takes_out_the_largest_too() -> None:
    row = [0.25, -4.0, 1.0, 2.0]
    own = [{"weight": 1.0, "density": 0.5, "gamma": 0.25}]
    for method in ("breadcrumbs", "breadcrumbs_ties"):
        assert merged(method, ZEROS, [row], own) == [0.0, 0.0, 1.0, 2.0]
    own = [{"weight": 1.0, "density": 0.75, "gamma": 0.9}]  # density goes before gamma
    assert merged("breadcrumbs", ZEROS, [row], own) == [0.25, 0.0, 1.0, 2.0]


def test_breadcrumbs_adds_without_election() -> None:
    rows = [[4.0, 3.0, 2.0, 1.0], [-1.0, 4.0, 2.0, 3.0]]
    own = [{"weight": 1.0, "density": 0.5, "gamma": 0.25}] * 2
    assert merged("breadcrumbs", ZEROS, rows, own) == [0.0, 3.0, 4.0, 3.0]


def test_della_draws_by_rank_and_rescales_by_the_exact_share() -> None:
    """One row: ranks 0 to 7 have probabilities .3 to .7, the draw is DARE's."""
    ranks = [2, 0, 3, 1, 7, 5, 6, 4]
    row = [-1.0 - rank if rank % 2 else 1.0 + rank for rank in ranks]
    own = [{"weight": 0.5, "density": 0.5, "epsilon": 0.2}]
    thresholds = [drop_threshold(0.3 + 0.4 * rank / 7) for rank in ranks]
    drawn = drop_bits(0, 8, seed=0, tensor_id=tensor_ids(NAMES)[ROW], expert=0)
    expected = [
        float(np.float32(x) * np.float32(0.5 * 65536 / t)) if half < t else 0.0
        for x, t, half in zip(row, thresholds, drawn, strict=True)
    ]
    assert merged("della_linear", [0.0] * 8, [row], own) == expected
    assert 0 < sum(x != 0 for x in expected) < 8


def test_slerp_of_a_right_angle() -> None:
    half = float(np.float32(math.sqrt(0.5)))
    rows = [[1.0, 0.0], [0.0, 3.0]]
    assert arc(0.5, *rows) == [half, float(np.float32(3 * half))]
    assert arc(0.0, *rows) == rows[0]
    assert arc(1.0, *rows) == rows[1]
    assert arc(1 / 3, *rows) == [float(np.float32(math.cos(math.pi / 6))), 1.5]


def arc(t: float, base: list[float], other: list[float]) -> list[float]:
    """SLERP of two rows by the reference and the executor, in either order of the models."""
    found = []
    for order in (0, 1):
        made = [{n: torch.tensor(row) for n in NAMES} for row in (base, other)][:: 1 - 2 * order]
        models = [{"model": "base"}, {"model": "expert-1"}]
        if order:
            models = [{"model": "expert-0"}, {"model": "base"}]
        data = {"merge_method": "slerp", "base_model": "base", "models": models}
        with Case({**data, "parameters": {"t": t}}, made[order], made) as case:
            got = case.plan.tensor(ROW)
            np.testing.assert_array_equal(bits(got), bits(case.expected()[ROW]))
            found.append(got.tolist())
    assert found[0] == found[1]
    return found[0]


def test_layer_swapping_copies_the_chosen_experts_layers(tmp_path: Path) -> None:
    """configs/recipes/layer_swap.yaml, on models of its 28 layers."""
    generator = torch.Generator().manual_seed(0)
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(28)]
    names += ["model.embed_tokens.weight", "model.norm.weight"]
    models = {
        name: {n: torch.randn(5, 4, generator=generator).to(torch.bfloat16) for n in names}
        for name in ("base", "language", "reasoning")
    }
    for name, tensors in models.items():
        write_checkpoint(tmp_path / name, tensors, {**CONFIG, "num_hidden_layers": 28})
    recipe = Recipe.load(Path(str(files("configs") / "recipes" / "layer_swap.yaml")))
    experts = tuple(replace(e, model=str(tmp_path / e.name)) for e in recipe.models)
    recipe = replace(recipe, base_model=str(tmp_path / "base"), models=experts)
    plan = MergePlan(recipe, Sources.open(recipe))
    for i, name in enumerate(names):
        if i in (4, 25):
            pair = (models["language"][name].float(), models["reasoning"][name].float())
            expected = ((pair[0] + pair[1]) * 0.5).to(torch.bfloat16)
        else:
            expected = models["language" if i < 4 or i in (26, 27) else "reasoning"][name]
        np.testing.assert_array_equal(bits(plan.tensor(name)), bits(expected), err_msg=name)


def test_sums_run_in_recipe_order() -> None:
    own = [{"weight": 1.0}] * 3
    rows = [[2.0**24], [1.0], [1.0]]
    assert merged("task_arithmetic", [0.0], rows, own) == [2.0**24]
    assert merged("task_arithmetic", [0.0], rows[::-1], own) == [2.0**24 + 2]


def test_products_and_sums_are_rounded_apart() -> None:
    """(1 + e)(1 + e) - (1 + 2e) is e^2 with a fused multiply-add, 0 without."""
    e = 2.0**-12
    rows = [[1.0 + e], [-1.0 - 2 * e]]
    own = [{"weight": 1.0 + e}, {"weight": 1.0}]
    assert merged("linear", [0.0], rows, own, PLAIN) == [0.0]
    shared = {"lambda": 1.0 + e, "normalize": False}
    for method in ("task_arithmetic", "ties"):
        assert merged(method, [-1.0 - 2 * e], [[-e]], [{"weight": 1.0}], shared) == [0.0]


def test_negative_zeros_and_subnormals_survive() -> None:
    own = [{"weight": 1.0}, {"weight": 1.0}]
    (zero,) = merged("linear", [0.0], [[-0.0], [-0.0]], own, PLAIN)
    assert math.copysign(1.0, zero) == -1.0
    tiny = 2.0**-149
    assert merged("ties", [0.0], [[tiny], [-2 * tiny]], own, PLAIN) == [-2 * tiny]


def test_masks_select_and_never_multiply() -> None:
    """What is not kept is +0: as a product it would be -0 and turn -0.0 + 0 into -0.0."""
    (zero,) = merged("ties", [-0.0], [[-1.0]], [{"weight": 0.0}], PLAIN)
    assert math.copysign(1.0, zero) == 1.0


def test_linear_averages() -> None:
    own = [{"weight": 3.0}, {"weight": 1.0}]
    assert merged("linear", [99.0], [[1.0], [5.0]], own) == [2.0]
    assert merged("linear", [99.0], [[1.0], [5.0]], own, PLAIN) == [8.0]


def test_coefficients_are_float32_of_the_exact_quotient() -> None:
    table = coefficients([0.3, 0.7, -0.2], 0.9, normalize=True)
    assert table.dtype == np.float32
    for subset in range(1, 8):
        total = sum(w for i, w in enumerate([0.3, 0.7, -0.2]) if subset >> i & 1)
        assert table[subset] == np.float32(0.9 / total)
    assert coefficients([0.3, 0.6, -0.9], 0.9, normalize=True)[7] == np.float32(0.9)
    assert set(coefficients([0.3, 0.7], 0.9, normalize=False)) == {np.float32(0.9)}


def test_counts() -> None:
    assert [kept_count(d, 10) for d in (0.0, 0.01, 0.19, 0.3, 1.0)] == [0, 1, 1, 3, 10]
    assert kept_count(0.5, 0) == 0
    assert [restored_count(s, 3) for s in (0.0, 0.3, 0.4, 1.0)] == [0, 0, 1, 3]
    assert multipliers(get_method("dare_linear"), [0.5, 0.5], [0.0, 1.0]) == (0.0, 0.5)


def test_bands() -> None:
    assert band(0.5, 0.25, 8) == (2, 4)
    assert band(0.5, 0.0, 8) == (0, 4)
    assert band(0.5, 0.9, 8) == (4, 4)  # as many outliers as leave the density
    assert band(1.0, 0.5, 8) == (0, 8)
    assert band(0.0, 0.5, 8) == (4, 0)
    assert band(0.01, 0.05, 10) == (0, 1)
    assert band(0.5, 0.5, 0) == (0, 0)


def test_della_tables() -> None:
    thresholds, factors = della_table(0.5, 0.25, 3, 0.5)
    assert thresholds.tolist() == [16384, 32768, 49152]
    assert factors.tolist() == [2.0, 1.0, float(np.float32(2 / 3))]
    assert (thresholds.dtype, factors.dtype) == (np.uint32, np.float32)
    assert [x.tolist() for x in della_table(1.0, 0.4, 2, 0.5)] == [[65536] * 2, [0.5] * 2]
    assert [x.tolist() for x in della_table(0.3, 0.2, 1, 1.0)] == [
        [19661],
        [float(np.float32(65536 / 19661))],
    ]
    assert [x.size for x in della_table(0.3, 0.2, 0, 1.0)] == [0, 0]
    # What is drawn with less than half of 2^-16 is dropped, not divided by.
    thresholds, factors = della_table(0.3, 0.2999999, 2, 1.0)
    assert (thresholds[0], factors[0]) == (0, 0.0)
    for density, epsilon in [(0.1, 0.15), (0.9, 0.15), (0.0, 0.1)]:
        assert not della_allows(density, epsilon)
        with pytest.raises(RecipeError, match="outside 0 to 1"):
            della_table(density, epsilon, 4, 1.0)
    # A gradient may stray from legal anchors by a rounding.
    assert della_table(0.5, math.nextafter(0.5, 1), 2, 1.0)[0].tolist() == [0, 65536]


def test_pair_products_add_in_blocks() -> None:
    """2^53 + 1 + 1 is 2^53 in sequence: a block's ones are added apart, and then count."""
    b = np.ones(3 * BLOCK, np.float32)
    e = np.ones(3 * BLOCK, np.float32)
    e[0] = 2.0**53
    dot, squared_b, squared_e = pair_products(b, e)
    assert dot == 2.0**53 + 2 * BLOCK
    assert squared_b == 3 * BLOCK
    assert squared_e == 2.0**106
    assert pair_products(b[:0], e[:0]) == (0.0, 0.0, 0.0)
    x, y = np.random.default_rng(0).normal(size=(2, 5000)).astype(np.float32)
    exact = sum(Fraction(float(p)) * Fraction(float(q)) for p, q in zip(x, y, strict=True))
    assert pair_products(x, y).dot == pytest.approx(float(exact), abs=1e-9)


def test_slerp_factors() -> None:
    assert slerp_factors(0.0, 0.5, 1.0, 1.0) == (1.0, 0.0)
    assert slerp_factors(1.0, 0.5, 1.0, 1.0) == (0.0, 1.0)
    assert slerp_factors(0.5, 0.0, 4.0, 9.0) == (float(np.float32(math.sqrt(0.5))),) * 2
    # 60 degrees, two thirds of the way: sin 20 / sin 60 and sin 40 / sin 60.
    expected = [math.sin(math.radians(a)) / math.sin(math.radians(60)) for a in (20, 40)]
    assert slerp_factors(2 / 3, 3.0, 4.0, 9.0) == pytest.approx(expected, rel=1e-7)
    linear = (float(np.float32(0.7)), float(np.float32(0.3)))
    for dot, squared_b, squared_e in [(0.9996, 1, 1), (-0.9996, 1, 1), (0, 0, 1), (0, 1, 0)]:
        assert slerp_factors(0.3, dot, squared_b, squared_e) == linear
    assert slerp_factors(0.3, 0.9994, 1.0, 1.0) != linear
