"""Ways to search, on the demo: the same models, items, space and workers, and real merges.

The space is the one that `benchmarks.recording` recorded: wider than the demo's own.

    python -m benchmarks.demo_searches record FOLDER    # slow; goes on where it stopped
    python -m benchmarks.demo_searches report FOLDER    # minutes; confirms what each way found

`benchmarks.searching` compares more ways over more seeds, on models of what the demo answers.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from pathlib import Path

from rich.console import Console

from benchmarks.measure import say
from benchmarks.recording import SPACE
from merge_core import Recipe
from merge_core.yaml_io import write_atomic
from search import study as studies
from search.config import Search, load
from search.demo import DemoError, ensure_trio, write_items
from search.front import Point, gains, hypervolume, worth_confirming
from search.pool import connected
from search.results import Result
from search.run import Run
from search.session import prepare
from search.session import run as run_search
from search.terminal import Progress as SearchProgress
from search.worker import Evaluator, Job

SUM = "objectives={sum: [math_th/math, math_th/language]}"
CMAES = "sampler={name: cmaes, options: {popsize: 9}}"
WAYS = {
    "random": ["sampler.name=random", "racing=false"],
    "cmaes": [CMAES, SUM, "racing=false", "confirm.max=1"],
    "ours": ["sampler.name=auto", "racing=false"],
    "ours, racing": ["sampler.name=auto"],
}
"""Settings of each way. CMA-ES searches the mean of both scores, as mergekit-evolve would."""

CONFIRMED = 8
"""Members of a front that are confirmed."""

EVERY = 5
"""Trials between two looks at the confirmed front."""


@dataclass(frozen=True)
class Step:
    """A search after some of its trials.

    Attributes:
        trials: finished.
        tokens: generated on dev items.
        seconds: since the first trial began.
        volume: hypervolume of the front, by scores of the confirm items.
    """

    trials: int
    tokens: int
    seconds: float
    volume: float


def record(folder: Path, seeds: Sequence[int], trials: int, workers: int) -> None:
    """Search in every way with every seed; what is there is not made again."""
    with connected():
        for seed in seeds:
            place = folder / f"seed-{seed}"
            place.mkdir(parents=True, exist_ok=True)
            try:
                trio = ensure_trio(seed=seed).root
            except DemoError as error:  # a seed whose models learn too little makes no demo either
                say(f"seed {seed}: left out: {error}")
                continue
            if not (place / "trio").exists():
                (place / "trio").symlink_to(trio)
            if not (place / "items.jsonl").exists():
                write_items(place / "items.jsonl", seed=1234 + seed)  # of seed 0 as the demo's own
            text = files("configs").joinpath("demo.yaml").read_text(encoding="utf-8")
            write_atomic(place / "demo.yaml", text)
            for way, settings in WAYS.items():
                given = [f"budget.trials={trials}", f"workers.count={workers}", *settings]
                search = load(place / "demo.yaml", [*SPACE, *given, f"sampler.seed={seed}"])
                run = _run(place, way)
                if not (run / "confirmed.json").is_file():
                    say(f"seed {seed}: {way}")
                    with SearchProgress(Console(file=StringIO())) as progress:
                        run_search(prepare(search), run, progress)


def report(folder: Path) -> None:
    """Print, and write to `report.md`, what each way found for how many tokens and seconds."""
    lines = ["| seed | way | trials | tokens | seconds | confirmed hypervolume |", "|" + "---|" * 6]
    ends: dict[str, list[tuple[float, float]]] = {}
    for place in sorted(folder.glob("seed-*")):
        found = {way: steps(place, way) for way in WAYS if _run(place, way).is_dir()}
        for way, path in found.items():
            end = path[-1]
            lines.append(
                f"| {place.name[5:]} | {way} | {end.trials} | {end.tokens:,} | {end.seconds:.0f} "
                f"| {end.volume:.3f} |"
            )
        for rival in ("cmaes", "random"):
            goal = found[rival][-1]
            for way in ("ours", "ours, racing"):
                got = next((step for step in found[way] if step.volume >= goal.volume), None)
                if got is None:
                    lines.append(f"| {place.name[5:]} | {way} never reaches {rival} | | | | |")
                    continue
                tokens, seconds = got.tokens / goal.tokens, got.seconds / goal.seconds
                ends.setdefault(f"{way} as {rival}", []).append((tokens, seconds))
                lines.append(
                    f"| {place.name[5:]} | {way}, as good as {rival} | {got.trials} "
                    f"| {got.tokens:,} ({tokens:.2f} of its) | {got.seconds:.0f} ({seconds:.2f}) "
                    f"| {got.volume:.3f} |"
                )
    for what, shares in ends.items():
        tokens, seconds = (statistics.median(share[i] for share in shares) for i in (0, 1))
        lines.append(f"| median | {what} | | {tokens:.2f} of its | {seconds:.2f} of its | |")
    write_atomic(folder / "report.md", "".join(f"{line}\n" for line in lines))
    for line in lines:
        say(line)


def steps(place: Path, way: str) -> list[Step]:
    """How a recorded search went, with the fronts on its way scored on the confirm items."""
    run = Run.open(_run(place, way))
    both = load(place / "demo.yaml", SPACE)  # the same two objectives, whatever was searched
    study = studies.open_study(run, create=False)
    trials = sorted(studies.scored(study).values(), key=lambda t: str(t.datetime_complete))
    began = min(trial.datetime_start for trial in trials if trial.datetime_start is not None)
    points: dict[int, Point] = {}
    recipes: dict[int, Recipe] = {}
    path, tokens = [], 0
    confirming = _Confirming(both, place / "confirmed", run)
    for count, trial in enumerate(trials, 1):
        result = Result.load(run.trial(trial.number))
        tokens += result.tokens
        recipe = studies.recipe_of(trial, run.search)
        if result.stopped is None and result.fault is None and recipe is not None:
            points[trial.number] = _gains(result, both)
            recipes[trial.number] = recipe
        if (count % EVERY and count < len(trials)) or not points:
            continue
        chosen = worth_confirming(points, CONFIRMED)
        volume = hypervolume([confirming.point(recipes[number]) for number in chosen])
        ended = trial.datetime_complete
        assert ended is not None
        path.append(Step(count, tokens, (ended - began).total_seconds(), volume))
    confirming.close()
    return path


class _Confirming:
    """Scores recipes on the confirm items, each once for ever."""

    def __init__(self, search: Search, folder: Path, run: Run) -> None:
        self._search, self._folder, self._run = search, folder, run
        self._evaluator: Evaluator | None = None

    def point(self, recipe: Recipe) -> Point:
        fingerprint = self._run.fingerprint(recipe)
        path = self._folder / f"{fingerprint}.json"
        if not path.is_file():
            if self._evaluator is None:
                self._evaluator = Evaluator(prepare(self._search).setup())
            path.parent.mkdir(exist_ok=True)
            self._evaluator.evaluate(Job("", recipe, fingerprint, "confirm")).save(path)
        return _gains(Result.load(path), self._search)

    def close(self) -> None:
        if self._evaluator is not None:
            self._evaluator.close()


def _gains(result: Result, search: Search) -> Point:
    return gains([result.estimate(o).value for o in search.objectives], search.objectives)


def _run(place: Path, way: str) -> Path:
    return place / "runs" / way.replace(", ", "-")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("record", "report"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if given.what == "record":
        record(given.folder, given.seeds, given.trials, given.workers)
    else:
        report(given.folder)


if __name__ == "__main__":
    main()
