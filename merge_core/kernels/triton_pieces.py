# mypy: ignore-errors
"""Pieces of the Triton kernels: what `merge_core.kernels.scalar` has for one element, for blocks.

They hold on the GPU and in Triton's interpreter. bfloat16 is converted by integer arithmetic: the
interpreter truncates where it should round, and widens subnormals wrongly. Triton's own compiled
functions (`tl.sum`) are not called: from its import on they belong to one of the two worlds, and
other packages import it. Parameters have no types: Triton would take their names for values.
"""

import triton
import triton.language as tl


@triton.jit
def u32(x):
    """As uint32."""
    return tl.cast(x, tl.uint32)


@triton.jit
def f32(x):
    """As float32."""
    return tl.cast(x, tl.float32)


@triton.jit
def to_bits(x):
    """The bits of float32 as uint32."""
    return x.to(tl.uint32, bitcast=True)


@triton.jit
def from_bits(x):
    """The float32 with these bits."""
    return x.to(tl.float32, bitcast=True)


@triton.jit
def load(x, half):
    """Elements of a source as float32: bfloat16 is held in uint16, each alone (half 0)."""
    if x.dtype == tl.uint16:
        return from_bits(u32(x) << 16)
    else:  # noqa: RET505 (both are traced unless one is an else)
        return x.to(tl.float32)


@triton.jit
def magnitude(x):
    """The bits of |x|: they order as the values do."""
    return to_bits(x) & 0x7FFFFFFF


@triton.jit
def round_bf16(x):
    """float32 to bfloat16 held in uint16, to nearest even."""
    bits = to_bits(x)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16)


@triton.jit
def mix(x):
    """lowbias32; see `merge_core.random.mix`."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def not_finite(x):
    """Whether elements of a merge (bfloat16 is held in uint16) are NaN or infinite."""
    if x.dtype == tl.uint16:
        return (x & 0x7F80) == 0x7F80
    elif x.dtype == tl.float16:  # noqa: RET505
        return (x.to(tl.uint16, bitcast=True) & 0x7C00) == 0x7C00
    else:
        return (to_bits(x) & 0x7F800000) == 0x7F800000


@triton.jit
def drop_bits(
    start,
    expert,
    tensor_id,
    key0,
    key1,
    size: tl.constexpr,
    rounds: tl.constexpr,
):
    """`merge_core.random.drop_bits` of flat indices [start, start + size), start a multiple of 8.

    [size / 8, 8] uint32. The eight halves of a Philox block lie in one row, which is one thread's:
    choosing a half by lane costs neither a shuffle nor shared memory.
    """
    counter = (start >> 3) + tl.arange(0, size // 8)
    c0, c1, c2, c3 = u32(counter), u32(counter >> 32), u32(expert), tensor_id
    for _ in tl.static_range(rounds):
        high0, low0 = tl.umulhi(c0, u32(0xD2511F53)), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, u32(0xCD9E8D57)), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0 = key0 + 0x9E3779B9
        key1 = key1 + 0xBB67AE85
    lane = tl.arange(0, 8)[None, :]
    first = tl.where(lane < 2, c0[:, None], c1[:, None])
    second = tl.where(lane < 6, c2[:, None], c3[:, None])
    word = tl.where(lane < 4, first, second)
    return tl.where((lane & 1) == 1, word >> 16, word & 0xFFFF)


@triton.jit
def count(place, x, live):
    """Add the sum of uint32 `x` over the elements that are `live` to the int64 at `place`."""
    # What tl.sum calls; the interpreter knows it by name and has a fast way.
    total = tl.reduce(tl.where(live, x, u32(0)), None, tl.standard._sum_combine)
    tl.atomic_add(place, total.to(tl.int64), mask=total > 0)
