"""Where the driver's time goes: seconds by what it does."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds and times by name.

    Attributes:
        seconds: of each name.
        times: how often each.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.times: dict[str, int] = defaultdict(int)

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """The block's seconds count for `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began
            self.times[name] += 1

    def line(self) -> str:
        """All of it in one line."""
        return ", ".join(
            f"{name} {spent:.2f} s in {self.times[name]}" for name, spent in self.seconds.items()
        )
