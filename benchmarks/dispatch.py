"""How fast one driver is, and whether it keeps many workers busy: `make bench-dispatch`.

The driver, the study, result files and MLflow are the product's own; only the workers are not: each
is a coroutine in one of a few Ray actors, that sleeps for as long as a trial takes and then gives
back 128 items with answers of real size.

1. Idle time: 64 workers, trials of 30 s +- 50%, in real time.
2. Cost of a trial: no delay at all, by sampler, storage, workers and trials in the study. Its
   inverse is the ceiling in trials a second. The study begins with all trials but the last few,
   made beforehand; those few are timed.
3. One search from the first trial to the 5,000th.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import ray

from benchmarks.measure import Table, say
from benchmarks.models import write_set
from merge_core import Recipe
from merge_core.yaml_io import dump_yaml
from objectives import ItemScore
from search import study as studies
from search.budget import Budget, Shares
from search.config import load
from search.driver import Driver
from search.ledger import Ledger
from search.live import Doing
from search.pool import Outcome, connected
from search.progress import Progress
from search.racing import Race
from search.results import Result, values_of, violations_of
from search.run import Run, locked, logging_to
from search.samplers import make_sampler, random_sampler
from search.tracking import Tracker
from search.worker import Job

ITEMS = 128
CHARACTERS = 1_000  # of an answer; a file of 128 is 150 kB
ACTORS = 4
SPREAD = 0.5  # of a trial's mean duration, to each side
TIMED = 40  # trials that a cost is the mean of
UNIT = {"low": 0.0, "high": 1.0}


# ---- workers that only sleep


def scored(recipe: Recipe, seconds: float) -> dict[str, Any]:
    """What a worker gives back for a recipe: items that are right or not, as its numbers say."""
    numbers = np.array(list(_numbers(recipe.plain())))
    share = (
        float(np.clip(0.2 + 0.6 * numbers[::2].mean() - 0.2 * numbers[1], 0, 1)),
        float(np.clip(1.0 - 0.8 * numbers[::3].mean(), 0, 1)),
    )
    hard = _difficulty()
    items = []
    for index in range(ITEMS):
        right, said = (float(level[index] < s) for level, s in zip(hard, share, strict=True))
        scores = {"math": right, "language": said, "joint": right * said}
        items.append(ItemScore(f"q{index}", scores, _TEXT, CHARACTERS // 4, "stop"))
    return {"items": {"t": items}, "seconds": {"load": 0.1 * seconds, "generate": 0.9 * seconds}}


_TEXT = "x" * CHARACTERS


def _difficulty() -> list[np.ndarray]:
    return [np.random.default_rng(seed).random(ITEMS) for seed in (0, 1)]


def _numbers(data: Any) -> Iterator[float]:
    """All numbers of a recipe."""
    if isinstance(data, dict):
        for value in data.values():
            yield from _numbers(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _numbers(value)
    elif isinstance(data, float | int) and not isinstance(data, bool):
        yield float(data)


@ray.remote(num_cpus=0, max_concurrency=1_000)
class Sleepers:
    """Many workers in one process."""

    async def evaluate(self, job: Job, name: str, seconds: float) -> tuple[Result, float, float]:
        """The result, and when the worker began and ended."""
        began = time.time()
        if seconds:
            await asyncio.sleep(seconds)
        result = Result(
            recipe=job.recipe.plain(),
            fingerprint=job.fingerprint,
            split=job.split,
            worker=name,
            **scored(job.recipe, seconds),
        )
        return result, began, time.time()


class SleepingPool:
    """`search.driver.Workers` whose workers are coroutines.

    Args:
        actors: that they live in.
        size: how many.
        seconds: that a trial takes on average.

    Attributes:
        spans: when each job began and ended, in seconds since the epoch.
    """

    def __init__(self, actors: Sequence[Any], size: int, seconds: float) -> None:
        self.size = size
        self.spans: list[tuple[float, float]] = []
        self._actors = actors
        self._seconds = seconds
        self._free = deque(range(size))
        self._queue: deque[Job] = deque()
        self._jobs: dict[Any, tuple[int, Job]] = {}

    @property
    def places(self) -> int:
        return max(0, len(self._free) - len(self._queue))

    @property
    def busy(self) -> bool:
        return bool(self._jobs or self._queue)

    def doing(self) -> dict[str, Doing]:
        held = dict(self._jobs.values())
        return {f"w{w}": Doing(held[w].key) if w in held else Doing() for w in range(self.size)}

    def submit(self, job: Job) -> None:
        self._queue.append(job)
        self._assign()

    def withdraw(self) -> None:
        self._queue.clear()

    def wait(self, timeout: float) -> list[Outcome]:
        if not self._jobs:
            return []
        ready, _ = ray.wait(list(self._jobs), num_returns=1, timeout=timeout)
        more, _ = ray.wait(list(self._jobs), num_returns=len(self._jobs), timeout=0)
        outcomes = []
        for future in dict.fromkeys([*ready, *more]):
            worker, job = self._jobs.pop(future)
            result, began, ended = ray.get(future)
            self.spans.append((began, ended))
            self._free.append(worker)
            outcomes.append(Outcome(job, result))
        self._assign()
        return outcomes

    def _assign(self) -> None:
        while self._free and self._queue:
            worker, job = self._free.popleft(), self._queue.popleft()
            drawn = int(hashlib.sha256(job.key.encode()).hexdigest()[:8], 16) / 2**32
            seconds = self._seconds * (1.0 + SPREAD * (2.0 * drawn - 1.0))
            actor = self._actors[worker % len(self._actors)]
            self._jobs[actor.evaluate.remote(job, f"w{worker}", seconds)] = worker, job


# ---- one search


class Untracked:
    """In the place of a `Tracker`: nothing is written to MLflow."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study

    def trial(self, *told: object) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@dataclass
