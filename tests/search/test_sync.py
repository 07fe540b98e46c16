"""MLflow after an outage, and made equal to the study: real stores, a real server."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from optuna.trial import TrialState

from search import confirm as confirming
from search import study as studies
from search import tracking
from search.account import Account
from search.database import connect
from search.ledger import Ledger
from search.mlflow_note import NOTE
from search.mlflow_store import PARENT, RUN
from search.progress import Progress
from search.projection import BASELINE, TRIAL
from search.results import Result
from search.run import Run, locked, logging_to
from search.storage import OwnedStorage
from search.sync import differences, sync
from search.tracking import Tracker
from tests.processes import Mlflow, free_port, until
from tests.search.small import CommandLine
from tests.search.test_driver import write
from tests.search.test_postgres import a_run

pytestmark = pytest.mark.cluster


@dataclass
class Searched:
    """A run whose trials are made here, without workers: all but the merging and answering."""

    run: Run
    tracker: Tracker
    ledger: Ledger
    progress: Progress

    def trial(self, right: int) -> None:
        """A trial with `right` of four items."""
        study, search = self.tracker.study, self.run.search
        trial = study.ask()
        with studies.together(study):
            recipe = search.space.sample(trial)
            trial.set_user_attr(studies.RECIPE, json.dumps(recipe.plain()))
        result = scored(recipe.plain(), f"{trial.number:064x}", right)
        result.save(self.run.trial(trial.number))
        told = studies.tell(study, search, trial, result)
        self.progress.add(told)
        self.tracker.trial(told, self.progress.front)

    def baseline(self, label: str) -> None:
        result = scored({"merge_method": "linear"}, "b" * 64, 2)
        result.save(self.run.baseline(label))
        self.tracker.baseline(label, result)

    def end(self) -> None:
        self.tracker.report()
        self.tracker.close()


def scored(recipe: Any, fingerprint: str, right: int) -> Result:
    from objectives import ItemScore

    rows = [
        ItemScore(f"q{n}", {"math": float(n < right), "language": n / 4}, f"answer {n}", 5, "stop")
        for n in range(4)
    ]
    return Result(recipe, fingerprint, "dev", {"t": rows}, {"load": 0.1, "generate": 0.2})


@pytest.fixture
def searched(tmp_path: Path) -> Iterator[Callable[..., Searched]]:
    """Make a run; its tracker writes where `uri` says."""
    held: list[Any] = []

    def make(**changes: Any) -> Searched:
        run = a_run(write(tmp_path, models=MODELS, **changes))
        lock, log = locked(run.folder), logging_to(run)
        ledger = Ledger(run, 1, 0.0)
        for context in (lock, log, ledger):
            context.__enter__()
            held.append(context)
        tracker = Tracker(run, studies.open_study(run))
        return Searched(run, tracker, ledger, Progress(run.search))

    yield make
    for context in reversed(held):
        context.__exit__(None, None, None)


MODELS = [
    {"model": n, "name": n, "parameters": {"weight": {"low": 0.0, "high": 1.0}}} for n in "lr"
]


@pytest.mark.slow
def test_an_outage_of_the_server_is_one_line_and_is_filled_in(
    searched: Callable[..., Searched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "_REST_S", 0.5)
    server = Mlflow(tmp_path / "server")
    server.start()
    server.ready()
    try:
        search = searched(tracking={"uri": server.uri})
        search.baseline("uniform")
        search.trial(1)
        until(lambda: search.tracker._store is not None and 0 in search.tracker._store.written)
        server.kill()
        began = time.monotonic()
        for right in (2, 3, 2):
            search.trial(right)
        assert time.monotonic() - began < 20  # nothing waits for MLflow
        until(lambda: search.tracker.problem is not None)
        assert search.run.incidents.counts == {"tracker_lost": 1}
        server.start()
        until(lambda: search.tracker.problem is None)  # without anything new to write
        search.trial(4)
        search.end()
        assert search.tracker.problem is None
        assert differences(search.run) == []
        log = (search.run.folder / "run.log").read_text(encoding="utf-8")
        assert log.count("tracker_lost") == log.count("MLflow answers again") == 1

        # A server that is not there at the end is told, and a later sync fills it in elsewhere.
        store = f"sqlite:///{tmp_path / 'elsewhere.db'}"
        assert "the search: has no run" in differences(search.run, store)
        sync(search.run, store)
        assert differences(search.run, store) == []
    finally:
        server.kill()


def test_a_queue_that_is_full_is_filled_in_later(
    searched: Callable[..., Searched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MOST_WAITING", 2)
    search = searched()
    for right in (1, 2, 3, 4, 0, 1, 2, 3):
        search.trial(right)
        assert search.tracker._queue.qsize() <= 2
    search.end()
    assert search.tracker.problem is None
    assert differences(search.run) == []


class Away:
    """In the place of a lease, whose server is not there."""

    def check(self) -> None:
        connect(f"postgresql://me@127.0.0.1:{free_port()}/none").connect()


def test_whoever_ends_in_an_outage_of_the_database_waits_for_nothing(
    searched: Callable[..., Searched],
) -> None:
    search = searched()
    search.trial(1)
    storage = search.tracker.study._storage
    assert isinstance(storage, OwnedStorage)
    storage._lease = Away()  # type: ignore[assignment]
    began = time.monotonic()
    search.end()
    assert time.monotonic() - began < 30  # not an hour
    assert search.tracker.problem is not None
    assert "does not answer" in search.tracker.problem
    assert "`mergefront sync` fills it in" in search.tracker.problem
    assert search.run.incidents.counts == {}  # the driver counts it
    storage._lease = None
    sync(search.run)
    assert differences(search.run) == []


def test_a_driver_killed_while_it_began_is_made_up_for(searched: Callable[..., Searched]) -> None:
    search = searched()
    search.trial(1)
    search.end()
    run = search.run
    for mend in ("sync", "go on"):
        (file,) = (run.folder / "mlartifacts").rglob("search.yaml")
        file.unlink()
        assert differences(run) == ["the search: search.yaml is missing"]
        if mend == "sync":
            assert sync(run).search == ["search.yaml is missing"]
        else:
            Tracker(run, search.tracker.study).close()
        assert differences(run) == []


def shown(run: Run, tag: str, value: str) -> list[Any]:
    """MLflow's runs of a search with a tag."""
    client = mlflow.MlflowClient(tracking_uri=run.tracking)
    experiment = client.get_experiment_by_name(run.name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`{tag}` = '{value}'"))


def test_failures_after_the_last_success_are_told_at_the_end(
    searched: Callable[..., Searched],
) -> None:
    search = searched()
    run, study = search.run, search.tracker.study
    search.trial(2)
    search.trial(3)
    search.end()
    (own,) = shown(run, "role", "search")
    assert own.data.metrics["failures"] == 0
    for _ in range(2):
        failed = study.ask()
        failed.set_user_attr(studies.RECIPE, json.dumps(run.search.space.sample(failed).plain()))
        studies.fail(study, failed)
    studies.fail(study, study.ask())  # its driver was killed as it was asked for
    assert "the search: metric failures is 0.0 in MLflow, not 2.0" in differences(run)
    Tracker(run, study).close()
    client = mlflow.MlflowClient(tracking_uri=run.tracking)
    points = client.get_metric_history(own.info.run_id, "failures")
    last = max(points, key=lambda point: (point.step, point.timestamp))
    assert (last.step, last.value) == (2, 2.0)
    assert differences(run) == []

    # It is the same everywhere: the one that was never begun is no failure.
    assert Account.of(run, study, []).failed == 2
    (first,), (second,), (never,) = (shown(run, TRIAL, str(number)) for number in (2, 3, 4))
    assert first.info.status == second.info.status == "FAILED"
    assert never.info.status == "KILLED"
    assert never.data.tags[NOTE].startswith("Never begun")


def test_a_later_confirmation_takes_back_what_an_earlier_one_said(
    searched: Callable[..., Searched],
) -> None:
    search = searched(constraints={})
    run, study = search.run, search.tracker.study
    for right in (1, 3):
        search.trial(right)
    search.baseline("uniform")
    for number, right in ((0, 1), (1, 3)):  # both are confirmed, trial 1 is exported
        recipe = studies.scored(study)[number].user_attrs[studies.RECIPE]
        result = replace(scored(json.loads(recipe), f"{number:064x}", right), split="confirm")
        result.save(run.held_out("confirm", result.fingerprint))
        replace(result, split="test").save(run.held_out("test", result.fingerprint))
    members = [member(run, study, number) for number in (0, 1)]
    confirming.save(run, members, finished=2)
    search.tracker.confirmed()
    search.end()
    assert differences(run) == []
    (own,) = shown(run, "role", "search")
    assert own.data.tags["exported"] == "trial 1"
    assert own.data.metrics["test_reasoning"] == 0.75

    confirming.save(run, [replace(members[1], feasible=False)], finished=2)
    again = Tracker(run, study)
    again.confirmed()
    again.report()
    again.close()
    assert again.problem is None
    assert differences(run) == []
    (own,) = shown(run, "role", "search")
    assert "exported" not in own.data.tags
    assert math.isnan(own.data.metrics["test_reasoning"])
    (gone,), (still,) = (shown(run, TRIAL, str(number)) for number in (0, 1))
    assert not {name for name in gone.data.metrics if name.startswith("confirmed")}
    assert "confirmed" not in gone.data.tags
    assert still.data.metrics["confirmed_reasoning"] == 0.75


def member(run: Run, study: Any, number: int) -> Any:
    """A trial as confirmation finds it."""
    label = f"trial {number}"
    recipe = studies.recipe_of(studies.scored(study)[number], run.search)
    assert recipe is not None
    claimed = Result.load(run.trial(number))
    found = Result.load(run.held_out("confirm", claimed.fingerprint))
    of = {label: recipe}, {label: claimed}, {label: found}
    return confirming.members_of(run.search, *of)[0]


def spoil(run: Run) -> list[str]:
    """Do to a store what outages, kills and people do; what each is called in `differences`."""
    client = mlflow.MlflowClient(tracking_uri=run.tracking)
    experiment = client.get_experiment_by_name(run.name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=100)
    trials = {int(r.data.tags[TRIAL]): r for r in found if TRIAL in r.data.tags}
    parent = next(r for r in found if r.data.tags.get("role") == "search").info.run_id

    def another(number: int) -> str:
        tags = {PARENT: parent, TRIAL: str(number), RUN: run.id}
        return client.create_run(experiment.experiment_id, tags=tags).info.run_id

    def of(number: int) -> str:
        return trials[number].info.run_id

    client.delete_run(of(0))
    client.log_metric(of(1), "reasoning", 0.123)
    another(2)
    client.set_tag(of(3), "front", "maybe")
    client.update_run(of(4), status="RUNNING")
    another(99)
    client.log_param(of(5), "unknown", "1")
    client.log_metric(parent, "hypervolume", 7.0, step=6)
    baseline = next(r for r in found if BASELINE in r.data.tags).info.run_id
    client.delete_run(baseline)
    return [
        "trial 0: has no run",
        "trial 1: metric reasoning is 0.123 in MLflow, not 0.25",
        "trial 2: has 2 runs",
        "trial 3: tag front is 'maybe' in MLflow",
        "trial 4: is running, not finished",
        "mergefront.trial 99: is in MLflow only",
        "trial 5: unknown is in MLflow only",
        "the search: metric hypervolume is 7.0 in MLflow",
        "uniform: has no run",
    ]


def test_sync_mends_whatever_is_wrong(
    searched: Callable[..., Searched],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    search = searched()
    search.baseline("uniform")
    for right in (4, 1, 2, 3, 2, 0):
        search.trial(right)
    study = search.tracker.study
    study.tell(study.ask(), state=TrialState.FAIL)
    search.end()
    run = search.run
    assert differences(run) == []
    expected = spoil(run)
    found = differences(run)
    for words in expected:
        assert any(line.startswith(words) for line in found), (words, found)
    assert len(found) == len(expected)
    done = sync(run)
    assert done.added == ["trial 0", "uniform"]
    assert sorted(done.replaced) == ["trial 1", "trial 5"]
    assert sorted(done.mended) == ["trial 3", "trial 4"]
    assert done.removed == ["trial 2 (1 more)", "mergefront.trial 99"]
    assert differences(run) == []
    assert sync(run).lines() == []  # and again nothing is to do
    monkeypatch.chdir(tmp_path)
    busy = CommandLine(monkeypatch, capsys)("sync", "runs/s")
    assert busy.code == 2
    assert "another mergefront is working on this run: process" in busy.err

    # Steps of trials that the study does not have any more: put back from an older copy.
    client = mlflow.MlflowClient(tracking_uri=run.tracking)
    experiment = client.get_experiment_by_name(run.name)
    assert experiment is not None
    own = f"tags.role = 'search' and tags.`{RUN}` = '{run.id}'"
    parent = client.search_runs([experiment.experiment_id], own)[0].info.run_id
    client.log_metric(parent, "trials", 9.0, step=9)
    assert differences(run)[0] == "the search: step 9 is in MLflow only"
    sync(run)
    assert differences(run) == []


def test_the_command_tells_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = a_run(write(tmp_path, models=MODELS))
    with locked(run.folder), Ledger(run, 1, 0.0) as ledger:
        study = studies.open_study(run)
        search = Searched(run, Untracked(study), ledger, Progress(run.search))  # type: ignore[arg-type]
        for right in (1, 2):
            search.trial(right)
    monkeypatch.chdir(tmp_path)
    mergefront = CommandLine(monkeypatch, capsys)
    before = mergefront("sync", "runs/s", "--dry-run")
    assert before.code == 1
    assert "trial 1: has no run" in before.out
    done = mergefront("sync", "runs/s")
    assert done.code == 0, done
    assert "added: trial 0, trial 1" in done.out
    assert done.out.rstrip().endswith("equal to the study")
    assert "nothing had to be done" in mergefront("sync", "runs/s").out
    other = mergefront("sync", "runs/s", "--tracking-uri", f"http://127.0.0.1:{free_port()}")
    assert other.code == 2
    assert other.err.count("\n") == 1


@dataclass
class Untracked:
    """In the place of a tracker that is killed before it writes anything."""

    study: Any

    def trial(self, *_: Any) -> None:
        return
