"""Four simulated nodes with fake GPUs: workers on all of them, nodes that leave and join.

The cluster is Ray's own; only its GPUs are not real. Where workers go is arithmetic, and tested
without it, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from filelock import Timeout
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from merge_core.yaml_io import dump_yaml
from objectives.engines import TransformersConfig
from objectives.engines.config import ScriptedConfig
from search import study as studies
from search.actor import start_lock, turn
from search.config import load
from search.crew import MOST_FAILED, SILENT_S, Crew, Hand
from search.driver import Driver
from search.errors import ConfigError, WorkerError
from search.file import WorkersEntry
from search.incidents import Kind
from search.ledger import sessions
from search.placement import Bundle, Node, Place, Resources
from search.results import Result
from search.session import prepare, run
from tests.merge_core.conftest import make_model, write_checkpoint
from tests.processes import until

NODES, GPUS, EACH = 4, 4, 2  # nodes, GPUs of each, GPUs of a worker
pytestmark = pytest.mark.cluster

DELAY = 1.0  # seconds that an engine takes to answer

# ---- where workers go, without a cluster

SCRIPTED = ScriptedConfig(default="none")


def machine(name: str, cpus: float = 8.0, gpus: float = 0.0, **other: float) -> Node:
    has = {"CPU": cpus, "GPU": gpus, **other}
    return Node(name, name, {key: value for key, value in has.items() if value})


def placed(on: list[Node], *held: Place, **entry: Any) -> list[Place]:
    return Resources.of(WorkersEntry(**entry), SCRIPTED, on).places(on, held)


def where(places: list[Place]) -> Counter[str]:
    return Counter(place.node for place in places)


FOUR = [machine(f"n{i}", gpus=4.0) for i in range(4)]


@pytest.mark.parametrize(
    ("on", "entry", "expected"),
    [
        (FOUR, {}, {f"n{i}": 4 for i in range(4)}),
        (FOUR, {"gpus": 2}, {f"n{i}": 2 for i in range(4)}),
        (FOUR, {"gpus": 2, "count": 3}, {"n0": 1, "n1": 1, "n2": 1}),
        (FOUR, {"gpus": 0.5}, {f"n{i}": 8 for i in range(4)}),
        (FOUR[:1], {"gpus": 0.6}, {"n0": 4}),  # two of .6 never share one
        (FOUR[:1], {"gpus": 3}, {"n0": 1}),
        (FOUR, {"gpus": 2, "count": 9}, {"n0": 2, "n1": 2, "n2": 2, "n3": 2, "": 1}),
        (FOUR, {"gpus": 8}, {}),
        (FOUR, {"gpus": 8, "across_nodes": True}, {"n0": 1, "n2": 1}),
        # The cores never keep a GPU from being used, unless the file says how many it takes.
        ([machine("a", 2.0, 4.0)], {}, {"a": 4}),
        ([machine("a", 2.0, 4.0)], {"cpus": 1}, {"a": 2}),
        ([machine("a", 2.0), machine("b", 16.0)], {}, {"a": 1, "b": 8}),
        ([machine("a", 2.0), machine("b", 16.0)], {"count": 4}, {"a": 2, "b": 2}),
        (
            [machine("a", gpus=8.0, big=1.0), machine("b", gpus=2.0)],
            {"kinds": [{"gpus": 1, "count": 3}, {"gpus": 4, "count": 1, "resources": {"big": 1}}]},
            {"a": 2, "b": 2},
        ),
        ([machine("a", gpus=4.0), machine("b", gpus=1.0)], {"gpus": 1}, {"a": 4, "b": 1}),
        ([], {"count": 2}, {"": 2}),
    ],
)
def test_places(on: list[Node], entry: dict, expected: dict) -> None:
    assert where(placed(on, **entry)) == expected


def test_what_a_held_back_node_has_room_for_waits_for_it() -> None:
    nine = Resources.of(WorkersEntry(gpus=2, count=9), SCRIPTED, FOUR)
    others = {"n1": 2, "n2": 2, "n3": 2}
    assert where(nine.places(FOUR, (), back={"n0"})) == {**others, "": 1}
    assert where(nine.places(FOUR, (), back={"n0", ""})) == others
    assert where(nine.places(FOUR, (), back={"gone"})) == {**others, "n0": 2, "": 1}
    eight = Resources.of(WorkersEntry(gpus=2, count=8), SCRIPTED, FOUR)
    assert where(eight.places(FOUR, (), back={"n0"})) == others


def test_a_worker_on_the_cpu_keeps_no_gpu() -> None:
    entry = WorkersEntry(count=1)
    for device, gpus in (("cpu", 0.0), ("auto", 1.0)):
        resources = Resources.of(entry, TransformersConfig(device=device), FOUR)
        assert [place.gpus for place in resources.places(FOUR, ())] == [gpus]


def test_one_worker_of_a_machine_has_all_its_cores() -> None:
    on = [machine("a", 16.0, 4.0)]
    assert [place.threads for place in placed(on, count=1)] == [16]
    assert [place.threads for place in placed(on)] == [4] * 4
    assert [place.threads for place in placed([machine("a", 2.0, 4.0)])] == [1] * 4


KIND = st.fixed_dictionaries(
    {
        "gpus": st.sampled_from([0, 0.25, 0.5, 1, 2, 3, 5]),
        "count": st.one_of(st.none(), st.integers(1, 6)),
        "cpus": st.one_of(st.none(), st.sampled_from([0.5, 1, 3])),
        "across_nodes": st.booleans(),
    }
).map(lambda kind: {**kind, "across_nodes": kind["across_nodes"] and kind["gpus"] >= 2})
MACHINES = st.lists(st.tuples(st.sampled_from([1, 2, 8, 64]), st.integers(0, 8)), max_size=5)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(first=MACHINES, then=MACHINES, kinds=st.lists(KIND, min_size=1, max_size=3), lost=st.data())
def test_nothing_is_claimed_twice_and_no_place_stays_free(
    first: list, then: list, kinds: list[dict], lost: st.DataObject
) -> None:
    on = [machine(f"n{i}", float(cpus), float(gpus)) for i, (cpus, gpus) in enumerate(first)]
    entry = WorkersEntry(kinds=tuple(kinds))
    resources = Resources.of(entry, SCRIPTED, on)
    held = resources.places(on, ())
    assert within(on, held)
    assert where(resources.places(on, held)) == {}  # all that fits is there at once
    # Some nodes leave with their workers, others join.
    gone = lost.draw(st.sets(st.sampled_from([node.id for node in on]))) if on else set()
    on = [node for node in on if node.id not in gone]
    on += [machine(f"m{i}", float(cpus), float(gpus)) for i, (cpus, gpus) in enumerate(then)]
    held = [p for p in held if p.node and not p.nodes & gone]
    held += resources.places(on, held)
    assert within(on, held)
    for index, kind in enumerate(kinds):
        if kind["count"] is not None:
            assert sum(place.kind == index for place in held) == kind["count"]


def within(on: list[Node], held: list[Place]) -> bool:
    claimed: dict[tuple[str, str], float] = {}
    for place in held:
        for bundle in place.bundles if place.node else ():
            for key, amount in bundle.claim.items():
                claimed[bundle.node, key] = claimed.get((bundle.node, key), 0.0) + amount
    has = {(node.id, key): amount for node in on for key, amount in node.has.items()}
    return all(amount <= has[key] + 1e-6 for key, amount in claimed.items())


def test_what_does_not_fit_is_told() -> None:
    on = [machine("a", 2.0)]
    resources = Resources.of(WorkersEntry(count=3, gpus=1), SCRIPTED, on)
    assert resources.lack(on) == (
        "3 workers of 1 cores and 1 GPUs each do not fit, 0 do (nodes: 2 cores, 0 GPUs): "
        "lower workers.count, workers.cpus or workers.gpus"
    )
    assert Resources.of(WorkersEntry(), SCRIPTED, on).lack(on) is None


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ({"gpus": 1.5}, "gpus is 1.5: a part of one, or a whole number of them"),
        ({"resources": {"GPU": 1}}, "resources names GPU; write gpus beside it"),
        ({"across_nodes": True, "gpus": 1}, "across_nodes needs gpus: 2 or more"),
        ({"count": 2, "kinds": [{"gpus": 1}]}, "kinds and count exclude each other"),
        ([{"gpu": 1}], "gpu"),
    ],
)
def test_what_workers_may_not_say(workers: Any, said: str, tmp_path: Path) -> None:
    file = write(tmp_path, workers=workers)
    with pytest.raises(ConfigError, match=said):
        load(file)


def test_engines_of_a_node_start_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with start_lock(), pytest.raises(Timeout):
        start_lock().acquire(timeout=0.0)
    start_lock().acquire(timeout=0.0).lock.release()
    with turn() as first, turn(patience=0.05) as second:  # whoever has it may hang
        assert (first, second) == (True, False)
    start_lock().acquire(timeout=0.0).lock.release()


def test_fetches_that_fall_silent_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, because one fetches and the others wait; and that counts as one failure."""
    clock, recorded = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    node = {"Alive": True, "NodeManagerHostname": "n", "Resources": {}}
    node |= {"NodeManagerAddress": "n", "NodeManagerPort": 1}
    there = [{**node, "NodeID": f"n{i}"} for i in range(MOST_FAILED + 1)]
    fakes = {"put": id, "kill": id, "get": lambda said: said, "nodes": lambda: there}
    for name, fake in fakes.items():
        monkeypatch.setattr(ray, name, fake)
    crew = Crew(None, Resources(()), 1e9, lambda *fault: recorded.append(fault))  # type: ignore
    for i in range(MOST_FAILED + 1):
        place = Place(0, (Bundle(f"n{i}", {}),))
        crew.hands[f"w{i}"] = Hand(f"w{i}", None, place, begun=True)
    clock[0] = SILENT_S
    told = iter(["fetching a model: 1.0 of 2.0 GB"])
    crew._starting[told] = "w0"
    crew.hear(told)
    for later in (0.9, 0.9):
        clock[0] += later * SILENT_S
        crew.tend(now=True)
        assert len(crew.hands) == MOST_FAILED + 1
        crew.away(0.9 * SILENT_S)  # the driver was stopped
    clock[0] += 1.1 * SILENT_S
    crew.tend(now=True)
    assert not crew.hands
    assert {kind for kind, _, _ in recorded} == {Kind.HUNG}
    assert len(recorded) == MOST_FAILED + 1


