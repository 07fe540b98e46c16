import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from objectives.comparing import EXACT_ITEMS, Comparison, PairedWatch, paired
from objectives.statistics import estimate

binary_pairs = st.lists(st.tuples(*[st.sampled_from([0.0, 1.0])] * 2), min_size=1, max_size=60)
graded_pairs = st.lists(
    st.tuples(*[st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0])] * 2), min_size=1, max_size=24
)


def table(both: int, wins: int, losses: int, neither: int) -> tuple[list[float], list[float]]:
    """Scores with these counts of (1, 1), (1, 0), (0, 1) and (0, 0)."""
    a = [1.0] * (both + wins) + [0.0] * (losses + neither)
    b = [1.0] * both + [0.0] * wins + [1.0] * losses + [0.0] * neither
    return a, b


def compare(pairs: list[tuple[float, float]], binary: bool, **more: object) -> Comparison:
    return paired([a for a, _ in pairs], [b for _, b in pairs], binary, **more)


# --- Fixed numbers of items ----------------------------------------------------------------------


def test_mcnemar_is_the_binomial_test_of_the_items_that_differ():
    for wins, losses in ((5, 0), (9, 3), (12, 12), (2, 21)):
        found = paired(*table(7, wins, losses, 4), True)
        assert found.p_value == pytest.approx(binomtest(wins, wins + losses).pvalue)
        assert (found.wins, found.losses, found.ties) == (wins, losses, 11)
        assert found.n == 11 + wins + losses
        assert found.value == pytest.approx((wins - losses) / found.n)
    assert paired(*table(3, 0, 0, 3), True).p_value == 1.0


def tango(wins: int, losses: int, n: int) -> tuple[float, float]:
    """Tango's (1998) score interval by bisection of (wins - losses - n d) / its deviation."""

    def score(d: float) -> float:
        half = -wins - losses + (2 * n - wins + losses) * d
        losing = (math.sqrt(half**2 + 8 * n * losses * d * (1 - d)) - half) / (4 * n)
        return (wins - losses - n * d) / math.sqrt(n * (2 * losing + d * (1 - d)))

    ends = []
    for z in (1.959963984540054, -1.959963984540054):
        low, high = -1.0 + 1e-9, 1.0 - 1e-9
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > z else (low, middle)
        ends.append(low)
    return ends[0], ends[1]


def test_binary_intervals_are_near_tangos_score_intervals():
    for wins, losses, n in ((9, 3, 30), (5, 0, 30), (12, 12, 40), (43, 27, 350), (8, 30, 128)):
        found = paired(*table(n - wins - losses, wins, losses, 0), True)
        assert (found.low, found.high) == pytest.approx(tango(wins, losses, n), abs=0.01)


def test_no_difference_at_all_is_not_certainty():
    for binary in (True, False):
        found = paired([1.0] * 30, [1.0] * 30, binary)
        assert (found.value, found.p_value, found.ties) == (0.0, 1.0, 30)
        # More than this share of items, all won by one, would show up 19 times out of 20.
        assert found.high == pytest.approx(1 - 0.05 ** (1 / 30))
        assert found.low == pytest.approx(-found.high)


def test_sign_flips_are_all_listed_for_few_items_and_drawn_for_many():
    rng = np.random.default_rng(0)
    for n in (4, 9, EXACT_ITEMS):
        a, b = rng.integers(0, 5, (2, n)) / 4
        differences = a - b
        sums = [
            abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in itertools.product((1, -1), repeat=n)
        ]
        expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9)
        assert paired(a.tolist(), b.tolist(), False).p_value == pytest.approx(expected)
    a, b = rng.random((2, 60)) * 0.5
    a += 0.04
    theirs = permutation_test(
        (a, b),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=9_999,
        rng=np.random.default_rng(1),
    )
    found = paired(a.tolist(), b.tolist(), False)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    assert found == paired(a.tolist(), b.tolist(), False)


def test_binary_scores_called_graded_get_mcnemars_p_value():
    a, b = table(20, 8, 2, 20)
    assert paired(a, b, False).p_value == pytest.approx(paired(a, b, True).p_value)


@settings(max_examples=60, deadline=None)
@given(st.one_of(binary_pairs, graded_pairs))
def test_comparisons_hold_the_mean_and_turn_with_their_sides(pairs):
    found = compare(pairs, False)
    assert -1.0 <= found.low <= found.value <= found.high <= 1.0
    assert found.low < found.high
    assert 0.0 < found.p_value <= 1.0
    assert found.wins + found.losses + found.ties == found.n == len(pairs)
    turned = compare([(b, a) for a, b in pairs], False)
    assert turned.value == pytest.approx(-found.value)
    assert turned.low == pytest.approx(-found.high, abs=1e-6)
    assert turned.high == pytest.approx(-found.low, abs=1e-6)
    assert turned.p_value == found.p_value
    assert (turned.wins, turned.losses) == (found.losses, found.wins)


