"""One merge whose workers die on held-out items: the others are confirmed, and exported."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import ClassVar

import pytest

from search import confirm as confirming
from search import session, worker
from search.config import load
from search.errors import WorkerError
from search.placement import Node
from search.pool import Outcome
from search.run import Run
from search.worker import Job
from tests.search.life import LocalPool, ScriptedEngine, answer
from tests.search.test_driver import Quiet, write
from tests.search.test_export import Untracked


class LosingPool(LocalPool):
    """A pool whose workers die whenever some merges are asked held-out items."""

    lost: ClassVar[set[str]] = set()

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._gone: list[Job] = []

    @property
    def busy(self) -> bool:
        return bool(self._gone) or super().busy

    def submit(self, job: Job) -> None:
        if job.split != "dev" and job.fingerprint in self.lost:
            self._gone.append(job)
        else:
            super().submit(job)

    def wait(self, timeout: float) -> list[Outcome]:
        if self._gone:
            return [Outcome(self._gone.pop(0), None, "its worker died 3 times,\nthe last at once")]
        return super().wait(timeout)


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A confirmed run of a few trials; what it confirmed is forgotten again."""
    monkeypatch.setattr(session, "connected", contextlib.nullcontext)
    monkeypatch.setattr(session, "Pool", LosingPool)
    monkeypatch.setattr(session, "nodes", lambda: [Node("here", "here", {"CPU": 4.0})])
    monkeypatch.setattr(session.figures, "draw", lambda view: [])
    monkeypatch.setattr(session.report, "draw", lambda view, **_: None)
    monkeypatch.setattr(session, "Tracker", Untracked)
    monkeypatch.setattr(
        worker, "make_engine", lambda config, _: ScriptedEngine(config, respond=answer)
    )
    monkeypatch.setattr(LosingPool, "lost", set())
    file = write(tmp_path, baselines=["base", "uniform"])
    found = session.run(session.prepare(load(file)), tmp_path / "runs" / "s", Quiet())
    assert sum(member.trial is not None for member in found.members) >= 2
    for place in (found.run.confirmed, *(found.run.folder / "confirm").iterdir()):
        place.unlink()
    return found.run


def test_what_cannot_be_confirmed_is_left_out_and_tried_again(
    searched: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, whole = session.confirm(searched, Quiet()), confirming.load(searched)[0]
    assert first.problem is None
    assert confirming.unconfirmed(searched) == {}
    trial = next(m for m in whole if m.trial is not None)
    base = next(m for m in whole if m.label == "uniform")
    for member in (trial, base):
        searched.held_out("confirm", member.fingerprint).unlink()
    monkeypatch.setattr(LosingPool, "lost", {trial.fingerprint, base.fingerprint})

    capsys.readouterr()
    found = session.confirm(searched, Quiet())
    assert found.chosen is not None
    assert found.chosen.label != trial.label
    assert [m.label for m in found.members] == [
        m.label for m in whole if m.label not in (trial.label, "uniform")
    ]
    notes = capsys.readouterr().err.splitlines()
    why = "its worker died 3 times, the last at once"
    again = "`mergefront confirm` tries it again"
    assert f"note: {trial.label} could not be confirmed and is left out: {why}; {again}" in notes
    assert f"note: baseline uniform has no scores and is left out: {why}; {again}" in notes
    assert confirming.unconfirmed(searched) == {trial.label: why, "uniform": why}
    log = (searched.folder / "run.log").read_text(encoding="utf-8")
    assert f"WARNING {trial.label} could not be confirmed" in log

    monkeypatch.setattr(LosingPool, "lost", set())
    session.confirm(searched, Quiet())
    assert confirming.load(searched)[0] == whole
    assert confirming.unconfirmed(searched) == {}


def test_a_front_of_which_nothing_can_be_confirmed_is_an_error(
    searched: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = {json.loads(p.read_text())["fingerprint"] for p in searched.folder.glob("trials/*")}
    monkeypatch.setattr(LosingPool, "lost", trials)
    with pytest.raises(WorkerError, match=r"no trial could be confirmed; trial \d+: its worker"):
        session.confirm(searched, Quiet())
    assert not searched.confirmed.exists()
    # What was scored is kept for the next try.
    assert len(list((searched.folder / "confirm").iterdir())) == 2
