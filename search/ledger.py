"""How long a run has held its workers, over all its sessions: idle time costs money too.

`sessions.json` in the run folder has an entry a session, written anew every few seconds by a thread
of its own, so that a killed driver loses no more than those. An entry also says which versions the
session scored with: what is installed may be another one when somebody looks at the run.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from merge_core.versions import versions_of
from merge_core.yaml_io import write_atomic
from search.errors import RunError
from search.run import Run

EVERY_S = 5.0
_SCORING = ("mergefront", "torch", "transformers", "optuna", "ray")
"""Whose versions are kept, besides the engine's own."""
log = logging.getLogger("mergefront")


@dataclass(frozen=True)
class Session:
    """One session of a run.

    Attributes:
        began: when it had its workers, ISO 8601, UTC.
        seconds: how long it held them.
        workers: how many it wanted.
        gpus: of each; 0 where they claim none.
        worker_seconds: that workers were there, where they joined and left as nodes did.
        gpu_seconds: that those claimed GPUs.
        versions: of what it scored with, as installed where it was driven from, by name; {} of a
            session that kept none yet.
    """

    began: str
    seconds: float
    workers: int
    gpus: float
    worker_seconds: float | None = None
    gpu_seconds: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def worker_hours(self) -> float:
        """Hours x workers."""
        if self.worker_seconds is not None:
            return self.worker_seconds / 3600.0
        return self.seconds * self.workers / 3600.0

    @property
    def priced_hours(self) -> float:
        """GPU-hours; worker-hours where workers claim no GPU."""
        if self.gpus and self.gpu_seconds is not None:
            return self.gpu_seconds / 3600.0
        return self.worker_hours * (self.gpus or 1.0)

    @property
    def priced_rate(self) -> float:
        """Of those, how many an hour takes with all workers there."""
        return self.workers * (self.gpus or 1.0)


def sessions(run: Run) -> list[Session]:
    """The sessions of a run, oldest first; the last may still go on.

    Raises:
        RunError: their file is damaged.
    """
    path = run.folder / "sessions.json"
    if not path.is_file():
        return []
    try:
        return [_session(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read; put it back from a copy, or delete it: the hours before are"
            " then not counted"
        ) from error


def _session(row: dict[str, Any]) -> Session:
    """An entry as it was written; ValueError or TypeError if no session leaves such a one."""
    held = Session(**row)
    whole = isinstance(held.workers, int) and not isinstance(held.workers, bool)
    if not (whole and held.workers >= 1 and isinstance(held.began, str)):
        raise ValueError(f"no session: {row}")
    for number in (held.seconds, held.gpus, held.worker_seconds or 0.0, held.gpu_seconds or 0.0):
        if isinstance(number, bool) or not 0.0 <= number < math.inf:
            raise ValueError(f"no session: {row}")
    named = isinstance(held.versions, dict) and all(
        isinstance(word, str) for pair in held.versions.items() for word in pair
    )
    if not named:
        raise ValueError(f"no session: {row}")
    return held


def _row(session: Session) -> dict[str, Any]:
    """An entry as it is written."""
    row = asdict(session).items()
    told = ((key, value) for key, value in row if value is not None and value != {})
    return {key: round(v, 3) if isinstance(v, float) else v for key, v in told}


class Ledger:
    """Keeps the entry of this session up to date. Use as a context, while the workers are held.

    Args:
        run: whose lease the caller holds.
        workers: how many are held.
        gpus: of each.
        held: seconds that workers have been there, and seconds that they have held a GPU, where
            nodes join and leave.
        every: seconds between two writings.

    Raises:
        RunError: what earlier sessions left is damaged.
    """

    def __init__(
        self,
        run: Run,
        workers: int,
        gpus: float,
        held: Callable[[], tuple[float, float]] | None = None,
        every: float = EVERY_S,
    ) -> None:
        self._path = run.folder / "sessions.json"
        self._before = sessions(run)
        self._began = time.monotonic()
        began = datetime.now(UTC).isoformat(timespec="seconds")
        versions = versions_of((*_SCORING, run.search.engine.kind))
        self._own = Session(began, 0.0, workers, gpus, versions=versions)
        self._held = held
        self._every = every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)

    def __enter__(self) -> Ledger:
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def own(self) -> Session:
        """This session, as of now."""
        if self._ended.is_set():
            return self._own
        took = time.monotonic() - self._began
        if self._held is None:
            return replace(self._own, seconds=took)
        workers, gpus = self._held()
        return replace(self._own, seconds=took, worker_seconds=workers, gpu_seconds=gpus)

    @property
    def sessions(self) -> list[Session]:
        """All sessions of the run, this one last."""
        return [*self._before, self.own]

    @property
    def priced_hours(self) -> float:
        """GPU-hours of the whole run as of now; of workers that claim no GPU, worker-hours."""
        return sum(session.priced_hours for session in self.sessions)

    def close(self) -> None:
        """The workers are given back; a second call does nothing."""
        if self._ended.is_set():
            return
        self._own = self.own
        self._ended.set()
        self._thread.join()
        self._write()

    def _work(self) -> None:
        while not self._ended.wait(self._every):
            self._write()

    def _write(self) -> None:
        rows = [_row(session) for session in self.sessions]
        try:
            write_atomic(self._path, json.dumps(rows, indent=1) + "\n")
        except OSError as error:  # a full disk is told by whoever writes a result
            log.warning("%s: cannot be written: %s", self._path, error.strerror)
