"""What the terminal shows: progress while a search runs, tables of fronts.

On a terminal one live panel (`search.panel`); where there is none (a log file, CI) one plain line
an event, and a summary every few minutes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from objectives import Estimate
from search.amounts import many
from search.budget import until
from search.confirm import Member
from search.confirmed import NO_SCORE, baseline_standing, broken, findings, ordered, standing
from search.console import say, shown
from search.export import spelled, test_items
from search.lease import Holder
from search.live import EVERY_S, FILE, Phase
from search.live import Live as Kept
from search.narrow import at_ends
from search.panel import Guarded, Panel, facts
from search.results import Result, joint, reported, values_of
from search.run import LOCK, Run
from search.secrets import said
from search.status import Status, state_line
from search.study import CUT_SHORT
from search.view import baseline_files
from search.watched import Watched

if TYPE_CHECKING:
    from search.driver import Driver
    from search.session import Found

log = logging.getLogger("mergefront")

_SUMMARY_S = 180.0
_LEAST = 12  # columns of the words in a table of the front, at least
_COLUMN, _WIDE = 26, 80  # what an event is of; in narrow terminals without a column
_JOINT = "right and in\nthe language"
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


def front_table(run: Run, members: list[Member], chosen: Member | None, width: int) -> Table:
    """Claimed beside confirmed, for the front and the baselines; where it is narrow, above it.

    Right and in the language is told at every width, where tasks tell it. What is too long is
    folded, labels before numbers, so that none is ever cut.
    """
    names = [objective.name for objective in run.search.objectives]
    joints = any(member.joint is not None for member in members)
    heads = [(f"{name}\nclaimed", "confirmed") for name in names]
    heads += [(_JOINT, "confirmed")] * joints
    rows = [(("", ""), heads)]
    for member in ordered(run, members):
        told = [(f"{member.claimed[n].value:.3f}", spelled(member.confirmed[n])) for n in names]
        scores = [(NO_SCORE, NO_SCORE)] * len(names) if broken(member) else told
        scores += [("", spelled(member.joint) if member.joint is not None else "")] * joints
        rows.append(((escape(member.label), _marks(member, chosen)), scores))
    for broad in (True, False):
        head, *cells = [_cells(*row, len(names), broad=broad) for row in rows]
        numbers = range(1, len(head) - broad)
        long = [
            max(cell_len(x) for row in (head, *cells) for x in row[i].split("\n")) for i in numbers
        ]
        # Beside what is in the cells there are two blanks and a line a column, and maybe an edge.
        needed = sum(long) + 3 * len(head) + (1 if broad else -1) + _LEAST * (1 + broad)
        if fits := needed <= width:
            break
    title = f"{run.name}: claimed (dev) and confirmed (held out)"
    box = HEAVY_HEAD if broad else SIMPLE_HEAD
    table = Table(title=title, title_justify="left", box=box, show_edge=broad)
    for index, text in enumerate(head):
        if index in numbers:
            table.add_column(text, justify="right", no_wrap=fits)
        else:
            table.add_column(text, overflow="fold", min_width=_LEAST)
    for row, member in zip(cells, ordered(run, members), strict=True):
        exported = chosen is not None and member.label == chosen.label
        table.add_row(*row, style="bold" if exported else None)
    return table


def _cells(
    words: tuple[str, str], scores: Sequence[tuple[str, str]], objectives: int, *, broad: bool
) -> list[str]:
    """A row: label and standing, claimed and confirmed stand side by side, or the one above the
    other where it is not `broad`. What follows the objectives' scores has no claim.
    """
    if not broad:
        return ["\n".join(pair) for pair in (words, *scores)]
    own, rest = scores[:objectives], scores[objectives:]
    sides = [side for pair in own for side in pair]
    return [words[0], *sides, *(claimed or told for claimed, told in rest), words[1]]


def claimed_table(run: Run, numbers: Sequence[int], width: int) -> Table:
    """The front and the baselines as they stand on the dev items, not confirmed.

    Labels are folded before numbers, and the title is on one line where `width` has room for it.

    Raises:
        RunError: a result is damaged or missing.
    """
    results = {f"trial {number}": Result.load(run.trial(number)) for number in numbers}
    others = {label: Result.load(path) for label, path in baseline_files(run).items()}
    shared = {label: joint(result) for label, result in (results | others).items()}
    both = any(estimate is not None for estimate in shared.values())
    rows = []
    for label, result in (results | others).items():
        estimates: list[Estimate] = [result.estimate(o) for o in run.search.objectives]
        able = all(result.holds(c, confirmed=False) for c in run.search.constraints)
        cells = [spelled(e) if result.fault is None else NO_SCORE for e in estimates]
        told = shared[label]
        if both:
            cells.append("" if told is None else spelled(told))
        where = baseline_standing(broken=result.fault is not None, feasible=able)
        rows.append([escape(label), *cells, "front" if label in results else where])
    heads = [objective.name for objective in run.search.objectives] + [_JOINT] * both
    for gap in (" [", "\n["):  # where there is little room the interval stands below its value
        rows = [[label, *(x.replace(" [", gap) for x in xs), where] for label, *xs, where in rows]
        cells = [x for row in ([*heads], *(row[1:-1] for row in rows)) for x in row]
        long = max(cell_len(line) for cell in cells for line in cell.split("\n"))
        if fits := (long + 3) * len(heads) + 3 + 2 * _LEAST <= width:
            break
    title = f"{run.name}: the front on the dev items, NOT confirmed"
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        min_width=min(width, cell_len(title)),
    )
    table.add_column("", overflow="fold", min_width=_LEAST)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=fits)
    table.add_column("", overflow="fold", min_width=_LEAST)
    for row in rows:
        table.add_row(*row)
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
        console.print(claimed_table(run, found.front, console.width))
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
        test = {o.name: found.test.estimate(o) for o in run.search.objectives}
        scores = ", ".join(f"{name} {spelled(estimate)}" for name, estimate in test.items())
        say(
            f"exported {found.chosen.label} to {where / 'recipe.yaml'}; "
            f"on {test_items(test)}, scored once: {scores}",
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
