"""Workers as Ray actors: jobs in, outcomes out, dead workers replaced, lost jobs run again."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from merge_core.yaml_io import one_line
from search.care import Care, Item, kind_of_death, kind_of_error
from search.config import WorkersEntry
from search.errors import USER_ERRORS, WorkerError
from search.incidents import Kind
from search.results import Result
from search.worker import Evaluator, Job, Setup, Step

_LOST = (
    RayActorError,  # and its kinds: died, unavailable, not schedulable
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    WorkerCrashedError,
)
log = logging.getLogger("mergefront")


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a result, or why there is none after all tries.

    Attributes:
        job: as it was submitted.
        result: or None.
        error: why there is none.
        poison: the item at fault, where that is known.
    """

    job: Job
    result: Result | None
    error: str | None = None
    poison: Item | None = None


class Workers(Protocol):
    """Who scores jobs, as the driver sees them: a `Pool`, or a simulation of it."""

    @property
    def size(self) -> int:
        """Workers that are alive or starting."""

    @property
    def places(self) -> int:
        """How many more jobs can start at once."""

    @property
    def busy(self) -> bool:
        """Whether any job is on its way."""

    def running(self) -> dict[str, Job | None]:
        """What each worker is doing, by its name."""

    def submit(self, job: Job) -> None:
        """Give `job` to a free worker, or to the next that becomes free."""

    def withdraw(self) -> None:
        """Forget the jobs that no worker has yet."""

    def wait(self, timeout: float) -> list[Outcome]:
        """Outcomes that arrive within `timeout` seconds."""


@dataclass
class _Member:
    """One worker: its actor, the job it has, and the node that it runs on as far as is known."""

    name: str
    actor: Any
    job: Job | None = None
    node: str = ""


