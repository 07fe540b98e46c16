"""A search with a judge outside: what it refuses fails a trial, and how it is asked may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.errors import RunError, WorkerError
from search.session import confirm
from tests.objectives.local_server import LocalServer, Reply, local_server
from tests.search.test_driver import Quiet, search, write

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def judged(folder: Path, server: LocalServer, **changes: Any) -> Path:
    judge = {"url": server.url, "model": "m", "cache": False, "asks": 1, "tries": 1} | changes
    scorers = [{"judge": judge}, {"language": {"expect": "th"}}]
    tasks = {"t": {"items": "items.jsonl", "scorers": scorers}}
    return write(
        folder,
        tasks=tasks,
        objectives={"quality": "t/judge", "language": "t/language"},
        budget={"trials": 4},
        workers={"count": 1},
    )


def said(text: str) -> Reply:
    return Reply({"choices": [{"message": {"content": text}}]})


def test_one_refusal_fails_one_trial_and_how_the_judge_is_asked_may_change(tmp_path: Path) -> None:
    with local_server() as server:
        count = 0

        def answer(_: Any) -> Reply:
            nonlocal count
            count += 1
            return said("I cannot help with that." if count == 6 else "Fine.\nRating: [[7]]")

        server.answer = answer
        found, study, _ = search(judged(tmp_path, server))
        states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
        assert states.count("FAIL") == 1
        assert states.count("COMPLETE") == 4
        assert found.chosen is not None
        assert "gave no judgement" in (found.run.folder / "run.log").read_text()
        # Where and how often it is asked is no part of what the run keeps; the question is.
        judged(tmp_path, server, asks=5, tries=3, timeout=30)
        again, _, listener = search(tmp_path / "s.yaml")
        assert again.finished == 4
        assert listener.heard == []
        confirm(again.run, Quiet())
        judged(tmp_path, server, scale=[1, 5])
        with pytest.raises(RunError, match=r"'tasks\.t\.scorers.*frozen in run"):
            search(tmp_path / "s.yaml")


def test_a_judge_that_never_answers_stops_the_search_with_its_words(tmp_path: Path) -> None:
    with local_server() as server:
        server.answer = lambda _: said("No.")
        with pytest.raises(WorkerError, match=r"3 jobs in a row failed, .*gave no judgement"):
            search(judged(tmp_path, server))
        assert not list((tmp_path / "runs" / "s" / "trials").glob("*.json"))
