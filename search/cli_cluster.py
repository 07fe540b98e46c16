"""Commands for searches as jobs of a Ray cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.console import File, Set, print_json, say

if TYPE_CHECKING:
    from search.submit import Jobs

app = typer.Typer()
job = typer.Typer(name="job", help="Jobs that were sent to a Ray cluster.", no_args_is_help=True)
app.add_typer(job)

Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS",
        help="the cluster's dashboard: http://HOST:8265; default: that of this machine",
    ),
]


@app.command()
def submit(
    file: File,
    set_: Set = None,
    trials: Annotated[int | None, typer.Option(help="budget.trials", min=1)] = None,
    timeout: Annotated[str | None, typer.Option(help="budget.timeout, for example 8h")] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="folder of all runs, as the cluster sees it")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the run; default the file's")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="variable of this shell that goes with the job: HF_TOKEN"),
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="the cluster sees the file's folder: send nothing")
    ] = False,
    address: Address = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="send it and end")] = False,
) -> None:
    """Run a search as a job of a Ray cluster. The same submission again goes on.

    Example: mergefront submit thai.yaml --runs /shared/runs --address http://head:8265
    """
    from search.config import load
    from search.errors import ConfigError
    from search.run import folder_for
    from search.submit import Jobs, submission

    given = {"budget.trials": trials, "budget.timeout": timeout}
    settings = [*(set_ or []), *(f"{k}={v}" for k, v in given.items() if v is not None)]
    search = load(file, settings)
    if runs is None and not in_place:
        raise ConfigError("give --runs: a folder that the cluster keeps, as /shared/runs")
    folder = (Path("runs") if runs is None else runs).expanduser()
    if not folder.is_absolute():
        if not in_place:
            raise ConfigError(f"--runs {folder}: has to be absolute: it lies on the cluster")
        folder = folder.resolve()
    run = folder_for(search, folder, name, new=False)
    arguments = [word for setting in settings for word in ("--set", setting)]
    sent = submission(search, run, arguments, env or (), in_place=in_place)
    jobs = Jobs(address)
    found, new = jobs.submit(sent)
    say(f"job {found}: {'sent' if new else 'is at this run already'}")
    if no_wait:
        say(f"next: mergefront job logs {found} --follow")
        return
    _follow(jobs, found)


@job.command()
def status(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="default: all")] = None,
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Say how a job is, or all of them.

    Example: mergefront job status --address http://head:8265
    """
    from search.submit import Jobs

    jobs = Jobs(address)
    rows = [_row(found) for found in (jobs.all() if id_ is None else [jobs.info(id_)])]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        say(f"{row['job']}  {row['status'].lower():<9}  {row['run'] or row['command']}")
        if row["message"] and row["status"] == "FAILED":
            say(f"  {row['message'].splitlines()[0]}")


@job.command()
def logs(
    id_: Annotated[str, typer.Argument(metavar="ID", help="the job's id")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="until it ends")] = False,
    address: Address = None,
) -> None:
    """Print what a job has printed.

    Example: mergefront job logs mergefront-thai --follow
    """
    from search.submit import Jobs

    jobs = Jobs(address)
    if follow:
        _follow(jobs, id_)
        return
    sys.stdout.write(jobs.logs(id_))


@job.command()
def stop(
    id_: Annotated[str, typer.Argument(metavar="ID", help="the job's id")],
    address: Address = None,
) -> None:
    """Have a job finish its running trials and end; the same submission goes on later.

    Example: mergefront job stop mergefront-thai
    """
    from search.submit import Jobs

    say("stopping: its running trials are finished" if Jobs(address).stop(id_) else "had ended")


def _follow(jobs: Jobs, found: str) -> None:
    """Print what a job prints, and end as it ends."""

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        info = jobs.follow(found, show)
    except KeyboardInterrupt:
        say(f"\njob {found} goes on; `mergefront job stop {found}` ends it")
        sys.exit(130)
    code = info.driver_exit_code
    if str(info.status) == "SUCCEEDED":
        return
    say(f"job {found}: {str(info.status).lower()}{f', exit code {code}' if code else ''}")
    sys.exit(code or 1)


def _row(found: Any) -> dict[str, Any]:
    metadata = found.metadata or {}
    return {
        "job": found.submission_id,
        "status": str(found.status),
        "run": metadata.get("mergefront.run"),
        "command": found.entrypoint,
        "message": found.message,
        "exit_code": found.driver_exit_code,
    }
