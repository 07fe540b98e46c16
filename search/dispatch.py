"""How many trials a second one driver can propose and tell, and whether workers would outrun it.

Half of the ceiling is where waiting begins to show: trials end in bunches, not in step.
"""

from __future__ import annotations

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
    # sampler, storage: fewest trials first. From the first spikes: ask .3, .4 and 10 s (GP), 30 to
    # 90 ms (SQLite); tell 5 ms.
    ("gp", "sqlite"): (Ceiling(50, 3.3), Ceiling(200, 2.5), Ceiling(1000, 0.1)),
    ("tpe", "sqlite"): (Ceiling(1000, 10.0),),
    ("random", "sqlite"): (Ceiling(1000, 10.0),),
}


def ceiling(search: Search) -> tuple[str, Ceiling] | None:
    """Who proposes most slowly in a search, and the ceiling; None where nothing was measured.

    It is the one measured at as many trials as are proposed, or the next more. Beyond the largest
    measured number, and for a search without end, it is the largest's: the true one is lower.
    """
    storage = (search.file.storage or "sqlite").partition(":")[0].partition("+")[0]
    found = []
    for name, ends in proposers(search).items():
        trials = search.file.budget.trials if ends is None else ends
        known = CEILINGS.get((name, storage), ())
        enough = [held for held in known if trials is not None and held.trials >= trials]
        found += [(f"{name} on {storage}", held) for held in (*enough, *known[-1:])[:1]]
    return min(found, key=lambda pair: pair[1].per_second, default=None)


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
    what = f"{who} proposes {held.per_second:g} trials a second when there are {held.trials:,}"
    most = ENOUGH * held.per_second
    count = 1 if workers is None else workers
    if seconds is None:
        whose = "each worker" if workers is None else _workers(count)
        return f"trials under {count / most:.2g} s for {whose} would make them wait: {what}"
    if count / seconds <= most:
        return None
    return (
        f"{_workers(count)} with trials of {seconds:.2g} s ask for {count / seconds:.2g} a second"
        f" and will wait: {what}; give fewer workers, more items a trial, or another sampler"
    )


def _workers(count: int) -> str:
    return f"{count} worker{'s' * (count != 1)}"
