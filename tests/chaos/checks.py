"""What must be true after the last kill, looked up by code of its own wherever that is possible.

Each check gives its problems as lines; none is what all wish for.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from objectives.splits import Split
from tests.chaos import processes
from tests.chaos.parts import BIN
from tests.chaos.soak import Soak
from tests.chaos.workplace import AT_LEAST, NAME, OBJECTIVES
from tests.processes import end

SCORES = ("math", "language")
"""Of an item, in the order of the objectives."""

_TEMPORARY = r"\..+\.[a-z0-9_]{8}|mergefront-(\w+-)*[a-z0-9_]{8}"

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Trial:
    """A trial as the database has it."""

    number: int
    state: str
    values: tuple[float, ...]
    params: dict[str, float]
    attributes: dict[str, Any]

    @property
    def own(self) -> bool:
        """Whether it is complete with scores of its own."""
        return self.state == "COMPLETE" and "duplicate_of" not in self.attributes


def all_of(soak: Soak) -> list[str]:
    """Every check of a search that has ended, with all its services up."""
    trials = read_study(soak)
    left_out = soak.told.left_out
    problems = [
        *([f"{left_out} kills were left out: time was up"] if left_out else []),
        *(f"the driver ended by itself: {said}" for said in soak.told.gave_up),
        *study(trials, soak.trials),
        *results(trials, soak.run),
        *scores(trials, soak.run, soak.work / f"{NAME}.yaml"),
        *confirmed(soak.run, soak.work / f"{NAME}.yaml"),
        *sync(soak),
        *mlflow(trials, soak.mlflow.uri),
        *gpus(soak),
        *nobody_left(),
        *litter(soak),
    ]
    soak.say(f"checked {len(trials)} trials: {len(problems)} problems")
    return problems


def put_away(soak: Soak) -> list[str]:
    """End all services; whoever is still there some moments later is nobody's."""
    soak.close()
    deadline = time.monotonic() + 20.0  # until Ray's agents have seen that their raylets are gone
    while left := processes.descendants(lambda line: "resource_tracker" not in line):
        processes.bury(set())
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    told = [
        f"still there after everything was ended: {processes.line_of(one)[:120]}" for one in left
    ]
    end(left)
    return told


# ---- the study


def read_study(soak: Soak) -> list[Trial]:
    """All trials, with plain SQL."""

    def rows(statement: str) -> Rows:
        if soak.database is not None:
            return soak.database.sql(statement)
        with closing(sqlite3.connect(soak.folder / "study.db")) as held:
            return held.execute(statement).fetchall()

    values: dict[int, dict[int, float]] = {}
    for trial, objective, value in rows("SELECT trial_id, objective, value FROM trial_values"):
        values.setdefault(trial, {})[objective] = value
    params: dict[int, dict[str, float]] = {}
    for trial, name, value in rows("SELECT trial_id, param_name, param_value FROM trial_params"):
        params.setdefault(trial, {})[name] = value
    attributes: dict[int, dict[str, Any]] = {}
    for trial, key, text in rows("SELECT trial_id, key, value_json FROM trial_user_attributes"):
        attributes.setdefault(trial, {})[key] = json.loads(text)
    return [
        Trial(
            number,
            str(state),
            tuple(value for _, value in sorted(values.get(trial, {}).items())),
            params.get(trial, {}),
            attributes.get(trial, {}),
        )
        for trial, number, state in rows(
            "SELECT trial_id, number, state FROM trials ORDER BY number"
        )
    ]


def study(trials: list[Trial], wanted: int) -> list[str]:
    """Each number once, nothing left running, as many complete as the budget says."""
    problems = []
    if [trial.number for trial in trials] != list(range(len(trials))):
        problems.append("the study's trials are not numbered 0, 1, 2, ...")
    if states := sorted({trial.state for trial in trials} - {"COMPLETE", "FAIL"}):
        problems.append(f"the study has trials that are {states}")
    own = [trial for trial in trials if trial.own]
    if len(own) != wanted:
        problems.append(f"{len(own)} trials are complete, the budget says {wanted}")
    merges = Counter(trial.attributes["fingerprint"] for trial in own)
    if twice := [name for name, count in merges.items() if count > 1]:
        problems.append(f"{len(twice)} merges were paid for twice: {twice[0]}")
    problems += [
        f"trial {trial.number}: complete with values {trial.values}"
        for trial in trials
        if trial.state == "COMPLETE" and len(trial.values) != len(OBJECTIVES)
    ]
    return problems


