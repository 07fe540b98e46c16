"""The driver: owns the study, hands recipes to workers, tells what comes back.

Asynchronous: a worker that ends gets the next recipe at once; no generations, no barriers. Order
of writing for each trial: the result file, then the study, then MLflow; so a crash between any two
is mended when the run is started again.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Protocol

import optuna
from optuna.trial import TrialState

from merge_core import Recipe
from search import study as studies
from search.budget import Budget
from search.care import Item
from search.errors import WorkerError
from search.front import representatives
from search.incidents import Kind
from search.interrupts import interrupts, one_thread
from search.live import Phase
from search.pace import Pace
from search.pool import Outcome, Workers
from search.progress import Progress
from search.racing import MOST_RIVALS, Race, Rival
from search.results import Result, is_result_of
from search.run import Run
from search.samplers import make_sampler, random_sampler, scouts
from search.stopwatch import Stopwatch
from search.tracking import Tracker
from search.warm import begin
from search.worker import Job

log = logging.getLogger("mergefront")

_DUPLICATES_IN_A_ROW = 10  # then the sampler is stuck: sample at random
_DUPLICATES_AT_RANDOM = 100  # then the space is exhausted
_FAILURES_AT_FIRST = 3  # in a row before any job was done: the set-up is broken, not the trials
_FAILURES_IN_A_ROW = 10  # later in the night: what was lost does not come back
_POISONED = 3  # trials in a row that fail at the same item: it ends every trial


class Listener(Protocol):
    """Who shows the search's progress."""

    def reading(self, reference: str) -> None:
        """A source is about to be read whole."""

    def phase(self, run: Run, phase: Phase) -> None:
        """A session of `run`, which it holds, is now at something else; first at "starting"."""

    def started(self, driver: Driver) -> None:
        """The workers are there and the study is open."""

    def finished(self, driver: Driver, what: str, result: Result | None) -> None:
        """A trial or baseline is done (None: it failed)."""

    def stopping(self, driver: Driver) -> None:
        """The user asked for an end; what runs is finished first."""

    def tick(self, driver: Driver) -> None:
        """A second or so has passed."""

    def confirming(self, what: str, done: int, total: int) -> None:
        """`done` of `total` merges are scored on held-out items; the last was `what`, first ""."""


