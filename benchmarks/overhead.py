"""What a trial takes beside its answers: `python -m benchmarks.overhead`.

A Llama of 100M parameters (random, bfloat16) and two experts; TIES-SV on the CPU with the
transformers engine; `mergefront run` with one Ray worker, as users start it. The worker's calls
of load and generate are timed from outside, by a hook that needs nothing of the code it times, so
that `--tree` can measure another checkout. After each load the same process copies as many bytes
as a merge moves: the floor of the swap, in pairs with it.

All that is not generating is overhead: the swap of weights; scoring; the turnaround, from the last
answer of a trial to the swap of the next: sending, saving, telling, proposing, planning.

    python -m benchmarks.overhead [--tree CHECKOUT] [--trials 12] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Table, say, timed
from benchmarks.models import write_set
from merge_core.yaml_io import dump_yaml

MILLIONS, EXPERTS = 100.0, 2
ITEMS, TOKENS = 16, 16
NAIVE = 3  # recipes that are merged to disk
HOOK = """
import importlib.abc, importlib.machinery, json, os, sys, time


def note(what, began):
    with open(os.environ["OVERHEAD_LOG"], "a") as file:
        spent = time.process_time() - began[1]
        file.write(json.dumps([what, began[0], time.time(), spent]) + "\\n")


def _task(module):
    score = module.score_task

    def score_task(*given, **named):
        began = time.time(), time.process_time()
        try:
            return score(*given, **named)
        finally:
            note("task", began)

    module.score_task = score_task


def _engine(module):
    import torch

    engine, moved = module.TransformersEngine, {}

    def timed(what, method):
        def run(self, *given):
            began = time.time(), time.process_time()
            found = method(self, *given)
            note(what, began)
            if what == "load":
                size = int(os.environ["OVERHEAD_BYTES"]) // 2
                if not moved:
                    moved["from"] = torch.ones(size, dtype=torch.uint8)
                    moved["to"] = torch.zeros(size, dtype=torch.uint8)
                began = time.time(), time.process_time()
                moved["to"].copy_(moved["from"])
                note("copy", began)
            return found
        return run

    engine.load, engine.generate = timed("load", engine.load), timed("generate", engine.generate)


PATCHES = {"objectives.engines.transformers": _engine, "objectives.score": _task}


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def then(module):
            execute(module)
            PATCHES[name](module)

        spec.loader.exec_module = then
        return spec


sys.meta_path.insert(0, Finder())
"""


@dataclass(frozen=True)
class Trial:
    """Seconds of one trial; `copy` is not part of the others.

    Attributes:
        swap, copy: wall time.
        swap_cpu, copy_cpu: the process' own, which a busy machine changes less.
        generate: answering.
        scoring: the rest of the task: prompts, scorers.
        turnaround: from there to the next swap.
    """

    swap: float
    copy: float
    swap_cpu: float
    copy_cpu: float
    generate: float
    scoring: float
    turnaround: float

    @property
    def overhead(self) -> float:
        """All but generating."""
        return self.swap + self.scoring + self.turnaround

    @property
    def share(self) -> float:
        """Of the trial."""
        return self.overhead / (self.overhead + self.generate)


def search_file(folder: Path, models: Path, trials: int) -> Path:
    """A search with nothing but trials to measure."""
    words = [f"t{index}" for index in range(1, 40)]
    rows = [
        {"id": f"q{i}", "prompt": " ".join(words[i % 20 : i % 20 + 12]), "answer": str(i)}
        for i in range(ITEMS + 2)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ranges = {"weight": {"low": 0.3, "high": 1.2}, "density": {"low": 0.1, "high": 0.9}}
    experts = [{"model": str(models / f"expert{i}"), "parameters": ranges} for i in range(EXPERTS)]
    experts[-1] = {
        **experts[-1],
        "parameters": {**ranges, "slack": {"low": 0.0, "high": 1.0}},
    }
    data: dict[str, Any] = {
        "merge_method": "ties_sv",
        "base_model": str(models / "base"),
        "models": experts,
        "tasks": {
            "math": {
                "items": "items.jsonl",
                "generate": {"max_tokens": TOKENS},
                "scorers": ["math", {"language": {"expect": "th"}}, "think"],
            }
        },
        "objectives": {"reasoning": "math/math", "language": "math/language"},
        "splits": {"dev": ITEMS, "confirm": 1, "test": 1},
        "confirm": {"max": 1},
        "baselines": [],
        "racing": False,
        "budget": {"trials": trials},
        "engine": {"kind": "transformers", "device": "cpu"},
        "workers": {"count": 1, "cpus": 1},
        "sampler": {"name": "auto", "seed": 1},
    }
    file = folder / "overhead.yaml"
    file.write_text(dump_yaml(data))
    return file


def measure(tree: Path, models: Path, moved: int, trials: int) -> tuple[list[Trial], float, str]:
    """Trials of a search by the code in `tree` but the first two, seconds of the whole command, and
    what the driver's log says of its own time.

    Raises:
        SystemExit: the search failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = search_file(folder, models, trials)
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        log = folder / "calls.jsonl"
        environment = {
            **{
                k: v
                for k, v in os.environ.items()
                if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
            },
            "PYTHONPATH": f"{folder / 'hook'}:{tree}",
            "OVERHEAD_LOG": str(log),
            "OVERHEAD_BYTES": str(moved),
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, "-c", "from search.cli import main; main()", "run", file.name]
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        whole = time.perf_counter() - began
        if done.returncode != 0:
            raise SystemExit(f"{tree}: the search failed: {done.stderr.strip()[-2000:]}")
        spent = [
            line.partition("driver's time: ")[2]
            for line in (folder / "runs" / "overhead" / "run.log").read_text().splitlines()
            if "driver's time: " in line
        ]
        calls = [json.loads(line) for line in log.read_text().splitlines()]
    return told(calls, trials)[2:], whole, (spent or ["not in its log"])[-1]


