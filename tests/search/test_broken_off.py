"""Sessions that end before their time leave figures, a report, and MLflow's own words for it."""

from __future__ import annotations

import gc
import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from rich.console import Console

from objectives.engines.base import Prompt
from objectives.engines.scripted import ScriptedEngine
from search import figures, mlflow_store, report, session, worker
from search.config import load
from search.driver import Driver
from search.errors import WorkerError
from search.live import Phase
from search.mlflow_note import NOTE
from search.placement import Node
from search.results import Result
from search.run import Run
from search.session import prepare
from search.sync import differences
from search.terminal import Progress
from tests.search.life import LocalPool, answer, empty_store
from tests.search.test_driver import write

pytestmark = pytest.mark.cluster


class Night:
    """Searches of one file, one session after the other, whose engine may break."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = False
        self.file = write(folder, confirm={"max": 1})
        self.folder = folder / "runs" / "s"
        self._store = empty_store()  # to make one takes two seconds
        monkeypatch.chdir(folder)
        monkeypatch.setattr(mlflow_store, "_make", self._copy)
        monkeypatch.setattr(session, "connected", nullcontext)
        monkeypatch.setattr(session, "Pool", LocalPool)
        monkeypatch.setattr(session, "nodes", lambda: [Node("here", "here", {"CPU": 4.0})])
        engine = lambda config, _: ScriptedEngine(config, respond=self._answer)  # noqa: E731
        monkeypatch.setattr(worker, "make_engine", engine)
        monkeypatch.setattr(figures, "draw", lambda view: None)  # seconds of drawing

    def _copy(self, uri: str) -> None:
        file = Path(uri.removeprefix("sqlite:///"))
        if not file.exists():
            shutil.copy(self._store, file)

    def _answer(self, prompt: Prompt, weights: Mapping[str, torch.Tensor]) -> str:
        if self.broken:
            raise RuntimeError(f"{self.folder / 'gone'} is gone")
        return answer(prompt, weights)

    def search(self, trials: int, kind: type[Progress] = Progress) -> None:
        with kind(Console(file=io.StringIO()), "mergefront run s.yaml") as progress:
            session.run(
                prepare(load(self.file, [f"budget.trials={trials}"])), self.folder, progress
            )

    @property
    def page(self) -> str:
        return (self.folder / report.NAME).read_text(encoding="utf-8")

    @property
    def shown(self) -> Any:
        """The search's own run in MLflow."""
        client = mlflow.MlflowClient(tracking_uri=Run.open(self.folder).tracking)
        experiment = client.get_experiment_by_name("s")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id], "tags.role = 'search'")
        return found


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Night]:
    gc.freeze()  # a worker collects after each job: not what the imports hold
    yield Night(tmp_path, monkeypatch)
    gc.unfreeze()


class Impatient(Progress):
    """Breaks off when the first trial is done."""

    def finished(self, driver: Driver, what: str, result: Result | None) -> None:
        raise KeyboardInterrupt


def test_every_session_leaves_a_report_that_says_how_it_ended(
    night: Night, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without any score.
    night.broken = True
    with pytest.raises(WorkerError, match="failed"):
        night.search(2)
    assert f"what there is until now: {Path('runs/s/report.html')}\n" in capsys.readouterr().err
    assert "ended with an error" in night.page
    assert "in a row failed" in night.page
    assert night.shown.info.status == "FAILED"
    note = night.shown.data.tags[NOTE]
    assert note.startswith("**Ended with an error**: 3 ")
    assert "gone is gone" in note
    assert str(night.folder) not in note
    assert night.shown.data.metrics["failures"] == 3
    assert differences(Run.open(night.folder)) == []

    # The user presses Ctrl-C twice.
    night.broken = False
    with pytest.raises(KeyboardInterrupt):
        night.search(2, Impatient)
    assert "ended with an error" not in night.page
    assert "stopped" in night.page
    assert night.shown.info.status == "KILLED"
    assert night.shown.data.tags[NOTE].startswith("**Stopped before its end.**")
    assert differences(Run.open(night.folder)) == []

    night.search(2)
    assert night.shown.info.status == "FINISHED"
    assert night.shown.data.tags[NOTE].startswith("**")
    assert "before its end" not in night.shown.data.tags[NOTE].splitlines()[0]
    assert differences(Run.open(night.folder)) == []

    # A fault of the drawing hides no error, and the page before does not look like this session's.
    def fault(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(figures, "draw", fault)
    night.broken = True
    with pytest.raises(WorkerError):
        night.search(20)
    assert not (night.folder / report.NAME).exists()
    assert night.shown.info.status == "FAILED"
    assert "no report of what there is" in (night.folder / "run.log").read_text(encoding="utf-8")


def test_a_recipe_that_is_not_exported_any_more_is_set_aside(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    session._set_aside(recipe)
    recipe.write_text("merge_method: linear\n")
    session._set_aside(recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe-earlier.yaml"]


def test_a_merge_that_cannot_be_tested_is_exported_all_the_same(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    class Untested(Progress):
        def phase(self, run: Run, phase: Phase) -> None:
            night.broken = phase == "testing"
            super().phase(run, phase)

    night.search(4, Untested)
    assert "is exported without scores on the test items" in capsys.readouterr().err
    assert (night.folder / "recipe.yaml").is_file()
    assert list((night.folder / "test").glob("*.json")) == []
    assert "FINISHED" in night.shown.info.status
    night.search(4)  # the same command asks them
    assert len(list((night.folder / "test").glob("*.json"))) == 1
