"""What workers find out beside scores: shares of the experts, facts of the sources kept on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from merge_core import MergePlan
from merge_core.analysis import analyze
from search import study as studies
from search.pool import connected
from search.results import Result
from search.run import Run
from tests.merge_core.conftest import SHAPES
from tests.search.small import CommandLine
from tests.search.test_driver import search, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RANGE = {"low": 0.2, "high": 0.8}
MODELS = [
    {"model": "l", "name": "language", "parameters": {"weight": 0.7, "density": RANGE}},
    {"model": "r", "name": "reasoning", "parameters": {"weight": 0.6, "density": RANGE}},
]


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    with connected():
        yield


def tables(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def small(folder: Path, trials: int, **changes: object) -> Path:
    settings = {"merge_method": "ties", "models": MODELS, "confirm": {"max": 1}}
    return write(folder, budget={"trials": trials}, **{**settings, **changes})


def test_trials_carry_shares_and_workers_share_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = small(tmp_path, 3, baselines=["base", "experts"])
    found, study, _ = search(file)
    run = found.run
    shares = {}
    for number, trial in studies.scored(study).items():
        recipe = studies.recipe_of(trial, run.search)
        assert recipe is not None
        model = analyze(MergePlan(recipe, tally=True)).model
        shares[number] = {
            name: counts.share("retained")
            for name, counts in zip(("language", "reasoning"), model.experts, strict=True)
        }
        assert all(0 < share < 1 for share in shares[number].values())
        assert trial.user_attrs[studies.RETAINED] == shares[number]
        assert Result.load(run.trial(number)).retained == shares[number]
    for label in ("base", "expert:language"):  # single models: there is nothing to be retained of
        assert Result.load(run.baseline(label)).retained == {}

    client = mlflow.MlflowClient(tracking_uri=run.tracking)
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    told = {
        int(row.data.tags["mergefront.trial"]): {
            key.removeprefix("retained/"): value
            for key, value in row.data.metrics.items()
            if key.startswith("retained/")
        }
        for row in client.search_runs([experiment.experiment_id])
        if "mergefront.trial" in row.data.tags
    }
    assert told == shares

    mergefront = CommandLine(monkeypatch, capsys)
    confirmed = {
        member["trial"]: member.get("retained")
        for member in json.loads(mergefront("front", run.folder, "--json").out)
    }
    assert confirmed.pop(None) is None  # baselines
    assert confirmed == {number: shares[number] for number in confirmed}
    assert confirmed
    run.confirmed.unlink()
    claimed = json.loads(mergefront("front", run.folder, "--json").out)
    trials = [row for row in claimed if row["trial"] is not None]  # baselines stand beside them
    assert trials
    assert all(row["retained"] == shares[row["trial"]] for row in trials)

    # Two workers have made one table a tensor and expert, and no temporary file is left.
    made = tables(run.prepared)
    assert len(made) == 2 * len(SHAPES)
    # New workers find them, but for those that are damaged: these are made anew.
    flipped, cut, *sound = sorted(made)
    data = bytearray(made[flipped][1])
    data[-100] ^= 4
    flipped.write_bytes(data)
    cut.write_bytes(made[cut][1][:-1])
    (flipped.parent / "killed.tmp").write_text("half a table")
    before = [run.trial(number).read_bytes() for number in range(3)]
    _, study, listener = search(small(tmp_path, 5, baselines=["base", "experts"]))
    told = {what for what in listener.heard if what.startswith("trial")}
    assert told == {"trial 3", "trial 4"}  # in the order in which two workers end
    again = tables(run.prepared)
    assert {path: data for path, (_, data) in again.items()} == {
        path: data for path, (_, data) in made.items()
    }
    assert {path: again[path] for path in sound} == {path: made[path] for path in sound}
    assert [run.trial(number).read_bytes() for number in range(3)] == before
    for number in (3, 4):
        recipe = studies.recipe_of(study.trials[number], run.search)
        assert recipe is not None
        fresh = analyze(MergePlan(recipe, tally=True)).model.experts[0].share("retained")
        assert study.trials[number].user_attrs[studies.RETAINED]["language"] == fresh


def test_a_folder_that_cannot_be_written_is_told_and_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "s"
    file = small(tmp_path, 2, tracking={"retained": False})
    search(file)
    run = Run.open(folder)
    for path in sorted(run.prepared.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run.prepared.rmdir()
    run.prepared.write_text("in the way")
    found, study, _ = search(small(tmp_path, 5, tracking={"retained": False}))
    assert found.finished == 5
    log = (folder / "run.log").read_text()
    lines = [line for line in log.splitlines() if "cannot be written" in line]
    assert lines
    assert len(lines) <= 2  # each worker says it once
    assert all(f"{run.prepared}: cannot be written (Not a directory)" in line for line in lines)
    assert all(studies.RETAINED not in trial.user_attrs for trial in study.trials)
