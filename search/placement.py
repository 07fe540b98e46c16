"""Which node each worker gets and what it claims there.

Nothing here talks to Ray but `nodes`: from the nodes as they are now and the places that are held,
to the places that are to be filled. So workers join with nodes that join, and leave with those
that leave. Amounts are counted in ten-thousandths, as Ray does.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import ray

from objectives import EngineConfig
from search.errors import WorkerError
from search.file import KindEntry, WorkersEntry

_PART = 10_000
"""Ray's smallest amount of a resource is one of so many parts."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: Ray's.
        host: its name, for people.
        has: amounts of CPU, GPU and the cluster's own resources.
        address: `host:port` of its raylet.
    """

    id: str
    host: str
    has: Mapping[str, float]
    address: str = ""

    @property
    def cpus(self) -> float:
        """Cores."""
        return self.has.get("CPU", 0.0)

    @property
    def gpus(self) -> float:
        """GPUs."""
        return self.has.get("GPU", 0.0)


def nodes() -> list[Node]:
    """The nodes that are alive. Ray has to be connected."""
    return [
        Node(
            node["NodeID"],
            node["NodeManagerHostname"],
            dict(node["Resources"]),
            f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}",
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def clustered(on: Sequence[Node]) -> bool:
    """Whether nodes may join: not where Ray is this machine's own."""
    return len(on) > 1 or bool(os.environ.get("RAY_ADDRESS"))


@dataclass(frozen=True)
class Bundle:
    """What a worker claims on one node."""

    node: str
    claim: Mapping[str, float]