def results(trials: list[Trial], run: Path) -> list[str]:
    """A whole result file for each trial with scores of its own, and no other."""
    problems = []
    there = {int(path.stem) for path in (run / "trials").glob("*.json")}
    for number in sorted({trial.number for trial in trials if trial.own} ^ there):
        problems.append(f"trial {number}: {'no' if number not in there else 'only a'} result file")
    for part in ("trials", "baselines", "confirm", "test"):
        for path in sorted((run / part).glob("*.json")):
            try:
                json.loads(path.read_text(encoding="utf-8"))["items"]
            except (ValueError, KeyError) as error:
                problems.append(f"{path.relative_to(run)}: is not whole: {error!r}")
    return problems


# ---- scores


def scores(trials: list[Trial], run: Path, file: Path) -> list[str]:
    """Values and answers of each trial are those of its recipe, scored alone."""
    problems = []
    for trial in trials:
        if trial.state != "COMPLETE":
            continue
        if not trial.own:
            other = trials[trial.attributes["duplicate_of"]]
            if other.values != trial.values:
                problems.append(f"trial {trial.number}: not the values of its original")
            continue
        path = run / "trials" / f"{trial.number:06d}.json"
        if not path.is_file():
            continue  # `results` has told
        stored = json.loads(path.read_text(encoding="utf-8"))
        recipe = json.loads(trial.attributes["recipe"])
        alone = score_alone(recipe, file)
        if [row["scores"] for row in stored["items"]["sums"]] != [row[1] for row in alone]:
            problems.append(f"trial {trial.number}: item by item, not the scores of its recipe")
        if [row["text"] for row in stored["items"]["sums"]] != [row[0] for row in alone]:
            problems.append(f"trial {trial.number}: not the answers of its recipe")
        values = tuple(math.fsum(row[1][key] for row in alone) / len(alone) for key in SCORES)
        if any(abs(a - b) > 1e-12 for a, b in zip(values, trial.values, strict=True)):
            problems.append(f"trial {trial.number}: told {trial.values}, its recipe has {values}")
    return problems


def confirmed(run: Path, file: Path) -> list[str]:
    """The front is confirmed, its best recipe exported; answers are those of their recipes."""
    missing = [name for name in ("confirmed.json", "recipe.yaml") if not (run / name).is_file()]
    problems = [f"{name} is not there" for name in missing]
    parts = [(part, path) for part in ("confirm", "test") for path in (run / part).glob("*.json")]
    for split, path in sorted(parts):
        stored = json.loads(path.read_text(encoding="utf-8"))
        rows = [(row["text"], row["scores"]) for row in stored["items"]["sums"]]
        if rows != score_alone(stored["recipe"], file, split):
            problems.append(f"{split}/{path.name}: not the answers and scores of its recipe")
    return problems


_SETUP: dict[Path, Any] = {}


def score_alone(
    recipe: dict[str, Any], file: Path, split: Split = "dev"
) -> list[tuple[str, dict[str, float]]]:
    """Text and scores of each item of a split, from an engine that has seen no other recipe."""
    from merge_core import Recipe
    from objectives.engines.config import ENGINES
    from search.config import load
    from search.session import prepare
    from search.worker import Evaluator, Job

    if file not in _SETUP:
        _SETUP[file] = prepare(load(file)).setup()
        object.__setattr__(
            _SETUP[file], "engine", _SETUP[file].engine.model_copy(update={"delay": 0.0})
        )
    with patch.dict(ENGINES, scripted="tests.chaos.engine:AskingEngine"):
        evaluator = Evaluator(_SETUP[file], "alone")
    try:
        resolved = Recipe.parse(recipe).resolved(file.parent)
        result = evaluator.evaluate(Job("alone", resolved, "", split))
    finally:
        evaluator.close()
    return [(row.text, dict(row.scores)) for row in result.items["sums"]]


# ---- MLflow


