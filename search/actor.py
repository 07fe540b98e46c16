"""The Ray actor that a worker is: an `Evaluator`, and how those of one node share it.

Workers of one node start their engines one by one, because a start needs far more memory than an
engine that runs; and only one of them fetches a checkpoint that the node does not have.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from filelock import FileLock, Timeout

from merge_core.errors import CheckpointError
from merge_core.references import locate, split_reference
from search.results import Result
from search.worker import Evaluator, Job, Setup, Step

TURN_S = 2 * 3600.0
"""How long a worker waits for its turn to start its engine: whoever has it may hang."""


@dataclass(frozen=True)
class Begun:
    """A worker's process is up.

    Attributes:
        node: Ray's id of its node.
        host: the node's name.
        gpus: Ray's numbers of its GPUs.
        pid: of the process.
    """

    node: str
    host: str
    gpus: tuple[int, ...]
    pid: int


@ray.remote
class Worker:
    """The actor. Its engine starts with the first job, whose outcome then carries its errors.

    Args:
        setup: what it needs for its life.
        name: w0, w1, ...
        threads: that its merges may use.
        across: its engine's processes have nodes and GPUs of their own.
    """

    def __init__(self, setup: Setup, name: str, threads: int, *, across: bool = False) -> None:
        self._setup = replace(setup, threads=threads)
        if across and setup.engine.kind == "vllm":  # whose own default keeps to one node
            engine = setup.engine.model_copy(update={"distributed_executor_backend": "ray"})
            self._setup = replace(self._setup, engine=engine)
        self._name = name
        self._evaluator: Evaluator | None = None
        self._notes: tuple[str, ...] = ()  # for the next result

    @ray.method(num_returns="streaming")  # type: ignore[untyped-decorator]
    def begin(self) -> Iterator[Begun | str]:
        """Say where it is, then fetch what its node lacks, with a line now and then.

        Raises:
            CheckpointError: a checkpoint is not to be had on this node.
        """
        context = ray.get_runtime_context()
        gpus = tuple(int(gpu) for gpu in ray.get_gpu_ids())
        host = socket.gethostname()
        yield Begun(context.get_node_id(), host, gpus, os.getpid())
        try:
            yield from fetched(self._setup)
        except CheckpointError as error:
            raise CheckpointError(f"on {host}: {error}") from None

    @ray.method(num_returns="streaming")  # type: ignore[untyped-decorator]
    def evaluate(self, job: Job) -> Iterator[Step | Result]:
        """Score one job, telling each step as it begins; the result comes last."""
        if self._evaluator is None:
            with turn() as came:
                if not came:
                    self._notes = (f"its engine's turn to start did not come in {TURN_S:.0f} s",)
                yield Step("start")  # its time runs from its turn on
                self._evaluator = Evaluator(self._setup, self._name)
        for told in self._evaluator.steps(job):
            if isinstance(told, Result):
                told, self._notes = replace(told, notes=(*told.notes, *self._notes)), ()
            yield told

    def close(self) -> None:
        """Free the engine and what it started."""
        if self._evaluator is not None:
            self._evaluator.close()
            self._evaluator = None


def start_lock() -> FileLock:
    """What an engine holds while it starts; it dies with its process.

    Raises:
        OSError: the folder for temporary files cannot be written.
    """
    folder = Path(tempfile.gettempdir()) / f"mergefront-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return FileLock(folder / "engine-start.lock")


@contextmanager
def turn(patience: float = TURN_S) -> Iterator[bool]:
    """Hold that lock while the block runs.

    Args:
        patience: seconds after which it goes on without: False.

    Raises:
        OSError: the folder for temporary files cannot be written.
    """
    lock = start_lock()
    with suppress(Timeout):
        lock.acquire(timeout=patience)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def fetched(setup: Setup) -> Iterator[str]:
    """Fetch every checkpoint that a worker may open; what is told of it meanwhile.

    Raises:
        CheckpointError: one is not to be had.
    """
    start = setup.start
    base = [] if start.base_model is None else [start.base_model]
    references = [*base, *(expert.model for expert in start.models), *setup.digests]
    parts = [part for name in references for part in split_reference(name) or (name,)]
    lines: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
    handler = _Lines(lines)

    def fetch() -> None:
        try:
            for part in dict.fromkeys(parts):
                locate(part)
            lines.put(None)
        except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
            lines.put(error)

    logger = logging.getLogger("mergefront")
    logger.addHandler(handler)
    try:
        threading.Thread(target=fetch, name="fetch", daemon=True).start()
        while (told := lines.get()) is not None:
            if isinstance(told, BaseException):
                raise told
            yield told
    finally:
        logger.removeHandler(handler)


class _Lines(logging.Handler):
    """Hands on what is logged."""

    def __init__(self, lines: queue.SimpleQueue[str | BaseException | None]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put(record.getMessage())
