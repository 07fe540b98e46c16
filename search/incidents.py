"""Faults as data: what may go wrong in a night, what is done about it, and how often it happened.

`POLICIES` is the one table; `docs/faults.md` is made from it. Whoever meets a fault records it with
`Run.incidents`, which keeps `incidents.jsonl` in the run folder: a line each, bounded in size, with
counts that outlive the lines.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from merge_core.yaml_io import write_atomic
from search.secrets import said

log = logging.getLogger("mergefront")

MOST_BYTES = 1 << 20
"""Of `incidents.jsonl`; then its older half becomes counts."""

MOST_CHARACTERS = 500
"""Of a message that is kept."""

_LOCK = threading.Lock()  # the tracker's thread records, too

Then = Literal["fail the trial", "tell the worst", "pause", "stop", "go on"]


class Kind(StrEnum):
    """Kinds of fault; a kind is its own name in files, `status` and MLflow."""

    OUT_OF_MEMORY = "out_of_memory"
    NON_FINITE = "non_finite"
    ENGINE_DIED = "engine_died"
    HUNG = "hung"
    POISONED_ITEM = "poisoned_item"
    WORKER_LOST = "worker_lost"
    NODE_LOST = "node_lost"
    SCORER_FAILED = "scorer_failed"
    JOB_ERROR = "job_error"
    DISK_FULL = "disk_full"
    NOT_WRITABLE = "not_writable"
    STORAGE_LOST = "storage_lost"
    TRACKER_LOST = "tracker_lost"
    NOT_DRAWN = "not_drawn"


@dataclass(frozen=True)
class Policy:
    """What is done about a kind of fault.

    Attributes:
        what: what happened, in words.
        here: how often the job is tried again on the same worker.
        elsewhere: how often after that on another one, or a fresh one in its place.
        then: what becomes of the trial, or of the search, after all tries.
        by_item: the last try asks item by item, so that one that kills is known by name.
        message: what the user is told then. `{tries}`: how often it was tried; `{said}`: what the
            machine said, or where it was.
    """

    what: str
    here: int = 0
    elsewhere: int = 0
    then: Then = "fail the trial"
    by_item: bool = False
    message: str = "{said}"

    @property
    def retries(self) -> int:
        """Tries after the first."""
        return self.here + self.elsewhere


POLICIES: Mapping[Kind, Policy] = {
    Kind.OUT_OF_MEMORY: Policy(
        "memory of the accelerator or of the machine ran out",
        here=1,
        elsewhere=1,
        by_item=True,
        message=(
            "memory ran out in each of {tries} tries ({said}): lower the tasks' max_tokens or the "
            "engine's batches (batch_size, max_batch_tokens; vllm: max_model_len, "
            "gpu_memory_utilization), or use fewer workers a machine"
        ),
    ),
    Kind.NON_FINITE: Policy(
        "a merge has infinities or NaN: the recipe's own fault",
        then="tell the worst",
    ),
    Kind.ENGINE_DIED: Policy(
        "an engine's own process ended, its worker lives",
        elsewhere=2,
        by_item=True,
        message="its engine died in each of {tries} tries: {said}",
    ),
    Kind.HUNG: Policy(
        "a start, a merge or a block of items took longer than its deadline",
        elsewhere=1,
        by_item=True,
        message=(
            "over its deadline in each of {tries} tries ({said}): if the machine is only slow, "
            "raise workers.block_timeout (workers.start_timeout for the start)"
        ),
    ),
    Kind.POISONED_ITEM: Policy(
        "one item at which scoring fails or the engine dies",
        message="{said}",
    ),
    Kind.WORKER_LOST: Policy(
        "a worker's process ended",
        elsewhere=2,
        by_item=True,
        message="its worker died in each of {tries} tries: {said}",
    ),
    Kind.NODE_LOST: Policy(
        "a worker's machine left the cluster: never the job's fault",
        elsewhere=9,
        message="its machine was lost in each of {tries} tries: {said}",
    ),
    Kind.SCORER_FAILED: Policy(
        "a judge, a sandbox or the user's own function failed over an answer",
    ),
    Kind.JOB_ERROR: Policy(
        "an error of ours in the worker",
        here=1,
        by_item=True,
    ),
    Kind.DISK_FULL: Policy(
        "no space is left for the run's files",
        then="stop",
        message="{said}; make room, then start the same command again: it goes on",
    ),
    Kind.NOT_WRITABLE: Policy(
        "the run's files may not be written any more",
        then="stop",
        message="{said}; make it writable, then start the same command again: it goes on",
    ),
    Kind.STORAGE_LOST: Policy(
        "the study's database gives no answer",
        then="pause",
    ),
    Kind.TRACKER_LOST: Policy(
        "MLflow gives no answer; what it misses is filled in later",
        then="go on",
    ),
    Kind.NOT_DRAWN: Policy(
        "a figure of the end could not be drawn or written; what was found is not touched",
        then="go on",
    ),
}
"""What is done about each kind of fault."""


@dataclass(frozen=True)
class Incidents:
    """The faults of a run.

    Stateless: any thread may have one of its own. Only who holds the run's lease records.

    Attributes:
        path: of `incidents.jsonl`.
    """

    path: Path

    def record(self, kind: Kind | str, where: str, message: object) -> None:
        """Keep that a fault happened; never raises: a full disk must not make it worse.

        Args:
            kind: one of `Kind`.
            where: what met it: "trial 7 on w3", "study.db".
            message: what was said of it; one line is kept, without passwords.
        """
        kind, told = Kind(kind), said(message)[:MOST_CHARACTERS]
        log.warning("%s: %s: %s", kind, where, told)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"at": at, "kind": str(kind), "where": where, "message": told}
        with _LOCK:
            try:
                self._append(json.dumps(row, ensure_ascii=False) + "\n")
            except OSError as error:
                log.warning("%s: cannot be written: %s", self.path, error.strerror)

    @property
    def counts(self) -> dict[str, int]:
        """How often each kind happened, over all sessions; kinds that never did are not in it."""
        counts: Counter[str] = Counter()
        for row in self._rows():
            counts.update(row["before"] if "before" in row else {row["kind"]: 1})
        return {kind: counts[kind] for kind in Kind if counts[kind]}

    def recent(self, most: int = 20) -> list[dict[str, str]]:
        """The newest faults, oldest first: at, kind, where, message."""
        return [row for row in self._rows() if "before" not in row][-most:]

    def _append(self, line: str) -> None:
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # the disk was full
            os.write(handle, (("\n" if torn else "") + line).encode())
        finally:
            os.close(handle)
        if size > MOST_BYTES:
            self._shorten()

    def _shorten(self) -> None:
        """Turn the older half into counts."""
        rows = self._rows()
        kept = rows[len(rows) // 2 :]
        counts: Counter[str] = Counter()
        for row in rows[: len(rows) // 2]:
            counts.update(row["before"] if "before" in row else {row["kind"]: 1})
        lines = [json.dumps(row, ensure_ascii=False) for row in [{"before": counts}, *kept]]
        write_atomic(self.path, "\n".join(lines) + "\n")

    def _rows(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        rows = []
        for line in text.split("\n"):
            try:
                row = json.loads(line)
            except ValueError:  # torn by a full disk
                continue
            if isinstance(row, dict) and ("before" in row or "kind" in row):
                rows.append(row)
        return rows


def table() -> str:
    """`POLICIES` as the table of `docs/faults.md`."""
    lines = ["| fault | what happened | tried again | then |", "|---|---|---|---|"]
    for kind, policy in POLICIES.items():
        places = [(policy.here, "here"), (policy.elsewhere, "elsewhere")]
        tries = ", ".join(f"{count} x {place}" for count, place in places if count)
        last = "; the last time item by item" if policy.by_item else ""
        lines.append(f"| `{kind}` | {policy.what} | {tries or 'no'}{last} | {policy.then} |")
    return "\n".join(lines)
