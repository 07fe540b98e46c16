"""Whether proposals keep up with the workers."""

from __future__ import annotations

import statistics
from collections import deque

from search.dispatch import ENOUGH

_RECENT = 16


class Pace:
    """What proposals and trials take lately."""

    def __init__(self) -> None:
        self._asks: deque[float] = deque(maxlen=_RECENT)
        self._trials: deque[float] = deque(maxlen=_RECENT)
        self._hurried = False

    def asked(self, seconds: float) -> None:
        """A recipe was proposed; those made in a hurry do not tell what the others take."""
        if not self._hurried:
            self._asks.append(seconds)

    def ended(self, seconds: float) -> None:
        """A worker was busy for so long."""
        self._trials.append(seconds)

    def hurried(self, places: int, workers: int) -> bool:
        """Whether the next proposal has to be a quick one.

        It has where another worker waits beside the one that it is for, and where proposals as
        they were lately keep the driver busy for more than `ENOUGH` of the time.
        """
        self._hurried = (
            places > 1
            and bool(self._asks and self._trials)
            and workers * statistics.fmean(self._asks) > ENOUGH * statistics.fmean(self._trials)
        )
        return self._hurried
