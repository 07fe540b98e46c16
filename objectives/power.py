"""How many items it takes to tell two recipes apart, and what more samples per item would buy.

Plans, not findings: normal approximations from what was seen so far, good to a few items in a
hundred. What a finding is, `comparing` says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from objectives.comparing import paired
from objectives.statistics import check_level


@dataclass(frozen=True)
class Noise:
    """How noisy the difference between two recipes is, asked the same `n` items.

    Attributes:
        n: items.
        difference: mean of a - b, in the scores' unit.
        standard_error: of `difference`.
        discordance: share of items where a and b score differently.
        square: mean square of the differences as shares of the range's width: `discordance` for
            binary scores. It is what items needed depend on.
        size: root mean square of the differences where there are any, as a share of the range's
            width; 1 where there are none, for then nobody knows. A true difference of d needs a
            mean square of at least d times this.
        width: of the scores' range.
        level, power: what `items` and `smallest` are asked for: a two-sided finding at `level`,
            with probability `power`.
    """

    n: int
    difference: float
    standard_error: float
    discordance: float
    square: float
    size: float
    width: float
    level: float
    power: float

    def items(self, delta: float) -> int:
        """Items needed to tell two recipes whose true difference is `delta`, either way.

        Connor's (1987) formula for McNemar's test, and its analogue for graded scores: items
        differ as much as was seen, but no less than a difference of `delta` needs.

        Raises:
            ValueError: `delta` is 0 or larger than the range's width.
        """
        share = abs(delta) / self.width
        if not 0.0 < share <= 1.0:
            raise ValueError(f"the difference must lie in (0, {self.width:g}], got {delta}")
        return math.ceil(self._items(share) - 1e-9)

    def smallest(self, n: int | None = None) -> float | None:
        """The smallest true difference that `n` items (as many as now) can tell; None if none.

        Raises:
            ValueError: n is not positive.
        """
        count = self.n if n is None else n
        if count < 1:
            raise ValueError(f"items must be at least 1, got {count}")
        if self._items(1.0) > count:
            return None
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if self._items(middle) <= count else (middle, high)
        return self.width * high

    def _items(self, share: float) -> float:
        normal = NormalDist()
        alpha, beta = normal.inv_cdf((1.0 + self.level) / 2), normal.inv_cdf(self.power)
        square = max(self.square, share * self.size, share**2)
        # Under "no difference" the differences' variance is their mean square; else less.
        reach = alpha * math.sqrt(square) + beta * math.sqrt(square - share**2)
        return (reach / share) ** 2


def items_to_tell(
    a: Sequence[float],
    b: Sequence[float],
    binary: bool,
    level: float = 0.95,
    power: float = 0.8,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Noise:
    """How noisy the comparison of two recipes is, from their scores on the same items.

    Raises:
        ValueError: as `comparing.paired`; or the power leaves [.5, 1).
    """
    _check_power(power)
    found = paired(a, b, binary, level, bounds)
    width = bounds[1] - bounds[0]
    square = math.fsum(((x - y) / width) ** 2 for x, y in zip(a, b, strict=True)) / found.n
    variance = max(0.0, square - (found.value / width) ** 2)
    differing = found.wins + found.losses
    size = math.sqrt(square * found.n / differing) if differing else 1.0
    return Noise(
        n=found.n,
        difference=found.value,
        standard_error=width * math.sqrt(variance / max(1, found.n - 1)),
        discordance=differing / found.n,
        square=square,
        size=min(1.0, size),
        width=width,
        level=level,
        power=power,
    )


@dataclass(frozen=True)
class Components:
    """Where the variance of a mean over items with several samples each comes from.

    Attributes:
        between: variance of the items' true scores: only more items help against it.
        within: variance of one sample of an item: more samples help too.
        items, samples: how many items, and samples of each, this was found from.
    """

    between: float
    within: float
    items: int
    samples: int

    def standard_error(self, items: int | None = None, samples: int | None = None) -> float:
        """Of the mean over `items` with `samples` each (as many as now).

        Raises:
            ValueError: a number that is not positive.
        """
        items = self.items if items is None else items
        samples = self.samples if samples is None else samples
        if items < 1 or samples < 1:
            raise ValueError(f"items and samples must be at least 1, got {items} and {samples}")
        return math.sqrt((self.between + self.within / samples) / items)

    def items_for(
        self,
        delta: float,
        samples: int | None = None,
        level: float = 0.95,
        power: float = 0.8,
    ) -> int:
        """Items with `samples` each (as now) needed to tell a true mean of `delta` from 0.

        Meant for components of a difference: see `paired_components`.

        Raises:
            ValueError: `delta` is 0, the power leaves [.5, 1), or the level leaves (0, 1).
        """
        _check_power(power)
        check_level(level)
        if not (math.isfinite(delta) and delta != 0.0):
            raise ValueError(f"the difference must not be 0, got {delta}")
        normal = NormalDist()
        reach = normal.inv_cdf((1.0 + level) / 2) + normal.inv_cdf(power)
        return max(1, math.ceil((reach * self.standard_error(1, samples) / delta) ** 2 - 1e-9))


def components(scores: Sequence[Sequence[float]]) -> Components:
    """Variance between and within items, by one-way analysis of variance (random effects).

    Args:
        scores: each item's samples: at least two items, and equally many samples, at least two.

    Raises:
        ValueError: too few, or unequally many.
    """
    items, samples = _shape(scores)
    spread = _variance([fmean(item) for item in scores])
    within = fmean([_variance(item) for item in scores])
    return Components(max(0.0, spread - within / samples), within, items, samples)


def paired_components(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Components:
    """As `components`, of the difference a - b of two recipes on the same items.

    Samples of a and b are independent, so `within` is the sum of theirs; `between` is the variance
    of the items' true differences.

    Raises:
        ValueError: as `components`, or a and b have different numbers.
    """
    items, samples = _shape(a)
    if _shape(b) != (items, samples):
        raise ValueError("both recipes need the same items with equally many samples")
    spread = _variance([fmean(x) - fmean(y) for x, y in zip(a, b, strict=True)])
    within = fmean([_variance(x) + _variance(y) for x, y in zip(a, b, strict=True)])
    return Components(max(0.0, spread - within / samples), within, items, samples)


def _shape(scores: Sequence[Sequence[float]]) -> tuple[int, int]:
    samples = {len(item) for item in scores}
    if len(scores) < 2 or len(samples) != 1 or min(samples) < 2:
        raise ValueError("at least two items with equally many samples, at least two, are needed")
    return len(scores), samples.pop()


def _variance(values: Sequence[float]) -> float:
    """The unbiased variance."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _check_power(power: float) -> None:
    if not 0.5 <= power < 1.0:
        raise ValueError(f"the power must lie in [0.5, 1), got {power}")
