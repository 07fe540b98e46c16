"""Scalar pieces of the kernels, inlined by numba. float32 and uint32 throughout, no fastmath."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

u16, u32, u64, f32 = np.uint16, np.uint32, np.uint64, np.float32
ZERO = f32(0.0)
SIGN = u32(0x80000000)
PHILOX_ROUNDS = 7


@intrinsic
def to_bits(_typing: Any, x: Any) -> Any:
    """The bits of a float32 as uint32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def from_bits(_typing: Any, x: Any) -> Any:
    """The float32 with these bits."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


def load(x: Any) -> Any:
    """An element of a source as float32: bfloat16 is held in uint16."""
    raise NotImplementedError("for compiled code only")


@overload(load, inline="always")
def _load(x: Any) -> Any:
    # numba compares the signatures, annotations included.
    def widened(x: Any) -> Any:
        return from_bits(u32(u32(x) << u32(16)))

    def same(x: Any) -> Any:
        return f32(x)

    return widened if isinstance(x, types.Integer) else same


@njit(inline="always")
def magnitude(x: Any) -> Any:
    """The bits of |x|: they order as the values do."""
    return u32(to_bits(x) & u32(0x7FFFFFFF))


@njit(inline="always")
def round_bf16(x: Any) -> Any:
    """float32 to bfloat16, to nearest even; an infinity or NaN stays one or the other."""
    bits = to_bits(x)
    return u16(u32(bits + u32(0x7FFF) + (u32(bits >> u32(16)) & u32(1))) >> u32(16))


@njit(inline="always")
def mix(x: Any) -> Any:
    """lowbias32; see `merge_core.random.mix`."""
    x = u32(x ^ u32(x >> u32(16)))
    x = u32(x * u32(0x7FEB352D))
    x = u32(x ^ u32(x >> u32(15)))
    x = u32(x * u32(0x846CA68B))
    return u32(x ^ u32(x >> u32(16)))


@njit(nogil=True, cache=True)
def fill_bits(words: Any, first: Any, expert: Any, tensor_id: Any, key0: Any, key1: Any) -> None:
    """Philox4x32-7 of the counter blocks from `first` into `words`, uint32 [4 blocks].

    Viewed as uint16 (little-endian) these are the bits of `merge_core.random.drop_bits`.
    """
    low, shift = u64(0xFFFFFFFF), u64(32)
    for i in range(words.size // 4):
        counter = u64(first) + u64(i)
        c0, c1 = u32(counter & low), u32(counter >> shift)
        c2, c3 = u32(expert), u32(tensor_id)
        k0, k1 = u32(key0), u32(key1)
        for _ in range(PHILOX_ROUNDS):
            product0, product1 = u64(c0) * u64(0xD2511F53), u64(c2) * u64(0xCD9E8D57)
            n0 = u32(u32(product1 >> shift) ^ c1 ^ k0)
            n2 = u32(u32(product0 >> shift) ^ c3 ^ k1)
            c0, c1, c2, c3 = n0, u32(product1), n2, u32(product0)
            k0, k1 = u32(k0 + u32(0x9E3779B9)), u32(k1 + u32(0xBB67AE85))
        words[4 * i] = c0
        words[4 * i + 1] = c1
        words[4 * i + 2] = c2
        words[4 * i + 3] = c3


@njit(nogil=True, cache=True)
def fill_trim_keys(keys: Any, base: Any, expert: Any, start: Any, tensor_id: Any) -> None:
    """Trim keys (as `merge_core.selection` defines them) of elements from flat index `start`."""
    for i in range(keys.size):
        delta = f32(load(expert[i]) - load(base[i]))
        rank = mix(u32(u32(start + u32(i)) ^ u32(tensor_id)))
        high = u32(u32(0x7FFFFFFF) - magnitude(delta))
        keys[i] = (u64(high) << u64(32)) | u64(rank)


@njit(nogil=True, cache=True)
def count_digits(keys: Any, shift: Any, histogram: Any) -> None:
    """Add to `histogram` [65536] how often each 16-bit digit at `shift` stands in `keys`."""
    for i in range(keys.size):
        histogram[(keys[i] >> u64(shift)) & u64(0xFFFF)] += 1


@njit(nogil=True, cache=True)
def count_digits_under(keys: Any, shift: Any, prefix: Any, histogram: Any) -> None:
    """As `count_digits`, of the keys whose digits above are `prefix`."""
    for i in range(keys.size):
        if keys[i] >> u64(shift + 16) == prefix:
            histogram[(keys[i] >> u64(shift)) & u64(0xFFFF)] += 1
