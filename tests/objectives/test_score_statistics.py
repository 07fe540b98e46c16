import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, t

from objectives.statistics import Estimate, estimate, mean_of, simultaneous

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
levels = st.floats(0.5, 0.999)
unit_scores = st.one_of(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=60),
    st.lists(st.sampled_from([0.0, 0.97, 0.98, 0.99, 1.0]), min_size=1, max_size=60),
)


def hits_of(hits: int, n: int) -> list[float]:
    return [1.0] * hits + [0.0] * (n - hits)


# --- 0/1 scores ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(counts, levels)
def test_binary_bounds_are_where_the_mid_p_is_half_of_what_remains(count, level):
    hits, n = count
    found = estimate(hits_of(hits, n), True, level)
    tail = (1 - level) / 2
    if hits > 0:
        mid = binom.sf(hits, n, found.low) + binom.pmf(hits, n, found.low) / 2
        assert mid == pytest.approx(tail, rel=1e-6)
    else:
        assert found.low == 0.0
    if hits < n:
        mid = binom.cdf(hits - 1, n, found.high) + binom.pmf(hits, n, found.high) / 2
        assert mid == pytest.approx(tail, rel=1e-6)
    else:
        assert found.high == 1.0


def test_binary_bounds_of_the_textbook():
    # Agresti & Gottard (2005): 0 of 10 and 95%; P(X = 0) / 2 = .025.
    assert estimate(hits_of(0, 10), True).high == pytest.approx(1 - 0.05 ** (1 / 10))
    # Newcombe (1998), table I, method 6 (mid-p): 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for hits, n, low, high in (
        (81, 263, 0.2544, 0.3658),
        (15, 148, 0.0601, 0.1581),
        (0, 20, 0.0, 0.1391),
        (1, 29, 0.0017, 0.1585),
    ):
        found = estimate(hits_of(hits, n), True)
        assert (found.low, found.high) == (
            pytest.approx(low, abs=6e-5),
            pytest.approx(high, abs=6e-5),
        )


@settings(max_examples=40, deadline=None)
@given(counts)
def test_binary_bounds_lie_inside_clopper_and_pearsons(count):
    hits, n = count
    found = estimate(hits_of(hits, n), True)
    exact = binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert exact.low <= found.low + 1e-9
    assert found.high <= exact.high + 1e-9


@pytest.mark.parametrize("n", [30, 64, 128])
def test_binary_coverage_exactly(n):
    """Summed over all outcomes: 90% at least for every rate, also beside 0 and 1."""
    found = [estimate(hits_of(hits, n), True) for hits in range(n + 1)]
    low, high = (np.array([getattr(f, end) for f in found]) for end in ("low", "high"))

    def coverage(p: float) -> float:
        return float(binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum())

    everywhere = [coverage(p) for p in np.arange(0.001, 1.0, 0.001)]
    assert min(everywhere) >= 0.92
    assert np.mean(everywhere) == pytest.approx(0.955, abs=0.01)
    assert all(0.93 <= coverage(p) <= 0.99 for p in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98))


def test_all_right_is_not_certainty():
    reach = 0.05 ** (1 / 30)
    for binary in (True, False):
        assert estimate([1.0] * 30, binary) == Estimate(1.0, pytest.approx(reach), 1.0, 30)
        assert estimate([0.0] * 30, binary) == Estimate(0.0, 0.0, pytest.approx(1 - reach), 30)


# --- Graded scores -------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(unit_scores, levels)
def test_intervals_hold_the_mean_and_stay_in_range(scores, level):
    found = estimate(scores, False, level)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert found.low < found.high
    assert found.value == pytest.approx(math.fsum(scores) / len(scores))
    assert found.n == len(scores)
    wider = estimate(scores, False, simultaneous(level, 8))
    assert wider.low <= found.low + 1e-6
    assert found.high <= wider.high + 1e-6


@settings(max_examples=60, deadline=None)
@given(unit_scores, st.randoms(use_true_random=False))
def test_order_does_not_matter(scores, rng):
    shuffled = rng.sample(scores, len(scores))
    assert estimate(shuffled, False) == estimate(scores, False)


@settings(max_examples=60, deadline=None)
@given(unit_scores)
def test_reflected_scores_have_the_reflected_interval(scores):
    found = estimate(scores, False)
    mirrored = estimate([1.0 - score for score in scores], False)
    assert mirrored.low == pytest.approx(1.0 - found.high, abs=1e-6)
    assert mirrored.high == pytest.approx(1.0 - found.low, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(unit_scores)
def test_more_of_the_same_is_narrower(scores):
    found, more = estimate(scores, False), estimate(scores * 4, False)
    assert more.high - more.low < found.high - found.low


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 29), st.floats(1e-9, 1e-6))
def test_nearly_binary_scores_have_nearly_the_binary_interval(hits, shade):
    """No jump between kinds of scores; the saddlepoint is good to 0.01 in 30 items."""
    exact = estimate(hits_of(hits, 30), True)
    graded = [abs(score - shade) for score in hits_of(hits, 30)]
    found = estimate(graded, False)
    assert found.low == pytest.approx(exact.low, abs=0.01)
    assert found.high == pytest.approx(exact.high, abs=0.01)
    assert estimate(hits_of(hits, 30), False) == exact


