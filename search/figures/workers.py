"""What each worker did when: merging, generating, idle; sessions and faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from search.amounts import many, worker_order
from search.figures.chart import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Axis,
    Bars,
    Chart,
    Line,
    Panel,
    Points,
    Series,
)
from search.figures.figure import Figure, unit
from search.view import RunView, Work

MOST = 40
"""Workers that have a row."""
_HELD_OUT = " items"  # how the names of work on held-out items end


def workers(view: RunView) -> Figure | None:
    """A row for each worker; the time axis has no gaps between sessions."""
    work = [own for own in view.work if view.clock.hours(own.ended) is not None]
    lost = len(view.work) - len(work)
    names = sorted({own.worker for own in work}, key=worker_order)
    if not names:
        return None
    rows = {name: row for row, name in enumerate(names[:MOST])}
    hours = sum(session.seconds for session in view.sessions) / 3600.0
    per, name = unit(hours)
    shown = [own for own in _apart(view, work) if own.worker in rows]
    series: list[Series] = []
    for what, color, hatched, chosen in (
        ("merging", ORANGE, False, [(own, own.began, own.merged) for own in shown]),
        (
            "generating and scoring",
            BLUE,
            False,
            [(own, own.merged, own.ended) for own in shown if not own.what.endswith(_HELD_OUT)],
        ),
        (
            "generating on held-out items",
            GREEN,
            True,
            [(own, own.merged, own.ended) for own in shown if own.what.endswith(_HELD_OUT)],
        ),
    ):
        if chosen:
            series.append(
                Bars(
                    what,
                    [rows[own.worker] for own, _, _ in chosen],
                    [begin * per for _, begin, _ in chosen],
                    [end * per for _, _, end in chosen],
                    [f"{own.what} on {own.worker}\n{_took(own)}" for own, _, _ in chosen],
                    color,
                    hatched,
                )
            )
    ends = (-0.5, len(rows) - 0.5)
    series += [
        Line("a new session", (at * per,) * 2, ends, GREY, "dash", 1.5, text="a new session")
        for at in view.clock.before[1:]
    ]
    faults = _faults(view, rows, per)
    series += [faults] if faults is not None else []
    busy = view.account.busy
    caption = (
        f"{many(len(names), 'worker')} over {many(len(view.sessions), 'session')}. White gaps are "
        "idle time: starting, waiting for a proposal, or for the last of a stage"
        f"{'' if busy is None else f'; workers were busy {busy:.0%} of their time'}. "
        "Ends are when the driver had the result, so a gap of a second or two says nothing. Drag "
        "over a part of the page's figure to see single merges."
    )
    if len(names) > MOST:
        caption += f" The first {MOST} workers are shown."
    if lost:
        caption += f" {many(lost, 'merge')} fell in no session by the times of their files."
    axis = Axis(f"{name} of work (gaps between sessions left out)", (0.0, hours * per * 1.01))
    panel = Panel(axis, Axis(names=tuple(rows)), series)
    chart = Chart([panel], 1, 90 + 26 * len(rows))
    return Figure("workers", f"{view.name}: what the workers did", caption, chart)


def _apart(view: RunView, work: Sequence[Work]) -> list[Work]:
    """The same in hours of the run; no worker does two things at once.

    An earlier try counts to the seconds of the last one, so that a beginning may be too early.
    """
    clock, free, found = view.clock, dict[str, float](), []
    for own in sorted(work, key=lambda one: one.ended):
        end = clock.hours(own.ended)
        assert end is not None
        # A session's first hour: what began before it (by the seconds) began with it.
        start = max(b for b in clock.before if b <= end)
        begin = max(end - (own.ended - own.began) / 3600.0, start, free.get(own.worker, 0.0))
        merged = min(end, max(begin, end - (own.ended - own.merged) / 3600.0))
        free[own.worker] = end
        found.append(replace(own, began=begin, merged=merged, ended=end))
    return found


def _faults(view: RunView, rows: dict[str, int], per: float) -> Points | None:
    """What went wrong with a worker, where and when."""
    found: list[tuple[float, int, str]] = []
    for fault in view.incidents:
        worker = fault.get("where", "").rsplit(" ", 1)[-1]
        at = view.clock.hours(datetime.fromisoformat(fault["at"]).timestamp())
        if worker in rows and at is not None:
            told = f"{fault['kind']}, {fault['where']}\n{fault['message'][:120]}"
            found.append((at * per, rows[worker], told))
    if not found:
        return None
    xs, ys, texts = zip(*found, strict=True)
    return Points("a fault", xs, ys, texts, PURPLE, "x", 11)


def _took(own: Work) -> str:
    merge, rest = own.merged - own.began, own.ended - own.merged
    return f"merging {3600 * merge:.1f} s, then {3600 * rest:.1f} s"
