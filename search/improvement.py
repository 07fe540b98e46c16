"""Expected growth of the hypervolume, exact for any number of independent objectives.

What a front leaves uncovered is divided into boxes that are open upwards in the last objective; the
expected part of each that an outcome covers is a product over objectives (Emmerich et al.,
Computation of the expected improvement in dominated hypervolume, 2008).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]

_PLACES = 65  # of an integral from 0 to pi / 2


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

    def expected(self, excesses: Sequence[Callable[[Array], Array]]) -> Array:
        """By how much outcomes are expected to cover more, [candidates].

        Args:
            excesses: for each objective, E[max(0, outcome - bound)] at bounds [boxes], as
                [candidates, boxes].
        """
        sides = [
            excess(self.lows[:, k]) - excess(self.highs[:, k]) for k, excess in enumerate(excesses)
        ]
        return np.asarray(np.sum(np.prod(sides, axis=0), axis=1))


def normal_excess(mean: Array, deviation: Array, bounds: Array) -> Array:
    """E[max(0, y - bound)] of normal y, [candidates, bounds]; 0 where a bound is infinite."""
    finite = np.isfinite(bounds)
    z = (mean[:, None] - np.where(finite, bounds, 0.0)) / deviation[:, None]
    density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return np.where(finite, np.maximum(0.0, deviation[:, None] * (density + z * ndtr(z))), 0.0)


def share_excess(mean: Array, deviation: Array, bounds: Array) -> Array:
    """E[max(0, sin(y)^2 - bound)] of normal y, cut to 0 .. pi / 2; [candidates, bounds].

    That is a share that is normal on the arcsine scale. By parts it is the integral of sin(2 t)
    times the chance that y exceeds t, from where sin(t)^2 is the bound.
    """
    begins = np.arcsin(np.sqrt(np.clip(bounds, 0.0, 1.0)))
    places = np.unique(np.concatenate([begins, np.linspace(0.0, math.pi / 2.0, _PLACES)]))
    chances = ndtr((mean[:, None] - places) / deviation[:, None]) * np.sin(2.0 * places)
    areas = 0.5 * (chances[:, 1:] + chances[:, :-1]) * np.diff(places)
    after = np.cumsum(areas[:, ::-1], axis=1)[:, ::-1]
    after = np.concatenate([after, np.zeros((len(mean), 1))], axis=1)
    return np.asarray(after[:, np.searchsorted(places, begins)])
