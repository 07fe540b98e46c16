"""The front, or all trials, as rows for other programs: CSV, and JSON of the same columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from objectives import Estimate
from search.confirm import Member
from search.confirmed import baseline_standing, broken, ordered, standing
from search.sketch import Points
from search.status import points_of
from search.view import BaselineView, RunView, TrialView


def rows(view: RunView, *, every: bool = False) -> list[dict[str, Any]]:
    """The rows: confirmed members if there are any, else the front and the baselines; or `every`
    trial and baseline.

    Each has the same columns, None where there is nothing: label, trial, state, standing, on_front,
    exported, feasible; for each objective NAME its claimed score (NAME, NAME_low, NAME_high,
    NAME_n) and its confirmed one (NAME_confirmed, ..._low, ..._high, ..._n); joint; tokens; worker;
    and every parameter. Of what is broken the scores are the references, of 0 items.
    """
    members = {member.label: member for member in view.members}
    trials = {f"trial {number}": trial for number, trial in view.trials.items()}
    labels: Iterable[str]
    if every:
        labels = [*trials, *view.baselines]
    elif members:
        labels = [member.label for member in ordered(view.run, view.members)]
    else:
        labels = [*(f"trial {number}" for number in view.front), *view.baselines]
    return [
        _row(view, label, trials.get(label) or view.baselines.get(label), members.get(label))
        for label in labels
    ]


def as_csv(table: list[dict[str, Any]]) -> str:
    """The rows as RFC 4180 has it but for line ends, with a line of names first."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if table:
        writer.writerow(table[0])
        writer.writerows(["" if v is None else _cell(v) for v in row.values()] for row in table)
    return file.getvalue()


def points(view: RunView) -> Points:
    """What a plot of the front shows: confirmed scores if there are any, else claimed ones."""
    search, chosen = view.search, view.chosen.trial if view.chosen else None
    if not view.members:
        own = {number: trial.values for number, trial in view.scored.items()}
        others = {label: baseline.values for label, baseline in view.able.items()}
        return points_of(search, own, view.front, others, chosen)

    def values(member: Member) -> list[float]:
        return [member.confirmed[o.name].value for o in search.objectives]

    trials = {m.trial: values(m) for m in view.members if m.trial is not None}
    front = [m.trial for m in view.members if m.trial is not None and m.on_front]
    others = {m.label: tuple(values(m)) for m in view.members if m.trial is None and not broken(m)}
    return points_of(search, trials, front, others, chosen)


def _row(
    view: RunView, label: str, own: TrialView | BaselineView | None, member: Member | None
) -> dict[str, Any]:
    trial = own if isinstance(own, TrialView) else None
    told = standing(member) if member else None
    if member is None and isinstance(own, BaselineView):
        told = baseline_standing(broken=own.broken, feasible=own.feasible)
    row: dict[str, Any] = {
        "label": label,
        "trial": trial.number if trial else member.trial if member else None,
        "state": trial.state if trial else "baseline",
        "standing": told,
        "on_front": (member.on_front if member else bool(trial and trial.on_front)),
        "exported": view.chosen is not None and view.chosen.label == label,
        "feasible": member.feasible if member else own.feasible if own else None,
    }
    rest: dict[str, Any] = {"joint": own.joint if own is not None else None}
    rest |= _confirmed("joint", member.joint if member else None)
    rest |= {"tokens": own.tokens if own is not None else None}
    rest |= {"worker": own.worker if own is not None else None}
    scores: dict[str, Any] = {}
    for index, objective in enumerate(view.search.objectives):
        name = objective.name
        value = own.values[index] if own is not None and own.values else None
        low, high, n = own.intervals.get(name, (None,) * 3) if own is not None else (None,) * 3
        scores |= {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_n": n}
        scores |= _confirmed(name, member.confirmed[name] if member else None)
    params = trial.params if trial else {}
    # An objective may be called `joint`, too: then that column is its own, wherever it stands.
    return (
        row
        | scores
        | rest
        | scores
        | {name: params.get(name) for name in view.search.space.distributions()}
    )


def _confirmed(name: str, told: Estimate | None) -> dict[str, Any]:
    values = (None,) * 4 if told is None else (told.value, told.low, told.high, told.n)
    keys = ("", "_low", "_high", "_n")
    return {f"{name}_confirmed{key}": v for key, v in zip(keys, values, strict=True)}


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
