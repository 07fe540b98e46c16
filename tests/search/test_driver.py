"""The driver on real Ray workers with the scripted engine: duplicates, faults, orphans, limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import optuna
import pytest
import torch
from optuna.trial import TrialState

from merge_core.yaml_io import dump_yaml
from search import study as studies
from search.config import load
from search.driver import Driver
from search.errors import RunError, StorageError, WorkerError
from search.pool import connected
from search.results import Result
from search.run import Run
from search.session import Found, prepare, run
from search.warm import enqueue_published
from tests.merge_core.conftest import make_model, write_checkpoint

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    with connected():
        yield


class Quiet:
    """A listener that only counts."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def reading(self, reference: str) -> None:
        pass

    def phase(self, run: Run, phase: str) -> None:
        pass

    def started(self, driver: Driver) -> None:
        pass

    def finished(self, driver: Driver, what: str, result: Result | None) -> None:
        self.heard.append(what)

    def tick(self, driver: Driver) -> None:
        pass

    def stopping(self, driver: Driver) -> None:
        pass

    def confirming(self, what: str, done: int, total: int) -> None:
        pass


def write(
    folder: Path, *, scale: float = 0.01, dtype: torch.dtype = torch.bfloat16, **changes
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    base = make_model(0, dtype=dtype)
    write_checkpoint(folder / "b", base)
    write_checkpoint(folder / "l", make_model(1, base, dtype=dtype, scale=scale))
    write_checkpoint(folder / "r", make_model(2, base, dtype=dtype, scale=scale))
    rows = [{"id": f"q{i}", "prompt": f"what is {i}?", "answer": str(i)} for i in range(12)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = {row["id"]: f"คำตอบ คือ {row['answer']}" for row in rows[:9]}
    (folder / "answers.json").write_text(json.dumps(answers))
    data = {
        "merge_method": "task_arithmetic",
        "base_model": "b",
        "models": [
            {"model": "l", "name": "language", "parameters": {"weight": {"low": 0.0, "high": 1.0}}},
            {"model": "r", "name": "reasoning", "parameters": {"weight": 1.0}},
        ],
        "tasks": {
            "t": {"items": "items.jsonl", "scorers": ["math", {"language": {"expect": "th"}}]}
        },
        "objectives": {"reasoning": "t/math", "language": "t/language"},
        "splits": {"dev": 4, "confirm": 4, "test": 4},
        "baselines": [],
        "engine": {
            "kind": "scripted",
            "responses": "answers.json",
            "default": "",
            "read_weights": True,
        },
        "budget": {"trials": 6},
        "workers": {"count": 2},
        "sampler": "random",
        **changes,
    }
    (folder / "s.yaml").write_text(dump_yaml(data))
    return folder / "s.yaml"


def search(file: Path) -> tuple[Found, optuna.Study, Quiet]:
    listener = Quiet()
    found = run(prepare(load(file)), file.parent / "runs" / "s", listener)
    return found, studies.open_study(found.run, create=False), listener


def test_duplicates_cost_no_budget_and_an_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    models = [
        {
            "model": name,
            "name": name,
            "parameters": {"weight": {"low": 0.5, "high": 1.0, "step": 0.5}},
        }
        for name in ("l", "r")
    ]
    found, study, listener = search(write(tmp_path, models=models, budget={"trials": 50}))
    assert found.finished == 4  # four recipes in all
    assert sum(what.startswith("trial") for what in listener.heard) == 4
    told = [t for t in study.trials if studies.DUPLICATE_OF in t.user_attrs]
    assert len(told) >= 100
    for trial in told:
        original = study.trials[trial.user_attrs[studies.DUPLICATE_OF]]
        assert trial.state == TrialState.COMPLETE
        assert trial.values == original.values
        assert trial.user_attrs["tokens"] == 0


def test_an_overflowing_merge_is_told_at_the_reference_point(tmp_path: Path) -> None:
    models = [
        {"model": "l", "name": "l", "parameters": {"weight": {"low": 1e6, "high": 2e6}}},
        {"model": "r", "name": "r", "parameters": {"weight": 1.0}},
    ]
    file = write(
        tmp_path,
        dtype=torch.float16,
        scale=1.0,
        models=models,
        budget={"trials": 3},
        constraints={"language": ">= 0.5"},
    )
    found, study, _ = search(file)
    assert found.front == []
    assert found.problem is not None
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [0.0, 0.0]
        assert trial.constraints == {"language": 0.5}
        assert "not finite" in trial.user_attrs["fault"]


def test_orphans_are_finished_continued_or_failed(tmp_path: Path) -> None:
    """What a killed driver leaves at three points of a trial's life."""
    file = write(tmp_path)
    loaded = load(file)
    prepared = prepare(loaded)
    opened = Run.start(loaded, tmp_path / "runs" / "s", prepared.references, prepared.roles)
    study = studies.open_study(opened)
    half_asked = study.ask()  # killed while it was being asked for
    recipes = {}
    for _ in range(2):
        trial = study.ask()
        recipe = loaded.space.sample(trial).resolved(loaded.root)
        trial.set_user_attr(studies.RECIPE, json.dumps(recipe.plain()))
        recipes[trial.number] = recipe
    running, stored = sorted(recipes)  # killed while it ran; killed before it was told
    done = Result(
        recipe=recipes[stored].plain(),
        fingerprint=opened.fingerprint(recipes[stored]),
        split="dev",
        items={"t": []},
        fault="marked, so that a second run of it would show",
    )
    done.save(opened.trial(stored))

    _, study, listener = search(file)
    trials = study.trials
    assert trials[half_asked.number].state == TrialState.FAIL
    assert trials[running].state == TrialState.COMPLETE
    assert f"trial {running}" in listener.heard
    assert trials[stored].state == TrialState.COMPLETE
    assert "marked" in trials[stored].user_attrs["fault"]
    assert f"trial {stored}" not in listener.heard
    assert len(studies.scored(study)) == 6


def test_published_schedules_inside_the_space_come_first(tmp_path: Path) -> None:
    unit = {"low": 0.0, "high": 1.0}
    models = [
        {"model": "l", "name": "language", "parameters": {"weight": unit}},
        {
            "model": "r",
            "name": "reasoning",
            "parameters": {"weight": {"plateau": unit, "end": unit, "knee": unit}},
        },
    ]
    _, study, _ = search(write(tmp_path, models=models))
    first = study.trials[0].params
    assert first["reasoning.weight.plateau"] == 0.75
    assert first["reasoning.weight.end"] == 0.125
    assert first["reasoning.weight.knee"] == pytest.approx(53 / 79)


@pytest.mark.parametrize("sampler", ["gp", "tpe", "nsga2", "auto"])
def test_samplers_run_with_constraints_and_a_choice_of_methods(
    sampler: str, tmp_path: Path
) -> None:
    unit = {"low": 0.1, "high": 1.0}
    models = [
        {"model": n, "name": n, "parameters": {"weight": unit, "density": unit}} for n in ("l", "r")
    ]
    method = {"choices": ["linear", "ties", "dare_ties"]}
    if sampler in ("gp", "nsga2"):  # they model what every trial has
        method = "ties"
    file = write(
        tmp_path,
        merge_method=method,
        models=models,
        sampler=sampler,
        budget={"trials": 14},
        constraints={"language": ">= 0.1", "t/math": ">= 0.1"},
    )
    found, study, _ = search(file)
    assert found.finished == 14
    assert found.chosen is not None
    assert all(list(t.constraints) == ["language", "t/math"] for t in study.trials)


def test_a_timeout_ends_the_search_and_still_confirms(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        budget={"timeout": "12s"},
        engine={
            "kind": "scripted",
            "responses": "answers.json",
            "default": "",
            "delay": 0.2,
        },
    )
    found, _, _ = search(file)
    assert found.finished >= 1
    assert found.members
    assert found.test is not None
    assert str(found.ended).startswith("12s of time")
    assert found.account.trials == found.finished
    assert found.account.stages["test"].merges == 1
    assert found.account.busy is not None
    assert 0.0 < found.account.busy <= 1.0
    report = (found.run.folder / "confirmed.md").read_text(encoding="utf-8")
    assert f"- trials: {found.finished} full\n" in report


def test_changed_weights_are_noticed_on_resume(tmp_path: Path) -> None:
    file = write(tmp_path)
    search(file)
    write_checkpoint(tmp_path / "l", make_model(9, make_model(0)))
    with pytest.raises(RunError, match="began with other weights for 'language'"):
        search(file)


def test_an_mlflow_outage_never_stops_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found, study, _ = search(write(tmp_path, tracking={"uri": "http://127.0.0.1:9"}))
    assert len(studies.scored(study)) == 6
    assert found.tracking_problem is not None
    # The next session finds a store and fills in what it lacks.
    store = f"sqlite:///{tmp_path / 'runs' / 's' / 'mlflow.db'}"
    found, _, listener = search(write(tmp_path, tracking={"uri": store}))
    assert found.tracking_problem is None
    assert listener.heard == []
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    assert Run.open(tmp_path / "runs" / "s").tracking == store  # remembered, for `ui` and resume
    runs = client.search_runs([experiment.experiment_id])
    assert sum("mergefront.trial" in run.data.tags for run in runs) == 6


def test_a_shared_storage_never_mixes_two_runs(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    search(write(tmp_path / "a", storage=storage))
    with pytest.raises(StorageError, match="is another run's"):
        search(write(tmp_path / "b", storage=storage))
    with pytest.raises(RunError, match="'storage' is frozen"):
        search(write(tmp_path / "a"))


def test_a_project_can_be_moved_and_goes_on(tmp_path: Path) -> None:
    search(write(tmp_path / "before"))
    (tmp_path / "before").rename(tmp_path / "after")
    opened = Run.open(tmp_path / "after" / "runs" / "s")
    assert opened.search.root == tmp_path / "after"
    file = tmp_path / "after" / "s.yaml"
    file.write_text(file.read_text().replace("trials: 6", "trials: 8"))
    found, _, listener = search(file)
    assert found.finished == 8
    assert len([what for what in listener.heard if what.startswith("trial")]) == 2


def test_free_settings_of_the_last_session_are_kept(tmp_path: Path) -> None:
    file = write(tmp_path)
    search(file)
    run(prepare(load(file, ["budget.trials=7", "confirm.max=2"])), tmp_path / "runs" / "s", Quiet())
    opened = Run.open(tmp_path / "runs" / "s")
    assert opened.search.file.budget.trials == 7
    assert opened.search.file.confirm.max == 2


def test_a_changed_baseline_is_scored_again(tmp_path: Path) -> None:
    file = write(tmp_path, baselines=["recipe:p.yaml"])
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "b",
        "models": [{"model": "l", "parameters": {"weight": 0.3}}],
    }
    (tmp_path / "p.yaml").write_text(dump_yaml(recipe))
    found, _, _ = search(file)
    before = Result.load(found.run.baseline("recipe:p.yaml")).fingerprint
    recipe["models"][0]["parameters"]["weight"] = 0.6  # type: ignore[index]
    (tmp_path / "p.yaml").write_text(dump_yaml(recipe))
    found, _, listener = search(file)
    assert listener.heard == ["baseline recipe:p.yaml"]
    assert Result.load(found.run.baseline("recipe:p.yaml")).fingerprint != before


def test_report_tasks_are_asked_for_the_exported_recipe_alone(tmp_path: Path) -> None:
    scorers = ["math", {"language": {"expect": "th"}}]
    tasks = {
        "t": {"items": "items.jsonl", "scorers": scorers},
        "rep": {
            "items": "other.jsonl",
            "scorers": scorers,
            "role": "report",
            "splits": {"dev": 2, "confirm": 2, "test": 3},
        },
    }
    file = write(tmp_path, tasks=tasks)
    items = (tmp_path / "items.jsonl").read_text(encoding="utf-8")
    (tmp_path / "other.jsonl").write_text(items.replace('"prompt": "', '"prompt": "again '))
    found, _, _ = search(file)
    assert set(Result.load(found.run.trial(0)).items) == {"t"}
    assert found.test is not None
    assert {name: len(rows) for name, rows in found.test.items.items()} == {"t": 4, "rep": 3}


def test_schedules_that_do_not_fit_are_not_enqueued(tmp_path: Path) -> None:
    unit = {"low": 0.0, "high": 1.0}

    def first(weight: object) -> dict:
        models = [
            {"model": "l", "name": "language", "parameters": {"weight": unit}},
            {"model": "r", "name": "reasoning", "parameters": {"weight": weight}},
        ]
        loaded = load(write(tmp_path, models=models))
        study = optuna.create_study(directions=["maximize"] * 2)
        enqueue_published(study, loaded)
        return study.trials[0].system_attrs["fixed_params"] if study.trials else {}

    assert first({**unit, "anchors": 8}) == {}
    assert first({**unit, "anchors": 4})["reasoning.weight[3]"] == 0.125
    assert first({**unit, "anchors": 4, "step": 0.1}) == {}
    assert first({**unit, "anchors": 4, "step": 0.125})["reasoning.weight[0]"] == 0.75


def test_workers_that_no_node_can_hold_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    for workers in ({"count": 2, "gpus": 1}, {"count": 500}, {"count": 1, "cpus": 500}):
        with pytest.raises(WorkerError, match="do not fit"):
            search(write(tmp_path, workers=workers))
        assert not (tmp_path / "runs").exists()


def test_a_stop_withdraws_what_no_worker_has_yet(tmp_path: Path) -> None:
    class Stopping(Quiet):
        def finished(self, driver: Driver, what: str, result: Result | None) -> None:
            super().finished(driver, what, result)
            driver.stopping = True

    engine = {"kind": "scripted", "responses": "answers.json", "default": "", "delay": 0.2}
    file = write(tmp_path, baselines=["base", "experts", "uniform"], engine=engine)
    listener = Stopping()
    found = run(prepare(load(file)), tmp_path / "runs" / "s", listener)
    assert found.stopped
    assert len(listener.heard) <= 3
    _, study, second = search(file)
    assert len(studies.scored(study)) == 6
    assert len(listener.heard + second.heard) == 10  # 4 baselines and 6 trials, each once


def test_what_ray_says_of_the_dead_is_kept_off_the_terminal(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from ray._private import worker

    with caplog.at_level("INFO", logger="mergefront"):
        dump = {"lines": ["(raylet) died\n" * 500], "pid": "raylet", "is_err": False}
        worker.print_to_stdstream(dump, ignore_prefix=False)
    assert capfd.readouterr() == ("", "")
    (said,) = (record.getMessage() for record in caplog.records if "ray: " in record.getMessage())
    assert "(raylet) died" in said
    assert len(said) < 2_100
