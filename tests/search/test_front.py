from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.front import dominates, front, hypervolume, knee, representatives, worth_confirming

gain = st.floats(0, 1, width=16)
points2 = st.lists(st.tuples(gain, gain), max_size=12)
points3 = st.lists(st.tuples(gain, gain, gain), max_size=8)


def named(points: list) -> dict[int, tuple[float, ...]]:
    return dict(enumerate(points))


@given(points3)
def test_front_is_what_nothing_dominates(points: list) -> None:
    kept = front(named(points))
    for key, point in named(points).items():
        beaten = any(dominates(other, point) for other in points)
        assert (key in kept) == (not beaten and points.index(point) == key)


def test_hypervolume_closed_forms() -> None:
    assert hypervolume([]) == 0.0
    assert hypervolume([(0.5, 0.4)]) == pytest.approx(0.2)
    assert hypervolume([(0.5, 0.4), (0.2, 0.9)]) == pytest.approx(0.2 + 0.2 * 0.5)
    # n points on a staircase x + y = 1: volume (1 - 1/n) / 2
    n = 10
    stairs = [(i / n, 1 - i / n) for i in range(n + 1)]
    assert hypervolume(stairs) == pytest.approx((1 - 1 / n) / 2)
    assert hypervolume([(0.5, 0.5, 0.5), (1.0, 0.25, 0.25)]) == pytest.approx(
        0.125 + 0.0625 - 0.5 * 0.0625
    )
    assert hypervolume([(-1.0, 1.0)]) == 0.0  # beyond the reference point


@given(points3)
def test_hypervolume_equals_inclusion_and_exclusion(points: list) -> None:
    points = points[:5]
    total = 0.0
    for size in range(1, len(points) + 1):
        for some in itertools.combinations(points, size):
            overlap = math.prod(min(p[i] for p in some) for i in range(3))
            total += overlap if size % 2 else -overlap
    assert hypervolume(points) == pytest.approx(total, abs=1e-9)


@given(points2)
def test_dominated_points_add_no_volume(points: list) -> None:
    kept = [points[key] for key in front(named(points))]
    assert hypervolume(kept) == pytest.approx(hypervolume(points), abs=1e-12)


def test_representatives_keep_most_of_the_volume() -> None:
    rng = random.Random(0)
    for _ in range(20):
        points = named([(rng.random(), rng.random()) for _ in range(12)])
        chosen = representatives(points, 3)
        best = max(
            hypervolume([points[k] for k in some]) for some in itertools.combinations(points, 3)
        )
        assert len(chosen) == 3
        assert hypervolume([points[k] for k in chosen]) >= (1 - 1 / math.e) * best
    assert representatives(points, 99) == list(points)


@given(points2, st.integers(1, 12))
def test_the_front_is_confirmed_first_and_what_is_behind_it_in_the_places_left(
    points: list, most: int
) -> None:
    every = named(points)
    chosen = worth_confirming(every, most)
    assert len(chosen) == len(set(chosen)) == min(most, len(every))
    best = front(every)
    assert chosen[: len(best)] == representatives({key: every[key] for key in best}, most)


def test_knee_is_balanced_and_ties_go_to_the_first() -> None:
    assert knee({"a": (1.0, 0.1), "b": (0.7, 0.7), "c": (0.1, 1.0)}) == "b"
    assert knee({1: (0.5, 0.5), 2: (0.5, 0.5)}) == 1
    assert knee({"low": (0.0, 0.0)}) == "low"