# ---- on a cluster


def write(folder: Path, **changes: Any) -> Path:
    """A search that only waits for its engine, and its tiny models."""
    base = make_model(0)
    write_checkpoint(folder / "b", base)
    write_checkpoint(folder / "l", make_model(1, base))
    rows = [{"id": f"q{i}", "prompt": f"what is {i}?", "answer": str(i)} for i in range(12)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "merge_method": "task_arithmetic",
        "base_model": "b",
        "models": [
            {"model": "l", "name": "l", "parameters": {"weight": {"low": 0.0, "high": 1.0}}}
        ],
        "tasks": {"sums": {"items": "items.jsonl", "scorers": ["math"]}},
        "objectives": {"right": "sums/math"},
        "splits": {"dev": 4, "confirm": 4, "test": 4},
        "confirm": {"max": 1},
        "baselines": [],
        "racing": False,
        "engine": {"kind": "scripted", "default": "#### 3", "delay": DELAY},
        "sampler": "random",
        "tracking": {"retained": False},
        **changes,
    }
    (folder / "s.yaml").write_text(dump_yaml(data))
    return folder / "s.yaml"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without resources, four nodes with four fake GPUs each, and this driver."""
    assert not ray.is_initialized()
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    head = {"num_cpus": 0, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(NODES):
        join(made)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def join(cluster: Cluster, **node: Any) -> Any:
    """A node more, once the cluster knows it."""
    # Ray sets a signal handler for its exit, which only the main thread may.
    main = threading.current_thread() is threading.main_thread()
    cluster._shutdown_at_exit = main
    return cluster.add_node(**{"num_cpus": 2, "num_gpus": GPUS, **node})


def all_free(gpus: int) -> bool:
    return ray.available_resources().get("GPU", 0.0) == gpus


@dataclass
class Watch:
    """A listener that takes a node away in mid-search and brings another.

    Attributes:
        seen: at each sign of life of the driver, when it was and how many workers had a job.
    """

    cluster: Cluster
    seen: list[tuple[float, int, int]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)
    claims: set[tuple[str, str, tuple[int, ...]]] = field(default_factory=set)
    crew: Crew | None = None

    def reading(self, reference: str) -> None:
        pass

    def phase(self, run: object, phase: str) -> None:
        pass

    def started(self, driver: Driver) -> None:
        self.crew = driver.pool.crew  # type: ignore[attr-defined]

    def finished(self, driver: Driver, what: str, result: Result | None) -> None:
        self.done.append(what)

    def tick(self, driver: Driver) -> None:
        assert self.crew is not None
        now = time.monotonic()
        ready = self.crew.ready
        busy = [hand for hand in ready if hand.job is not None]
        self.seen.append((now, len(busy), len(ready)))
        held = [(m.node, gpu) for m in ready for gpu in m.gpus]
        assert len(held) == len(set(held)), "two workers have one GPU"
        self.claims |= {(m.name, m.node, m.gpus) for m in ready}
        full, part = NODES * GPUS // EACH, (NODES - 1) * GPUS // EACH
        if len(busy) == full and "full" not in self.marks:
            self.marks["full"] = now
        if "full" in self.marks and "left" not in self.marks and now > self.marks["full"] + 3:
            self.marks["left"] = now
            victim = next(iter(self.cluster.worker_nodes))
            threading.Thread(target=self.cluster.remove_node, args=(victim, False)).start()
        if len(busy) == part and len(ready) == part and "left" in self.marks:
            self.marks.setdefault("fewer", now)
        if "fewer" in self.marks and "joined" not in self.marks and now > self.marks["fewer"] + 3:
            self.marks["joined"] = now
            threading.Thread(target=join, args=(self.cluster,)).start()
        if "joined" in self.marks and len(busy) == full:
            self.marks.setdefault("again", now)

    def stopping(self, driver: Driver) -> None:
        pass

    def confirming(self, what: str, done: int, total: int) -> None:
        pass

    def free(self, begin: str, end: str) -> tuple[float, float]:
        """Worker-seconds without a job and in all, of ready workers, between two marks."""
        idle = every = 0.0
        for (t, busy, ready), (then, *_) in zip(self.seen, self.seen[1:], strict=False):
            if self.marks[begin] <= t < self.marks[end]:
                idle += (ready - busy) * (then - t)
                every += ready * (then - t)
        return idle, every


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine with much else to do
def test_a_node_leaves_and_another_joins_in_mid_search(cluster: Cluster, tmp_path: Path) -> None:
    search = load(write(tmp_path, workers={"gpus": EACH}, budget={"trials": 100_000}))

    class Until(Watch):
        """Ends the search once the workers of the new node have been at it for a while."""

        def tick(self, driver: Driver) -> None:
            super().tick(driver)
            again = self.marks.get("again")
            if again is not None and time.monotonic() > again + 3:
                self.marks.setdefault("end", time.monotonic())
                driver.stopping = True

    watch = Until(cluster)
    found = run(prepare(search), tmp_path / "runs" / "s", watch)
    marks = watch.marks
    assert {*marks} == {"full", "left", "fewer", "joined", "again", "end"}
    counts = {busy for t, busy, _ in watch.seen if marks["full"] <= t < marks["left"]}
    assert counts == {NODES * GPUS // EACH}
    counts = {busy for t, busy, _ in watch.seen if marks["fewer"] <= t < marks["joined"]}
    assert counts == {(NODES - 1) * GPUS // EACH}
    counts = {busy for t, busy, _ in watch.seen if marks["again"] <= t < marks["end"]}
    assert counts == {NODES * GPUS // EACH}
    # No ready worker was ever without a job when the driver had nothing else to do.
    idle, every = watch.free("full", "end")
    crew = watch.crew
    assert crew is not None
    print(  # noqa: T201  the figures of the report: pytest -s
        f"\nfrom the eighth worker's first job on: {every:.0f} worker-seconds, {idle:.2f} idle; "
        f"6 busy {marks['fewer'] - marks['left']:.1f} s after the node left, "
        f"8 busy {marks['again'] - marks['joined']:.1f} s after one joined; "
        f"{len(watch.done)} trials"
    )
    assert idle <= 0.01 * every
    # Every trial that was begun is complete, once.
    assert found.stopped
    trials = studies.open_study(found.run, create=False).trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len(trials) == len(watch.done) == len(set(watch.done))
    assert len(list((found.run.folder / "trials").glob("*.json"))) == len(trials)
    # Two GPUs each, never one of another's; all are given back.
    assert all(len(set(gpus)) == EACH for _, _, gpus in watch.claims)
    assert len(watch.claims) == NODES * GPUS // EACH + GPUS // EACH
    until(lambda: all_free(NODES * GPUS))
    (session,) = sessions(found.run)
    # Both are written in whole milliseconds, each rounded by itself.
    there = session.worker_seconds
    assert there is not None
    assert session.gpu_seconds == pytest.approx(EACH * there, rel=0, abs=(EACH + 1) * 0.0005 + 1e-9)
    assert "left with its node" in log_of(found.run.folder) or found.account.faults
    assert "joined" in log_of(found.run.folder)


def log_of(folder: Path) -> str:
    return (folder / "run.log").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine with much else to do
def test_several_kinds_one_across_nodes(cluster: Cluster, tmp_path: Path) -> None:
    before = len(cluster.worker_nodes)
    odd = join(cluster, num_gpus=1, resources={"odd": 1})
    setup = prepare(load(write(tmp_path))).setup()
    kinds = ({"gpus": 6, "across_nodes": True, "count": 1}, {"gpus": 1, "resources": {"odd": 1}})
    entry = WorkersEntry(kinds=kinds)
    total = before * GPUS + 1
    crew = Crew(setup, Resources.of(entry, setup.engine, []), 60.0, print)
    try:
        until(lambda: hear(crew) == 2)
        wide, small = crew.ready
        assert len({bundle.node for bundle in wide.place.bundles}) == 2
        assert wide.place.gpus == 6
        assert small.node == odd.node_id
        assert small.gpus == (0,)
        until(lambda: all_free(total - 7))
        # A part of its engine is lost: so is the worker, and it starts elsewhere.
        lost = next(b.node for b in wide.place.bundles if b.node != wide.node)
        victim = next(node for node in cluster.worker_nodes if node.node_id == lost)
        cluster.remove_node(victim, False)
        until(lambda: wide.name not in crew.hands or not hear(crew))
        until(lambda: hear(crew) == 2)
        assert all(hand.name != wide.name for hand in crew.ready)
    finally:
        crew.close()
    until(lambda: all_free(total - GPUS))
    cluster.remove_node(odd, False)
    join(cluster)


def hear(crew: Crew) -> int:
    """Let a crew do what a pool would; how many of its workers are ready."""
    crew.tend(now=True)
    if crew.starting:
        for told in ray.wait(crew.starting, timeout=0.1)[0]:
            crew.hear(told)
    return len(crew.ready)


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine with much else to do
def test_without_any_worker_it_waits_as_long_as_it_was_told(
    cluster: Cluster, tmp_path: Path
) -> None:
    setup = prepare(load(write(tmp_path))).setup()
    entry = WorkersEntry(count=1, gpus=9)
    crew = Crew(setup, Resources.of(entry, setup.engine, []), 1.0, print)
    try:
        with pytest.raises(WorkerError, match=r"no worker has been alive.*workers\.wait"):
            until(lambda: hear(crew) > 0, 10.0)
        assert len(crew.hands) == 1  # Ray is asked for it all the time
    finally:
        crew.close()


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine with much else to do
def test_what_an_engine_has_started_dies_with_its_worker(cluster: Cluster) -> None:
    # A node that was just removed may still be taken for alive, and be chosen.
    node = next(iter(cluster.worker_nodes)).node_id

    @ray.remote(num_cpus=0.1, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
    class Engine:
        def start(self) -> tuple[int, int]:
            return os.getpid(), subprocess.Popen(["sleep", "300"]).pid

    actor = Engine.remote()  # type: ignore[attr-defined]
    worker, child = ray.get(actor.start.remote())
    os.kill(worker, 9)
    until(lambda: not psutil.pid_exists(child), 20.0)
