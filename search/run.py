"""The run folder: everything a search leaves behind, and what makes it resumable.

runs/<name>/
    search.yaml      the search file as it was when the run began
    run.json         what is frozen, and the contents of the sources by sha256
    study.db         the Optuna study (opens in optuna-dashboard)
    trials/N.json    per-item scores and texts of trial N
    baselines/       the same for the baselines on the dev items
    confirm/, test/  the same on held-out items
    confirmed.json   the front again, from confirmed scores
    mlflow.db, mlartifacts/
    front.html, front.png, recipe.yaml, run.log
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from merge_core import Checkpoint, Recipe
from merge_core.sources import digest_of
from merge_core.yaml_io import load_yaml, one_line, write_atomic
from search.config import FROZEN, Search, load, parse
from search.errors import ConfigError, RunError

VERSION = 1
log = logging.getLogger("mergefront")


@dataclass(frozen=True)
class Run:
    """One run folder and the search it holds.

    Attributes:
        folder: absolute.
        search: as frozen in the folder, with what may change taken from the file of this call.
    """

    folder: Path
    search: Search

    @property
    def name(self) -> str:
        """The folder's name: the run's name in Optuna and MLflow."""
        return self.folder.name

    # ---- places

    def trial(self, number: int) -> Path:
        """Result of a trial."""
        return self.folder / "trials" / f"{number:06d}.json"

    def baseline(self, label: str) -> Path:
        """Result of a baseline on the dev items."""
        return self.folder / "baselines" / f"{_file_name(label)}.json"

    def held_out(self, split: str, fingerprint: str) -> Path:
        """Result of a merge on the confirm or test items."""
        return self.folder / split / f"{fingerprint}.json"

    @property
    def confirmed(self) -> Path:
        """The confirmed front."""
        return self.folder / "confirmed.json"

    @property
    def storage(self) -> str:
        """Optuna's storage URL."""
        return self.search.file.storage or f"sqlite:///{self.folder / 'study.db'}"

    # ---- life

    @classmethod
    def start(
        cls,
        search: Search,
        folder: Path,
        references: Iterable[str],
        progress: Callable[[str], None] | None = None,
    ) -> Run:
        """Create the folder, or continue in it if it holds the same search.

        All sources are read once before anything is written: hashed, and searched for NaN.

        Args:
            search: what to run.
            folder: of the run.
            references: every model that a recipe of the run may name.
            progress: called with each reference that is about to be read.

        Raises:
            RunError: it holds another search, or a source changed since it began.
            CheckpointError: a source is damaged or holds NaN.
        """
        folder = folder.resolve()
        frozen = freeze(search)
        path = folder / "run.json"
        if path.is_file():
            manifest = _read_manifest(path)
            difference = _difference(manifest["frozen"], frozen)
            if difference is not None:
                where, was, now = difference
                raise RunError(
                    f"{search.path}: '{where}' is frozen in run {folder} "
                    f"(it was {_short(was)}, now it is {_short(now)}); "
                    "change it back, or start another run with --new"
                )
            manifest["sources"] = _read_sources(references, manifest["sources"], progress)
            _write_json(path, manifest)
            return cls(folder, search)
        if folder.exists() and any(folder.iterdir()):
            raise RunError(f"{folder}: is not empty and holds no run; name another with --name")
        manifest = {
            "version": VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "root": str(search.root),
            "frozen": frozen,
            "sources": _read_sources(references, {}, progress),
        }
        try:
            write_atomic(folder / "search.yaml", search.text)
            _write_json(path, manifest)
        except OSError as error:
            raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
        return cls(folder, search)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run that exists, with the search that it holds.

        Raises:
            RunError: no run there.
        """
        folder = folder.resolve()
        manifest = folder / "run.json"
        if not manifest.is_file():
            raise RunError(f"{folder}: holds no run (no run.json)")
        root = Path(_read_manifest(manifest)["root"])
        held = load_yaml(folder / "search.yaml")
        # As if it still stood where it was: its relative paths are relative to there.
        return cls(folder, parse(held.moved(root / "search.yaml")))

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold the run against a second driver; the lock dies with this process.

        Raises:
            RunError: another driver has it.
        """
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"{self.folder}: another mergefront is working on this run") from None
        try:
            yield
        finally:
            lock.release()

    def fingerprint(self, recipe: Recipe) -> str:
        """The recipe's name for ever: its numbers and the contents of its sources."""
        references = [recipe.base_model] if recipe.base_model is not None else []
        references += [expert.model for expert in recipe.models]
        sources = self._sources
        return recipe.fingerprint([sources[reference]["digest"] for reference in references])

    @cached_property
    def _sources(self) -> dict[str, Any]:
        return dict(_read_manifest(self.folder / "run.json")["sources"])


