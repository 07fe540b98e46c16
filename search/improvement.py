"""Expected growth of the hypervolume, exact for any number of independent objectives.

What a front leaves uncovered is divided into boxes that are open upwards in the last objective; the
expected part of each that a normal outcome covers is a product over objectives (Emmerich et al.,
Computation of the expected improvement in dominated hypervolume, 2008).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Boxes:
    """What no member of a front covers, in disjoint boxes.

    Attributes:
        lows, highs: [boxes, objectives]; highs may be infinite.
    """

    lows: Array
    highs: Array

    @classmethod
    def beyond(cls, front: Array, corner: Array) -> Boxes:
        """Of all that is above `corner`.

        There are (members + 1) ** (objectives - 1) of them.

        Args:
            front: [members, objectives], larger is better; there may be none.
            corner: [objectives], the reference point.
        """
        held = front[np.all(front > corner, axis=1)]
        edges = [
            np.append(np.unique(np.append(held[:, k], corner[k])), np.inf)
            for k in range(len(corner) - 1)
        ]
        lows, highs = [], []
        for place in itertools.product(*(range(len(edge) - 1) for edge in edges)):
            low = [edge[i] for edge, i in zip(edges, place, strict=True)]
            high = [edge[i + 1] for edge, i in zip(edges, place, strict=True)]
            above = held[np.all(held[:, :-1] >= high, axis=1), -1]
            lows.append([*low, max(corner[-1], above.max(initial=-np.inf))])
            highs.append([*high, np.inf])
        return cls(np.array(lows), np.array(highs))

    def expected(self, means: Array, deviations: Array) -> Array:
        """By how much normal outcomes cover more, [candidates].

        Args:
            means: [objectives, candidates].
            deviations: likewise, standard deviations.
        """
        covered = np.ones((means.shape[1], len(self.lows)))
        for k, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
            below, above = (_excess(mean, deviation, e[:, k]) for e in (self.lows, self.highs))
            covered *= below - above
        return np.asarray(covered.sum(axis=1))


def _excess(mean: Array, deviation: Array, bound: Array) -> Array:
    """E[max(0, y - bound)] of normal y, [candidates, bounds]; 0 where a bound is infinite."""
    finite = np.isfinite(bound)
    z = (mean[:, None] - np.where(finite, bound, 0.0)) / deviation[:, None]
    density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return np.where(finite, np.maximum(0.0, deviation[:, None] * (density + z * ndtr(z))), 0.0)
