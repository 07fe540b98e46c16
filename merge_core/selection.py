"""Exact order statistics over streams of 64-bit keys, in bounded memory.

Trim and slack both keep "the first k in a total order". As the order's keys fit one unsigned
64-bit integer (magnitude or distance in the high word, tie rank in the low), the first k are the
keys below one bound, and the bound is all that a tile, a slice or another device needs to know.

A trim key is (0x7FFFFFFF - |delta|'s bits, rank), a slack key (distance's bits, rank); the kernels
make both (`merge_core.kernels.fused`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from merge_core.kernels.scalar import count_digits, count_digits_under

Keys = npt.NDArray[np.uint64]
Stream = Callable[[], Iterator[Keys]]

KEEP_ALL = 2**64 - 1
"""An exclusive bound above every key (keys of finite floats stay below 2^63)."""
KEEP_NONE = 0

_DIGIT = 16
_IN_MEMORY = 1 << 22  # 32 MiB of keys: sorting in one piece is faster up to here


@dataclass(frozen=True)
class Cut:
    """The k-th smallest key of a stream.

    Attributes:
        key: its value.
        ties: how many keys equal to it are among the first k (at least 1).
    """

    key: int
    ties: int


def kth_smallest(stream: Stream, k: int, total: int) -> Cut:
    """The k-th smallest (from 1) of the `total` keys that each call of `stream` yields anew.

    Small streams are partitioned in memory; larger ones are narrowed by 16 bits a pass, so that
    memory holds one tile and one histogram, whatever the length.
    """
    assert 1 <= k <= total, f"k {k} of {total}"
    if total <= _IN_MEMORY:
        keys = np.concatenate(list(stream()))
        key = int(np.partition(keys, k - 1)[k - 1])
        return Cut(key, k - int(np.count_nonzero(keys < np.uint64(key))))
    prefix, rest = 0, k
    for shift in range(64 - _DIGIT, -1, -_DIGIT):
        histogram = np.zeros(1 << _DIGIT, np.int64)
        for keys in stream():
            if shift + _DIGIT == 64:
                count_digits(keys, shift, histogram)
            else:
                count_digits_under(keys, shift, np.uint64(prefix), histogram)
        below = np.cumsum(histogram)
        digit = int(np.searchsorted(below, rest))
        rest -= int(below[digit - 1]) if digit else 0
        prefix = prefix << _DIGIT | digit
    return Cut(prefix, rest)
