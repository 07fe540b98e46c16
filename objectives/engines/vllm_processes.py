"""The child processes of this one: which there are, and how they end."""

import contextlib
from multiprocessing import resource_tracker
from typing import Any

_PATIENCE = 10.0
"""Seconds that a child gets to end by itself, and again after it was asked to."""


def children() -> list[Any]:
    """All descendants that are alive, as `psutil.Process`; vLLM brings psutil.

    Python's own, which keeps account of shared memory until this process ends, is not listed.
    """
    import psutil

    own = getattr(resource_tracker._resource_tracker, "_pid", None)
    return [child for child in psutil.Process().children(recursive=True) if child.pid != own]


def end(processes: list[Any]) -> None:
    """Wait until all have ended; those that do not are asked, then killed."""
    if not processes:
        return
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=_PATIENCE)
    for tell in ("terminate", "kill"):
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, tell)()
        _, alive = psutil.wait_procs(alive, timeout=_PATIENCE)
