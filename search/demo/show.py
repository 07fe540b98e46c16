"""The demo's walk: trio, search, front, one question answered by all, merged model; and twins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from merge_core import MergePlan, Recipe
from merge_core.yaml_io import write_atomic
from search.config import load
from search.console import say, shown, typed
from search.demo.process import DemoError
from search.demo.process import Progress as TrainingProgress
from search.demo.trio import ensure_trio
from search.demo.twins import Twin, write_twin
from search.demo.vocabularies import Vocabulary, write_expert
from search.demo.world import write_items
from search.errors import SearchError
from search.model_card import Chosen
from search.publish import write_checkpoint
from search.results import Result
from search.run import folder_for
from search.session import Found, prepare
from search.session import run as run_search
from search.terminal import Progress as SearchProgress
from search.terminal import print_found

_LABELS = {
    "expert:reasoning": "reasoning expert",
    "expert:language": "Thai expert",
    "uniform": "uniform average",
}


def run_demo(
    console: Console,
    *,
    seed: int,
    trials: int,
    workers: int,
    folder: Path,
    runs: Path,
    vocabulary: Vocabulary = "plain",
) -> None:
    """Train (or reuse) the trio, search its merges, show what was found, write the merge.

    Args:
        console: takes the lines.
        seed: of the trio.
        trials: recipes to try.
        workers: Ray workers.
        folder: where models, items and the merge go; another seed or vocabulary adds its name.
        runs: folder of all runs.
        vocabulary: of the language expert.

    Raises:
        SearchError: training failed, or the search found nothing to export.
    """
    folder = folder if seed == 0 else folder.with_name(f"{folder.name}-seed{seed}")
    folder = folder if vocabulary == "plain" else folder.with_name(f"{folder.name}-{vocabulary}")
    _prepare_folder(console, folder, seed, vocabulary)
    file = folder / f"{folder.name}.yaml"
    search = load(file, [f"budget.trials={trials}", f"workers.count={workers}"])
    prepared = prepare(search)
    for line in prepared.plan.sources.report():
        say(line, console)
    where = folder_for(search, runs, None, new=False)
    with SearchProgress(console, typed()) as progress:
        found = run_search(prepared, where, progress)
    print_found(console, found, typed())
    if found.chosen is None:
        return
    _show_question(console, found)
    merged = folder / "merged"
    if merged.exists():
        shutil.rmtree(merged)
    plan = MergePlan(Recipe.parse(found.chosen.recipe))
    chosen = Chosen(found.run, found.chosen, found.members, "knee")
    written = write_checkpoint(plan, merged, chosen=chosen)
    say(f"merged model: {shown(merged)}", console)
    if written.verified is not None:
        say(f"verified: {written.verified.line()}", console)


def run_twin(
    console: Console,
    name: Twin,
    *,
    seed: int,
    trials: int | None,
    workers: int,
    folder: Path,
    runs: Path,
) -> None:
    """Train (or reuse) the wide world's models and run a published protocol's twin on them.

    Args:
        console: takes the lines.
        name: of the twin.
        seed: of the models.
        trials: recipes to try; None leaves it to the twin's file.
        workers: Ray workers.
        folder: where models, items and search file go; another seed adds its name.
        runs: folder of all runs; the run has the twin's name, and another seed's.

    Raises:
        SearchError: training failed.
    """
    run_name = name if seed == 0 else f"{name}-seed{seed}"
    folder = folder if seed == 0 else folder.with_name(f"{folder.name}-seed{seed}")
    with training_bars(console) as progress:
        file = write_twin(name, folder, seed=seed, progress=progress)
    say(f"search file: {shown(file)}", console)
    budget = [] if trials is None else [f"budget.trials={trials}"]
    search = load(file, [*budget, f"workers.count={workers}"])
    where = folder_for(search, runs, run_name, new=False)
    with SearchProgress(console, typed()) as listener:
        found = run_search(prepare(search), where, listener)
    print_found(console, found, typed())


@contextmanager
def training_bars(console: Console) -> Iterator[TrainingProgress]:
    """A bar for each model in training; what training raises is the user's one line."""
    columns = (TextColumn("training {task.description:<11}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        tasks = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
                if not console.is_terminal:
                    say(f"training the {stage} model: {total} steps", console)
            bars.update(tasks[stage], completed=done)

        try:
            yield progress
        except (DemoError, OSError) as error:
            raise SearchError(str(error)) from error


def _prepare_folder(console: Console, folder: Path, seed: int, vocabulary: Vocabulary) -> None:
    """Put trio, items and search file into `folder`."""
    with training_bars(console) as progress:
        trio = ensure_trio(seed=seed, progress=progress)
    for name in ("base", "language", "reasoning"):
        target = folder / "trio" / name
        if not target.exists():
            write_expert(trio.root / name, target, vocabulary if name == "language" else "plain")
    items = folder / "items.jsonl"
    if not items.exists():
        write_items(items)
    text = files("configs").joinpath("demo.yaml").read_text(encoding="utf-8")
    write_atomic(folder / f"{folder.name}.yaml", text)


def _show_question(console: Console, found: Found) -> None:
    """One held-out question that only the merge answers right and in Thai."""
    assert found.chosen is not None
    run = found.run
    results = {
        member.label: Result.load(run.held_out("confirm", member.fingerprint))
        for member in found.members
        if member.label in _LABELS or member.label == found.chosen.label
    }
    rows = {label: result.items["math_th"] for label, result in results.items()}
    task = run.search.file.tasks["math_th"]
    prompts = {}
    for line in (run.search.root / str(task.items)).read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        prompts[item["id"]] = item
    mine = rows[found.chosen.label]
    for index, row in enumerate(mine):
        others = [rows[label][index] for label in _LABELS if label in rows]
        if row.scores["joint"] == 1.0 and not any(other.scores["joint"] for other in others):
            item = prompts[row.id]
            say(f"\nheld-out question {row.id} (answer {item['answer']}):", console)
            say(f"  {item['prompt']}", console)
            for label, name in {**_LABELS, found.chosen.label: "exported merge"}.items():
                if label in rows:
                    text = rows[label][index].text
                    say(f"  {name:<18}{text}", console)
            return
