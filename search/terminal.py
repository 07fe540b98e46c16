"""What the terminal shows: progress while a search runs, tables of fronts.

On a terminal one live panel (`search.panel`); where there is none (a log file, CI) one plain line
an event, and a summary every few minutes.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import Any

from optuna.trial import TrialState
from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from objectives import Estimate
from search.amounts import many
from search.budget import until
from search.confirm import Member
from search.confirmed import findings, ordered, standing
from search.console import shown as shown
from search.driver import Driver
from search.export import spelled
from search.live import EVERY_S, Phase
from search.live import Live as Kept
from search.narrow import at_ends
from search.outlook import RECENT, outlook
from search.panel import Panel, facts
from search.results import Result, reported, values_of
from search.run import Run
from search.secrets import redacted, said
from search.session import Found
from search.status import Status, best_of, points_of, state_line
from search.study import CUT_SHORT, DUPLICATE_OF
from search.view import baseline_labels

_SUMMARY_S = 180.0
_BROAD = 110  # columns from which a front is a table with all of its columns
_COLUMN, _WIDE = 26, 80  # what an event is of; in narrow terminals without a column
_WORTH_TELLING = 0.05
"""The share of answers that do not end by themselves from which a line says so."""


class Progress:
    """A `Listener` that prints. Use as a context: the live panel ends with it.

    Args:
        console: takes the lines.
        command: starts the search again; for `mergefront status`.
        every: seconds between two summaries where there is no panel.
    """

    def __init__(self, console: Console, command: str = "", every: float = _SUMMARY_S) -> None:
        self.console = console
        self._command = command
        self._every = every
        self._live: Live | None = None
        self._run: Run | None = None
        self._shows: Watched | None = None
        self._kept = Kept(at=0.0, began=time.time(), phase="searching", command=command)
        self._wrote = self._summed = 0.0
        self._linked = False

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                console=self.console, refresh_per_second=2, transient=True, vertical_overflow="crop"
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if self._live is not None:
            self._live.stop()
        phase: Phase = "stopped" if self._kept.phase == "stopping" else "done"
        why = ""
        if error is not None:
            interrupted = isinstance(error, KeyboardInterrupt)
            phase, why = ("stopped", "") if interrupted else ("failed", said(error))
        self._keep(phase, force=True, workers={}, why=why)

    def reading(self, reference: str) -> None:
        say(self.console, f"reading {reference}")

    def started(self, driver: Driver) -> None:
        self._run = driver.run
        self._shows = Watched(driver)
        say(
            self.console,
            f"run {driver.run.name}: {many(driver.pool.size, 'worker')}, "
            f"{many(driver.finished, 'trial')} done, "
            f"until {until(driver.search.file.budget)}",
        )
        for note in driver.notes:
            say(self.console, note)
        say(self.console, f"from another shell: mergefront status {shown(driver.run.folder)}")
        self._summed = time.monotonic()
        self.tick(driver)

    def finished(self, driver: Driver, what: str, result: Result | None) -> None:
        if self._shows is not None:
            self._shows.add(what, result)
        scores = "failed: see run.log"
        if result is not None:
            scores = "  ".join(
                f"{o.name} {value:.3f}"
                for o, value in zip(
                    driver.search.objectives, values_of(result, driver.search), strict=True
                )
            )
            if (stopped := result.stopped) is not None:
                scores += f"  stopped after {stopped.asked} of {stopped.of}: {stopped.reason}"
            told = {"length": "cut at max_tokens", "loop": "ended in loops"}
            for reason in CUT_SHORT:
                if (share := result.ended(reason)) >= _WORTH_TELLING:
                    scores += f"  {share:.0%} {told[reason]}"
            if result.fault:
                scores = result.fault
        kind, _, number = what.partition(" ")
        star = ""
        if kind == "trial":
            star = "  on the front" if int(number) in driver.front else ""
        wide = _COLUMN if self.console.width >= _WIDE else 0
        say(self.console, f"{what:<{wide}} {scores}{star}")
        self.tick(driver)

    def stopping(self, driver: Driver) -> None:
        running = ", ".join(d.job for d in driver.pool.doing().values() if d.job) or "nothing"
        say(self.console, f"stopping: {running} to be finished; Ctrl-C again drops it")
        self._keep("stopping", force=True)
        self.tick(driver)

    def tick(self, driver: Driver) -> None:
        if self._shows is None:
            return
        if not self._linked and driver.tracker.link is not None:
            self._linked = True
            say(self.console, f"every trial in MLflow: {driver.tracker.link}")
        phase: Phase = "stopping" if driver.stopping else "searching"
        status = self._shows.status(phase)
        if self._live is not None:
            self._live.update(Panel(status))
        elif time.monotonic() - self._summed >= self._every:
            self._summed = time.monotonic()
            say(self.console, summary(status))
        self._keep(
            phase,
            workers=status.workers,
            items=status.items,
            reserve=driver.budget.reserved(driver.progress.able),
        )

    def confirming(self, what: str, done: int, total: int) -> None:
        self._keep("confirming", force=True, workers={}, done=done, total=total)
        if self._live is not None:
            if self._shows is not None:
                status = self._shows.status("confirming")
                self._live.update(Panel(replace(status, workers={}, confirming=(done, total))))
            else:
                self._live.update(Text(f"confirmed {done} of {total}: {what}"))
        elif done == total or time.monotonic() - self._summed >= self._every:
            self._summed = time.monotonic()
            say(self.console, f"confirmed {done} of {total}: {what}")

    def _keep(self, phase: Phase, *, force: bool = False, **more: Any) -> None:
        """Let other shells know, every few seconds or by `force`."""
        clock = time.monotonic()
        if self._run is None or (not force and clock - self._wrote < EVERY_S):
            return
        self._wrote = clock
        self._kept = replace(self._kept, at=time.time(), phase=phase, **more)
        self._kept.save(self._run.folder)


class Watched:
    """What a driver has come to, for the panel: kept trial by trial, so that looking is cheap.

    Args:
        driver: that has just started.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._began = time.time() - (time.monotonic() - driver.budget.began)
        self._working: float | None = None
        self._ended: deque[tuple[float, int]] = deque(maxlen=RECENT + 1)
        told = driver.study.get_trials(deepcopy=False)
        self._values = {
            t.number: tuple(t.values)
            for t in told
            if t.state == TrialState.COMPLETE and not {"fault", DUPLICATE_OF} & t.user_attrs.keys()
        }
        self._failed = sum(t.state == TrialState.FAIL for t in told)
        self._faults = driver.run.incidents.counts
        labels = baseline_labels(driver.run)
        places = (
            (label, driver.run.folder / "baselines" / f"{s}.json") for s, label in labels.items()
        )
        self._baselines = {
            label: values_of(Result.load(path), driver.search)
            for label, path in places
            if path.is_file()
        }

    def add(self, what: str, result: Result | None) -> None:
        """A job ended."""
        kind, _, label = what.partition(" ")
        if self._working is None and result is not None:
            self._working = time.time() - sum(result.seconds.values())
        if result is None:
            self._failed += kind == "trial"
        elif kind == "baseline":
            self._baselines[label] = values_of(result, self._driver.search)
        else:
            self._ended.append((time.time(), result.tokens))
            if result.fault is None:
                self._values[int(label)] = tuple(values_of(result, self._driver.search))
        if result is None or result.fault is not None:
            self._faults = self._driver.run.incidents.counts

    def status(self, phase: Phase) -> Status:
        """How the search stands now."""
        driver, now = self._driver, time.time()
        search, budget, front = driver.search, driver.budget, driver.front
        own = budget.ledger.own
        if missing := [number for number in front if number not in self._values]:
            told = driver.study.get_trials(deepcopy=False)  # trials that took over scores
            self._values |= {number: tuple(told[number].values) for number in missing}
        return Status(
            name=driver.run.name,
            folder=driver.run.folder,
            search=search,
            phase=phase,
            began=self._began,
            at=now,
            finished=driver.finished,
            front=tuple(front),
            volume=driver.volume,
            best=best_of(search, {n: self._values[n] for n in front}),
            failed=self._failed,
            faults=self._faults,
            last=self._ended[-1][0] if self._ended else None,
            workers=driver.pool.doing(),
            items=budget.items,
            outlook=outlook(
                search.file.budget,
                list(self._ended),
                now=now,
                began=self._began,
                working=self._working,
                finished=driver.finished,
                tokens=budget.tokens,
                hours=budget.ledger.priced_hours,
                per_hour=own.workers * (own.gpus or 1.0),
                reserve=budget.reserved(driver.progress.able),
                searching=phase == "searching",
            ),
            points=points_of(search, self._values, front, self._baselines),
        )


