"""What a search begins with: recipe files, earlier runs; and that no merge is paid for twice."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from merge_core.yaml_io import dump_yaml
from objectives import ItemScore
from search import study as studies
from search import warm
from search.budget import Budget, Shares
from search.config import Search, load
from search.driver import Driver
from search.errors import ConfigError, RunError
from search.ledger import Ledger
from search.pool import Outcome
from search.results import Result, Stopped
from search.run import Run, check
from search.session import prepare
from search.worker import Evaluator, Job, Setup
from tests.merge_core.conftest import make_model, write_checkpoint

UNIT = {"low": 0.0, "high": 1.0}
HALVES = {"low": 0.5, "high": 1.0, "step": 0.5}
ROWS = [{"id": f"q{i}", "prompt": f"what is {i}?", "answer": str(i)} for i in range(12)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, two experts and items."""
    folder = tmp_path_factory.mktemp("warm")
    base = make_model(0)
    write_checkpoint(folder / "b", base)
    write_checkpoint(folder / "l", make_model(1, base))
    write_checkpoint(folder / "r", make_model(2, base))
    for name, rows in (
        ("items", ROWS),
        ("other", [{**r, "prompt": r["prompt"] * 2} for r in ROWS]),
    ):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def data_of(weight: Any = UNIT, **changes: Any) -> dict[str, Any]:
    models = [{"model": n, "name": n, "parameters": {"weight": weight}} for n in ("l", "r")]
    return {
        "merge_method": "task_arithmetic",
        "base_model": "b",
        "models": models,
        "tasks": {
            "t": {"items": "items.jsonl", "scorers": ["math", {"language": {"expect": "th"}}]}
        },
        "objectives": {"right": "t/math", "said": "t/language"},
        "splits": {"dev": 4, "confirm": 4, "test": 4},
        "baselines": [],
        "engine": {"kind": "scripted", "default": "7", "read_weights": True},
        "budget": {"trials": 6},
        "workers": {"count": 1},
        "sampler": "random",
        **changes,
    }


def search_of(place: Path, name: str, weight: Any = UNIT, **changes: Any) -> Search:
    file = place / f"{name}.yaml"
    file.write_text(dump_yaml(data_of(weight, **changes)))
    return load(file)


def started(search: Search, folder: Path) -> tuple[Run, optuna.Study]:
    prepared = prepare(search)
    run = Run.start(search, folder, prepared.references, prepared.roles)
    return run, studies.open_study(run)


def scored(run: Run, study: optuna.Study, count: int, stop: Sequence[int] = ()) -> None:
    """Trials with scores made of their weights; those in `stop` are estimates."""
    for _ in range(count):
        trial = study.ask()
        recipe = run.search.space.sample(trial)
        left, right = (float(trial.params[f"{name}.weight"]) for name in ("l", "r"))
        items = [
            ItemScore(
                row["id"], {"math": float(at < 4 * right), "language": 1 - left}, "", 5, "stop"
            )
            for at, row in enumerate(ROWS[:4])
        ]
        estimate = {"right": right / 2, "said": 0.25}
        stopped = Stopped("behind", estimate, {}, 2, 4) if trial.number in stop else None
        resolved = recipe.resolved(run.search.root)
        result = Result(
            resolved.plain(), run.fingerprint(resolved), "dev", {"t": items}, {"generate": 1.0}
        )
        result = result if stopped is None else Result(**{**result.__dict__, "stopped": stopped})
        trial.set_user_attr(studies.RECIPE, json.dumps(recipe.plain()))
        result.save(run.trial(trial.number))
        studies.tell(study, run.search, trial, result)


def fixed(study: optuna.Study) -> list[Mapping[str, Any]]:
    return [
        trial.system_attrs["fixed_params"]
        for trial in study.get_trials(states=(TrialState.WAITING,))
    ]


# ---- recipe files


def recipe_file(place: Path, name: str, weights: tuple[float, float], **changes: Any) -> str:
    models = [
        {"model": n, "parameters": {"weight": w}} for n, w in zip(("l", "r"), weights, strict=True)
    ]
    recipe = {"merge_method": "task_arithmetic", "base_model": "b", "models": models, **changes}
    (place / f"{name}.yaml").write_text(dump_yaml(recipe))
    return f"recipe:{name}.yaml"


