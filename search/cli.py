"""The command line. Each command is a few lines around what the packages do.

What the user can mend is printed as one line on standard error, exit code 2; our own faults keep
their traceback. Heavy libraries are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from search import cli_cluster, cli_export, cli_sync
from search.cli_export import confirmed_members
from search.console import HERE, File, RunFolder, Runs, Set, console, print_json, say, writing

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

app = typer.Typer(
    name="mergefront",
    help="Search for the merge that reasons like one expert and speaks like the other.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(cli_cluster.app)
app.add_typer(cli_export.app)
app.add_typer(cli_sync.app)
_INTERRUPTED = 130  # as shells say it: 128 + SIGINT
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


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print and end")
    ] = False,
) -> None:
    """Search for the merge that reasons like one expert and speaks like the other."""


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="of the tiny models", min=0)] = 0,
    trials: Annotated[
        int | None,
        typer.Option(help="recipes to try; default 60, or the twin's own", min=1),
    ] = None,
    workers: Annotated[int, typer.Option(help="Ray workers", min=1)] = 2,
    folder: Annotated[
        Path | None, typer.Option(help="where models, items and the merge go; default demo")
    ] = None,
    runs: Runs = HERE,
    vocabulary: Annotated[
        Literal["plain", "extended", "permuted"],
        typer.Option(help="of the language expert: base's, 40 tokens more, or at other ids"),
    ] = "plain",
    twin: Annotated[
        Literal["typhoon2_r1", "ties_sv"] | None,
        typer.Option(help="a published protocol in miniature, on a world of two languages"),
    ] = None,
) -> None:
    """Train a tiny trio, search its merges, print the front, export and merge the best recipe."""
    from search.demo.show import run_demo, run_twin
    from search.errors import ConfigError

    if twin is not None:
        if vocabulary != "plain":
            raise ConfigError("--vocabulary is for the demo's own world; leave it out with --twin")
        place = folder or Path("demo") / twin
        run_twin(console, twin, seed=seed, trials=trials, workers=workers, folder=place, runs=runs)
        return
    run_demo(
        console,
        seed=seed,
        trials=trials or 60,
        workers=workers,
        folder=folder or Path("demo"),
        runs=runs,
        vocabulary=vocabulary,
    )


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
    with writing(file):
        write_atomic(file, text)
    say(f"wrote {file}; next: mergefront check {file}")


@app.command()
def check(
    file: File,
    set_: Set = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs of the nodes to plan for: 8, or 4,8")
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option(help="GB of each of their GPUs: 80, or 80,141")
    ] = None,
) -> None:
    """Open everything that a search file names, and say what a search of it would do.

    What a large model needs of a node comes first, from headers alone: no weights are fetched.
    """
    from search.config import load
    from search.describe import describe
    from search.session import prepare
    from search.size_plan import numbers, show

    counts, memories = numbers("--gpus", gpus), numbers("--gpu-memory", gpu_memory)
    search = load(file, set_)
    show(console, search, None if counts is None else [int(n) for n in counts], memories)
    describe(console, prepare(search))


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
    with Progress(console) as progress:
        found = run_search(prepared, folder, progress)
    again = ["mergefront", *(word for word in sys.argv[1:] if word != "--new")]
    print_found(console, found, shlex.join(again + (["--name", folder.name] if new else [])))
    if found.stopped:
        sys.exit(_INTERRUPTED)
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


@app.command()
def schema() -> None:
    """Print the JSON Schema of search files (editors complete and check with it)."""
    from search.config import SearchFile

    print_json(SearchFile.model_json_schema())


def _retained(trials: Mapping[int, FrozenTrial], number: int | None) -> dict[str, Any]:
    """The shares of the experts in a trial's merge, where they were counted."""
    from search.study import RETAINED

    attributes = {} if number is None else trials[number].user_attrs
    return {RETAINED: attributes[RETAINED]} if RETAINED in attributes else {}


def main() -> None:
    """Entry point: errors that the user can mend are one line and exit code 2."""
    from search.secrets import hide_in_tracebacks

    hide_in_tracebacks()
    try:
        # typer returns the code of a typer.Exit instead of raising it; Ctrl-C is one of them.
        code = app(standalone_mode=False, prog_name="mergefront")
        sys.stdout.flush()
    except typer.Abort:
        code = _INTERRUPTED
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
    if code == _INTERRUPTED:
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
