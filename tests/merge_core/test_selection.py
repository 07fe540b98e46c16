from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core import selection
from merge_core.kernels.fused import Tile, trim_keys
from merge_core.random import tie_ranks
from merge_core.selection import KEEP_ALL, Cut, kth_smallest


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
    rng = np.random.default_rng(0)
    delta = (rng.integers(-3, 4, 500) * 0.5).astype(np.float32)
    keys = trim_keys(Tile.whole(7, np.zeros(500, np.float32), [delta]), 99).keys
    expected = np.lexsort((tie_ranks(7, 507, 99), -np.abs(delta)))
    np.testing.assert_array_equal(np.argsort(keys), expected)
    assert int(keys.max()) < 2**63 < KEEP_ALL
