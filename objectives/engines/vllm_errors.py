"""What vLLM and its processes raise, as ours: what a fresh engine may mend, and what users must.

Errors cross vLLM's processes as text, so that what they were is told by what they say.
"""

import contextlib
import importlib
from pathlib import Path
from typing import Any

import torch

from objectives.errors import EngineDiedError, EngineError, EngineMemoryError

_OF_MEMORY = (
    "out of memory",  # CUDA's
    "can't allocate memory",  # torch's, on a CPU
    "not enough memory",
    "on startup is less than",  # what the engine may use was not free when it started
    "No available memory for the cache blocks",
)
_OF_PROCESSES = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "Executor failed",
)
_CALL = ("Call to ", " method failed")
"""Beginning and middle of what a call by name raises if a worker did not answer."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error, or the one whose text it carries, was for want of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and any(mark in str(error) for mark in _OF_MEMORY)


def tells_of_death(error: BaseException) -> bool:
    """Whether an error says that a process of vLLM has ended.

    Merging answers its errors as data: a call that fails all the same had nobody to answer it.
    """
    said = str(error)
    begin, middle = _CALL
    return any(mark in said for mark in _OF_PROCESSES) or (
        said.startswith(begin) and middle in said
    )


def at_start(path: Path, error: Exception) -> EngineError:
    """Why vLLM did not start on the model in `path`."""
    if lacks_memory(error):
        return EngineMemoryError(f"{path}: vLLM does not start for want of memory: {line(error)}")
    if tells_of_death(error):
        return EngineDiedError(
            f"{path}: a process of vLLM ended while it started: {line(error)}; its own log says why"
        )
    return EngineError(f"{path}: vLLM does not start: {line(error)}")


def plain(error: Exception) -> dict[str, str]:
    """An error as plain data: its class by module and name, and its message."""
    found = MemoryError if lacks_memory(error) else type(error)
    return {
        "kind": f"{found.__module__}:{found.__qualname__}",
        "message": " ".join(str(error).split()),
    }


def revived(kind: str, message: str) -> Exception:
    """An error of another process, as what it was there: a trial's fault stays a trial's fault."""
    module, _, name = kind.partition(":")
    found: Any = None
    with contextlib.suppress(ImportError, AttributeError):
        found = getattr(importlib.import_module(module), name) if module else None
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return EngineError(message if not kind else f"{name}: {message}")
    if issubclass(found, MemoryError):
        return EngineMemoryError(f"merging inside vLLM ran out of memory: {message}")
    try:
        return found(message)
    except TypeError:  # it takes other arguments than a message
        return EngineError(f"{name}: {message}")


def line(error: BaseException) -> str:
    """What an error says, in one line of bounded length."""
    said = " ".join(str(error).split())[:300]
    return said or type(error).__name__
