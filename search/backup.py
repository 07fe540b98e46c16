"""Copies of a SQLite study while it is written, and the lock of a file that is not in a run folder.

`study.db.backup` in the run folder is a whole database, a few minutes old at most: a thread makes
it with SQLite's own means, looks at every page, and puts it in the place of the one before. A file
that is damaged never becomes a backup.

To go on from it: `cp runs/NAME/study.db.backup runs/NAME/study.db`, and start the search again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from search.lease import lock_file

BACKUP = "study.db.backup"
EVERY_TRIALS = 20
EVERY_S = 300.0
"""A backup is made after so many trials, or after so long if there is a new one."""

log = logging.getLogger("mergefront")


class Backup:
    """Keeps a copy of one SQLite file. `close` makes the last one.

    Args:
        database: the file, which may not be there yet.
        copy: where the copy goes.
        study: that is written: a file outside the copy's folder is locked for it, as other run
            folders could have the same study in it.
        trials: finished ones after which a copy is made.
        seconds: after which one is made at the latest.

    Raises:
        RunError: another process writes this study of the file.
    """

    def __init__(
        self,
        database: Path,
        copy: Path,
        study: str,
        trials: int = EVERY_TRIALS,
        seconds: float = EVERY_S,
    ) -> None:
        self._database = database
        self._copy = copy
        self._trials, self._seconds = trials, seconds
        self._lock = None
        if database.resolve().parent != copy.resolve().parent:
            self._lock = lock_file(
                database.with_name(f"{database.name}.{study}.lock"),
                f"{database}: another mergefront is working on study '{study}'",
                again=True,
            )
        self._new = 0
        self._wanted = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="backup", daemon=True)
        self._thread.start()

    def told(self) -> None:
        """A trial was finished; returns at once."""
        self._new += 1
        if self._new >= self._trials:
            self._wanted.set()

    def close(self) -> None:
        """Make the last copy, if there is something new; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._wanted.set()
        self._thread.join()
        if self._lock is not None:
            self._lock.release()

    def _work(self) -> None:
        while True:
            self._wanted.wait(self._seconds)
            self._wanted.clear()
            last = self._ended
            if self._new:
                self._new = 0
                self._make()
            if last:
                return

    def _make(self) -> None:
        """Copy, check, replace."""
        half = self._copy.with_name(f".{self._copy.name}.tmp")
        source_uri = f"{self._database.resolve().as_uri()}?mode=ro"
        try:
            half.unlink(missing_ok=True)
            with (
                closing(sqlite3.connect(source_uri, uri=True)) as source,
                closing(sqlite3.connect(half)) as target,
            ):
                source.backup(target)
                (told,) = target.execute("PRAGMA quick_check(1)").fetchone()
            if told != "ok":
                log.error("%s: is damaged (%s); the last backup stays", self._database, told)
                half.unlink()
                return
            with half.open("rb") as written:
                os.fsync(written.fileno())
            half.replace(self._copy)
        except (OSError, sqlite3.Error) as error:
            half.unlink(missing_ok=True)
            log.warning("%s: no backup could be made: %s", self._database, error)