def summary(status: Status) -> str:
    """A status on one line, for log files."""
    clock = time.strftime("%H:%M", time.localtime(status.at))
    told = "; ".join(f"{label} {text.plain}" for label, text in facts(status, bars=False))
    return f"{clock} {state_line(status, status.at)}: {told}"


def say(console: Console, text: str) -> None:
    """Print a line as it is, but for passwords: no markup, colours, line breaks of our own."""
    console.print(redacted(text), highlight=False, markup=False, soft_wrap=True)


def front_table(
    run: Run, members: list[Member], chosen: Member | None, width: int = _BROAD
) -> Table:
    """Claimed beside confirmed, for the front and the baselines; in one column where it is narrow.

    What is too long is folded, so that no label or number is ever cut.
    """
    broad = width >= _BROAD
    title = f"{run.name}: claimed (dev) and confirmed (held out)"
    table = Table(title=title, title_justify="left", box=HEAVY_HEAD if broad else SIMPLE_HEAD)
    table.add_column("", overflow="fold", min_width=12)
    for objective in run.search.objectives:
        if broad:
            table.add_column(f"{objective.name}\nclaimed", justify="right")
            table.add_column("\nconfirmed", justify="right")
        else:
            table.add_column(f"{objective.name}\nclaimed, confirmed", justify="right")
    if broad:
        table.add_column("right and in\nthe language", justify="right")
    table.add_column("", min_width=8, overflow="fold")
    for member in ordered(run, members):
        cells = [escape(member.label)]
        for objective in run.search.objectives:
            scores = [f"{member.claimed[objective.name].value:.3f}"]
            scores.append(spelled(member.confirmed[objective.name]))
            cells += scores if broad else [", ".join(scores)]
        if broad:
            cells.append(spelled(member.joint) if member.joint else "")
        cells.append(_marks(member, chosen))
        table.add_row(*cells, style="bold" if chosen and member.label == chosen.label else None)
    return table


