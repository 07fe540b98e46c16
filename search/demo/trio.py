"""Keep the demo's three models: find them in the cache, or have them trained.

Training (`training`) runs in a child process on one thread. The same seed gives the same weight
bytes on the same machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import cache
from .process import Progress, Training, follow

STAGES = ("base", "language", "reasoning")


@dataclass(frozen=True)
class Trio:
    """Where the three models lie, each a Hugging Face model directory."""

    root: Path
    base: Path
    language: Path
    reasoning: Path


def ensure_trio(
    root: Path | None = None, *, seed: int = 0, progress: Progress | None = None
) -> Trio:
    """Return the trained trio, training it first unless it is there, whole and current.

    Several processes may call this at once for the same root: one trains, the others wait.

    Args:
        root: Folder of the trio. None is a folder of the user's cache that is named for the seed,
            this code and the versions of torch and transformers, so that different trios lie side
            by side. A given folder holds one trio; one that was made otherwise is replaced, and
            other files in the folder are left alone.
        seed: Seed of the first weights and of every corpus.
        progress: Called in this process with stage (`base`, `language` or `reasoning`), steps
            done and steps in all, while training goes on; never called for a trio that is there.

    Raises:
        DemoError: Training failed, or made a reasoning expert that does not reason.
        OSError: The folder cannot be written.
    """
    content = content_hash(seed)
    root = root or cache.cached_root(content)

    def train(folder: Path) -> float | None:
        # All in one process: another import would cost as much as it saves.
        with Training("trio", STAGES, folder, seed) as training:
            return follow([training], progress)

    cache.ensure(root, STAGES, {"content": content, "seed": seed}, train)
    return Trio(root, *(root / stage for stage in STAGES))


def content_hash(seed: int) -> str:
    """Name what a trio is made of (sha256, hex)."""
    return cache.content_hash(seed, "trio.py")
