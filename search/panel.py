"""A run's status as terminals show it: facts, workers, and the front as a small plot.

It fits itself to the columns and lines that there are: the plot goes first where room is short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from merge_core.yaml_io import one_line
from search.amounts import lasting, many, worker_order
from search.budget import until
from search.errors import USER_ERRORS
from search.live import Doing
from search.run import Run
from search.sketch import LEAST_HEIGHT, sketch
from search.status import Seen, Status, look, state_line

_LABEL = 9  # columns of what stands before the facts
_LEAST_VALUE = 10  # columns of the facts themselves
_LEAST_WIDTH = _LABEL + _LEAST_VALUE
_BESIDE = 104  # columns from which the plot stands beside the facts
_MOST_WORKERS = 12
_MOST_LINES = 30
_MOST_NAMED = 24  # running trials
_FEW_LINES = 24  # below, several facts share a line
_GOOD_HEIGHT = 10  # of the plot, where there is room for it and for workers
_DUMB = ("dumb", "linux", "vt100", "vt102", "vt220", "unknown")
"""Values of TERM whose screens have no braille, whatever the encoding."""


class Panel:
    """A status that draws itself.

    Args:
        status: what is shown; its times go on from when it was made.
        lines: at most so many; None as many as the terminal has, and 30.
        plot: whether the front is drawn.
    """

    def __init__(self, status: Status, lines: int | None = None, *, plot: bool = True) -> None:
        self._status = status
        self._lines = lines
        self._plot = plot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = time.time() if self._status.state == "running" else self._status.at
        most = self._lines if self._lines is not None else min(_MOST_LINES, console.height - 2)
        plain = is_plain(console)
        width = options.max_width
        beside = width >= _BESIDE and self._plot
        left = width * 9 // 20 if beside else width
        head = _title(self._status, time.time(), width, plain=plain)
        if width < _LEAST_WIDTH:  # words would be broken over more lines than there are
            yield head
            return
        rows = facts(self._status, plain=plain)
        if most < _FEW_LINES and not beside:
            rows = _fewer(rows)
        told = [line for row in rows for line in wrapped(console, *row, left)]
        room = max(1, most - 1 - len(told))
        if not beside and self._plot and room > LEAST_HEIGHT:
            # The plot needs its lines; few workers leave more to it.
            room = max(1, room - _GOOD_HEIGHT)
        told += workers(self._status, left, min(_MOST_WORKERS, room), now)
        told = told[: max(1, most - 1)]
        points = self._status.points if self._plot else None
        if points is None:
            yield Group(head, *told)
        elif beside:
            height = min(most - 1, max(len(told), 24))
            drawn = sketch(points, min(5 * height, width - left - 3), height, plain=plain)
            row = Table.grid(padding=(0, 3, 0, 0))
            row.add_column(width=left)
            row.add_column()
            row.add_row(Group(*told), drawn or "")
            yield Group(head, row)
        else:
            drawn = sketch(points, width, min(16, most - 1 - len(told)), plain=plain)
            yield Group(head, *told, *([drawn] if drawn is not None else []))


class Guarded:
    """What is drawn again and again while something else goes on, and must not end that.

    Args:
        what: is drawn; after an error in that, nothing.
        failed: takes the error.
    """

    def __init__(self, what: RenderableType, failed: Callable[[Exception], None]) -> None:
        self._what = what
        self._failed = failed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        try:
            drawn = list(console.render(self._what, options))
        except Exception as error:  # noqa: BLE001 (whatever it is, the search goes on)
            self._failed(error)
            return
        yield from drawn


def is_plain(console: Console) -> bool:
    """Whether a console has to do with ASCII."""
    term = (console._environ.get("TERM") or "").strip().lower()
    return console.options.ascii_only or (console.is_terminal and term in _DUMB)


def facts(status: Status, *, plain: bool = False, bars: bool = True) -> list[tuple[str, Text]]:
    """What is known of a run, by label; with bars of what is done, or in words alone."""
    limits, outlook = status.search.file.budget, status.outlook
    of = f" of {limits.trials:,}" if limits.trials else ""
    trials = Text(f"{status.finished:,}{of}", style="bold")
    if limits.trials and bars:
        trials.append("  ").append_text(_bar(status.finished / limits.trials, 20, plain=plain))
        trials.append(f" {min(1.0, status.finished / limits.trials):.0%}", style="not bold")
    elif not limits.trials:
        trials.append(f", until {until(limits)}", style="not bold")
    rows = [("trials", trials)]
    if status.confirming is not None:
        done, total = status.confirming
        line = Text(f"{done} of {total} merges on held-out items")
        if bars and total:
            line.append("  ").append_text(_bar(done / total, 20, plain=plain))
        rows.append(("confirmed", line))
    rate = []
    if outlook.trials_per_hour is not None:
        rate.append(f"{outlook.trials_per_hour:,.{0 if outlook.trials_per_hour >= 10 else 1}f}/h")
    if outlook.tokens_per_second is not None:
        rate.append(f"{outlook.tokens_per_second:,.0f} tokens/s")
    if rate:
        rows.append(("rate", Text(", ".join(rate))))
    if outlook.left is not None:
        by = f", then budget.{outlook.limit} ends it"
        rows.append(("left", Text("about ").append(lasting(outlook.left), "bold").append(by)))
    if outlook.cost is not None:
        more = "" if outlook.projected is None else f", about {outlook.projected:,.2f} at the end"
        rows.append(("cost", Text(f"{outlook.cost:,.2f} so far{more}")))
    size = many(len(status.front), "trial")
    front = f"{size}, hypervolume {status.volume:.4f}" if status.front else "none yet"
    rows.append(("front", Text(front)))
    if status.best:
        best = Text()
        for name, (value, number) in status.best.items():
            best.append("; " if best.plain else "").append(f"{name} ")
            best.append(f"{value:.3f}", "bold").append(f" (#{number})")
        rows.append(("best", best))
    faults = [many(status.failed, "trial") + " failed"] if status.failed else []
    faults += [f"{count} x {kind}" for kind, count in status.faults.items()]
    if faults:
        rows.append(("faults", Text(", ".join(faults), style="red")))
    return rows


def _fewer(rows: list[tuple[str, Text]]) -> list[tuple[str, Text]]:
    """The same facts on fewer lines."""
    found = dict(rows)
    for label, more, what in (
        ("left", "rate", "; "),
        ("left", "cost", "; cost "),
        ("front", "best", "; best "),
    ):
        if label in found and more in found:
            joined = Text().append_text(found[label]).append(what).append_text(found.pop(more))
            found[label] = joined
    return list(found.items())


def workers(status: Status, width: int, most: int, now: float) -> list[Text]:
    """A line a worker: what it does, for how long, how far it is; `most` lines at most."""
    if not status.workers or most < 1:
        return []
    names = sorted(status.workers, key=worker_order)
    if len(names) > most:
        names = names[: most - 1]
    column = max(len(name) for name in names) if names else 0
    lines = []
    for name in names:
        doing = status.workers[name]
        took = lasting(doing.seconds + max(0.0, now - status.at))
        done = ""
        if doing.done:
            searched = status.items and doing.job.startswith(("trial", "baseline"))
            done = f"{doing.done}/{status.items}" if searched else f"{doing.done} done"
        told = [doing.job, doing.what or ("sent" if doing.job else ""), done, took]
        what = ", ".join(filter(None, told))
        line = Text.assemble((f"{name:<{max(column, _LABEL - 1)}} ", "dim"), what)
        line.truncate(width, overflow="ellipsis" if width > 20 else "crop")
        lines.append(line)
    rest = {n: d for n, d in status.workers.items() if n not in names}
    if rest:
        more = f"and {many(len(rest), 'worker')} more" if names else many(len(rest), "worker")
        lines.append(Text(f"{'':<{_LABEL}}{more}: {_summed(rest)}"))
    return lines


def _summed(rest: Mapping[str, Doing]) -> str:
    busy = sum(bool(doing.job) for doing in rest.values())
    return f"{busy} at work" + (f", {len(rest) - busy} not" if busy < len(rest) else "")


def _title(status: Status, now: float, width: int, *, plain: bool) -> Text:
    """A rule with the run's name and state on it."""
    dash = "-" if plain else "─"
    told = state_line(status, now)
    line = Text.assemble((dash * 2 + " ", "dim"), (status.name, "bold"), f": {told} ")
    line.append(dash * max(0, width - line.cell_len), "dim")
    line.truncate(width)
    return line