def claimed_table(run: Run, numbers: list[int]) -> Table:
    """The front as it stands on the dev items, not confirmed."""
    table = Table(title=f"{run.name}: the front on the dev items, NOT confirmed")
    table.add_column("")
    for objective in run.search.objectives:
        table.add_column(objective.name, justify="right")
    for number in numbers:
        result = Result.load(run.trial(number))
        estimates: list[Estimate] = [result.estimate(o) for o in run.search.objectives]
        table.add_row(f"trial {number}", *(spelled(e) for e in estimates))
    return table


def print_found(console: Console, found: Found, command: str) -> None:
    """How a session ended, and what to do next."""
    run, where = found.run, shown(found.run.folder)
    if found.members:
        console.print(front_table(run, found.members, found.chosen, console.width))
        for line in findings(run, found.members):
            say(console, line)
        level = "intervals hold for all rows and objectives at once, 95%"
        say(console, f"{found.finished} trials; {level}")
    elif found.front:
        console.print(claimed_table(run, found.front))
    if found.stopped:
        say(
            console,
            f"stopped after {found.finished} trials; go on with `{command}`"
            + (
                f", or confirm what is there with `mergefront confirm {where}`"
                if found.front
                else ""
            ),
        )
    if found.exhausted:
        say(console, "the space is exhausted: every recipe in it was tried")
    if found.ended is not None:
        say(console, f"the search ended: {found.ended}")
    if found.problem is not None:
        say(console, f"nothing exported: {found.problem}")
    if found.chosen is not None and found.test is not None:
        scores = ", ".join(
            f"{o.name} {spelled(found.test.estimate(o))}" for o in run.search.objectives
        )
        n = found.test.estimate(run.search.objectives[0]).n
        say(
            console,
            f"exported {found.chosen.label} to {where / 'recipe.yaml'}; "
            f"on {n} test items, scored once: {scores}",
        )
    for line in at_ends(run) if found.chosen is not None else ():
        say(console, line)
    told = {} if found.test is None else reported(run.search, found.test)
    for name, estimates in told.items():
        scores = ", ".join(f"{key} {spelled(estimate)}" for key, estimate in estimates.items())
        say(console, f"reported {name}: {scores}")
    if (run.folder / "front.html").is_file():
        say(console, f"front plot: {where / 'front.html'} and front.png")
    for line in found.account.lines():
        say(console, line)
    if found.tracking_problem is not None:
        say(console, f"MLflow lacks some of it: {found.tracking_problem}")
    say(console, f"every trial in MLflow: {found.link or f'mergefront ui {where}'}")


def _marks(member: Member, chosen: Member | None) -> str:
    exported = chosen is not None and member.label == chosen.label
    return "exported" if exported else standing(member)