@dataclass(frozen=True)
class Resources:
    """What each worker claims, and how many there are."""

    count: int
    cpus: float
    gpus: float

    @classmethod
    def of(cls, entry: WorkersEntry) -> Resources:
        """As the file says; otherwise one worker per GPU, or one per two cores without GPUs.

        Counted node by node, because a worker lives on one node.

        Raises:
            WorkerError: Ray's nodes cannot hold them.
        """
        nodes = [
            (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"]
        ]
        gpus = entry.gpus
        if gpus is None:
            gpus = 1.0 if any(has > 0 for _, has in nodes) else 0.0
        usable = [(cores, has) for cores, has in nodes if has >= gpus and cores >= 1.0]
        places = [has // gpus if gpus else max(1.0, cores // 2) for cores, has in usable]
        count = entry.count if entry.count is not None else max(1, int(sum(places)))
        cpus = entry.cpus
        if cpus is None:
            # Spread over the nodes as evenly as Ray can, each worker has this many cores.
            most = math.ceil(count / max(1, len(usable)))
            cpus = min((max(1.0, cores // most) for cores, _ in usable), default=1.0)
        room = sum(
            int(min(cores // cpus, has // gpus if gpus else math.inf)) for cores, has in nodes
        )
        if room < count:
            wanted = f"{cpus:g} cores" + (f" and {gpus:g} GPUs" if gpus else "")
            have = "; ".join(f"{cores:g} cores, {has:g} GPUs" for cores, has in nodes)
            raise WorkerError(
                f"{count} workers of {wanted} each do not fit, {room} do (nodes: {have}): "
                "lower workers.count, workers.cpus or workers.gpus"
            )
        return cls(count, cpus, gpus)


class Pool:
    """Workers that score jobs.

    Ray has to be connected (`connected`).

    Args:
        setup: sent to every worker.
        resources: how many workers, with what.
        care: decides what is done when a job meets a fault.
    """

    def __init__(self, setup: Setup, resources: Resources, care: Care) -> None:
        self.resources = resources
        self._setup = ray.put(setup)
        self._members: dict[str, _Member] = {}
        self._futures: dict[Any, str] = {}
        self._care = care
        self._queue: deque[Job] = deque()
        self._numbers = iter(range(10**9))
        for _ in range(self.resources.count):
            self._spawn()

    @property
    def size(self) -> int:
        """Workers that are alive or starting."""
        return len(self._members)

    @property
    def places(self) -> int:
        """How many more jobs can start at once."""
        return max(0, self.size - len(self._futures) - len(self._queue))

    @property
    def busy(self) -> bool:
        """Whether any job is on its way."""
        return bool(self._futures or self._queue)

    def running(self) -> dict[str, Job | None]:
        """What each worker is doing, by its name."""
        return {member.name: member.job for member in self._members.values()}

    def submit(self, job: Job) -> None:
        """Give `job` to a free worker, or to the next that becomes free."""
        self._queue.append(job)
        self._assign()

    def withdraw(self) -> None:
        """Forget the jobs that no worker has yet."""
        self._queue.clear()

    def wait(self, timeout: float) -> list[Outcome]:
        """Outcomes that arrive within `timeout` seconds; jobs that met a fault are tried again.

        Raises:
            ObjectiveError, MergeError: the set-up is wrong: no job would ever do better.
        """
        if not self._futures:
            return []
        ready, _ = ray.wait(list(self._futures), num_returns=1, timeout=timeout)
        outcomes: list[Outcome | None] = []
        while ready:
            outcomes += [self._collect(future) for future in ready]
            many = len(self._futures)
            ready = ray.wait(list(self._futures), num_returns=many, timeout=0)[0] if many else []
        outcomes += [self._hung(member) for member in list(self._members.values())]
        self._assign()
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """End all workers."""
        for member in self._members.values():
            ray.kill(member.actor)
        self._members.clear()
        self._futures.clear()

    def _assign(self) -> None:
        for member in self._members.values():
            if member.job is None and self._queue:
                self._send(member, self._queue.popleft())

    def _send(self, member: _Member, job: Job) -> None:
        member.job = job
        self._futures[member.actor.evaluate.remote(self._care.sent(job))] = member.name

    def _collect(self, future: Any) -> Outcome | None:
        """The next that a worker tells: a step, its result, or a fault."""
        member = self._members[self._futures[future]]
        job = member.job
        assert job is not None
        try:
            told = ray.get(next(future))
        except _LOST as error:
            log.warning("worker %s died with %s: %s", member.name, job.key, error)
            kind = kind_of_death(error, _alive(member.node))
            return self._met(member, kind, str(error), lives=False)
        except RayTaskError as error:
            cause = error.cause
            kind = kind_of_error(cause)
            if kind == Kind.JOB_ERROR and isinstance(cause, USER_ERRORS):
                raise cause from None
            log.error("%s failed on %s:\n%s", job.key, member.name, error)
            return self._met(member, kind, f"{type(cause).__name__}: {cause}")
        if isinstance(told, Step):
            member.node = told.node or member.node
            self._care.stepped(job, told)
            return None
        del self._futures[future]
        member.job = None
        self._care.ended(job)
        for note in told.notes:
            log.warning("worker %s: %s", member.name, note)
        return Outcome(job, told)

    def _hung(self, member: _Member) -> Outcome | None:
        """End a worker that is over its deadline: it may hold its engine's lock for ever."""
        said = self._care.overdue(member.job) if member.job is not None else None
        return None if said is None else self._met(member, Kind.HUNG, said, lives=False)

    def _met(self, member: _Member, kind: Kind, said: str, *, lives: bool = True) -> Outcome | None:
        """A fault ended a try of a member's job: the next try, or the outcome if that was the last.

        A worker that is not fit for another job is replaced.
        """
        job, member.job = member.job, None
        assert job is not None
        self._futures = {f: name for f, name in self._futures.items() if name != member.name}
        verdict = self._care.met(job, kind, one_line(said), member.name)
        if not (lives and verdict.here):
            ray.kill(member.actor)  # where it is only out of reach it must not keep its GPU
            del self._members[member.name]
            self._spawn()
        if verdict.again is None:
            return Outcome(job, None, verdict.error, verdict.poison)
        if member.name in self._members:
            self._send(member, verdict.again)
        else:
            self._queue.appendleft(verdict.again)
        return None

    def _spawn(self) -> None:
        name = f"w{next(self._numbers)}"
        # max_restarts=0: a restarted actor would come up without telling anyone; we respawn.
        actor = Worker.options(  # type: ignore[attr-defined]
            num_cpus=self.resources.cpus, num_gpus=self.resources.gpus, max_restarts=0
        ).remote(self._setup, name)
        self._members[name] = _Member(name, actor)


@ray.remote
class Worker:
    """The actor. Its engine starts with the first job, whose outcome then carries its errors."""

    def __init__(self, setup: Setup, name: str) -> None:
        self._setup = setup
        self._name = name
        self._evaluator: Evaluator | None = None

    def evaluate(self, job: Job) -> Iterator[Step | Result]:
        """Score one job, telling each step as it begins; the result comes last."""
        yield Step("start", node=ray.get_runtime_context().get_node_id())
        if self._evaluator is None:
            self._evaluator = Evaluator(self._setup, self._name)
        yield from self._evaluator.steps(job)


def _alive(node: str) -> bool:
    """Whether a node is one of the cluster's; one that is not known yet is taken to be."""
    return not node or any(held["NodeID"] == node and held["Alive"] for held in ray.nodes())


@contextmanager
def connected() -> Iterator[None]:
    """Ray at RAY_ADDRESS, or a local one; a connection that was there before is left alone.

    Raises:
        WorkerError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would otherwise hide all GPUs from workers that claim none, with a warning per worker.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    try:
        # "local" by name: without it Ray attaches to whatever cluster this machine last saw.
        ray.init(
            address=address or "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"object_store_memory": 512 * 2**20}),
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = f"the cluster at RAY_ADDRESS={address}" if address else "a local Ray"
        hint = ""
        if address and "RAY_AUTH_MODE" not in os.environ:
            hint = "; if the cluster asks for a token (Ray's default), set RAY_AUTH_MODE=token"
        why = (str(error).splitlines() or [""])[0]
        raise WorkerError(f"{where} cannot be reached: {why}{hint}") from error
    try:
        yield
    finally:
        ray.shutdown()