class Mark:
    """The driver after so many trials of its session."""

    trials: int
    wall: float
    cpu: float
    memory: int
    spent: dict[str, float]


@dataclass
class Watch:
    """A listener that notes the driver's state after some trials.

    Attributes:
        at: after how many of the session; the first of them ends the start-up.
        sampler: takes over from random proposals when the start-up ends, so that only what is
            timed costs; None: the search has its own from the beginning.
        marks: what was noted.
    """

    at: Sequence[int]
    sampler: str | None = None
    done: int = 0
    marks: list[Mark] = field(default_factory=list)

    def reading(self, reference: str) -> None:
        """Nothing to see."""

    def phase(self, run: Run, phase: str) -> None:
        """Nothing to see."""

    def started(self, driver: Driver) -> None:
        """Nothing is done yet."""
        if self.sampler is not None:
            driver.study.sampler = random_sampler(driver.search, 0)

    def finished(self, driver: Driver, what: str, result: Result | None) -> None:
        """A mark, if it is time for one."""
        self.done += 1
        if self.done in self.at:
            self.marks.append(_mark(driver, self.done))
        if self.sampler is not None and self.done == self.at[0]:
            driver.study.sampler = make_sampler(driver.search, self.done)

    def tick(self, driver: Driver) -> None:
        """Nothing to see."""

    def stopping(self, driver: Driver) -> None:
        """Nothing to see."""

    def confirming(self, what: str, done: int, total: int) -> None:
        """Nothing to see."""


def _mark(driver: Driver, done: int) -> Mark:
    process = psutil.Process()
    times = process.cpu_times()
    spent = dict(driver.spent.seconds)
    memory = process.memory_info().rss
    return Mark(done, time.perf_counter(), times.user + times.system, memory, spent)


