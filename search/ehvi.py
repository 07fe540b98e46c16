"""The sampler of numeric spaces: a Gaussian process that knows what scores are.

Optuna's takes every value that it is told for as exact as the next. Here

* the estimate of a trial that a race stopped counts for as much as its uncertainty says;
* bounded scores are modelled on the arcsine scale, where a mean of so many items is equally
  uncertain wherever it lies; what the front grows by is counted in scores;
* what a recipe is to move is the front as it is believed to be, not the luckiest answers;
* recipes that are on their way count as if they had scored what is expected of them
  (Ginsbourger et al., Kriging is well-suited to parallelize optimization, 2010).

The next recipe is where the expected growth of the hypervolume, times the chance that all
constraints hold, is largest. A proposal takes some hundredths of a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr

from search.improvement import Boxes, normal_excess, share_excess
from search.process import Process, Settings
from search.unit import from_unit, to_unit

Array = NDArray[np.float64]

PARTIAL = "partial"
"""The user attribute of a trial that a race stopped: with what was expected of its full scores."""

_BOXED = 5_000  # boxes at most: 70 members of two objectives, 16 of four
_ANYWHERE = _NEAR = 1024  # candidates
_SCALES = (0.02, 0.06, 0.18)  # how far candidates lie from what is good so far
_MOVED = 0.7  # share of dimensions in which they differ
_ROUNDS, _BEST, _EACH, _WIDTH, _CLOSER = 3, 8, 32, 0.1, 0.4  # then ever closer to the best ones
_EDGE = 0.02  # nearer to its ends the arcsine scale is as fine as here


@dataclass(frozen=True)
class Scale:
    """How an objective's values are seen: larger is better.

    Attributes:
        name: of the objective, as estimates are stored.
        sign: 1 where larger values are better, -1 where smaller are.
        reference: the value from which on the hypervolume grows.
        low, high: what it can be; infinite where nothing bounds it.
    """

    name: str
    sign: float
    reference: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def bounded(self) -> bool:
        """Whether it has two ends, and so an arcsine scale."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def seen(self, values: Array) -> Array:
        """Values on the scale of the process."""
        if not self.bounded:
            return self.sign * values
        share = (values - self.low) / (self.high - self.low)
        share = np.clip(share if self.sign > 0 else 1.0 - share, 0.0, 1.0)
        return np.asarray(np.arcsin(np.sqrt(share)))

    def deviations(self, values: Array, deviations: Array) -> Array:
        """How uncertain values are on that scale, from how uncertain they are."""
        if not self.bounded:
            return deviations
        width = self.high - self.low
        share = np.clip((values - self.low) / width, _EDGE, 1.0 - _EDGE)
        return np.asarray(deviations / width / (2.0 * np.sqrt(share * (1.0 - share))))


@dataclass(frozen=True)
class _Target:
    """One objective or constraint: what was told of it, standardized.

    Attributes:
        values, variances: [trials].
        bound: the corner of an objective, or what a constraint may not exceed; standardized.
        center, width: what was taken off, and what was divided by.
        share: whether values are shares on the arcsine scale.
    """

    values: Array
    variances: Array
    bound: float
    center: float
    width: float
    share: bool = False

    @classmethod
    def of(cls, values: Array, deviations: Array, bound: float, *, share: bool = False) -> _Target:
        center, width = float(values.mean()), max(1e-6, float(values.std()))
        standard, variances = (values - center) / width, (deviations / width) ** 2
        return cls(standard, variances, (bound - center) / width, center, width, share)

    def gain(self, value: Array | float) -> Array:
        """What a standardized value counts for in the volume: its share, or itself."""
        if not self.share:
            return np.asarray(value, dtype=np.float64)
        angle = np.clip(self.center + self.width * np.asarray(value), 0.0, math.pi / 2.0)
        return np.asarray(np.sin(angle) ** 2)

    def excess(self, mean: Array, deviation: Array, bounds: Array) -> Array:
        """By how much the gain is expected to exceed bounds, [candidates, bounds]."""
        if not self.share:
            return normal_excess(mean, deviation, bounds)
        return share_excess(self.center + self.width * mean, self.width * deviation, bounds)