def test_a_recipe_inside_the_space_is_tried_first(place: Path, tmp_path: Path) -> None:
    entry = recipe_file(place, "inside", (0.25, 0.75))
    search = search_of(place, "s", sampler={"warm_starts": [entry]})
    assert warm.check(search) == []
    run, study = started(search, tmp_path / "run")
    warm.begin(study, run)
    warm.begin(study, run)
    assert fixed(study) == [{"l.weight": 0.25, "r.weight": 0.75}]
    assert search.space.sample(study.ask()).plain()["models"][0]["parameters"] == {"weight": 0.25}
    warm.begin(study, run)
    assert fixed(study) == []


def test_a_recipe_that_cannot_be_tried_is_told_before_anything_runs(place: Path) -> None:
    cases = {
        recipe_file(place, "outside", (0.25, 1.75)): "lies outside the space",
        recipe_file(place, "method", (0.25, 0.75), merge_method="linear"): "lies outside the space",
        recipe_file(place, "base", (0.25, 0.75), base_model="l"): "not this search's",
        "recipe:none.yaml": "no such file",
        "run:nowhere": "holds no run",
    }
    for entry, said in cases.items():
        search = search_of(place, "s", sampler={"warm_starts": ["published", entry]})
        with pytest.raises(ConfigError) as caught:
            prepare(search)
        line = (place / "s.yaml").read_text().splitlines()[int(str(caught.value).split(":")[1]) - 1]
        assert entry in line
        assert str(caught.value).startswith(f"{place / 's.yaml'}:")
        assert said in str(caught.value)


def test_what_was_tried_first_need_not_stay(place: Path, tmp_path: Path) -> None:
    """A session that goes on, or confirms, reads nothing of a warm start that is done."""
    started(search_of(place, "s"), tmp_path / "old")
    entry = recipe_file(place, "gone", (0.25, 0.75))
    search = search_of(place, "goes_on", sampler={"warm_starts": [entry]})
    search = warm.from_run(search, tmp_path / "old")
    folder = tmp_path / "run"
    assert len(warm.check(search, folder)) == 1
    run, study = started(search, folder)
    (place / "gone.yaml").unlink()
    with pytest.raises(ConfigError, match="no such file"):
        prepare(search, folder)  # a session that was killed before it began with them
    recipe_file(place, "gone", (0.25, 0.75))
    warm.begin(study, run)
    (place / "gone.yaml").unlink()
    shutil.rmtree(tmp_path / "old")
    prepare(warm.from_run(search, tmp_path / "old"), folder)
    with pytest.raises(ConfigError, match=r"--from \S*old: holds no run"):
        prepare(warm.from_run(search_of(place, "s"), tmp_path / "old"), tmp_path / "another")


# ---- earlier runs


