"""Uncertainty of mean scores: every number a search shows carries n and an interval.

No central limit theorem where it fails (few items, means near 0 or 1): see `intervals`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from objectives.intervals import lower_bound, upper_bound

Side = Literal["both", "lower", "upper"]


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` items with an interval [low, high]."""

    value: float
    low: float
    high: float
    n: int


def estimate(
    scores: Sequence[float],
    binary: bool,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    side: Side = "both",
    weights: Sequence[float] | None = None,
    geometric: bool = False,
    exact: bool = False,
) -> Estimate:
    """Mean of `scores` with its interval at `level`; the order of scores does not matter.

    An item is one score: several samples of one item are averaged before they come here, so that
    avg@k is uncertain by its items, not by its samples.

    Args:
        scores: one per item, each within `bounds`.
        binary: whether scores are the lower or the upper bound and nothing between; checked only,
            for the interval of graded scores becomes that of binary ones where they are such.
        level: probability with which the interval holds the mean over all items there might be.
        bounds: the scores' range; where an end is infinite, the mean and its interval are weighted
            ones by the jackknife, and hold for many items only.
        side: "both" ends at `level`; or "lower" or "upper", that end alone at `level`, while the
            other end is the range's.
        weights: of geometric means and unbounded scores: one per item (tokens), each at least 0.
        geometric: the mean is exp(sum w log s / sum w): perplexity over all tokens, from each
            item's. The range's upper end may be infinite; the interval then may be, too.
        exact: for bounds that something is promised by: those of 0/1 scores then fail at most as
            often as `level` says, where they otherwise do so on average (decision 0014).

    Raises:
        ValueError: no scores, a score outside `bounds`, a binary score between them, a level
            outside (0, 1), or weights that do not fit.
    """
    low, high = bounds
    if len(scores) == 0:
        raise ValueError("no scores to estimate a mean from")
    if not all(low <= score <= high for score in scores):
        raise ValueError(f"scores must lie in [{low}, {high}]")
    check_level(level)
    tail = (1.0 - level) / 2 if side == "both" else 1.0 - level
    if geometric or math.isinf(high) or math.isinf(low):
        value, below, above = _weighted(scores, weights, bounds, tail, geometric)
    elif weights is not None:
        raise ValueError("weights are for geometric means and unbounded scores only")
    else:
        value, below, above = _arithmetic(scores, binary, bounds, tail, exact)
    # The mean lies inside by construction; rounding must not push it out.
    return Estimate(
        value,
        low if side == "upper" else max(low, min(value, below)),
        high if side == "lower" else min(high, max(value, above)),
        len(scores),
    )


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, each with equal weight (a score over several tasks).

    Its interval combines theirs by MOVER (Zou & Donner 2008): the distances from mean to bound
    add up as standard errors do, each side for itself, so skewed intervals stay skewed. Estimates
    with one-sided bounds give a one-sided bound on that side.

    Raises:
        ValueError: no estimates.
    """
    if not estimates:
        raise ValueError("no estimates to combine")
    if len(estimates) == 1:
        return estimates[0]
    count = len(estimates)
    value = math.fsum(part.value for part in estimates) / count
    below = math.hypot(*(part.value - part.low for part in estimates)) / count
    above = math.hypot(*(part.high - part.value for part in estimates)) / count
    return Estimate(value, value - below, value + above, sum(part.n for part in estimates))


def simultaneous(level: float, comparisons: int) -> float:
    """The level each of `comparisons` intervals needs so that all hold at `level` (Bonferroni).

    Raises:
        ValueError: fewer than one comparison, or the level leaves (0, 1).
    """
    if comparisons < 1:
        raise ValueError(f"comparisons must be at least 1, got {comparisons}")
    check_level(level)
    return 1.0 - (1.0 - level) / comparisons


def _arithmetic(
    scores: Sequence[float],
    binary: bool,
    bounds: tuple[float, float],
    tail: float,
    exact: bool,
) -> tuple[float, float, float]:
    """Mean, and bounds that each fail with probability `tail`."""
    low, high = bounds
    width = high - low
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"bounds must be finite and ascending, got [{low}, {high}]")
    if binary and any(score not in bounds for score in scores):
        raise ValueError(f"binary scores must be exactly {low:g} or {high:g}")
    unit = [min(1.0, max(0.0, (score - low) / width)) for score in scores]
    value = math.fsum(scores) / len(scores)
    below, above = (bound(unit, tail, exact=exact) for bound in (lower_bound, upper_bound))
    return value, low + width * below, low + width * above


def _weighted(
    scores: Sequence[float],
    weights: Sequence[float] | None,
    bounds: tuple[float, float],
    tail: float,
    geometric: bool,
) -> tuple[float, float, float]:
    """Weighted mean, arithmetic or geometric, and bounds from the jackknife over items.

    The mean is a ratio of sums over items (Cochran 1977, chapter 6); leaving out an item at a time
    is the linearised estimator that stays honest when one item holds most of the weight. Degrees
    of freedom follow the effective number of items, (sum w)^2 / sum w^2 - 1. Where they are none,
    or all scores are equal, nothing is known of the spread and the range is the interval.
    """
    from scipy.special import stdtrit

    if weights is None:
        weights = [1.0] * len(scores)
    if len(weights) != len(scores):
        raise ValueError(f"{len(weights)} weights for {len(scores)} scores")
    if not all(math.isfinite(score) and (score > 0.0 or not geometric) for score in scores):
        raise ValueError(f"an unbounded mean needs finite scores{' above 0' if geometric else ''}")
    if not all(math.isfinite(weight) and weight >= 0.0 for weight in weights):
        raise ValueError("weights must be finite and at least 0")
    scale = math.log if geometric else float
    pairs = [(scale(s), w) for s, w in zip(scores, weights, strict=True) if w > 0.0]
    total = math.fsum(weight for _, weight in pairs)
    if not pairs:
        raise ValueError("all weights are 0")
    mean = math.fsum(x * weight for x, weight in pairs) / total
    value = min(bounds[1], max(bounds[0], math.exp(mean) if geometric else mean))
    free = total**2 / math.fsum(weight**2 for _, weight in pairs) - 1.0
    if len(pairs) == 1 or free <= 0.0 or min(pairs)[0] == max(pairs)[0]:
        return value, *bounds
    moves = [weight * (x - mean) / (total - weight) for x, weight in pairs]
    error = math.sqrt((len(pairs) - 1) / len(pairs) * math.fsum(move**2 for move in moves))
    reach = float(stdtrit(free, 1.0 - tail)) * error
    if not geometric:
        return value, mean - reach, mean + reach
    return value, math.exp(mean - reach), math.exp(mean + reach) if mean + reach < 700 else math.inf


def check_level(level: float) -> None:
    """Refuse what is no level of confidence.

    Raises:
        ValueError: it is not in (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"the level must lie in (0, 1), got {level}")
