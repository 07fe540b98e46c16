"""Small merges worked out by hand: what the reference and the executor might both get wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from merge_core.arithmetic import coefficients, kept_count, multipliers, restored_count
from merge_core.methods import get_method
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
