"""Checkpoints of the hub: fetched once per machine, with a line now and then where no bar shows."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

EVERY_S = 10.0
"""Seconds between two lines of a fetch."""

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "README.md")
"""What is fetched of a repository: never a pickle, never code. README.md tells the licence."""

log = logging.getLogger("mergefront")


def fetch(repository: str, revision: str | None) -> Path:
    """The folder of a repository in the hub's cache, fetched if it is not there.

    Of several processes that share the cache, be it on one machine or on shared storage, one
    fetches and the others wait for it.

    Args:
        repository: `org/name`.
        revision: branch, tag or commit; None: the default branch.

    Raises:
        OSError, ValueError, RuntimeError: as huggingface_hub says that it cannot be had.
    """
    from huggingface_hub import snapshot_download  # at use: half a second to import
    from huggingface_hub.constants import HF_HUB_CACHE

    name = repository.replace("/", "--")
    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": list(PATTERNS)}
    if not sys.stderr.isatty():
        wanted["tqdm_class"] = _lines(repository)
    with _alone(Path(HF_HUB_CACHE) / ".locks" / f"mergefront--{name}.lock"):
        return Path(snapshot_download(repository, **wanted))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock; where the cache cannot be written, nothing can be fetched twice either."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        held.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        held.release()


def _lines(what: str) -> type:
    """A progress bar that logs lines instead: one for the bytes of all files, no more."""
    from tqdm.std import tqdm  # type: ignore[import-untyped]

    told = {"at": time.monotonic()}

    class Lines(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            with Path(os.devnull).open("w") as nowhere:
                super().__init__(*args, **{**options, "file": nowhere, "disable": False})

        def display(self, *_: Any, **__: Any) -> None:
            pass

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if self.unit == "B" and self.total and time.monotonic() - told["at"] >= EVERY_S:
                told["at"] = time.monotonic()
                done, whole = min(self.n, self.total) / 1e9, self.total / 1e9
                log.warning("fetching %s: %.1f of %.1f GB", what, done, whole)
            return None

    return Lines