class Driver:
    """One session of a search: from a run folder to told trials.

    Args:
        run: whose lease the caller holds.
        pool: its workers.
        tracker: projects told trials to MLflow.
        baselines: recipes by label, scored first on the dev items where that is not done yet.
        budget: says when the search ends.
        listener: shows progress.
        race: how trials are stopped early; None: they are not.

    Attributes:
        notes: what was taken over from earlier runs.
        progress: what the told trials come to.
        spent: where this session's time went.
        stopping: the user asked for an end.
        exhausted: the space has no recipe left that was not tried.
    """

    def __init__(
        self,
        run: Run,
        pool: Workers,
        tracker: Tracker,
        baselines: dict[str, Recipe],
        budget: Budget,
        listener: Listener,
        race: Race | None = None,
    ) -> None:
        self.run = run
        self.search = run.search
        self.pool = pool
        self.tracker = tracker
        self.listener = listener
        self.study = tracker.study
        self.budget = budget
        self.stopping = False
        self._race = race
        self._scouts = 0 if race is None else scouts(run.search)  # until the sampler has learned
        self._raced: list[int] = []  # the front that the race holds trials against
        self._rivals: dict[int, Rival] = {}
        self._baselines = baselines
        self._trials: dict[int, optuna.Trial] = {}
        self._by_fingerprint: dict[str, int] = {}
        self._waiting: dict[int, list[optuna.Trial]] = {}
        self._labels = {run.fingerprint(recipe): label for label, recipe in baselines.items()}
        self._parked: dict[str, list[int]] = {}  # trials that are baselines not scored yet
        self.notes: list[str] = []
        self._others = 0  # baselines on their way
        self._row = 0
        self._failed_row = 0
        self._most_failures = _FAILURES_AT_FIRST
        self._poisoned: dict[Item, int] = {}
        self.exhausted = False
        self.progress = Progress(run.search)
        self.spent = Stopwatch()
        self._pace = Pace()

    @property
    def finished(self) -> int:
        """Trials of all sessions that count against the budget."""
        return self.progress.finished

    @property
    def front(self) -> list[int]:
        """Trial numbers on the front so far, best first objective first."""
        return self.progress.front

    @property
    def volume(self) -> float:
        """Its hypervolume."""
        return self.progress.volume

    def search_all(self) -> None:
        """Run until the budget is spent, the space is exhausted, or the user stops it."""
        with interrupts(self._stop), one_thread():
            self._recover()
            self.budget.resume(self.run, self.study)
            self.listener.started(self)
            self._start_baselines()
            told = False
            while True:
                if self.stopping and not told:
                    told = True
                    self.pool.withdraw()  # they go on in the next session
                    self.listener.stopping(self)
                self._dispatch()
                if not self.pool.busy:
                    break
                with self.spent.on("wait"):
                    outcomes = self.pool.wait(timeout=1.0)
                studies.still_ours(self.study)  # a result file is no transaction
                for outcome in outcomes:
                    self._absorb(outcome)
                    self._dispatch(1)  # its worker shall not wait for the others' results
                self.listener.tick(self)
        log.info("the driver's time: %s", self.spent.line())

    # ---- proposing

    def _dispatch(self, most: int | None = None) -> None:
        """Give every free worker a trial, or `most` of them."""
        started = 0
        while started != most and self.pool.places and self._wanted():
            began = time.perf_counter()
            with self.spent.on("ask"):
                trial, recipe, fingerprint = self._propose()
            self._pace.asked(time.perf_counter() - began)
            known = self._by_fingerprint.get(fingerprint)
            if known is not None:
                self._duplicate(trial, known)
                continue
            if self._row >= _DUPLICATES_IN_A_ROW:
                self._sample(trial.number)
            self._row = 0
            self._start(trial, recipe, fingerprint)
            started += 1

    def _propose(self) -> tuple[optuna.Trial, Recipe, str]:
        """The sampler's next recipe and its fingerprint."""
        trial = self.study.ask()
        with studies.together(self.study):
            trial.set_user_attr(studies.ZONE, studies.zone())
            recipe = self.search.space.sample(trial)
            fingerprint = self.run.fingerprint(recipe.resolved(self.search.root))
            if fingerprint not in self._by_fingerprint:
                # From here on the trial can be continued after a crash.
                text = json.dumps(recipe.plain(), ensure_ascii=False)
                trial.set_user_attr(studies.RECIPE, text)
        return trial, recipe, fingerprint

    def _sample(self, trials: int) -> None:
        """Have the file's sampler propose, in a hurry where workers wait."""
        self.study.sampler = make_sampler(
            self.search, trials, lambda: self._pace.hurried(self.pool.places, self.pool.size)
        )

    def _wanted(self) -> bool:
        """Whether another trial is wanted, and the budget allows it."""
        if self.stopping or self.exhausted:
            return False
        running = len(self._trials) - sum(map(len, self._parked.values()))
        return self.budget.allows(running, self._others, self.progress.able)

    def _start(self, trial: optuna.Trial, recipe: Recipe, fingerprint: str) -> None:
        self._trials[trial.number] = trial
        self._by_fingerprint[fingerprint] = trial.number
        self._submit(trial.number, recipe, fingerprint)

    def _submit(self, number: int, recipe: Recipe, fingerprint: str) -> None:
        """Have a trial scored, or take over the scores of the baseline that is the same merge."""
        label = self._labels.get(fingerprint)
        if label is not None:
            self._parked.setdefault(label, []).append(number)
            if is_result_of(self.run.baseline(label), fingerprint):
                self._take_over(label, Result.load(self.run.baseline(label)))
            return
        resolved = recipe.resolved(self.search.root)
        with self.spent.on("rivals"):
            race = self._against()
            if race is not None and self._scouting(number):
                race = race.scouting()
        with self.spent.on("send"):
            self.pool.submit(Job(f"trial {number}", resolved, fingerprint, "dev", race))

    def _start_baselines(self) -> None:
        """Have those scored whose scores are not known, be it as a trial."""
        for label, recipe in self._baselines.items():
            fingerprint = self.run.fingerprint(recipe)
            if is_result_of(self.run.baseline(label), fingerprint):
                continue
            number = self._by_fingerprint.get(fingerprint)
            if number is not None and number not in self._trials:
                result = Result.load(self.run.trial(number))
                if result.stopped is None:
                    result.taken_over(f"trial {number}").save(self.run.baseline(label))
                    continue
            self._others += 1
            self.pool.submit(Job(f"baseline {label}", recipe, fingerprint, "dev"))

    def _take_over(self, label: str, result: Result) -> None:
        """Tell the trials that are the same merge as a baseline what it scored."""
        for number in self._parked.pop(label, []):
            taken = result.taken_over(f"baseline {label}")
            taken.save(self.run.trial(number))
            self._tell(self._trials.pop(number), taken)
            for other in self._waiting.pop(number, []):
                studies.tell(self.study, self.search, other, taken, duplicate_of=number)

    def _scouting(self, number: int) -> bool:
        """Whether a trial was drawn at random and is there to learn from."""
        if not self._scouts:
            return False
        trials = self.study.get_trials(deepcopy=False)
        if sum(trial.state == TrialState.COMPLETE for trial in trials) >= self._scouts:
            self._scouts = 0
            return False
        return "fixed_params" not in trials[number].system_attrs

    def _against(self) -> Race | None:
        """The race against members of the front as it is now."""
        if self._race is None:
            return None
        if self._raced == self.progress.front:
            return self._race
        chosen = representatives(self.progress.points, MOST_RIVALS)
        parts = self._race.parts
        self._rivals = {
            number: self._rivals.get(number)
            or Rival.of(f"trial {number}", Result.load(self.run.trial(number)), parts)
            for number in chosen
        }
        self._race = self._race.against(list(self._rivals.values()))
        self._raced = self.progress.front
        return self._race

    def _duplicate(self, trial: optuna.Trial, original: int) -> None:
        """Tell a recipe seen before with the values it had, or wait for them."""
        self._row += 1
        if original in self._trials:
            self._waiting.setdefault(original, []).append(trial)
        else:
            result = Result.load(self.run.trial(original))
            studies.tell(self.study, self.search, trial, result, duplicate_of=original)
        if self._row >= _DUPLICATES_IN_A_ROW:
            self.study.sampler = random_sampler(self.search, trial.number)
        if self._row >= _DUPLICATES_IN_A_ROW + _DUPLICATES_AT_RANDOM:
            log.warning("the space is exhausted: %d proposals in a row were known", self._row)
            self.exhausted = True

    # ---- absorbing

    def _absorb(self, outcome: Outcome) -> None:
        kind, _, label = outcome.job.key.partition(" ")
        if outcome.result is not None:
            self._done(outcome.job, outcome.result)
        else:
            self._failed_row += 1
            log.error("%s: %s", outcome.job.key, outcome.error)
        if kind == "baseline":
            self._others -= 1
            if outcome.result is not None:
                self._save(outcome.job, outcome.result, self.run.baseline(label))
                self.tracker.baseline(label, outcome.result)
                self._take_over(label, outcome.result)
            else:
                self._score_parked(label, outcome.job)
        else:
            self._absorb_trial(int(label), outcome)
        self.listener.finished(self, outcome.job.key, outcome.result)
        if outcome.result is None:
            self._consider(outcome)

    def _done(self, job: Job, result: Result) -> None:
        """A job came to its end, be it a merge that cannot be scored."""
        self._failed_row, self._most_failures = 0, _FAILURES_IN_A_ROW
        self.budget.spend(result)
        self._pace.ended(sum(result.seconds.values()))
        if result.fault is not None:
            self.run.incidents.record(Kind.NON_FINITE, job.key, result.fault)
        for task, items in result.items.items():
            for item in items:
                self._poisoned.pop((task, item.id), None)

    def _save(self, job: Job, result: Result, place: Path) -> None:
        result.save(place)
        self.run.blocks.forget(job)

    def _consider(self, outcome: Outcome) -> None:
        """Stop if what failed will fail again and again: an item, or everything."""
        if (item := outcome.poison) is not None:
            self._poisoned[item] = self._poisoned.get(item, 0) + 1
            if self._poisoned[item] >= _POISONED:
                raise WorkerError(
                    f"{_POISONED} trials in a row failed at the same place: {outcome.error}; mend "
                    "or remove that item, and start another run with --new --from "
                    f"{self.run.folder}"
                )
        if self._failed_row >= self._most_failures:
            raise WorkerError(
                f"{self._failed_row} jobs in a row failed, the last with: {outcome.error}; "
                f"see {self.run.folder / 'run.log'}"
            )

    def _score_parked(self, label: str, job: Job) -> None:
        """A baseline failed: trials that are the same merge are tried on their own."""
        self._labels.pop(job.fingerprint, None)
        for number in self._parked.pop(label, []):
            self._submit(number, job.recipe, job.fingerprint)

    def _absorb_trial(self, number: int, outcome: Outcome) -> None:
        trial = self._trials.pop(number)
        if outcome.result is None:
            studies.fail(self.study, trial)
            self._by_fingerprint.pop(outcome.job.fingerprint, None)
            for other in self._waiting.pop(number, []):
                studies.fail(self.study, other)
            return
        with self.spent.on("file"):
            self._save(outcome.job, outcome.result, self.run.trial(number))
        self._tell(trial, outcome.result)
        self.budget.told(self.volume if self.front else None)
        for other in self._waiting.pop(number, []):
            studies.tell(self.study, self.search, other, outcome.result, duplicate_of=number)

    def _tell(self, trial: optuna.Trial, result: Result) -> None:
        with self.spent.on("tell"):
            told = studies.tell(self.study, self.search, trial, result)
        with self.spent.on("front"):
            self.progress.add(told)
        self.tracker.trial(told, self.front)

    # ---- resuming

    def _recover(self) -> None:
        """Begin with what is known, and mend what a killed driver left: finish, continue or fail
        its running trials.
        """
        self.notes = begin(self.study, self.run)
        self.progress = Progress.of(self.study, self.search)
        self._sample(len(self.study.get_trials(deepcopy=False)))
        for frozen in self.study.get_trials(deepcopy=False):
            fingerprint = frozen.user_attrs.get(studies.FINGERPRINT)
            if frozen.state == TrialState.COMPLETE and fingerprint is not None:
                self._by_fingerprint.setdefault(fingerprint, frozen.number)
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for frozen in running:
            recipe = studies.recipe_of(frozen, self.search)
            trial = optuna.Trial(self.study, frozen._trial_id)
            if recipe is None:
                # Killed while it was being asked for. In this order another kill here asks for a
                # warm start twice, and the second is a duplicate, rather than never.
                if "fixed_params" in frozen.system_attrs:
                    self.study.enqueue_trial(frozen.system_attrs["fixed_params"])
                studies.fail(self.study, trial)
                continue
            fingerprint = self.run.fingerprint(recipe)
            if is_result_of(self.run.trial(frozen.number), fingerprint):
                result = Result.load(self.run.trial(frozen.number))
                self._by_fingerprint.setdefault(result.fingerprint, frozen.number)
                self._tell(trial, result)
            else:
                self._trials[frozen.number] = trial
                self._by_fingerprint.setdefault(fingerprint, frozen.number)
                self._submit(frozen.number, recipe, fingerprint)

    def _stop(self) -> None:
        self.stopping = True