def told(calls: Sequence[Sequence[Any]], trials: int) -> list[Trial]:
    """Trials from (what, began, ended, processor's) of a worker's calls, but for the last, which
    no swap follows.
    """
    starts = [i for i, call in enumerate(calls) if call[0] == "load"][: trials + 1]
    found = []
    for start, stop in pairwise(starts):
        wall = dict.fromkeys(("load", "copy", "generate", "task"), 0.0)
        own = dict(wall)
        for what, began, ended, spent in calls[start:stop]:
            wall[what] += ended - began
            own[what] += spent
        whole = calls[stop][1] - calls[start][1]
        found.append(
            Trial(
                swap=wall["load"],
                copy=wall["copy"],
                swap_cpu=own["load"],
                copy_cpu=own["copy"],
                generate=wall["generate"],
                scoring=wall["task"] - wall["generate"],
                turnaround=whole - wall["load"] - wall["copy"] - wall["task"],
            )
        )
    return found


def naive(models: Path) -> list[float]:
    """Seconds to merge a recipe to disk and start a fresh engine on it, several times."""
    import torch

    from merge_core import MergePlan, Recipe
    from merge_core.writing import write_merge
    from objectives.engines import TransformersConfig, make_engine

    torch.set_num_threads(1)
    found = []
    for turn in range(NAIVE):
        recipe = Recipe.parse(
            {
                "merge_method": "ties_sv",
                "base_model": str(models / "base"),
                "models": [
                    {
                        "model": str(models / "expert0"),
                        "parameters": {"weight": 0.6, "density": 0.3},
                    },
                    {
                        "model": str(models / "expert1"),
                        "parameters": {"weight": 0.5, "density": 0.4, "slack": 0.2 + 0.1 * turn},
                    },
                ],
            }
        )
        with tempfile.TemporaryDirectory() as out:

            def swap(out: str = out, recipe: Recipe = recipe) -> None:
                write_merge(MergePlan(recipe), Path(out) / "merged")
                engine = make_engine(TransformersConfig(device="cpu"), Path(out) / "merged")
                engine.close()

            found.append(timed(swap))
    return found


def report(label: str, trials: Sequence[Trial], whole: float, spent: str) -> None:
    """Print medians."""

    def middle(name: str) -> float:
        return float(statistics.median(getattr(trial, name) for trial in trials))

    wall = statistics.median(trial.swap / trial.copy for trial in trials)
    own = statistics.median(trial.swap_cpu / trial.copy_cpu for trial in trials)
    say(f"{label}: {len(trials)} trials, medians of seconds; the whole command {whole:.1f} s")
    names = ("swap", "scoring", "turnaround", "overhead", "generate")
    table = Table(*((name, 11) for name in (*names, "share")))
    table.row(*(f"{middle(name):.3f}" for name in names), f"{middle('share'):.1%}")
    say(
        f"  swap against the copy, in pairs: {wall:.1f} by the clock ({middle('copy'):.3f} s),"
        f" {own:.1f} by the processor ({middle('swap_cpu'):.3f} and {middle('copy_cpu'):.3f} s)"
    )
    say(f"  the driver: {spent}")
    say(f"  load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure trees in turn, and the naive way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--tree", type=Path, action="append", help="checkouts; default: this one")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--millions", type=float, default=MILLIONS)
    parser.add_argument("--rounds", type=int, default=1, help="of all trees, in turn")
    parser.add_argument("--folder", type=Path, help="keeps the models (600 MB); default: none")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        models = Path(options.folder or temporary).absolute()
        shape = write_set(models, options.millions, EXPERTS)
        moved = (EXPERTS + 2) * 2 * shape.parameters
        say(f"{shape.parameters / 1e6:.0f}M parameters, {moved / 1e6:.0f} MB moved by a merge")
        for _ in range(options.rounds):
            for tree in options.tree or [ROOT]:
                report(str(tree), *measure(tree.absolute(), models, moved, options.trials))
        seconds = naive(models)
        say(
            f"naive: merged to disk, a fresh engine: {statistics.median(seconds):.2f} s"
            f" a trial ({', '.join(f'{s:.2f}' for s in seconds)})"
        )


if __name__ == "__main__":
    main()