@dataclass(frozen=True)
class Place:
    """Where a worker lives: on one node, or in one bundle a GPU on several.

    Attributes:
        kind: which of the file's kinds of workers.
        bundles: what it claims; it runs itself where the first is.
        across: each bundle holds one process of its engine.
    """

    kind: int
    bundles: tuple[Bundle, ...]
    across: bool = False

    @property
    def node(self) -> str:
        """Where it runs itself; "" as long as it has no node."""
        return self.bundles[0].node

    @property
    def nodes(self) -> frozenset[str]:
        """Where any part of it is; none as long as it has no node."""
        return frozenset(bundle.node for bundle in self.bundles if bundle.node)

    @property
    def gpus(self) -> float:
        """GPUs that it claims in all."""
        return sum(bundle.claim.get("GPU", 0.0) for bundle in self.bundles)

    @property
    def cpus(self) -> float:
        """Cores where it runs itself."""
        return self.bundles[0].claim.get("CPU", 0.0)

    @property
    def threads(self) -> int:
        """Threads that it may use for merging."""
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class WorkerKind:
    """One kind of worker, with the GPUs that each claims decided."""

    entry: KindEntry
    gpus: float

    @property
    def across(self) -> bool:
        """Whether its engine's GPUs may lie on several nodes."""
        return self.entry.across_nodes

    def claim(self, cpus: float) -> dict[str, float]:
        """What each of them claims with so many cores."""
        claim = {"CPU": cpus, "GPU": self.gpus, **self.entry.resources}
        return {name: amount for name, amount in claim.items() if amount}

    def room(self, node: Node) -> int:
        """How many the GPUs of a node alone would hold. A fraction never spans two GPUs."""
        if self.gpus >= 1.0:
            return int(node.gpus // self.gpus)
        return int(node.gpus) * int(1.0 / self.gpus + 1e-9)

    def cpus(self, node: Node, usable: int, most: int | None) -> float:
        """Cores of each on `node`, where the file does not say.

        With GPUs an equal share, so that cores never keep a GPU from being used. Otherwise as if
        the file's number were spread evenly, and two cores each where it says none.

        Args:
            node: where.
            usable: how many nodes share the work.
            most: how many of them are wanted, if no other kind needs the cores.
        """
        if self.entry.cpus is not None:
            return self.entry.cpus
        if self.gpus:
            share = node.cpus / max(1, min(self.room(node), most or self.room(node)))
            return float(int(share)) if share >= 1.0 else int(share * _PART) / _PART
        count = self.entry.count
        each = max(1, int(node.cpus // 2)) if count is None else math.ceil(count / max(1, usable))
        return max(1.0, float(int(node.cpus // each)))


@dataclass(frozen=True)
class Resources:
    """The workers that a search wants, whatever the nodes are."""

    kinds: tuple[WorkerKind, ...]

    @classmethod
    def of(cls, entry: WorkersEntry, engine: EngineConfig, on: Sequence[Node]) -> Resources:
        """As the file says; where it does not, the GPUs that the engine needs if there are any.

        Args:
            entry: `workers` of the search file.
            engine: its property `devices` is how many GPUs one engine needs.
            on: the nodes as they are now.

        Raises:
            WorkerError: several nodes are asked for an engine of one GPU.
        """
        needed = 0.0
        # An engine that is told to compute on the CPU shall not keep a GPU from those that need it.
        if getattr(engine, "device", None) != "cpu" and any(node.gpus for node in on):
            needed = float(engine.devices)
        kinds = []
        for kind in entry.each:
            gpus = needed if kind.gpus is None else float(kind.gpus)
            if kind.across_nodes and engine.kind == "transformers":
                raise WorkerError(
                    "workers.across_nodes: the transformers engine has one device; use vllm"
                )
            if kind.across_nodes and gpus < 2:
                raise WorkerError(
                    f"workers.across_nodes: an engine of {gpus:g} GPUs needs no second node; leave "
                    "it out, or give gpus and a parallel engine (vllm: tensor_parallel, ...)"
                )
            kinds.append(WorkerKind(kind, gpus))
        return cls(tuple(kinds))

    def lack(self, on: Sequence[Node]) -> str | None:
        """What to tell where not all workers that the file counts fit, or not one of a kind."""
        fit = [place for place in self.places(on, ()) if place.node]
        for index, kind in enumerate(self.kinds):
            room = sum(place.kind == index for place in fit)
            count = kind.entry.count
            if room >= (1 if count is None else count):
                continue
            cpus = kind.entry.cpus
            wanted = [f"{cpus or 1:g} cores"] + [f"{kind.gpus:g} GPUs"] * bool(kind.gpus)
            wanted += [f"{amount:g} {name}" for name, amount in kind.entry.resources.items()]
            have = "; ".join(f"{node.cpus:g} cores, {node.gpus:g} GPUs" for node in on)
            return (
                f"{count or 1} workers of {' and '.join(wanted)} each do not fit, {room} do "
                f"(nodes: {have or 'none'}): lower workers.count, workers.cpus or workers.gpus"
            )
        return None

    def places(
        self,
        on: Sequence[Node],
        held: Iterable[Place],
        avoid: Mapping[int, str] | None = None,
        back: Collection[str] = (),
    ) -> list[Place]:
        """The places that are to be filled now.

        Workers that the file counts come first, those of most GPUs before others, each on the node
        that has fewest; those that no node has room for have a place on no node, so that Ray starts
        them where room comes, and an autoscaler knows. Then the kinds that are not counted, as many
        as fit.

        Args:
            on: the nodes as they are now.
            held: places that have a worker.
            avoid: by kind, a node that is tried last.
            back: nodes that are held back: what they have room for waits for them. "": nobody gets
                a place on no node.
        """
        held = list(held)
        if back:
            fit = [node for node in on if node.id not in back]
            most = Counter(p.kind for p in self.places(on, held, avoid) if not p.node)
            now = self.places(fit, held, avoid)
            for waits in [p for p in now if not p.node]:
                if "" in back or most[waits.kind] <= 0:
                    now.remove(waits)
                most[waits.kind] -= 1
            return now
        book = _Book(on, held)
        found: list[Place] = []
        order = sorted(
            range(len(self.kinds)),
            key=lambda i: (self.kinds[i].entry.count is None, -self.kinds[i].gpus),
        )
        for index in order:
            count = self.kinds[index].entry.count
            have = sum(place.kind == index for place in held)
            while count is None or have < count:
                place = self._next(index, book, (avoid or {}).get(index))
                if place is None and count is None:
                    break
                if place is None:
                    place = self._nowhere(index)
                book.take(place)
                found.append(place)
                have += 1
        return found

    def _next(self, index: int, book: _Book, avoid: str | None) -> Place | None:
        """Where the next worker of a kind goes, or None where there is no room."""
        kind = self.kinds[index]
        if kind.across:
            return self._across(index, book)
        alone = kind.entry.count if len(self.kinds) == 1 else None
        usable = [node for node in book.nodes if kind.gpus or node.cpus >= 1.0]
        found = []
        for node in usable:
            claim = kind.claim(kind.cpus(node, len(usable), alone))
            if book.fits(node.id, claim):
                # Fewest of ours first; then the one whose GPUs it leaves least of.
                order = (node.id == avoid, book.workers(node.id), book.left(node.id, "GPU"))
                found.append((order, node.id, claim))
        if not found:
            return None
        _, node_id, claim = min(found, key=lambda one: one[:2])
        return Place(index, (Bundle(node_id, claim),))

    def _nowhere(self, index: int) -> Place:
        kind = self.kinds[index]
        cpus = 1.0 if kind.entry.cpus is None else kind.entry.cpus
        if not kind.across:
            return Place(index, (Bundle("", kind.claim(cpus)),))
        other = {"GPU": 1.0, **kind.entry.resources}
        others = (Bundle("", other),) * (int(kind.gpus) - 1)
        return Place(index, (Bundle("", {**other, "CPU": cpus}), *others), across=True)

    def _across(self, index: int, book: _Book) -> Place | None:
        """One bundle a GPU: on one node where they fit, the tightest; else on the emptiest ones."""
        kind = self.kinds[index]
        wanted = int(kind.gpus)
        fewest = kind.entry.resources
        has = {n.id: book.whole_gpus(n.id) for n in book.nodes if book.fits(n.id, fewest)}
        enough = [node for node, gpus in has.items() if gpus >= wanted]
        chosen = (
            [min(enough, key=lambda node: has[node])]
            if enough
            else sorted(has, key=lambda node: -has[node])
        )
        bundles: list[Bundle] = []
        for node in chosen:
            for _ in range(min(has[node], wanted - len(bundles))):
                bundles.append(Bundle(node, {"GPU": 1.0, **kind.entry.resources}))
        if len(bundles) < wanted:
            return None
        first = bundles[0].node
        mine = sum(bundle.node == first for bundle in bundles)
        home = next(node for node in book.nodes if node.id == first)
        cpus = kind.entry.cpus
        if cpus is None:
            cpus = float(int(home.cpus * mine / home.gpus)) or min(1.0, home.cpus)
        claim = {**bundles[0].claim, "CPU": cpus}
        place = Place(index, (Bundle(first, claim), *bundles[1:]), across=True)
        return place if book.holds(place) else None


class _Book:
    """What is left on each node."""

    def __init__(self, on: Sequence[Node], held: Iterable[Place]) -> None:
        self.nodes = list(on)
        self._left = {
            node.id: {key: _parts(value) for key, value in node.has.items()} for node in on
        }
        self._workers = {node.id: 0 for node in on}
        for place in held:
            self.take(place)

    def take(self, place: Place) -> None:
        for bundle in place.bundles:
            left = self._left.get(bundle.node)
            if left is None:  # a node that has left
                continue
            for key, value in _whole(bundle.claim).items():
                left[key] = left.get(key, 0) - value
        if place.node in self._workers:
            self._workers[place.node] += 1

    def fits(self, node: str, claim: Mapping[str, float]) -> bool:
        left = self._left[node]
        return all(left.get(key, 0) >= value for key, value in _whole(claim).items())

    def holds(self, place: Place) -> bool:
        """Whether all its bundles fit together."""
        wanted: dict[tuple[str, str], int] = {}
        for bundle in place.bundles:
            for key, value in _whole(bundle.claim).items():
                wanted[bundle.node, key] = wanted.get((bundle.node, key), 0) + value
        return all(self._left[n].get(key, 0) >= value for (n, key), value in wanted.items())

    def workers(self, node: str) -> int:
        return self._workers[node]

    def left(self, node: str, key: str) -> int:
        return self._left[node].get(key, 0)

    def whole_gpus(self, node: str) -> int:
        return max(0, self.left(node, "GPU") // _PART)


def _parts(amount: float) -> int:
    return round(amount * _PART)


def _whole(claim: Mapping[str, float]) -> dict[str, int]:
    """A claim in parts; of a GPU's fraction what it keeps others from: .6 keeps all of it."""
    parts = {key: _parts(value) for key, value in claim.items()}
    gpus = claim.get("GPU", 0.0)
    if 0.0 < gpus < 1.0:
        parts["GPU"] = _PART // int(1.0 / gpus + 1e-9)
    return parts
