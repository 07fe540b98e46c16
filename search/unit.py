"""Ranges as the unit interval."""

from __future__ import annotations

import math

from optuna.distributions import FloatDistribution


def to_unit(distribution: FloatDistribution, value: float) -> float:
    """How much of its way through a range `value` lies, on the range's own scale."""
    low, high = distribution.low, distribution.high
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def from_unit(distribution: FloatDistribution, share: float) -> float:
    """The value of a range that lies `share` of its way from the low end, in its steps."""
    low, high = distribution.low, distribution.high
    if distribution.log:
        return min(high, max(low, math.exp((1 - share) * math.log(low) + share * math.log(high))))
    value = (1 - share) * low + share * high
    if distribution.step is None:
        return value
    return min(high, low + round((value - low) / distribution.step) * distribution.step)
