"""What to do next with a run, and the commands that reproduce it and take its merge away."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from merge_core import Recipe
from merge_core.errors import MergeError, RecipeError
from merge_core.mergekit import to_mergekit
from merge_core.versions import spelled_versions, versions_of
from merge_core.yaml_io import dump_yaml, load_yaml
from search.comparison import Told
from search.config import parse
from search.console import HERE
from search.errors import USER_ERRORS
from search.live import Live
from search.narrow import FEWEST, at_ends
from search.report.headline import Standing
from search.results import Result
from search.study import CUT_SHORT
from search.view import RunView

WANTED = 0.05
"""A difference between two merges that is worth telling, as a share of a score's range."""
_WORTH_TELLING = 0.05
"""Share of answers that do not end by themselves from which the page says so."""
_VERSIONED = ("mergefront", "torch", "transformers", "vllm", "optuna", "ray", "mlflow")
"""Whose versions the page tells of itself."""


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        what: in a sentence.
        command: that does it; "" if there is none.
        lines: the cases, where there are several.
    """

    what: str
    command: str = ""
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Places:
    """How the run's files are typed by somebody in the folder of its search file.

    Attributes:
        root: that folder.
        run: the run's.
        log: the run's log.
        search: `mergefront run` with this very search, under the run's name, in its folder of
            runs. Where no file of the root holds it, a copy of the run's own stands before.
        again: what the last session was begun with; "" if that is not known.
    """

    root: str
    run: str
    log: str
    search: str
    again: str

    @classmethod
    def of(cls, view: RunView) -> Places:
        """Of a run."""
        root, folder = view.search.root, view.run.folder
        run = Path(os.path.relpath(folder, root))
        live = Live.read(folder)
        again = live.command if live is not None and live.command.split()[1:2] == ["run"] else ""
        file, there = _search_file(view, again)
        command = ["mergefront", "run", file]
        command += [] if Path(file).stem == view.name else ["--name", view.name]
        command += [] if run.parent == HERE else ["--runs", str(run.parent)]
        # Paths in it are relative to the root: from the run folder it would not open.
        copy = "" if there else f"{shlex.join(['cp', str(run / 'search.yaml'), file])} && "
        return cls(
            root=shlex.quote(str(root)),
            run=shlex.quote(str(run)),
            log=shlex.quote(str(run / "run.log")),
            search=copy + shlex.join(command),
            again=again,
        )


def _search_file(view: RunView, again: str) -> tuple[str, bool]:
    """A file of the root for the run's search, and whether it holds that already.

    What was typed with `--set`, `--freeze` or `--from` is in the run's copy alone, and so is what
    has been edited away since: a file that says anything else is no way to begin it again.
    """
    root = view.search.root
    typed = [Path(word).name for word in again.split()[2:] if word.endswith((".yaml", ".yml"))]
    for name in dict.fromkeys([*typed, f"{view.name}.yaml"]):
        if (root / name).is_file() and _same(view, root / name):
            return name, True
    others = (f"{view.name}-again{number}.yaml" for number in chain([""], count(2)))
    for name in chain([f"{view.name}.yaml"], others):
        if not (root / name).exists():
            return name, False
        if _same(view, root / name):
            return name, True
    raise AssertionError("there is always another number")


def _same(view: RunView, path: Path) -> bool:
    """Whether a file holds the run's search, whatever its comments and line breaks."""
    try:
        return parse(load_yaml(path)).text == view.search.text
    except USER_ERRORS:  # no search file any more
        return False


def advice(view: RunView, standing: Standing, told: Sequence[Told]) -> list[Advice]:
    """What to do next, most urgent first."""
    places = Places.of(view)
    found = []
    if standing.state == "failed":
        what = "Mend what it ended with; the run's log has more of it."
        found.append(Advice(what, f"less {places.log}"))
    if standing.state in ("stopped", "failed", "dead"):
        found.append(_on(places))
    if not view.scored and any(trial.state == "fault" for trial in view.trials.values()):
        what = "Every merge that was tried is broken: look at the models, or narrow the ranges."
        found.append(Advice(what))
    if view.front and not view.members and standing.state != "running":
        found.append(
            Advice("Score the front on held-out items.", f"mergefront confirm {places.run}")
        )
    if view.problem:
        found.append(
            Advice(
                "Search on, loosen the constraints, or take the nearest merge knowingly.",
                f"mergefront export {places.run} --best-effort --model merged",
            )
        )
    if view.chosen is not None:
        found.append(
            Advice(
                "Look at where the chosen merge differs from a baseline, item by item.",
                f"mergefront compare {places.run} {view.chosen.trial} {_other(view)}",
            )
            if view.baselines
            else Advice("Look at the front.", f"mergefront front {places.run}")
        )
    ends = at_ends(view.run)
    if ends:
        found.append(Advice("Widen these ranges, by hand, in the next search:", lines=ends))
    found += _items(told)
    found += _cut_short(view)
    if view.account.misjudged:
        found.append(
            Advice(
                f"Racing stopped {view.account.misjudged} of {view.account.audited} audited trials"
                " wrongly: raise racing.level."
            )
        )
    found += _parameters(view, places, ends)
    return found


