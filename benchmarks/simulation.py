"""One search on the surrogate: the product's own parts, workers with a virtual clock.

What a trial costs is its generated tokens, and a worker is busy for as long as those take. Asking,
telling, racing and fronts are the product's; answers come from `benchmarks.surrogate`.
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna

from benchmarks.recording import RANGES, SPACE, TASK
from benchmarks.surrogate import World
from objectives import ItemScore
from search import study as studies
from search.config import load
from search.confirm import choose, members_of
from search.errors import ExportError
from search.front import (
    Point,
    front,
    gains,
    hypervolume,
    representatives,
    worth_confirming,
)
from search.racing import MOST_RIVALS, Race, Rival, Scores
from search.results import Result
from search.samplers import make_sampler, random_sampler, scouts

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
CONFIRMED = 8
_KEYS = ("math", "language")


@dataclass
class Step:
    """The search after one more trial.

    Attributes:
        tokens: generated on dev items by finished trials.
        clock: when it ended, in tokens of one worker.
        volume: hypervolume of the trials worth confirming, by their confirm scores.
        front: the same of the dev front alone.
    """

    tokens: int
    clock: float
    volume: float
    front: float


@dataclass
class Story:
    """What one search did.

    Attributes:
        steps: after each finished trial.
        stopped: trials that a race stopped; `false` of them would be on the final dev front.
        answered, answers: dev items that trials answered, and had if all were full.
        whole: tokens of all trials if all were full.
        exported: whether a recipe held the constraints when confirmed; None without any.
        test: mean of each score of the exported recipe on the test items.
    """

    steps: list[Step] = field(default_factory=list)
    stopped: int = 0
    false: int = 0
    answered: int = 0
    answers: int = 0
    whole: int = 0
    exported: bool | None = None
    test: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """A dispatched trial and all that will come of it."""

    number: int
    params: Mapping[str, float]
    fingerprint: str
    result: Result
    full: Result

    @property
    def tokens(self) -> int:
        """Those that its worker generates."""
        return self.result.tokens


class Bench:
    """A world, a search file and what is known of trials.

    Args:
        world: who answers.
        overrides: settings on top of the demo's search file.
    """

    def __init__(self, world: World, overrides: Iterable[str]) -> None:
        self.world = world
        self.search = load(DEMO, [*SPACE, *overrides])
        assert set(self.search.space.distributions()) == set(RANGES), "record the demo's space anew"
        self._held_out: dict[tuple[int, str], Result] = {}

    def result(self, params: Mapping[str, float], split: Any, fingerprint: str = "") -> Result:
        """All items of a split."""
        right, language, tokens = self.world.scores(params, split)
        items = [
            ItemScore(str(item), {"math": m, "language": spoken}, "", int(t), "stop")
            for item, m, spoken, t in zip(
                self.world.items[split], right, language, tokens, strict=True
            )
        ]
        return Result({}, fingerprint, split, {TASK: items})

    def raced(self, full: Result, race: Race | None) -> Result:
        """What a worker gives back for a trial whose dev answers are all known."""
        if race is None or not race.held:
            return full
        items = full.items[TASK]
        known: Scores = {part: np.array([i.scores[part[1]] for i in items]) for part in race.parts}
        for size in race.sizes[:-1]:
            seen = {
                part: np.where(np.arange(len(items)) < size, scores, np.nan)
                for part, scores in known.items()
            }
            verdict = race.judge(seen)
            if verdict is None:
                continue
            audited = race.audited(full.fingerprint)
            stopped = replace(verdict, asked=size, of=len(items), audited=audited)
            return replace(full, items={TASK: items if audited else items[:size]}, stopped=stopped)
        return full

    def held_out(self, trial: Trial, split: str) -> Result:
        """A trial's result on confirm or test items."""
        key = trial.number, split
        if key not in self._held_out:
            self._held_out[key] = self.result(trial.params, split, trial.fingerprint)
        return self._held_out[key]

    def values(self, result: Result) -> Point:
        """Gains of a result's means."""
        means = [
            float(np.mean([i.scores[o.parts[0][1]] for i in result.items[TASK]]))
            for o in self.search.objectives
        ]
        return gains(means, self.search.objectives)

    def feasible(self, full: Result) -> bool:
        """Whether all constraints hold by dev point estimates."""
        return all(full.holds(c, confirmed=False) for c in self.search.constraints)


