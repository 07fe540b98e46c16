"""What pages show of a run: it agrees with the study, and needs nothing but the folder."""

from __future__ import annotations

import json
import math
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_core import Checkpoint
from objectives import ItemScore
from search import study as studies
from search.config import load
from search.errors import RunError
from search.front import hypervolume
from search.ledger import Session
from search.results import Result, Stopped
from search.run import Run
from search.study import attributes_of
from search.view import Clock, RunView, Work
from tests.search.small import make_workplace
from tests.search.views import BEGAN, Told, search_of, study_of, view_of

PARTIAL = {"partial": {"reason": "behind trial 0", "items": 2, "of": 4, "audited": False}}


def items(right: float) -> dict:
    return {
        "sums": [
            ItemScore(f"i{n}", {"math": right, "language": 1.0}, "7", 5, "stop") for n in range(4)
        ]
    }


def result(right: float, **rest: object) -> Result:
    seconds = {"load": 2.0, "generate": 3.0}
    return Result({}, "f" * 16, "dev", items(right), seconds, worker="w3", **rest)


@settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
            st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
            st.sampled_from(["full", "partial", "fault", "duplicate", "taken", "unfit"]),
        ),
        max_size=12,
    )
)
def test_front_and_steps_are_those_of_the_study(tmp_path: Path, drawn: list) -> None:
    extra = {
        "partial": PARTIAL,
        "fault": {"fault": "NaN"},
        "duplicate": {"duplicate_of": 0},
        "taken": {"origin": "baseline base"},
    }
    told = [
        Told((x, y), extra.get(kind, {}), constraints={"english": 1.0 if kind == "unfit" else 0.0})
        for x, y, kind in drawn
    ]
    search = search_of(tmp_path)
    view, study = view_of(tmp_path, search, told), study_of(search, told)
    assert view.front == studies.current_front(study, search)
    assert [n for n, trial in view.trials.items() if trial.on_front] == sorted(view.front)
    assert len(view.steps) == len(studies.paid(studies.scored(study)))
    assert [step.finished for step in view.steps] == list(range(1, len(view.steps) + 1))
    if view.steps:
        whole = studies.points(studies.scored(study), search)
        assert view.volume == pytest.approx(hypervolume(list(whole.values())))
        assert view.steps[-1].size == len(view.front)
    kinds = ["full" if kind == "unfit" else kind for _, _, kind in drawn]
    assert [trial.state for trial in view.trials.values()] == kinds
    for trial, kind in zip(view.trials.values(), drawn, strict=True):
        assert trial.feasible == (kind[2] not in ("fault", "unfit"))
        assert bool(trial.intervals) == (kind[2] != "partial")


def test_a_trial_tells_who_did_it_when_and_why_it_ended(tmp_path: Path) -> None:
    told = [
        Told((0.5, 0.5)),
        Told((0.4, 0.4), PARTIAL),
        Told((0.5, 0.5), {"duplicate_of": 0}),
        Told((0.3, 0.3), {"origin": "baseline uniform"}),
        Told(()),
        Told(None),
    ]
    search = search_of(tmp_path)
    run = view_of(tmp_path, search, told).run
    run.incidents.record("worker_lost", "trial 4 on w1", "it was killed")
    view = RunView.of(run, study_of(search, told))
    full, partial, duplicate, taken, failed, running = view.trials.values()
    assert (full.worker, full.tokens, full.why) == ("w0", 100, "")
    assert full.ended == pytest.approx(BEGAN.timestamp() + 10)
    assert full.began == pytest.approx(full.ended - 7)
    assert (partial.why, partial.items) == ("behind trial 0", (2, 4))
    assert (duplicate.why, duplicate.worker) == ("the same merge as trial 0", "")
    assert (taken.why, taken.seconds) == ("scores of baseline uniform", {})
    assert (failed.state, failed.why, failed.values) == ("failed", "it was killed", ())
    assert (running.state, running.ended, running.recipe) == ("running", None, None)
    assert [work.what for work in view.work] == ["trial 0", "trial 1"]
    assert full.recipe["models"][0]["model"] == "models/thai"  # as the file names it