def sync(soak: Soak) -> list[str]:
    """`mergefront sync` makes MLflow equal to the study, by its own measure too."""
    for option in ([], ["--dry-run"]):
        done = subprocess.run(
            [BIN / "mergefront", "sync", str(soak.run), *option],
            cwd=soak.work,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if done.returncode:
            said = (done.stdout + done.stderr)[-500:]
            return [f"sync {' '.join(option)} ended with {done.returncode}: {said}"]
    return []


def mlflow(trials: list[Trial], uri: str) -> list[str]:
    """One run for each trial, with its state, values and parameters; the front is tagged."""
    import mlflow as library

    client = library.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(NAME)
    if experiment is None:
        return ["MLflow has no such experiment"]
    runs: list[Any] = []
    token = None
    while token or not runs:
        page = client.search_runs([experiment.experiment_id], max_results=500, page_token=token)
        runs, token = runs + list(page), page.token
        if not token:
            break
    problems = []
    parents = [run for run in runs if run.data.tags.get("role") == "search"]
    if len(parents) != 1:
        return [f"MLflow has {len(parents)} runs for the search itself"]
    children: dict[int, list[Any]] = {}
    for run in runs:
        if "mergefront.trial" in run.data.tags:
            children.setdefault(int(run.data.tags["mergefront.trial"]), []).append(run)
    for number in sorted(children.keys() - {trial.number for trial in trials}):
        problems.append(f"MLflow has a trial {number} that the study has not")
    for trial in trials:
        shown = children.get(trial.number, [])
        if len(shown) != 1:
            problems.append(f"MLflow has {len(shown)} runs for trial {trial.number}")
            continue
        problems += [
            f"MLflow, trial {trial.number}: {odd}" for odd in _odd(client, trial, shown[0])
        ]
    shown_front = {
        tuple(run.data.metrics.get(name) for name in OBJECTIVES)
        for several in children.values()
        for run in several
        if run.data.tags.get("front") == "true"
    }
    if shown_front != front(trials):
        problems.append(f"MLflow's front is {sorted(shown_front)}, not {sorted(front(trials))}")
    own = sum(trial.own for trial in trials)
    history = client.get_metric_history(parents[0].info.run_id, "trials")
    if sorted({metric.step for metric in history}) != list(range(1, own + 1)):
        problems.append("MLflow's curves do not have every step")
    if parents[0].info.status != "FINISHED":
        problems.append(f"MLflow has the search as {parents[0].info.status}")
    return problems


def _odd(client: Any, trial: Trial, run: Any) -> list[str]:
    problems = []
    if run.info.status != {"COMPLETE": "FINISHED", "FAIL": "FAILED"}.get(trial.state):
        problems.append(f"is {run.info.status}, in the study {trial.state}")
    for name, value in run.data.params.items():
        there = trial.params.get(name.replace("/", "."))
        if name != "merge_method" and (there is None or float(value) != there):
            problems.append(f"{name} is {value}, in the study {there}")
    if missing := {name.replace(".", "/") for name in trial.params} - run.data.params.keys():
        problems.append(f"lacks {sorted(missing)}")
    if trial.state != "COMPLETE":
        return problems
    shown = tuple(run.data.metrics.get(name) for name in OBJECTIVES)
    if shown != trial.values:
        problems.append(f"has {shown}, the study {trial.values}")
    if trial.own:
        artifacts = {entry.path for entry in client.list_artifacts(run.info.run_id)}
        if not {"recipe.yaml", "items.json"} <= artifacts:
            problems.append(f"has the artifacts {sorted(artifacts)}")
    return problems


def front(trials: list[Trial]) -> set[tuple[float, ...]]:
    """The values that no others are better than, of trials that hold the constraint."""
    points = {
        t.values
        for t in trials
        if t.own and t.values[1] >= AT_LEAST and "fault" not in t.attributes
    }

    def beaten(point: tuple[float, ...]) -> bool:
        return any(
            other != point and all(a >= b for a, b in zip(other, point, strict=True))
            for other in points
        )

    return {point for point in points if not beaten(point)}


# ---- what is left


def gpus(soak: Soak, seconds: float = 30.0) -> list[str]:
    """No GPU is claimed any more."""
    end = time.monotonic() + seconds
    while (had := soak.ray.gpus())[0] != had[1] and time.monotonic() < end:
        time.sleep(0.5)
    return (
        [] if had[0] == had[1] else [f"{had[0]:g} of {had[1]:g} GPUs are free, with nobody there"]
    )


def nobody_left(seconds: float = 20.0) -> list[str]:
    """No process of the search is left but the services that it stood on."""
    ours = ("ray::Worker", "tests/chaos/child.py", "verify_child.py", "bin/mergefront")

    def there() -> list[str]:
        found = processes.descendants(lambda line: any(part in line for part in ours))
        return [processes.line_of(one)[:120] for one in found]

    end = time.monotonic() + seconds
    while (left := there()) and time.monotonic() < end:
        time.sleep(0.5)
    return [f"left behind: {line}" for line in left]


def litter(soak: Soak) -> list[str]:
    """No file that only a killed process can have left: they would grow night after night."""
    found = [
        *(path for path in (soak.folder / "tmp").glob("mergefront-*") if _temporary(path)),
        *(path for path in soak.run.rglob("*") if _temporary(path)),
        *(soak.run / "blocks").glob("*"),  # of jobs that are not done
    ]
    if not found:
        return []
    shown = ", ".join(str(path.relative_to(soak.folder)) for path in found[:3])
    return [f"{len(found)} temporary files or folders were left: {shown}"]


def _temporary(path: Path) -> bool:
    """Whether its name is one of `tempfile`, as what is written atomically has at first."""
    return path.suffix == ".tmp" or re.fullmatch(_TEMPORARY, path.name) is not None
