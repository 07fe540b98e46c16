from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core import selection
from merge_core.random import tie_ranks
from merge_core.selection import KEEP_ALL, Cut, kth_smallest, slack_keys, trim_keys


@st.composite
def key_arrays(draw: st.DrawFn) -> np.ndarray:
    """Keys of all ranges, from distinct to nearly all equal."""
    size = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["few", "low word", "high word", "any", "extremes"]))
    if kind == "few":
        return rng.integers(0, 3, size, dtype=np.uint64) << np.uint64(draw(st.integers(0, 61)))
    if kind == "low word":
        return rng.integers(0, 40, size, dtype=np.uint64)
    if kind == "high word":
        return rng.integers(0, 40, size, dtype=np.uint64) << np.uint64(32)
    if kind == "extremes":
        return rng.choice(np.array([0, 1, 2**63, 2**64 - 1], np.uint64), size)
    return rng.integers(0, 2**64, size, dtype=np.uint64)


@settings(max_examples=60, deadline=None)
@given(key_arrays(), st.data())
def test_radix_equals_partition_equals_sort(keys: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, keys.size))
    tile = data.draw(st.integers(1, keys.size))

    def stream():
        for start in range(0, keys.size, tile):
            yield keys[start : start + tile]

    ordered = np.sort(keys)
    key = int(ordered[k - 1])
    expected = Cut(key, k - int(np.searchsorted(ordered, np.uint64(key))))
    limit = selection._IN_MEMORY
    try:
        for limit_ in (0, keys.size):
            selection._IN_MEMORY = limit_
            assert kth_smallest(stream, k, keys.size) == expected
    finally:
        selection._IN_MEMORY = limit
    assert 1 <= expected.ties <= np.count_nonzero(keys == np.uint64(key))


def test_trim_keys_order_by_magnitude_then_rank() -> None:
    delta = np.array([0.5, -2.0, -0.0, 0.0, 2.0, 1e-45, -3.4e38], np.float32)
    ranks = tie_ranks(0, delta.size, 7)
    order = np.argsort(trim_keys(delta, ranks))
    expected = sorted(range(delta.size), key=lambda j: (-abs(float(delta[j])), int(ranks[j])))
    assert order.tolist() == expected


def test_slack_keys_order_by_distance_then_rank() -> None:
    distance = np.array([0.5, 0.0, 1e-45, 0.5, 3.4e38, 0.0], np.float32)
    ranks = tie_ranks(0, distance.size, 7)
    order = np.argsort(slack_keys(distance, ranks))
    expected = sorted(range(6), key=lambda j: (float(distance[j]), int(ranks[j])))
    assert order.tolist() == expected


def test_the_bound_that_keeps_all_is_above_every_finite_key() -> None:
    worst = np.array([np.finfo(np.float32).max, 0.0], np.float32)
    ranks = np.full(2, 2**32 - 1, np.uint32)
    assert int(slack_keys(worst, ranks).max()) < 2**63 < KEEP_ALL
    assert int(trim_keys(worst, ranks).max()) < 2**63
