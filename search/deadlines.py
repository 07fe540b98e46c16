"""How long a worker may take for what it does before it is taken to hang.

A hung generation must not hold an accelerator for the night, and a slow one must not be killed: by
default a deadline is several times what the same took before, and each try has twice the last's.
"""

from __future__ import annotations

import time

from search.worker import Step

FACTOR = 5.0
"""How many times the slowest of its kind so far a block may take."""

FLOOR_S = 15 * 60.0
"""No deadline of our own is shorter."""

FIRST_S = 4 * 3600.0
"""For what nothing is known of yet: the first block of a task, the first merge."""

AWAY_S = 30.0
"""A driver that does not look at its workers for longer was away itself."""


class Deadlines:
    """Deadlines of one session.

    Args:
        block: seconds for a block or a merge, as the search file says; None: our own.
        start: seconds for an engine's start.
    """

    def __init__(self, block: float | None, start: float) -> None:
        self._block = block
        self._start = start
        self._slowest: dict[tuple[str, str], dict[int, float]] = {}  # by items at once

    def took(self, step: Step, seconds: float) -> None:
        """A step came to its end."""
        known = self._slowest.setdefault((step.at, step.task), {})
        count = max(1, len(step.items))
        known[count] = max(seconds, known.get(count, 0.0))

    def of(self, step: Step, tries: int = 0) -> float:
        """Seconds that a step may take on a job's next try after `tries` that were too slow.

        More items take at most in proportion longer than fewer, and fewer no longer than more.
        """
        if step.at == "start":
            limit = self._start
        elif step.at == "end":  # no work of the job's
            limit = FLOOR_S
        elif self._block is not None:
            limit = self._block
        else:
            count = max(1, len(step.items))
            known = self._slowest.get((step.at, step.task), {})
            most = [seconds * max(1.0, count / had) for had, seconds in known.items()]
            limit = max(FLOOR_S, FACTOR * min(most)) if most else FIRST_S
        return float(limit * 2**tries)


class Presence:
    """Notices that the driver's own process stood still: stopped, suspended, or without a database.

    What its workers told meanwhile is heard late, so that time counts for no deadline.
    """

    def __init__(self) -> None:
        self._seen = time.monotonic()

    def missed(self, planned: float = 0.0) -> float:
        """Seconds since the last call beyond those that were `planned`; 0 if there are few."""
        now = time.monotonic()
        gap, self._seen = now - self._seen - planned, now
        return gap if gap > AWAY_S else 0.0