def wrapped(
    console: Console, label: str, value: Text, width: int, column: int = _LABEL
) -> list[Text]:
    """A fact over as many lines as it takes, its label before the first."""
    lines = value.wrap(console, max(_LEAST_VALUE, width - column))
    return [
        Text.assemble((f"{label if i == 0 else '':<{column}}", "dim"), line)
        for i, line in enumerate(lines)
    ]


def _bar(share: float, width: int, *, plain: bool) -> Text:
    done = round(min(1.0, max(0.0, share)) * width)
    full, empty = ("#", "-") if plain else ("━", "━")
    return Text(full * done, style="green").append(empty * (width - done), "dim not bold")


def status_lines(seen: Seen, now: float | None = None) -> list[str]:
    """What was seen of a run, a fact a line, without a plot."""
    now = time.time() if now is None else now
    status = seen.status
    rows = [("run", str(status.folder)), ("state", state_line(status, now))]
    if status.why and status.why not in rows[-1][1]:
        rows.append(("driver", status.why))
    told = {label: text.plain for label, text in facts(status, bars=False)}
    rows.append(("finished", told.pop("trials")))
    told.pop("faults", None)  # the account has them
    rows += told.items()
    rows += beside(seen, now)
    if status.workers:
        lines = [line.plain for line in workers(status, 200, len(status.workers), now)]
        rows += [("worker", line) for line in lines]
    rows += [("next", line) for line in seen.next]
    return [f"{what:<11} {value}" for what, value in rows]