def _on(places: Places) -> Advice:
    what = "Go on with the search where it stands"
    if places.again:
        return Advice(f"{what}: what was typed last, where it was typed.", places.again)
    return Advice(f"{what}, typed in {places.root}.", places.search)


def _other(view: RunView) -> str:
    first = view.search.objectives[0]
    allowed = {k: b for k, b in view.baselines.items() if b.feasible} or view.baselines
    label = max(allowed, key=lambda name: first.sign * allowed[name].values[0])
    return shlex.quote(label)


def _items(told: Sequence[Told]) -> list[Advice]:
    wanted = [
        f"{one.score}: about {one.items[WANTED]:,} (now {one.n:,})"
        for one in told
        if one.items[WANTED] > 1.5 * one.n
    ]
    if not wanted:
        return []
    apart = f"to tell merges apart that differ by {WANTED:.0%} of a score's range takes"
    what = f"Ask more dev items: {apart}"
    return [Advice(what, lines=wanted)]


def _cut_short(view: RunView) -> list[Advice]:
    """Answers of the chosen merge that did not end by themselves."""
    if view.chosen is None:
        return []
    path = view.run.held_out("confirm", view.chosen.fingerprint)
    if not path.is_file():
        return []
    result = Result.load(path)
    says = {
        "length": "were cut at max_tokens: if they are not loops, raise generate.max_tokens",
        "loop": "ended in a loop: look at them before you take it",
    }
    return [
        Advice(f"{share:.0%} of the chosen merge's answers {says[reason]}.")
        for reason in CUT_SHORT
        if (share := result.ended(reason)) >= _WORTH_TELLING
    ]


def _parameters(view: RunView, places: Places, ends: Sequence[str]) -> list[Advice]:
    """Freezing what does not matter, narrowing to where the good ones lie."""
    full = sum(
        trial.state in ("full", "taken") and trial.feasible for trial in view.trials.values()
    )
    if full < FEWEST:
        return []
    # What the front lies at an end of is to be widened, whatever chance could explain.
    pushed = " ".join(ends)
    idle = [one.name for one in view.importances if one.idle and _stem(one.name) not in pushed]
    command = f"mergefront narrow {places.run}"
    what = "Search on around the front: this writes a search file with narrower ranges"
    if not idle:
        return [Advice(f"{what}.", command)]
    frozen = " ".join(f"--freeze {shlex.quote(name)}" for name in idle)
    what += f", and holds what shows no effect at the chosen value ({', '.join(idle)})."
    return [Advice(what, f"{command} {frozen}")]


def _stem(name: str) -> str:
    """Of a parameter without its anchor: `language.weight[0]`, `language.weight`."""
    return name.partition("[")[0]


def commands(view: RunView, *, mergekit: bool) -> list[tuple[str, str]]:
    """(what for, command) to reproduce, confirm, look at and take away, typed in the root."""
    places = Places.of(view)
    found = [
        ("the folder of the search file", f"cd {places.root}"),
        ("this search again, from its beginning", f"{places.search} --new"),
        ("this page again", f"mergefront report {places.run}"),
    ]
    if view.front:
        found.append(("its front, as a table", f"mergefront front {places.run}"))
    if view.chosen is not None:
        command = f"mergefront export {places.run} --model merged"
        found.append(("the merged model, asked again, with its card", command))
        found.append(("the chosen recipe", f"mergefront export {places.run} -o recipe.yaml"))
        if mergekit:
            command = f"mergefront export {places.run} --mergekit -o mergekit.yaml"
            found.append(("the same for mergekit", command))
    elif view.front and not view.members:
        found.append(("confirm the front", f"mergefront confirm {places.run}"))
    return found


def recipes(view: RunView) -> tuple[str, str]:
    """The chosen recipe's YAML, and a sentence on why it is not for mergekit ("" if it is)."""
    if view.chosen is None:
        return "", ""
    recipe = Recipe.parse(view.chosen.recipe)
    try:
        to_mergekit(recipe.resolved(view.search.root))
    except RecipeError as error:
        why = str(error).partition("; use ")[0]  # what writes the checkpoint stands on the page
        return dump_yaml(recipe.plain()), f"Not for mergekit: {why}"
    except MergeError as error:  # the models are gone since, or cannot be read
        return dump_yaml(recipe.plain()), f"Whether mergekit can do it is not known here: {error}"
    return dump_yaml(recipe.plain()), ""


def versions(view: RunView) -> tuple[list[str], str]:
    """What the scores were made with, a line for each set of versions, and what writes the page."""
    kept = dict.fromkeys(spelled_versions(own.versions) for own in view.sessions)
    unknown = "not known: of a session whose version of mergefront kept none"
    return [line or unknown for line in kept], spelled_versions(versions_of(_VERSIONED))
