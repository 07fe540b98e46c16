"""Commands that search: run, confirm what was found, narrow the file for the next run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from search.console import HERE, INTERRUPTED, File, RunFolder, Runs, Set, console, typed

app = typer.Typer()


@app.command()
def run(
    file: File,
    set_: Set = None,
    trials: Annotated[int | None, typer.Option(help="budget.trials", min=1)] = None,
    timeout: Annotated[str | None, typer.Option(help="budget.timeout, for example 8h")] = None,
    workers: Annotated[int | None, typer.Option(help="workers.count", min=1)] = None,
    name: Annotated[str | None, typer.Option(help="name of the run; default the file's")] = None,
    new: Annotated[bool, typer.Option("--new", help="start another run, never resume")] = False,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="earlier run: take over its results, or try its front first"),
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help="keep a parameter at a value: NAME=VALUE")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print three recipes and the plan, run nothing")
    ] = False,
    runs: Runs = HERE,
) -> None:
    """Search. The same command again goes on where the run stopped.

    Example: mergefront run thai.yaml --timeout 8h --set budget.trials=400

    Example: mergefront run narrowed.yaml --from runs/thai --freeze reasoning.density=0.3
    """
    from search import warm
    from search.config import load, with_frozen
    from search.describe import describe, sample_recipes
    from search.run import folder_for
    from search.session import check_run, prepare
    from search.session import run as run_search
    from search.terminal import Progress, print_found

    given = {"budget.trials": trials, "budget.timeout": timeout, "workers.count": workers}
    overrides = [*(set_ or []), *(f"{k}={v}" for k, v in given.items() if v is not None)]
    search = load(file, overrides)
    if from_ is not None:
        search = warm.from_run(search, from_)
    if freeze:
        search = with_frozen(search, freeze)
    folder = folder_for(search, runs, name, new=new)
    prepared = prepare(search, folder)
    if dry_run:
        check_run(search, folder)
        describe(console, prepared, folder)
        for text in sample_recipes(search, 3):
            sys.stdout.write(f"---\n{text}")
        return
    command = typed(but="--new", more=["--name", folder.name] if new else [])
    with Progress(console, command) as progress:
        found = run_search(prepared, folder, progress)
    print_found(console, found, command)
    if found.stopped:
        sys.exit(INTERRUPTED)
    if found.chosen is None:
        sys.exit(1)


@app.command()
def confirm(
    run: RunFolder,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="one more to stand beside: recipe:FILE, checkpoint:PATH, ties, ..."),
    ] = None,
) -> None:
    """Score the front and the baselines on held-out items and export the knee.

    Example: mergefront confirm runs/thai --baseline checkpoint:models/ct-then-sft
    """
    from search.baselines import seen_from
    from search.run import Run
    from search.session import confirm as confirm_run
    from search.terminal import Progress, print_found

    opened = Run.open(run)
    more = [seen_from(opened.search.root, entry) for entry in baseline or ()]
    with Progress(console) as progress:
        found = confirm_run(opened, progress, more)
    print_found(console, found, "mergefront run")
    if found.chosen is None:
        sys.exit(1)


@app.command()
def narrow(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="default RUN-narrow.yaml, beside the file")
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option("--freeze", help="NAME or NAME=VALUE; default value: the knee's"),
    ] = None,
) -> None:
    """Write a new search file whose ranges are narrowed to where the good trials lie.

    Example: mergefront narrow runs/thai --freeze reasoning.slack=0
    """
    from search.narrow import narrow as narrow_run
    from search.run import Run

    narrow_run(console, Run.open(run), out, freeze or ())
