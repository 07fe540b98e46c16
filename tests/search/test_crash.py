"""Real processes, really killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import mlflow
import optuna
import psutil
import pytest

from search.demo import Trio
from tests.processes import until
from tests.search.kit import (
    finish,
    start,
    trial_files,
    workers_of,
    write_search,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

COMPLETE, FAIL = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL


def study_of(run: Path) -> optuna.Study:
    return optuna.load_study(study_name="small", storage=f"sqlite:///{run / 'study.db'}")


def test_a_killed_workers_trial_is_run_again(trio: Trio, tmp_path: Path) -> None:
    write_search(tmp_path, trio)
    run = tmp_path / "runs" / "small"
    process = start(tmp_path, "run", "small.yaml")
    until(lambda: len(trial_files(run)) >= 2)

    def kill_one() -> bool:
        busy = workers_of(process.pid, "ray::Worker.evaluate")
        for worker in busy[:1]:
            worker.kill()
        return bool(busy)

    until(kill_one)
    finish(process)
    assert "died with" in (run / "run.log").read_text(encoding="utf-8")
    trials = study_of(run).trials
    assert [trial.state for trial in trials] == [COMPLETE] * 8
    assert len(trial_files(run)) == 8
    assert (run / "recipe.yaml").is_file()


def test_a_killed_driver_loses_nothing_and_repeats_nothing(trio: Trio, tmp_path: Path) -> None:
    write_search(tmp_path, trio)
    run = tmp_path / "runs" / "small"
    process = start(tmp_path, "run", "small.yaml")
    until(lambda: len(trial_files(run)) >= 3)
    workers = workers_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive, "workers outlived their driver"
    kept = trial_files(run)
    told = {t.number: t for t in study_of(run).trials if t.state == COMPLETE}

    finish(start(tmp_path, "run", "small.yaml"))
    trials = study_of(run).trials
    complete = [trial for trial in trials if trial.state == COMPLETE]
    assert len(complete) == 8
    assert {name: trial_files(run)[name] for name in kept} == kept  # none run twice
    for number, trial in told.items():
        assert trials[number].values == trial.values
        assert trials[number].datetime_complete == trial.datetime_complete

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    shown = [r for r in runs if "mergefront.trial" in r.data.tags]
    assert sorted(int(r.data.tags["mergefront.trial"]) for r in shown) == [t.number for t in trials]
    for child in shown:
        trial = trials[int(child.data.tags["mergefront.trial"])]
        assert child.info.status == ("FAILED" if trial.state == FAIL else "FINISHED")
        if trial.state == COMPLETE:
            assert child.data.metrics["reasoning"] == trial.values[0]
            assert child.data.metrics["language"] == trial.values[1]


def test_ctrl_c_finishes_running_trials_and_confirm_goes_on(trio: Trio, tmp_path: Path) -> None:
    write_search(tmp_path, trio, budget={"trials": 40})
    run = tmp_path / "runs" / "small"
    process = start(tmp_path, "run", "small.yaml")
    until(lambda: len(trial_files(run)) >= 3)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "NOT confirmed" in output
    assert "mergefront confirm runs/small" in output
    trials = study_of(run).trials
    assert all(trial.state == COMPLETE for trial in trials)
    assert len(trials) < 40
    finish(start(tmp_path, "confirm", "runs/small"))
    assert json.loads((run / "confirmed.json").read_text(encoding="utf-8"))
    assert (run / "recipe.yaml").is_file()
