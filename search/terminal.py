"""What the terminal shows: progress while a search runs, tables of fronts.

On a terminal one live panel; where there is none (a log file, CI) one plain line an event.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from objectives import Estimate
from search.budget import until
from search.confirm import Member
from search.confirmed import findings, ordered, standing
from search.driver import Driver
from search.export import spelled
from search.narrow import at_ends
from search.results import Result, reported, values_of
from search.run import Run
from search.secrets import redacted
from search.session import Found
from search.study import CUT_SHORT

_WORTH_TELLING = 0.05
"""The share of answers that do not end by themselves from which a line says so."""


class Progress:
    """A `Listener` that prints. Use as a context: the live panel ends with it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def reading(self, reference: str) -> None:
        say(self.console, f"reading {reference}")

    def started(self, driver: Driver) -> None:
        say(
            self.console,
            f"run {driver.run.name}: {driver.pool.size} workers, {driver.finished} trials done, "
            f"until {until(driver.search.file.budget)}",
        )
        for note in driver.notes:
            say(self.console, note)

    def finished(self, driver: Driver, what: str, result: Result | None) -> None:
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
        say(self.console, f"{what:<22} {scores}{star}")
        self.tick(driver)

    def stopping(self, driver: Driver) -> None:
        running = ", ".join(d.job for d in driver.pool.doing().values() if d.job) or "nothing"
        say(self.console, f"stopping: {running} to be finished; Ctrl-C again drops it")

    def tick(self, driver: Driver) -> None:
        if self._live is not None:
            self._live.update(self._panel(driver))

    def confirming(self, what: str, done: int, total: int) -> None:
        line = f"confirmed {done} of {total}: {what}"
        if self._live is not None:
            self._live.update(Text(line))
        elif done == total:
            say(self.console, line)

    def _panel(self, driver: Driver) -> Table:
        budget = driver.budget
        spent = time.monotonic() - budget.began
        table = Table.grid(padding=(0, 2))
        if driver.stopping:
            table.add_row("stopping", "Ctrl-C again drops what is running")
        most = driver.search.file.budget.trials
        rate = budget.done_trials / spent if spent else 0.0
        left = f", {(most - driver.finished) / rate / 60:.1f} min left" if most and rate else ""
        table.add_row(
            # Text, not markup: a line printed above the panel draws it with markup off.
            Text(f"{driver.finished}{f' of {most}' if most else ''} trials", style="bold"),
            f"{budget.done_tokens / spent:,.0f} tokens/s{left}" if budget.done else "starting",
        )
        table.add_row(
            f"front of {len(driver.front)}",
            f"hypervolume {driver.volume:.4f}",
        )
        for name, doing in driver.pool.doing().items():
            table.add_row(name, doing.job or doing.what)
        return table


def say(console: Console, text: str) -> None:
    """Print a line as it is, but for passwords: no markup, colours, line breaks of our own."""
    console.print(redacted(text), highlight=False, markup=False, soft_wrap=True)


def front_table(run: Run, members: list[Member], chosen: Member | None) -> Table:
    """Claimed beside confirmed, for the front and the baselines."""
    table = Table(title=f"{run.name}: claimed (dev) and confirmed (held out)", title_justify="left")
    # What is too long for the terminal is folded, so that no label or number is ever cut.
    table.add_column("", overflow="fold", min_width=12)
    for objective in run.search.objectives:
        table.add_column(f"{objective.name}\nclaimed", justify="right")
        table.add_column("\nconfirmed", justify="right")
    table.add_column("right and in\nthe language", justify="right")
    table.add_column("", min_width=8)
    for member in ordered(run, members):
        cells = [escape(member.label)]
        for objective in run.search.objectives:
            cells.append(f"{member.claimed[objective.name].value:.3f}")
            cells.append(spelled(member.confirmed[objective.name]))
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
        console.print(front_table(run, found.members, found.chosen))
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
    say(console, f"look at every trial: mergefront ui {where}")


def shown(path: Path) -> Path:
    """A path as the user would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _marks(member: Member, chosen: Member | None) -> str:
    exported = chosen is not None and member.label == chosen.label
    return "exported" if exported else standing(member)
