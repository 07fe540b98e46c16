"""A merge, planned: every shape, name and dtype is settled from headers before any work.

A plan is a *weight source*: it names its tensors with shapes and dtypes, then yields them one by
one, merged. It is picklable, so a worker can receive it and merge straight into a live model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from merge_core.arithmetic import coefficients
from merge_core.checkpoint import TensorSpec
from merge_core.errors import CheckpointError, NonFiniteError, RecipeError
from merge_core.estimate import Estimate, estimate
from merge_core.jobs import Jobs
from merge_core.kernels.backend import backend_of
from merge_core.kernels.job import Tile
from merge_core.kernels.threads import submit
from merge_core.pages import AT_ONCE, BUFFERS, Ring
from merge_core.reading import TILE, Grid
from merge_core.recipe import Recipe
from merge_core.sources import Sources

MAKER = "merge_core.remote:plan_of"
"""Who makes plans again of what `MergePlan.portable` tells."""


@dataclass(frozen=True)
class Portable:
    """A plan said as plain data: `maker` ("module:function") makes it again of `data` (JSON)."""

    maker: str
    data: dict[str, Any]


class MergePlan:
    """One recipe on opened sources.

    Args:
        recipe: what to merge.
        sources: what it names; opened here if not given.
        tally: count in the pass what becomes of each expert's entries: see `tallies`.

    Raises:
        CheckpointError, VocabularyError, RecipeError: anything that would fail later.
    """

    def __init__(
        self, recipe: Recipe, sources: Sources | None = None, *, tally: bool = False
    ) -> None:
        self.recipe = recipe
        self.sources = sources if sources is not None else Sources.open(recipe)
        opened = [expert.reference for expert in self.sources.experts]
        assert opened == [expert.model for expert in recipe.models], "sources of another recipe"
        self._reader = self.sources.reader(
            differences=recipe.method.on_differences,
            row_ranks=recipe.method.sparsify == "rank_drop",
        )
        self._settings = {
            name: recipe.settings_for(name, self.sources.depths[name])
            for name in self.sources.specs
            if self.sources.mergeable(name)
        }
        self._check_sizes()
        self._jobs = Jobs(recipe, self._reader, self._settings)
        self._specs = {
            name: TensorSpec(spec.shape, self._dtype(name, spec))
            for name, spec in self.sources.specs.items()
        }
        self.tallies: dict[str, npt.NDArray[np.int64]] = {}
        self._tallies = tally

    def specs(self) -> dict[str, TensorSpec]:
        """Shape and dtype of every tensor of the merge, in name order."""
        return self._specs

    def tensors(
        self, device: str | torch.device = "cpu", names: Iterable[str] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, merged tensor), those of `names` in their order, or all in name order.

        All are views of one buffer on `device`: a tensor holds until the next is asked for.

        Raises:
            MergeError: nothing merges on `device`.
            NonFiniteError: a merged weight overflowed: the recipe's fault.
            CheckpointError: integer tensors differ between the sources.
        """
        asked = list(self._specs if names is None else names)
        self.tallies = {}
        largest = self.largest
        if torch.device(device).type != "cpu":
            there = torch.empty(largest, dtype=torch.uint8, device=device)
            yield from ((n, self._whole(n, there)) for n in self._reader.ahead(asked))
            return
        ahead = 2 * threads if (threads := torch.get_num_threads()) > 1 else 0
        self._jobs.prepare(backend_of(torch.device("cpu")))
        with BUFFERS.lent(largest + (AT_ONCE if ahead else 0)) as buffer:
            # Threads that wait for each other at every tensor lose a third of the time: tensors
            # of common size are merged by one thread each, some ahead of the one that is yielded.
            ring = Ring(buffer[largest:])
            waiting = deque[tuple[list[str], Future[list[tuple[str, Tensor]]] | None]]()
            groups = self._groups(asked, AT_ONCE // 8 if ahead else 0)
            group = next(groups, None)
            try:
                while group is not None or waiting:
                    while group is not None and len(waiting) <= ahead:
                        future, size = None, sum(self._room(name) for name in group)
                        if ahead and size <= AT_ONCE // 4:
                            room = ring.take(size)
                            if room is None:
                                break
                            future = submit(self._merged, group, room)
                        waiting.append((group, future))
                        group = next(groups, None)
                    names, future = waiting[0]
                    yield from self._merged(names, buffer) if future is None else future.result()
                    waiting.popleft()
                    if future is not None:
                        ring.give_back()
            finally:
                for _, future in waiting:
                    if future is not None and not future.cancel():
                        future.exception()  # it writes into the buffer: wait for it

    def _groups(self, names: Iterable[str], most: int) -> Iterator[list[str]]:
        """`names` in order, as many at once as make up to `most` bytes; larger ones alone."""
        group: list[str] = []
        size = 0
        for name in self._reader.ahead(names):
            if group and size + self._room(name) > most:
                yield group
                group, size = [], 0
            group.append(name)
            size += self._room(name)
        if group:
            yield group

    def _room(self, name: str) -> int:
        """Bytes of a merged tensor, up to the next line of the cache; one line if it is empty."""
        return max(1, -(-self._specs[name].nbytes // 64)) * 64

    def _merged(self, names: Iterable[str], room: Tensor) -> list[tuple[str, Tensor]]:
        """The merged tensors, one after the other in `room`: uint8 [bytes]."""
        made, place = [], 0
        for name in names:
            made.append((name, self._whole(name, room[place:])))
            place += self._room(name)
        return made

    def _whole(self, name: str, room: Tensor) -> Tensor:
        """The merged tensor, in the first of the bytes `room`."""
        spec = self._specs[name]
        out = room[: spec.nbytes].view(spec.dtype)
        return self.elements(name, 0, spec.numel, out).reshape(spec.shape)

    def tensor(self, name: str) -> Tensor:
        """One merged tensor, in its shape and output dtype."""
        spec = self._specs[name]
        return self.elements(name, 0, spec.numel).reshape(spec.shape)

    def elements(self, name: str, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Flat elements [start, stop) of one merged tensor: the same bits as in the whole.

        Args:
            name: of the tensor.
            start: first flat index.
            stop: one past the last.
            out: where to merge into, and on whose device: flat, contiguous, of the output dtype.
                New by default, on the CPU; the pages of a new tensor cost as much as the merge.

        Raises:
            MergeError: nothing merges on that device.
        """
        return self._merge(name, Grid(start, 1, stop - start, stop - start), out)

    def part(
        self, name: str, spans: Sequence[tuple[int, int]], out: Tensor | None = None
    ) -> Tensor:
        """The merge of a box of one tensor, as a tensor-parallel engine needs it: rows, columns.

        Args:
            name: of the tensor.
            spans: [start, stop) along its axes; axes that are not named are whole.
            out: as in `elements`, of the box's size.

        Returns:
            The box, contiguous: the same bits as in the whole.
        """
        shape = self._specs[name].shape
        full = [*spans, *((0, size) for size in shape[len(spans) :])]
        assert len(full) == len(shape), f"{name} has {len(shape)} axes"
        box = [stop - start for start, stop in full]
        spec = TensorSpec(tuple(box), self._specs[name].dtype)
        if out is None:
            out = torch.empty(spec.numel, dtype=spec.dtype)
        if not spec.numel:
            return out.reshape(box)
        strides = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
        # Axes after the last one that is cut make the width; the one before it makes the rows.
        cut = max((a for a, size in enumerate(shape) if box[a] != size), default=0)
        width = box[cut] * strides[cut] if shape else 1
        inner = full[cut][0] * strides[cut] if shape else 0
        rows, stride = (box[cut - 1], strides[cut - 1]) if cut > 0 else (1, width)
        if cut > 0:
            inner += full[cut - 1][0] * stride
        outer = [range(start, stop) for start, stop in full[: max(0, cut - 1)]]
        done = 0
        for place in product(*outer):
            start = inner + sum(i * step for i, step in zip(place, strides, strict=False))
            size = rows * width
            self._merge(name, Grid(start, rows, stride, width), out[done : done + size])
            done += size
        return out.reshape(box)

    def ahead(self) -> Iterator[str]:
        """Names of the tensors, in name order; when one comes, its stored bytes are being read.

        For those who ask for parts of them with `part`.
        """
        yield from self._reader.ahead(self._specs)

    def portable(self) -> Portable:
        """How another process of this machine makes this plan; see `merge_core.remote`."""
        kept = self.sources.facts.kept
        facts = None if kept is None else [str(kept[0].absolute()), list(kept[1])]
        return Portable(MAKER, {"recipe": self.recipe.plain(), "facts": facts})

    def fingerprint(self, digests: list[str] | None = None) -> str:
        """The merge's name for ever: the recipe's numbers and the contents of its sources.

        Args:
            digests: `Sources.digests()`, where they are known already.
        """
        return self.recipe.fingerprint(digests if digests is not None else self.sources.digests())

    @property
    def tied(self) -> bool:
        """Whether the merge stores no head of its own: it shares the embedding."""
        return "lm_head.weight" not in self._specs

    @property
    def largest(self) -> int:
        """Bytes of the largest merged tensor, up to the next line of the cache."""
        return max((self._room(name) for name in self._specs), default=0)

    def estimate(self) -> Estimate:
        """What the merge reads, writes and holds, and about how long it takes; see `Estimate`."""
        return estimate(self.recipe, self._reader, self._specs, self._settings)

    # ---- the pass

    def _merge(self, name: str, grid: Grid, out: Tensor | None) -> Tensor:
        """Merge the elements of `grid` into `out`, flat and contiguous."""
        if out is None:
            out = torch.empty(grid.size, dtype=self._specs[name].dtype)
        if not grid.size:
            return out
        if not self.sources.mergeable(name):
            return out.copy_(self._copied(name, grid))
        bad = 0
        if self._reader.aligned(name):
            bad = self._merge_aligned(name, grid, out)
        else:
            done = 0
            for tile in self._reader.tiles(name, grid):
                bad += self._merge_tile(name, tile, out[done : done + tile.size])
                done += tile.size
        if bad:
            raise NonFiniteError(
                f"{bad} of {out.numel()} merged entries of {name} are not finite: "
                "the recipe's weights are too large"
            )
        return out

    def _merge_tile(self, name: str, tile: Tile, out: Tensor) -> int:
        """Merge `tile` into `out`; how many elements are not finite."""
        backend = backend_of(out.device)
        tally = None
        if self._tallies:
            tally = self.tallies.setdefault(name, np.zeros((len(tile.experts), 4), np.int64))
        return backend.merge(self._jobs.get(name, backend), tile, out, tally)

    def _merge_aligned(self, name: str, grid: Grid, out: Tensor) -> int:
        """As `_merge`, of a tensor whose rows are found by token; how many are not finite."""
        alignment = self.sources.alignment
        assert alignment is not None
        _, length = self._reader.rows(name)
        bad = done = 0
        for first, last, left, right in _row_spans(grid, length):
            height = max(1, TILE // length)
            for start in range(first, last, height):
                places = alignment.output[start : min(start + height, last)]
                target = out[done : done + places.size * (right - left)].view(-1, right - left)
                done += target.numel()
                core = places >= 0
                if core.any():
                    tile = self._reader.gathered(name, places[core], left, right)
                    merged = torch.empty(tile.size, dtype=out.dtype, device=out.device)
                    bad += self._merge_tile(name, tile, merged)
                    target[torch.from_numpy(core)] = merged.view(-1, right - left)
                bad += self._copy_extras(name, places, left, right, target)
        return bad

    def _copy_extras(
        self,
        name: str,
        places: npt.NDArray[np.int64],
        left: int,
        right: int,
        target: Tensor,
    ) -> int:
        """Rows outside the arithmetic: one owner's bits; of several the normalized linear merge.

        Returns how many elements are not finite: another dtype may be too small for them.
        """
        alignment = self.sources.alignment
        assert alignment is not None
        groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for index in np.flatnonzero(places < 0):
            owners, own = zip(*alignment.extras[-1 - places[index]], strict=True)
            groups.setdefault(owners, []).append((int(index), own))
        weights, bad = self._settings[name].weights, 0
        for sources, members in groups.items():
            rows = np.array([rows for _, rows in members], np.int64)
            values = [
                self._reader.source_rows(source, name, rows[:, place])[:, left:right]
                for place, source in enumerate(sources)
            ]
            total = values[0]
            if len(sources) > 1:
                offset = len(self.sources.all) - len(weights)
                w = [weights[source - offset] for source in sources]
                w = w if any(w) else [1.0] * len(w)  # zeros would be no token's row
                terms = [x * np.float32(own) for x, own in zip(values, w, strict=True)]
                total = terms[0]
                for term in terms[1:]:
                    total = total + term
                total = total * coefficients(w, 1.0, normalize=True)[-1]
            indices = torch.tensor([index for index, _ in members])
            made = torch.from_numpy(np.ascontiguousarray(total)).to(target)
            bad += made.numel() - int(torch.isfinite(made).sum())
            target[indices] = made
        return bad

    def _copied(self, name: str, grid: Grid) -> Tensor:
        template = self.sources.template
        tensor = template.tensor(name)
        for source in self.sources.all:
            if not torch.equal(source.tensor(name), tensor):
                raise CheckpointError(
                    f"{source.path}: {name} ({tensor.dtype}) is copied, not merged, "
                    f"and differs from {template.path}"
                )
        flat = tensor.reshape(-1)
        starts = range(grid.start, grid.start + grid.rows * grid.stride, max(1, grid.stride))
        return torch.cat([flat[start : start + grid.width] for start in starts])

    def _dtype(self, name: str, spec: TensorSpec) -> torch.dtype:
        if not self.sources.mergeable(name) or self.recipe.dtype is None:
            return spec.dtype
        dtype: torch.dtype = getattr(torch, self.recipe.dtype)
        return dtype

    def _check_sizes(self) -> None:
        # Beyond 2^32 entries tie ranks repeat, and one bound no longer says which stay.
        if self.recipe.method.ranked or self.recipe.method.elects:
            for name, spec in self.sources.specs.items():
                if spec.numel > 2**32:
                    raise RecipeError(f"tensor {name} has over 2^32 entries: too large to rank")


def _row_spans(grid: Grid, length: int) -> Iterator[tuple[int, int, int, int]]:
    """(first row, last row, left, right column) of what `grid` covers of rows of `length`."""
    if grid.rows > 1:
        assert grid.stride == length, "rows of a vocabulary tensor"
        first, left = divmod(grid.start, length)
        yield first, first + grid.rows, left, left + grid.width
        return
    start, stop = grid.start, grid.start + grid.width
    while start < stop:
        row, left = divmod(start, length)
        if left == 0 and stop - start >= length:
            last = stop // length
            yield row, last, 0, length
            start = last * length
        else:
            right = min(length, left + stop - start)
            yield row, row + 1, left, right
            start = row * length + right
