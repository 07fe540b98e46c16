"""What `check`, `status`, `score` and `ui` tell."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import optuna
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from merge_core import Expert, MergePlan, Recipe
from merge_core.references import resolve_reference
from merge_core.values import Scalar
from merge_core.yaml_io import dump_yaml
from objectives import summarize
from search.budget import until
from search.config import Search, load
from search.console import print_json
from search.errors import ConfigError
from search.estimate import estimate
from search.export import spelled
from search.mlflow_link import is_served, page_of
from search.prompts import check_prompts
from search.ranges import spelled as spelled_range
from search.run import Run
from search.samplers import random_sampler
from search.secrets import without_password
from search.session import Prepared, load_tasks


def describe(console: Console, prepared: Prepared, folder: Path | None = None) -> None:
    """Print what a search reads, varies, asks and costs.

    As far as headers and items tell, and its run in `folder` (default runs/NAME) if it was begun.
    """
    search, plan = prepared.search, prepared.plan
    template = plan.sources.template
    specs = plan.specs().values()
    parameters = sum(spec.numel for spec in specs)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(
        f"{search.path}: {template.architecture}, {parameters:,} parameters, "
        f"{template.layers} layers, {len(plan.specs())} tensors, "
        f"{'tied' if plan.tied else 'untied'} head"
    )
    say(f"each merge: {plan.estimate().line()}")
    for source in plan.sources.all:
        say(f"  source {source.path}")
    for line in plan.sources.report():
        say(line)
    space = Table("parameter", "range", title="space", title_justify="left")
    frozen = search.file.sampler.freeze
    for name, distribution in search.space.distributions().items():
        told = f"frozen at {frozen[name]}" if name in frozen else spelled_range(distribution)
        # A filter's brackets, as in weight[mlp], would be taken for markup.
        space.add_row(escape(name), escape(told))
    console.print(space)
    heads = ("task", "dev", "confirm", "test", "answers an item", "scores")
    tasks = Table(*heads, title="tasks", title_justify="left")
    for name, task in prepared.tasks.items():
        counts = [str(len(task.items(split))) for split in ("dev", "confirm", "test")]
        each = str(task.config.samples) if task.generates else "none"
        tasks.add_row(name, *counts, each, ", ".join(task.measures))
    console.print(tasks)
    for name, task in prepared.tasks.items():
        if task.idle:
            count = task.idle + sum(len(items) for items in task.splits.values())
            say(
                f"task {name}: {task.idle:,} of {count:,} items serve no split; where lines name "
                "their split, 1.0 in `splits` takes all of it"
            )
    say(
        f"until {until(search.file.budget)}; {prepared.answers('dev')} answers a trial; "
        f"baselines: {', '.join(prepared.baselines) or 'none'}"
    )
    for note in prepared.notes:
        say(f"note: {note}")
    for line in estimate(prepared, folder or Path("runs") / search.path.stem):
        say(line)


def sample_recipes(search: Search, count: int) -> list[str]:
    """Recipes drawn at random from the space, but for what is frozen, as text."""
    sampler = random_sampler(search, finished=0)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler)
    return [dump_yaml(search.space.sample(study.ask()).plain()) for _ in range(count)]


def score_model(
    console: Console, model: str, file: Path, split: str, limit: int | None, *, as_json: bool
) -> None:
    """Score one checkpoint on the tasks of a search file and print the scores."""
    from dataclasses import replace

    from objectives.task import SPLITS
    from search.worker import Evaluator, Job, Setup

    if split not in SPLITS:
        raise ConfigError(f"--split {split}: choose one of {', '.join(SPLITS)}")
    search = load(file)
    reference = resolve_reference(model, Path.cwd())
    tasks = load_tasks(search)
    for name, task in tasks.items():
        if limit is not None:
            items = {key: rows[:limit] for key, rows in task.splits.items()}
            tasks[name] = replace(task, splits=items)
    # One model is the linear merge of itself: the same path, the same bits.
    recipe = Recipe("linear", None, (Expert(reference, "model", {"weight": Scalar(1.0)}),))
    plan = MergePlan(recipe)
    notes = check_prompts(search, plan, tasks, [split])
    plan.sources.check_finite()
    evaluator = Evaluator(Setup(search.engine, recipe, tasks, os.cpu_count() or 1))
    try:
        result = evaluator.evaluate(Job("score", recipe, plan.fingerprint(), split))
    finally:
        evaluator.close()
    if as_json:
        from dataclasses import asdict

        print_json(asdict(result))
        return
    title = Text(f"{model} on {split} items", style="italic")
    table = Table("score", "mean [95%]", "n", title=title)
    for name, task in tasks.items():
        if name in result.items:
            for measure, estimate in summarize(task, result.items[name]).items():
                table.add_row(f"{name}/{measure}", spelled(estimate), str(estimate.n))
    console.print(table)
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def ui_command(run: Run, host: str, port: int) -> tuple[list[str] | None, dict[str, str], str]:
    """The MLflow server's command (None where one runs already), what it finds in its environment,
    and the run's saved view.

    Raises:
        ConfigError: nothing is tracked yet.
        StorageError: the store does not answer, or is damaged.
    """
    uri = run.tracking
    served = is_served(uri)
    shown = f"[{host}]" if ":" in host else host
    base = without_password(uri).rstrip("/") if served else f"http://{shown}:{port}"
    link = page_of(run, base)
    command, environment = server(uri, host, port)
    return (None if served else command), environment, link


def server(uri: str, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command of an MLflow server on a store, and what it finds in its environment.

    The store's URL is in the environment: anybody on the machine may read a command, and the URL
    may hold a password.
    """
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", host, "--port", str(port), "--workers", "1"),
        *("--uvicorn-opts", "--log-level warning"),  # no line a request
    ]
    return command, {"MLFLOW_BACKEND_STORE_URI": uri}
