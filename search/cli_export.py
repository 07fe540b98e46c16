"""`mergefront export` and `mergefront merge`: recipes and checkpoints out of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.console import RunFolder, bar, say, writing

if TYPE_CHECKING:
    from search.confirm import Member
    from search.run import Run

app = typer.Typer()


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
    members = confirmed_members(opened)
    chosen = confirming.choose(opened.search, members, pick, best_effort=best_effort)
    test = tested(opened, chosen)
    if out is not None:
        with writing(out):
            save_recipe(opened, chosen, out, mergekit=mergekit, test=test)
        say(f"wrote {chosen.label} to {shown(out)}")
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
    from merge_core import MergePlan, write_merge
    from merge_core.kernels.threads import beside
    from search.errors import ConfigError
    from search.recipes import load_recipe

    loaded, notes = load_recipe(recipe)
    for note in notes:
        say(f"note: {note}")
    if out.exists():  # known before all sources are read
        raise ConfigError(f"{out}: exists already; name a new folder")
    plan = MergePlan(loaded)
    for line in plan.sources.report():
        say(line)
    say(plan.estimate().line())
    plan.sources.check_finite()
    # Hashing the sources takes as long as writing, which mostly waits for the disk.
    fingerprint = beside(plan.fingerprint)
    with bar("merging") as progress:
        write_merge(plan, out, progress=progress)
    say(f"wrote {out} ({fingerprint()})")


def confirmed_members(run: Run) -> list[Member]:
    """The confirmed members, with a note if the search has gone on since."""
    from search import confirm as confirming
    from search import study as studies

    members, then = confirming.load(run)
    now = len(studies.scored(studies.open_study(run, create=False)))
    if now != then:
        sys.stderr.write(
            f"note: confirmed after {then} trials, now there are {now}: "
            "`mergefront confirm` scores the new front\n"
        )
    return members
