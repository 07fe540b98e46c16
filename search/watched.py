"""What a driver has come to, as a status: what the live panel shows."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from search.live import Phase
from search.outlook import RECENT, outlook
from search.results import Result, values_of
from search.status import Status, best_of, points_of
from search.study import DUPLICATE_OF, failed
from search.view import baseline_files

if TYPE_CHECKING:
    from search.driver import Driver


class Watched:
    """What a driver has come to, for the panel: kept trial by trial, so that looking is cheap.

    Args:
        driver: that has just started.

    Attributes:
        began: when its session began, epoch seconds.
        working: when its first worker began to work; None before.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.began = time.time() - (time.monotonic() - driver.budget.began)
        self.working: float | None = None
        self._ended: deque[tuple[float, int]] = deque(maxlen=RECENT + 1)
        told = driver.study.get_trials(deepcopy=False)
        self._values = {
            t.number: tuple(t.values)
            for t in told
            if t.state == TrialState.COMPLETE and not {"fault", DUPLICATE_OF} & t.user_attrs.keys()
        }
        self._failed = sum(map(failed, told))
        self._faults = driver.run.incidents.counts
        found = {label: Result.load(path) for label, path in baseline_files(driver.run).items()}
        self._baselines = {
            label: values_of(result, driver.search)
            for label, result in found.items()
            if result.fault is None
        }

    def add(self, what: str, result: Result | None) -> None:
        """A job ended."""
        kind, _, label = what.partition(" ")
        if self.working is None and result is not None:
            self.working = time.time() - sum(result.seconds.values())
        if result is None:
            self._failed += kind == "trial"
        elif kind == "baseline":
            if result.fault is None:
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
            began=self.began,
            at=now,
            finished=driver.finished,
            front=tuple(front),
            volume=driver.volume,
            best=best_of(search, {n: self._values[n] for n in front}),
            failed=self._failed,
            faults=self._faults,
            last=self._ended[-1][0] if self._ended else None,
            workers=driver.pool.doing() if phase in ("searching", "stopping") else {},
            items=budget.items,
            outlook=outlook(
                search.file.budget,
                list(self._ended),
                now=now,
                began=self.began,
                working=self.working,
                finished=driver.finished,
                tokens=budget.tokens,
                hours=budget.ledger.priced_hours,
                per_hour=own.priced_rate,
                reserve=budget.reserved(driver.progress.able),
                searching=phase == "searching",
            ),
            points=points_of(search, self._values, front, self._baselines),
        )
