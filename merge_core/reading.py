"""The bytes of a merge: tiles of the sources as the kernels take them.

Stored bfloat16 and float32 are views of the mapped files; what must be made first (float16
widened, low-rank differences, rows gathered from another vocabulary) is made a tile at a time, so
that memory stays bounded whatever the size of a tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from merge_core.adapters import AdaptedCheckpoint
from merge_core.checkpoint import Checkpoint
from merge_core.kernels.job import Elements, Tile, elements
from merge_core.kernels.threads import spread
from merge_core.pages import Span, read_ahead

if TYPE_CHECKING:
    from merge_core.sources import Sources

TILE = 1 << 22
"""Elements of a tile that has to be made."""


@dataclass(frozen=True)
class Grid:
    """Rows of flat elements of one tensor: row r is [start + r * stride, that + width)."""

    start: int
    rows: int
    stride: int
    width: int

    @property
    def size(self) -> int:
        """Elements in all rows."""
        return self.rows * self.width

    def pieces(self, most: int) -> Iterator[Grid]:
        """The same elements in order, in grids that span at most `most` (but one row or more)."""
        if self.rows == 1:
            for first in range(0, self.width, most):
                width = min(most, self.width - first)
                yield Grid(self.start + first, 1, width, width)
            return
        height = max(1, most // max(1, self.stride))
        for first in range(0, self.rows, height):
            rows = min(height, self.rows - first)
            yield Grid(self.start + first * self.stride, rows, self.stride, self.width)


class Reader:
    """Reads tiles of opened sources.

    Args:
        sources: base and experts.
        differences: whether base is read too, and low-rank experts as differences from it.
        row_ranks: whether DELLA's ranks are read too.
    """

    def __init__(self, sources: Sources, differences: bool, row_ranks: bool = False) -> None:
        self.sources = sources
        self.differences = differences
        self.row_ranks = row_ranks
        self._views: dict[tuple[Checkpoint, str], Elements] = {}
        self._spans: dict[str, list[Span]] = {}
        self._on_base: dict[tuple[Checkpoint, str], bool] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_views": {}, "_spans": {}}  # maps are of one process

    def size(self, name: str) -> int:
        """Elements that are merged by arithmetic."""
        rows, length = self.rows(name)
        return rows * length

    def rows(self, name: str) -> tuple[int, int]:
        """(rows, elements of a row) that are merged by arithmetic: rows run over the last axis."""
        shape = self._shape(name)
        if self.aligned(name):
            alignment = self.sources.alignment
            assert alignment is not None
            return len(alignment.core), int(np.prod(shape[1:], dtype=np.int64))
        return int(np.prod(shape[:-1], dtype=np.int64)), shape[-1] if shape else 1

    def rank_length(self, name: str) -> int:
        """Elements that DELLA ranks together: a row, and all of a tensor with one axis.

        Where rows are found by token, each entry of a head's bias is a row by itself.
        """
        rows, length = self.rows(name)
        return rows if self.aligned(name) and len(self._shape(name)) == 1 else length

    def aligned(self, name: str) -> bool:
        """Whether rows of `name` belong to tokens and are found by token in each source."""
        return self.sources.alignment is not None and name in self.sources.vocabulary_tensors

    def views(self, name: str, experts: Sequence[int] | None = None) -> bool:
        """Whether all that is read of a tensor is a view of mapped files: nothing is made."""
        if self.row_ranks or self.aligned(name):
            return False
        read = self._read(range(len(self.sources.experts)) if experts is None else experts)
        return all(self._is_view(source, name) for source in read)

    def all(self, name: str, only: int | None = None) -> Iterator[Tile]:
        """All elements of a tensor that are merged by arithmetic, in base and the experts.

        Args:
            name: of the tensor.
            only: read no expert but this one.
        """
        rows, length = self.rows(name)
        if not self.aligned(name):
            yield from self.tiles(name, Grid(0, 1, rows * length, rows * length), only)
            return
        height = max(1, TILE // max(1, length))
        for first in range(0, rows, height):
            positions = np.arange(first, min(first + height, rows))
            yield self.gathered(name, positions, 0, length, only)

    def core_rows(
        self, name: str, rows: slice | npt.NDArray[np.int64], only: int | None = None
    ) -> Tile:
        """Whole rows of what is merged by arithmetic, in one tile."""
        _, length = self.rows(name)
        if self.aligned(name):
            positions = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            return self.gathered(name, positions, 0, length, only)
        assert isinstance(rows, slice), "rows of an aligned tensor only come in any order"
        grid = Grid(rows.start * length, rows.stop - rows.start, length, length)
        return self._tile(name, grid, only)

    def tiles(self, name: str, grid: Grid, only: int | None = None) -> Iterator[Tile]:
        """The elements of `grid`, in order, in one tile or as many as memory asks for."""
        experts = range(len(self.sources.experts)) if only is None else [only]
        for piece in grid.pieces(sys.maxsize if self.views(name, experts) else TILE):
            yield self._tile(name, piece, only)

    def _tile(self, name: str, grid: Grid, only: int | None) -> Tile:
        end = grid.start + (grid.rows - 1) * grid.stride + grid.width
        base, read, given = None, [], []
        if self.differences:
            assert self.sources.base is not None
            base = self._elements(self.sources.base, name, grid.start, end)
        experts = range(len(self.sources.experts)) if only is None else [only]
        for place, expert in enumerate(experts):
            source = self.sources.experts[expert]
            if self._is_difference(source, name):
                given.append(place)
            read.append(self._elements(source, name, grid.start, end))
        ranks: list[npt.NDArray[Any]] = []
        if self.row_ranks:
            _, length = self.rows(name)
            rows = slice(grid.start // length, -(-end // length))
            first = grid.start - rows.start * length
            whole = [self.sources.facts.row_ranks(e, name, rows).reshape(-1) for e in experts]
            ranks = [part[first : first + end - grid.start] for part in whole]
        starts = grid.start + grid.stride * np.arange(grid.rows, dtype=np.int64)
        return Tile(base, read, starts, grid.width, grid.stride, tuple(given), ranks)

    def gathered(
        self,
        name: str,
        positions: npt.NDArray[np.int64],
        left: int,
        right: int,
        only: int | None = None,
    ) -> Tile:
        """Columns [left, right) of the rows of an aligned tensor at `positions` of the core."""
        alignment, template = self.sources.alignment, self.sources.template
        assert alignment is not None
        experts = range(len(self.sources.experts)) if only is None else [only]
        core = alignment.core[positions]
        own = self._rows(template, name, core)
        length = own.size // max(1, core.size)
        read, given = [], []
        for place, expert in enumerate(experts):
            source, rows = self.sources.experts[expert], alignment.rows[expert]
            found = core if rows is None else rows[positions]
            values = self._rows(source, name, np.where(found < 0, 0, found))
            if self._is_difference(source, name):
                given.append(place)
                values[np.repeat(found < 0, length)] = 0.0
            elif (found < 0).any():
                # A token that it lacks: base's row, so that the difference is zero.
                lacks = np.repeat(found < 0, length)
                if values.dtype != own.dtype:
                    values, mine = single(values), single(own)
                else:
                    mine = own
                values = np.where(lacks, mine, values)
            read.append(values[left:])
        base = own[left:] if self.differences else None
        ranks: list[npt.NDArray[Any]] = []
        if self.row_ranks:
            facts = self.sources.facts
            ranks = [facts.row_ranks(e, name, positions).reshape(-1)[left:] for e in experts]
        starts = core * length + left
        return Tile(base, read, starts, right - left, length, tuple(given), ranks)

    def source_rows(
        self, source: int, name: str, rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Rows of one source (base first) as the model has them: [rows, row length]."""
        found = self.sources.all[source]
        values = single(self._rows(found, name, rows))
        if self._is_difference(found, name):
            assert isinstance(found, AdaptedCheckpoint)
            values = single(self._rows(found.base, name, rows)) + values
        return values.reshape(rows.size, -1)

    def ahead(self, names: Iterable[str]) -> Iterator[str]:
        """`names` in order, their stored bytes asked for before they come."""
        return read_ahead(names, self.spans)

    def spans(self, name: str) -> list[Span]:
        """Where the stored bytes of a tensor lie, in each source that is read."""
        if name not in self._spans:
            sources = dict.fromkeys(self._read(range(len(self.sources.experts))))
            self._spans[name] = [source.span(source.stored_name(name)) for source in sources]
        return self._spans[name]

    def _shape(self, name: str) -> tuple[int, ...]:
        template = self.sources.template
        return template.specs[template.stored_name(name)].shape

    # ---- one source

    def _read(self, experts: Sequence[int]) -> list[Checkpoint]:
        base = [self.sources.base] if self.differences and self.sources.base else []
        return [*base, *(self.sources.experts[expert] for expert in experts)]

    def _stored(self, source: Checkpoint, name: str) -> torch.Tensor:
        return source.tensor(source.stored_name(name)).reshape(-1)

    def _delta(self, source: Checkpoint, name: str) -> Any:
        """The low-rank difference of `name` from the source's own base, if it has one."""
        if not isinstance(source, AdaptedCheckpoint):
            return None
        return source.delta(source.stored_name(name))

    def _is_difference(self, source: Checkpoint, name: str) -> bool:
        """Whether `source` is read as a difference: its own base's tensor is that of the merge.

        Told by contents, not by paths: a merge is a fact of its sources' bytes.
        """
        base = self.sources.base
        if not self.differences or base is None or self._delta(source, name) is None:
            return False
        assert isinstance(source, AdaptedCheckpoint)
        if source.base.path == base.path:
            return True
        if (source, name) not in self._on_base:
            own = source.tensor(source.stored_name(name))
            merged = base.tensor(base.stored_name(name))
            same = own.dtype == merged.dtype and torch.equal(own, merged)
            self._on_base[source, name] = same
        return self._on_base[source, name]

    def _is_view(self, source: Checkpoint, name: str) -> bool:
        spec = source.specs[source.stored_name(name)]
        return spec.dtype != torch.float16 and self._delta(source, name) is None

    def _elements(self, source: Checkpoint, name: str, start: int, stop: int) -> Elements:
        if (source, name) in self._views:
            return self._views[source, name][start:stop]
        delta = self._delta(source, name)
        if delta is None:
            stored = self._stored(source, name)
            if stored.dtype == torch.float16:
                return elements(stored[start:stop])
            self._views[source, name] = elements(stored)
            return self._views[source, name][start:stop]
        values = np.empty(stop - start, np.float32)

        def run(first: int, last: int) -> None:
            delta.fill(values[first:last], start + first)

        spread(run, values.size, 1 << 12, 1 << 20)
        if not self._is_difference(source, name):
            values += single(elements(self._stored(source, name)[start:stop]))
        return values

    def _rows(self, source: Checkpoint, name: str, rows: npt.NDArray[np.int64]) -> Elements:
        """Whole rows of a tensor of `source`, one after the other, in new memory."""
        stored = source.stored_name(name)
        tensor = source.tensor(stored)
        delta = self._delta(source, name)
        if delta is None:
            return elements(tensor.index_select(0, torch.from_numpy(rows)))
        length = tensor[0].numel()
        values = np.empty((rows.size, length), np.float32)
        for place, row in enumerate(rows):
            delta.fill(values[place], int(row) * length)
        flat = values.reshape(-1)
        if not self._is_difference(source, name):
            flat += single(elements(tensor.index_select(0, torch.from_numpy(rows))))
        return flat


def single(values: Elements) -> npt.NDArray[np.float32]:
    """Elements as float32: bfloat16 is held in uint16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32, copy=False)
