"""Whole processes: `mergefront merge` against `mergekit-yaml`, in time, memory and merged numbers.

mergekit (LGPL) is never a dependency: it runs from the environment that `--mergekit` names. What
it gets is `to_mergekit` of our recipe; it is also timed with `dtype: bfloat16`, as its users
write it (that merges other numbers, but does less), and the target counts the faster of the two.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.measure import ROOT, Table, say, verdict
from benchmarks.merge import recipe_of
from merge_core import MergePlan, Recipe, Sources, write_merge
from merge_core.mergekit import to_mergekit
from merge_core.methods import METHODS, get_method
from merge_core.yaml_io import dump_yaml

METHODS_TIMED = ("linear", "ties")
TARGETS = {"linear": 1.0, "ties": 0.1}
"""Largest ratio of our time to mergekit's."""
MEMORY_LIMIT = 1.5e9
TRIALS = (1, 12)  # merges to disk in one process
_SAMPLE = 0.01  # seconds between looks at a process's memory


@dataclass(frozen=True)
class Run:
    """A process that ended well: wall time in seconds, peak of its anonymous memory in bytes."""

    seconds: float
    anonymous: int


def watched(command: Sequence[str | Path]) -> Run:
    """Run `command` to its end and watch it.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, env=environment)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(_SAMPLE)
        seconds = time.perf_counter() - start
        if process.returncode != 0:
            said.seek(0)
            end = said.read().decode(errors="replace").strip()[-2000:]
            raise SystemExit(f"{' '.join(map(str, command))} failed: {end}")
    return Run(seconds, peak)


def _anonymous(pid: int) -> int:
    """Anonymous resident bytes of a process and its children: mapped files do not count."""
    total = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        total += 1024 * int(status.partition("RssAnon:")[2].split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(
                _anonymous(int(child)) for child in (task / "children").read_text().split()
            )
    except (OSError, IndexError):  # it ended between two looks
        pass
    return total


def ours(recipe: Recipe, folder: Path) -> Callable[[Path], Run]:
    """`mergefront merge` of `recipe`, whose file is kept in `folder`."""
    file = folder / "recipe.yaml"
    recipe.save(file)
    command = Path(sys.executable).with_name("mergefront")
    return lambda out: watched([command, "merge", "--no-verify", file, out])


def theirs(recipe: Recipe, folder: Path, mergekit: Path, *, plain: bool) -> Callable[[Path], Run]:
    """`mergekit-yaml` of the export of `recipe`; `plain`: with `dtype: bfloat16` instead."""
    data = to_mergekit(recipe)
    if plain:
        data["dtype"] = data.pop("out_dtype")
        data.pop("tokenizer_source", None)
    file = folder / f"mergekit-{'plain' if plain else 'export'}.yml"
    file.write_text(dump_yaml(data), encoding="utf-8")
    return lambda out: watched([mergekit / "mergekit-yaml", file, out])


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new folder beside the set `folder`, on the same disk; gone at the end."""
    path = Path(tempfile.mkdtemp(dir=folder.parent, prefix="bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def report(
    folder: Path,
    mergekit: Path | None,
    repeats: int = 3,
    methods: Sequence[str] = METHODS_TIMED,
    trials: Sequence[int] = TRIALS,
) -> None:
    """Print time and memory of whole processes on the set in `folder`."""
    say(f"whole processes, merge to disk, medians of {repeats} in turn; peak of anonymous memory")
    if mergekit is None:
        say("mergekit not named: not measured")
    table = Table(
        ("method", 16),
        ("process", 28),
        ("seconds", 8),
        ("peak GB", 8),
        ("ours/its", 9),
        ("target", 8),
        ("met", 4),
    )
    for method in methods:
        with scratch(folder) as work:
            recipe = recipe_of(folder, method)
            runs = {"mergefront merge": ours(recipe, work)}
            if mergekit is not None:
                runs["mergekit-yaml, our export"] = theirs(recipe, work, mergekit, plain=False)
                runs["mergekit-yaml, bfloat16"] = theirs(recipe, work, mergekit, plain=True)
            done: dict[str, list[Run]] = {label: [] for label in runs}
            for _ in range(repeats):
                for label, run in runs.items():
                    done[label].append(run(work / "out"))
                    shutil.rmtree(work / "out")
        first, *others = done.values()
        ratios = {
            label: median(a.seconds / b.seconds for a, b in zip(first, other, strict=True))
            for label, other in zip(list(done)[1:], others, strict=True)
        }
        for label, several in done.items():
            peak = max(run.anonymous for run in several)
            row = [method, label, f"{median(r.seconds for r in several):.2f}", f"{peak / 1e9:.2f}"]
            if label in ratios:
                row.append(f"{ratios[label]:.3f}")
                if ratios[label] == max(ratios.values()):  # its faster run
                    row += verdict(ratios[label], TARGETS.get(method))
            table.row(*row)
    _memory(folder, trials)


def _memory(folder: Path, trials: Sequence[int]) -> None:
    """Peak memory of one process that writes many different merges."""
    say()
    say("one process, merges to disk by changing recipes on the same open sources")
    table = Table(("merges", 16), ("seconds", 8), ("peak GB", 8), ("target", 8), ("met", 4))
    for count in trials:
        with scratch(folder) as work:
            command: list[str | Path] = [
                sys.executable,
                "-m",
                "benchmarks.process",
                folder,
                work,
                str(count),
            ]
            run = watched(command)
        gigabytes = run.anonymous / 1e9
        table.row(
            str(count),
            f"{run.seconds:.1f}",
            f"{gigabytes:.2f}",
            *verdict(gigabytes, MEMORY_LIMIT / 1e9),
        )


def merge_many(folder: Path, work: Path, count: int) -> None:
    """Write `count` merges, one after the other, as a search that keeps all of them would."""
    sources = Sources.open(recipe_of(folder, "task_arithmetic"))
    choose = random.Random(0)
    # The other methods read other sources than base and two experts.
    methods = [name for name in METHODS if get_method(name).on_differences]
    for index in range(count):
        weights = (choose.uniform(0.2, 1.0), choose.uniform(0.2, 1.0))
        # TIES-SV first: one merge is then the one that needs the most.
        method = methods[(methods.index("ties_sv") + index) % len(methods)]
        recipe = recipe_of(folder, method, weights, density=choose.uniform(0.2, 0.8))
        write_merge(MergePlan(recipe, sources), work / "out")
        shutil.rmtree(work / "out")


if __name__ == "__main__":
    merge_many(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