def test_what_a_worker_did_is_told_with_the_trial(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    assert attributes_of(result(1.0), search)[studies.WORKER] == "w3"
    assert studies.WORKER not in attributes_of(result(1.0, origin="trial 7 of run x"), search)
    stopped = Stopped("behind", {"right": 0.1, "english": 0.1}, {"english": 0.1}, 2, 4)
    assert attributes_of(result(1.0, stopped=stopped), search)[studies.WORKER] == "w3"


def test_baselines_are_in_the_files_order_and_need_no_models(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    run = view_of(tmp_path, search, []).run
    for label, right in (("uniform", 1.0), ("base", 0.0), ("expert:reasoning", 1.0)):
        result(right).save(run.baseline(label))
    result(0.0, fault="NaN").save(run.folder / "baselines" / "older.json")
    shutil.rmtree(tmp_path / "models", ignore_errors=True)
    view = RunView.of(run, study_of(search, []))
    assert list(view.baselines) == ["base", "uniform", "expert:reasoning", "older"]
    uniform = view.baselines["uniform"]
    assert uniform.values == (1.0, 1.0)
    assert uniform.intervals["right"][2] == 4
    assert uniform.ended - uniform.began == pytest.approx(5.0)
    assert view.baselines["older"].why == "NaN"
    assert not view.baselines["older"].feasible
    assert view.layers is None
    assert (view.members, view.chosen, view.test, view.problem) == ([], None, None, "")


def test_a_run_knows_the_layers_of_models_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_workplace(tmp_path)
    text = (tmp_path / "search.yaml").read_text()
    for name in ("base", "thai", "r1"):
        home = tmp_path / "cache" / f"models--org--{name}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("a" * 40)
        (home / "snapshots").mkdir()
        (tmp_path / "models" / name).rename(home / "snapshots" / ("a" * 40))
        text = text.replace(f"models/{name}", f"org/{name}")
    (tmp_path / "search.yaml").write_text(text)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    search = load(tmp_path / "search.yaml")
    folder, references = tmp_path / "runs" / "search", ["org/base", "org/thai", "org/r1"]
    layers = Checkpoint.open("org/base").layers
    run = Run.start(search, folder, references, {"base": "org/base"})
    assert [*run.digests] == references
    # One that was begun by an older version learns it when it is gone on with.
    manifest = json.loads((folder / "run.json").read_text())
    for held in manifest["sources"].values():
        assert held.pop("layers") == layers
    (folder / "run.json").write_text(json.dumps(manifest))
    assert RunView.of(Run.open(folder), study_of(search, [])).layers is None
    Run.start(search, folder, references, {"base": "org/base"})
    shutil.rmtree(tmp_path / "cache")
    assert RunView.of(Run.open(folder), study_of(search, [])).layers == layers


def test_a_damaged_result_is_told_and_a_study_of_before_opens(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    view = view_of(tmp_path, search, [Told((0.5, 0.5), worker="")])
    assert view.trials[0].worker == ""
    assert view.work == []
    assert view.importances == []
    path = view.run.baseline("base")
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(RunError, match="damaged"):
        RunView.of(view.run, study_of(search, []))


def test_a_trial_whose_attributes_are_damaged_is_named(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    view = view_of(tmp_path, search, [])
    study = study_of(search, [Told((0.5, 0.5)), Told((0.4, 0.6), {"seconds": "x"})])
    with pytest.raises(RunError, match="trial 1 of the study is damaged"):
        RunView.of(view.run, study)


@given(
    st.lists(st.tuples(st.integers(0, 10**5), st.integers(1, 10**4)), min_size=1, max_size=5),
    st.floats(0, 1),
)
@settings(max_examples=50, derandomize=True)
def test_the_clock_runs_in_sessions_only(held: list, share: float) -> None:
    at, sessions, whole = BEGAN.astimezone(), [], 0.0
    for gap, seconds in held:
        at = type(at).fromtimestamp(at.timestamp() + gap + 10, at.tzinfo)
        sessions.append(Session(at.isoformat(), float(seconds), 1, 0.0))
        clock = Clock.of(sessions)
        inside = at.timestamp() + share * seconds
        assert clock.hours(inside) == pytest.approx((whole + share * seconds) / 3600)
        whole += seconds
        at = type(at).fromtimestamp(at.timestamp() + seconds, at.tzinfo)
        assert clock.hours(at.timestamp() + 5) is None
    assert math.isclose(sum(s.seconds for s in sessions), whole)


def test_work_ends_when_it_was_told() -> None:
    work = Work.of("trial 1", "w0", 100.0, {"load": 3.0, "generate": 7.0})
    assert (work.began, work.merged, work.ended) == (90.0, 93.0, 100.0)
    assert json.dumps(work.what) == '"trial 1"'


def test_times_are_the_drivers_whatever_the_zone_of_who_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial = optuna.trial.create_trial(value=1.0)
    trial.datetime_start, trial.datetime_complete = datetime(2026, 7, 1, 12), None
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()
    for zone in ("UTC", "Asia/Bangkok", "America/Los_Angeles"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            trial.user_attrs = {studies.ZONE: 0.0}
            assert (studies.began(trial), studies.ended(trial)) == (noon, None)
            trial.user_attrs = {studies.ZONE: studies.zone()}  # a winter's, for all that is known
            shift = studies.began(trial) - trial.datetime_start.timestamp()
            assert shift in (0.0, 3600.0, -3600.0)
        finally:
            monkeypatch.undo()
            time.tzset()
