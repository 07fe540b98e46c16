"""Plots of experiments: a panel a score, a line a series, an interval a point."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import cycle

from objectives import Estimate
from search.experiments.outcome import Value, plain
from search.figures.chart import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Axis,
    Chart,
    Dash,
    Line,
    Panel,
    Points,
    Series,
    Symbol,
    spanned,
)

_LOOKS: tuple[tuple[str, Symbol], ...] = (
    (BLUE, "circle"),
    (ORANGE, "square"),
    (GREEN, "diamond"),
    (PURPLE, "x"),
    ("#7a6a00", "triangle-open"),
    ("#56707f", "star"),
)
_APART = 0.012
"""Of the axis: how far series stand from each other, so that intervals do not hide each other."""


def chart_of(
    values: Sequence[Value],
    scores: Sequence[str],
    x: Axis,
    order: Sequence[str],
    *,
    references: Collection[str] = (),
    more: Sequence[Panel] = (),
) -> Chart:
    """A chart with a panel for each of `scores`.

    Args:
        values: what is drawn; `at` is a number, or one of the axis's names.
        scores: titles of the panels.
        x: the horizontal axis; its name is below every panel.
        order: the series, which have the same colours in all panels.
        references: series that are grey and dashed.
        more: panels that come first.
    """
    panels = [
        panel_of([v for v in values if v.score == score], score, x, order, references)
        for score in scores
    ]
    return Chart([*more, *panels], columns=2, height=270)


def panel_of(
    values: Sequence[Value],
    title: str,
    x: Axis,
    order: Sequence[str],
    references: Collection[str] = (),
    y: str = "mean score",
) -> Panel:
    """One panel; see `chart_of`."""
    looks = cycle(_LOOKS)
    grey: cycle[Symbol] = cycle(("circle-open", "triangle-open", "x", "star"))
    places = _places(values, x)
    found = [value.estimate for value in values]
    span = spanned([end for one in found for end in (one.low, one.value, one.high)])
    series: list[Series] = []
    shown = [name for name in order if any(value.series == name for value in values)]
    for name in order:
        color, symbol = (GREY, next(grey)) if name in references else next(looks)
        own = [value for value in values if value.series == name]
        if not own:
            continue
        shift = shown.index(name) - (len(shown) - 1) / 2
        at = [_shifted(places[value.at], shift, x, places) for value in own]
        y_values = [value.estimate.value for value in own]
        if not x.names:
            dash: Dash = "dash" if name in references else "solid"
            series.append(Line("", at, y_values, color=color, dash=dash, width=1.6))
        series.append(
            Points(
                name,
                at,
                y_values,
                [_told(value, x) for value in own],
                color=color,
                symbol=symbol,
                size=7.0,
                y_bars=_bars([value.estimate for value in own], span),
            )
        )
    return Panel(x, Axis(y, span=span), series, title=title)


def _places(values: Sequence[Value], x: Axis) -> dict[str, float]:
    if x.names:
        return {name: float(index) for index, name in enumerate(x.names)}
    return {value.at: float(value.at) for value in values}


def _shifted(place: float, steps: float, x: Axis, places: dict[str, float]) -> float:
    """Beside its place, by its turn among the series."""
    if x.names:
        return place + steps * 0.09
    low, high = min(places.values()), max(places.values())
    if x.log:
        return float(place * (high / low) ** (_APART * steps))
    return place + (high - low) * _APART * steps


def _told(value: Value, x: Axis) -> str:
    lines = [value.series, f"{x.title or value.score}: {value.at}", plain(value.estimate)]
    return "\n".join([*lines, value.how] if value.how else lines)


def _bars(estimates: Sequence[Estimate], span: tuple[float, float]) -> list[tuple[float, float]]:
    """Their intervals; what has no end runs to the panel's."""
    if all(one.low == one.high for one in estimates):
        return []
    return [(max(span[0], one.low), min(span[1], one.high)) for one in estimates]
