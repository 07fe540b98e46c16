"""Workers as Ray actors: jobs in, outcomes out, dead workers replaced, lost jobs run again."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import (
    AuthenticationError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from merge_core.yaml_io import one_line
from search.care import Care, Item, kind_of_death, kind_of_error
from search.crew import Crew, Hand
from search.deadlines import Presence
from search.errors import USER_ERRORS, WorkerError
from search.head import watched
from search.incidents import Kind
from search.live import Doing
from search.placement import Resources
from search.results import Result
from search.worker import Job, Setup, Step

_LOST = (
    RayActorError,  # and its kinds: died, unavailable, not schedulable
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    WorkerCrashedError,
)
_MOST_DUMPED = 2_000
"""Characters of what Ray says of a death; the state of all its parts is in Ray's own logs."""

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

    def doing(self) -> dict[str, Doing]:
        """What each worker does now, by its name."""

    def submit(self, job: Job) -> None:
        """Give `job` to a free worker, or to the next that becomes free."""

    def withdraw(self) -> None:
        """Forget the jobs that no worker has yet."""

    def wait(self, timeout: float) -> list[Outcome]:
        """Outcomes that arrive within `timeout` seconds."""


class Pool:
    """Workers that score jobs.

    Ray has to be connected (`connected`).

    Args:
        setup: sent to every worker.
        resources: which workers are wanted.
        care: decides what is done when a job meets a fault.
        wait: how many seconds no worker may be alive before the search ends.

    Attributes:
        crew: the workers.
    """

    def __init__(
        self, setup: Setup, resources: Resources, care: Care, wait: float = math.inf
    ) -> None:
        self.crew = Crew(setup, resources, wait, care.incidents.record)
        self._futures: dict[Any, str] = {}
        self._care = care
        self._queue: deque[Job] = deque()
        self._presence = Presence()
        self._proven = False  # a job came to its end: the set-up is right

    @property
    def size(self) -> int:
        """Workers that are alive or starting."""
        return len(self.crew.hands)

    @property
    def places(self) -> int:
        """How many more jobs can start at once; one may wait where no worker is ready yet."""
        return max(0, max(1, len(self.crew.ready)) - len(self._futures) - len(self._queue))

    @property
    def busy(self) -> bool:
        """Whether any job is on its way."""
        return bool(self._futures or self._queue)

    def doing(self) -> dict[str, Doing]:
        """What each worker does now, by its name."""
        return {hand.name: self._doing(hand) for hand in self.crew.hands.values()}

    def _doing(self, hand: Hand) -> Doing:
        if hand.job is not None:
            return self._care.doing(hand.job)
        what, since = ("idle", hand.free_since) if hand.ready else ("starting", hand.born)
        return Doing(what=what, seconds=time.monotonic() - since)

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
            ObjectiveError, MergeError: the set-up is wrong: no job would ever do better. Never
                after a job has come to its end: then it is one node's fault, or one job's.
            WorkerError: no worker starts, or none has been alive for too long.
        """
        self._away()
        self.crew.tend()
        if not self._told:
            time.sleep(min(timeout, 0.5) if self.busy else 0.0)  # nodes may come
            return []
        ready, _ = ray.wait(self._told, num_returns=1, timeout=timeout)
        away = self._away(planned=timeout)
        outcomes: list[Outcome | None] = []
        while ready:
            for told in ready:
                if told in self._futures:
                    outcomes.append(self._collect(told))
                elif told in self.crew.starting:
                    self.crew.hear(told)
            told = self._told
            ready = ray.wait(told, num_returns=len(told), timeout=0)[0] if told else []
        if not (self._away() or away):
            outcomes += [self._hung(hand) for hand in list(self.crew.hands.values())]
        self._assign()
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """End all workers."""
        self._futures.clear()
        self.crew.close()

    @property
    def _told(self) -> list[Any]:
        """What may tell something new: jobs that run, and workers that start."""
        return [*self._futures, *self.crew.starting]

    def _away(self, planned: float = 0.0) -> bool:
        """Whether the driver itself stood still since the last call: no deadline counts that."""
        missed = self._presence.missed(planned)
        if missed:
            log.warning("this process stood still for %.0f s", missed)
            self._care.away(missed)
            self.crew.away(missed)
        return missed > 0.0

    def _assign(self) -> None:
        for hand in self.crew.free:
            if self._queue:
                self._send(hand, self._queue.popleft())

    def _send(self, hand: Hand, job: Job) -> None:
        self.crew.give(hand, job)
        self._futures[hand.actor.evaluate.remote(self._care.sent(job, hand.name))] = hand.name

    def _collect(self, future: Any) -> Outcome | None:
        """The next that a worker tells: a step, its result, or a fault."""
        hand = self.crew.hands[self._futures[future]]
        job = hand.job
        assert job is not None
        try:
            told = ray.get(next(future))
        except _LOST as error:
            log.warning("worker %s died with %s: %s", hand.name, job.key, error)
            kind = kind_of_death(error, self.crew.stands(hand.place))
            return self._met(hand, kind, str(error), lives=False)
        except RayTaskError as error:
            cause = error.cause
            kind, lives = kind_of_error(cause), True
            if kind == Kind.JOB_ERROR and isinstance(cause, USER_ERRORS):
                if not self._proven:
                    raise cause from None
                kind, lives = Kind.ENGINE_DIED, False  # another node may do better
            log.error("%s failed on %s:\n%s", job.key, hand.name, error)
            return self._met(hand, kind, f"{type(cause).__name__}: {cause}", lives=lives)
        if isinstance(told, Step):
            self._care.stepped(job, told)
            return None
        self._proven = True
        del self._futures[future]
        self.crew.take(hand)
        self._care.ended(job)
        for note in told.notes:
            log.warning("worker %s: %s", hand.name, note)
        return Outcome(job, told)

    def _hung(self, hand: Hand) -> Outcome | None:
        """End a worker that is over its deadline: it may hold its engine's lock for ever."""
        said = self._care.overdue(hand.job) if hand.job is not None else None
        return None if said is None else self._met(hand, Kind.HUNG, said, lives=False)

    def _met(self, hand: Hand, kind: Kind, said: str, *, lives: bool = True) -> Outcome | None:
        """A fault ended a try of a hand's job: the next try, or the outcome if that was the last.

        A worker that is not fit for another job is replaced.
        """
        job = hand.job
        assert job is not None
        self.crew.take(hand)
        self._futures = {f: name for f, name in self._futures.items() if name != hand.name}
        verdict = self._care.met(job, kind, one_line(said), hand.name)
        if not (lives and verdict.here):
            self.crew.replace(hand)
        if verdict.again is None:
            return Outcome(job, None, verdict.error, verdict.poison)
        if hand.name in self.crew.hands:
            self._send(hand, verdict.again)
        else:
            self._queue.appendleft(verdict.again)
        return None


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
    # What an engine has started dies with its worker, however that dies.
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "true")
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
    except (AuthenticationError, ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = f"the cluster at RAY_ADDRESS={address}" if address else "a local Ray"
        hint = ""
        if address and "RAY_AUTH_MODE" not in os.environ:
            hint = (
                "; if the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
            )
        why = (str(error).splitlines() or [""])[0]
        raise WorkerError(f"{where} cannot be reached: {why}{hint}") from error
    try:
        with watched(ray.get_runtime_context().gcs_address), _dumps_in_log():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _dumps_in_log() -> Iterator[None]:
    """Ray's dumps about the dead go to the run's log: no setting keeps them off the terminal."""
    from ray._private import worker as inside

    def to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
        del ignore_prefix
        log.info("ray: %s", "\n".join(data["lines"])[:_MOST_DUMPED])

    before = inside.print_to_stdstream
    inside.print_to_stdstream = to_log
    try:
        yield
    finally:
        inside.print_to_stdstream = before
