"""Samplers of our own: `auto`, and Optuna's grid and exhaustive search for ask and tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BruteForceSampler as OptunaBruteForce
from optuna.samplers import GridSampler as OptunaGrid
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

START = 7
"""Trials with which `auto` begins before TPE has learned anything."""
CENTER = 0.6
"""Share of each range, around its middle, in which they lie."""


class Auto(TPESampler):
    """TPE (multivariate, with running trials counted as bad) that begins in the middle.

    Ranges are drawn around what is expected to work, so corners of the space are mostly broken
    merges: the first trial is the middle of all ranges, the others of the start lie around it.

    Args:
        seed: of the proposals.
        group: whether TPE divides the space by what is asked for together.
        n_startup_trials: how many trials begin so, and how many have to end before TPE proposes.
    """

    def __init__(self, *, seed: int, group: bool = False, n_startup_trials: int = START) -> None:
        super().__init__(
            seed=seed,
            group=group,
            n_startup_trials=n_startup_trials,
            multivariate=True,
            constant_liar=True,
        )
        self._start = n_startup_trials
        self._draws = np.random.default_rng(seed)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if trial.number < self._start:
            return {}
        return super().sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if trial.number >= self._start or not isinstance(param_distribution, FloatDistribution):
            return super().sample_independent(study, trial, param_name, param_distribution)
        drawn = self._draws.uniform(-CENTER / 2, CENTER / 2) if trial.number else 0.0
        return _at(param_distribution, 0.5 + drawn)


def _at(distribution: FloatDistribution, share: float) -> float:
    """The value of a range that lies `share` of its way from the low end."""
    low, high = distribution.low, distribution.high
    if distribution.log:
        return min(high, max(low, math.exp((1 - share) * math.log(low) + share * math.log(high))))
    value = (1 - share) * low + share * high
    if distribution.step is None:
        return value
    return min(high, low + round((value - low) / distribution.step) * distribution.step)


class GridSampler(OptunaGrid):
    """Optuna's grid for `ask` and `tell`.

    Optuna's own calls `study.stop` at the end of the grid, which raises outside `Study.optimize`
    (here the driver sees that all proposals are known), and refuses enqueued trials that leave
    parameters open.
    """

    def __init__(self, search_space: Mapping[str, Sequence[Any]], seed: int | None = None) -> None:
        super().__init__(search_space, seed)
        self._random = RandomSampler(seed=seed)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if param_name in self._search_space and "grid_id" in trial.system_attrs:
            return super().sample_independent(study, trial, param_name, param_distribution)
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        pass


class BruteForceSampler(OptunaBruteForce):
    """Optuna's exhaustive search for `ask` and `tell`: see `GridSampler` on `study.stop`."""

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        pass
