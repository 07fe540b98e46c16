"""What the terminal shows: progress while a search runs, tables of fronts.

On a terminal one live panel (`search.panel`); where there is none (a log file, CI) one plain line
an event, and a summary every few minutes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
from search.console import say, shown
from search.export import spelled
from search.lease import Holder
from search.live import EVERY_S, FILE, Phase
from search.live import Live as Kept
from search.narrow import at_ends
from search.panel import Guarded, Panel, facts
from search.results import Result, reported, values_of
from search.run import LOCK, Run
from search.secrets import said
from search.status import Status, state_line
from search.study import CUT_SHORT
from search.watched import Watched

if TYPE_CHECKING:
    from search.driver import Driver
    from search.session import Found

log = logging.getLogger("mergefront")

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
        self._holder: Holder | None = None  # of its lock: this session
        self._shows: Watched | None = None
        self._stopping = self._blind = self._mute = False
        self._kept = Kept(at=0.0, began=time.time(), phase="starting", command=command)
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
        with self._watched():
            if self._live is not None:
                self._live.stop()
        phase: Phase = "stopped" if self._stopping else "done"
        why = ""
        if error is not None:
            interrupted = isinstance(error, KeyboardInterrupt)
            phase, why = ("stopped", "") if interrupted else ("failed", said(error))
        self._keep(phase, force=True, workers={}, why=why)

    def reading(self, reference: str) -> None:
        say(f"reading {reference}", self.console)

    def phase(self, run: Run, phase: Phase) -> None:
        if phase == "starting":
            self._run, self._holder = run, Holder.of(run.folder / LOCK)
            before = Kept.read(run.folder)
            command = self._command or (before.command if before is not None else "")
            holder = "" if self._holder is None else str(self._holder)
            self._kept = replace(self._kept, began=time.time(), command=command, holder=holder)
        self._keep(phase, force=True, workers={})
        self._show(phase)

    def started(self, driver: Driver) -> None:
        self._shows = Watched(driver)
        self._kept = replace(self._kept, began=self._shows.began)
        say(
            f"run {driver.run.name}: {many(driver.pool.size, 'worker')}, "
            f"{many(driver.finished, 'trial')} done, "
            f"until {until(driver.search.file.budget)}",
            self.console,
        )
        for note in driver.notes:
            say(note, self.console)
        say(f"from another shell: mergefront status {shown(driver.run.folder)}", self.console)
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
        say(f"{what:<{wide}} {scores}{star}", self.console)
        self.tick(driver)

    def stopping(self, driver: Driver) -> None:
        self._stopping = True
        running = ", ".join(d.job for d in driver.pool.doing().values() if d.job)
        more = f"{running} to be finished; Ctrl-C again drops it" if running else "nothing runs"
        say(f"stopping: {more}", self.console)
        self._keep("stopping", force=True)
        self.tick(driver)

    def tick(self, driver: Driver) -> None:
        if self._shows is None:
            return
        if not self._linked and driver.tracker.link is not None:
            self._linked = True
            say(f"every trial in MLflow: {driver.tracker.link}", self.console)
        phase: Phase = "stopping" if driver.stopping else "searching"
        self._show(phase, lines=True)
        self._keep(
            phase,
            workers=driver.pool.doing(),
            items=driver.budget.items,
            reserve=driver.budget.reserved(driver.progress.able),
        )

    def confirming(self, what: str, done: int, total: int) -> None:
        self._keep("confirming", force=True, workers={}, done=done, total=total)
        self._show("confirming", f"confirmed {done} of {total}: {what}")
        shown = self._live is not None and not self._blind
        if what and not shown and (done == total or self._due):
            self._summed = time.monotonic()
            say(f"confirmed {done} of {total}: {what}", self.console)

    @property
    def _due(self) -> bool:
        """Whether it is time for another line where there is no panel."""
        return time.monotonic() - self._summed >= self._every

    def _show(self, phase: Phase, what: str = "", *, lines: bool = False) -> None:
        """Show how the search stands in the panel, or as a line now and then where there is none.

        Args:
            phase: what the session is at.
            what: stands in the panel of a session that does not search.
            lines: whether lines are wanted.
        """
        panel = self._live if not self._blind else None
        if panel is None and not (lines and self._due):
            return
        with self._watched():
            if self._shows is None:
                if panel is not None:
                    panel.update(Text(what or phase))
                return
            done, total = self._kept.done, self._kept.total
            status = self._shows.status(phase)
            status = replace(status, confirming=(done, total) if total else None)
            if panel is not None:
                panel.update(Guarded(Panel(status), self._failed))
            else:
                self._summed = time.monotonic()
                say(summary(status), self.console)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """No error in showing how the search stands ends the search."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (whatever it is, the search goes on)
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """The panel cannot be drawn: go on without."""
        if not self._blind:
            self._blind = True
            log.warning("the search goes on without its panel: %s", said(error), exc_info=error)

    def _keep(self, phase: Phase, *, force: bool = False, **more: Any) -> None:
        """Let other shells know, every few seconds or by `force`, while the run is ours."""
        clock = time.monotonic()
        if self._run is None or (not force and clock - self._wrote < EVERY_S):
            return
        self._wrote = clock
        working = None if self._shows is None else self._shows.working
        self._kept = replace(self._kept, at=time.time(), phase=phase, working=working, **more)
        if Holder.of(self._run.folder / LOCK) != self._holder:
            return  # another driver has taken over, and writes the same file
        try:
            self._kept.save(self._run.folder)
        except (OSError, UnicodeError) as error:
            # A full disk is told by whoever writes a result; others see an older state.
            if not self._mute:
                self._mute = True
                log.warning("%s: cannot be written: %s", self._run.folder / FILE, said(error))


