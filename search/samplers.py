"""Optuna's samplers, by the name that a search file gives."""

from __future__ import annotations

import warnings

import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler

from search.config import Search

GP_UP_TO = 250
"""Trials up to which `auto` uses the Gaussian process; its ask takes 10 s at 1,000."""


def make_sampler(search: Search, finished: int) -> BaseSampler:
    """The sampler that the file asks for.

    Sampler state is not stored; the seed moves on with the number of trials, so that a resumed
    search does not propose its first recipes again.
    """
    name, seed = search.file.sampler.name, search.file.sampler.seed + finished
    if name == "auto":
        trials = search.file.budget.trials or GP_UP_TO + 1
        name = "gp" if trials <= GP_UP_TO and _numeric(search) else "tpe"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
        if name == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=search.space.conditional,
                constant_liar=True,
            )
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def _numeric(search: Search) -> bool:
    distributions = search.space.distributions().values()
    return not search.space.conditional and all(
        isinstance(distribution, FloatDistribution) for distribution in distributions
    )
