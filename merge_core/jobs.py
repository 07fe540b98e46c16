"""From a recipe's numbers to a kernel's: coefficients, and the exact bounds of trim and slack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from merge_core.arithmetic import (
    band,
    coefficients,
    della_table,
    kept_count,
    multipliers,
    restored_count,
    slerp_factors,
)
from merge_core.facts import bounds_of
from merge_core.kernels.backend import Backend
from merge_core.kernels.job import HIGHEST_WORD, Table, TensorJob
from merge_core.random import drop_threshold
from merge_core.reading import Reader
from merge_core.recipe import Recipe, TensorSettings
from merge_core.selection import KEEP_ALL, KEEP_NONE, Keys, kth_smallest

_BRACKET = 4.0  # standard deviations of a sample's quantile: a miss costs one more pass


class Jobs:
    """The job of each tensor of a merge, made when it is first asked for and kept.

    Args:
        recipe: what to merge.
        reader: of its sources.
        settings: the recipe's numbers for each tensor that is merged, in name order.
    """

    def __init__(
        self, recipe: Recipe, reader: Reader, settings: Mapping[str, TensorSettings]
    ) -> None:
        self._recipe = recipe
        self._reader = reader
        self._settings = settings
        method = recipe.method
        self._whole = "scope" in method.by_name and recipe.flag("scope") == "model"
        self._replace = not method.elects or recipe.flag("slack_mode") == "replace"
        self._jobs: dict[str, TensorJob] = {}

    def prepare(self, backend: Backend) -> None:
        """Make what all tensors share before threads ask for it: each would make it."""
        if self._whole and self._settings:
            self.get(next(iter(self._settings)), backend)

    def get(self, name: str, backend: Backend) -> TensorJob:
        """The job of a tensor; what depends on the trial is found by `backend`."""
        if name not in self._jobs:
            self._jobs |= self._make(list(self._settings) if self._whole else [name], backend)
        return self._jobs[name]

    def _make(self, group: list[str], backend: Backend) -> dict[str, TensorJob]:
        """The jobs of tensors that are ranked together: one alone, or all (in name order)."""
        method, reader = self._recipe.method, self._reader
        jobs = {name: self._numbers(name) for name in group}
        first = self._settings[group[0]]
        if method.ranked:
            facts, total = reader.sources.facts, sum(reader.size(name) for name in group)
            trim, outliers = [], []
            for expert, density in enumerate(first.densities):
                outer, count = 0, kept_count(density, total)
                if method.sparsify == "band":
                    outer, count = band(density, first.gammas[expert], total)
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
                    bounds = self._slack(group, jobs, expert, slack, backend)
                    for name in group:
                        restore = (*jobs[name].restore, (expert, bounds[name]))
                        jobs[name] = replace(jobs[name], restore=restore)
        return jobs

    def _numbers(self, name: str) -> TensorJob:
        """What follows from the recipe alone, and from the pair of models for slerp."""
        recipe, method, facts = self._recipe, self._recipe.method, self._reader.sources.facts
        s = self._settings[name]
        factors = multipliers(method, s.weights, s.densities)
        tables: tuple[Table, ...] = ()
        if method.interpolates:
            dot, *squares = facts.products(name)
            base, second = recipe.pair
            own, other = slerp_factors(s.t, dot, squares[base], squares[second])
            factors = (own, other) if base == 0 else (other, own)
        if method.sparsify == "rank_drop":
            length = self._reader.rank_length(name)
            numbers = zip(s.densities, s.epsilons, s.weights, strict=True)
            tables = tuple(Table(*della_table(d, e, length, w)) for d, e, w in numbers)
        return TensorJob(
            method=method,
            tensor_id=self._reader.sources.ids[name],
            seed=recipe.seed,
            factors=factors,
            coefficients=coefficients(s.weights, s.scale, normalize=recipe.normalizes),
            drop=tuple(drop_threshold(density) for density in s.densities),
            tables=tables,
            replace=self._replace,
        )

    def _slack(
        self,
        group: list[str],
        jobs: Mapping[str, TensorJob],
        expert: int,
        slack: float,
        backend: Backend,
    ) -> dict[str, int]:
        """The exclusive bound of the slack keys that `expert` wins back in each tensor."""

        def stream(names: Sequence[str] = group) -> Iterator[Keys]:
            for name in names:
                for tile in self._reader.all(name):
                    yield backend.slack_keys(jobs[name], tile, expert).keys

        if len(group) > 1:
            total = sum(keys.size for keys in stream())
            count = restored_count(slack, total)
            if count in (0, total):
                return dict.fromkeys(group, KEEP_NONE if count == 0 else KEEP_ALL)
            return bounds_of(kth_smallest(stream, count, total), group, stream)

        # A sample brackets the threshold; one pass counts below the bracket and lists what lies
        # inside. Both are exact, so that a bad sample costs another pass, never a wrong bound.
        (name,) = group
        tiles = self._reader.all(name)
        parts = [backend.slack_sample(jobs[name], tile, expert) for tile in tiles]
        sample = np.sort(np.concatenate([np.empty(0, np.uint64), *parts]))
        deviations = _BRACKET
        while True:
            low, high = _bracket(sample, slack, deviations)
            found = [
                backend.slack_keys(jobs[name], tile, expert, low, high)
                for tile in self._reader.all(name)
            ]
            total = sum(part.candidates for part in found)
            count = restored_count(slack, total)
            if count in (0, total):
                return {name: KEEP_NONE if count == 0 else KEEP_ALL}
            place = count - sum(part.below for part in found) - 1
            keys = np.concatenate([part.keys for part in found])
            if 0 <= place < keys.size:
                return {name: int(np.partition(keys, place)[place]) + 1}
            deviations *= 4.0


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
