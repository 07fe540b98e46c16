"""Pareto fronts: who is on it, how much it dominates, which members stand for it, its knee.

Everywhere here values are *gains*: value - reference, with the sign turned for minimized
objectives, so that larger is better and 0 is the reference. Arrays are [points, objectives].
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from search.config import Objective

Key = TypeVar("Key", bound=Hashable)
Point = tuple[float, ...]


def gains(values: Sequence[float], objectives: Sequence[Objective]) -> Point:
    """How far each value lies on the good side of its objective's reference."""
    return tuple(
        o.sign * (value - o.reference) for value, o in zip(values, objectives, strict=True)
    )


def dominates(one: Point, other: Point) -> bool:
    """At least as good everywhere and better somewhere."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


def front(points: Mapping[Key, Point]) -> list[Key]:
    """The keys of the points that none dominates, best first objective first.

    Of equal points only the first (in the mapping's order) is kept.
    """
    kept: dict[Key, Point] = {}
    # In this order nothing is dominated by what comes after it (the sort is stable).
    for key, point in sorted(points.items(), key=lambda entry: tuple(-g for g in entry[1])):
        if not any(other == point or dominates(other, point) for other in kept.values()):
            kept[key] = point
    return list(kept)


def hypervolume(points: Sequence[Point]) -> float:
    """Volume between the origin and the points (those with a gain below 0 count as on the edge).

    Exact, by slicing along the last objective until two are left: fine for a few hundred points.
    """
    positive = [tuple(max(0.0, gain) for gain in point) for point in points]
    positive = [point for point in positive if all(gain > 0.0 for gain in point)]
    if not positive:
        return 0.0
    if len(positive[0]) == 1:
        return max(point[0] for point in positive)
    if len(positive[0]) == 2:
        area, height = 0.0, 0.0
        for wide, high in sorted(positive, reverse=True):
            if high > height:
                area += wide * (high - height)
                height = high
        return area
    volume, above = 0.0, sorted(positive, key=lambda point: -point[-1])
    for index, point in enumerate(above):
        below = above[index + 1][-1] if index + 1 < len(above) else 0.0
        if point[-1] > below:
            volume += hypervolume([p[:-1] for p in above[: index + 1]]) * (point[-1] - below)
    return volume


def representatives(points: Mapping[Key, Point], most: int) -> list[Key]:
    """At most `most` keys that keep nearly the largest hypervolume, in the mapping's order.

    Greedy: each choice adds the most volume, which is within 1 - 1/e of the best subset (the
    volume of a union is submodular). So what a point adds only shrinks while others are chosen,
    and only points that may still add the most are looked at again (Minoux 1978).
    """
    keys = list(points)
    chosen: set[int] = set()
    held: list[Point] = []
    volume = 0.0
    # Of each point: how much it adds at most (negative, for the heap), its place, known when.
    heap = [(-math.inf, index, -1) for index in range(len(keys))]
    while heap and len(chosen) < most:
        adds, index, known = heapq.heappop(heap)
        if known == len(chosen):
            chosen.add(index)
            held.append(points[keys[index]])
            volume -= adds
        else:
            adds = volume - hypervolume([*held, points[keys[index]]])
            heapq.heappush(heap, (adds, index, len(chosen)))
    return [key for index, key in enumerate(keys) if index in chosen]


def worth_confirming(points: Mapping[Key, Point], most: int) -> list[Key]:
    """At most `most` keys: representatives of the front, then of the fronts behind it.

    The points are noisy, so some of those just behind the front are in truth on it; the further
    behind, the fewer.
    """
    chosen: list[Key] = []
    rest = dict(points)
    while rest and len(chosen) < most:
        layer = front(rest)
        chosen += representatives({key: rest[key] for key in layer}, most - len(chosen))
        rest = {key: point for key, point in rest.items() if key not in layer}
    return chosen


def knee(points: Mapping[Key, Point]) -> Key:
    """The balanced choice: the largest product of gains, each relative to the best of all.

    Ties go to the first in the mapping's order.
    """
    ideal = [max(point[i] for point in points.values()) for i in range(len(first(points)))]

    def balance(point: Point) -> float:
        return math.prod(
            max(0.0, gain) / best if best > 0 else 0.0
            for gain, best in zip(point, ideal, strict=True)
        )

    return max(points, key=lambda key: balance(points[key]))


def first(points: Mapping[Key, Point]) -> Point:
    """Any one point: for the number of objectives."""
    return next(iter(points.values()))
