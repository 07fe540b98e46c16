"""When a search ends: the limits of its file, each with what confirming and testing will cost.

The limits are of the whole run, the time limit of one session. A trial is started only if it, the
trials that are running, the confirmation of what may be on the front then, and the test fit in.
What a trial takes is known from those that have ended.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial

from objectives.task import Split, Task
from search import study as studies
from search.account import Account
from search.amounts import amount, many
from search.config import Search, seconds
from search.file import BudgetEntry
from search.ledger import Ledger
from search.progress import Progress
from search.results import Result
from search.run import Run
from search.samplers import SAMPLERS

if TYPE_CHECKING:
    from search.session import Prepared

GAIN = 0.01
"""Share of the hypervolume that the trials counted by `patience` must add, or the search ends."""
RECENT = 32
"""Ended merges whose mean is what the next is expected to take."""


@dataclass(frozen=True)
class Shares:
    """What one merge is asked on each split, and how many merges are confirmed for certain.

    Attributes:
        dev, confirm, test: answers, or items that are scored without any.
        items: dev items.
        most_tokens: that the dev answers can have; of tasks that ask in a way of their own
            (lm_eval) unknown, and not in it.
        baselines: merges that are confirmed beside the front and are not yet.
    """

    dev: int
    confirm: int
    test: int
    items: int
    most_tokens: int
    baselines: int

    @classmethod
    def of(cls, prepared: Prepared, baselines: int) -> Shares:
        """Those of a search whose tasks are loaded."""
        tasks = [task for task in prepared.tasks.values() if task.asked("dev")]
        return cls(
            **{split: prepared.answers(split) for split in ("dev", "confirm", "test")},
            items=sum(len(task.items("dev")) for task in tasks),
            most_tokens=most_tokens(prepared, "dev"),
            baselines=baselines,
        )

    @property
    def per_confirm(self) -> float:
        """What confirming one merge takes, in trials on all dev items."""
        return self.confirm / max(1, self.dev)

    @property
    def per_test(self) -> float:
        """What testing one merge takes, in trials on all dev items."""
        return self.test / max(1, self.dev)

    def reserve(self, members: int) -> float:
        """What confirming `members` and the baselines and testing one take, in such trials."""
        return self.per_confirm * (members + self.baselines) + self.per_test

    def rounds(self, members: int, workers: int) -> float:
        """For how many such trials the workers are held until all that is done."""
        return self.per_confirm * math.ceil((members + self.baselines) / workers) + self.per_test


@dataclass(frozen=True)
class _Took:
    """What one merge took."""

    tokens: float
    seconds: float


class Budget:
    """Whether another trial may start, and why not.

    Args:
        search: with its limits.
        shares: what a merge is asked.
        ledger: of this session and its workers.
        began: when the session began (time.monotonic).
        clock: what tells the time.

    Attributes:
        reason: the limit that forbade the last trial that was asked for: a key of `budget`; None
            while trials may start.
        finished: trials of all sessions that count.
        tokens: generated in all sessions, for whatever.
        done, done_tokens, done_trials: merges, tokens and trials of this session.
        ledger: of the workers, as given.
    """

    def __init__(
        self,
        search: Search,
        shares: Shares,
        ledger: Ledger,
        began: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reason: str | None = None
        self.finished = 0
        self.tokens = 0
        self.began = began
        self.done = self.done_tokens = self.done_trials = 0
        self._limits: BudgetEntry = search.file.budget
        self._search = search
        self._shares = shares
        self.ledger = ledger
        self._clock = clock
        self._recent: deque[_Took] = deque(maxlen=RECENT)
        self._whole: deque[_Took] = deque(maxlen=RECENT)
        self._volumes: list[float | None] = []
        self._start_up = 0

    # ---- what the driver tells

    def resume(self, run: Run, study: optuna.Study) -> None:
        """Count what earlier sessions did, and which trials of the study come before all others."""
        trials = studies.scored(study)
        self.tokens = Account.of(run, study, self.ledger.sessions).tokens
        paid = studies.paid(trials)
        self.finished = len(paid)
        self._volumes = volumes(trials, self._search)
        self._start_up = start_up(study, self._search)
        for number in in_order(paid):
            attributes = trials[number].user_attrs
            took = _Took(attributes["tokens"], sum(attributes["seconds"].values()))
            whole = studies.PARTIAL not in attributes and "fault" not in attributes
            self._saw(took, whole=whole)

    def spend(self, result: Result) -> None:
        """A merge was scored on dev items."""
        took = _Took(result.tokens, sum(result.seconds.values()))
        answered = sum(len(rows) for rows in result.items.values())
        self._saw(took, whole=answered == self._shares.items)
        self.tokens += result.tokens
        self.done += 1
        self.done_tokens += result.tokens

    def told(self, volume: float | None) -> None:
        """A trial that counts is finished; the front has this hypervolume now (None: no front)."""
        self.finished += 1
        self.done_trials += 1
        self._volumes.append(volume)

    def _saw(self, took: _Took, *, whole: bool) -> None:
        self._recent.append(took)
        if whole:
            self._whole.append(took)

    # ---- what the driver asks

    @property
    def items(self) -> int:
        """Dev items that a trial is asked, if it is not stopped."""
        return self._shares.items

    def reserved(self, able: int) -> float:
        """Seconds that confirmation and test would take, if the search ended now."""
        if not self._recent:
            return 0.0
        members = min(self._search.file.confirm.max, able)
        whole = statistics.fmean(took.seconds for took in self._seen()[1])
        return whole * self._shares.rounds(members, self.ledger.own.workers)

    def allows(self, running: int, others: int, able: int) -> bool:
        """Whether another trial may start.

        Args:
            running: trials that are not ended.
            others: merges on their way that are no trials: baselines.
            able: trials that may be confirmed: full, and within the constraints.
        """
        self.reason = self._forbidden(running, others, able)
        return self.reason is None

    def _forbidden(self, running: int, others: int, able: int) -> str | None:
        limits = self._limits
        if limits.trials is not None and self.finished + running >= limits.trials:
            return "trials"
        if self._patient():
            return "patience"
        members = self._members(running, able)
        if limits.tokens is not None:
            more = self._expected_tokens(running, others, members)
            if self.tokens + more > limits.tokens:
                return "tokens"
        needed = self._expected_seconds(members)
        for name, left in self._seconds_left().items():
            if needed >= left:
                return name
        return None

    def _members(self, running: int, able: int) -> int:
        """How many trials may have to be confirmed: each that is not ended may join them."""
        return min(self._search.file.confirm.max, able + running + 1)

    def _expected_tokens(self, running: int, others: int, members: int) -> float:
        """Of all that is on its way, one more trial, and what follows the search."""
        trials = 1.0 + others + self._shares.reserve(members)
        # Faults and stopped trials do not tell how long answers are. If nothing does and nothing
        # is on its way that will, one trial is tried.
        if not self._whole:
            return self._shares.most_tokens * (running + trials) if running + others else 1.0
        trial, whole = (statistics.fmean(took.tokens for took in some) for some in self._seen())
        return trial * running + whole * trials

    def _expected_seconds(self, members: int) -> float:
        """Until one more trial, the confirmation and the test have ended."""
        if not self._recent:
            return 0.0
        whole = statistics.fmean(took.seconds for took in self._seen()[1])
        return whole * (1.0 + self._shares.rounds(members, self.ledger.own.workers))

    def _seen(self) -> tuple[deque[_Took], deque[_Took]]:
        """Merges as they were, and those with answers to all dev items (where there are any)."""
        return self._recent, self._whole or self._recent

    def _seconds_left(self) -> dict[str, float]:
        """By limit: of this session, and of all workers until their hours are used up."""
        left = {}
        limits = self._limits
        if limits.timeout is not None:
            left["timeout"] = self.began + seconds(limits.timeout) - self._clock()
        rate = self.ledger.own.priced_rate
        hours = {"gpu_hours": limits.gpu_hours}
        if limits.cost is not None and limits.gpu_hour_price is not None:
            hours["cost"] = limits.cost / limits.gpu_hour_price
        used = self.ledger.priced_hours
        left |= {k: (most - used) * 3600.0 / rate for k, most in hours.items() if most is not None}
        return left

    def _patient(self) -> bool:
        """Whether `patience` says that it is enough."""
        patience = self._limits.patience
        if patience is None or len(self._volumes) < self._start_up + patience:
            return False
        # A search that has no front yet is looking for one: that is not what patience is about.
        return self._volumes[-1] is not None and self._gained(patience) < GAIN

    def _gained(self, last: int) -> float:
        """What the last trials added to the hypervolume, as a share of it; a first front is all."""
        before = self._volumes[-1 - last] if len(self._volumes) > last else None
        if before is None:
            return 1.0
        now = self._volumes[-1]
        # On the edge of the references nothing has a volume, and nothing gains any.
        return 1.0 - before / now if now else 0.0

    def line(self) -> str | None:
        """Why the search ended, with numbers; None if no limit ended it."""
        limits = self._limits
        after = ", which another trial, confirmation and test would pass"
        match self.reason:
            case "trials":
                return f"{self.finished} of {limits.trials} trials are done"
            case "timeout":
                return f"{limits.timeout} of time{after}"
            case "tokens":
                return f"{self.tokens:,} of {limits.tokens:,} tokens are spent{after}"
            case "gpu_hours":
                hours = self.ledger.priced_hours
                unit = "GPU" if self.ledger.own.gpus else "worker"
                return f"{amount(hours)} of {limits.gpu_hours:g} {unit}-hours are used{after}"
            case "cost":
                assert limits.gpu_hour_price is not None
                paid = self.ledger.priced_hours * limits.gpu_hour_price
                return f"{paid:,.2f} of {limits.cost:g} are paid{after}"
            case "patience":
                assert limits.patience is not None
                last = f"the last {many(limits.patience, 'trial')} added"
                return (
                    f"{last} {self._gained(limits.patience):.1%}"
                    f" to the hypervolume, less than {GAIN:.0%}; raise budget.patience to search on"
                )
        return None


def most_tokens(prepared: Prepared, split: Split) -> int:
    """Tokens that the answers of one merge can have on a split, where we ask for them."""
    tasks = [task for task in prepared.tasks.values() if task.generates]
    return sum(task.answers(split) * task.config.generate.max_tokens for task in tasks)


def notes(search: Search, tasks: Mapping[str, Task]) -> list[str]:
    """What may surprise in the limits, one line each."""
    limits = search.file.budget
    others = (limits.trials, limits.timeout, limits.gpu_hours, limits.cost, limits.patience)
    asked = [task for task in tasks.values() if task.asked("dev")]
    if limits.tokens is None or any(others) or any(_generates(task) for task in asked):
        return []
    return [
        "no dev item is answered with tokens, so budget.tokens never ends the search; add"
        " budget.trials or timeout"
    ]


def _generates(task: Task) -> bool:
    """Whether tokens may be generated; tasks that ask in a way of their own may do so too."""
    return task.generates or any(scorer.reads == "engine" for scorer in task.scorers)


def until(limits: BudgetEntry) -> str:
    """What ends a search, in words."""
    told = [many(limits.trials, "trial")] if limits.trials else []
    told += [limits.timeout] if limits.timeout else []
    told += [f"{limits.tokens:,} tokens"] if limits.tokens else []
    told += [f"{limits.gpu_hours:g} GPU-hours"] if limits.gpu_hours else []
    told += [f"a cost of {limits.cost:g}"] if limits.cost else []
    if limits.patience:
        gain = "gains" if limits.patience == 1 else "in a row gain"
        told += [f"{many(limits.patience, 'trial')} {gain} nothing"]
    return " or ".join(told) or "stopped"


def start_up(study: optuna.Study, search: Search) -> int:
    """Trials that begin a search with nothing learned: those put first, or the sampler's own."""
    first = sum("fixed_params" in t.system_attrs for t in study.get_trials(deepcopy=False))
    entry = search.file.sampler
    return max(first, SAMPLERS[entry.name].start(entry.options))


def in_order(trials: Mapping[int, FrozenTrial]) -> list[int]:
    """Numbers of finished trials, in the order in which they ended."""

    def ended(number: int) -> tuple[float, int]:
        return (studies.ended(trials[number]) or 0.0, number)

    return sorted(trials, key=ended)


def volumes(trials: Mapping[int, FrozenTrial], search: Search) -> list[float | None]:
    """The hypervolume of the front after each trial that counts, in the order in which they ended.

    None where there was no front yet. Trials that were taken over are on the front too.
    """
    progress = Progress(search)
    found: list[float | None] = []
    for number in in_order(trials):
        progress.add(trials[number])
        if studies.counts(trials[number]):
            found.append(progress.volume if progress.front else None)
    return found
