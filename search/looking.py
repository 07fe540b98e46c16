"""What `mergefront status` and `mergefront front` print."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from merge_core.yaml_io import one_line, write_atomic
from search import study as studies
from search.amounts import many
from search.confirmed import baseline_standing, confirmed_members, left_out, standing
from search.console import json_text, print_json, say, shown, writing
from search.errors import USER_ERRORS, ConfigError, RunError
from search.listing import as_csv as csv_of
from search.listing import points, rows
from search.panel import Panel, beside, is_plain, runs_table, status_lines, wrapped
from search.run import Run
from search.sketch import sketch
from search.status import Seen, as_json, look
from search.terminal import claimed_table, front_table
from search.view import BaselineView, RunView, TrialView

_EVERY_S = 2.0
_SHARE = 0.2  # of the time at most that looking takes: a large run is looked at less often


def print_status(console: Console, run: Run, *, plot: bool, as_json: bool) -> None:
    """How a run stands: on a terminal with its front drawn, else a fact a line; or as JSON."""
    seen = look(run)
    if as_json:
        print_json(json_of(seen))
    elif console.is_terminal:
        console.print(Panel(seen.status, lines=console.height - 4, plot=plot))
        _print_beside(console, seen)
    else:
        for line in status_lines(seen):
            say(line)


json_of = as_json


def _print_beside(console: Console, seen: Seen) -> None:
    told = [row for row in beside(seen, time.time()) if row[0] != "faults"]  # the panel has them
    told += [("next", line) for line in seen.next]
    for what, value in [("run", str(shown(seen.status.folder))), *told]:
        for line in wrapped(console, what, Text(value), console.width, 11):
            console.print(line, highlight=False)


def watch_status(console: Console, run: Run, *, plot: bool) -> None:
    """The same again and again until the run is not worked on any more, or Ctrl-C.

    Raises:
        ConfigError: this is no terminal.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        raise ConfigError("--watch needs a terminal; for programs there is --json")
    seen = look(run)
    try:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            while seen.status.state == "running":
                live.update(Panel(seen.status, lines=console.height - 1, plot=plot))
                began = time.monotonic()
                seen = look(run)
                time.sleep(max(_EVERY_S, (time.monotonic() - began) / _SHARE))
    except KeyboardInterrupt:
        return
    print_status(console, run, plot=plot, as_json=False)


def print_runs(console: Console, runs: Path, *, as_json: bool) -> None:
    """All runs of a folder.

    Raises:
        RunError: there are none.
    """
    places = [path.parent for path in sorted(runs.glob("*/run.json"))]
    if not places:
        raise RunError(f"{runs}: holds no runs; name a run folder, or another folder with --runs")
    if as_json:
        print_json([_told(place) for place in places])
        return
    console.print(runs_table(places, time.time()))
    say(f"more of one: mergefront status {runs}/NAME")


def _told(place: Path) -> dict[str, Any]:
    """A run as JSON data; of one that is damaged, why it cannot be read."""
    try:
        return json_of(look(Run.open(place)))
    except USER_ERRORS as error:
        return {"run": str(place), "error": one_line(error)}


def print_front(
    console: Console,
    run: Run,
    *,
    as_json: bool,
    as_csv: bool,
    every: bool,
    out: Path | None,
    plot: bool,
) -> None:
    """The front as a table, a plot, JSON or CSV; where there is none, a line that says why.

    Raises:
        ConfigError: the options contradict each other.
        RunError, StorageError: the run is damaged, or its study is not there.
    """
    if out is not None and not (as_json or as_csv):
        as_json, as_csv = out.suffix == ".json", out.suffix == ".csv"
        if not (as_json or as_csv):
            raise ConfigError(f"--out {out}: end it in .csv or .json, or give --csv or --json")
    if as_json and as_csv:
        raise ConfigError("--json and --csv: give one of them")
    if out is not None:
        run.refuse_own(out)
    if every and not (as_json or as_csv):
        raise ConfigError("--all: is for --json and --csv")
    view = RunView.of(run, studies.open_study(run, create=False))
    if as_json or as_csv:
        if not (view.front or view.members):
            sys.stderr.write(f"note: {no_front(view)}\n")
        if as_csv or every:
            table = rows(view, every=every)
            text = csv_of(table) if as_csv else json_text(table)
        else:
            text = json_text(_front(view))
        if out is None or str(out) == "-":
            console.file.write(text)
        else:
            with writing(out):
                write_atomic(out, text)
            say(f"wrote {shown(out)}")
        return
    if view.members:
        console.print(front_table(run, confirmed_members(run), view.chosen, console.width))
        for line in left_out(run):
            say(line, console)
    elif view.front or view.baselines:
        console.print(claimed_table(run, view.front, console.width))
    if not (view.front or view.members):
        say(no_front(view), console)
    if plot:
        drawn = sketch(points(view), min(console.width, 100), 24, plain=is_plain(console))
        console.print(drawn or "no room to draw it")


def no_front(view: RunView) -> str:
    """Why no trial is on the front, in one line."""
    scored = view.scored.values()
    if scored:
        missed = [f"{n:,} miss {bound}" for bound, n in view.missed.items() if n]
        early = sum(trial.feasible and trial.state == "partial" for trial in scored)
        missed += [f"{early:,} were stopped early"] if early else []
        return f"no front yet: of {many(len(scored), 'scored trial')} {', '.join(missed)}"
    states: list[str] = [trial.state for trial in view.trials.values()]
    words = (("fault", "broken"), ("failed", "failed"), ("running", "not done yet"))
    counts = [f"{n:,} {word}" for state, word in words if (n := states.count(state))]
    return f"no front yet: no trial is scored{': ' if counts else ''}{', '.join(counts)}"


def _front(view: RunView) -> list[dict[str, Any]]:
    """The members, or where none is confirmed the front and the baselines, as JSON data."""
    if view.members:
        return [
            {
                **asdict(m),
                **_more(view, m.trial),
                "exported": m is view.chosen,
                "standing": standing(m),
            }
            for m in view.members
        ]
    names = [objective.name for objective in view.search.objectives]

    def told(number: int | None, label: str, own: TrialView | BaselineView) -> dict[str, Any]:
        return {
            "trial": number,
            "label": label,
            "claimed": dict(zip(names, own.values, strict=True)),
            "intervals": own.intervals,
            "joint": own.joint,
            "feasible": own.feasible,
            **_more(view, number),
        }

    return [
        *(told(number, f"trial {number}", view.trials[number]) for number in view.front),
        *(
            {
                **told(None, label, held),
                "standing": baseline_standing(broken=held.broken, feasible=held.feasible),
            }
            for label, held in view.baselines.items()
        ),
    ]


def _more(view: RunView, number: int | None) -> Mapping[str, Any]:
    """A trial's parameters, and the shares of the experts in its merge where they were counted."""
    if number is None:
        return {}
    trial = view.trials[number]
    return {"params": trial.params, **({"retained": trial.retained} if trial.retained else {})}