def beside(seen: Seen, now: float) -> list[tuple[str, str]]:
    """What the panel has no room for: when the last trial ended, and what all of it took."""
    rows = []
    if seen.status.last is not None:
        rows.append(("last trial", f"{lasting(now - seen.status.last)} ago"))
    if seen.view is not None:
        if numbers := [n for n, trial in seen.view.trials.items() if trial.state == "running"]:
            names = ", ".join(map(str, numbers[:_MOST_NAMED]))
            more = ", ..." if len(numbers) > _MOST_NAMED else ""
            label = "running" if seen.status.state == "running" else "unfinished"
            rows.append((label, f"{many(len(numbers), 'trial')}: {names}{more}"))
        rows.append(("confirmed", "yes" if seen.view.members else "no"))
        rows += seen.view.account.rows().items()
    return rows


def runs_table(places: Sequence[Path], now: float) -> Table:
    """Runs of one folder, the one that was worked on last first."""
    found = []
    for place in places:
        try:
            seen = look(Run.open(place), now)
            found.append((seen.status.at, _run_row(seen.status, now)))
        except USER_ERRORS as error:
            found.append((0.0, [place.name, one_line(error), "", "", "", "", ""]))
    heads = ("run", "state", "trials", "front", "hypervolume", "left", "cost")
    table = Table(*heads, title=f"runs in {places[0].parent}", title_justify="left")
    for _, row in sorted(found, key=lambda entry: -entry[0]):
        table.add_row(*map(escape, row))
    return table


def _run_row(status: Status, now: float) -> list[str]:
    most, outlook = status.search.file.budget.trials, status.outlook
    return [
        status.name,
        state_line(status, now),
        f"{status.finished:,}{f' of {most:,}' if most else ''}",
        str(len(status.front)),
        f"{status.volume:.4f}" if status.front else "",
        "" if outlook.left is None else f"about {lasting(outlook.left)}",
        "" if outlook.cost is None else f"{outlook.cost:,.2f}",
    ]
