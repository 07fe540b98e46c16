"""The difference that a low-rank adapter makes, element by element. No fastmath: nothing fuses."""

from __future__ import annotations

from typing import Any

from numba import njit

WIDTH = 1024
"""Columns at a time, so that those of the right factor stay in the cache from row to row."""


@njit(nogil=True, cache=True)
def fill_low_rank(out: Any, start: Any, left: Any, right: Any, scale: Any) -> None:
    """Write flat elements [start, start + out.size) of scale * (left @ right) into `out`.

    Each is float32(scale * (((l0 * r0) + l1 * r1) + ...)), each product and sum rounded, in
    ascending order of the inner index, wherever the slice begins and ends.

    Args:
        out: float32 [n], contiguous.
        start: first flat index.
        left: float32 [rows, rank], contiguous; rank is at least 1.
        right: float32 [rank, columns], contiguous.
        scale: float32.
    """
    columns = right.shape[1]
    stop = start + out.size
    for first in range(0, columns, WIDTH):
        last = min(columns, first + WIDTH)
        for row in range(start // columns, (stop - 1) // columns + 1):
            begin = max(start, row * columns + first)
            end = min(stop, row * columns + last)
            if begin < end:
                place = out[begin - start : end - start]
                _fill_row(place, left[row], right, begin - row * columns, scale)


@njit(nogil=True, cache=True)
def _fill_row(out: Any, left: Any, right: Any, column: Any, scale: Any) -> None:
    # Four terms a pass over `out`: one load and store of it for four products. Slices as loop
    # bodies vectorize; index arithmetic does not.
    n, rank = out.size, left.size
    l0, r0 = left[0], right[0, column : column + n]
    for i in range(n):
        out[i] = l0 * r0[i]
    k = 1
    while k + 4 <= rank:
        l0, l1, l2, l3 = left[k], left[k + 1], left[k + 2], left[k + 3]
        r0 = right[k, column : column + n]
        r1 = right[k + 1, column : column + n]
        r2 = right[k + 2, column : column + n]
        r3 = right[k + 3, column : column + n]
        for i in range(n):
            out[i] = (((out[i] + l0 * r0[i]) + l1 * r1[i]) + l2 * r2[i]) + l3 * r3[i]
        k += 4
    while k < rank:
        l0, r0 = left[k], right[k, column : column + n]
        for i in range(n):
            out[i] = out[i] + l0 * r0[i]
        k += 1
    for i in range(n):
        out[i] = out[i] * scale
