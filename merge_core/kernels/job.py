"""What a pass over one tensor takes: its numbers (a job) and its bytes (a tile)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from merge_core.arithmetic import Float32
from merge_core.kernels.scalar import f32, u32
from merge_core.methods import Method
from merge_core.selection import KEEP_NONE

HIGHEST_WORD = 0x7FFFFFFF
"""The largest high word of a key."""
_LAST_KEY = HIGHEST_WORD << 32 | 0xFFFFFFFF
TREE_UP_TO = 4
"""Experts; beyond, 2^N selects cost more than a look-up."""

Elements = npt.NDArray[Any]
"""Flat elements of a tensor: float32, or bfloat16 held in uint16."""


@dataclass(frozen=True)
class Table:
    """DELLA's numbers for one expert, by rank in the row: both [row length].

    Attributes:
        limits: uint32, exclusive bounds of the 16 random bits that stay, up to 65536.
        factors: float32, what the differences that stay are multiplied by.
    """

    limits: npt.NDArray[np.uint32]
    factors: Float32


@dataclass(frozen=True)
class TensorJob:
    """All that a pass over one tensor needs besides its bytes.

    Attributes:
        method: which stages to run.
        tensor_id: of the tie ranks and drop masks.
        seed: of the drop masks.
        factors: per expert, what its difference is multiplied by (float32 values).
        coefficients: [2^N] float32, by subset of kept experts.
        trim: per expert, the exclusive bound of the trim keys that stay.
        outliers: per expert, the exclusive bound of the trim keys that go although they are below
            `trim`: Breadcrumbs' largest entries.
        drop: per expert, the exclusive bound of the 16 random bits that stay.
        tables: per expert, DELLA's numbers by rank.
        restore: (expert, exclusive bound of its slack keys), in recipe order.
        replace: whether a restored entry stands alone.
        kernels: those that have run it, by what else they depend on: looking one up by all of its
            flags takes as long as a small tensor.
    """

    method: Method
    tensor_id: int
    seed: int
    factors: tuple[float, ...]
    coefficients: Float32
    trim: tuple[int, ...] = ()
    outliers: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()
    tables: tuple[Table, ...] = ()
    restore: tuple[tuple[int, int], ...] = ()
    replace: bool = True
    kernels: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kernels": {}}  # compiled code is of one process

    @cached_property
    def restored(self) -> dict[int, int]:
        """The experts that win anything back, with their bounds."""
        return {q: bound for q, bound in self.restore if bound != KEEP_NONE}

    @cached_property
    def numbers(self) -> tuple[Any, ...]:
        """The kernels' scalars and tables, from `factors` on."""
        return numbers(self, self.restored)


@dataclass(frozen=True)
class Tile:
    """Rows of one tensor in every source.

    Attributes:
        base: flat elements; None for methods that merge the experts themselves.
        experts: flat elements, in recipe order.
        starts: int64 [rows], each row's first flat index in its whole tensor: what ranks and
            random bits follow.
        width: elements of a row that are merged.
        stride: elements between the beginnings of rows in `base` and `experts`.
        given: the experts whose elements are differences from base already.
        ranks: per expert, DELLA's rank of each element in its row; laid out as `experts`.
    """

    base: Elements | None
    experts: Sequence[Elements]
    starts: npt.NDArray[np.int64]
    width: int
    stride: int
    given: tuple[int, ...] = ()
    ranks: Sequence[npt.NDArray[Any]] = ()

    @classmethod
    def whole(
        cls, start: int, base: Elements | None, experts: Sequence[Elements], **rest: Any
    ) -> Tile:
        """Flat elements [start, start + n), as one row; arrays are [n]."""
        size = experts[0].size
        return cls(base, experts, np.array([start], np.int64), size, size, **rest)

    @property
    def size(self) -> int:
        """Elements that are merged."""
        return self.starts.size * self.width

    def only(self, expert: int) -> Tile:
        """The same rows of base and one expert."""
        given = (0,) if expert in self.given else ()
        return Tile(self.base, [self.experts[expert]], self.starts, self.width, self.stride, given)

    def part(self, first: int, last: int) -> Tile:
        """Rows [first, last); of a tile with one row its elements [first, last)."""
        if (first, last) == (0, self.width if self.starts.size == 1 else self.starts.size):
            return self
        if self.starts.size == 1:
            starts, width, begin, end = self.starts + first, last - first, first, last
        else:
            starts, width = self.starts[first:last], self.width
            begin, end = first * self.stride, (last - 1) * self.stride + self.width
        return Tile(
            None if self.base is None else self.base[begin:end],
            [expert[begin:end] for expert in self.experts],
            starts,
            width,
            self.stride,
            self.given,
            [rank[begin:end] for rank in self.ranks],
        )


def elements(tensor: torch.Tensor) -> Elements:
    """The flat elements of a floating tensor as kernels take them; float16 is widened."""
    flat = tensor.reshape(-1)
    if flat.dtype == torch.bfloat16:
        bits: Elements = flat.view(torch.int16).numpy().view(np.uint16)
        return bits
    values: Elements = flat.to(torch.float32).numpy()
    return values


def numbers(job: TensorJob, restored: Mapping[int, int]) -> tuple[Any, ...]:
    """A kernel's scalars and tables from `factors` on, with these bounds of slack keys."""
    experts = len(job.factors)
    result: list[Any] = []
    if job.method.sparsify != "rank_drop":
        result += [f32(factor) for factor in job.factors]
    if job.method.sparsify in ("trim", "band"):
        result += _words(_trim_pair(bound) for bound in job.trim)
    if job.method.sparsify == "band":
        result += _words(_trim_pair(bound) for bound in job.outliers)
    if job.method.sparsify == "drop":
        result += [u32(bound) for bound in job.drop]
    if job.method.sparsify == "rank_drop":
        result += [table.limits for table in job.tables]
        result += [table.factors for table in job.tables]
    if restored:
        # The last key that is restored, in its two words; 0 where none is asked for.
        bounds = (restored.get(k, KEEP_NONE) for k in range(experts))
        last = [min(max(0, bound - 1), _LAST_KEY) for bound in bounds]
        result += _words((key >> 32, key & 0xFFFFFFFF) for key in last)
    result += list(job.coefficients) if experts <= TREE_UP_TO else [job.coefficients]
    return tuple(result)


def _words(pairs: Iterator[tuple[int, int]]) -> list[Any]:
    """All first words, then all second ones."""
    first, second = zip(*pairs, strict=True)
    return [u32(word) for word in (*first, *second)]


def _trim_pair(bound: int) -> tuple[int, int]:
    """(tau, cut) of an exclusive bound on trim keys, whose high word is 0x7FFFFFFF - |delta|."""
    if bound == KEEP_NONE:
        return HIGHEST_WORD, 0
    last = bound - 1
    if last >> 32 > HIGHEST_WORD:
        return 0, 0xFFFFFFFF
    return HIGHEST_WORD - (last >> 32), last & 0xFFFFFFFF
