"""A merge, planned: every shape, name and dtype is settled from headers before any work.

A plan is a *weight source*: it names its tensors with shapes and dtypes, then yields them one by
one, merged. It is picklable, so a worker can receive it and merge straight into a live model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product

import numpy as np
import numpy.typing as npt
import torch

from merge_core.arithmetic import band as band_of
from merge_core.arithmetic import (
    coefficients,
    della_table,
    kept_count,
    multipliers,
    restored_count,
    slerp_factors,
)
from merge_core.checkpoint import TensorSpec
from merge_core.errors import CheckpointError, NonFiniteError, RecipeError
from merge_core.facts import bounds_of
from merge_core.kernels.fused import merge_into, slack_keys, slack_sample
from merge_core.kernels.job import HIGHEST_WORD, Table, TensorJob, Tile, elements
from merge_core.random import drop_threshold
from merge_core.reading import TILE, Grid, Reader
from merge_core.recipe import Recipe, TensorSettings
from merge_core.selection import KEEP_ALL, KEEP_NONE, Keys, kth_smallest
from merge_core.sources import Sources

_BRACKET = 5.0  # standard deviations of a sample's quantile: a miss costs one more pass


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
        self._reader = Reader(self.sources, recipe.method.on_differences)
        self._settings = {
            name: recipe.settings_for(name, self.sources.depths[name])
            for name in self.sources.specs
            if self.sources.mergeable(name)
        }
        self._check_sizes()
        self._jobs: dict[str, TensorJob] = {}
        self._specs = {
            name: TensorSpec(spec.shape, self._dtype(name, spec))
            for name, spec in self.sources.specs.items()
        }
        self.tallies: dict[str, npt.NDArray[np.int64]] = {}
        self._tallies = tally

    def specs(self) -> dict[str, TensorSpec]:
        """Shape and dtype of every tensor of the merge, in name order."""
        return self._specs

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, merged tensor) in name order.

        All are views of one buffer: a tensor holds until the next is asked for.

        Raises:
            NonFiniteError: a merged weight overflowed: the recipe's fault.
            CheckpointError: integer tensors differ between the sources.
        """
        largest = max((spec.nbytes for spec in self._specs.values()), default=0)
        buffer = torch.empty(largest, dtype=torch.uint8)
        for name, spec in self._specs.items():
            out = buffer[: spec.nbytes].view(spec.dtype)
            yield name, self.elements(name, 0, spec.numel, out).reshape(spec.shape)

    def tensor(self, name: str) -> torch.Tensor:
        """One merged tensor, in its shape and output dtype."""
        spec = self._specs[name]
        return self.elements(name, 0, spec.numel).reshape(spec.shape)

    def elements(
        self, name: str, start: int, stop: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Flat elements [start, stop) of one merged tensor: the same bits as in the whole.

        Args:
            name: of the tensor.
            start: first flat index.
            stop: one past the last.
            out: where to merge into: flat, contiguous, of the output dtype. New by default; the
                pages of a new tensor cost as much as the merge.
        """
        return self._merge(name, Grid(start, 1, stop - start, stop - start), out)

    def part(
        self, name: str, spans: Sequence[tuple[int, int]], out: torch.Tensor | None = None
    ) -> torch.Tensor:
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

    # ---- the pass

    def _merge(self, name: str, grid: Grid, out: torch.Tensor | None) -> torch.Tensor:
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
            for tile in self._tiles(name, grid):
                bad += self._merge_tile(name, tile, out[done : done + tile.size])
                done += tile.size
        if bad:
            raise NonFiniteError(
                f"{bad} of {out.numel()} merged entries of {name} are not finite: "
                "the recipe's weights are too large"
            )
        return out

    def _merge_tile(self, name: str, tile: Tile, out: torch.Tensor) -> int:
        """Merge `tile` into `out`; how many elements are not finite."""
        job = self._job(name)
        tally = None
        if self._tallies:
            tally = self.tallies.setdefault(name, np.zeros((len(tile.experts), 4), np.int64))
        if out.dtype != torch.float16:
            return merge_into(job, tile, elements(out), tally)
        # numba has no float16: merged in float32, rounded by torch.
        merged = np.empty(tile.size, np.float32)
        merge_into(job, tile, merged, tally)
        out.copy_(torch.from_numpy(merged))
        return tile.size - int(torch.isfinite(out).sum())

    def _tiles(self, name: str, grid: Grid) -> Iterator[Tile]:
        if self.recipe.method.sparsify != "rank_drop":
            yield from self._reader.tiles(name, grid)
            return
        _, length = self._reader.rows(name)
        for piece in grid.pieces(TILE):
            for tile in self._reader.tiles(name, piece):
                start, stop = int(tile.starts[0]), int(tile.starts[-1]) + tile.width
                rows = slice(start // length, -(-stop // length))
                begin = start - rows.start * length
                ranks = [
                    self.sources.facts.row_ranks(expert, name, rows).reshape(-1)
                    for expert in range(len(tile.experts))
                ]
                yield replace(tile, ranks=[rank[begin : begin + stop - start] for rank in ranks])

    def _all(self, name: str) -> Iterator[Tile]:
        """All elements that are merged by arithmetic, as the passes take them."""
        if not self._reader.aligned(name):
            size = self._merged_size(name)
            yield from self._tiles(name, Grid(0, 1, size, size))
            return
        rows, length = self._reader.rows(name)
        height = max(1, TILE // length)
        for first in range(0, rows, height):
            yield self._gathered(name, np.arange(first, min(first + height, rows)), 0, length)

    def _gathered(self, name: str, positions: npt.NDArray[np.int64], left: int, right: int) -> Tile:
        tile = self._reader.gathered(name, positions, left, right)
        if self.recipe.method.sparsify != "rank_drop":
            return tile
        facts = self.sources.facts
        ranks = [
            facts.row_ranks(expert, name, positions).reshape(-1)[left:]
            for expert in range(len(tile.experts))
        ]
        return replace(tile, ranks=ranks)

    def _merge_aligned(self, name: str, grid: Grid, out: torch.Tensor) -> int:
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
                    tile = self._gathered(name, places[core], left, right)
                    merged = torch.empty(tile.size, dtype=out.dtype)
                    bad += self._merge_tile(name, tile, merged)
                    target[torch.from_numpy(core)] = merged.view(-1, right - left)
                self._copy_extras(name, places, left, right, target)
        return bad

    def _copy_extras(
        self,
        name: str,
        places: npt.NDArray[np.int64],
        left: int,
        right: int,
        target: torch.Tensor,
    ) -> None:
        """Rows outside the arithmetic: one owner's bits; of several the normalized linear merge."""
        alignment = self.sources.alignment
        assert alignment is not None
        groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for index in np.flatnonzero(places < 0):
            owners, own = zip(*alignment.extras[-1 - places[index]], strict=True)
            groups.setdefault(owners, []).append((int(index), own))
        weights = self._settings[name].weights
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
                terms = [x * np.float32(own) for x, own in zip(values, w, strict=True)]
                total = terms[0]
                for term in terms[1:]:
                    total = total + term
                total = total * coefficients(w, 1.0, normalize=True)[-1]
            indices = torch.tensor([index for index, _ in members])
            target[indices] = torch.from_numpy(np.ascontiguousarray(total)).to(target.dtype)

    def _copied(self, name: str, grid: Grid) -> torch.Tensor:
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

    # ---- the facts of whole tensors

    def _job(self, name: str) -> TensorJob:
        if name not in self._jobs:
            self._jobs |= self._make_jobs(list(self._settings) if self._model_scope else [name])
        return self._jobs[name]

    @cached_property
    def _model_scope(self) -> bool:
        method = self.recipe.method
        return "scope" in method.by_name and self.recipe.flag("scope") == "model"

    def _make_jobs(self, group: list[str]) -> dict[str, TensorJob]:
        """The jobs of tensors that are ranked together: one alone, or all (in name order)."""
        method = self.recipe.method
        jobs = {name: self._numbers(name, self._settings[name]) for name in group}
        first = self._settings[group[0]]
        if method.ranked:
            facts, total = self.sources.facts, sum(self._merged_size(name) for name in group)
            trim, outliers = [], []
            for expert, density in enumerate(first.densities):
                outer, count = 0, kept_count(density, total)
                if method.sparsify == "band":
                    outer, count = band_of(density, first.gammas[expert], total)
                outliers.append(facts.trim_bounds(expert, group, outer))
                trim.append(facts.trim_bounds(expert, group, outer + count))
            for name in group:
                jobs[name] = replace(
                    jobs[name],
                    trim=tuple(bound[name] for bound in trim),
                    outliers=tuple(bound[name] for bound in outliers),
                )
        if method.elects:
            for expert, slack in enumerate(first.slacks):
                if slack > 0.0:
                    bounds = self._slack(group, jobs, expert, slack)
                    for name in group:
                        restore = (*jobs[name].restore, (expert, bounds[name]))
                        jobs[name] = replace(jobs[name], restore=restore)
        return jobs

    def _numbers(self, name: str, s: TensorSettings) -> TensorJob:
        """What follows from the recipe alone, and from the pair for slerp."""
        recipe, method = self.recipe, self.recipe.method
        factors = multipliers(method, s.weights, s.densities)
        normalize = "normalize" in method.by_name and bool(recipe.flag("normalize"))
        tables: tuple[Table, ...] = ()
        if method.interpolates:
            pair = self.sources.facts.products(name)
            factors = slerp_factors(s.t, pair.dot, pair.squared_b, pair.squared_e)
            if recipe.models[0].model != recipe.base_model:
                back = slerp_factors(s.t, pair.dot, pair.squared_e, pair.squared_b)
                factors = (back[1], back[0])
        if method.sparsify == "rank_drop":
            _, length = self._reader.rows(name)
            tables = tuple(
                Table(*della_table(density, epsilon, length, weight))
                for density, epsilon, weight in zip(s.densities, s.epsilons, s.weights, strict=True)
            )
        return TensorJob(
            method=method,
            tensor_id=self.sources.ids[name],
            seed=recipe.seed,
            factors=factors,
            coefficients=coefficients(s.weights, s.scale, normalize=normalize),
            drop=tuple(drop_threshold(d) for d in s.densities),
            tables=tables,
            replace=not method.elects or recipe.flag("slack_mode") == "replace",
        )

    def _slack(
        self, group: list[str], jobs: dict[str, TensorJob], expert: int, slack: float
    ) -> dict[str, int]:
        """The exclusive bound of the slack keys that `expert` wins back in each tensor."""

        def stream(names: Sequence[str] = group) -> Iterator[Keys]:
            for name in names:
                for tile in self._all(name):
                    yield slack_keys(jobs[name], tile, expert).keys

        if len(group) > 1:
            total = sum(keys.size for keys in stream())
            count = restored_count(slack, total)
            if count in (0, total):
                return dict.fromkeys(group, KEEP_NONE if count == 0 else KEEP_ALL)
            return bounds_of(kth_smallest(stream, count, total), group, stream)

        # A sample brackets the threshold; one pass counts below the bracket and lists what lies
        # inside. Both are exact, so that a bad sample costs another pass, never a wrong bound.
        (name,) = group
        job = jobs[name]
        sample = np.sort(
            np.concatenate(
                [np.empty(0, np.uint64), *(slack_sample(job, t, expert) for t in self._all(name))]
            )
        )
        deviations = _BRACKET
        while True:
            low, high = _bracket(sample, slack, deviations)
            found = [slack_keys(job, tile, expert, low, high) for tile in self._all(name)]
            total = sum(part.candidates for part in found)
            count = restored_count(slack, total)
            if count in (0, total):
                return {name: KEEP_NONE if count == 0 else KEEP_ALL}
            place = count - sum(part.below for part in found) - 1
            keys = np.concatenate([part.keys for part in found])
            if 0 <= place < keys.size:
                return {name: int(np.partition(keys, place)[place]) + 1}
            deviations *= 4.0

    def _merged_size(self, name: str) -> int:
        """Elements that are merged by arithmetic."""
        rows, length = self._reader.rows(name)
        return rows * length

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


def _bracket(sample: Keys, slack: float, deviations: float) -> tuple[int, int]:
    """High words between which the slack threshold lies, for all that a sorted sample knows."""
    size = sample.size
    if size < 64:
        return 0, HIGHEST_WORD
    spread = deviations * (size * slack * (1.0 - slack)) ** 0.5 + 8.0
    first, last = int(size * slack - spread), int(size * slack + spread)
    low = int(sample[first]) >> 32 if first >= 0 else 0
    high = int(sample[last]) >> 32 if last < size else HIGHEST_WORD
    return low, high
