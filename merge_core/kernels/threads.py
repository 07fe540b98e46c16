"""Spreading work over threads: numba's kernels and torch both let go of the interpreter's lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def spread(
    run: Callable[[int, int], Any], size: int, shortest: int, longest: int, step: int = 1
) -> list[Any]:
    """`run` over [first, last) spans of `size`, in as many threads as torch uses; in order.

    Spans are at most `longest`, multiples of `step`, and equally many for each thread; below twice
    `shortest` there is one.
    """
    if size == 0:
        return []
    threads = 1 if _own.thread else torch.get_num_threads()
    if threads == 1 or size < 2 * shortest:
        pieces = -(-size // longest)
    else:
        pieces = -(-size // (longest * threads)) * threads
    length = -(-size // (pieces * step)) * step
    spans = [(first, min(first + length, size)) for first in range(0, size, length)]
    if threads == 1 or len(spans) == 1:
        return [run(first, last) for first, last in spans]
    futures = [_pool(threads).submit(run, first, last) for first, last in spans]
    try:
        return [future.result() for future in futures]
    finally:
        # Whatever ended this, they write into memory that is lent to others next.
        for future in futures:
            future.cancel()
        wait(futures)


def submit(run: Callable[..., Result], *arguments: Any) -> Future[Result]:
    """`run` in one of the threads, alone: what it spreads stays in that thread."""
    return _pool(torch.get_num_threads()).submit(run, *arguments)


def beside(run: Callable[..., Result], *arguments: Any) -> Callable[[], Result]:
    """`run` in a thread of its own, for what is long and can be given up: it ends with the process.

    Returns:
        What waits for the result, or raises what `run` raised.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(run(*arguments))
        except BaseException as error:  # noqa: BLE001 (raised where the result is asked for)
            future.set_exception(error)

    threading.Thread(target=work, name="beside", daemon=True).start()
    return future.result


class _Own(threading.local):
    """Whether this thread is one of ours: waiting for the others it could wait for itself."""

    thread = False


_own = _Own()


def _start() -> None:
    _own.thread = True


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="merge", initializer=_start)


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads are not inherited
