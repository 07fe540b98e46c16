"""Samplers of our own: `auto`, and Optuna's grid and exhaustive search for ask and tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.samplers import BruteForceSampler as OptunaBruteForce
from optuna.samplers import GridSampler as OptunaGrid
from optuna.trial import FrozenTrial, TrialState

from search.unit import from_unit

if TYPE_CHECKING:
    from search.ehvi import Scale

GP_TRIALS = 250
"""Trials up to which `auto` uses the Gaussian process; its ask grows with their cube."""
START = 12
"""Trials that have to end before `auto` has learned enough to propose."""
GP_DEFAULTS: dict[str, Any] = {"warn_independent_sampling": False}
TPE_DEFAULTS: dict[str, Any] = {"multivariate": True, "constant_liar": True}


class Auto(BaseSampler):
    """The Gaussian process for the first trials of a numeric space, TPE otherwise.

    Each is the best that we know where it is used: the process (`search.ehvi`) learns most from few
    trials, and its ask grows with their cube; TPE models choices and what only some methods have.
    The first trial is the middle of all ranges, where somebody who sets ranges expects the best;
    the others are drawn at random until `n_startup_trials` have ended.

    Args:
        seed: of the proposals.
        scales: of the objectives where the space has ranges only, all of them in every trial;
            None where it has more: there TPE proposes throughout.
        gp_trials: the number of the trial from which on TPE proposes.
        n_startup_trials: how many trials have to end before either proposes.
        group: whether TPE divides the space by what is asked for together.
        hurried: tells whether workers wait; then TPE proposes, whose ask grows more slowly.
    """

    def __init__(
        self,
        *,
        seed: int,
        scales: Sequence[Scale] | None,
        group: bool,
        gp_trials: int = GP_TRIALS,
        n_startup_trials: int = START,
        hurried: Callable[[], bool] | None = None,
    ) -> None:
        begin: dict[str, Any] = {"seed": seed, "n_startup_trials": n_startup_trials}
        self._tpe = TPESampler(**begin, group=group, **TPE_DEFAULTS)
        self._gp: BaseSampler | None = None
        self._gp_trials = gp_trials if scales else 0
        if scales and gp_trials:
            from search.ehvi import EHVISampler  # SciPy takes a while, and workers need none

            self._gp = EHVISampler(**begin, scales=scales)
        self._hurried = hurried
        self._quick: int | None = None  # the last trial that was asked for in a hurry
        self._start = n_startup_trials
        self._draws = np.random.default_rng(seed)
        self._learned = False
        self._first = False  # nothing was proposed before

    def of(self, trial: FrozenTrial) -> BaseSampler:
        """Who proposes `trial`, once enough has ended."""
        if self._gp is None or trial.number >= self._gp_trials or trial.number == self._quick:
            return self._tpe
        return self._gp

    def reseed_rng(self) -> None:
        for sampler in (self._tpe, self._gp):
            if sampler is not None:
                sampler.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not self._learned:
            return {}
        return self.of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if self._learned or not isinstance(param_distribution, FloatDistribution):
            sampler = self.of(trial)
            return sampler.sample_independent(study, trial, param_name, param_distribution)
        return from_unit(param_distribution, 0.5 if self._first else self._draws.random())

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if not self._learned:
            trials = study.get_trials(deepcopy=False)
            ended = sum(one.state == TrialState.COMPLETE for one in trials)
            self._learned = ended >= self._start
            self._first = all(
                "fixed_params" in one.system_attrs for one in trials if one.number < trial.number
            )
        if self._hurried is not None and self._hurried():
            self._quick = trial.number
        self.of(trial).before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.of(trial).after_trial(study, trial, state, values)


class _Endless(BaseSampler):
    """Never calls `study.stop`, which raises outside `Study.optimize`.

    Here the driver sees that all proposals are known.
    """

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        pass


class GridSampler(_Endless, OptunaGrid):
    """Optuna's grid for `ask` and `tell`.

    Optuna's own refuses enqueued trials that leave parameters open.
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


class BruteForceSampler(_Endless, OptunaBruteForce):
    """Optuna's exhaustive search for `ask` and `tell`."""