@settings(max_examples=40, deadline=None)
@given(graded_pairs, st.randoms(use_true_random=False))
def test_order_of_items_does_not_matter(pairs, rng):
    assert compare(rng.sample(pairs, len(pairs)), False) == compare(pairs, False)


@settings(max_examples=30, deadline=None)
@given(graded_pairs)
def test_other_ranges_scale(pairs):
    found = compare(pairs, False)
    scaled = compare([(20 * a - 10, 20 * b - 10) for a, b in pairs], False, bounds=(-10.0, 10.0))
    for name in ("value", "low", "high"):
        assert getattr(scaled, name) == pytest.approx(20 * getattr(found, name), abs=1e-6)
    assert scaled.p_value == pytest.approx(found.p_value)


def test_paired_is_sharper_than_apart_where_items_agree():
    rng = np.random.default_rng(0)
    b = (rng.random(128) < 0.6).astype(float)
    a = np.where(rng.random(128) < 0.1, 1.0, b)
    apart = estimate(a.tolist(), True)
    found = paired(a.tolist(), b.tolist(), True)
    assert found.high - found.low < apart.high - apart.low


# --- Repeated looks ------------------------------------------------------------------------------


def watch_all(
    differences: np.ndarray, blocks: int, level: float, sides: str = "both"
) -> str | None:
    watch = PairedWatch(level, sides)
    for block in np.split(differences, blocks):
        watch.update(block.tolist())
    return watch.verdict


def test_a_clear_difference_is_found_and_kept():
    rng = np.random.default_rng(0)
    better = rng.choice([-1.0, 0.0, 1.0], 128, p=[0.05, 0.7, 0.25])
    assert watch_all(better, 4, 0.95) == "better"
    assert watch_all(-better, 4, 0.95) == "worse"
    assert watch_all(better, 4, 0.95, "worse") is None
    watch = PairedWatch(0.95)
    watch.update(better.tolist())
    assert watch.update((-better).tolist()) == "better"
    assert watch.n == 256


def test_one_side_is_found_sooner():
    rng = np.random.default_rng(3)
    differences = rng.choice([-1.0, 0.0, 1.0], 200, p=[0.1, 0.6, 0.3])
    one, two = PairedWatch(0.95, "better"), PairedWatch(0.95)
    one.update(differences)
    two.update(differences)
    assert one.p_value < two.p_value < 0.05


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.data())
def test_the_capital_does_not_depend_on_blocks(differences, data):
    """Looking more often finds no less, and the last look's capital is the same."""
    cut = data.draw(st.integers(0, len(differences)))
    at_once, in_two = PairedWatch(), PairedWatch()
    at_once.update(differences)
    in_two.update(differences[:cut])
    in_two.update(differences[cut:])
    assert in_two.p_value <= at_once.p_value * (1 + 1e-9)
    turned = PairedWatch()
    turned.update([-d for d in differences])
    assert turned.p_value == pytest.approx(at_once.p_value)


def test_the_expected_capital_is_one_over_all_label_swaps():
    """What makes it valid: summed over all swaps exactly, nobody gains."""
    sizes = [0.3, 1.0, 0.05, 0.6, 1.0]
    capitals = []
    for signs in itertools.product((1, -1), repeat=len(sizes)):
        watch = PairedWatch()
        watch.update([s * d for s, d in zip(signs, sizes, strict=True)])
        capitals.append(np.mean([np.exp(logs).mean() for logs in watch._logs.values()]))
    assert np.mean(capitals) == pytest.approx(1.0)


@pytest.mark.parametrize("sides", ["both", "better"])
def test_false_alarms_when_looking_after_every_eighth_item(sides):
    """200 items of which a third differ, 25 looks, 500 replicates; more in test_calibration."""
    rng = np.random.default_rng(0)
    alarms = sum(
        watch_all(rng.choice([-1.0, 0.0, 0.0, 0.0, 0.0, 1.0], 200), 25, 0.9, sides) is not None
        for _ in range(500)
    )
    assert 0 < alarms / 500 <= 0.1


def test_scores_of_other_ranges_are_watched_by_their_share():
    plain, scaled = PairedWatch(), PairedWatch(bounds=(1.0, 10.0))
    plain.update([0.5, -0.25, 1.0])
    scaled.update([4.5, -2.25, 9.0])
    assert scaled.p_value == pytest.approx(plain.p_value)


def test_nothing_seen_is_nothing_found():
    watch = PairedWatch()
    assert watch.update([]) is None
    assert watch.update([0.0] * 1000) is None
    assert (watch.p_value, watch.n) == (1.0, 1000)


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired([], [], True),
        lambda: paired([1.0], [1.0, 0.0], True),
        lambda: paired([0.5], [1.0], True),
        lambda: paired([math.nan], [1.0], False),
        lambda: paired([1.0], [0.0], True, 1.0),
        lambda: paired([1.0], [0.0], True, bounds=(1.0, math.inf)),
        lambda: PairedWatch(1.0),
        lambda: PairedWatch().update([1.5]),
        lambda: PairedWatch().update([math.nan]),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError, match=r"\w"):
        call()
