"""How the front grew: hypervolume and members over finished trials and over time."""

from __future__ import annotations

from collections.abc import Sequence

from search.amounts import many
from search.figures.chart import BLUE, GREY, ORANGE, Axis, Chart, Line, Panel, Points, spanned
from search.figures.figure import Figure, unit
from search.front import gains, hypervolume
from search.view import RunView


def progress(view: RunView) -> Figure | None:
    """Two curves over two axes each; the time axis has no gaps between sessions."""
    if not view.steps:
        return None
    single = len(view.search.objectives) == 1
    what = "best gain over the reference" if single else "hypervolume"
    finished = [float(step.finished) for step in view.steps]
    timed = [(view.clock.hours(step.at), step) for step in view.steps]
    per, name = unit(sum(session.seconds for session in view.sessions) / 3600.0)
    hours = [(per * at, step) for at, step in timed if at is not None]
    volumes, sizes = [s.volume for s in view.steps], [float(s.size) for s in view.steps]
    alone = hypervolume(
        [gains(b.values, view.search.objectives) for b in view.baselines.values() if b.feasible]
    )
    rows = [(what, volumes, [s.volume for _, s in hours])]
    if not single:
        rows.append(("members of the front", sizes, [float(s.size) for _, s in hours]))
    panels = []
    for title, by_trial, by_hour in rows:
        level = alone if title == what and view.baselines else None
        top = max([*by_trial, level or 0.0])
        y = Axis(title, (-0.03 * top, top * 1.08 or 1.0))
        panels.append(_panel(Axis("finished trials"), y, finished, by_trial, level, []))
        if hours:
            ends = [per * at for at in view.clock.before[1:]]
            axis = Axis(f"{name} of work (gaps between sessions left out)")
            panels.append(_panel(axis, y, [at for at, _ in hours], by_hour, level, ends))
    last = view.steps[-1]
    since = next(step.finished for step in view.steps if step.volume >= 0.99 * last.volume)
    caption = (
        f"{many(last.finished, 'trial')} came to {what} {last.volume:.4f}; 99% of it was there "
        f"after {since:,}. "
        "A flat end says that this sampler found no more in this space, not that there is no more "
        "to be found. "
    )
    if view.baselines:
        caption += "The dashed line is what the baselines alone come to. "
    caption += (
        "All of it is by the items that the search saw: confirmed values are lower as a rule."
    )
    columns = 2 if hours else 1
    return Figure("progress", f"{view.name}: progress", caption, Chart(panels, columns, 260))


def _panel(
    x: Axis,
    y: Axis,
    places: Sequence[float],
    values: Sequence[float],
    level: float | None,
    sessions: Sequence[float],
) -> Panel:
    """Steps: a value holds until the next trial has ended."""
    xs, ys = [places[0]], [values[0]]
    for place, value in zip(places[1:], values[1:], strict=True):
        if value != ys[-1]:
            xs += [place, place]
            ys += [ys[-1], value]
    series: list[Line | Points] = [
        Line("the search", [*xs, places[-1]], [*ys, ys[-1]], BLUE, width=2.0),
    ]
    low, high = spanned(places)
    low = min(low, 0.0) if sessions else low
    if level is not None:
        series.append(Line("the baselines alone", (low, high), (level, level), ORANGE, "dash", 1.5))
    assert y.span is not None
    series += [
        Line("a new session", (at, at), y.span, GREY, "dot", 1.2, text="a new session")
        for at in sessions
    ]
    return Panel(Axis(x.title, (low, high)), y, series)
