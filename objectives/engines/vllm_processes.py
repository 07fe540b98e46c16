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


def alive(process: Any) -> bool:
    """Whether a process still runs; one that nobody has waited for yet (a zombie) does not."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(processes: list[Any]) -> None:
    """Wait until all have ended; those that do not are asked, then killed."""
    if not processes:
        return
    import psutil

    _, left = psutil.wait_procs(processes, timeout=_PATIENCE)
    for tell in ("terminate", "kill"):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, tell)()
        _, left = psutil.wait_procs(left, timeout=_PATIENCE)
