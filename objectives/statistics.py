"""Uncertainty of mean scores: every number a search shows carries n and an interval.

No central limit theorem where it fails (few items, means near 0 or 1): the intervals invert a
score test, so a mean of exactly 1 over 30 items is still uncertain.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Side = Literal["both", "lower", "upper"]


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` items with a two-sided interval [low, high]."""

    value: float
    low: float
    high: float
    n: int


def wilson(mean: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a mean of n values in [0, 1] (Wilson 1927).

    For 0/1 values this is the textbook interval. For graded values in [0, 1] it errs on the wide
    side: among all distributions on [0, 1] with a given mean m the 0/1 one has the largest
    variance, m(1 - m), which is the variance used here. Like every Wilson interval its coverage is
    approximate at small n; betting intervals will come behind `estimate`, with the same signature.

    Raises:
        ValueError: n is not positive, the mean leaves [0, 1], or the level leaves (0, 1).
    """
    return _wilson(mean, n, _quantile(level, two_sided=True))


def one_sided_lower(mean: float, n: int, level: float = 0.95) -> float:
    """The bound that the true mean exceeds with confidence `level` (Wilson's, one-sided).

    Raises:
        ValueError: as `wilson`.
    """
    return _wilson(mean, n, _quantile(level, two_sided=False))[0]


def simultaneous(level: float, comparisons: int) -> float:
    """The level each of `comparisons` intervals needs so that all hold at `level` (Bonferroni).

    Raises:
        ValueError: fewer than one comparison, or the level leaves (0, 1).
    """
    if comparisons < 1:
        raise ValueError(f"comparisons must be at least 1, got {comparisons}")
    _check_level(level)
    return 1.0 - (1.0 - level) / comparisons


def estimate(
    scores: Sequence[float],
    binary: bool,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    side: Side = "both",
    weights: Sequence[float] | None = None,
    geometric: bool = False,
) -> Estimate:
    """Mean of `scores` (one per item, each within `bounds`) with its interval at `level`.

    `binary` scores are exactly 0 or 1. Graded ones today get the same interval (see `wilson` for
    why that is the cautious side); the flag is the joint where betting intervals will part them.

    Raises:
        ValueError: no scores, a score outside `bounds`, or a binary score that is neither 0 nor 1.
    """
    low, high = bounds
    n = len(scores)
    if n == 0:
        raise ValueError("no scores to estimate a mean from")
    if binary and any(score not in (0.0, 1.0) for score in scores):
        raise ValueError("binary scores must be exactly 0 or 1")
    if not all(low <= score <= high for score in scores):
        raise ValueError(f"scores must lie in [{low}, {high}]")
    width = high - low
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"bounds must be finite and ascending, got [{low}, {high}]")
    value = math.fsum(scores) / n
    unit = min(1.0, max(0.0, (value - low) / width))
    if weights is not None or geometric:
        raise ValueError("weighted and geometric means are not supported yet")
    below, above = wilson(unit, n, level)
    if side != "both":
        below = one_sided_lower(unit, n, level) if side == "lower" else 0.0
        above = 1.0 - one_sided_lower(1.0 - unit, n, level) if side == "upper" else 1.0
    # The mean lies inside by construction; rounding in the rescaling must not push it out.
    return Estimate(value, min(value, low + width * below), max(value, low + width * above), n)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates with equal weights; its interval by MOVER.

    Zou & Donner 2008: the distances of the parts' bounds from their values add in squares.
    """
    if len(estimates) == 1:
        return estimates[0]
    count = len(estimates)
    value = math.fsum(part.value for part in estimates) / count
    below = math.hypot(*(part.value - part.low for part in estimates)) / count
    above = math.hypot(*(part.high - part.value for part in estimates)) / count
    return Estimate(value, value - below, value + above, sum(part.n for part in estimates))


def _wilson(mean: float, n: int, z: float) -> tuple[float, float]:
    if n < 1:
        raise ValueError(f"an interval needs at least one item, got n = {n}")
    if not 0.0 <= mean <= 1.0:
        raise ValueError(f"the mean must lie in [0, 1], got {mean}")
    return _lower_root(mean, n, z), max(mean, 1.0 - _lower_root(1.0 - mean, n, z))


def _lower_root(m: float, n: int, z: float) -> float:
    """The smaller p with (p - m)^2 = z^2 p (1 - p) / n.

    From the larger root and the roots' product, m^2 / (1 + z^2 / n): the usual difference cancels
    for small m and leaves rounding noise where 0 is meant.
    """
    if m == 0.0:
        return 0.0
    spread = z * z / n
    larger = m + spread / 2 + z * math.sqrt((m * (1 - m) + spread / 4) / n)
    return min(m, m * m / larger)


def _quantile(level: float, two_sided: bool) -> float:
    _check_level(level)
    return NormalDist().inv_cdf((1 + level) / 2 if two_sided else level)


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"the level must lie in (0, 1), got {level}")
