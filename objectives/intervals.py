"""Confidence bounds for the mean of values in [0, 1] that hold for few values and near the ends.

A mean m is kept while the mean that was seen is not too unlikely under m. Unlikely by which
distribution, since only the mean is given? By the likeliest one: of all distributions on [0, 1]
with mean m, the one that gives the data the largest likelihood. It tilts the weights of the values
that were seen and, where that reaches m more cheaply, puts mass on the end that nobody has seen
yet; so thirty values that are all equal still leave room. It is the dual of the best bet against m
(Honda & Takemura 2010; Waudby-Smith & Ramdas 2024); testing by it is DiCiccio & Romano's (1990)
least favourable family. For 0/1 values it is the Bernoulli distribution, and the bounds are
Clopper-Pearson's with the mid-p.

Tail probabilities are exact for 0/1 values and come from a saddlepoint otherwise (Lugannani & Rice
1980, in Barndorff-Nielsen's form), with the number of values at an unseen end counted exactly.
Nothing is drawn, and the order of values does not matter. Decision 0014 has what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]


def lower_bound(scores: Sequence[float], tail: float, *, exact: bool = False) -> float:
    """The mean under which a sample mean as large as that of `scores` has probability `tail`.

    Half of the probability of exactly that mean counts (mid-p). At most the sample mean.

    Args:
        scores: at least one, each in [0, 1].
        tail: in (0, 1): .025 for the lower end of a two-sided 95% interval.
        exact: all of that probability counts, so that for 0/1 scores and equal ones the bound
            never fails more often than `tail` says (Clopper & Pearson 1934). It is wider.
    """
    import numpy as np

    n = len(scores)
    # Differences of equal sizes must be equal, and nothing that follows can tell finer ones.
    rounded: Vector = np.asarray(np.round(scores, 12), dtype=np.float64)
    values: Vector
    values, counts = np.unique(rounded, return_counts=True)
    mean = min(math.fsum(rounded) / n, float(values[-1]))
    if mean <= 0.0:
        return 0.0
    if values[0] == values[-1]:
        # The likeliest others have the rest at 0, and m / mean at what was seen: solved for m.
        return mean * math.pow(min(1.0, tail if exact else 2.0 * tail), 1.0 / n)
    if bool(np.all((values == 0.0) | (values == 1.0))):
        return min(mean, _binomial(int(counts[-1]), n, tail, exact))
    return min(mean, _tilted(values, counts.astype(np.float64), mean, tail))


def upper_bound(scores: Sequence[float], tail: float, *, exact: bool = False) -> float:
    """As `lower_bound`, from above: the mirror image."""
    return 1.0 - lower_bound([1.0 - score for score in scores], tail, exact=exact)


def _binomial(hits: int, n: int, tail: float, exact: bool) -> float:
    """The p with P(X > hits) + P(X = hits) / 2 = tail for X ~ Binomial(n, p), 0 < hits < n.

    With `exact` all of P(X = hits) counts.
    """
    from scipy.special import betainc

    def excess(p: float) -> float:
        at_least = betainc(hits, n - hits + 1, p)
        above = at_least if exact else betainc(hits + 1, n - hits, p)
        return float(above + at_least) / 2 - tail

    return _root(excess, 0.0, hits / n)


def _tilted(values: Vector, counts: Vector, mean: float, tail: float) -> float:
    """The bound for several distinct values (ascending), some of them inside (0, 1).

    The likeliest distributions with a smaller mean have weights counts / (s + values): s falls
    from infinity (the sample itself) to 0 as the mean falls. From s = 0 on, mass moves to 0.
    """
    n = int(counts.sum())

    def weights(s: float) -> Vector:
        raw: Vector = counts / (s + values)
        raw /= raw.sum()
        return raw

    if values[0] > 0.0:
        least = weights(0.0)
        if _tail(values, least, n, mean) > tail:
            return float(least @ values) * (1.0 - _unseen(values, least, n, mean, tail))

    def excess(log_s: float) -> float:
        return _tail(values, weights(math.exp(log_s)), n, mean) - tail

    # A tilt of log_s = 20 moves the mean by less than 1e-8 of its spread.
    low, high = -20.0 + math.log(mean), 20.0
    if excess(high) <= 0.0:  # only for bounds that are asked to lie above the mean
        return mean
    while excess(low) > 0.0 and low > -700.0:
        low -= 40.0
    return float(weights(math.exp(_root(excess, low, high, 1e-7))) @ values)


def _unseen(values: Vector, weights: Vector, n: int, mean: float, tail: float) -> float:
    """The mass at 0, where no value was seen, that makes a mean this large as unlikely as `tail`.

    How many of n values are 0 is binomial; the others must then make up for them.
    """
    import numpy as np
    from scipy.special import gammaln

    tails: list[float] = []
    for zeros in range(n):
        rest = n - zeros
        needed = n * mean / rest
        found = _tail(values, weights, rest, needed) if needed <= values[-1] else 0.0
        if found < 1e-6 * tail:
            break
        tails.append(found)
    zeros_ = np.arange(len(tails))
    ways = gammaln(n + 1) - gammaln(zeros_ + 1) - gammaln(n - zeros_ + 1) + np.log(tails)

    def excess(q: float) -> float:
        if q <= 0.0 or q >= 1.0:
            return (tails[0] if q <= 0.0 else 0.0) - tail
        logs = ways + zeros_ * math.log(q) + (n - zeros_) * math.log1p(-q)
        return float(np.exp(logs).sum()) - tail

    return _root(excess, 0.0, 1.0)


def _tail(values: Vector, weights: Vector, n: int, mean: float) -> float:
    """About P(M > mean) + P(M = mean) / 2 for the mean M of n draws of `values` by `weights`."""
    import numpy as np
    from scipy.special import ndtr

    top, spread = float(values[-1]), float(values[-1] - values[0])
    gaps = (values - top) / spread  # in [-1, 0]: exponentials stay within range
    target = (mean - top) / spread
    if target >= -1e-12:
        return 0.5 * float(weights[-1]) ** n
    t, low, high = 0.0, -math.inf, math.inf
    for _ in range(100):
        tilted = weights * np.exp(t * gaps if t >= 0.0 else t * (gaps + 1.0))
        total = float(tilted.sum())
        tilted /= total
        first = float(tilted @ gaps)
        second = float(tilted @ (gaps - first) ** 2)
        wrong = first - target
        if abs(wrong) <= 1e-9 * math.sqrt(second / n):
            break
        low, high = (t, high) if wrong < 0.0 else (low, t)
        step = t - wrong / second if second > 0.0 else math.nan
        if not low < step < high or abs(step - t) > 10.0 * (1.0 + abs(t)):
            if math.isinf(high):
                step = 4.0 * t + 4.0
            elif math.isinf(low):
                step = 4.0 * t - 4.0
            else:
                step = (low + high) / 2
        if step == t:
            break
        t = step
    log_total = math.log(total) + (0.0 if t >= 0.0 else -t)
    root = math.copysign(math.sqrt(max(0.0, 2.0 * n * (t * target - log_total))), t)
    scaled = t * math.sqrt(n * second)
    if abs(root) < 1e-3:
        skew = float(tilted @ (gaps - first) ** 3) / second**1.5
        return float(ndtr(-(root + skew / (6.0 * math.sqrt(n)))))
    return float(ndtr(-(root + math.log(scaled / root) / root)))


def _root(
    function: Callable[[float], float], low: float, high: float, tolerance: float = 1e-12
) -> float:
    """Where `function` changes sign in [low, high], by halving and secants in turn."""
    at_low, at_high = function(low), function(high)
    if at_low == 0.0 or (at_low > 0.0) == (at_high > 0.0):
        return low if abs(at_low) <= abs(at_high) else high
    for _ in range(200):
        # A secant that is kept off the ends, then a half: never slower than halving twice.
        for guess in (low - at_low * (high - low) / (at_high - at_low), (low + high) / 2):
            edge = 1e-3 * (high - low)
            point = min(max(guess, low + edge), high - edge)
            if not low < point < high:
                continue
            value = function(point)
            if value == 0.0:
                return point
            if (value > 0.0) == (at_high > 0.0):
                high, at_high = point, value
            else:
                low, at_low = point, value
        if high - low <= tolerance * max(1.0, abs(low)):
            break
    return (low + high) / 2
