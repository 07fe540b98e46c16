"""`mergefront report`: one page of a run, to be read, kept, sent and printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.console import RunFolder, say, writing

app = typer.Typer()


@app.command()
def report(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="the file; default report.html in the run folder"),
    ] = None,
) -> None:
    """Write one HTML page of a run: what was found, how sure, what it cost, what to do next.

    It works offline and needs nothing but itself, of a run that goes on, too.

    Example: mergefront report runs/thai -o thai.html
    """
    from search.errors import ConfigError, RunError
    from search.live import Live
    from search.report import NAME, Standing, write
    from search.run import Run
    from search.status import look

    opened = Run.open(run)
    path = opened.folder / NAME if out is None else out
    opened.refuse_own(path)
    if path.is_dir():
        raise ConfigError(f"--out {path}: is a folder; name a file")
    live = Live.read(opened.folder)
    if live is not None and live.why and not opened.begun:
        raise RunError(
            f"{opened.folder}: no trial had begun when the search ended with an error: {live.why}"
        )
    seen = look(opened)
    if seen.view is None:
        raise RunError(f"{opened.folder}: no trial has begun yet: there is nothing to report")
    with writing(path):
        write(seen.view, Standing.of(seen.status), path)
    say(f"wrote {path}")