class EHVISampler(BaseSampler):
    """Proposes where the front is expected to grow most.

    Only for ranges (`FloatDistribution`), all of which every trial has. Estimates are read from the
    user attribute `partial` of a trial.

    Args:
        scales: of the objectives, in the study's order.
        seed: of the candidates.
        n_startup_trials: trials that have to end before it proposes; until then draws are random.
    """

    def __init__(
        self, *, scales: Sequence[Scale], seed: int | None = None, n_startup_trials: int = 7
    ) -> None:
        self._scales = tuple(scales)
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._start = n_startup_trials
        self._space = IntersectionSearchSpace()
        self._names: tuple[str, ...] = ()
        self._settings: dict[str | int, Settings] = {}  # where the next fit begins

    def reseed_rng(self) -> None:
        self._rng = np.random.default_rng()
        self._random.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {
            name: distribution
            for name, distribution in self._space.calculate(study).items()
            if isinstance(distribution, FloatDistribution) and not distribution.single()
        }

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        trials = study.get_trials(deepcopy=False)
        ended = [one for one in trials if one.state == TrialState.COMPLETE]
        if not search_space or len(ended) < self._start:
            return {}
        space = {n: d for n, d in search_space.items() if isinstance(d, FloatDistribution)}
        if self._names != tuple(space):  # a parameter was frozen
            self._names, self._settings = tuple(space), {}
        running = [
            one
            for one in trials
            if one.state == TrialState.RUNNING
            and one.number != trial.number
            and space.keys() <= one.params.keys()
        ]
        points, waiting = (_points(some, space) for some in (ended, running))
        objectives = [self._objective(index, ended) for index in range(len(self._scales))]
        constraints = {name: _constraint(name, ended) for name in ended[-1].constraints}
        belief = _Belief(
            [self._fit(i, target, points, waiting) for i, target in enumerate(objectives)],
            [self._fit(name, target, points, waiting) for name, target in constraints.items()],
            objectives,
            np.array([target.bound for target in constraints.values()]),
        )
        best = belief.best(np.concatenate([points, waiting]), self._rng)
        return {n: from_unit(d, share) for (n, d), share in zip(space.items(), best, strict=True)}

    def _fit(self, key: str | int, target: _Target, points: Array, waiting: Array) -> Process:
        process = Process.fit(points, target.values, target.variances, self._settings.get(key))
        self._settings[key] = process.settings
        if not len(waiting):
            return process
        expected, _ = process.expect(waiting)
        return Process.of(
            np.concatenate([points, waiting]),
            np.concatenate([target.values, expected]),
            np.concatenate([target.variances, np.zeros(len(waiting))]),
            process.settings,
        )

    def _objective(self, index: int, ended: Sequence[FrozenTrial]) -> _Target:
        scale = self._scales[index]
        pairs = [_estimate(trial, scale.name) or (trial.values[index], 0.0) for trial in ended]
        values, deviations = np.array(pairs).T
        return _Target.of(
            scale.seen(values),
            scale.deviations(values, deviations),
            float(scale.seen(np.array(scale.reference))),
            share=scale.bounded,
        )