def test_nearly_equal_scores_have_nearly_the_interval_of_equal_ones():
    rng = random.Random(0)
    for value in (1.0, 0.5, 0.02):
        equal = estimate([value] * 30, False)
        found = estimate([value * (1 - 1e-9 * rng.random()) for _ in range(30)], False)
        assert found.low == pytest.approx(equal.low, abs=1e-3)
        assert found.high == pytest.approx(equal.high, abs=1e-3)


def test_many_ordinary_scores_have_students_interval():
    rng = np.random.default_rng(0)
    scores = rng.beta(2, 3, 2000)
    found = estimate(scores.tolist(), False)
    reach = t.ppf(0.975, 1999) * scores.std(ddof=1) / math.sqrt(2000)
    assert found.low == pytest.approx(scores.mean() - reach, abs=2e-4)
    assert found.high == pytest.approx(scores.mean() + reach, abs=2e-4)


POPULATIONS = {
    "beta(2, 1)": (lambda rng, n: rng.beta(2, 1, n), 2 / 3),
    "beta(.3, .1)": (lambda rng, n: rng.beta(0.3, 0.1, n), 0.75),
    "95% near 1, rest near 0": (
        lambda rng, n: np.where(
            rng.random(n) < 0.95, 1 - 0.03 * rng.random(n), 0.2 * rng.random(n)
        ),
        0.95 * 0.985 + 0.05 * 0.1,
    ),
    "avg@4": (lambda rng, n: rng.binomial(4, rng.beta(0.4, 0.1, n)) / 4, 0.8),
    "fifths": (lambda rng, n: rng.choice(6, n, p=[0.05, 0.1, 0.2, 0.3, 0.2, 0.15]) / 5, 0.59),
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_graded_scores_are_covered_at_30_items(name):
    draw, truth = POPULATIONS[name]
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = estimate(draw(rng, 30).tolist(), False)
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 400 <= 0.995


# --- Ranges, sides, means over tasks -------------------------------------------------------------


def test_bounds_rescale():
    plain = estimate([0.2, 0.9, 0.5], False)
    scaled = estimate([4, 18, 10], False, bounds=(0, 20))
    for field in ("value", "low", "high"):
        assert getattr(scaled, field) == pytest.approx(20 * getattr(plain, field))
    assert estimate([-1.0, 1.0], True, bounds=(-1.0, 1.0)).value == 0.0


@settings(max_examples=40, deadline=None)
@given(unit_scores, st.floats(0.8, 0.99))
def test_one_side_at_a_level_is_two_at_twice_the_rest(scores, level):
    both = estimate(scores, False, 2 * level - 1)
    lower = estimate(scores, False, level, side="lower")
    upper = estimate(scores, False, level, side="upper")
    assert (lower.low, lower.high) == (pytest.approx(both.low), 1.0)
    assert (upper.low, upper.high) == (0.0, pytest.approx(both.high))


@settings(max_examples=40, deadline=None)
@given(counts, levels)
def test_exact_bounds_are_clopper_pearsons(count, level):
    hits, n = count
    scores = [1.0] * hits + [0.0] * (n - hits)
    exact = binomtest(hits, n).proportion_ci(level, method="exact")
    found = estimate(scores, True, level, exact=True)
    assert (found.low, found.high) == (pytest.approx(exact.low), pytest.approx(exact.high))
    usual = estimate(scores, True, level)
    assert found.low <= usual.low <= usual.high <= found.high


def test_a_promised_bound_fails_no_more_often_than_it_says():
    for truth in (0.8, 0.95, 0.99):
        lows = [
            estimate([1.0] * k + [0.0] * (30 - k), True, side="lower", exact=True).low
            for k in range(31)
        ]
        failing = sum(binom.pmf(k, 30, truth) for k, low in enumerate(lows) if low > truth)
        assert failing <= 0.05


def test_unbounded_scores_have_the_weighted_mean_and_its_jackknife():
    bits, lengths = [0.5, 0.9, 0.7, 1.4], [10.0, 30.0, 20.0, 5.0]
    found = estimate(bits, False, bounds=(0.0, math.inf), weights=lengths)
    assert found.value == pytest.approx(np.average(bits, weights=lengths))
    assert 0.0 < found.low < found.value < found.high < math.inf
    plain = estimate(bits, False, bounds=(0.0, math.inf))
    error = np.std(bits, ddof=1) / 2
    assert plain.high - plain.value == pytest.approx(t.ppf(0.975, 3) * error)
    assert estimate([3.0], False, bounds=(0.0, math.inf)) == Estimate(3.0, 0.0, math.inf, 1)
    assert estimate(bits, False, bounds=(0.0, math.inf), side="lower").high == math.inf


def test_means_of_estimates():
    one, two = Estimate(0.8, 0.7, 0.86, 30), Estimate(0.4, 0.36, 0.48, 70)
    assert mean_of([one]) is one
    found = mean_of([one, two])
    assert found.value == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - math.hypot(0.1, 0.04) / 2)
    assert found.high == pytest.approx(0.6 + math.hypot(0.06, 0.08) / 2)
    assert found.n == 100
    open_ended = mean_of([one, Estimate(3.0, 2.0, math.inf, 1)])
    assert open_ended.high == math.inf


