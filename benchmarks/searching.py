"""Ways to search, compared without a model: what front do they confirm, for how many tokens?

    python -m benchmarks.searching            # `make bench-search`: 20 seeds
    python -m benchmarks.searching --quick    # 3 seeds
    python -m benchmarks.searching --tune --set racing.level=0.8 --ways ours+racing

Searches run on `benchmarks.surrogate` by the product's own code (`benchmarks.simulation`). Designs
are tuned on trio 0 (`--tune`); figures are of trios 1 to 3, another division into dev, confirm and
test items, other outcomes and another sampler seed for every seed. What was searched is kept in the
user's cache for as long as code and settings are the same, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

from benchmarks import searching_report
from benchmarks.measure import ROOT, say
from benchmarks.recording import path_of
from benchmarks.searching_report import BOUNDED, RACED
from benchmarks.simulation import Bench, Step, Story, evolve, simulate
from benchmarks.surrogate import World, fitted

BOUND = "language >= 0.9"


@dataclass(frozen=True)
class Way:
    """How to search.

    Attributes:
        settings: on top of the demo's search file; empty for CMA-ES.
        ours: whether `--set` is meant for it.
    """

    settings: tuple[str, ...]
    ours: bool = False


def _plain(sampler: str) -> Way:
    return Way((f"sampler.name={sampler}", "racing=false"))


CMAES, CMAES_BEST = "cma-es", "cma-es, its best"
WAYS = {
    "random": _plain("random"),
    "nsga2": _plain("nsga2"),
    "tpe": _plain("tpe"),
    "gp": _plain("gp"),
    CMAES: Way(()),
    CMAES_BEST: Way(()),
    "ours": Way(("sampler.name=auto", "racing=false"), ours=True),
    RACED: Way(("sampler.name=auto",), ours=True),
    BOUNDED: Way(("sampler.name=auto", "constraints={language: '>= 0.9'}"), ours=True),
}


QUICK = tuple(way for way in WAYS if way != "gp")
"""All but Optuna's Gaussian process, which takes half a minute a search."""

FIRST_SEED = 20
"""Those before were looked at while the recorded space was another one."""


@dataclass(frozen=True)
class Task:
    """One search."""

    way: str
    trio: int
    seed: int
    trials: int
    workers: int
    settings: tuple[str, ...]

    @cached_property
    def place(self) -> Path:
        """Where its story is kept: named for all that it depends on, as it was when first asked."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for path in (*_CODE, path_of(self.trio)):
            digest.update(path.read_bytes())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "mergefront" / "searching" / f"{digest.hexdigest()[:20]}.json"

    def story(self) -> Story:
        """As it is kept."""
        data = json.loads(self.place.read_text(encoding="utf-8"))
        return Story(**{**data, "steps": [Step(*row) for row in data["steps"]]})


_CODE = (
    *(Path(__file__).with_name(f"{name}.py") for name in ("recording", "simulation", "surrogate")),
    *(
        ROOT / "search" / f"{name}.py"
        for name in (
            *("ehvi", "front", "improvement", "process", "racing"),
            *("sampler_classes", "samplers", "space"),
        )
    ),
    ROOT / "configs" / "demo.yaml",
)


def perform(task: Task) -> float:
    """Search, and keep the story; seconds of CPU that it took."""
    import torch

    torch.set_num_threads(1)
    began = time.process_time()
    bench = Bench(World(task.trio, task.seed), task.settings)
    if task.way in (CMAES, CMAES_BEST):
        single = task.way == CMAES_BEST
        story = evolve(bench, task.trials, task.workers, task.seed, single=single)
    else:
        story = simulate(bench, task.trials, task.workers)
    data = asdict(story)
    data["steps"] = [[step.tokens, step.clock, step.volume, step.front] for step in story.steps]
    task.place.parent.mkdir(parents=True, exist_ok=True)
    scratch = task.place.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(data), encoding="utf-8")
    scratch.replace(task.place)
    return time.process_time() - began


def tasks_of(
    ways: Iterable[str],
    seeds: Iterable[int],
    trials: int,
    workers: int,
    given: Sequence[str],
    *,
    tune: bool,
) -> list[Task]:
    """Every search of a run, the slowest first."""
    found = []
    for way in ways:
        for seed in seeds:
            settings = WAYS[way].settings
            if settings:
                settings += (f"sampler.seed={seed}", f"budget.trials={trials}")
            settings += tuple(given) if WAYS[way].ours else ()
            trio = 0 if tune else 1 + seed % 3
            found.append(Task(way, trio, seed, trials, workers, settings))
    return sorted(found, key=lambda task: task.way != "gp")


def run(tasks: Sequence[Task], processes: int) -> dict[str, list[Story]]:
    """Search what is not kept, and read all; stories by way, in the order of seeds."""
    todo = [task for task in tasks if not task.place.is_file()]
    trios = sorted({task.trio for task in todo})
    os.environ["OMP_NUM_THREADS"] = "1"  # two threads on two busy cores are many times slower
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(fitted, trio) for trio in trios]:
            done.result()
        jobs = {pool.submit(perform, task): task for task in todo}
        for count, job in enumerate(as_completed(jobs), 1):
            task = jobs[job]
            say(f"{count} of {len(jobs)}: {task.way}, seed {task.seed}: {job.result():.0f} s")
    stories: dict[str, list[Story]] = {}
    for task in sorted(tasks, key=lambda task: task.seed):
        stories.setdefault(task.way, []).append(task.story())
    return {way: stories[way] for way in WAYS if way in stories}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print the tables, and write them beside this file with a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="3 seeds, the cheaper ways")
    parser.add_argument(
        "--tune", action="store_true", help="trio 0, whose figures are not reported"
    )
    parser.add_argument("--seeds", type=int, help="20, or 3 if quick")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS))
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--workers", type=int, default=4, help="simulated ones")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of ours")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--curves", type=Path, help="write every step of every search there, JSON")
    parser.add_argument("--write", action="store_true", help="searching.md and .png, as committed")
    given = parser.parse_args(arguments)
    seeds = range(given.first_seed, given.first_seed + (given.seeds or (3 if given.quick else 20)))
    ways = given.ways or (QUICK if given.quick else tuple(WAYS))
    tasks = tasks_of(ways, seeds, given.trials, given.workers, given.set, tune=given.tune)
    began = time.monotonic()
    stories = run(tasks, given.processes)
    lines = searching_report.tables(stories, BOUND)
    say()
    for line in lines:
        say(line)
    took = time.monotonic() - began
    say(f"\n{len(tasks)} searches in {took:.0f} s with {given.processes} processes")
    if given.curves is not None:
        curves = {way: [asdict(story) for story in held] for way, held in stories.items()}
        given.curves.write_text(json.dumps(curves), encoding="utf-8")
    if given.write:
        searching_report.write(stories, lines, Path(__file__).with_name("searching.md"))
        searching_report.plot(stories, Path(__file__).with_name("searching.png"))


if __name__ == "__main__":
    main()
