"""Confirmation: the front and the baselines again, on items that the search never saw.

The front that a search reports is optimistic (the winner's curse: each member was chosen because
its dev score was high). So at most `confirm.max` trials - the front's, and if it has fewer those
just behind it, which only bad luck may have put there - and all baselines are scored on the confirm
items, with intervals that hold simultaneously, and the front is computed anew from those.
The one recipe that is exported is scored once more, on the test items: the headline number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from merge_core import Recipe
from merge_core.errors import MergeError
from merge_core.yaml_io import write_atomic
from objectives import Estimate
from objectives.statistics import simultaneous
from search import study as studies
from search.baselines import baselines
from search.config import Search
from search.errors import ExportError, RunError, WorkerError
from search.front import Point, dominates, front, gains, knee, worth_confirming
from search.held_out import note, score_what_can
from search.places import placed
from search.results import Result, finite, is_result_of, joint, read_estimate
from search.run import Run

if TYPE_CHECKING:
    from search.pool import Pool

LEVEL = 0.95


@dataclass(frozen=True)
class Member:
    """A trial or baseline with what was claimed of it and what was confirmed.

    Attributes:
        label: "trial 12", or the baseline's.
        trial: the trial's number; None for baselines.
        fingerprint: names its confirmed result.
        recipe: its YAML data; a trial's with the places where its models are now.
        claimed: dev estimate by objective.
        confirmed: held-out estimate by objective.
        joint: held-out share of answers that are right and in the language, if tasks tell both.
            All intervals of `confirmed` and `joint` hold simultaneously over all members.
        feasible: every constraint holds by its one-sided 95% confirmed bound.
        violation: by how much the confirmed means miss the constraints, in all.
        on_front: not dominated by any confirmed member (baselines are never on the front).
        behind: the confirmed trial that dominates it most clearly, where one does.
        equal_to: the one on the front that has exactly its confirmed scores: of equal ones the
            first stays there.
        near: it was not on the claimed front, but just behind it.
    """

    label: str
    trial: int | None
    fingerprint: str
    recipe: dict[str, object]
    claimed: dict[str, Estimate]
    confirmed: dict[str, Estimate]
    joint: Estimate | None
    feasible: bool
    violation: float = 0.0
    on_front: bool = False
    behind: str | None = None
    near: bool = False
    equal_to: str | None = None

    def point(self, search: Search) -> Point:
        """Its confirmed gains."""
        return gains([self.confirmed[o.name].value for o in search.objectives], search.objectives)


def confirm(
    run: Run,
    study: optuna.Study,
    pool: Pool,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Member]:
    """Score the front and the baselines on the confirm items and write `confirmed.json`.

    Where the front leaves places, the trials just behind it are scored too. Results that are
    there already (by fingerprint) are not made again. What could not be scored is left out with a
    note, and tried again by the next confirmation.

    Raises:
        RunError: the search has no front yet.
        WorkerError: no trial could be scored.
    """
    search = run.search
    trials = studies.scored(study)
    on_front = studies.current_front(study, search)
    chosen = candidates(run, study)
    recipes: dict[str, Recipe] = {}
    claimed: dict[str, Result] = {}
    for number in chosen:
        recipe = studies.recipe_of(trials[number], search)
        assert recipe is not None, f"trial {number} has no recipe"
        recipes[f"trial {number}"] = placed(search, recipe)
        claimed[f"trial {number}"] = Result.load(run.trial(number))
    for label, recipe in baselines(search).items():
        if is_result_of(run.baseline(label), run.fingerprint(recipe)):
            recipes[label] = recipe
            claimed[label] = Result.load(run.baseline(label))
    results, failed = score_what_can(run, study, pool, recipes, "confirm", progress)
    note(failed)
    if not any(label.startswith("trial ") for label in results):
        label, error = next((n, e) for n, e in failed.items() if n.startswith("trial "))
        raise WorkerError(f"{run.folder}: no trial could be confirmed; {label}: {error}")
    members = [
        replace(member, near=member.trial is not None and member.trial not in on_front)
        for member in members_of(search, recipes, claimed, results)
    ]
    save(run, members, finished=len(trials), failed=failed)
    return members


def candidates(run: Run, study: optuna.Study) -> list[int]:
    """The trials that are worth confirming.

    Raises:
        RunError: the search has no front yet.
    """
    trials = studies.scored(study)
    points = studies.points(trials, run.search)
    if not points:
        raise RunError(
            f"{run.folder}: no trial holds all constraints yet: nothing to confirm"
            if trials
            else f"{run.folder}: no trial has finished yet: nothing to confirm"
        )
    return worth_confirming(points, run.search.file.confirm.max)


def members_of(
    search: Search,
    recipes: dict[str, Recipe],
    claimed: dict[str, Result],
    results: dict[str, Result],
) -> list[Member]:
    """Members with intervals that all hold at once, and the front among the trials."""
    told = len(search.objectives) + any(joint(result) is not None for result in results.values())
    level = simultaneous(LEVEL, len(results) * told)
    members = [
        Member(
            label=label,
            trial=int(label.split()[1]) if label.startswith("trial ") else None,
            fingerprint=result.fingerprint,
            recipe=recipes[label].plain(),
            claimed={o.name: claimed[label].estimate(o) for o in search.objectives},
            confirmed={o.name: result.estimate(o, level, exact=True) for o in search.objectives},
            joint=joint(result, level, exact=True),
            feasible=all(result.holds(c, confirmed=True) for c in search.constraints)
            and result.fault is None,
            violation=sum(
                max(0.0, c.violation(result.estimate(c).value)) for c in search.constraints
            ),
        )
        for label, result in results.items()
    ]
    points = {m.label: m.point(search) for m in members if m.trial is not None}
    candidates = {m.label: points[m.label] for m in members if m.label in points and m.feasible}
    kept = front(candidates)
    return [
        replace(m, on_front=True)
        if m.label in kept
        else replace(
            m,
            behind=_behind(points[m.label], candidates),
            equal_to=next((k for k in kept if candidates[k] == points[m.label]), None),
        )
        if m.label in points
        else m
        for m in members
    ]


def _behind(mine: Point, candidates: dict[str, Point]) -> str | None:
    """Which of the points that dominate one does so most clearly, in all objectives at once."""
    ahead = {
        other: min(theirs - own for theirs, own in zip(point, mine, strict=True))
        for other, point in candidates.items()
        if dominates(point, mine)
    }
    return max(ahead, key=lambda other: ahead[other]) if ahead else None


def choose(
    search: Search,
    members: list[Member],
    pick: str = "knee",
    *,
    best_effort: bool = False,
    more: Sequence[str] | None = None,
) -> Member:
    """The member to export.

    Args:
        search: for objectives and constraints.
        members: confirmed.
        pick: "knee" (balanced), "best:OBJECTIVE", or "trial:N".
        best_effort: take one that does not hold the constraints if none does.
        more: bounds that make members infeasible besides the constraints, for messages.

    Raises:
        ExportError: nothing is confirmed or qualifies, or `pick` names nothing that is confirmed.
    """
    # In trial order, so that of equal members the lowest number is taken.
    trials = {
        m.label: m for m in sorted(members, key=lambda m: m.trial or 0) if m.trial is not None
    }
    if not trials:
        raise ExportError("no trial is confirmed yet: `mergefront confirm RUN`")
    able = {label: m for label, m in trials.items() if m.feasible}
    if pick.startswith("trial:"):
        label = f"trial {pick.removeprefix('trial:')}"
        if label not in trials:
            known = ", ".join(label.replace(" ", ":") for label in trials)
            raise ExportError(f"--pick {pick}: not among the confirmed members ({known})")
        if not best_effort and not trials[label].feasible:
            missed = _bounds(search, more)
            raise ExportError(f"{label} does not hold {missed}; --best-effort takes it")
        return trials[label]
    names = [objective.name for objective in search.objectives]
    kind, _, name = pick.partition(":")
    if pick != "knee" and (kind != "best" or name not in names):
        options = ", ".join(["knee", *(f"best:{n}" for n in names), "trial:N"])
        raise ExportError(f"--pick {pick}: choose one of {options}")
    if not able:
        if not best_effort:
            raise ExportError(
                f"no confirmed member holds {_bounds(search, more)}; "
                "search on, or take the nearest with --best-effort"
            )
        return min(trials.values(), key=lambda member: member.violation)
    points = {label: member.point(search) for label, member in able.items()}
    points = {label: points[label] for label in points if label in front(points)}
    if pick == "knee":
        return able[knee(points)]
    index = names.index(name)
    return able[max(points, key=lambda label: points[label][index])]


def _bounds(search: Search, more: Sequence[str] | None) -> str:
    bounds = ", ".join([*map(str, search.constraints), *(more or ())])
    return f"{bounds} with 95% confidence" if bounds else "finite weights"


def save(
    run: Run, members: list[Member], finished: int, failed: Mapping[str, str] | None = None
) -> None:
    """Write what was confirmed, atomically.

    Args:
        run: whose.
        members: the confirmed ones.
        finished: after how many trials.
        failed: why others could not be confirmed, by label.
    """
    data: dict[str, object] = {
        "finished": finished,
        "failed": dict(failed or {}),
        "members": [asdict(member) for member in members],
    }
    text = json.dumps(finite(data), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(run.confirmed, text + "\n")


def load(run: Run) -> tuple[list[Member], int]:
    """The confirmed members of a run, and after how many trials they were confirmed.

    Raises:
        RunError: nothing is confirmed yet, or the file is damaged.
    """
    names = {objective.name for objective in run.search.objectives}
    with _reading(run) as data:
        return [_member(row, names, run.search) for row in data["members"]], int(data["finished"])


def unconfirmed(run: Run) -> dict[str, str]:
    """Why merges could not be confirmed that the last confirmation tried, by label.

    Raises:
        RunError: see `load`.
    """
    with _reading(run) as data:
        return {str(label): str(why) for label, why in data.get("failed", {}).items()}


@contextmanager
def _reading(run: Run) -> Iterator[Any]:
    """What `save` wrote; RunError if it cannot be read, or the block finds it damaged."""
    if not run.confirmed.is_file():
        raise RunError(
            f"{run.folder}: its front is not confirmed yet: `mergefront confirm {_short(run)}`"
        )
    try:
        yield json.loads(run.confirmed.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MergeError) as error:
        raise RunError(
            f"{run.confirmed}: cannot be read; delete it and `mergefront confirm {_short(run)}`"
        ) from error


def _member(row: dict[str, Any], objectives: set[str], search: Search) -> Member:
    """A member as it was written.

    Raises:
        ValueError, KeyError, TypeError, MergeError: it is damaged.
    """

    def estimates(data: Any) -> dict[str, Estimate]:
        if not isinstance(data, dict) or data.keys() != objectives:
            raise ValueError("not the search's objectives")
        return {name: read_estimate(value) for name, value in data.items()}

    recipe = Recipe.parse(row["recipe"])
    both = row["joint"]
    return Member(
        **{
            **row,
            "recipe": (recipe if row["trial"] is None else placed(search, recipe)).plain(),
            "claimed": estimates(row["claimed"]),
            "confirmed": estimates(row["confirmed"]),
            "joint": read_estimate(both) if isinstance(both, dict) else None,
        }
    )


def _short(run: Run) -> Path:
    """The run's folder as the user would type it."""
    here = Path.cwd()
    return run.folder.relative_to(here) if run.folder.is_relative_to(here) else run.folder