def test_results_of_an_earlier_run_are_taken_over(place: Path, tmp_path: Path) -> None:
    before, old = started(search_of(place, "s"), tmp_path / "old")
    scored(before, old, 8)
    inside = [t for t in old.trials if max(t.params.values()) <= 0.8]
    assert 0 < len(inside) < 8
    search = search_of(
        place,
        "narrowed",
        {"low": 0.0, "high": 0.8},
        # Scores are stored per item: what is made of them may be another thing.
        objectives={"said": "t/language", "right": "t/math"},
        constraints={"right": ">= 0.5"},
    )
    search = warm.from_run(search, tmp_path / "old")
    assert search.file.sampler.warm_starts[1:] == ["published"]
    assert warm.check(search) == [
        "run old: its results are taken over where its models are the same"
    ]
    run, study = started(search, tmp_path / "new")
    lines = warm.begin(study, run)
    assert lines == [
        f"run old: {len(inside)} results are taken over; {8 - len(inside)} lie outside the space"
    ]
    assert len(study.trials) == len(inside)
    for trial, was in zip(study.trials, inside, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.params == pytest.approx(was.params, rel=1e-5)
        assert trial.values == was.values[::-1]
        assert trial.constraints == {"right": 0.5 - was.values[0]}
        assert trial.user_attrs["tokens"] == 0
        assert trial.user_attrs[studies.ORIGIN] == f"trial {was.number} of run old"
        fingerprint = trial.user_attrs[studies.FINGERPRINT]
        assert fingerprint == was.user_attrs[studies.FINGERPRINT]
        recipe = studies.recipe_of(trial, search)
        assert recipe is not None
        assert run.fingerprint(recipe) == fingerprint
        assert Result.load(run.trial(trial.number)).fingerprint == fingerprint
    assert studies.paid(studies.scored(study)) == {}
    assert studies.current_front(study, search)


def test_a_damaged_result_is_told_before_a_run_begins_with_it(place: Path, tmp_path: Path) -> None:
    before, old = started(search_of(place, "s"), tmp_path / "old")
    scored(before, old, 3)
    before.trial(1).write_text("{")
    with pytest.raises(ConfigError, match=r"--from \S*old: \S*000001.json: is damaged"):
        warm.check(warm.from_run(search_of(place, "s"), tmp_path / "old"))


def test_a_driver_killed_while_it_took_over_goes_on(place: Path, tmp_path: Path) -> None:
    before, old = started(search_of(place, "s"), tmp_path / "old")
    scored(before, old, 4)
    search = warm.from_run(search_of(place, "again"), tmp_path / "old")
    run, study = started(search, tmp_path / "new")
    warm.begin(study, run)
    study.set_user_attr(warm.BEGUN, [])
    half = Result.load(run.trial(0))
    half.save(run.trial(4))  # killed between the result file and the study
    assert warm.begin(study, run) == ["run old: 0 results are taken over"]
    assert len(study.trials) == 4
    assert not run.trial(4).exists()


def test_estimates_are_carried_as_estimates(place: Path, tmp_path: Path) -> None:
    before, old = started(search_of(place, "s"), tmp_path / "old")
    scored(before, old, 4, stop=(1, 2))
    search = warm.from_run(search_of(place, "again"), tmp_path / "old")
    run, study = started(search, tmp_path / "new")
    warm.begin(study, run)
    partial = [t.number for t in study.trials if studies.PARTIAL in t.user_attrs]
    assert partial == [1, 2]
    assert [t.values for t in study.trials] == [t.values for t in old.trials]
    assert not set(partial) & set(studies.current_front(study, search))

    other = search_of(place, "other", objectives={"right": "t/math"})
    run, study = started(warm.from_run(other, tmp_path / "old"), tmp_path / "other")
    (line,) = warm.begin(study, run)
    assert line == "run old: 2 results are taken over; 2 are estimates of other objectives"


def test_where_the_items_differ_the_front_is_tried_first(place: Path, tmp_path: Path) -> None:
    before, old = started(search_of(place, "s"), tmp_path / "old")
    scored(before, old, 6)
    front = studies.current_front(old, before.search)
    tasks = {"t": {**data_of()["tasks"]["t"], "items": "other.jsonl"}}
    search = warm.from_run(search_of(place, "others", tasks=tasks), tmp_path / "old")
    (note,) = warm.check(search)
    assert "its task 't' has other items or scorers" in note
    run, study = started(search, tmp_path / "new")
    (line,) = warm.begin(study, run)
    assert f"so {len(front)} recipes of its front are tried first" in line
    tried = [pytest.approx(old.trials[number].params, rel=1e-5) for number in front]
    assert fixed(study) == tried
    assert studies.scored(study) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"splits": {"dev": 3, "confirm": 4, "test": 4}}, "splits is another"),
        ({"splits": {"dev": 4, "confirm": 4, "test": 4, "seed": 1}}, "splits is another"),
        ({"engine": {"kind": "vllm", "quantization": "fp8"}}, "engine is another"),
        (
            {"tasks": {"t": {**data_of()["tasks"]["t"], "generate": {"max_tokens": 9}}}},
            "its task 't' is another",
        ),
    ],
)
def test_what_makes_results_another_matter(
    change: dict[str, Any], said: str, place: Path, tmp_path: Path
) -> None:
    started(search_of(place, "s"), tmp_path / "old")
    (note,) = warm.check(warm.from_run(search_of(place, "t", **change), tmp_path / "old"))
    assert said in note


def test_other_weights_under_the_same_names_are_noticed(place: Path, tmp_path: Path) -> None:
    before, old = started(search_of(place, "s"), tmp_path / "old")
    scored(before, old, 3)
    write_checkpoint(tmp_path / "l", make_model(9, make_model(0)))
    models = data_of()["models"]
    models[0]["model"] = str(tmp_path / "l")
    search = warm.from_run(search_of(place, "t", models=models), tmp_path / "old")
    run, study = started(search, tmp_path / "new")
    (line,) = warm.begin(study, run)
    assert "its models are others" in line
    assert len(fixed(study)) == len(studies.current_front(old, before.search))


# ---- the driver: no merge is paid for twice


