"""The command line: what commands there are, and how they end.

The commands are in `cli_<topic>.py`, each a few lines around what the packages do. What the user
can mend is printed as one line on standard error, exit code 2; our own faults keep their traceback.
Heavy libraries are imported inside the commands, so that `--help` and completion are quick.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer

from search import (
    cli_cluster,
    cli_experiment,
    cli_export,
    cli_look,
    cli_register,
    cli_report,
    cli_run,
    cli_start,
    cli_sync,
)
from search.console import INTERRUPTED, no_color

app = typer.Typer(
    name="mergefront",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_start.app)
app.add_typer(cli_run.app)
app.add_typer(cli_look.app)
app.add_typer(cli_report.app)
app.add_typer(cli_export.app)
app.add_typer(cli_register.app)
app.add_typer(cli_sync.app)
app.add_typer(cli_cluster.app)
app.add_typer(cli_experiment.app)
TOPICS = {
    "Begin": (cli_start.app,),
    "Search": (cli_run.app,),
    "Look": (cli_look.app, cli_report.app),
    "Take away": (cli_export.app, cli_register.app),
    "Clusters, servers, experiments": (cli_sync.app, cli_cluster.app, cli_experiment.app),
}
"""The headings of `mergefront --help`."""
for topic, parts in TOPICS.items():
    for part in parts:
        for command in part.registered_commands:
            command.rich_help_panel = topic
        for group in part.registered_groups:
            group.rich_help_panel = topic
_MENDABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.ENAMETOOLONG),
)
"""What the system refuses for want of rights or space, or for a path that cannot be."""


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        sys.stdout.write(f"mergefront {version('mergefront')}\n")
        raise typer.Exit


def _no_color(asked: bool) -> None:
    if asked:
        no_color()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print and end")
    ] = False,
    plain: Annotated[
        bool,
        typer.Option(
            "--no-color", callback=_no_color, is_eager=True, help="no colours; or set NO_COLOR"
        ),
    ] = False,
) -> None:
    """Search for the merge that reasons like one expert and speaks like the other.

    Example: mergefront demo

    Example: mergefront --no-color status runs/thai
    """


def main() -> None:
    """Entry point: errors that the user can mend are one line and exit code 2."""
    from search.secrets import hide_in_tracebacks

    hide_in_tracebacks()
    try:
        # typer returns the code of a typer.Exit instead of raising it; Ctrl-C is one of them.
        code = app(standalone_mode=False, prog_name="mergefront")
        sys.stdout.flush()
    except typer.Abort:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough. The interpreter would flush once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)
    except Exception as error:
        message = mendable(error)
        if message is None:
            raise
        if message:  # none where typer has printed the help
            fail(message, 2)
        sys.exit(2)
    if code == INTERRUPTED:
        fail("stopped; nothing that was finished is lost", code)
    sys.exit(code if isinstance(code, int) else 0)


def mendable(error: Exception) -> str | None:
    """What to tell the user of an error that they can mend; None of our own faults."""
    if isinstance(error, OSError) and error.errno in _MENDABLE:
        return f"{error.filename or 'standard output'}: {error.strerror}"
    # typer has click inside, under names of its own; what it exports tells all usage errors.
    if isinstance(error, typer.BadParameter.__bases__[0]):
        message = getattr(error, "format_message", error.__str__)()
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "mergefront"
        return f"{message.rstrip('.')}; see `{command} --help`" if message else ""
    # Here, because these import torch, and neither --help nor a mistyped option needs it.
    from merge_core.yaml_io import one_line
    from search.errors import USER_ERRORS

    return one_line(error) if isinstance(error, USER_ERRORS) else None


def fail(message: str, code: int) -> NoReturn:
    """End with one line on standard error."""
    from search.secrets import redacted

    sys.stderr.write(f"mergefront: {redacted(message)}\n")
    sys.exit(code)
