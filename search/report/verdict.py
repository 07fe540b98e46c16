"""The chosen merge against the baselines: what the first lines of the report say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from objectives import Estimate
from search.comparison import Row, compare
from search.config import Objective
from search.confirm import Member
from search.confirmed import broken
from search.errors import ConfigError
from search.front import dominates
from search.view import RunView

Standing = Literal["better", "worse", "not told apart", "not compared"]


@dataclass(frozen=True)
class Against:
    """One objective of the chosen merge, and the baseline that is best at it.

    Attributes:
        objective: which.
        ours: confirmed, with the interval that holds for all members at once.
        claimed: on the dev items.
        test: on the test items, scored once; None if it was not.
        baseline: the best one's label, of those that hold the constraints if any does; None
            without baselines.
        holds: whether it holds the constraints, and could be scored.
        theirs: its confirmed score; None if its merge is broken.
        lacks: the best one's confirmed scores in the other objectives, by name.
        difference: ours less theirs, paired by item, with a 95% interval; None where it cannot be
            told.
        standing: whether ours is better, as far as the interval tells.
        why: it is not compared; "" if it is, or there is no baseline.
    """

    objective: Objective
    ours: Estimate
    claimed: Estimate
    test: Estimate | None
    baseline: str | None
    holds: bool
    theirs: Estimate | None
    lacks: Mapping[str, Estimate]
    difference: Estimate | None
    standing: Standing
    why: str


def against(view: RunView) -> list[Against]:
    """The chosen merge against the best baseline of each objective; [] if none is chosen."""
    chosen = view.chosen
    if chosen is None:
        return []
    others = baselines(view)
    # Against one that is not allowed nothing is won or lost.
    others = [member for member in others if member.feasible] or others
    rows: dict[str, Sequence[Row]] = {}
    found = []
    for objective in view.search.objectives:
        best = max(
            others, key=lambda m: objective.sign * m.confirmed[objective.name].value, default=None
        )
        if best is not None and best.label not in rows:
            rows[best.label] = _rows(view, chosen, best)
        told = [] if best is None else rows[best.label]
        failed = best is not None and broken(best)
        difference = next((row.difference for row in told if row.score == objective.name), None)
        found.append(
            Against(
                objective=objective,
                ours=chosen.confirmed[objective.name],
                claimed=chosen.claimed[objective.name],
                test=None if view.test is None else view.test.estimate(objective),
                baseline=None if best is None else best.label,
                holds=best is None or best.feasible,
                theirs=None if best is None or failed else best.confirmed[objective.name],
                lacks={}
                if best is None or failed
                else {k: e for k, e in best.confirmed.items() if k != objective.name},
                difference=difference,
                standing=_standing(objective, difference),
                why=_why(objective, failed) if best is not None and difference is None else "",
            )
        )
    return found


def baselines(view: RunView) -> list[Member]:
    """The confirmed members that are no trials."""
    return [member for member in view.members if member.trial is None]


def _why(objective: Objective, failed: bool) -> str:
    """What keeps it from being compared."""
    if failed:
        return "its merge is broken and could not be scored"
    if not all(math.isfinite(bound) for m in objective.measures for bound in m.range):
        return "a score without bounds has no interval of a difference"
    return "answers are gone from the run folder"


def _rows(view: RunView, one: Member, other: Member) -> Sequence[Row]:
    try:
        return compare(view.run, one.label, other.label, "confirm")[1]
    except ConfigError:  # a baseline whose merge is broken has no items
        return []


def _standing(objective: Objective, difference: Estimate | None) -> Standing:
    if difference is None:
        return "not compared"
    ends = sorted((objective.sign * difference.low, objective.sign * difference.high))
    if ends[0] > 0.0:
        return "better"
    return "worse" if ends[1] < 0.0 else "not told apart"


def ahead_of(view: RunView, member: Member) -> list[str]:
    """The baselines that are at least as good in everything, better in something, and allowed."""
    mine = member.point(view.search)
    return [
        m.label for m in baselines(view) if m.feasible and dominates(m.point(view.search), mine)
    ]
