"""What the commands share: arguments of one meaning, and how lines, tables and bars are printed."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from search.completion import run_folders

# A log file has no width of its own; tables need more than the default 80 columns.
console = Console(width=None if sys.stdout.isatty() else 160)

File = Annotated[Path, typer.Argument(help="search file (YAML)", show_default=False)]
RunFolder = Annotated[
    Path,
    typer.Argument(help="run folder: runs/NAME", show_default=False, autocompletion=run_folders),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="setting that goes before the file's: a.b=value")
]
Runs = Annotated[Path, typer.Option("--runs", help="folder of all runs")]
HERE = Path("runs")
INTERRUPTED = 130
"""Exit code of what the user has stopped, as shells say it: 128 + SIGINT."""


def no_color() -> None:
    """Print without colours from here on, and have whatever is started do so."""
    os.environ["NO_COLOR"] = "1"
    console.no_color = True


def typed(*, but: str = "", more: Sequence[str] = ()) -> str:
    """This command as it was typed, without passwords; without the option `but`, with `more`."""
    from search.secrets import redacted

    words = [word for word in sys.argv[1:] if word != but]
    return redacted(shlex.join(["mergefront", *words, *more]))


def print_json(data: Any) -> None:
    """JSON on standard output, unstyled."""
    sys.stdout.write(json_text(data))


def json_text(data: Any) -> str:
    """Data as JSON: infinite bounds are null, and strings hold no passwords."""
    from search.results import finite
    from search.secrets import redacted

    told = cache(redacted)  # the same words stand in many rows

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: plain(value) for key, value in node.items()}
        if isinstance(node, list):
            return [plain(value) for value in node]
        return told(node) if isinstance(node, str) else node

    return json.dumps(plain(finite(data)), indent=2, ensure_ascii=False) + "\n"


def say(line: str, to: Console | None = None) -> None:
    """One line as it is, but for passwords: never wrapped, and brackets are no markup."""
    from search.secrets import redacted

    (to or console).print(redacted(line), highlight=False, markup=False, soft_wrap=True)


def shown(path: Path) -> Path:
    """A path as the user would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; gives what is called with (bytes done, all bytes)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as shown:
        task = shown.add_task(what)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says to writing `path` into a line for the user."""
    from search.errors import ConfigError

    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
