"""What only a driver knows while it works, kept for other shells: `live.json` in the run folder.

Written anew every few seconds and never read by the driver: `mergefront status` reads it. What it
says is as old as its `at`; whether the driver lives is told by who holds the run's lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from search.lease import Holder

FILE = "live.json"
EVERY_S = 3.0
Phase = Literal[
    "starting",
    "searching",
    "stopping",
    "scoring baselines",
    "confirming",
    "testing",
    "reporting",
    "done",
    "stopped",
    "failed",
]
ENDED: tuple[Phase, ...] = ("done", "stopped", "failed")


@dataclass(frozen=True)
class Doing:
    """What a worker does, for people.

    Attributes:
        job: what for: "trial 7"; "" where it has none.
        what: "merging", "64 items of math"; "" before it told anything.
        seconds: for how long by now.
        done: items of the job that are scored, those of earlier tries included.
    """

    job: str = ""
    what: str = ""
    seconds: float = 0.0
    done: int = 0


@dataclass(frozen=True)
class Live:
    """A driver's session as it stood.

    Attributes:
        at: when, epoch seconds.
        began: when the session began.
        holder: who held the run's lock then; "" if that could not be read.
        working: when the session's first worker began to work; None before.
        phase: what the driver is at, or how it ended.
        workers: what each does, by name.
        items: dev items that a trial is asked.
        reserve: seconds that confirmation and test will take.
        done, total: merges that are confirmed, of all.
        why: what it failed with.
        command: starts the search again; without passwords.
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
    holder: str = ""
    working: float | None = None

    def of(self, holder: Holder | None) -> bool:
        """Whether it was written by who holds, or held last, the run's lock."""
        return self.holder == ("" if holder is None else str(holder))

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all. Not to last: nobody waits here for a disk.

        Raises:
            OSError: it cannot be written.
        """
        new = folder / f".{FILE}.unfinished"
        new.write_text(json.dumps(asdict(self)) + "\n", encoding="ascii")
        new.replace(folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> Live | None:
        """What a run's driver wrote last; None if there is nothing that can be read."""
        try:
            data = json.loads((folder / FILE).read_text(encoding="utf-8"))
            workers = {name: Doing(**row) for name, row in data.pop("workers").items()}
            return cls(**data, workers=workers)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
