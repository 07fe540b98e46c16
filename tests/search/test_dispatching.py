"""Workers are never kept waiting, and what the driver keeps equals what the study says."""

from __future__ import annotations

import heapq
import json
import random
import time
from collections import deque
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial

from benchmarks.dispatch import ITEMS, Untracked, Watch, fill, scored, write_project
from search import study as studies
from search.budget import Budget, Shares
from search.config import Search, load
from search.driver import Driver
from search.ehvi import Scale
from search.errors import StorageError
from search.front import hypervolume
from search.ledger import Ledger
from search.live import Doing
from search.pace import Pace
from search.pool import Outcome
from search.progress import Progress
from search.racing import Race
from search.results import Result
from search.run import Run, locked
from search.sampler_classes import Auto
from search.storage import OwnedStorage
from search.worker import Job
from tests.merge_core.conftest import make_model, write_checkpoint


def project(folder: Path) -> Path:
    """A search file of two objectives and its models."""
    base = make_model(0)
    for index, name in enumerate(("base", "expert0", "expert1")):
        write_checkpoint(folder / name, base if index == 0 else make_model(index, base))
    return write_project(folder / "project", folder)


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return load(write_project(tmp_path_factory.mktemp("parsed") / "project", Path("models")))


class VirtualPool:
    """Workers with a clock of their own: trials of one worker take ten times those of another."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.now = 0.0
        self.busy_seconds = 0.0
        self.idle: list[int] = []
        """Workers without a job, at each time that the driver had nothing else to do."""
        self.order: list[tuple[int, str]] = []
        self._free = deque(range(size))
        self._queue: deque[Job] = deque()
        self._ends: list[tuple[float, int, Job]] = []

    @property
    def places(self) -> int:
        return max(0, len(self._free) - len(self._queue))

    @property
    def busy(self) -> bool:
        return bool(self._ends or self._queue)

    def doing(self) -> dict[str, Doing]:
        return {}

    def submit(self, job: Job) -> None:
        self._queue.append(job)
        while self._free and self._queue:
            worker, given = self._free.popleft(), self._queue.popleft()
            self.order.append((worker, given.key))
            seconds = (1.0 + 3.0 * worker) * random.Random(given.key).uniform(0.5, 1.5)
            self.busy_seconds += seconds
            heapq.heappush(self._ends, (self.now + seconds, worker, given))

    def withdraw(self) -> None:
        self._queue.clear()

    def wait(self, timeout: float) -> list[Outcome]:
        self.idle.append(self.places)
        self.now, worker, job = heapq.heappop(self._ends)
        self._free.append(worker)
        recipe = job.recipe
        result = Result(recipe.plain(), job.fingerprint, job.split, **scored(recipe, 1.0))
        return [Outcome(job, result)]


class Asked(Budget):
    """Keeps how many trials it was last told may be confirmed."""

    def allows(self, running: int, others: int, able: int) -> bool:
        self.able = able
        return super().allows(running, others, able)


def test_a_worker_that_ends_gets_the_next_recipe_before_any_other_ends(tmp_path: Path) -> None:
    search = load(project(tmp_path), ["budget.trials=40", "sampler.name=tpe"])
    models = [str(tmp_path / name) for name in ("base", "expert0", "expert1")]
    folder = tmp_path / "runs" / "s"
    pool, watch = VirtualPool(4), Watch((40,))
    with locked(folder):
        run = Run.start(search, folder, models, {})
        with Ledger(run, 4, 0.0) as ledger:
            budget = Asked(search, Shares(ITEMS, 0, 0, ITEMS, 1, 0), ledger, time.monotonic())
            tracker: Any = Untracked(studies.open_study(run))
            driver = Driver(run, pool, tracker, {}, budget, watch, Race.of(search, ITEMS))
            driver.search_all()
    given = [worker for worker, _ in pool.order]
    assert len(given) == len({key for _, key in pool.order}) == 40
    # Nobody waits while there are trials to give away: the last four are awaited with empty hands.
    assert pool.idle == [0] * 37 + [1, 2, 3]
    counts = [given.count(worker) for worker in range(4)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 4 * counts[3] > 0
    # What the driver kept is what the study on disk says.
    study = studies.open_study(run, create=False)
    assert same(driver.progress, study, search)
    assert driver.finished == 40
    # Trials behind the front are confirmed too, so the budget keeps room for them.
    able = studies.points(studies.scored(study), search)
    assert budget.able == len(able) > len(driver.front)
    assert {*driver.spent.seconds} >= {"ask", "tell", "file", "front", "rivals", "send", "wait"}


def same(progress: Progress, study: optuna.Study, search: Search) -> bool:
    """Whether it equals what the whole study says."""
    trials = studies.scored(study)
    points = studies.points(trials, search)
    front = studies.current_front(study, search)
    assert progress.finished == len(studies.paid(trials))
    assert progress.able == len(points)
    assert progress.front == front
    assert progress.points == {number: points[number] for number in front}
    assert progress.volume == hypervolume([points[number] for number in front])
    return True


TOLD = st.tuples(
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from(["full"] * 5 + ["partial", "duplicate", "fault", "unfit", "taken", "failed"]),
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(told=st.lists(TOLD, max_size=24), seed=st.integers(0, 99))
def test_progress_equals_a_recomputation(
    told: list[tuple[int, int, str]], seed: int, parsed: Search
) -> None:
    study = optuna.create_study(
        directions=["maximize"] * 2, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    trials = [study.ask() for _ in told]
    random.Random(seed).shuffle(trials)  # they end in another order than they began
    progress = Progress(parsed)
    for trial, (one, other, kind) in zip(trials, told, strict=True):
        trial.set_constraint("t/language", 0.5 if kind == "unfit" else -0.5)
        marks = {
            "partial": {studies.PARTIAL: {}},
            "duplicate": {studies.DUPLICATE_OF: 0},
            "fault": {"fault": "not finite"},
            "taken": {studies.ORIGIN: "trial 1 of another"},
        }.get(kind, {})
        for key, value in marks.items():
            trial.set_user_attr(key, value)
        if kind == "failed":
            studies.fail(study, trial)
            progress.add(study.get_trials(deepcopy=False)[trial.number])
        else:
            progress.add(study.tell(trial, [one / 4, other / 4]))
        assert same(progress, study, parsed)
    assert same(Progress.of(study, parsed), study, parsed)


def test_the_driver_reads_what_a_later_session_will_read(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = OwnedStorage(url)
    study = optuna.create_study(
        study_name="s",
        storage=storage,
        sampler=optuna.samplers.NSGAIISampler(seed=0, population_size=4),
        directions=["maximize"] * 2,
    )
    study.set_user_attr("mark", {"a": (1, 2)})
    study.set_user_attr("more", None)
    space = {"x": FloatDistribution(0, 1), "m": CategoricalDistribution(["ties", None, 3])}
    study.enqueue_trial({"x": 0.5})
    for index in range(14):
        trial = study.ask()
        with storage.together():
            values = [float(trial._suggest(name, space[name])) for name in ("x",)]
            trial._suggest("m", space["m"])
            trial.set_user_attr("recipe", json.dumps({"n": "ไทย"}))
        if index % 5 == 4:
            continue  # is still running
        with storage.together():
            trial.set_constraint("c", values[0] - 0.5)
            trial.set_user_attr("of", (1, 2.5))
            study.tell(trial, [values[0], 1.0 / 3.0 - values[0]])
        if index == 6:
            study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    later = optuna.load_study(study_name="s", storage=optuna.storages.RDBStorage(url))
    own, read = (s.get_trials(deepcopy=False) for s in (study, later))
    assert [vars(trial) for trial in own] == [vars(trial) for trial in read]
    assert study.user_attrs == later.user_attrs == {"mark": {"a": [1, 2]}, "more": None}
    assert study._study_id == later._study_id
    assert study._storage.get_trial_id_from_study_id_trial_number(1, 3) == own[3]._trial_id


def test_a_trial_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = OwnedStorage(url)
    study = optuna.create_study(study_name="s", storage=storage)
    trial = study.ask()

    def on_disk() -> FrozenTrial:
        later = optuna.load_study(study_name="s", storage=optuna.storages.RDBStorage(url))
        return later.trials[0]

    def killed() -> None:
        with storage.together():
            trial.suggest_float("x", 0, 1)
            trial.set_user_attr("recipe", "r")
            assert not on_disk().params
            raise KeyboardInterrupt

    def refused() -> None:
        with storage.together():
            trial.set_user_attr("other", "o")
            # The second is refused by the database, and Optuna keeps that to itself.
            for _ in range(2):
                storage.set_trial_param(trial._trial_id, "y", 0.5, FloatDistribution(0, 1))

    for attempt, error in ((killed, KeyboardInterrupt), (refused, StorageError)):
        with pytest.raises(error):
            attempt()
        for held in (on_disk(), study.trials[0]):
            assert not held.params
            assert not held.user_attrs


def test_a_hurry_is_more_than_one_worker_waiting_for_slow_proposals() -> None:
    pace = Pace()
    assert not pace.hurried(64, 64)  # nothing is known yet
    pace.ended(30.0)
    pace.asked(0.4)
    assert pace.hurried(2, 64)
    pace.asked(0.001)  # quick, because it was in a hurry: that tells nothing
    assert pace.hurried(2, 64)
    assert not pace.hurried(1, 64)
    assert not pace.hurried(2, 16)


def test_in_a_hurry_auto_asks_tpe() -> None:
    hurry = [False]
    auto = Auto(seed=0, scales=(Scale("x", 1.0, 0.0),), group=False, hurried=lambda: hurry[0])
    study = optuna.create_study(sampler=auto)
    slow = study.ask()
    hurry[0] = True
    quick = study.ask()
    hurry[0] = False
    names = [
        type(auto.of(study.get_trials(deepcopy=False)[trial.number])).__name__
        for trial in (slow, quick, study.ask())
    ]
    assert names == ["EHVISampler", "TPESampler", "EHVISampler"]


def test_a_filled_study_is_one_that_a_search_goes_on_with(tmp_path: Path) -> None:
    search = load(project(tmp_path))
    models = [str(tmp_path / name) for name in ("base", "expert0", "expert1")]
    folder = tmp_path / "runs" / "s"
    with locked(folder):
        run = Run.start(search, folder, models, {})
        fill(run, 30)
    study = studies.open_study(run, create=False)
    progress = Progress.of(study, search)
    assert progress.finished == 30
    assert same(progress, study, search)
    assert all(run.trial(number).is_file() for number in progress.front)
