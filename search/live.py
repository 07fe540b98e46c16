"""What only a driver knows while it works, kept for other shells: `live.json` in the run folder.

Written anew every few seconds and never read by the driver: `mergefront status` reads it. What it
says is as old as its `at`; whether the driver lives is told by who holds the run's lock.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from merge_core.yaml_io import write_atomic
from search.care import Doing

FILE = "live.json"
EVERY_S = 3.0
Phase = Literal["searching", "stopping", "confirming", "done", "stopped", "failed"]
ENDED: tuple[Phase, ...] = ("done", "stopped", "failed")

log = logging.getLogger("mergefront")


@dataclass(frozen=True)
class Live:
    """A driver's session as it stood.

    Attributes:
        at: when, epoch seconds.
        began: when the session began.
        phase: what the driver is at, or how it ended.
        workers: what each does, by name.
        items: dev items that a trial is asked.
        reserve: seconds that confirmation and test will take.
        done, total: merges that are confirmed, of all.
        why: what it failed with.
        command: starts the search again.
    """

    at: float
    began: float
    phase: Phase
    workers: Mapping[str, Doing] = field(default_factory=dict)
    items: int = 0
    reserve: float = 0.0
    done: int = 0
    total: int = 0
    why: str = ""
    command: str = ""

    def save(self, folder: Path) -> None:
        """Write it; a full disk is told by whoever writes a result."""
        try:
            write_atomic(folder / FILE, json.dumps(asdict(self), ensure_ascii=False) + "\n")
        except OSError as error:
            log.warning("%s: cannot be written: %s", folder / FILE, error.strerror)

    @classmethod
    def read(cls, folder: Path) -> Live | None:
        """What a run's driver wrote last; None if there is nothing that can be read."""
        try:
            data = json.loads((folder / FILE).read_text(encoding="utf-8"))
            workers = {name: Doing(**row) for name, row in data.pop("workers").items()}
            return cls(**data, workers=workers)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
