"""`mergefront sync`: MLflow made equal to the study."""

from __future__ import annotations

from typing import Annotated

import typer

from search.console import RunFolder, say

app = typer.Typer()


@app.command()
def sync(
    run: RunFolder,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="another store or server; it becomes equal")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what differs; exit code 1 if anything does")
    ] = False,
) -> None:
    """Make MLflow equal to the study: fill in, correct, and remove what is there twice.

    Example: mergefront sync runs/thai --tracking-uri http://mlflow.example:5000
    """
    from search.run import Run, locked
    from search.secrets import redacted
    from search.sync import differences
    from search.sync import sync as sync_run

    opened = Run.open(run)
    place = redacted(tracking_uri or opened.tracking)
    with locked(opened.folder):
        if dry_run:
            found = differences(opened, tracking_uri)
            for line in found:
                say(line)
            say(f"{place}: {len(found) or 'no'} differences")
            raise typer.Exit(1 if found else 0)
        lines = sync_run(opened, tracking_uri).lines()
    for line in lines:
        say(line)
    say(f"{place}: equal to the study" + ("" if lines else "; nothing had to be done"))
