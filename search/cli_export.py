"""`mergefront export` and `mergefront merge`: recipes and checkpoints out of a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.console import RunFolder, bar, say, shown, writing

if TYPE_CHECKING:
    from merge_core import Recipe
    from search.model_card import Chosen

app = typer.Typer()

Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="load what was written, and ask it again")
]
PushTo = Annotated[
    str | None,
    typer.Option("--push", help="ORG/NAME: upload to the hub, private; needs HF_TOKEN"),
]
Public = Annotated[bool, typer.Option("--public", help="with --push: for all to read")]
Unverified = Annotated[
    bool,
    typer.Option(
        "--push-unverified",
        help="with --push: even with --no-verify, or where no answer was compared",
    ),
]
HubIds = Annotated[
    list[str] | None,
    typer.Option(
        "--hub-id", help="where a local model is on the hub: NAME=ORG/NAME, or ORG/NAME@REVISION"
    ),
]


@app.command()
def export(
    run: RunFolder,
    pick: Annotated[
        str, typer.Option(help="knee | best:OBJECTIVE | trial:N", show_default=True)
    ] = "knee",
    require: Annotated[
        list[str] | None,
        typer.Option(help="only members that hold this too, by their 95% bound: language>=0.9"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="recipe file; default: standard output")
    ] = None,
    mergekit: Annotated[bool, typer.Option("--mergekit", help="as mergekit's YAML")] = False,
    best_effort: Annotated[
        bool, typer.Option("--best-effort", help="even if no member holds the constraints")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="new folder: write the merged checkpoint, with its card")
    ] = None,
    verify: Verify = True,
    push: PushTo = None,
    public: Public = False,
    push_unverified: Unverified = False,
    hub_id: HubIds = None,
) -> None:
    """Write the recipe of a confirmed front member, or its merged checkpoint.

    Example: mergefront export runs/thai --pick best:reasoning -o recipe.yaml

    Example: mergefront export runs/thai --require 'language>=0.9' --model merged

    Example: mergefront export runs/thai --model merged --push my-org/thai-r1
    """
    import tempfile

    from merge_core import Recipe
    from search import confirm as confirming
    from search.confirmed import confirmed_members
    from search.errors import ConfigError
    from search.export import required, save_recipe, tested
    from search.model_card import Chosen
    from search.places import refuse_gone
    from search.run import Run

    if push is not None and model is None:
        raise ConfigError("--push sends a checkpoint: name its folder with --model")
    if model is None and (public or push_unverified or hub_id or not verify):
        raise ConfigError("--public, --push-unverified, --no-verify and --hub-id are for --model")
    if model is not None and model.exists():
        raise ConfigError(f"{model}: exists already; name a new folder")
    opened = Run.open(run)
    if out is not None:
        opened.refuse_own(out)
    members = confirmed_members(opened)
    for label, why in confirming.unconfirmed(opened).items():
        sys.stderr.write(f"note: {label} could not be confirmed and is left out: {why}\n")
    able = required(opened, members, require or ())
    picked = confirming.choose(opened.search, able, pick, best_effort=best_effort, more=require)
    chosen = next(member for member in members if member.label == picked.label)
    if chosen.feasible and not picked.feasible:
        raise ConfigError(f"{chosen.label} does not hold --require {' '.join(require or ())}")
    recipe = Recipe.parse(chosen.recipe)
    refuse_gone(opened, recipe, chosen.label)
    test = tested(opened, chosen)
    if out is not None:
        with writing(out):
            save_recipe(opened, chosen, out, mergekit=mergekit, test=test)
        say(f"wrote {chosen.label} to {shown(out)}")
    elif model is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.yaml"
            save_recipe(opened, chosen, path, mergekit=mergekit, test=test)
            sys.stdout.write(path.read_text(encoding="utf-8"))
    if model is not None:
        _write(
            recipe,
            model,
            Chosen(opened, chosen, members, pick, require or (), nearest=not picked.feasible),
            verify=verify,
            push=push,
            public=public,
            push_unverified=push_unverified,
            hub_id=hub_id,
        )


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="recipe file, ours or mergekit's")],
    out: Annotated[Path, typer.Argument(help="new folder for the merged checkpoint")],
    run: Annotated[
        Path | None,
        typer.Option(help="run that scored it, for its card; default: the recipe's own folder's"),
    ] = None,
    verify: Verify = True,
    push: PushTo = None,
    public: Public = False,
    push_unverified: Unverified = False,
    hub_id: HubIds = None,
) -> None:
    """Write the merged checkpoint of a recipe: weights, config, tokenizer, model card.

    Example: mergefront merge recipe.yaml merged-model

    Example: mergefront merge runs/thai/recipe.yaml merged-model
    """
    from merge_core import Recipe
    from search.places import gone, refuse_gone
    from search.recipes import load_recipe

    loaded, notes = load_recipe(recipe)
    for note in notes:
        say(f"note: {note}")
    chosen = _member_of(loaded, recipe, run)
    if chosen is not None and gone(chosen.run, loaded) is not None:
        loaded = Recipe.parse(chosen.member.recipe)  # the same merge, from where its models are now
        refuse_gone(chosen.run, loaded, chosen.member.label)
    _write(
        loaded,
        out,
        chosen,
        verify=verify,
        push=push,
        public=public,
        push_unverified=push_unverified,
        hub_id=hub_id,
    )


def _write(
    recipe: Recipe,
    out: Path,
    chosen: Chosen | None,
    *,
    verify: bool,
    push: str | None,
    public: bool,
    push_unverified: bool,
    hub_id: list[str] | None,
) -> None:
    """Write a checkpoint and say what became of it; push it if that is asked for."""
    from merge_core import MergePlan
    from merge_core.card import mergekit_lack
    from merge_core.parents import concerns, parents
    from search.errors import ConfigError, ExportError
    from search.publish import write_checkpoint
    from search.push import Push, public_texts

    if push is None and (public or push_unverified):
        raise ConfigError(f"--{'public' if public else 'push-unverified'} is for --push")
    if push is not None and not verify and not push_unverified:
        raise ConfigError(
            "--push sends what was verified: leave out --no-verify, or add --push-unverified"
        )
    if out.exists():  # known before all sources are read
        raise ConfigError(f"{out}: exists already; name a new folder")
    ids = _hub_ids(hub_id or [])
    hub = None if push is None else Push(push, public=public)
    plan = MergePlan(recipe)
    known = parents(plan, ids)
    for line in plan.sources.report():
        say(line)
    say(plan.estimate().line())
    lack = mergekit_lack(plan)
    if lack is not None:
        say(f"no mergekit_config.yml: {lack}")
    for line in [*concerns(known), *(hub.concerns(known) if hub is not None else ())]:
        say(f"warning: {line}")
    if hub is not None and chosen is None:
        say("warning: no answers are compared, for no run is named that scored this recipe")
    # What cannot be told to others is known before the merge.
    texts = {} if hub is None else public_texts(plan, ids)
    with bar("merging") as progress:
        written = write_checkpoint(
            plan,
            out,
            chosen=chosen,
            hub_ids=ids,
            name=push,
            verified=verify,
            asked=hub is not None and not push_unverified,
            progress=progress,
        )
    if written.verified is not None:
        say(f"verified: {written.verified.line()}")
    say(f"wrote {shown(out)} ({written.fingerprint})")
    if hub is not None:
        unasked = "" if written.verified is None else written.verified.unasked
        if unasked and not push_unverified:
            raise ExportError(
                f"{shown(out)} is not pushed, for no answers were compared ({unasked}): export "
                "it with --push-unverified, or send this folder all the same with "
                f"`{hub.typed(out, texts)}`"
            )
        address = hub.send(out, texts, written.fingerprint)
        say(f"pushed to {address} ({'public' if hub.public else 'private'})")


def _hub_ids(given: list[str]) -> Mapping[str, str]:
    from search.errors import ConfigError

    pairs = [text.partition("=") for text in given]
    for (name, sign, _), text in zip(pairs, given, strict=True):
        if not (name and sign):
            raise ConfigError(
                f"--hub-id {text}: write NAME=ORG/NAME, with base or an expert's name"
            )
    return {name: hub_id for name, _, hub_id in pairs}


def _member_of(recipe: Recipe, file: Path, folder: Path | None) -> Chosen | None:
    """The run's member that a recipe is; None where no run is named, and it is in none's folder.

    Raises:
        ExportError: the run that is named has not confirmed it.
    """
    from search import confirm as confirming
    from search.errors import ExportError
    from search.model_card import Chosen
    from search.places import references
    from search.run import Run

    own = file.parent if (file.parent / "run.json").is_file() else None
    place = folder or own
    if place is None:
        return None
    run = Run.open(place)
    if folder is None and not run.confirmed.is_file():
        return None
    members, _ = confirming.load(run)
    known = set(references(recipe)) <= run.digests.keys()
    fingerprint = run.fingerprint(recipe) if known else None
    same = recipe.plain()  # where a project was moved, the run does not know its places yet
    for member in members:
        if member.trial is not None and (
            member.fingerprint == fingerprint or member.recipe == same
        ):
            return Chosen(run, member, members)
    if folder is None:
        return None
    raise ExportError(
        f"{file}: is none of the members that run {run.name} confirmed; leave out --run, or "
        f"`mergefront export {folder} --model OUT`"
    )
