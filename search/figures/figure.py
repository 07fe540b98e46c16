"""A figure: what it shows, in two forms, with what to see in it and what not to conclude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search.figures.chart import Chart, number
from search.figures.interactive import drawn_plotly
from search.figures.picture import drawn_matplotlib
from search.view import BaselineView, RunView, TrialView

PARAMETERS = 14
"""That are told of a trial that is pointed at; of more, how many there are."""


@dataclass(frozen=True)
class Figure:
    """One figure of a run.

    Attributes:
        name: of its file: "front", "progress", ...
        title: of one line.
        caption: plain English: what to see in it, and what not to conclude.
        chart: what it shows.
    """

    name: str
    title: str
    caption: str
    chart: Chart

    def html(self) -> Any:
        """A plotly figure without title: `update_layout(template=...)` gives text and grid their
        colours; its background is clear, and names in it are text, not markup.
        """
        return drawn_plotly(self.chart)

    def png(self) -> Any:
        """A matplotlib figure, on white, with its title."""
        return drawn_matplotlib(self.chart, self.title)


def told(view: RunView, trial: TrialView | BaselineView) -> str:
    """What a trial or baseline tells when it is pointed at."""
    if isinstance(trial, BaselineView):
        lines = [f"baseline {trial.label}"]
    else:
        lines = [f"trial {trial.number} ({_STATES.get(trial.state, trial.state)})"]
    for objective, value in zip(view.search.objectives, trial.values, strict=True):
        low, high, n = trial.intervals.get(objective.name, (None, None, 0))
        span = "" if low is None else f" [{low:.3f}, {high:.3f}], {n} items"
        lines.append(f"{objective.name} {value:.3f}{span}")
    if isinstance(trial, BaselineView) and not trial.feasible:
        lines.append("misses a constraint")
    if isinstance(trial, TrialView):
        if trial.items is not None:
            lines.append(f"{trial.items[0]} of {trial.items[1]} items were asked")
        missed = [key for key, amount in trial.violations.items() if amount > 0.0]
        lines += [f"misses the constraint on {key}" for key in missed]
        lines += [f"{k} = {number(v)}" for k, v in list(trial.params.items())[:PARAMETERS]]
        if len(trial.params) > PARAMETERS:
            lines.append(f"and {len(trial.params) - PARAMETERS} parameters more")
    return "\n".join(lines)


def unit(hours: float) -> tuple[float, str]:
    """What hours are multiplied with so that so many read easily, and the unit's name."""
    if hours >= 2.0:
        return 1.0, "hours"
    return (60.0, "minutes") if hours >= 2.0 / 60 else (3600.0, "seconds")


def spread(numbers: list[int], most: int) -> list[int]:
    """At most `most` of some numbers, evenly over all of them."""
    if len(numbers) <= most:
        return numbers
    return [numbers[index * len(numbers) // most] for index in range(most)]


_STATES = {"full": "all items", "partial": "stopped early: an estimate", "taken": "taken over"}
