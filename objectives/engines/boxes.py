"""Which part of a tensor a view shows: a box (a range along every axis), and its layout.

A loader cuts what it needs out of a checkpoint's tensor by narrow, chunk, view, transpose and the
like. torch itself keeps the books: a view is a shape, strides and an offset, whatever the chain of
calls that led to it. Here these three become the box of the tensor that has exactly the same
elements, so that only they are merged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """The box of a contiguous tensor that a view shows.

    Attributes:
        spans: [start, stop) along each axis of the tensor.
        strides: of the view, in a contiguous copy of the box.
        straight: the view's elements come in the order in which they lie in that copy.
    """

    spans: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    straight: bool


def box_of(
    shape: Sequence[int], sizes: Sequence[int], strides: Sequence[int], offset: int
) -> Box | None:
    """The box of a view with `sizes`, `strides` and `offset` into a contiguous tensor of `shape`.

    None where the view's elements are no box (every second row), or one is shown twice (expand).
    """
    full = contiguous(shape)
    if 0 in sizes:
        return Box(tuple((0, 0) for _ in shape), contiguous(sizes), True)
    last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=True))
    if any(n > 1 and stride <= 0 for n, stride in zip(sizes, strides, strict=True)):
        return None
    spans = tuple(
        (low, high + 1)
        for low, high in zip(_place(shape, full, offset), _place(shape, full, last), strict=True)
    )
    box = [stop - start for start, stop in spans]
    # The same elements: the same steps from the same first element, whatever their order.
    if any(n < 1 for n in box) or _steps(sizes, strides) != _steps(box, full):
        return None
    packed = contiguous(box)
    own = tuple(_packed(stride, shape, full, packed) for stride in strides)
    moves = [(n, step) for n, step in zip(sizes, own, strict=True) if n > 1]
    straight = all(
        moves[at][1] == moves[at + 1][0] * moves[at + 1][1] for at in range(len(moves) - 1)
    ) and (not moves or moves[-1][1] == 1)
    return Box(spans, own, straight)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _place(shape: Sequence[int], full: Sequence[int], index: int) -> tuple[int, ...]:
    """Where along each axis the element of this flat index lies."""
    return tuple(
        index // step % size if size else 0 for size, step in zip(shape, full, strict=True)
    )


def _steps(sizes: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Strides with how many steps each is taken, smallest first; those that continue are one."""
    found: list[tuple[int, int]] = []
    for stride, size in sorted(
        (stride, size) for size, stride in zip(sizes, strides, strict=True) if size > 1
    ):
        if found and found[-1][0] * found[-1][1] == stride:
            found[-1] = (found[-1][0], found[-1][1] * size)
        else:
            found.append((stride, size))
    return found


def _packed(stride: int, shape: Sequence[int], full: Sequence[int], packed: Sequence[int]) -> int:
    """A stride of the tensor as one of the box: so many steps along the widest axis it spans."""
    for size, step, own in zip(shape, full, packed, strict=True):
        if size > 1 and step <= stride:
            return stride // step * own
    return stride
