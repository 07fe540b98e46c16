"""The driver: owns the study, hands recipes to workers, tells what comes back.

Asynchronous: a worker that ends gets the next recipe at once; no generations, no barriers. Order
of writing for each trial: the result file, then the study, then MLflow; so a crash between any two
is mended when the run is started again.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import optuna
from optuna.trial import TrialState

from merge_core import Recipe
from search import study as studies
from search.config import seconds
from search.errors import WorkerError
from search.front import hypervolume
from search.pool import Outcome, Pool
from search.results import Result
from search.run import Run
from search.tracking import Tracker
from search.worker import Job

log = logging.getLogger("mergefront")

_DUPLICATES_IN_A_ROW = 10  # then the sampler is stuck: sample at random
_DUPLICATES_AT_RANDOM = 100  # then the space is exhausted
_FAILURES_IN_A_ROW = 3  # then the set-up is broken, not the trials


class Listener(Protocol):
    """Who shows the search's progress."""

    def reading(self, reference: str) -> None:
        """A source is about to be read whole."""

    def started(self, driver: Driver) -> None:
        """The workers are there and the study is open."""

    def finished(self, driver: Driver, what: str, result: Result | None) -> None:
        """A trial or baseline is done (None: it failed)."""

    def tick(self, driver: Driver) -> None:
        """A second or so has passed."""

    def confirming(self, what: str, done: int, total: int) -> None:
        """`done` of `total` merges are scored on held-out items; the last was `what`."""


@dataclass
class Account:
    """What this session of the driver did."""

    began: float = field(default_factory=time.monotonic)
    trials: int = 0
    tokens: int = 0
    duplicates: int = 0
    failures: int = 0
    busy_seconds: float = 0.0


