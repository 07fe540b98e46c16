"""Racing: a trial stops when its full dev score can hardly reach the front any more.

Items come in blocks that are prefixes of one order, the same for all trials. After each block a
trial is held against the front as it was when the trial was dispatched. What is judged is the
*full* dev score, a fact of a finite set: those of the front's members are known exactly, the
answered part of the trial's too, so only the unanswered items are uncertain. There the trial is
expected to do as it did on answered items of the same kind: those that a member of the front
solved, and those that it did not. A trial stops

* when with confidence it ends up behind the front: some member, whichever it will be, is ahead in
  one objective, and in no other behind by `epsilon` or more; or
* when with confidence it misses a constraint.

Before a sampler has learned anything, trials are drawn at random, and rough scores of many teach
it as much as exact ones of few: these *scouts* stop after the first block, whatever they score.

The whole front counts at once: who reasons like one member and speaks worse, or speaks like another
and reasons worse, is behind in either case, though no single member is surely ahead. Confidence is
`level` for the whole of a trial: the chance of an error is split evenly over the looks. A stopped
trial is told with its estimate and is never on the front (`search.study`); a few go on unseen, to
count the errors.

After Maron & Moore (Hoeffding races, 1994) and Birattari et al. (F-race, 2002), for several
objectives at once and without replacement.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from objectives import ItemScore, Task
from objectives.scorers.base import Measure
from search.config import Constraint, Objective, Part, Search
from search.results import Result, Stopped

Scores = Mapping[Part, NDArray[np.float64]]
"""Scores of the dev items by part, each [items of the task] in item order; NaN: not answered."""

SCOUT = "a scout"
"""Why a trial was stopped that was not to go on."""

MOST_RIVALS = 16
"""Front members that a trial is held against."""

_DRAWS = 2_000
"""Of what the full scores might be; an error of .005 in a chance of .05."""

_LEAST, _PART = 8, 16
"""The first look's items by default: at least so many, and one of so many."""

_SAME = 1e-9
"""Sums of the same scores in another order count as equal."""

_PRIOR = 1.0
"""How many items' worth the trial's overall rate counts where it has answered few of a kind."""


