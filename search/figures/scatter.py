"""Trials as marks, shaded by when they came: what slices and retained shares have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from search.figures.chart import PURPLE, Points, Symbol
from search.view import RunView, TrialView


def scatter(
    view: RunView,
    what: str,
    symbol: Symbol,
    trials: Sequence[TrialView],
    place: Callable[[TrialView], float],
    told: Callable[[TrialView], str],
    index: int,
    size: float = 6.0,
) -> list[Points]:
    """The marks of `trials`, later ones in later colours; none of none.

    Args:
        view: the run.
        what: in the legend.
        symbol: of each mark.
        trials: which are drawn.
        place: of each along x.
        told: what x is, where a mark is pointed at.
        index: of the objective along y.
        size: of a mark, in pixels.
    """
    if not trials:
        return []
    name = view.search.objectives[index].name
    return [
        Points(
            what,
            [place(trial) for trial in trials],
            [trial.values[index] for trial in trials],
            [f"trial {t.number}\n{told(t)}\n{name} {t.values[index]:.3f}" for t in trials],
            PURPLE,
            symbol,
            size,
            0.8,
            [float(trial.number) for trial in trials],
        )
    ]