def test_means_of_two_tasks_are_covered():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        parts = [estimate((rng.random(30) < p).astype(float).tolist(), True) for p in (0.9, 0.6)]
        found = mean_of(parts)
        hits += found.low <= 0.75 <= found.high
    assert 0.93 <= hits / 400 <= 0.985


def test_simultaneous_is_bonferroni():
    assert simultaneous(0.95, 1) == pytest.approx(0.95)
    assert simultaneous(0.95, 10) == pytest.approx(0.995)


# --- Perplexity ----------------------------------------------------------------------------------

ABOVE_ONE = (1.0, math.inf)


def perplexity(scores: list[float], tokens: list[float] | None = None, **more: object) -> Estimate:
    return estimate(scores, False, bounds=ABOVE_ONE, weights=tokens, geometric=True, **more)


def test_perplexity_is_over_all_tokens():
    assert perplexity([2.0, 8.0], [30, 10]).value == pytest.approx(2 ** (60 / 40))
    # Equal weights: Student's interval of the logarithms.
    logs = np.random.default_rng(0).normal(1.5, 0.2, 30)
    found = perplexity(np.exp(logs).tolist())
    reach = t.ppf(0.975, 29) * logs.std(ddof=1) / math.sqrt(30)
    assert found.low == pytest.approx(math.exp(logs.mean() - reach), rel=1e-9)
    assert found.high == pytest.approx(math.exp(logs.mean() + reach), rel=1e-9)
    lower = perplexity(np.exp(logs).tolist(), side="lower")
    assert found.low < lower.low < lower.value
    assert lower.high == math.inf


def test_perplexity_of_one_item_or_of_one_that_weighs_all_is_anything():
    assert perplexity([7.0]) == Estimate(pytest.approx(7.0), 1.0, math.inf, 1)
    assert perplexity([7.0, 9.0], [5, 0]) == Estimate(pytest.approx(7.0), 1.0, math.inf, 2)
    assert perplexity([7.0, 7.0]) == Estimate(pytest.approx(7.0), 1.0, math.inf, 2)
    assert perplexity([7.0, 9.0], [1e6, 1]).high > 1e3


@pytest.mark.parametrize("n", [30, 128])
def test_perplexity_is_covered_where_lengths_vary_and_tell(n):
    """Longer items are easier here, and lengths vary a hundredfold."""
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.ceil(rng.lognormal(4, 0.8, count))
        logs = 2.0 - 0.2 * np.log(tokens) + rng.normal(0, 0.3, count)
        return np.exp(logs), tokens

    scores, tokens = draw(400_000)
    truth = math.exp(np.average(np.log(scores), weights=tokens))
    hits = 0
    for _ in range(400):
        scores, tokens = draw(n)
        found = perplexity(np.maximum(scores, 1.0).tolist(), tokens.tolist())
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 400 <= 0.985


@pytest.mark.parametrize(
    "call",
    [
        lambda: simultaneous(0.95, 0),
        lambda: simultaneous(2, 1),
        lambda: mean_of([]),
        lambda: estimate([], True),
        lambda: estimate([0.5], True),
        lambda: estimate([2.0], False),
        lambda: estimate([math.nan], False),
        lambda: estimate([1.0], False, 1.0),
        lambda: estimate([1.0], False, bounds=(1, 1)),
        lambda: estimate([math.inf], False, bounds=(0, math.inf)),
        lambda: estimate([1.0], False, weights=[1.0]),
        lambda: perplexity([0.5]),
        lambda: perplexity([math.inf]),
        lambda: perplexity([2.0], [1.0, 2.0]),
        lambda: perplexity([2.0], [-1.0]),
        lambda: perplexity([2.0], [0.0]),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError, match=r"\w"):
        call()
