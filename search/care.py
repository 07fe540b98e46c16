"""What is done when a job meets a fault: tried again, here or elsewhere, or given up.

The pool says what happened; `search.incidents` says what is to be done; this counts.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace

import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError

from objectives.errors import EngineDiedError, EngineMemoryError, ServiceError
from search.blocks import Blocks
from search.config import WorkersEntry
from search.deadlines import FLOOR_S, Deadlines
from search.file_texts import seconds
from search.incidents import POLICIES, Incidents, Kind
from search.live import Doing
from search.run import Run
from search.worker import Job, Scored, Step

Item = tuple[str, str]
"""A task, and the id of one of its items."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a job after a fault.

    Attributes:
        again: the job to run now, or None: it has had its tries.
        here: on the same worker; otherwise that one is replaced.
        error: why it is given up.
        poison: the item that is at fault, where it is known.
    """

    again: Job | None
    here: bool
    error: str = ""
    poison: Item | None = None


@dataclass
class _Case:
    """What is known of a job on its way."""

    faults: Counter[Kind] = field(default_factory=Counter)
    apart: int = 0  # losses that say nothing of the job
    step: Step | None = None  # what its worker does now
    since: float = 0.0  # monotonic
    suspect: Item | None = None  # at work when a try that asks item by item met a fault
    worker: str = ""
    scored: int = 0  # items, in all tries


class Care:
    """Looks after the jobs of one session.

    Args:
        incidents: where faults are recorded.
        blocks: where blocks of unfinished jobs are kept.
        deadlines: of their steps.
    """

    def __init__(self, incidents: Incidents, blocks: Blocks, deadlines: Deadlines) -> None:
        self.incidents = incidents
        self._blocks = blocks
        self._deadlines = deadlines
        self._cases: dict[str, _Case] = {}
        self._running: set[str] = set()  # workers that have told a step

    @classmethod
    def of(cls, run: Run) -> Care:
        """As a run's file says."""
        return cls(run.incidents, run.blocks, deadlines_of(run.search.file.workers))

    def sent(self, job: Job, worker: str) -> Job:
        """The job as a worker gets it, with what is scored of it already."""
        case = self._cases.setdefault(job.key, _Case())
        case.step, case.worker, case.since = None, worker, time.monotonic()
        had = self._blocks.of(job)
        case.scored = _count(had)
        return replace(job, had=had)

    def stepped(self, job: Job, step: Step) -> None:
        """Its worker told what it does now."""
        self._took(job)
        case = self._cases[job.key]
        case.step, case.since = replace(step, done=Scored()), time.monotonic()
        case.scored += _count(step.done)
        self._running.add(case.worker)
        self._blocks.add(job, step.done)

    def doing(self, job: Job) -> Doing:
        """What the job's worker told last."""
        case = self._cases.get(job.key, _Case(since=time.monotonic()))
        step = case.step
        what = "" if step is None else step.brief
        return Doing(job.key, what, time.monotonic() - case.since, case.scored)

    def ended(self, job: Job) -> None:
        """Its result is there."""
        self._took(job)
        del self._cases[job.key]

    def away(self, seconds: float) -> None:
        """The driver itself was away for so long: no step is to blame for that."""
        now = time.monotonic()
        for case in self._cases.values():
            case.since = min(now, case.since + seconds)

    def overdue(self, job: Job) -> str | None:
        """What the job's worker has been at for too long, or None.

        A worker that never told anything waits for its turn to start an engine, however long.
        """
        case = self._cases[job.key]
        took = time.monotonic() - case.since
        if case.step is None:
            silent = case.worker in self._running and took > FLOOR_S
            return f"{took:,.0f} s without a sign" if silent else None
        if took <= self._deadlines.of(case.step, case.faults[Kind.HUNG]):
            return None
        return f"{took:,.0f} s without a sign"

    def met(self, job: Job, kind: Kind, said: str, worker: str) -> Verdict:
        """A fault ended a try of the job: record it, and say what is done."""
        case, policy = self._cases[job.key], POLICIES[kind]
        step = case.step
        asking = step is not None and step.at == "block"
        where = f"{job.key} on {worker}"
        full = said if step is None else f"{step}: {said}"
        self.incidents.record(kind, where, full)
        if step is not None and step.at == "start":
            self._running.discard(worker)  # it will wait for its turn again
        # A lost machine says nothing of the job, nor does a worker that died before it began.
        if kind == Kind.NODE_LOST or (kind == Kind.WORKER_LOST and step is None):
            case.apart += 1
            count, most = case.apart, POLICIES[Kind.NODE_LOST].retries
        else:
            case.faults[kind] += 1
            count, most = case.faults.total(), policy.retries
        if step is not None and asking and job.by_item and policy.by_item:
            item = (step.task, step.items[0])
            if case.suspect is None:  # it may be chance, a kill from outside: once more
                case.suspect = item
                return Verdict(job, here=kind in _LIVES)
            if case.suspect == item:
                self._give_up(job)
                error = f"{step} is at fault: {POLICIES[kind].what} there ({said})"
                self.incidents.record(Kind.POISONED_ITEM, where, error)
                return Verdict(None, here=kind in _LIVES, error=error, poison=item)
        if count > most or (kind == Kind.JOB_ERROR and not asking):
            self._give_up(job)
            error = policy.message.format(tries=count, said=full)
            return Verdict(None, here=kind in _LIVES, error=error)
        by_item = job.by_item or (policy.by_item and asking and count == most)
        return Verdict(replace(job, by_item=by_item), here=count <= policy.here)

    def _took(self, job: Job) -> None:
        """What the job's worker was at is done."""
        case = self._cases[job.key]
        if case.step is not None:
            self._deadlines.took(case.step, time.monotonic() - case.since)

    def _give_up(self, job: Job) -> None:
        del self._cases[job.key]
        self._blocks.forget(job)


_LIVES = frozenset({Kind.SCORER_FAILED, Kind.JOB_ERROR})
"""Faults after which the same worker can go on with other jobs."""


def _count(scored: Scored) -> int:
    return sum(len(items) for items in scored.items.values())


def deadlines_of(entry: WorkersEntry) -> Deadlines:
    """As a search file's `workers` says."""
    block = entry.block_timeout
    return Deadlines(None if block is None else seconds(block), seconds(entry.start_timeout))


def kind_of_death(error: Exception, node_alive: bool) -> Kind:
    """What a worker's end was: its own, its machine's, or for want of main memory."""
    said = str(error)
    if isinstance(error, OutOfMemoryError) or "running low on memory" in said:
        return Kind.OUT_OF_MEMORY
    if isinstance(error, NodeDiedError) or "node has died" in said or not node_alive:
        return Kind.NODE_LOST
    return Kind.WORKER_LOST


def kind_of_error(cause: BaseException) -> Kind:
    """What an error that a worker raised and survived was."""
    if isinstance(cause, torch.OutOfMemoryError | MemoryError | EngineMemoryError):
        return Kind.OUT_OF_MEMORY
    if isinstance(cause, EngineDiedError):
        return Kind.ENGINE_DIED
    if isinstance(cause, ServiceError):
        return Kind.SCORER_FAILED
    return Kind.JOB_ERROR