@dataclass(frozen=True)
class _Belief:
    """What is expected of recipes.

    Attributes:
        objectives, constraints: a process for each.
        targets: of the objectives.
        most: [constraints], what their violations may be at most.
    """

    objectives: Sequence[Process]
    constraints: Sequence[Process]
    targets: Sequence[_Target]
    most: Array

    def best(self, known: Array, rng: np.random.Generator) -> Array:
        """[dimensions], the recipe to try next; `known` are those that were."""
        pairs = list(zip(self.targets, self.objectives, strict=True))
        values = np.stack([target.gain(one.expect(known)[0]) for target, one in pairs], axis=1)
        corner = np.array([target.gain(target.bound) for target in self.targets])
        holding = np.ones(len(known), dtype=bool)
        for process, most in zip(self.constraints, self.most, strict=True):
            holding &= process.expect(known)[0] <= most
        front = np.flatnonzero(holding)[_ahead(values[holding])]
        boxes = Boxes.beyond(_spread(values[front], len(corner)), corner)
        parents = known[front] if len(front) else known[np.argsort(self._holds(known))[-5:]]
        moved = rng.random((_NEAR, known.shape[1])) < _MOVED
        far = rng.choice(_SCALES, (_NEAR, 1)) * moved
        near = parents[rng.integers(len(parents), size=_NEAR)]
        near = near + far * rng.standard_normal(near.shape)
        tried = np.concatenate([rng.random((_ANYWHERE, known.shape[1])), np.clip(near, 0.0, 1.0)])
        worth = self._worth(tried, boxes)
        for turn in range(_ROUNDS):
            near = np.repeat(tried[np.argsort(worth)[-_BEST:]], _EACH, axis=0)
            moved = rng.random(near.shape) < _MOVED
            far = _WIDTH * _CLOSER**turn * moved
            near = np.clip(near + far * rng.standard_normal(near.shape), 0.0, 1.0)
            tried = np.concatenate([tried, near])
            worth = np.concatenate([worth, self._worth(near, boxes)])
        return np.asarray(tried[np.argmax(worth)])

    def _worth(self, points: Array, boxes: Boxes) -> Array:
        """Logarithm of the expected growth times the chance that all constraints hold."""
        grown = boxes.expected(
            [
                partial(target.excess, *process.expect(points))
                for target, process in zip(self.targets, self.objectives, strict=True)
            ]
        )
        return np.asarray(np.log(grown + 1e-300) + self._holds(points))

    def _holds(self, points: Array) -> Array:
        """Logarithm of the chance that all constraints hold."""
        total = np.zeros(len(points))
        for process, most in zip(self.constraints, self.most, strict=True):
            mean, deviation = process.expect(points)
            total += log_ndtr((most - mean) / deviation)
        return total


def _points(trials: Sequence[FrozenTrial], space: Mapping[str, FloatDistribution]) -> Array:
    rows = [[to_unit(d, one.params[name]) for name, d in space.items()] for one in trials]
    return np.array(rows, dtype=np.float64).reshape(len(trials), len(space))


def _constraint(name: str, ended: Sequence[FrozenTrial]) -> _Target:
    values = np.array([trial.constraints[name] for trial in ended])
    deviations = [estimate[1] if (estimate := _estimate(one, name)) else 0.0 for one in ended]
    return _Target.of(values, np.array(deviations), 0.0)


def _estimate(trial: FrozenTrial, name: str) -> tuple[float, float] | None:
    """What a stopped trial is expected to score, and the deviation; None if it was not stopped."""
    estimates = trial.user_attrs.get(PARTIAL, {}).get("expected", {})
    if name not in estimates:
        return None
    mean, deviation = estimates[name]
    return mean, deviation


def _ahead(values: Array) -> NDArray[np.bool_]:
    """Which rows no other row is ahead of."""
    behind = np.all(values[:, None] <= values[None], axis=2)
    behind &= np.any(values[:, None] < values[None], axis=2)
    return np.asarray(~np.any(behind, axis=1))


def _spread(front: Array, objectives: int) -> Array:
    """As many members as boxes are made of at most, evenly by the first objective."""
    most = 70 if objectives <= 2 else int(_BOXED ** (1.0 / (objectives - 1))) - 1
    if len(front) <= most:
        return front
    order = np.argsort(front[:, 0])
    return np.asarray(front[order[np.linspace(0, len(order) - 1, most).round().astype(int)]])