def blocks(items: int, first: int | None = None) -> list[int]:
    """Prefix sizes: `first` items, then twice as many each time, up to all.

    No look is taken where less than a quarter of the items would be left to save. By default
    `first` is a sixteenth of the items, and at least 8.
    """
    sizes = []
    size = first or max(_LEAST, items // _PART)
    while 4 * size < 3 * items:
        sizes.append(size)
        size *= 2
    return [*sizes, items]


def order(task: Task) -> list[int]:
    """The indices of a task's dev items in the order in which all trials are asked them.

    It depends on the items' contents alone, so that it is the same in every session and worker.
    """
    digests = [item.digest for item in task.items("dev")]
    keys = [hashlib.sha256(f"race:{digest}".encode()).digest() for digest in digests]
    return sorted(range(len(keys)), key=lambda index: keys[index])


def share(total: int, done: int, items: int) -> int:
    """How many of a task's `total` items belong to a prefix of `done` out of `items` over all."""
    return -(-total * done // items)


def by_part(
    parts: Sequence[Part], found: Mapping[str, Mapping[int, ItemScore]], lengths: Mapping[str, int]
) -> dict[Part, NDArray[np.float64]]:
    """Scores by part, from those found so far by task and item index."""
    scores = {}
    for task, measure in parts:
        row = np.full(lengths[task], np.nan)
        for index, item in found[task].items():
            row[index] = item.scores[measure]
        scores[task, measure] = row
    return scores


@dataclass(frozen=True)
class Target:
    """An objective or constraint as a race sees it: larger is better, each part in [0, 1].

    Attributes:
        name: of the objective or constraint.
        parts: whose mean it is.
        lows, widths: of the parts' ranges, in their own units.
        sign: 1 where larger is better, -1 where smaller is.
        bound: what a constraint needs, in its own units; None for objectives.
    """

    name: str
    parts: tuple[Part, ...]
    lows: tuple[float, ...]
    widths: tuple[float, ...]
    sign: float
    bound: float | None = None

    @classmethod
    def of(cls, target: Objective | Constraint) -> Target:
        """As the search file has it."""
        if isinstance(target, Objective):
            name, sign, bound = target.name, target.sign, None
        else:
            name, sign, bound = target.key, 1.0 if target.at_least else -1.0, target.bound
        return cls(
            name=name,
            parts=target.parts,
            lows=tuple(measure.range[0] for measure in target.measures),
            widths=tuple(measure.range[1] - measure.range[0] for measure in target.measures),
            sign=sign,
            bound=bound,
        )

    @property
    def width(self) -> float:
        """From the worst value to the best."""
        return math.fsum(self.widths) / len(self.widths)

    def share(self, index: int, scores: Scores) -> NDArray[np.float64]:
        """The scores of its part `index`, in [0, 1] with 1 the best."""
        scaled = (scores[self.parts[index]] - self.lows[index]) / self.widths[index]
        return scaled if self.sign > 0 else 1.0 - scaled

    def value(self, gain: float) -> float:
        """In its own units, what lies `gain` above the worst."""
        worst = math.fsum(
            low if self.sign > 0 else low + width
            for low, width in zip(self.lows, self.widths, strict=True)
        )
        return worst / len(self.lows) + self.sign * gain

    def gain(self, value: float) -> float:
        """How far `value` lies above the worst."""
        return self.sign * (value - self.value(0.0))


@dataclass(frozen=True)
class Forecast:
    """What the full value of a target will be: a scaled Beta distribution.

    Attributes:
        low, high: the least and most that it can still be.
        mean, variance: what is expected.
        unit: what one more item solved brings at least.
    """

    low: float
    high: float
    mean: float
    variance: float
    unit: float

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """What it might be, [_DRAWS]; in whole units above the least, as sums of 0/1 scores are."""
        span = self.high - self.low
        if span <= 0.0:
            return np.full(_DRAWS, self.low)
        mean = (self.mean - self.low) / span
        # A single item left is 0 or 1: the Beta distribution of no width but at its ends.
        count = max(1e-3, mean * (1.0 - mean) * span**2 / self.variance - 1.0)
        drawn = rng.beta(mean * count, (1.0 - mean) * count, _DRAWS) * span
        return self.low + np.minimum(span, self.unit * np.round(drawn / self.unit))


@dataclass(frozen=True)
class Rival:
    """A member of the front, with its scores of all dev items."""

    name: str
    scores: Scores

    @classmethod
    def of(cls, name: str, result: Result, parts: Sequence[Part]) -> Rival:
        """From its full result."""
        found = {
            (task, measure): np.array([item.scores[measure] for item in result.items[task]])
            for task, measure in parts
        }
        return cls(name, found)


@dataclass(frozen=True)
class Race:
    """What a trial is held against.

    Attributes:
        objectives, constraints: in file order.
        sizes: prefixes after which is looked, the last of all items.
        level, epsilon: as in the search file.
        audit: share of stopped trials that go on unseen.
        scout: whether the trial stops after the first block, whatever it scores.
        rivals: front members.
    """

    objectives: tuple[Target, ...]
    constraints: tuple[Target, ...]
    sizes: tuple[int, ...]
    level: float
    epsilon: float
    audit: float
    scout: bool = False
    rivals: tuple[Rival, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, search: Search, items: int) -> Race | None:
        """The race of a search over `items` dev items; None if it is off or cannot be run."""
        settings = search.file.racing
        if not settings.enabled or unfit(search) is not None:
            return None
        return cls(
            objectives=tuple(Target.of(objective) for objective in search.objectives),
            constraints=tuple(Target.of(constraint) for constraint in search.constraints),
            sizes=tuple(blocks(items, settings.first)),
            level=settings.level,
            epsilon=settings.epsilon,
            audit=settings.audit,
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every part whose scores it looks at."""
        targets = (*self.objectives, *self.constraints)
        return tuple(dict.fromkeys(part for target in targets for part in target.parts))

    @property
    def held(self) -> bool:
        """Whether there is anything yet that a trial could be stopped for."""
        return len(self.sizes) > 1 and bool(self.scout or self.rivals or self.constraints)

    def against(self, rivals: Sequence[Rival]) -> Race:
        """The same race with these rivals."""
        return replace(self, rivals=tuple(rivals))

    def scouting(self) -> Race:
        """For a scout."""
        return replace(self, scout=True, rivals=())

    def judge(self, scores: Scores) -> Stopped | None:
        """Whether a trial stops here, and what it is told with; None lets it go on.

        Args:
            scores: of the trial, NaN where an item is not answered.
        """
        if self.scout:
            ahead = [forecast(target, scores) for target in self.objectives]
            return self._stopped(SCOUT, [one.mean for one in ahead], ahead, scores)
        rng = np.random.default_rng(0)
        alpha = (1.0 - self.level) / (len(self.sizes) - 1)  # no look is needed where all is known
        for constraint in self.constraints:
            assert constraint.bound is not None
            needed = constraint.gain(constraint.bound) - _SAME
            if np.mean(forecast(constraint, scores).draw(rng) >= needed) <= alpha:
                ahead = [forecast(target, scores) for target in self.objectives]
                told = [one.mean for one in ahead]
                return self._stopped(f"misses {constraint.name}", told, ahead, scores)
        if not self.rivals:
            return None
        forecasts = self._forecasts(scores)
        drawn = np.stack([ahead.draw(rng) for ahead in forecasts])
        known = [[_total(t, rival.scores) for t in self.objectives] for rival in self.rivals]
        behind = np.zeros(_DRAWS, dtype=bool)
        for member in known:
            behind |= self._behind(drawn, np.array(member)[:, None])
        if np.mean(~behind) > alpha:
            return None
        # Never told better than the front: no sampler shall take an estimate for a part of it. Of
        # all members that it could be put behind, the one that takes least from the estimate.
        means = [ahead.mean for ahead in forecasts]
        lowered = [[min(pair) for pair in zip(means, member, strict=True)] for member in known]
        nearest = max(range(len(known)), key=lambda index: math.fsum(lowered[index]))
        reason = f"behind {self.rivals[nearest].name}"
        return self._stopped(reason, lowered[nearest], forecasts, scores)

    def audited(self, fingerprint: str) -> bool:
        """Whether a trial, if it is stopped, goes on unseen."""
        drawn = hashlib.sha256(f"audit:{fingerprint}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") < self.audit * 2.0**64

    def _forecasts(self, scores: Scores) -> list[Forecast]:
        """Of the objectives, by the member whose scores tell most about the trial's."""
        widths = [target.width for target in self.objectives]
        each = [
            [forecast(t, scores, rival.scores) for t in self.objectives] for rival in self.rivals
        ]
        return min(
            each,
            key=lambda forecasts: math.fsum(
                ahead.variance / width**2 for ahead, width in zip(forecasts, widths, strict=True)
            ),
        )

    def _behind(self, drawn: NDArray[np.float64], member: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Where draws [objectives, draws] are behind a member [objectives, 1]."""
        widths = np.array([[target.width] for target in self.objectives])
        near: NDArray[np.bool_] = np.all(drawn < member + self.epsilon * widths + _SAME, axis=0)
        ahead: NDArray[np.bool_] = np.any(drawn < member - _SAME, axis=0)
        return near & ahead

    def _stopped(
        self, reason: str, gains: Sequence[float], ahead: Sequence[Forecast], scores: Scores
    ) -> Stopped:
        told = {t.name: t.value(gain) for t, gain in zip(self.objectives, gains, strict=True)}
        needed = [forecast(t, scores) for t in self.constraints]
        held = {t.name: t.value(f.mean) for t, f in zip(self.constraints, needed, strict=True)}
        targets = zip((*self.constraints, *self.objectives), (*needed, *ahead), strict=True)
        expected = {t.name: (t.value(f.mean), math.sqrt(f.variance)) for t, f in targets}
        return Stopped(reason, told, held, expected=expected)


def unfit(search: Search) -> str | None:
    """Why trials of a search cannot be raced: the first score that no prefix bounds; or None."""
    targets: list[Objective | Constraint] = [*search.objectives, *search.constraints]
    for target in targets:
        for part, measure in target.measured.items():
            if not _plain(measure):
                return f"{'/'.join(part)} is no plain mean of bounded scores"
    return None


def _plain(measure: Measure) -> bool:
    bounded = all(math.isfinite(end) for end in measure.range)
    return bounded and measure.weights is None and measure.aggregation == "mean"


def forecast(target: Target, scores: Scores, rival: Scores | None = None) -> Forecast:
    """What a target's full value will be, as a gain: above the worst possible, in its own units.

    The unanswered items of a kind bring a beta-binomial number of points: the rate of the trial's
    answered items of that kind, of which there may be few, with its overall rate as prior. Scores
    between 0 and 1 are at most as uncertain as 0/1 ones with their mean.

    Args:
        target: an objective or constraint.
        scores: of the trial, NaN where not answered.
        rival: of a member; tells two kinds of items apart, those that it solved and the others.
    """
    low = high = mean = variance = 0.0
    least = math.inf
    count = len(target.parts)
    for index, width in enumerate(target.widths):
        own = target.share(index, scores)
        answered = ~np.isnan(own)
        unit = width / (len(own) * count)
        least = min(least, unit)
        kinds = [np.ones(len(own), dtype=bool)]
        if rival is not None:
            solved = target.share(index, rival) >= 0.5
            kinds = [solved, ~solved]
        points = float(np.sum(own[answered]))
        rate = (points + 0.5) / (int(answered.sum()) + 1.0)
        low += unit * points
        high += unit * points
        mean += unit * points
        for kind in kinds:
            seen = int(np.sum(kind & answered))
            left = int(np.sum(kind)) - seen
            if not left:
                continue
            won = float(np.sum(own[kind & answered]))
            a, b = won + _PRIOR * rate, seen - won + _PRIOR * (1.0 - rate)
            total = a + b
            high += unit * left
            mean += unit * left * a / total
            spread = left * a * b * (total + left) / (total**2 * (total + 1.0))
            variance += unit**2 * spread
    return Forecast(low, high, mean, variance, least)


def _total(target: Target, scores: Scores) -> float:
    """A target's full value, as a gain."""
    means = (
        width * float(np.mean(target.share(index, scores)))
        for index, width in enumerate(target.widths)
    )
    return math.fsum(means) / len(target.parts)
