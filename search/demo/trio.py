"""Keep the demo's three models: find them in the cache, or have them trained.

Training (`training`) runs in a child process on one thread: thread counts and the flushing of
denormal numbers are settings of a whole process, and the caller's merges must stay exact to the
bit. The same seed gives the same weight bytes on the same machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from filelock import FileLock

Stage = Literal["base", "language", "reasoning"]
STAGES: tuple[Stage, Stage, Stage] = ("base", "language", "reasoning")

Progress: TypeAlias = Callable[[str, int, int], None]

MIN_REASONING = 0.9

_MANIFEST = "manifest.json"


class DemoError(Exception):
    """The demo's models could not be made; the message is one line for the user."""


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
    if root is None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(cache) / "mergefront" / "demo" / content[:16]
    trio = Trio(root, *(root / stage for stage in STAGES))
    # Without the lock, so that a cache that cannot be written can still be read.
    if is_current(root, content):
        return trio
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        if is_current(root, content):
            return trio
        for abandoned in root.glob(".training-*"):  # of a process that was killed: we hold the lock
            shutil.rmtree(abandoned, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(dir=root, prefix=".training-"))
        try:
            score = _train_all(scratch, seed, progress)
            require_reasoning(score)
            _install(scratch, root, {"content": content, "seed": seed, "reasoning": score})
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return trio


def content_hash(seed: int) -> str:
    """Name what a trio is made of: the seed, this code, torch and transformers (sha256, hex)."""
    digest = hashlib.sha256(f"seed {seed}\n".encode())
    for package in ("torch", "transformers"):
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    for source in ("world.py", "corpora.py", "training.py", "trio.py"):
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


# --- Files ---------------------------------------------------------------------------------------


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _install(scratch: Path, root: Path, facts: dict[str, object]) -> None:
    """Move the trained models into `root`; the manifest goes first and comes last.

    So whenever this is cut short, no manifest vouches for what lies there.
    """
    made = sorted(path for stage in STAGES for path in (scratch / stage).rglob("*"))
    files = {path.relative_to(scratch).as_posix(): _sha256(path) for path in made if path.is_file()}
    (root / _MANIFEST).unlink(missing_ok=True)
    for stage in STAGES:
        if (root / stage).exists():
            (root / stage).replace(scratch / f"old-{stage}")
        (scratch / stage).replace(root / stage)
    manifest = scratch / _MANIFEST
    manifest.write_text(json.dumps({**facts, "files": files}, indent=1) + "\n", encoding="utf-8")
    manifest.replace(root / _MANIFEST)


# --- The training process ------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """One line from the training process: how far it is and, at its end, how well it did."""

    stage: Stage
    done: int
    total: int
    score: float | None = None


def _train_all(folder: Path, seed: int, progress: Progress | None) -> float:
    """Train the base, then both experts; return the reasoning expert's score."""
    score = 0.0
    for report in run_process(STAGES, folder, seed):
        if progress is not None:
            progress(report.stage, report.done, report.total)
        if report.score is not None:
            score = report.score
    return score


def run_process(stages: Sequence[str], folder: Path, seed: int) -> Iterator[Report]:
    """Train the stages one after another in one process and yield what it reports, as it comes.

    One, although the experts could be trained side by side: importing transformers costs a
    process as much as training an expert. A child whose parent was killed ends at its next
    report, on the closed pipe.
    """
    source = Path(__file__).resolve().parents[2]
    environment = dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{source}{os.pathsep}{inherited}" if inherited else str(source)
    command = [sys.executable, "-m", "search.demo.training", ",".join(stages), str(folder)]
    stage = stages[0]
    path = folder / "training.log"
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(path.open("wb"))
        child = subprocess.Popen(
            [*command, str(seed)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            encoding="utf-8",
        )
        stack.callback(_end, child)
        assert child.stdout is not None
        for line in stack.enter_context(child.stdout):
            report = Report(**json.loads(line))
            stage = report.stage
            yield report
        if child.wait() != 0:
            log_lines = path.read_text(errors="replace").split("\n")
            last = next((line for line in reversed(log_lines) if line.strip()), "no message")
            raise DemoError(f"training the demo's {stage} model failed: {last}")


def _end(child: subprocess.Popen[str]) -> None:
    """Leave no child behind, whatever ended the parent's loop."""
    if child.poll() is None:
        child.kill()
    child.wait()
