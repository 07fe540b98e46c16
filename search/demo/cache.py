"""Keep trained models in a folder: whole, current and vouched for by a manifest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from .process import DemoError

MIN_REASONING = 0.9

_MANIFEST = "manifest.json"
_SHARED = ("tongues.py", "world.py", "corpora.py", "training.py", "process.py", "cache.py")


def cached_root(content: str) -> Path:
    """The folder of the user's cache for models of this content hash."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mergefront" / "demo" / content[:16]


def ensure(
    root: Path, stages: Sequence[str], facts: dict[str, Any], make: Callable[[Path], float | None]
) -> None:
    """Have models in `root`, whole and current, calling `make` unless they are there.

    Several processes may call this at once for the same root: one makes, the others wait. Other
    files in the folder are left alone.

    Args:
        root: folder of the models.
        stages: their folders' names.
        facts: what the manifest says; `content` is their content hash.
        make: trains the models in a scratch folder and returns the reasoning expert's score.

    Raises:
        DemoError: training failed, or made a reasoning expert that does not reason.
        OSError: the folder cannot be written.
    """
    content = facts["content"]
    # Without the lock, so that a cache that cannot be written can still be read.
    if is_current(root, content):
        return
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        if is_current(root, content):
            return
        for abandoned in root.glob(".training-*"):  # of a process that was killed: we hold the lock
            shutil.rmtree(abandoned, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(dir=root, prefix=".training-"))
        try:
            score = make(scratch) or 0.0
            require_reasoning(score)
            _install(scratch, root, stages, {**facts, "reasoning": score})
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def content_hash(seed: int, *sources: str) -> str:
    """Name what models are made of: seed, code, torch and transformers (sha256, hex).

    Args:
        seed: of weights and corpora.
        sources: files beside this one, added to those that all the demo's models share.
    """
    digest = hashlib.sha256(f"seed {seed}\n".encode())
    for package in ("torch", "transformers"):
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    for source in (*_SHARED, *sources):
        digest.update(Path(__file__).with_name(source).read_bytes())
    return digest.hexdigest()


def is_current(root: Path, content: str) -> bool:
    """Tell whether `root` holds a whole trio with this content hash, its files unchanged."""
    try:
        manifest = json.loads((root / _MANIFEST).read_text(encoding="utf-8"))
        return manifest["content"] == content and all(
            _sha256(root / name) == digest for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def require_reasoning(score: float) -> None:
    """Refuse a reasoning expert that learnt too little for a demo.

    Raises:
        DemoError: `score`, the share of right answers, is under MIN_REASONING.
    """
    if score < MIN_REASONING:
        raise DemoError(
            f"the demo's reasoning expert solves {score:.0%} of its problems and needs"
            f" {MIN_REASONING:.0%}: try another seed"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _install(scratch: Path, root: Path, stages: Sequence[str], facts: dict[str, Any]) -> None:
    """Move the trained models into `root`; the manifest goes first and comes last.

    So whenever this is cut short, no manifest vouches for what lies there.
    """
    made = sorted(path for stage in stages for path in (scratch / stage).rglob("*"))
    files = {path.relative_to(scratch).as_posix(): _sha256(path) for path in made if path.is_file()}
    (root / _MANIFEST).unlink(missing_ok=True)
    for stage in stages:
        if (root / stage).exists():
            (root / stage).replace(scratch / f"old-{stage}")
        (scratch / stage).replace(root / stage)
    manifest = scratch / _MANIFEST
    manifest.write_text(json.dumps({**facts, "files": files}, indent=1) + "\n", encoding="utf-8")
    manifest.replace(root / _MANIFEST)
