"""Commands that look: at runs, fronts, trials, recipes and models. None of them writes to a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from search.completion import labels, run_folders
from search.console import HERE, File, RunFolder, Runs, console, print_json, say

app = typer.Typer()
Label = Annotated[
    str,
    typer.Argument(help="trial number or baseline", show_default=False, autocompletion=labels),
]


@app.command()
def status(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="run folder: runs/NAME; default: all of --runs, as a table",
            show_default=False,
            autocompletion=run_folders,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="go on until the run ends")] = False,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="draw the front")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="all of it as JSON")] = False,
    runs: Runs = HERE,
) -> None:
    """Say how a run stands, from any shell, while it goes on or after. It writes nothing.

    Example: mergefront status

    Example: mergefront status runs/thai --watch
    """
    from search.errors import ConfigError
    from search.looking import print_runs, print_status, watch_status
    from search.run import Run

    if run is None:
        if watch:
            raise ConfigError("--watch: name the run: mergefront status runs/NAME --watch")
        print_runs(console, runs, as_json=as_json)
    elif watch:
        watch_status(console, Run.open(run), plot=plot)
    else:
        print_status(console, Run.open(run), plot=plot, as_json=as_json)


@app.command()
def front(
    run: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="as CSV: scores, intervals, parameters")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="every trial, not the front alone; with --json or --csv")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="write it here (- is standard output); .csv and .json tell the form"
        ),
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="draw it, too")] = False,
) -> None:
    """Print the front beside the baselines: confirmed if it is, claimed otherwise.

    Example: mergefront front runs/thai --plot

    Example: mergefront front runs/thai --all -o trials.csv
    """
    from search.looking import print_front
    from search.run import Run

    print_front(
        console, Run.open(run), as_json=as_json, as_csv=as_csv, every=every, out=out, plot=plot
    )


@app.command()
def compare(
    run: RunFolder,
    a: Label,
    b: Label,
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
    """Say which differences the dev items can tell, and how many items it takes.

    Example: mergefront noise runs/thai
    """
    from search.comparison import print_noise
    from search.run import Run

    print_noise(console, Run.open(run), as_json)


@app.command()
def importance(run: RunFolder, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Say how much each parameter matters for each objective, and which could be frozen.

    Example: mergefront importance runs/thai
    """
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
    """Score any checkpoint on the tasks of a search file.

    Example: mergefront score models/ct-then-sft thai.yaml --split dev --limit 20
    """
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
    """Open the MLflow UI on a run's store, for this machine alone unless told otherwise.

    Example: mergefront ui runs/thai --port 5001
    """
    from search.describe import ui_command
    from search.run import Run

    command, environment, link = ui_command(Run.open(run), host, port)
    if command is None:
        say(f"tracked on a server: {link}")
        return
    say(f"MLflow UI: {link}  (Ctrl-C ends it)")
    os.execve(command[0], command, {**os.environ, **environment})
