"""The chosen merge against the baselines: what the first lines of the report say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from objectives import Estimate
from search.comparison import compare
from search.config import Objective
from search.confirm import Member
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
        baseline: the best one's label; None without baselines.
        theirs: its confirmed score.
        lacks: the best one's confirmed scores in the other objectives, by name.
        difference: ours less theirs, paired by item, with a 95% interval; None where it cannot be
            told.
        standing: whether ours is better, as far as the interval tells.
    """

    objective: Objective
    ours: Estimate
    claimed: Estimate
    test: Estimate | None
    baseline: str | None
    theirs: Estimate | None
    lacks: Mapping[str, Estimate]
    difference: Estimate | None
    standing: Standing


def against(view: RunView) -> list[Against]:
    """The chosen merge against the best baseline of each objective; [] if none is chosen."""
    chosen = view.chosen
    if chosen is None:
        return []
    others = [member for member in view.members if member.trial is None]
    found = []
    for objective in view.search.objectives:
        best = max(
            others, key=lambda m: objective.sign * m.confirmed[objective.name].value, default=None
        )
        difference = None if best is None else _difference(view, chosen, best, objective.name)
        found.append(
            Against(
                objective=objective,
                ours=chosen.confirmed[objective.name],
                claimed=chosen.claimed[objective.name],
                test=None if view.test is None else view.test.estimate(objective),
                baseline=None if best is None else best.label,
                theirs=None if best is None else best.confirmed[objective.name],
                lacks={}
                if best is None
                else {k: e for k, e in best.confirmed.items() if k != objective.name},
                difference=difference,
                standing=_standing(objective, difference),
            )
        )
    return found


def _difference(view: RunView, one: Member, other: Member, name: str) -> Estimate | None:
    try:
        _, rows, _ = compare(view.run, one.label, other.label, "confirm")
    except ConfigError:  # a baseline whose merge is broken has no items
        return None
    return next(row.difference for row in rows if row.score == name)


def _standing(objective: Objective, difference: Estimate | None) -> Standing:
    if difference is None:
        return "not compared"
    ends = sorted((objective.sign * difference.low, objective.sign * difference.high))
    if ends[0] > 0.0:
        return "better"
    return "worse" if ends[1] < 0.0 else "not told apart"


def ahead_of(view: RunView, member: Member) -> list[str]:
    """The baselines that are at least as good in everything, and better in something."""
    mine = member.point(view.search)
    return [
        m.label for m in view.members if m.trial is None and dominates(m.point(view.search), mine)
    ]