def write_project(folder: Path, models: Path) -> Path:
    """A search file with eight dimensions and two objectives, its items beside it."""
    folder.mkdir(parents=True)
    rows = [{"id": f"q{i}", "prompt": f"{i}?", "answer": str(i)} for i in range(ITEMS + 8)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    weight = {"low": 0.0, "high": 1.0, "anchors": 4}
    data = {
        "merge_method": "ties_sv",
        "base_model": str(models / "base"),
        "models": [
            {
                "model": str(models / "expert0"),
                "name": "language",
                "parameters": {"weight": UNIT, "density": {"low": 0.1, "high": 1.0}},
            },
            {
                "model": str(models / "expert1"),
                "name": "reasoning",
                "parameters": {
                    "weight": weight,
                    "density": {"low": 0.1, "high": 1.0},
                    "slack": UNIT,
                },
            },
        ],
        "tasks": {
            "t": {"items": "items.jsonl", "scorers": ["math", {"language": {"expect": "en"}}]}
        },
        "objectives": {"reasoning": "t/math", "language": "t/language"},
        "constraints": {"t/language": ">= 0.1"},
        "splits": {"dev": ITEMS, "confirm": 4, "test": 4},
        "baselines": [],
        "engine": {"kind": "scripted", "default": "none"},
        "budget": {"trials": 1},
        "workers": {"count": 1},
        "sampler": {"name": "random"},
    }
    (folder / "s.yaml").write_text(dump_yaml(data))
    return folder / "s.yaml"


@dataclass(frozen=True)
class Case:
    """What is driven how.

    Attributes:
        before: trials that the study has when the driver begins.
        trials: how many more are asked for.
        seconds: that a trial takes on average.
    """

    sampler: str
    storage: str = "sqlite"
    workers: int = 64
    before: int = 0
    trials: int = 0
    seconds: float = 0.0
    tracked: bool = False


class Bench:
    """Runs cases in a folder; their runs are deleted when they are measured."""

    def __init__(self, folder: Path, postgres: str | None) -> None:
        self.folder = folder
        self.postgres = postgres
        write_set(folder / "models", 1.1)
        self.file = write_project(folder / "project", folder / "models")
        self.actors = [Sleepers.remote() for _ in range(ACTORS)]  # type: ignore[attr-defined]
        self.caught_up = 0.0

    def drive(self, case: Case, watch: Watch) -> SleepingPool:
        """Run a case; the pool that it ended with."""
        total = case.before + case.trials
        settings = [f"budget.trials={total}", f"sampler.name={case.sampler}"]
        elsewhere = case.storage == "postgresql"
        if elsewhere:
            settings.append(f"storage={self.postgres}")
        search = load(self.file, settings)
        folder = self.folder / "case" / "s"
        if case.before and not elsewhere:
            shutil.copytree(self._filled(case.before), folder)
        with locked(folder):
            run = Run.start(search, folder, *self._models())
            if elsewhere:
                fill(run, case.before)
            with logging_to(run), Ledger(run, case.workers, 0.0) as ledger:
                study = studies.open_study(run)
                if case.storage == "memory":
                    study = in_memory(study)
                pool = SleepingPool(self.actors, case.workers, case.seconds)
                tracker: Any = Tracker(run, study) if case.tracked else Untracked(study)
                shares = Shares(ITEMS, 0, 0, ITEMS, ITEMS * CHARACTERS, 0)
                budget = Budget(search, shares, ledger, time.monotonic())
                race = Race.of(search, ITEMS)
                Driver(run, pool, tracker, {}, budget, watch, race).search_all()
                began = time.perf_counter()
                tracker.close()
                self.caught_up = time.perf_counter() - began
        if elsewhere and self.postgres is not None:
            optuna.delete_study(study_name=run.name, storage=self.postgres)
        shutil.rmtree(folder.parent)
        return pool

    def _models(self) -> tuple[list[str], dict[str, str]]:
        references = [str(self.folder / "models" / n) for n in ("base", "expert0", "expert1")]
        return references, dict(zip(("base", "language", "reasoning"), references, strict=True))

    def _filled(self, count: int) -> Path:
        """A run that has `count` trials; made once."""
        folder = self.folder / "filled" / str(count) / "s"
        if not folder.exists():
            with locked(folder):
                fill(Run.start(load(self.file), folder, *self._models()), count)
        return folder


def fill(run: Run, count: int) -> None:
    """Give a run `count` finished trials with random recipes; those on the front have files."""
    search = run.search
    made = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    results: dict[int, Result] = {}
    progress = Progress(search)
    trials = []
    for number in range(count):
        asked = made.ask()
        recipe = search.space.sample(asked)
        fingerprint = hashlib.sha256(str(number).encode()).hexdigest()
        result = Result(recipe.plain(), fingerprint, "dev", **scored(recipe, 30.0))
        trial = optuna.trial.create_trial(
            params=asked.params,
            distributions=asked.distributions,
            values=values_of(result, search),
            constraints=violations_of(result, search),
            user_attrs={
                studies.RECIPE: json.dumps(recipe.plain(), ensure_ascii=False),
                **studies.attributes_of(result, search),
            },
        )
        trial.number = number
        progress.add(trial)
        results[number] = result
        results = {n: r for n, r in results.items() if n in progress.front}
        trials.append(trial)
    study = studies.open_study(run)
    with studies.together(study):
        study.add_trials(trials)
    for number, result in results.items():
        result.save(run.trial(number))


def in_memory(study: optuna.Study) -> optuna.Study:
    """A copy of a study that no disk holds."""
    copied = optuna.create_study(directions=study.directions, sampler=study.sampler)
    copied.add_trials(study.get_trials(deepcopy=False))
    return copied


# ---- what is shown


def costs(bench: Bench, cases: Sequence[tuple[Case, int]]) -> None:
    """What one trial costs the driver, and how many a second it could do.

    Args:
        bench: to run them.
        cases: each with how many trials are timed.
    """
    parts = ("ask", "tell", "front", "file", "rivals", "send")
    say("Milliseconds a trial, by what the driver does; `own` is their sum, `cpu` all threads.")
    table = Table(
        ("sampler", 8),
        ("storage", 7),
        ("workers", 7),
        ("trials", 6),
        *((part, 7) for part in parts),
        ("own", 7),
        ("cpu", 7),
        ("per s", 6),
    )
    for case, timed in cases:
        watch = Watch((1, 1 + timed), case.sampler)
        before = max(0, case.before - timed)
        trials = case.workers + timed + 2
        bench.drive(replace(case, before=before, trials=trials), watch)
        first, last = watch.marks
        each = {p: 1e3 * (last.spent[p] - first.spent.get(p, 0.0)) / timed for p in parts}
        own = sum(each.values())
        table.row(
            case.sampler,
            case.storage,
            str(case.workers),
            f"{case.before:,}",
            *(f"{each[part]:.1f}" for part in parts),
            f"{own:.1f}",
            f"{1e3 * (last.cpu - first.cpu) / timed:.1f}",
            f"{1e3 / own:.1f}",
        )


def idle(bench: Bench, case: Case) -> None:
    """How busy workers are in real time, and what the driver takes meanwhile."""
    at = [1, *(case.trials * share // 8 for share in range(1, 9))]
    watch = Watch(at)
    pool = bench.drive(case, watch)
    began = sorted(began for began, _ in pool.spans)[case.workers - 1]
    ended = sorted(began for began, _ in pool.spans)[-1]
    busy = sum(max(0.0, min(e, ended) - max(b, began)) for b, e in pool.spans)
    share = busy / (case.workers * (ended - began))
    say(
        f"{case.workers} workers, {case.trials} trials of {case.seconds:g} s +- {SPREAD:.0%}, "
        f"{case.sampler} on {case.storage}, MLflow {'on' if case.tracked else 'off'}: workers busy "
        f"{share:.1%} of the {ended - began:.0f} s between the first time that all had a trial and "
        f"the start of the last; MLflow done {bench.caught_up:.1f} s after the search"
    )
    table = Table(("trials", 6), ("cores", 6), ("MiB", 6), ("asking", 7), ("waiting", 7))
    for one, other in zip(watch.marks, watch.marks[1:], strict=False):
        wall = other.wall - one.wall
        spent = {k: (other.spent.get(k, 0) - one.spent.get(k, 0)) / wall for k in ("ask", "wait")}
        table.row(
            str(other.trials),
            f"{(other.cpu - one.cpu) / wall:.2f}",
            f"{other.memory / 2**20:.0f}",
            f"{spent['ask']:.1%}",
            f"{spent['wait']:.1%}",
        )
    one, other = watch.marks[0], watch.marks[-1]
    say(f"cores on average: {(other.cpu - one.cpu) / (other.wall - one.wall):.2f}")


def whole(bench: Bench, case: Case) -> None:
    """One search from its first trial to its last, without delay."""
    at = [case.trials * share // 10 for share in range(1, 11)]
    watch = Watch(at)
    bench.drive(case, watch)
    say(f"{case.sampler} on {case.storage}, {case.workers} workers, from the first trial on:")
    table = Table(("trials", 6), ("ask ms", 7), ("tell ms", 7), ("front ms", 8), ("MiB", 6))
    for one, other in zip(watch.marks, watch.marks[1:], strict=False):
        count = other.trials - one.trials
        spent = (1e3 * (other.spent[k] - one.spent[k]) / count for k in ("ask", "tell", "front"))
        table.row(
            f"{other.trials:,}", *(f"{ms:.1f}" for ms in spent), f"{other.memory / 2**20:.0f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, in under two minutes")
    parser.add_argument("--only", choices=["idle", "costs", "whole"], help="one part")
    parser.add_argument("--sampler", default="auto", help="of the part `idle`")
    parser.add_argument("--workers", type=int, default=64, help="of the part `idle`")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a trial there")
    parser.add_argument("--trials", type=int, default=576, help="there")
    parser.add_argument("--untracked", action="store_true", help="no MLflow there")
    parser.add_argument("--postgres", metavar="URL", help="of an empty database, for `costs` too")
    options = parser.parse_args(arguments)
    idling = Case(
        options.sampler,
        workers=options.workers,
        trials=options.trials,
        seconds=options.seconds,
        tracked=not options.untracked,
    )
    sizes: Sequence[int] = (100, 1_000, 5_000)
    workers: Sequence[int] = (8, 64)
    storages: Sequence[str] = ("memory", "sqlite")
    names = ("random", "nsga2", "tpe")
    if options.quick:
        idling = replace(idling, workers=16, trials=96, seconds=4.0)
        sizes, workers, storages = (100, 1_000), (64,), ("sqlite",)
    cases = [
        (Case(name, storage, count, size), TIMED)
        for size in sizes
        for name in names
        for storage in storages
        for count in workers
        if storage != "memory" or count == workers[-1]
    ]
    if options.postgres:
        cases += [(Case(n, "postgresql", 64, size), TIMED) for size in (100, 1_000) for n in names]
    gp = [(Case("gp", "sqlite", n, size), TIMED // 4) for size in (50, 100, 250) for n in workers]
    with tempfile.TemporaryDirectory() as temporary, connected():
        bench = Bench(Path(temporary), options.postgres)
        if options.only in (None, "idle"):
            idle(bench, idling)
            say()
        if options.only in (None, "costs"):
            costs(bench, [*cases, *(gp[:1] if options.quick else gp)])
            say()
        if options.only == "whole" or (options.only is None and not options.quick):
            whole(bench, Case("nsga2", trials=5_000))


if __name__ == "__main__":
    main()
