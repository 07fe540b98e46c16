"""What a driver's process does with signals and threads while it searches."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """The Gaussian process asks for little at a time: several threads wait more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """First Ctrl-C (or SIGTERM): `stop`. Second: KeyboardInterrupt."""

    def first(signum: int, _: object) -> None:
        stop()
        signal.signal(signum, signal.default_int_handler)

    before = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