class Driver:
    """One session of a search: from a run folder to told trials.

    Args:
        run: whose lease the caller holds.
        pool: its workers.
        tracker: projects told trials to MLflow.
        baselines: recipes by label, scored first on the dev items where that is not done yet.
        listener: shows progress.
    """

    def __init__(
        self,
        run: Run,
        pool: Pool,
        tracker: Tracker,
        baselines: dict[str, Recipe],
        listener: Listener,
    ) -> None:
        self.run = run
        self.search = run.search
        self.pool = pool
        self.tracker = tracker
        self.listener = listener
        self.study = studies.open_study(run)
        self.account = Account()
        self.stopping = False
        self._deadline = math.inf
        if self.search.file.budget.timeout is not None:
            self._deadline = time.monotonic() + seconds(self.search.file.budget.timeout)
        self._baselines = baselines
        self._trials: dict[int, optuna.Trial] = {}
        self._by_fingerprint: dict[str, int] = {}
        self._waiting: dict[int, list[tuple[optuna.Trial, str]]] = {}
        self._row = 0
        self._failed_row = 0
        self._exhausted = False

    def search_all(self) -> None:
        """Run until the budget is spent, the space is exhausted, or the user stops it."""
        with _interrupts(self._stop):
            self._recover()
            self.listener.started(self)
            for label, recipe in self._baselines.items():
                if not self.run.baseline(label).is_file():
                    self.pool.submit(
                        Job(f"baseline {label}", recipe, self.run.fingerprint(recipe), "dev")
                    )
            while True:
                self._dispatch()
                if not self.pool.busy:
                    break
                for outcome in self.pool.wait(timeout=1.0):
                    self._absorb(outcome)
                self.listener.tick(self)

    @property
    def finished(self) -> int:
        """Trials that count against the budget, of all sessions."""
        return len(studies.scored(self.study))

    def front(self) -> list[int]:
        """Trial numbers on the front so far."""
        return studies.current_front(self.study, self.search)

    # ---- proposing

    def _dispatch(self) -> None:
        while self.pool.places and self._wanted():
            trial = self.study.ask()
            recipe = self.search.space.sample(trial).resolved(self.search.root)
            fingerprint = self.run.fingerprint(recipe)
            known = self._by_fingerprint.get(fingerprint)
            if known is not None:
                self._duplicate(trial, known, fingerprint)
                continue
            if self._row >= _DUPLICATES_IN_A_ROW:
                self.study.sampler = studies.make_sampler(self.search, trial.number)
            self._row = 0
            self._start(trial, recipe, fingerprint)

    def _wanted(self) -> bool:
        """Whether budget and time allow another trial."""
        budget = self.search.file.budget.trials
        if self.stopping or self._exhausted:
            return False
        if budget is not None and self.finished + len(self._trials) >= budget:
            return False
        return time.monotonic() + self._time_to_confirm() < self._deadline

    def _time_to_confirm(self) -> float:
        """Seconds to keep for the trial itself and the confirmation after the search."""
        if self._deadline == math.inf or not self.account.trials:
            return 0.0
        per_trial = self.account.busy_seconds / self.account.trials
        splits = self.search.file.splits
        if isinstance(splits.dev, int) and isinstance(splits.confirm, int) and splits.dev:
            share = splits.confirm / splits.dev
        else:
            share = float(splits.confirm) / max(float(splits.dev), 1e-9)
        merges = self.search.file.confirm.max + len(self._baselines) + 1
        return per_trial * (1.0 + share * merges / max(1, self.pool.size))

    def _start(self, trial: optuna.Trial, recipe: Recipe, fingerprint: str) -> None:
        # From here on the trial can be continued after a crash: its recipe is stored.
        trial.set_user_attr(studies.RECIPE, json.dumps(recipe.plain(), ensure_ascii=False))
        self._trials[trial.number] = trial
        self._by_fingerprint[fingerprint] = trial.number
        self.pool.submit(Job(f"trial {trial.number}", recipe, fingerprint, "dev"))

    def _duplicate(self, trial: optuna.Trial, original: int, fingerprint: str) -> None:
        """Tell a recipe seen before with the values it had, or wait for them."""
        self.account.duplicates += 1
        self._row += 1
        if original in self._trials:
            self._waiting.setdefault(original, []).append((trial, fingerprint))
        else:
            result = Result.load(self.run.trial(original))
            studies.tell(self.study, self.search, trial, result, duplicate_of=original)
        if self._row >= _DUPLICATES_IN_A_ROW:
            seed = self.search.file.sampler.seed + trial.number
            self.study.sampler = optuna.samplers.RandomSampler(seed=seed)
        if self._row >= _DUPLICATES_IN_A_ROW + _DUPLICATES_AT_RANDOM:
            log.warning("the space is exhausted: %d proposals in a row were known", self._row)
            self._exhausted = True

    # ---- absorbing

    def _absorb(self, outcome: Outcome) -> None:
        kind, _, label = outcome.job.key.partition(" ")
        if outcome.result is not None:
            self._failed_row = 0
            self.account.tokens += outcome.result.tokens
            self.account.busy_seconds += sum(outcome.result.seconds.values())
        else:
            self.account.failures += 1
            self._failed_row += 1
            log.error("%s: %s", outcome.job.key, outcome.error)
        if kind == "baseline":
            if outcome.result is not None:
                outcome.result.save(self.run.baseline(label))
                self.tracker.baseline(label, outcome.result)
        else:
            self._absorb_trial(int(label), outcome)
        self.listener.finished(self, outcome.job.key, outcome.result)
        if self._failed_row >= _FAILURES_IN_A_ROW:
            raise WorkerError(
                f"{_FAILURES_IN_A_ROW} jobs in a row failed, the last with: {outcome.error}; "
                f"see {self.run.folder / 'run.log'}"
            )

    def _absorb_trial(self, number: int, outcome: Outcome) -> None:
        trial = self._trials.pop(number)
        if outcome.result is None:
            studies.fail(self.study, trial)
            self._by_fingerprint.pop(outcome.job.fingerprint, None)
            for other, _ in self._waiting.pop(number, []):
                studies.fail(self.study, other)
            return
        self.account.trials += 1
        outcome.result.save(self.run.trial(number))
        self._tell(trial, outcome.result)
        for other, _ in self._waiting.pop(number, []):
            studies.tell(self.study, self.search, other, outcome.result, duplicate_of=number)

    def _tell(self, trial: optuna.Trial, result: Result) -> None:
        studies.tell(self.study, self.search, trial, result)
        front = self.front()
        points = studies.points(studies.scored(self.study), self.search)
        self.tracker.trial(trial.number, front, hypervolume([points[n] for n in front]))

    # ---- resuming

    def _recover(self) -> None:
        """Mend what a killed driver left: finish, continue or fail its running trials."""
        for frozen in self.study.get_trials(deepcopy=False):
            fingerprint = frozen.user_attrs.get(studies.FINGERPRINT)
            if frozen.state == TrialState.COMPLETE and fingerprint is not None:
                self._by_fingerprint.setdefault(fingerprint, frozen.number)
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for frozen in running:
            recipe = studies.recipe_of(frozen)
            trial = optuna.Trial(self.study, frozen._trial_id)
            if recipe is None:
                studies.fail(self.study, trial)  # killed while it was being asked for
            elif self.run.trial(frozen.number).is_file():
                result = Result.load(self.run.trial(frozen.number))
                self._by_fingerprint.setdefault(result.fingerprint, frozen.number)
                self._tell(trial, result)
            else:
                fingerprint = self.run.fingerprint(recipe)
                self._trials[frozen.number] = trial
                self._by_fingerprint.setdefault(fingerprint, frozen.number)
                self.pool.submit(Job(f"trial {frozen.number}", recipe, fingerprint, "dev"))
        if not self.study.get_trials(deepcopy=False):
            studies.enqueue_published(self.study, self.search)

    def _stop(self) -> None:
        self.stopping = True


@contextmanager
def _interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """First Ctrl-C (or SIGTERM): `stop`. Second: KeyboardInterrupt."""

    def first(signum: int, _: object) -> None:
        stop()
        signal.signal(signum, signal.default_int_handler)

    before = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