def summary(status: Status) -> str:
    """A status on one line, for log files."""
    clock = time.strftime("%H:%M", time.localtime(status.at))
    told = "; ".join(f"{label} {text.plain}" for label, text in facts(status, bars=False))
    return f"{clock} {state_line(status, status.at)}: {told}"


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
            say(line, console)
        level = "intervals hold for all rows and objectives at once, 95%"
        say(f"{found.finished} trials; {level}", console)
    elif found.front:
        console.print(claimed_table(run, found.front))
    if found.stopped:
        say(
            f"stopped after {found.finished} trials; go on with `{command}`"
            + (
                f", or confirm what is there with `mergefront confirm {where}`"
                if found.front
                else ""
            ),
            console,
        )
    if found.exhausted:
        say("the space is exhausted: every recipe in it was tried", console)
    if found.ended is not None:
        say(f"the search ended: {found.ended}", console)
    if found.problem is not None:
        say(f"nothing exported: {found.problem}", console)
    if found.chosen is not None and found.test is not None:
        scores = ", ".join(
            f"{o.name} {spelled(found.test.estimate(o))}" for o in run.search.objectives
        )
        n = found.test.estimate(run.search.objectives[0]).n
        say(
            f"exported {found.chosen.label} to {where / 'recipe.yaml'}; "
            f"on {n} test items, scored once: {scores}",
            console,
        )
    for line in at_ends(run) if found.chosen is not None else ():
        say(line, console)
    told = {} if found.test is None else reported(run.search, found.test)
    for name, estimates in told.items():
        scores = ", ".join(f"{key} {spelled(estimate)}" for key, estimate in estimates.items())
        say(f"reported {name}: {scores}", console)
    if (run.folder / "front.html").is_file():
        say(f"front plot: {where / 'front.html'} and front.png", console)
    for line in found.account.lines():
        say(line, console)
    if found.tracking_problem is not None:
        say(f"MLflow lacks some of it: {found.tracking_problem}", console)
    say(f"every trial in MLflow: {found.link or f'mergefront ui {where}'}", console)


def _marks(member: Member, chosen: Member | None) -> str:
    exported = chosen is not None and member.label == chosen.label
    return "exported" if exported else standing(member)
