"""A driver that is killed at any point of a trial's life resumes rightly."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import mlflow
import optuna
import pytest
from optuna.trial import TrialState

from objectives.engines.scripted import ScriptedEngine
from search import study as studies
from search import worker
from search.config import load
from search.results import Result, values_of
from search.run import Run
from search.session import prepare
from search.worker import Evaluator, Job
from tests.search import life
from tests.search.test_driver import write

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

TRIALS = 5


def life_file(folder: Path, scorers: Sequence[str] = (), **changes: object) -> Path:
    """Two tasks, so that a trial has two blocks; a baseline; no delay."""
    scored = ["math", {"language": {"expect": "th"}}, *scorers]
    file = write(
        folder,
        tasks={name: {"items": f"{name}.jsonl", "scorers": scored} for name in ("t", "u")},
        objectives={"reasoning": ["t/math", "u/math"], "language": "t/language"},
        baselines=["uniform"],
        budget={"trials": TRIALS},
        racing=False,
        confirm={"max": 2},
        **changes,
    )
    for name in ("t", "u"):
        rows = [
            {"id": f"{name}{i}", "prompt": f"{name}: what is {i}?", "answer": str(i)}
            for i in range(12)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return file


def check_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial is there once and is worth what its recipe is; MLflow shows the study."""
    folder = file.parent / "runs" / "s"
    with sqlite3.connect(folder / "study.db") as held:
        assert held.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    opened = Run.open(folder)
    search = opened.search
    trials = studies.open_study(opened, create=False).trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == TRIALS
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert len({t.user_attrs[studies.FINGERPRINT] for t in complete}) == TRIALS

    monkeypatch.setattr(
        worker, "make_engine", lambda config, _: ScriptedEngine(config, respond=life.answer)
    )
    alone = Evaluator(prepare(load(file)).setup())
    for trial in complete:
        recipe = studies.recipe_of(trial, search)
        assert recipe is not None
        scored = alone.evaluate(Job("alone", recipe, opened.fingerprint(recipe), "dev"))
        stored = Result.load(opened.trial(trial.number))
        assert stored.items == scored.items
        assert trial.values == values_of(scored, search)
    for split in ("dev", "confirm", "test"):
        for path in (folder / split).glob("*.json"):
            assert Result.load(path).items
    assert sorted(path.name for path in (folder / "trials").iterdir()) == [
        opened.trial(trial.number).name for trial in complete
    ]
    assert not list((folder / "blocks").glob("*"))
    assert (folder / "recipe.yaml").is_file()
    check_mlflow(folder, trials)


def check_mlflow(folder: Path, trials: list[optuna.trial.FrozenTrial]) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    shown = client.search_runs([experiment.experiment_id], max_results=1000)
    children = {
        int(run.data.tags["mergefront.trial"]): run
        for run in shown
        if "mergefront.trial" in run.data.tags
    }
    assert sorted(children) == [trial.number for trial in trials]
    assert sum("mergefront.trial" in run.data.tags for run in shown) == len(trials)  # each once
    assert sum("mergefront.baseline" in run.data.tags for run in shown) == 1
    for trial in trials:
        child = children[trial.number]
        # No worker fails here: what a killed driver left was never begun.
        begun = trial.state == TrialState.COMPLETE
        assert child.info.status == ("FINISHED" if begun else "KILLED")
        if begun:
            metrics = child.data.metrics
            assert [metrics["reasoning"], metrics["language"]] == trial.values


@pytest.mark.parametrize("point", life.POINTS)
def test_a_driver_killed_at_any_point_resumes(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = life_file(tmp_path)
    log = tmp_path / "printed.log"
    code, said = life.run(log, life.at, point, file)
    assert code == -signal.SIGKILL, said
    trials = tmp_path / "runs" / "s" / "trials"
    kept = {path: path.stat().st_mtime_ns for path in trials.glob("*.json")}
    code, said = life.run(log, life.search, file)
    assert code == 0, said
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # none is scored twice
    check_whole(file, monkeypatch)
