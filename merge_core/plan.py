"""A merge, planned: every shape, name and dtype is settled from headers before any work.

A plan is a *weight source*: it names its tensors with shapes and dtypes, then yields them one by
one, merged. It is picklable, so a worker can receive it and merge straight into a live model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from merge_core.arithmetic import coefficients, kept_count, multipliers, restored_count
from merge_core.checkpoint import Checkpoint, TensorSpec, tiles
from merge_core.errors import CheckpointError, NonFiniteError, RecipeError
from merge_core.kernels.fused import (
    Elements,
    TensorJob,
    Tile,
    elements,
    merge_into,
    slack_keys,
    trim_keys,
)
from merge_core.random import drop_threshold
from merge_core.recipe import Recipe
from merge_core.selection import KEEP_ALL, KEEP_NONE, Cut, Keys, kth_smallest
from merge_core.sources import Sources

TILE = 1 << 24
"""Elements per tile: what is held besides the mapped files and the output is a few of these."""


class MergePlan:
    """One recipe on opened sources.

    Args:
        recipe: what to merge.
        sources: what it names; opened here if not given.

    Raises:
        CheckpointError, VocabularyError, RecipeError: anything that would fail later.
    """

    def __init__(self, recipe: Recipe, sources: Sources | None = None) -> None:
        self.recipe = recipe
        self.sources = sources if sources is not None else Sources.open(recipe)
        opened = [expert.reference for expert in self.sources.experts]
        assert opened == [expert.model for expert in recipe.models], "sources of another recipe"
        self._check_sizes()
        self._jobs: dict[str, TensorJob] | None = None  # scope: model makes all at once
        self._specs = {
            name: TensorSpec(spec.shape, self._dtype(name, spec))
            for name, spec in self.sources.specs.items()
        }

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
        spec = self._specs[name]
        if out is None:
            out = torch.empty(stop - start, dtype=spec.dtype)
        if not self.sources.mergeable(name):
            return out.copy_(self._copied(name)[start:stop])
        job = self._job(name)
        bad = 0
        for begin, end in tiles(stop - start, TILE):
            tile = self._tile(name, start + begin, start + end)
            if spec.dtype == torch.float16:  # numba has none: merged in float32, rounded by torch
                merged = np.empty(end - begin, np.float32)
                merge_into(job, tile, merged)
                out[begin:end] = torch.from_numpy(merged)
                bad += end - begin - int(torch.isfinite(out[begin:end]).sum())
            else:
                bad += merge_into(job, tile, elements(out[begin:end]))
        if bad:
            raise NonFiniteError(
                f"{bad} of {out.numel()} merged entries of {name} are not finite: "
                "the recipe's weights are too large"
            )
        return out

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

    # ---- the facts of whole tensors

    def _job(self, name: str) -> TensorJob:
        if self._model_scope:
            if self._jobs is None:
                names = [n for n in self._specs if self.sources.mergeable(n)]
                self._jobs = self._facts(names)
            return self._jobs[name]
        return self._facts([name])[name]

    @property
    def _model_scope(self) -> bool:
        method = self.recipe.method
        return "scope" in method.by_name and self.recipe.flag("scope") == "model"

    def _facts(self, group: list[str]) -> dict[str, TensorJob]:
        """The jobs of tensors that are ranked together: one alone, or all (in name order)."""
        recipe, method = self.recipe, self.recipe.method
        settings = {n: recipe.settings_for(n, self.sources.depths[n]) for n in group}
        jobs = {
            name: TensorJob(
                method=method,
                tensor_id=self.sources.ids[name],
                seed=recipe.seed,
                factors=multipliers(method, s.weights, s.densities),
                coefficients=coefficients(
                    s.weights, s.scale, normalize=bool(recipe.flag("normalize"))
                ),
                drop=tuple(drop_threshold(d) for d in s.densities),
                replace=not method.elects or recipe.flag("slack_mode") == "replace",
            )
            for name, s in settings.items()
        }
        first = settings[group[0]]
        if method.sparsify == "trim":
            bounds = [self._trim(group, i, first.densities[i]) for i in range(len(recipe.models))]
            jobs = {
                name: replace(job, trim=tuple(bound[name] for bound in bounds))
                for name, job in jobs.items()
            }
        if method.elects:
            for expert, slack in enumerate(first.slacks):
                if slack > 0.0:
                    bound = self._slack(group, jobs, expert, slack)
                    jobs = {
                        name: replace(job, restore=(*job.restore, (expert, bound[name])))
                        for name, job in jobs.items()
                    }
        return jobs

    def _trim(self, group: list[str], expert: int, density: float) -> dict[str, int]:
        """The exclusive bound of expert's trim keys in each tensor of `group`."""
        total = sum(self._specs[name].numel for name in group)
        count = kept_count(density, total)
        if count in (0, total):
            return dict.fromkeys(group, KEEP_NONE if count == 0 else KEEP_ALL)
        place = (expert, "" if len(group) > 1 else group[0], count)
        cache = self.sources.thresholds
        if len(group) == 1 and place in cache:
            return {group[0]: cache[place]}

        def stream(names: list[str] = group) -> Iterator[Keys]:
            for name in names:
                for start, stop in tiles(self._specs[name].numel, TILE):
                    tile = self._tile(name, start, stop, only=expert)
                    yield trim_keys(tile, self.sources.ids[name])

        bounds = _bounds(kth_smallest(stream, count, total), group, stream)
        if len(group) == 1:
            cache[place] = bounds[group[0]]
        return bounds

    def _slack(
        self, group: list[str], jobs: dict[str, TensorJob], expert: int, slack: float
    ) -> dict[str, int]:
        """The exclusive bound of the slack keys that `expert` wins back in each tensor."""

        def stream(names: list[str] = group) -> Iterator[Keys]:
            for name in names:
                for start, stop in tiles(self._specs[name].numel, TILE):
                    yield slack_keys(jobs[name], self._tile(name, start, stop), expert)

        # The candidates of one tensor are few enough to be held; those of a model are made anew
        # for each pass over them.
        held = list(stream()) if len(group) == 1 else None
        total = sum(keys.size for keys in (stream() if held is None else held))
        count = restored_count(slack, total)
        if count in (0, total):
            return dict.fromkeys(group, KEEP_NONE if count == 0 else KEEP_ALL)
        source = stream if held is None else lambda *_: iter(held)
        return _bounds(kth_smallest(source, count, total), group, source)

    # ---- bytes

    def _tile(self, name: str, start: int, stop: int, only: int | None = None) -> Tile:
        """Elements [start, stop) in base and the experts (or one of them)."""
        sources = self.sources

        def read(source: Checkpoint) -> Elements:
            flat = source.tensor(sources.stored_name(source, name)).reshape(-1)
            return elements(flat[start:stop])

        experts = sources.experts if only is None else (sources.experts[only],)
        base = None
        if self.recipe.method.on_differences:
            assert sources.base is not None
            base = read(sources.base)
        return Tile(start, base, [read(expert) for expert in experts])

    def _copied(self, name: str) -> torch.Tensor:
        template = self.sources.template
        tensor = template.tensor(name)
        for source in self.sources.all:
            if not torch.equal(source.tensor(name), tensor):
                raise CheckpointError(
                    f"{source.path}: {name} ({tensor.dtype}) is copied, not merged, "
                    f"and differs from {template.path}"
                )
        return tensor.reshape(-1)

    def _dtype(self, name: str, spec: TensorSpec) -> torch.dtype:
        if not self.sources.mergeable(name) or self.recipe.dtype is None:
            return spec.dtype
        dtype: torch.dtype = getattr(torch, self.recipe.dtype)
        return dtype

    def _check_sizes(self) -> None:
        # Beyond 2^32 entries tie ranks repeat, and one bound no longer says which stay.
        if self.recipe.method.sparsify == "trim" or self.recipe.method.elects:
            for name, spec in self.sources.specs.items():
                if spec.numel > 2**32:
                    raise RecipeError(f"tensor {name} has over 2^32 entries: too large to rank")


def _bounds(
    cut: Cut, group: list[str], stream: Callable[[list[str]], Iterator[Keys]]
) -> dict[str, int]:
    """An exclusive bound per tensor from the k-th key of their union.

    Tie ranks are distinct within a tensor, so at most one key a tensor equals the cut; among
    tensors the first in name order are kept.
    """
    bounds = {}
    ties = cut.ties
    for name in group:
        has = len(group) == 1 or any(
            bool((keys == np.uint64(cut.key)).any()) for keys in stream([name])
        )
        bounds[name] = cut.key + 1 if has and ties > 0 else cut.key
        ties -= has
    return bounds
