"""The command line. Each command is a few lines around what the packages do.

What the user can mend is printed as one line on standard error, exit code 2; our own faults keep
their traceback. Heavy libraries are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    name="mergefront",
    help="Search for the merge that reasons like one expert and speaks like the other.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
# A log file has no width of its own; tables need more than the default 80 columns.
console = Console(width=None if sys.stdout.isatty() else 120)

File = Annotated[Path, typer.Argument(help="search file (YAML)", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(help="run folder: runs/NAME", show_default=False)]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="setting that goes before the file's: a.b=value")
]
Runs = Annotated[Path, typer.Option("--runs", help="folder of all runs")]
HERE = Path("runs")


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="of the tiny models")] = 0,
    trials: Annotated[int, typer.Option(help="recipes to try")] = 60,
    workers: Annotated[int, typer.Option(help="Ray workers")] = 2,
    folder: Annotated[Path, typer.Option(help="where models, items and the merge go")] = Path(
        "demo"
    ),
    runs: Runs = HERE,
) -> None:
    """Train a tiny trio, search its merges, print the front, export and merge the best recipe."""
    from search.demo.show import run_demo

    run_demo(console, seed=seed, trials=trials, workers=workers, folder=folder, runs=runs)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="search file to write")] = Path("search.yaml"),
    base: Annotated[str, typer.Option(help="base model")] = "path/or/hub-id/of/base",
    language: Annotated[str, typer.Option(help="language expert")] = "path/or/hub-id/of/language",
    reasoning: Annotated[
        str, typer.Option(help="reasoning expert")
    ] = "path/or/hub-id/of/reasoning",
    items: Annotated[str, typer.Option(help="item file")] = "items.jsonl",
) -> None:
    """Write a commented search file.

    Example: mergefront init search.yaml --base meta-llama/Llama-3.1-8B --items data/th.jsonl
    """
    from importlib.resources import files

    from merge_core.yaml_io import write_atomic
    from search.errors import ConfigError

    if file.exists():
        raise ConfigError(f"{file}: exists already; name another file")
    text = files("configs").joinpath("template.yaml").read_text(encoding="utf-8")
    values = {"BASE": base, "LANGUAGE": language, "REASONING": reasoning, "ITEMS": items}
    for key, value in values.items():
        text = text.replace(f"@{key}@", json.dumps(value, ensure_ascii=False))
    write_atomic(file, text)
    console.print(f"wrote {file}; next: mergefront check {file}", highlight=False)


@app.command()
def check(file: File, set_: Set = None) -> None:
    """Open everything that a search file names, and say what a search of it would do."""
    from search.config import load
    from search.describe import describe
    from search.session import prepare

    describe(console, prepare(load(file, set_)))


@app.command()
def run(
    file: File,
    set_: Set = None,
    trials: Annotated[int | None, typer.Option(help="budget.trials", min=1)] = None,
    timeout: Annotated[str | None, typer.Option(help="budget.timeout, for example 8h")] = None,
    workers: Annotated[int | None, typer.Option(help="workers.count", min=1)] = None,
    name: Annotated[str | None, typer.Option(help="name of the run; default the file's")] = None,
    new: Annotated[bool, typer.Option("--new", help="start another run, never resume")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print three recipes and the plan, run nothing")
    ] = False,
    runs: Runs = HERE,
) -> None:
    """Search. The same command again goes on where the run stopped.

    Example: mergefront run thai.yaml --timeout 8h --set budget.trials=400
    """
    from search.config import load
    from search.describe import describe, sample_recipes
    from search.run import folder_for
    from search.session import prepare
    from search.session import run as run_search
    from search.terminal import Progress, print_found, shown

    given = {"budget.trials": trials, "budget.timeout": timeout, "workers.count": workers}
    overrides = [*(set_ or []), *(f"{k}={v}" for k, v in given.items() if v is not None)]
    search = load(file, overrides)
    prepared = prepare(search)
    if dry_run:
        describe(console, prepared)
        for text in sample_recipes(search, 3):
            console.print(f"---\n{text}", highlight=False, markup=False, end="")
        return
    folder = folder_for(search, runs, name, new=new)
    with Progress(console) as progress:
        found = run_search(prepared, folder, progress)
    print_found(console, found, f"mergefront run {file} --name {shown(folder).name}")
    if found.stopped:
        raise typer.Exit(130)


@app.command()
def confirm(run: RunFolder) -> None:
    """Score the front and the baselines on held-out items and export the knee."""
    from search.run import Run
    from search.session import confirm as confirm_run
    from search.terminal import Progress, print_found

    with Progress(console) as progress:
        found = confirm_run(Run.open(run), progress)
    print_found(console, found, "mergefront run")


@app.command()
def status(run: RunFolder, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Say how far a run is, from any shell, while it goes on or after."""
    from search.describe import status_of
    from search.run import Run

    data = status_of(Run.open(run))
    if as_json:
        print_json(data)
        return
    for key, value in data.items():
        console.print(f"{key:<12} {value}", highlight=False, markup=False)


