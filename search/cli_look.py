"""Commands that look: at runs, fronts, trials, recipes and models. None of them writes to a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from search.cli_export import confirmed_members
from search.console import File, RunFolder, console, print_json, say

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

app = typer.Typer()


@app.command()
def status(run: RunFolder, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Say how far a run is, from any shell, while it goes on or after."""
    from search.describe import status_lines, status_of
    from search.run import Run

    data = status_of(Run.open(run))
    if as_json:
        print_json(data)
        return
    for line in status_lines(data):
        say(line)


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
        members = confirmed_members(opened)
        try:
            chosen = confirming.choose(opened.search, members)
        except ExportError:
            chosen = None
        if as_json:
            trials = studies.scored(studies.open_study(opened, create=False))
            print_json([{**asdict(m), **_retained(trials, m.trial)} for m in members])
        else:
            console.print(front_table(opened, members, chosen))
        return
    study = studies.open_study(opened, create=False)
    numbers = studies.current_front(study, opened.search)
    if as_json:
        names = [objective.name for objective in opened.search.objectives]
        trials = studies.scored(study)
        rows = [
            {
                "trial": n,
                "claimed": dict(zip(names, trials[n].values, strict=True)),
                **_retained(trials, n),
            }
            for n in numbers
        ]
        print_json(rows)
    else:
        console.print(claimed_table(opened, numbers))


@app.command()
def compare(
    run: RunFolder,
    a: Annotated[str, typer.Argument(help="trial number or baseline", show_default=False)],
    b: Annotated[str, typer.Argument(help="trial number or baseline", show_default=False)],
    split: Annotated[
        Literal["dev", "confirm", "test"] | None,
        typer.Option(help="items; default confirm where both have them, else dev"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Compare two trials or baselines item by item.

    Example: mergefront compare runs/thai 12 uniform
    """
    from search.comparison import print_comparison
    from search.run import Run

    print_comparison(console, Run.open(run), a, b, split, as_json)


@app.command()
def noise(run: RunFolder, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Say which differences the dev items can tell, and how many items it takes."""
    from search.comparison import print_noise
    from search.run import Run

    print_noise(console, Run.open(run), as_json)


@app.command()
def importance(run: RunFolder, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Say how much each parameter matters for each objective, and which could be frozen."""
    from search import importance as important
    from search.run import Run

    opened = Run.open(run)
    if as_json:
        print_json(important.as_json(important.importances(opened), opened))
        return
    important.print_importances(console, opened)


@app.command()
def analyze(
    recipe: Annotated[Path, typer.Argument(help="recipe file, ours or mergekit's")],
    by: Annotated[str, typer.Option(help="rows: model | layer | module | tensor")] = "layer",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="write all counts here; - is standard output, with no table"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="draw the rows: a .html (works offline) or .png file")
    ] = None,
) -> None:
    """Say how much of each expert a merge retains, trims, loses in the sign election, restores.

    Example: mergefront analyze recipe.yaml --by module --plot shares.html
    """
    from search.shares import analyze_recipe

    analyze_recipe(console, recipe, by, json_file, plot)


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
    port: Annotated[int, typer.Option(help="port", min=1, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option(help="address; on any other, who reaches it reads and deletes all runs")
    ] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on a run's store, for this machine alone unless told otherwise."""
    from search.describe import ui_command
    from search.run import Run

    command, environment, link = ui_command(Run.open(run), host, port)
    if command is None:
        say(f"tracked on a server: {link}")
        return
    say(f"MLflow UI: {link}  (Ctrl-C ends it)")
    os.execve(command[0], command, {**os.environ, **environment})


def _retained(trials: Mapping[int, FrozenTrial], number: int | None) -> dict[str, Any]:
    """The shares of the experts in a trial's merge, where they were counted."""
    from search.study import RETAINED

    attributes = {} if number is None else trials[number].user_attrs
    return {RETAINED: attributes[RETAINED]} if RETAINED in attributes else {}