class Here:
    """The pool's duties in this process, with the worker's own evaluator."""

    def __init__(self, setup: Setup, paid: list[str]) -> None:
        self._evaluator = Evaluator(setup, "here")
        self._jobs: list[Job] = []
        self.paid = paid
        self.size = 2

    @property
    def places(self) -> int:
        return max(0, self.size - len(self._jobs))

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def withdraw(self) -> None:
        self._jobs.clear()

    def wait(self, timeout: float) -> list[Outcome]:
        job = self._jobs.pop()  # the last first: a baseline comes after the trials that equal it
        self.paid.append(job.fingerprint)
        return [Outcome(job, self._evaluator.evaluate(job))]


class Nobody:
    """Listens, and tracks, without a word."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def drive(search: Search, folder: Path, paid: list[str]) -> tuple[Driver, optuna.Study]:
    prepared = prepare(search)
    run = Run.start(search, folder, prepared.references, prepared.roles)
    pool = Here(prepared.setup(), paid)
    with nullcontext(Ledger(run, 1, 0.0)) as ledger:
        budget = Budget(search, Shares.of(prepared, 0), ledger, time.monotonic())
        nobody = Nobody(studies.open_study(run))
        driver = Driver(run, pool, nobody, prepared.baselines, budget, nobody)
        driver.search_all()
    return driver, driver.study


def test_no_merge_is_paid_for_twice(place: Path, tmp_path: Path) -> None:
    """Baselines that are trials, trials that are baselines, sessions, and a second run."""
    paid: list[str] = []
    same = recipe_file(place, "same", (0.5, 1.0))
    search = search_of(place, "s", HALVES, baselines=[same, "uniform"], budget={"trials": 50})
    driver, study = drive(search, tmp_path / "one", paid)
    assert driver.exhausted
    assert len(paid) == len(set(paid)) == 5  # four recipes in all, one of them a baseline; uniform
    told = studies.scored(study)
    assert len(told) == 4
    taken = {number for number, t in told.items() if studies.ORIGIN in t.user_attrs}
    assert {told[n].user_attrs[studies.ORIGIN] for n in taken} == {f"baseline {same}"}
    assert driver.finished == driver.budget.finished == 3  # the baseline's trial was for nothing
    duplicates = [t for t in study.trials if studies.DUPLICATE_OF in t.user_attrs]
    assert all(t.user_attrs["tokens"] == 0 for t in duplicates)

    # A baseline that a later session adds, and that is a trial already.
    also = recipe_file(place, "also", (1.0, 1.0))
    added = search_of(place, "s", HALVES, baselines=[same, "uniform", also], budget={"trials": 3})
    drive(added, tmp_path / "one", paid)
    assert len(paid) == 5
    baseline = Result.load(driver.run.baseline(also))
    assert baseline.origin.startswith("trial ")
    assert baseline.tokens == 0

    # Another run takes all of it over.
    search = search_of(place, "two", UNIT, baselines=[same, "uniform"], budget={"trials": 2})
    driver, study = drive(warm.from_run(search, tmp_path / "one"), tmp_path / "two", paid)
    assert driver.notes == ["run one: 4 results are taken over"]
    assert driver.finished == 2
    assert len(studies.scored(study)) == 6
    assert len(paid) == len(set(paid)) == 7


def test_a_baseline_that_is_a_trial_is_waited_for(place: Path, tmp_path: Path) -> None:
    """The published schedule is often both."""
    entry = recipe_file(place, "both", (0.25, 0.75))
    paid: list[str] = []
    search = search_of(
        place, "s", baselines=[entry], sampler={"name": "random", "warm_starts": [entry]}
    )
    driver, study = drive(search, tmp_path / "run", paid)
    first = study.trials[0]
    assert first.user_attrs[studies.ORIGIN] == f"baseline {entry}"
    assert first.params == {"l.weight": 0.25, "r.weight": 0.75}
    assert driver.finished == 6
    assert len(paid) == len(set(paid)) == 7


def test_what_an_engine_answers_with_is_kept_for_life(place: Path, tmp_path: Path) -> None:
    def with_engine(**settings: Any) -> Search:
        return search_of(place, "v", engine={"kind": "vllm", **settings})

    started(with_engine(max_model_len=4096), tmp_path / "run")
    room = {"tensor_parallel": 2, "max_num_seqs": 8, "gpu_memory_utilization": 0.5}
    check(with_engine(max_model_len=4096, **room), tmp_path / "run")
    for change in ({"max_model_len": 2048}, {"quantization": "fp8"}, {"dtype": "float32"}):
        with pytest.raises(RunError, match=rf"'engine\.{next(iter(change))}' is frozen in run"):
            check(with_engine(**{"max_model_len": 4096, **change}), tmp_path / "run")
