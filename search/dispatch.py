"""How many trials a second one driver can propose and tell, and whether workers would outrun it.

Half of the ceiling is where waiting begins to show: trials end in bunches, not in step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from search.config import Search
from search.samplers import proposers

ENOUGH = 0.5
"""Of the ceiling: what workers may ask for before `check` warns."""


@dataclass(frozen=True)
class Ceiling:
    """What a driver reached.

    Attributes:
        trials: in the study, when it was measured: proposing grows slower with them.
        per_second: trials asked for and told.
    """

    trials: int
    per_second: float


CEILINGS: dict[tuple[str, str], tuple[Ceiling, ...]] = {
    # sampler, storage: fewest trials first. `make bench-dispatch` on two cores of a virtual machine
    # that other work kept busy (benchmarks/dispatch.md), rounded down; the GP's last is a spike's.
    ("gp", "sqlite"): (Ceiling(50, 1.9), Ceiling(100, 1.6), Ceiling(250, 0.75), Ceiling(1000, 0.1)),
    ("tpe", "sqlite"): (Ceiling(100, 11.0), Ceiling(1000, 8.5), Ceiling(5000, 7.5)),
    ("nsga2", "sqlite"): (Ceiling(1000, 12.0), Ceiling(5000, 11.0)),
    ("random", "sqlite"): (Ceiling(5000, 11.0),),
    ("tpe", "postgresql"): (Ceiling(1000, 10.0),),
    ("nsga2", "postgresql"): (Ceiling(1000, 10.0),),
    ("random", "postgresql"): (Ceiling(1000, 10.0),),
}


def ceiling(search: Search) -> tuple[str, Ceiling] | None:
    """Who proposes most slowly in a search, and the ceiling; None where nothing was measured."""
    storage = (search.file.storage or "sqlite").partition(":")[0].partition("+")[0]
    found = []
    for name, ends in proposers(search).items():
        if name == "ehvi":
            name, ends = "tpe", None  # takes over while workers wait (`search.pace`)
        trials = search.file.budget.trials if ends is None else ends
        if known := CEILINGS.get((name, storage)):
            found.append((f"{name} on {storage}", _at(known, trials)))
    return min(found, key=lambda pair: pair[1].per_second, default=None)


def _at(known: tuple[Ceiling, ...], trials: int | None) -> Ceiling:
    """With so many trials: between two that were measured, on the line between their logarithms.

    Beyond the largest measured number, and for a search without end, it is the largest's: the true
    one is lower.
    """
    if trials is None or trials >= known[-1].trials:
        return known[-1]
    above = next(index for index, held in enumerate(known) if held.trials > trials)
    if above == 0:
        return known[0]
    one, other = known[above - 1], known[above]
    part = math.log(trials / one.trials) / math.log(other.trials / one.trials)
    return Ceiling(trials, one.per_second * (other.per_second / one.per_second) ** part)


def warning(search: Search, workers: int | None, seconds: float | None) -> str | None:
    """What to know of the driver's ceiling; None where nothing is.

    Args:
        search: for sampler, storage and number of trials.
        workers: how many; None if that is not known before the cluster is.
        seconds: that a trial takes on average, from an earlier session; None if there was none.
    """
    found = ceiling(search)
    if found is None:
        return None
    who, held = found
    what = f"{who} proposes about {held.per_second:.2g} trials a second at {held.trials:,} trials"
    most = ENOUGH * held.per_second
    count = 1 if workers is None else workers
    whom = f"{count} worker{'s' * (count != 1)}"
    if seconds is None:
        whom += ", and more of them in proportion," if workers is None else ""
        return f"trials under {_short(count / most)} s would let {whom} wait: {what}"
    if count / seconds <= most:
        return None
    return (
        f"{whom} with trials of {_short(seconds)} s ask for {_short(count / seconds)} a second and"
        f" will wait: {what}; give fewer workers, more items a trial, or another sampler"
    )


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
