"""The workers that a pool holds: started where there is a place, watched, and given back.

Looks at the cluster's nodes every few seconds: a node that joins gets workers, those of one that
has left are forgotten. A worker gets jobs once its process is up and its node has the checkpoints.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from search.actor import Begun, Worker
from search.errors import USER_ERRORS, WorkerError
from search.head import answers
from search.incidents import Kind
from search.placement import Bundle, Node, Place, Resources, nodes
from search.worker import Job, Setup

LOOK_S = 2.0
"""How often the cluster's nodes are looked at."""

PENDING_S = 120.0
"""A worker that others' claims keep from starting for so long is tried on another node."""

NOTICED_S = 20.0
"""Ray's health checks have seen by then that a node is dead."""

MOST_FAILED = 5
"""Starts in a row that fail, with no worker alive, before it is called the set-up's fault."""

SILENT_S = 30 * 60.0
"""A worker that fetches, with no line from any that does, is taken to hang."""

_NODE_ID = "ray.io/node-id"  # the label that Ray gives every node
log = logging.getLogger("mergefront")


@dataclass
class Hand:
    """One worker.

    Attributes:
        name: w0, w1, ...
        actor: Ray's handle.
        place: what it claims where.
        job: that it is at.
        ready: whether it takes jobs.
        begun: whether its process is up.
        gpus: Ray's numbers of the GPUs that it was given.
        group: Ray's placement group, where it claims several bundles.
        born: since when it has its place, by the monotonic clock; until it has begun, when it was
            asked for.
        heard: when it last told something while it started.
        free_since: since when it has been ready without a job.
    """

    name: str
    actor: Any
    place: Place
    job: Job | None = None
    ready: bool = False
    begun: bool = False
    gpus: tuple[int, ...] = ()
    group: Any = None
    born: float = field(default_factory=time.monotonic)
    heard: float = 0.0
    free_since: float = 0.0

    @property
    def node(self) -> str:
        """Where it runs; "" before Ray has found it a node."""
        return self.place.node