class Keeper:
    """Follows finished trials: the dev front, its confirmed volume, and the story.

    Args:
        bench: whose trials.
        single: whether only the trial with the largest sum of scores is confirmed.
    """

    def __init__(self, bench: Bench, *, single: bool = False) -> None:
        self.bench = bench
        self.single = single
        self.story = Story(exported=False if bench.search.constraints else None)
        self.trials: dict[int, Trial] = {}
        self.points: dict[int, Point] = {}
        self._confirmed: dict[int, Point] = {}
        self._tokens = 0

    def representatives(self, most: int) -> list[int]:
        """Of the dev front."""
        on_front = front(self.points)
        return representatives({number: self.points[number] for number in on_front}, most)

    def confirmed(self, number: int) -> Point:
        """Gains by the confirm items."""
        if number not in self._confirmed:
            held = self.bench.held_out(self.trials[number], "confirm")
            self._confirmed[number] = self.bench.values(held)
        return self._confirmed[number]

    def finished(self, trial: Trial, clock: float) -> None:
        """Take a trial in."""
        self.trials[trial.number] = trial
        self._tokens += trial.tokens
        if trial.result.stopped is None and self.bench.feasible(trial.full):
            self.points[trial.number] = self.bench.values(trial.full)
        chosen = worth_confirming(self.points, CONFIRMED), self.representatives(CONFIRMED)
        if self.single and self.points:
            chosen = ([max(self.points, key=lambda number: sum(self.points[number]))],) * 2
        volume, alone = (
            hypervolume([self.confirmed(number) for number in members]) for members in chosen
        )
        self.story.steps.append(Step(self._tokens, clock, volume, alone))

    def end(self) -> Story:
        """Count what the races did, and export."""
        story = self.story
        for trial in self.trials.values():
            size = len(trial.full.items[TASK])
            stopped = trial.result.stopped
            story.answers += size
            story.whole += trial.full.tokens
            story.answered += len(trial.result.items[TASK])
            if stopped is not None:
                story.stopped += 1
                point = self.bench.values(trial.full)
                if self.bench.feasible(trial.full):
                    story.false += trial.number in front({**self.points, trial.number: point})
        if self.bench.search.constraints:
            self._export()
        return story

    def _export(self) -> None:
        chosen = {f"trial {n}": self.trials[n] for n in worth_confirming(self.points, CONFIRMED)}
        if not chosen:
            return
        search = self.bench.search
        members = members_of(
            search,
            dict.fromkeys(chosen, search.space.example()),
            {label: trial.full for label, trial in chosen.items()},
            {label: self.bench.held_out(trial, "confirm") for label, trial in chosen.items()},
        )
        try:
            best = choose(search, members)
        except ExportError:
            return
        test = self.bench.held_out(chosen[best.label], "test")
        self.story.exported = True
        self.story.test = {
            key: float(np.mean([item.scores[key] for item in test.items[TASK]])) for key in _KEYS
        }


def simulate(bench: Bench, trials: int, workers: int) -> Story:
    """An asynchronous search of so many trials: a worker that ends gets the next recipe at once."""
    search = bench.search
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        directions=[objective.direction for objective in search.objectives],
        sampler=make_sampler(search, 0),
    )
    keeper = Keeper(bench)
    race = Race.of(search, len(bench.world.items["dev"]))
    scouted = 0 if race is None else scouts(search)
    running: list[tuple[float, int]] = []
    open_trials: dict[int, tuple[optuna.Trial, Trial]] = {}
    seen: dict[str, int] = {}
    copies: dict[int, list[optuna.Trial]] = {}
    clock, row = 0.0, 0
    while len(keeper.trials) < trials:
        while len(running) < workers and len(keeper.trials) + len(running) < trials:
            asked = study.ask()
            fingerprint = search.space.sample(asked).fingerprint()
            known = seen.get(fingerprint)
            if known is not None:  # as the driver does
                row += 1
                if known in open_trials:
                    copies.setdefault(known, []).append(asked)
                else:
                    studies.tell(study, search, asked, keeper.trials[known].result, known)
                if row >= 10:
                    study.sampler = random_sampler(search, asked.number)
                continue
            if row >= 10:
                study.sampler = make_sampler(search, asked.number)
            row = 0
            seen[fingerprint] = asked.number
            params = dict(asked.params)
            full = bench.result(params, "dev", fingerprint)
            against = None if race is None else race.against(list(_rivals(keeper, race)))
            if against is not None and len(keeper.trials) < scouted:
                against = against.scouting()
            result = bench.raced(full, against)
            trial = Trial(asked.number, params, fingerprint, result, full)
            open_trials[asked.number] = asked, trial
            heapq.heappush(running, (clock + trial.tokens, asked.number))
        clock, number = heapq.heappop(running)
        asked, trial = open_trials.pop(number)
        studies.tell(study, search, asked, trial.result)
        for copy in copies.pop(number, []):
            studies.tell(study, search, copy, trial.result, number)
        keeper.finished(trial, clock)
    return keeper.end()


def _rivals(keeper: Keeper, race: Race) -> Iterator[Rival]:
    """As the driver picks them: representatives of the front as it is now."""
    for number in keeper.representatives(MOST_RIVALS):
        yield Rival.of(f"trial {number}", keeper.trials[number].full, race.parts)


def evolve(bench: Bench, trials: int, workers: int, seed: int, *, single: bool = False) -> Story:
    """CMA-ES on the equally weighted sum, population by population, as mergekit-evolve does.

    A population is told when all of it is scored: workers wait for the last. All that were scored
    count for the front, though CMA-ES itself looks for one recipe; if `single`, that alone counts,
    which is what mergekit-evolve hands over.
    """
    from cmaes import CMA  # type: ignore[import-untyped]

    count = len(RANGES)
    lows, highs = (np.array([ends[i] for ends in RANGES.values()]) for i in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = CMA(
            mean=np.full(count, 0.5),
            sigma=1.0 / 6.0,
            bounds=np.tile([0.0, 1.0], (count, 1)),
            seed=seed,
            population_size=4 + int(3 * np.log(count)),
        )
    keeper = Keeper(bench, single=single)
    clock = 0.0
    while len(keeper.trials) < trials:
        free = [clock] * workers
        told: list[tuple[npt.NDArray[np.float64], float]] = []
        ends: list[tuple[float, Trial]] = []
        for _ in range(min(strategy.population_size, trials - len(keeper.trials))):
            unit = strategy.ask()
            params = dict(zip(RANGES, (lows + unit * (highs - lows)).tolist(), strict=True))
            number = len(keeper.trials) + len(ends)
            full = bench.result(params, "dev", str(number))
            begins = heapq.heappop(free)
            ends.append((begins + full.tokens, Trial(number, params, str(number), full, full)))
            heapq.heappush(free, ends[-1][0])
            told.append((unit, -sum(bench.values(full)) / 2.0))
        for clock, trial in sorted(ends, key=lambda pair: pair[0]):
            keeper.finished(trial, clock)
        if len(told) == strategy.population_size:
            strategy.tell(told)
    return keeper.end()
