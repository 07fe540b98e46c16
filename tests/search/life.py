"""Searches in processes of their own that kill themselves at a named point of a trial's life.

The product's own session, driver, study, files and MLflow; only the workers are not processes: they
live in the driver's, so that nobody waits for Ray. A process is forked from a server that has
imported everything, and takes a second.
"""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (for the server: every child needs it)
import optuna
import torch

from objectives.engines.base import Prompt
from objectives.engines.scripted import ScriptedEngine
from search import mlflow_store, session, study, tracking, worker
from search.blocks import Blocks
from search.care import Care, kind_of_error
from search.cli import mendable
from search.config import load
from search.errors import USER_ERRORS
from search.incidents import Kind
from search.live import Doing
from search.placement import Node
from search.pool import Outcome
from search.progress import Progress
from search.results import Result
from search.worker import Evaluator, Job, Setup, Step
from tests.search.test_driver import Quiet

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


def answer(prompt: Prompt, weights: Mapping[str, torch.Tensor]) -> str:
    """Right for some items of some merges: a function of both."""
    held = hashlib.sha256(prompt.id.encode())
    for name in sorted(weights):
        held.update(weights[name].to(torch.float32).numpy().tobytes())
    right = held.digest()[0] < 150
    return f"คำตอบ คือ {prompt.id[1:] if right else 'ไม่รู้'}"


class LocalPool:
    """The pool's duties in the driver's process: two workers that take turns, step by step."""

    def __init__(self, setup: Setup, resources: Any, care: Care, *_: Any) -> None:
        self.size = 2
        self._evaluators = deque(Evaluator(setup, f"w{n}") for n in range(self.size))
        self._care = care
        self._proven = False
        self._queue: deque[Job] = deque()
        self._running: deque[tuple[Job, Evaluator, Iterator[Step | Result]]] = deque()
        self.crew = SimpleNamespace(wanted=(self.size, 0.0), held=lambda: (self.size, 0.0))

    @property
    def places(self) -> int:
        return max(0, len(self._evaluators) - len(self._queue))

    @property
    def busy(self) -> bool:
        return bool(self._queue or self._running)

    def doing(self) -> dict[str, Doing]:
        return {}

    def submit(self, job: Job) -> None:
        self._queue.append(job)
        self._assign()

    def withdraw(self) -> None:
        self._queue.clear()

    def close(self) -> None:
        self._running.clear()

    def wait(self, timeout: float) -> list[Outcome]:
        job, evaluator, steps = self._running.popleft()
        try:
            told = next(steps)
        except Exception as error:
            kind = kind_of_error(error)
            if kind == Kind.JOB_ERROR and isinstance(error, USER_ERRORS):
                if not self._proven:
                    raise
                kind = Kind.ENGINE_DIED
            return self._met(job, evaluator, kind, str(error))
        if isinstance(told, Step):
            self._care.stepped(job, told)
            self._running.append((job, evaluator, steps))
            return []
        self._proven = True
        self._care.ended(job)
        self._evaluators.append(evaluator)
        self._assign()
        return [Outcome(job, told)]

    def _met(self, job: Job, evaluator: Evaluator, kind: Kind, said: str) -> list[Outcome]:
        verdict = self._care.met(job, kind, said, evaluator.name)
        if not verdict.here:
            evaluator = Evaluator(evaluator.setup, f"{evaluator.name}+")
        self._evaluators.appendleft(evaluator)
        if verdict.again is not None:
            self._queue.appendleft(verdict.again)
        self._assign()
        return [Outcome(job, None, verdict.error, verdict.poison)] if verdict.again is None else []

    def _assign(self) -> None:
        while self._queue and self._evaluators:
            job, evaluator = self._queue.popleft(), self._evaluators.popleft()
            self._running.append(
                (job, evaluator, evaluator.steps(self._care.sent(job, evaluator.name)))
            )


def local(store: Path) -> None:
    """Have this process's sessions use `LocalPool`, `answer` and copies of `store`; draw nothing.

    Args:
        store: an empty MLflow store; to make one takes two seconds.
    """

    def copy(uri: str) -> None:
        file = Path(uri.removeprefix("sqlite:///"))
        if not file.exists():
            half = file.with_name("mlflow.db.half")
            shutil.copy(store, half)
            half.replace(file)

    mlflow_store._make = copy
    session.connected = nullcontext
    session.Pool = LocalPool
    session.nodes = lambda: [Node("here", "here", {"CPU": 4.0})]
    session.figures.draw = lambda view: None  # seconds of drawing
    session.report.draw = lambda view, stopped, why: None
    worker.make_engine = lambda config, _: ScriptedEngine(config, respond=answer)


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at(owner: Any, name: str, when: str, nth: int, wanted: Callable[..., bool]) -> None:
    """Die before or after the nth call of `owner.name` whose arguments are `wanted`."""
    real = getattr(owner, name)
    calls = iter(range(1, 10**6))

    def wrapped(*arguments: Any, **named: Any) -> Any:
        here = wanted(*arguments) and next(calls) == nth
        if here and when == "before":
            _die()
        done = real(*arguments, **named)
        if here:
            _die()
        return done

    setattr(owner, name, wrapped)