def folder_for(search: Search, runs: Path, name: str | None, *, new: bool) -> Path:
    """Where the run of a search file lives: runs/<name or file stem>, or the next free number."""
    stem = search.path.stem if name is None else name
    if not re.fullmatch(r"[\w-][\w.-]*", stem):
        raise ConfigError(f"--name {stem!r}: letters, digits, . _ and - only")
    if not new or not (runs / stem).exists():
        return runs / stem
    number = 2
    while (runs / f"{stem}-{number}").exists():
        number += 1
    return runs / f"{stem}-{number}"


def freeze(search: Search) -> dict[str, Any]:
    """What a run keeps for its life, as JSON data."""
    data: dict[str, Any] = json.loads(search.file.model_dump_json())
    frozen: dict[str, Any] = {}
    for key in FROZEN:
        node: Any = data
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        frozen[key] = node
    # The same items under another path are the same task; their contents are what counts.
    for name, task in search.file.tasks.items():
        path = search.root / Path(task.items).expanduser()
        frozen["tasks"][name]["items"] = _sha256(path) if path.is_file() else task.items
    return frozen


@contextmanager
def logging_to(run: Run) -> Iterator[None]:
    """Send warnings and worker dumps to the run's log file."""
    handler = logging.FileHandler(run.folder / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def load_for_run(path: Path, overrides: list[str] | None) -> Search:
    """The search of a file, or of a run folder that is named in its place."""
    if path.is_dir() and (path / "run.json").is_file():
        return Run.open(path).search
    return load(path, overrides)


def _difference(held: Any, now: Any, where: tuple[str, ...] = ()) -> tuple[str, Any, Any] | None:
    """The first place where two JSON documents differ."""
    if isinstance(held, Mapping) and isinstance(now, Mapping):
        for key in sorted({*held, *now}):
            found = _difference(held.get(key), now.get(key), (*where, key))
            if found is not None:
                return found
        return None
    if isinstance(held, list) and isinstance(now, list) and len(held) == len(now):
        for index, (one, other) in enumerate(zip(held, now, strict=True)):
            found = _difference(one, other, (*where, str(index)))
            if found is not None:
                return found
        return None
    return None if held == now else (".".join(where), held, now)


def _read_sources(
    references: Iterable[str], known: Mapping[str, Any], progress: Callable[[str], None] | None
) -> dict[str, Any]:
    """What is known of each source: its content hash, and its files' sizes and times.

    Hashing reads everything, so it is done again only where a file's size or time has changed. A
    source with other contents is an error: trials before and after would not compare.
    """
    sources = dict(known)
    for reference in dict.fromkeys(references):
        checkpoint = Checkpoint.open(reference)
        stamps = {f.name: [f.stat().st_size, f.stat().st_mtime_ns] for f in checkpoint.files}
        held = known.get(reference)
        if held is not None and held["stamps"] == stamps:
            continue
        if progress is not None:
            progress(reference)
        digest = digest_of(checkpoint.sha256())
        if held is not None and held["digest"] != digest:
            raise RunError(
                f"{checkpoint.path}: its weights changed since the run began; "
                "put them back, or start another run with --new"
            )
        checkpoint.check_finite()
        sources[reference] = {"digest": digest, "stamps": stamps}
    return sources


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {one_line(error)}") from error
    if not isinstance(manifest, dict) or not {"version", "root", "frozen", "sources"} <= {
        *manifest
    }:
        raise RunError(f"{path}: is no run manifest; put back a copy, or start another run")
    if manifest["version"] != VERSION:
        raise RunError(f"{path}: was written by another version of mergefront")
    return dict(manifest)


def _write_json(path: Path, data: Any) -> None:
    write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file_name(label: str) -> str:
    """A label as a file name that no two labels share."""
    plain = re.sub(r"[^\w.-]+", "-", label).strip("-")
    if plain == label:
        return plain
    return f"{plain}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
