"""Host-side pieces of the arithmetic that the reference and every kernel share.

They are made once per tensor, in float64, so that nothing per element depends on a library's
division or power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from merge_core.random import drop_threshold

if TYPE_CHECKING:
    from merge_core.methods import Method

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_CANCELS = 1e-6  # weights .3, .6, -.9 sum to 6e-17: dividing by that would give 1.7e16


def kept_count(density: float, elements: int) -> int:
    """How many of `elements` a trim to `density` keeps: floor(d n), at least 1 when d > 0."""
    if density <= 0.0 or elements == 0:
        return 0
    return max(1, math.floor(density * elements))


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
    """What each expert's difference is multiplied by: w_i, or DARE's a_i = w_i 65536 / T_i."""
    if method.sparsify != "drop":
        return tuple(weights)
    thresholds = [drop_threshold(density) for density in densities]
    with np.errstate(over="ignore"):
        return tuple(
            float(np.float32(weight * 65536.0 / threshold)) if threshold else 0.0
            for weight, threshold in zip(weights, thresholds, strict=True)
        )
