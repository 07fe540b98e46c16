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
NOT_ONE = u32(0xFFFFFFFF)
"""Stands where an entry is no candidate; above every high word of a key."""
HIGH_SHIFT = 15
"""Magnitudes have 31 bits; tables of them count the upper 16."""
GROUP = 64
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


def load(x: Any, half: Any) -> Any:
    """An element of a source as float32: bfloat16 is held in uint16, or two in uint32."""
    raise NotImplementedError("for compiled code only")


@overload(load, inline="always")
def _load(x: Any, half: Any) -> Any:
    # numba compares the signatures, annotations included.
    def one_of_two(x: Any, half: Any) -> Any:
        return from_bits(u32(u32(x << u32(16 - 16 * half)) & u32(0xFFFF0000)))

    def widened(x: Any, half: Any) -> Any:
        return from_bits(u32(u32(x) << u32(16)))

    def same(x: Any, half: Any) -> Any:
        return f32(x)

    if not isinstance(x, types.Integer):
        return same
    return one_of_two if x.bitwidth == 32 else widened


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
    """Philox4x32-7 of the counter blocks from `first` into `words`, uint64 [2 blocks].

    Viewed as uint16 (little-endian) these are the bits of `merge_core.random.drop_bits`. All 32-bit
    words are held in 64 bits: their products are, and going to and fro would cost more.
    """
    low, shift = u64(0xFFFFFFFF), u64(32)
    for i in range(words.size // 2):
        counter = u64(first) + u64(i)
        c0, c1 = counter & low, counter >> shift
        c2, c3 = u64(expert), u64(tensor_id)
        k0, k1 = u64(key0), u64(key1)
        for _ in range(PHILOX_ROUNDS):
            product0, product1 = c0 * u64(0xD2511F53), c2 * u64(0xCD9E8D57)
            c0 = (product1 >> shift) ^ c1 ^ k0
            c2 = (product0 >> shift) ^ c3 ^ k1
            c1, c3 = product1 & low, product0 & low
            k0, k1 = (k0 + u64(0x9E3779B9)) & low, (k1 + u64(0xBB67AE85)) & low
        words[2 * i] = c0 | (c1 << shift)
        words[2 * i + 1] = c2 | (c3 << shift)


@njit(nogil=True, cache=True)
def not_finite(merged: Any) -> Any:
    """How many elements are NaN or infinite: float32, or bfloat16 held in uint16.

    A loop of its own over what is still in the cache: a count inside the merging loop makes the
    compiler unroll that four times and run out of registers.
    """
    worst = exponent(merged[0])
    for i in range(merged.size):
        found = exponent(merged[i])
        worst = found if found > worst else worst
    if worst < highest(merged[0]):
        return 0
    count = 0
    for i in range(merged.size):
        count += exponent(merged[i]) == highest(merged[i])
    return count


def exponent(x: Any) -> Any:
    """The exponent's bits, in place, of an element of a merge."""
    raise NotImplementedError("for compiled code only")


@overload(exponent, inline="always")
def _exponent(x: Any) -> Any:
    def half(x: Any) -> Any:
        return u16(x & u16(0x7F80))

    def single(x: Any) -> Any:
        return u32(to_bits(x) & u32(0x7F800000))

    return half if isinstance(x, types.Integer) else single


def highest(x: Any) -> Any:
    """What `exponent` gives for NaN and infinity."""
    raise NotImplementedError("for compiled code only")


@overload(highest, inline="always")
def _highest(x: Any) -> Any:
    def half(x: Any) -> Any:
        return u16(0x7F80)

    def single(x: Any) -> Any:
        return u32(0x7F800000)

    return half if isinstance(x, types.Integer) else single


@njit(nogil=True)
def census(words: Any, low: Any, high: Any) -> Any:
    """How many high words are of candidates, lie below `low`, lie in [low, high]."""
    candidates, below, inside = u32(0), u32(0), u32(0)
    span = u32(high - low)
    for i in range(words.size):
        word = words[i]
        candidates = u32(candidates + u32(word != NOT_ONE))
        below = u32(below + u32(word < low))
        inside = u32(inside + u32(u32(word - low) <= span))
    return candidates, below, inside


@njit(nogil=True)
def gather(words: Any, low: Any, high: Any, start: Any, tensor_id: Any, keys: Any) -> None:
    """Write the keys of the high words in [low, high]; `start` is the flat index of the first.

    Groups without one are passed over by a loop that vectorizes. Places are listed without a
    branch: where magnitudes tie, a tenth of all is listed, and no branch would be foreseen.
    """
    places = np.empty(words.size, np.int32)
    count: Any = 0
    span = u32(high - low)
    for group in range(0, words.size, GROUP):
        part = words[group : group + GROUP]
        found = u32(0)
        for i in range(part.size):
            found = u32(found | u32(u32(part[i] - low) <= span))
        if found:
            for i in range(part.size):
                places[count] = group + i
                count += u32(part[i] - low) <= span
    for j in range(count):
        place = places[j]
        rank = mix(u32(u32(start + u32(place)) ^ tensor_id))
        keys[j] = (u64(words[place]) << u64(32)) | u64(rank)


@njit(nogil=True)
def count_high(words: Any, histogram: Any) -> None:
    """Add to `histogram` [65536] how often each upper half of a 31-bit word stands in `words`."""
    for i in range(words.size):
        histogram[words[i] >> u32(HIGH_SHIFT)] += 1


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


@njit(nogil=True, cache=True)
def block_products(base: Any, other: Any, length: Any, sums: Any) -> None:
    """Per block of `length` elements: sums of b e, b b and e e in float64, in index order.

    `sums` is float64 [blocks, 3]. The products of float32 values are exact in float64.
    """
    for block in range(sums.shape[0]):
        dot, first, second = 0.0, 0.0, 0.0
        for i in range(block * length, min((block + 1) * length, base.size)):
            b, e = np.float64(load(base[i], 0)), np.float64(load(other[i], 0))
            dot += b * e
            first += b * b
            second += e * e
        sums[block, 0] = dot
        sums[block, 1] = first
        sums[block, 2] = second