def _any(*_: Any) -> bool:
    return True


def _into(folder: str) -> Callable[..., bool]:
    """Whether a file under such a folder is written."""
    return lambda *arguments: folder in str(arguments[1] if len(arguments) > 1 else arguments[0])


POINTS: dict[str, tuple[Any, str, str, int, Callable[..., bool]]] = {
    # asking
    "before a trial is asked for": (optuna.Study, "ask", "before", 3, _any),
    "after it is asked for, before its parameters": (optuna.Study, "ask", "after", 3, _any),
    "before its recipe is kept": (
        optuna.Trial,
        "set_user_attr",
        "before",
        3,
        lambda _, key, __: key == study.RECIPE,
    ),
    "after its recipe is kept, before it is sent": (LocalPool, "submit", "before", 4, _any),
    # running
    "after it is sent": (LocalPool, "submit", "after", 4, _any),
    "after a block of it is kept": (Blocks, "add", "after", 9, lambda _, __, done: done.items),
    # its result
    "before its result is written": (Result, "save", "before", 4, _into("/trials/")),
    "while its result is written": (
        Path,
        "replace",
        "before",
        4,
        lambda _, to: "/trials/" in str(to),
    ),
    "after its result is written, before it is told": (
        Result,
        "save",
        "after",
        4,
        _into("/trials/"),
    ),
    "while it is told": (optuna.Study, "tell", "before", 4, _any),
    "after it is told, before the front": (Progress, "add", "before", 4, _any),
    # MLflow
    "before it is handed to MLflow": (tracking.Tracker, "trial", "before", 3, _any),
    "before MLflow writes it": (mlflow_store.Store, "child", "before", 3, _any),
    "after MLflow has written it": (mlflow_store.Store, "child", "after", 3, _any),
    "while MLflow's store is made": (
        Path,
        "replace",
        "before",
        1,
        lambda _, to: Path(to).name == "mlflow.db",
    ),
    # what comes before and after trials
    "before a baseline is written": (Result, "save", "before", 1, _into("/baselines/")),
    "after a baseline is written": (Result, "save", "after", 1, _into("/baselines/")),
    "before a confirmed result is written": (Result, "save", "before", 2, _into("/confirm/")),
    "after a confirmed result is written": (Result, "save", "after", 2, _into("/confirm/")),
    "before the confirmed front is written": (session.confirming, "save", "before", 1, _any),
    "before the recipe is exported": (session, "save_recipe", "before", 1, _any),
    "after the recipe is exported": (session, "save_recipe", "after", 1, _any),
}
"""Where a driver may be killed: what is called then, the how manieth time, with what."""


def search(file: Path) -> int:
    """Start, or go on with, the search of a file in this process: what `mergefront run` does."""
    try:
        session.run(session.prepare(load(file)), file.parent / "runs" / "s", Quiet())
    except Exception as error:
        message = mendable(error)
        if message is None:
            raise
        sys.stderr.write(f"mergefront: {message}\n")
        return 2
    return 0


def at(point: str, file: Path) -> int:
    """The same, until `point` is reached."""
    _at(*POINTS[point])
    return search(file)


def _run(log: Path, store: Path, function: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    local(store)
    code = function(*arguments)
    sys.stdout.flush()
    sys.exit(code)


@cache
def empty_store() -> Path:
    """An MLflow store with nothing in it."""
    folder = Path(tempfile.mkdtemp(prefix="mergefront-life-"))
    atexit.register(shutil.rmtree, folder)
    mlflow_store._make(f"sqlite:///{folder / 'mlflow.db'}")
    return folder / "mlflow.db"


def run(log: Path, function: Callable[..., int], *arguments: Any) -> tuple[int, str]:
    """Call a module's function in a process of its own; its exit code, and what it printed."""
    process = _FORKS.Process(target=_run, args=(log, empty_store(), function, arguments))
    process.start()
    process.join(240)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode, log.read_text(encoding="utf-8")