class Crew:
    """The workers. Ray has to be connected.

    Args:
        setup: sent to each.
        resources: which workers are wanted.
        wait: how many seconds no worker may be alive before the search ends.
        record: told of faults that no job has met: kind, where, what was said.

    Attributes:
        hands: by name, those that are starting included.
        idle: seconds that ready workers had no job, all of them together.
        used: seconds that they had one.
    """

    def __init__(
        self,
        setup: Setup,
        resources: Resources,
        wait: float,
        record: Callable[[Kind, str, object], None],
    ) -> None:
        self.resources = resources
        self.hands: dict[str, Hand] = {}
        self.idle = 0.0
        self.used = 0.0
        self._setup = ray.put(setup)
        self._starting: dict[Any, str] = {}
        self._wait = wait
        self._record = record
        self._number = 0
        self._failed = 0  # starts in a row
        self._failures: Counter[str] = Counter()  # the same by node
        self._proven = False  # a worker has been ready: the set-up is right
        self._held = (0.0, 0.0)
        self._not_before: dict[str, float] = {}
        self._looked = -math.inf
        self._alive = self._told = self._fetched = time.monotonic()
        self._known: dict[str, Node] = {}
        self.tend()

    @property
    def starting(self) -> list[Any]:
        """What `ray.wait` may wait for: something new from a worker that is starting."""
        return list(self._starting)

    @property
    def ready(self) -> list[Hand]:
        """Those that take jobs."""
        return [hand for hand in self.hands.values() if hand.ready]

    @property
    def free(self) -> list[Hand]:
        """Those of them that have none."""
        return [hand for hand in self.hands.values() if hand.ready and hand.job is None]

    @property
    def wanted(self) -> tuple[int, float]:
        """How many workers there are, be they starting, and the GPUs of each on average."""
        gpus = sum(hand.place.gpus for hand in self.hands.values())
        return max(1, len(self.hands)), gpus / max(1, len(self.hands))

    def held(self) -> tuple[float, float]:
        """Seconds that places have been held, one for each worker, and one for each of its GPUs."""
        now = time.monotonic()
        begun = [hand for hand in list(self.hands.values()) if hand.begun]
        return (
            self._held[0] + sum(now - hand.born for hand in begun),
            self._held[1] + sum((now - hand.born) * hand.place.gpus for hand in begun),
        )

    def stands(self, place: Place) -> bool:
        """Whether all nodes of a place are there now; Ray itself notices a dead one late.

        Until it has, no worker is started on that one.
        """
        there = {node.id: node.address for node in nodes()}
        gone = [node for node in place.nodes if node not in there or not answers(there[node])]
        for node in gone:
            self._not_before[node] = time.monotonic() + NOTICED_S
        return not gone

    def away(self, seconds: float) -> None:
        """The driver itself was away for so long: nobody's silence counts that time."""
        now = time.monotonic()
        self._alive = min(now, self._alive + seconds)
        self._fetched = min(now, self._fetched + seconds)
        for hand in self.hands.values():
            hand.heard = min(now, hand.heard + seconds)

    # ---- life

    def tend(self, *, now: bool = False) -> None:
        """Look at the nodes if it is time, or `now`: drop workers of those that left, fill places.

        Raises:
            WorkerError: no worker has been alive for too long.
        """
        clock = time.monotonic()
        if not now and clock - self._looked < LOOK_S:
            return
        self._looked = clock
        on = nodes()
        self._see(on)
        for hand in list(self.hands.values()):
            if hand.place.nodes <= self._known.keys():
                continue
            if hand.job is None:
                self._record(Kind.NODE_LOST, f"worker {hand.name}", "left with its node")
                self.drop(hand)
            else:  # what it was at ends with its error; a part of it elsewhere ends, too
                ray.kill(hand.actor)
        self._end_silent(clock)
        self._move(on, clock)
        back = {node for node, until in self._not_before.items() if until > clock}
        held = [hand.place for hand in self.hands.values()]
        for place in self.resources.places(on, held, back=back):
            self._start(place)
        self._check_alive(on, clock)

    def hear(self, told: Any) -> None:
        """Take in what a starting worker tells; `told` is one of `starting`.

        Raises:
            ObjectiveError, MergeError: its node cannot have a checkpoint.
            WorkerError: workers keep dying while they start.
        """
        hand = self.hands[self._starting[told]]
        try:
            said = ray.get(next(told))
        except StopIteration:
            del self._starting[told]
            hand.ready, hand.free_since = True, time.monotonic()
            self._proven, self._failed = True, 0
            self._failures.pop(hand.node, None)
            return
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if isinstance(cause, USER_ERRORS) and not self._proven:
                raise cause from None
            self._failed_start(hand, cause)
            return
        self._alive = hand.heard = time.monotonic()
        if isinstance(said, Begun):
            self._begun(hand, said)
        else:
            self._fetched = hand.heard
            log.info("worker %s: %s", hand.name, said)

    def give(self, hand: Hand, job: Job) -> None:
        """Note that a hand is at a job from now on."""
        clock = time.monotonic()
        if hand.job is None and hand.free_since:
            self.idle += clock - hand.free_since
        hand.job, hand.free_since = job, clock

    def take(self, hand: Hand) -> None:
        """Note that it has none any more."""
        clock = time.monotonic()
        if hand.job is not None:
            self.used += clock - hand.free_since
        hand.job, hand.free_since = None, clock

    def drop(self, hand: Hand) -> None:
        """End a worker: where it is only out of reach it must not keep its GPU."""
        if self.hands.pop(hand.name, None) is None:
            return
        if hand.begun:
            took = time.monotonic() - hand.born
            self._held = self._held[0] + took, self._held[1] + took * hand.place.gpus
        ray.kill(hand.actor)
        if hand.group is not None:
            remove_placement_group(hand.group)
        self._starting = {told: n for told, n in self._starting.items() if n != hand.name}

    def replace(self, hand: Hand) -> None:
        """End a worker, and start another where there is a place."""
        self.drop(hand)
        self.tend(now=True)

    def close(self) -> None:
        """End all workers: those without a job close their engines first."""
        closing = [hand.actor.close.remote() for hand in self.free]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=10.0)
        for hand in list(self.hands.values()):
            self.take(hand)
            self.drop(hand)
        if self.used:
            log.info(
                "workers were at jobs for %.0f s in all, and had none for %.1f s",
                *(self.used, self.idle),
            )
            self.used = self.idle = 0.0

    # ---- inside

    def _see(self, on: Sequence[Node]) -> None:
        """Log which nodes have joined and left."""
        seen = {node.id: node for node in on}
        for node in seen.keys() - self._known.keys():
            self._not_before.pop(node, None)
            self._failures.pop(node, None)
            if self._known:
                log.info("node %s joined: %s", node[:8], _described(seen[node]))
        for node in self._known.keys() - seen.keys():
            log.warning("node %s left: %s", node[:8], _described(self._known[node]))
        self._known = seen

    def _start(self, place: Place) -> None:
        name = f"w{self._number}"
        self._number += 1
        group = None
        options: dict[str, Any] = {}
        if place.across:
            # The engine's own processes take the GPUs: vLLM's ray executor finds the group.
            pins = [{_NODE_ID: bundle.node} if bundle.node else {} for bundle in place.bundles]
            group = placement_group(
                [dict(bundle.claim) for bundle in place.bundles],
                strategy="PACK",
                bundle_label_selector=pins if place.node else None,
            )
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, 0)
            options.update(num_cpus=place.cpus, num_gpus=0)
        else:
            claim = dict(place.bundles[0].claim)
            if place.node:
                strategy = NodeAffinitySchedulingStrategy(place.node, soft=False)
                options["scheduling_strategy"] = strategy
            options.update(num_cpus=claim.pop("CPU", 0.0), num_gpus=claim.pop("GPU", 0.0))
            options["resources"] = claim
        # max_restarts=0: a restarted actor would come up without telling anyone; we start another.
        actor = Worker.options(max_restarts=0, **options).remote(  # type: ignore[attr-defined]
            self._setup, name, place.threads, across=place.across
        )
        self.hands[name] = Hand(name, actor, place, group=group)
        self._starting[actor.begin.remote()] = name

    def _begun(self, hand: Hand, said: Begun) -> None:
        if not hand.node:
            hand.born = time.monotonic()
        bundles = [replace(one, node=one.node or said.node) for one in hand.place.bundles]
        if hand.group is not None:
            placed = placement_group_table(hand.group)["bundles_to_node_id"]
            bundles = [Bundle(placed[i], bundle.claim) for i, bundle in enumerate(bundles)]
        hand.place = replace(hand.place, bundles=tuple(bundles))
        hand.begun, hand.gpus = True, said.gpus
        gpus = f" with GPUs {', '.join(map(str, said.gpus))}" if said.gpus else ""
        log.info("worker %s is on %s (node %s)%s", hand.name, said.host, said.node[:8], gpus)

    def _failed_start(self, hand: Hand, error: BaseException) -> None:
        """A start came to nothing: on a node that has left that says nothing, else it counts."""
        self.drop(hand)
        self._looked = -math.inf
        if self.stands(hand.place):
            log.warning("worker %s did not start: %s", hand.name, error)
            self._hold_back({hand.node}, (str(error).splitlines() or [repr(error)])[0])

    def _end_silent(self, clock: float) -> None:
        """End workers that fetch and say nothing; one fetches and others wait: any line will do."""
        silent = [
            hand
            for hand in self.hands.values()
            if hand.begun and not hand.ready and clock - max(hand.heard, self._fetched) > SILENT_S
        ]
        said = f"{SILENT_S:,.0f} s without a sign while it fetched checkpoints"
        for hand in silent:
            self._record(Kind.HUNG, f"worker {hand.name}", said)
            self.drop(hand)
        if silent:
            self._hold_back({hand.node for hand in silent}, said)

    def _hold_back(self, failed: set[str], said: str) -> None:
        """Start no worker on some nodes for a while, longer each time."""
        self._failed += 1
        begun = any(other.begun for other in self.hands.values())
        if self._failed >= MOST_FAILED and not begun:
            raise WorkerError(
                f"{MOST_FAILED} workers in a row died while they started, the last with: {said}"
            )
        for node in failed:
            self._failures[node] += 1
            self._not_before[node] = time.monotonic() + 2.0 ** min(8, self._failures[node])

    def _move(self, on: Sequence[Node], clock: float) -> None:
        """Start a worker elsewhere if others' claims keep it from its place, and there is room."""
        for hand in list(self.hands.values()):
            if hand.begun or not hand.node or clock - hand.born < PENDING_S:
                continue
            others = [m.place for m in self.hands.values() if m is not hand]
            kind = hand.place.kind
            found = self.resources.places(on, others, avoid={kind: hand.node})
            other = next((p for p in found if p.kind == kind), None)
            if other is not None and other.node not in ("", hand.node):
                log.warning("worker %s waits in vain for its node; another is tried", hand.name)
                self.drop(hand)
                self._start(other)
            else:
                hand.born = clock
                log.warning("worker %s waits: others hold what it claims", hand.name)

    def _check_alive(self, on: Sequence[Node], clock: float) -> None:
        if any(hand.begun for hand in self.hands.values()):
            self._alive = clock
            return
        dead = clock - self._alive
        if dead > self._wait:
            raise WorkerError(
                f"no worker has been alive for {dead / 60:.0f} minutes (workers.wait); nodes: "
                f"{'; '.join(map(_described, on)) or 'none'}. When there are nodes again, the same "
                "command goes on"
            )
        if dead > 10.0 and clock - self._told > 60.0:
            self._told = clock
            log.warning(
                "no worker is alive: waiting for nodes, %.0f of at most %.0f minutes (nodes: %s)",
                *(dead / 60, self._wait / 60, "; ".join(map(_described, on)) or "none"),
            )


def _described(node: Node) -> str:
    return f"{node.host} with {node.cpus:g} cores, {node.gpus:g} GPUs"
