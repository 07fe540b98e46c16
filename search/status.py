"""How a run stands: of a search that works, from its driver; of any, from its folder.

`Status` is what the live panel and `mergefront status` show. Reading a folder takes no lock and
writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from search import study as studies
from search.amounts import lasting
from search.config import Search
from search.console import shown
from search.lease import Holder
from search.ledger import Session
from search.live import ENDED, Doing, Live
from search.outlook import Outlook, outlook
from search.run import LOCK, Run
from search.sketch import Points
from search.view import RunView

State = Literal["running", "silent", "finished", "stopped", "failed", "dead"]
"""Its driver works; it is on another machine and gives no sign; it came to its end; the user
stopped it; it ended with an error; it was killed."""

SILENT_S = 60.0
"""Without a sign for so long, a driver on another machine may be dead."""


@dataclass(frozen=True)
class Status:
    """How a run stands.

    Attributes:
        name, folder: of the run.
        search: its search.
        state: in one word.
        why: more of it: who holds the run, or what it failed with.
        phase: what the driver is at; "" if it is at nothing.
        began: when its last session began, epoch seconds; None before the first.
        at: when this was so; of a run that does not work, when it was seen last.
        finished: trials that count.
        front: trial numbers, best first objective first.
        volume: hypervolume of the front.
        best: by objective, its best value on the front, and whose.
        failed: trials that no worker could do.
        faults: how often each kind happened.
        last: when the last trial ended.
        workers: what each does.
        items: dev items that a trial is asked; 0 if not known.
        confirming: merges that are confirmed, of all that will be.
        outlook: rate, cost, time left.
        points: for the plot.
    """

    name: str
    folder: Path
    search: Search
    state: State = "running"
    why: str = ""
    phase: str = ""
    began: float | None = None
    at: float = 0.0
    finished: int = 0
    front: Sequence[int] = ()
    volume: float = 0.0
    best: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    failed: int = 0
    faults: Mapping[str, int] = field(default_factory=dict)
    last: float | None = None
    workers: Mapping[str, Doing] = field(default_factory=dict)
    items: int = 0
    confirming: tuple[int, int] | None = None
    outlook: Outlook = field(default_factory=Outlook)
    points: Points | None = None


@dataclass(frozen=True)
class Seen:
    """A run's folder, read for `status`.

    Attributes:
        status: how it stands.
        view: all of it; None before its first trial.
        next: what to do next, one thing a line.
    """

    status: Status
    view: RunView | None
    next: list[str]


def best_of(search: Search, values: Mapping[int, Sequence[float]]) -> dict[str, tuple[float, int]]:
    """By objective, the best value and whose it is. The best of all trials are on the front."""
    if not values:
        return {}
    found = {}
    for index, objective in enumerate(search.objectives):
        number = max(values, key=lambda n: objective.sign * values[n][index])
        found[objective.name] = (values[number][index], number)
    return found


def points_of(
    search: Search,
    values: Mapping[int, Sequence[float]],
    front: Sequence[int],
    baselines: Mapping[str, Sequence[float]],
    chosen: int | None = None,
) -> Points:
    """What the plot of a run shows, of the trials' and baselines' values of all objectives."""
    objectives = search.objectives
    baselines = dict(sorted(baselines.items()))  # the same letters in every plot
    if len(objectives) == 1:
        pairs = {number: (float(number), one[0]) for number, one in values.items()}
        names, less = ("trial", objectives[0].name), (False, objectives[0].sign < 0)
        others: dict[str, tuple[float, float]] = {
            label: (0.0, one[0]) for label, one in baselines.items()
        }
    else:
        pairs = {number: (two[0], two[1]) for number, two in values.items()}
        names = (objectives[0].name, objectives[1].name)
        less = (objectives[0].sign < 0, objectives[1].sign < 0)
        others = {label: (two[0], two[1]) for label, two in baselines.items()}
    more = len(objectives) - 2
    return Points(
        names=names,
        less=less,
        others=[pair for number, pair in pairs.items() if number not in front],
        front=[pairs[number] for number in front if number in pairs],
        chosen=pairs.get(chosen) if chosen is not None else None,
        baselines=others,
        note=f"the first two of {2 + more} objectives" if more > 0 else "",
    )


def look(run: Run, now: float | None = None) -> Seen:
    """Read how a run stands, from any shell.

    Raises:
        RunError, StorageError: what it holds is damaged.
    """
    now = time.time() if now is None else now
    live, holder = Live.read(run.folder), Holder.of(run.folder / LOCK)
    state, why = _state(run, live, holder, now)
    kept = live  # what the session told, whose command starts the search again
    if state in ("running", "silent") and live is not None and not live.of(holder):
        live = None  # of a driver that was killed; who holds the run now has told nothing yet
    works = state == "running"
    phase = ("starting" if live is None else live.phase) if works else ""
    if works and not run.begun:
        status = Status(run.name, run.folder, run.search, state, why, phase, at=now)
        return Seen(status, None, _next(status, kept, view=None))
    view = RunView.of(run, studies.open_study(run, create=False))
    session = _last(view.sessions)
    if live is not None and live.at < session[0]:
        live = None  # of a session before the last
    held = _since(holder) if works and holder is not None else 0.0
    began = (live.began if live else max(held, session[0])) or None
    ended = _ended(view, began or 0.0)
    asked = [t.began for t in view.trials.values() if t.began >= (began or 0.0)]
    last = max((t.ended for t in view.trials.values() if t.ended is not None), default=None)
    signs = [last, live.at if live else None, session[1], began]
    signs += [trial.began for trial in view.trials.values()]  # of those that run none has ended
    at = now if works else max(filter(None, signs), default=_written(run.folder / "run.json"))
    searching = works and live is not None and live.phase == "searching"
    own = view.sessions[-1] if view.sessions else None
    scored = {n: t.values for n, t in view.scored.items()}
    status = Status(
        name=run.name,
        folder=run.folder,
        search=run.search,
        state=state,
        why=why,
        phase=phase,
        began=began,
        at=at,
        finished=view.account.trials,
        front=view.front,
        volume=view.volume,
        best=best_of(run.search, {n: scored[n] for n in view.front}),
        failed=view.account.failed,
        faults=view.account.faults,
        last=last,
        workers=live.workers if live and works else {},
        items=live.items if live else 0,
        confirming=(live.done, live.total) if live and works and live.total else None,
        outlook=outlook(
            run.search.file.budget,
            ended,
            now=at,
            began=began or at,
            working=(live.working if live else None) or min(asked, default=None),
            finished=view.account.trials,
            tokens=view.account.tokens,
            hours=sum(s.priced_hours for s in view.sessions),
            per_hour=own.priced_rate if own else 1.0,
            reserve=live.reserve if live else 0.0,
            searching=searching,
        ),
        points=points_of(
            run.search,
            scored,
            view.front,
            {label: baseline.values for label, baseline in view.able.items()},
            view.chosen.trial if view.chosen else None,
        ),
    )
    return Seen(status, view, _next(status, kept, view))


def as_json(seen: Seen) -> dict[str, Any]:
    """What was seen, as JSON data."""
    status, view = seen.status, seen.view
    trials: dict[str, int] = {}
    for trial in view.trials.values() if view else ():
        trials[trial.state] = trials.get(trial.state, 0) + 1
    data: dict[str, Any] = {
        "run": str(status.folder),
        "state": status.state,
        "why": status.why,
        "phase": status.phase,
        "working": status.state == "running",
        "began": status.began,
        "last_trial": status.last,
        "at": status.at,
        "finished": status.finished,
        "budget": status.search.file.budget.trials,
        "trials": dict(sorted(trials.items())),
        "front": list(status.front),
        "hypervolume": status.volume,
        "best": {k: {"value": v, "trial": n} for k, (v, n) in status.best.items()},
        "failed": status.failed,
        "faults": dict(status.faults),
        "workers": {name: asdict(doing) for name, doing in status.workers.items()},
        **asdict(status.outlook),
        "confirmed": bool(view and view.members),
        "exported": view.chosen.label if view and view.chosen else None,
        "tokens": view.account.tokens if view else 0,
        "account": view.account.plain() if view else None,
        "next": seen.next,
    }
    return data


def state_line(status: Status, now: float) -> str:
    """The state in words, with since when."""
    ago = f"{lasting(now - status.at)} ago"
    match status.state:
        case "running":
            since = f" for {lasting(now - status.began)}" if status.began else ""
            return f"{status.phase or 'at work'}{since}"
        case "silent":
            return f"no sign of its driver: {status.why}"
        case "dead":
            return f"dead: {status.why}, {ago}"
        case "failed":
            return f"failed {ago}: {status.why}"
        case state:
            return f"{state} {ago}"


def _state(run: Run, live: Live | None, holder: Holder | None, now: float) -> tuple[State, str]:
    """Whether somebody works on a run, by who holds its lock and what that one told last."""
    own = live if live is not None and live.of(holder) else None
    # A process that has ended its session may live on.
    over = own is not None and own.phase in ENDED
    if holder is not None and not holder.dead and not over:
        if holder.here:
            return "running", str(holder)
        told = own.at if own is not None else _since(holder)
        sign = max(told, _written(run.folder / "sessions.json"))
        if now - sign < SILENT_S:
            return "running", str(holder)
        return "silent", f"{holder}, the last sign {lasting(now - sign)} ago"
    match live.phase if live is not None else None:
        case "done":
            return "finished", ""
        case "stopped":
            return "stopped", ""
        case "failed":
            assert live is not None
            return "failed", live.why
        case None:
            return ("finished" if run.confirmed.is_file() else "stopped"), ""
        case phase:
            return "dead", f"its driver ended while {phase}"


def ended(run: Run) -> tuple[State, str]:
    """How the last session ended of a run that nobody works on: in a word, and why."""
    return _state(run, Live.read(run.folder), None, time.time())


def _since(holder: Holder) -> float:
    """When it began to hold the run, epoch seconds."""
    return datetime.fromisoformat(holder.since).timestamp()


def _written(path: Path) -> float:
    """When a file was written, epoch seconds; 0 if it is not there."""
    return path.stat().st_mtime if path.is_file() else 0.0


def _last(sessions: Sequence[Session]) -> tuple[float, float]:
    """When the last session began and when it was last known to go on; 0 before the first."""
    if not sessions:
        return 0.0, 0.0
    began = datetime.fromisoformat(sessions[-1].began).timestamp()
    return began, began + sessions[-1].seconds


def _ended(view: RunView, since: float) -> list[tuple[float, int]]:
    """When the trials ended that somebody worked for since then, and their tokens."""
    worked = (t for t in view.trials.values() if t.state in ("full", "partial", "fault"))
    return sorted((t.ended, t.tokens) for t in worked if t.ended and t.ended >= since)


def _next(status: Status, live: Live | None, view: RunView | None) -> list[str]:
    """What to do next."""
    where = shown(status.folder)
    again = live.command if live is not None and live.command else "mergefront run FILE"
    lines = []
    if status.state == "running":
        lines.append(f"look at every trial: mergefront ui {where}")
        return lines
    if status.state == "silent":
        return [f"if that machine is gone, `{again}` takes over and goes on"]
    if status.state in ("stopped", "failed", "dead"):
        lines.append(f"go on: {again}")
    if view is None:
        return lines
    if not view.members:
        if status.front:
            lines.append(f"score the front on held-out items: mergefront confirm {where}")
        return lines
    if view.chosen is not None:
        lines.append(f"the recipe: mergefront export {where} -o recipe.yaml")
    elif view.problem:
        lines.append(f"nothing is exported: {view.problem}")
    lines.append(f"all of it: mergefront front {where}, mergefront ui {where}")
    return lines
