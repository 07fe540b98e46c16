"""How much each parameter matters for each objective, beside what chance makes of it."""

from __future__ import annotations

from search.figures.chart import BLUE, GREY, ORANGE, Axis, Bars, Chart, Panel, Points, Series
from search.figures.figure import Figure
from search.importance import FRONT
from search.view import RunView

MOST = 20
"""Parameters that have a row, the most important for the front first."""
_COLUMNS = 5  # objectives and the front


def importance(view: RunView) -> Figure | None:
    """A panel for each objective and one for the front; a row for each parameter."""
    found = view.importances
    if not found:
        return None
    shown = found[:MOST]
    names = Axis(names=tuple(one.name for one in shown))
    columns = [FRONT, *(name for name in shown[0].shares if name != FRONT)][:_COLUMNS]
    most = 1.08 * max(one.shares[c] for one in shown for c in columns) or 1.0
    panels = []
    for column in columns:
        series: list[Series] = []
        for what, matters in (("more than chance", True), ("no more than chance", False)):
            rows = [at for at, one in enumerate(shown) if one.matters(column) == matters]
            if rows:
                shares = [shown[at].shares[column] for at in rows]
                told = [f"{shown[at].name}: {shown[at].shares[column]:.1%}" for at in rows]
                color = BLUE if matters else GREY
                begin = [0.0] * len(rows)
                series.append(Bars(what, rows, begin, shares, told, color, not matters))
        noise = [min(most, one.noise[column]) for one in shown]
        told = [f"{one.name}: chance alone reaches {one.noise[column]:.1%}" for one in shown]
        series.append(
            Points("chance alone (1 in 20)", noise, range(len(shown)), told, ORANGE, "tick", 14)
        )
        title = "coming close to the front" if column == FRONT else column
        x = Axis("share of what can be explained", (0.0, most), percent=True)
        panels.append(Panel(x, names, series, title))
    rest = f" The {MOST} most important of {len(found)} are shown." if len(found) > MOST else ""
    caption = (
        "How different the values of a parameter are in the best fifth of the trials (PED-ANOVA). "
        "A bar that ends left of its mark says no more than chance does; a mark at the right edge "
        "lies there or beyond. Do not conclude that a parameter with a short bar has no effect: "
        "two that matter only together look idle, and so does one that the sampler hardly varied."
        + rest
    )
    columns_in_row = min(3, len(panels))
    chart = Chart(panels, columns_in_row, 90 + 24 * len(shown))
    return Figure("importance", f"{view.name}: which parameters matter", caption, chart)
