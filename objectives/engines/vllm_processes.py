"""The child processes of this one: which there are, and how they end."""

from typing import Any

_PATIENCE = 10.0
"""Seconds that a child gets to end by itself, and again after it was asked to."""


def children() -> list[Any]:
    """All descendants that are alive, as `psutil.Process`; vLLM brings psutil."""
    import psutil

    return list(psutil.Process().children(recursive=True))


def end(processes: list[Any]) -> None:
    """Wait until all have ended; those that do not are asked, then killed."""
    if not processes:
        return
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=_PATIENCE)
    for process in alive:
        _tell(process.terminate)
    _, alive = psutil.wait_procs(alive, timeout=_PATIENCE)
    for process in alive:
        _tell(process.kill)
    psutil.wait_procs(alive, timeout=_PATIENCE)


def _tell(message: Any) -> None:
    import contextlib

    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        message()
