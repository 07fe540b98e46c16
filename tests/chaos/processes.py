"""Processes of a chaos run: none of them gets out of sight.

The run is the reaper of all that descend from it (`PR_SET_CHILD_SUBREAPER`): a process whose parent
is killed becomes a child of this one, so that the descendants of this process are all that is left
of the run, whatever they call themselves and whichever session they are in.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36

RAY = ("raylet", "gcs_server", "ray_process_reaper", "/ray/", "ray::IDLE", "setup_worker.py")
"""What a cluster consists of whether or not anybody uses it."""


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this kernel has no child subreapers")


def line_of(process: psutil.Process) -> str:
    """Its command line; empty for a zombie and for what is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def descendants(what: Callable[[str], bool] = bool) -> list[psutil.Process]:
    """Living descendants whose command line is `what`, the oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and what(line_of(process)):
                found.append((process.create_time(), process.pid, process))
        except psutil.Error:
            continue
    return [process for *_, process in sorted(found, key=lambda one: one[:2])]


def workers() -> list[psutil.Process]:
    """Ray actors of the search."""
    return descendants(lambda line: line.startswith("ray::Worker"))


def engines() -> list[psutil.Process]:
    """Children that answer."""
    return descendants(lambda line: "tests/chaos/child.py" in line)


def bury(known: set[int]) -> None:
    """Reap zombies that were adopted; those in `known` have somebody who waits for them."""
    for process in psutil.Process().children():
        try:
            zombie = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if zombie and process.pid not in known:
            try:
                os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:
                continue


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of a log."""
    if not path.is_file():
        return f"({path.name} is not there)"
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
