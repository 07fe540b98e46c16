"""How far each trial is behind the front: one number, for whoever asks what good trials share."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.trial import FrozenTrial

from search import study as studies
from search.config import Search
from search.front import front, gains


def behind(trials: Mapping[int, FrozenTrial], search: Search) -> dict[int, float]:
    """By number: by how much some front member leads in every objective; 0 on the front.

    Each objective counts in shares of the spread of its values over the feasible trials. Trials
    that miss constraints or are faults come after all others. Estimates of stopped trials count
    as they are.
    """
    points = studies.points(trials, search)
    members = [points[number] for number in front(points)]
    found = {n: gains(t.values, search.objectives) for n, t in trials.items()}
    able = [point for n, point in found.items() if studies.feasible(trials[n])]
    spread = [max(gain) - min(gain) or 1.0 for gain in zip(*able, strict=True)]

    def lead(point: tuple[float, ...]) -> float:
        return max(
            (
                min((f - g) / s for f, g, s in zip(member, point, spread, strict=True))
                for member in members
            ),
            default=0.0,
        )

    leads = {n: max(0.0, lead(point)) for n, point in found.items() if studies.feasible(trials[n])}
    last = max(leads.values(), default=0.0)
    return {
        n: leads[n] if n in leads else last + 1.0 + sum(max(0.0, v) for v in t.constraints.values())
        for n, t in trials.items()
    }
