import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from objectives.statistics import Estimate, estimate, one_sided_lower, simultaneous, wilson

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
levels = st.floats(0.5, 0.999)


@settings(max_examples=60, deadline=None)
@given(counts, levels)
def test_wilson_is_scipys(count, level):
    hits, n = count
    expected = binomtest(hits, n).proportion_ci(level, method="wilson")
    low, high = wilson(hits / n, n, level)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(counts, levels)
def test_one_sided_lower_is_scipys(count, level):
    hits, n = count
    ci = binomtest(hits, n, alternative="greater").proportion_ci(level, method="wilson")
    assert one_sided_lower(hits / n, n, level) == pytest.approx(ci.low, abs=1e-9)


def test_closed_forms():
    z2 = 1.959963984540054**2
    assert wilson(0.0, 10) == (0.0, pytest.approx(z2 / (10 + z2)))
    assert wilson(1.0, 10) == (pytest.approx(10 / (10 + z2)), 1.0)
    # The roots of (p - m)^2 = z^2 p (1 - p) / n.
    m, n = 0.3, 40
    for p in wilson(m, n):
        assert (p - m) ** 2 == pytest.approx(z2 * p * (1 - p) / n)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.integers(1, 10**6), levels)
def test_intervals_hold_the_mean_and_shrink(mean, n, level):
    low, high = wilson(mean, n, level)
    assert 0 <= low <= mean <= high <= 1
    assert low < high
    wider = wilson(mean, n, simultaneous(level, 8))
    assert wider[0] <= low
    assert high <= wider[1]
    more_low, more_high = wilson(mean, 4 * n, level)
    assert more_high - more_low < high - low
    assert low <= one_sided_lower(mean, n, level) <= mean
    mirrored = wilson(1 - mean, n, level)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_graded_scores_are_covered():
    rng = random.Random(0)
    draw = lambda: rng.betavariate(2, 1)  # noqa: E731 - mean 2/3
    hits = 0
    for _ in range(400):
        found = estimate([draw() for _ in range(30)], binary=False, level=0.9)
        hits += found.low <= 2 / 3 <= found.high
    assert hits / 400 >= 0.9


def test_all_right_is_not_certainty():
    assert estimate([1.0] * 30, binary=True) == Estimate(
        1.0, pytest.approx(0.8865, abs=1e-4), 1, 30
    )


def test_bounds_rescale():
    plain = estimate([0.2, 0.9, 0.5], binary=False)
    scaled = estimate([4, 18, 10], binary=False, bounds=(0, 20))
    for field in ("value", "low", "high"):
        assert getattr(scaled, field) == pytest.approx(20 * getattr(plain, field))


def test_simultaneous_is_bonferroni():
    assert simultaneous(0.95, 1) == pytest.approx(0.95)
    assert simultaneous(0.95, 10) == pytest.approx(0.995)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(0.5, 0),
        lambda: wilson(1.5, 3),
        lambda: wilson(math.nan, 3),
        lambda: wilson(0.5, 3, 1.0),
        lambda: one_sided_lower(0.5, 0),
        lambda: simultaneous(0.95, 0),
        lambda: simultaneous(2, 1),
        lambda: estimate([], True),
        lambda: estimate([0.5], True),
        lambda: estimate([2.0], False),
        lambda: estimate([math.nan], False),
        lambda: estimate([1.0], False, bounds=(1, 1)),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError, match=r"\w"):
        call()
