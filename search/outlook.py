"""How fast a search goes, what it costs, and when which limit of its budget ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.file import BudgetEntry
from search.file_texts import seconds

RECENT = 32
"""Trials whose pace is taken to go on."""


@dataclass(frozen=True)
class Outlook:
    """What a search comes to if it goes on as it did lately.

    Attributes:
        trials_per_hour: None before a trial has ended.
        tokens_per_second: generated for trials; None where none are.
        left: seconds until the run has ended, confirmation and test included; None if not known.
        limit: the key of `budget` that ends it then.
        cost: so far, at the price given; None without one.
        projected: the cost at the end.
    """

    trials_per_hour: float | None = None
    tokens_per_second: float | None = None
    left: float | None = None
    limit: str | None = None
    cost: float | None = None
    projected: float | None = None


def outlook(
    limits: BudgetEntry,
    ended: Sequence[tuple[float, int]],
    *,
    now: float,
    began: float,
    working: float | None,
    finished: int,
    tokens: int,
    hours: float,
    per_hour: float,
    reserve: float,
    searching: bool = True,
) -> Outlook:
    """The outlook of one session.

    Args:
        limits: of the search.
        ended: trials of this session, oldest first: when (epoch seconds), and their tokens.
        now: epoch seconds; of a search that has ended, when it did. Where no more trials are
            started the pace is told up to the last: confirmation and test are no part of it.
        began: when the session began, epoch seconds.
        working: when its first worker began to work; None before.
        finished: trials of all sessions that count.
        tokens: generated in all sessions, for whatever.
        hours: that are paid for so far (`Session.priced_hours`).
        per_hour: how many of those an hour takes: workers x GPUs.
        reserve: seconds that confirmation and test will take.
        searching: whether trials are still started; otherwise nothing is foretold.
    """
    last = list(ended[-RECENT:])
    since = working or began
    since = since if len(ended) <= RECENT else ended[-RECENT - 1][0]
    took = max(1e-9, (now if searching or not last else last[-1][0]) - since)
    rate = len(last) / took if last else None
    speed = sum(some for _, some in last) / took if last else 0.0
    price = limits.gpu_hour_price
    cost = None if price is None else hours * price
    told = Outlook(None if rate is None else rate * 3600.0, speed or None, cost=cost)
    if not searching:
        return told
    ends: dict[str, float] = {}
    if limits.trials is not None and rate:
        ends["trials"] = max(0, limits.trials - finished) / rate + reserve
    if limits.timeout is not None:
        ends["timeout"] = began + seconds(limits.timeout) - now
    if limits.tokens is not None and speed:
        ends["tokens"] = (limits.tokens - tokens) / speed
    most = {"gpu_hours": limits.gpu_hours}
    if limits.cost is not None and price is not None:
        most["cost"] = limits.cost / price
    ends |= {k: (v - hours) * 3600.0 / per_hour for k, v in most.items() if v is not None}
    if not ends:
        return told
    limit = min(ends, key=lambda name: ends[name])
    left = max(0.0, ends[limit])
    return Outlook(
        told.trials_per_hour,
        told.tokens_per_second,
        left,
        limit,
        cost,
        None if cost is None or price is None else cost + left / 3600.0 * per_hour * price,
    )
