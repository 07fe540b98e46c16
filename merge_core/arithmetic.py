"""Host-side pieces of the arithmetic that the reference and every kernel share.

They are made once per tensor, in float64, so that nothing per element depends on a library's
division or power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from merge_core.errors import RecipeError
from merge_core.random import UInt32, drop_threshold

if TYPE_CHECKING:
    from merge_core.methods import Method

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BLOCK = 4096
"""Entries in a block of `pair_products`: a sum over blocks is the same on any number of threads."""

_CANCELS = 1e-6  # weights .3, .6, -.9 sum to 6e-17: dividing by that would give 1.7e16
_PARALLEL = 0.9995


def kept_count(density: float, elements: int) -> int:
    """How many of `elements` a trim to `density` keeps: floor(d n), at least 1 when d > 0."""
    if density <= 0.0 or elements == 0:
        return 0
    return max(1, math.floor(density * elements))


def band(density: float, gamma: float, elements: int) -> tuple[int, int]:
    """(g, k): of `elements` ranked from the largest, those at ranks [g, g + k) stay.

    k as in trim, g = min(floor(gamma n), n - k): density goes before gamma.
    """
    count = kept_count(density, elements)
    return min(math.floor(gamma * elements), elements - count), count


def restored_count(slack: float, candidates: int) -> int:
    """How many of the lost entries `slack` restores: floor(slack candidates)."""
    return math.floor(slack * candidates)


def coefficients(weights: Sequence[float], scale: float, *, normalize: bool) -> Float32:
    """c[m] for each subset m of kept experts (bit i = expert i): [2^N] float32.

    c[m] = float32(scale / sum of the kept weights), in float64, rounded once; float32(scale)
    without `normalize`, and where the kept weights cancel.
    """
    table = np.full(1 << len(weights), scale, np.float64)
    if normalize:
        for subset in range(1 << len(weights)):
            kept = [w for i, w in enumerate(weights) if subset >> i & 1]
            total, size = sum(kept), sum(abs(w) for w in kept)
            if abs(total) > _CANCELS * size:
                table[subset] = scale / total
    with np.errstate(over="ignore"):
        return table.astype(np.float32)


def multipliers(
    method: Method, weights: Sequence[float], densities: Sequence[float]
) -> tuple[float, ...]:
    """What each expert's difference is multiplied by: w_i, or DARE's a_i = w_i 65536 / T_i.

    DELLA's and SLERP's factors are not here: they differ by rank and by pair (`della_table`,
    `slerp_factors`).
    """
    if method.sparsify != "drop":
        return tuple(weights)
    thresholds = [drop_threshold(density) for density in densities]
    with np.errstate(over="ignore"):
        return tuple(
            float(np.float32(weight * 65536.0 / threshold)) if threshold else 0.0
            for weight, threshold in zip(weights, thresholds, strict=True)
        )


def della_allows(density: float, epsilon: float) -> bool:
    """Whether DELLA has keep probabilities for these two: all between 0 and 1, or density 1."""
    return density == 1.0 or (density - epsilon > 0.0 and density + epsilon < 1.0)


def della_table(
    density: float, epsilon: float, length: int, weight: float
) -> tuple[UInt32, Float32]:
    """DELLA by rank within a row of `length`, from the smallest magnitude: thresholds, factors.

    The entry of rank i is kept when its 16 random bits are below thresholds[i] =
    floor(p 65536 + .5), p = (density - epsilon) + 2 epsilon i / (length - 1) (length 1: density),
    and multiplied by factors[i] = float32(weight 65536 / thresholds[i]) (0 where all are
    dropped). Density 1 keeps all.

    Returns:
        Thresholds [length] uint32, 0 to 65536; factors [length] float32.

    Raises:
        RecipeError: probabilities outside 0 to 1.
    """
    if density == 1.0:
        return np.full(length, 65536, np.uint32), np.full(length, weight, np.float32)
    # A recipe is checked when it is read; its gradients may stray from there by a rounding.
    if not (density - epsilon > -1e-9 and density + epsilon < 1.0 + 1e-9):
        raise RecipeError(
            f"DELLA keeps entries with probability density - epsilon to density + epsilon, "
            f"which {density:g} and {epsilon:g} put outside 0 to 1"
        )
    ranks = np.arange(length, dtype=np.float64)
    probability = np.full(length, density, np.float64)
    if length > 1:
        probability = (density - epsilon) + 2.0 * epsilon * ranks / (length - 1)
    thresholds = np.clip(np.floor(probability * 65536.0 + 0.5), 0.0, 65536.0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        factors = np.where(thresholds > 0.0, weight * 65536.0 / thresholds, 0.0)
        return thresholds.astype(np.uint32), factors.astype(np.float32)


class PairProducts(NamedTuple):
    """What SLERP knows of a pair of tensors, in float64.

    Attributes:
        dot: of base and the other.
        squared_b: squared norm of base.
        squared_e: squared norm of the other.
    """

    dot: float
    squared_b: float
    squared_e: float


def pair_products(b: Float32, e: Float32) -> PairProducts:
    """The dot product and squared norms of two flat tensors [n].

    Products of float32 are exact in float64. They are summed from 0 in index order within blocks
    of `BLOCK` entries, then the blocks' sums from 0 in block order.
    """
    x, y = b.astype(np.float64), e.astype(np.float64)
    return PairProducts(*(_blocked_sum(products) for products in (x * y, x * x, y * y)))


def _blocked_sum(terms: npt.NDArray[np.float64]) -> float:
    total = 0.0
    for start in range(0, terms.size, BLOCK):
        # accumulate adds one after the other; sum() would add in pairs.
        total += float(np.add.accumulate(terms[start : start + BLOCK])[-1])
    return total


def slerp_factors(t: float, dot: float, squared_b: float, squared_e: float) -> tuple[float, float]:
    """What SLERP multiplies base and the other model by at `t`: two values of float32.

    sin((1 - t) theta) / sin(theta) and sin(t theta) / sin(theta) in float64, each rounded once;
    1 - t and t where a norm is 0 or the cosine's magnitude is above .9995 (as in mergekit), where
    the sine of the angle is lost in rounding.
    """
    norms = math.sqrt(squared_b) * math.sqrt(squared_e)
    cosine = dot / norms if norms > 0.0 else 1.0
    if abs(cosine) > _PARALLEL:
        return float(np.float32(1.0 - t)), float(np.float32(t))
    theta = math.acos(cosine)
    whole = math.sin(theta)
    return (
        float(np.float32(math.sin((1.0 - t) * theta) / whole)),
        float(np.float32(math.sin(t * theta) / whole)),
    )