@app.command()
def front(run: RunFolder, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Print the front: confirmed if it is, claimed otherwise."""
    from dataclasses import asdict

    from search import confirm as confirming
    from search import study as studies
    from search.errors import ExportError
    from search.run import Run
    from search.terminal import claimed_table, front_table

    opened = Run.open(run)
    if opened.confirmed.is_file():
        members = confirming.load(opened)
        try:
            chosen = confirming.choose(opened.search, members)
        except ExportError:
            chosen = None
        if as_json:
            print_json([asdict(member) for member in members])
        else:
            console.print(front_table(opened, members, chosen))
        return
    study = studies.open_study(opened, create=False)
    numbers = studies.current_front(study, opened.search)
    if as_json:
        names = [objective.name for objective in opened.search.objectives]
        trials = studies.scored(study)
        rows = [
            {"trial": n, "claimed": dict(zip(names, trials[n].values, strict=True))}
            for n in numbers
        ]
        print_json(rows)
    else:
        console.print(claimed_table(opened, numbers))


@app.command()
def export(
    run: RunFolder,
    pick: Annotated[
        str, typer.Option(help="knee | best:OBJECTIVE | trial:N", show_default=True)
    ] = "knee",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="default: standard output")
    ] = None,
    mergekit: Annotated[bool, typer.Option("--mergekit", help="as mergekit's YAML")] = False,
    best_effort: Annotated[
        bool, typer.Option("--best-effort", help="even if no member holds the constraints")
    ] = False,
) -> None:
    """Write the recipe of a confirmed front member.

    Example: mergefront export runs/thai --pick best:reasoning -o recipe.yaml
    """
    import tempfile

    from search import confirm as confirming
    from search.export import save_recipe, tested
    from search.run import Run
    from search.terminal import shown

    opened = Run.open(run)
    members = confirming.load(opened)
    chosen = confirming.choose(opened.search, members, pick, best_effort=best_effort)
    test = tested(opened, chosen)
    if out is not None:
        save_recipe(opened, chosen, out, mergekit=mergekit, test=test)
        console.print(f"wrote {chosen.label} to {shown(out)}", highlight=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        save_recipe(opened, chosen, path, mergekit=mergekit, test=test)
        sys.stdout.write(path.read_text(encoding="utf-8"))


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="recipe file, ours or mergekit's")],
    out: Annotated[Path, typer.Argument(help="new folder for the merged checkpoint")],
) -> None:
    """Write the merged checkpoint of a recipe: weights, config, tokenizer, model card.

    Example: mergefront merge recipe.yaml merged-model
    """
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from merge_core import MergePlan, write_merge
    from search.describe import load_recipe

    loaded, notes = load_recipe(recipe)
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    plan = MergePlan(loaded)
    plan.sources.check_finite()
    columns = (TextColumn("merging"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("merging")
        write_merge(
            plan, out, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    console.print(f"wrote {out} ({plan.fingerprint()})", highlight=False)


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="any checkpoint: folder or hub id")],
    file: File,
    split: Annotated[str, typer.Option(help="dev | confirm | test")] = "dev",
    limit: Annotated[int | None, typer.Option(help="first items of each task only", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="per-item scores as JSON")] = False,
) -> None:
    """Score any checkpoint on the tasks of a search file."""
    from search.describe import score_model

    score_model(console, model, file, split, limit, as_json=as_json)


@app.command()
def ui(
    run: RunFolder,
    port: Annotated[int, typer.Option(help="on the loopback address", min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on a run's store."""
    from search.describe import ui_command
    from search.run import Run

    command, link, environment = ui_command(Run.open(run), port)
    console.print(f"MLflow UI: {link}  (Ctrl-C ends it)", highlight=False, markup=False)
    os.environ.update(environment)
    os.execv(command[0], command)


@app.command()
def schema() -> None:
    """Print the JSON Schema of search files (editors complete and check with it)."""
    from search.config import SearchFile

    print_json(SearchFile.model_json_schema())


def print_json(data: Any) -> None:
    """JSON on standard output, unstyled."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    """Entry point: errors that the user can mend are one line and exit code 2."""
    from merge_core.yaml_io import one_line
    from search.errors import USER_ERRORS

    try:
        # Without standalone mode, `typer.Exit` comes back as the exit code.
        sys.exit(app(standalone_mode=False) or 0)
    except USER_ERRORS as error:
        sys.stderr.write(f"mergefront: {one_line(error)}\n")
        sys.exit(2)
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.stderr.write("mergefront: stopped; nothing that was finished is lost\n")
        sys.exit(130)
    except Exception as error:
        from click import ClickException

        if isinstance(error, ClickException):
            error.show()
            sys.exit(error.exit_code)
        raise
