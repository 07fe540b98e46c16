"""The run folder: everything a search leaves behind, and what makes it resumable.

runs/<name>/
    search.yaml      the search file of the last `run`, with its `--set` settings
    run.json         the run's identity, its sources' contents by sha256 and their layers
    study.db         the Optuna study (opens in optuna-dashboard)
    study.db.backup  a copy of it, a few minutes old at most; see `search.backup`
    sessions.json    how long it was worked on, with how many workers; see `search.ledger`
    incidents.jsonl  what went wrong, and how often; see `search.incidents`
    trials/N.json    per-item scores and texts of trial N
    baselines/       the same for the baselines on the dev items
    confirm/, test/  the same on held-out items
    confirmed.json   the front again, from confirmed scores
    mlflow.db, mlartifacts/
    blocks/          scores of merges that are not done yet; see `search.blocks`
    prepared/        facts of the sources that workers share; may be removed while nothing runs
    report.html, front.html, front.png, plots.html, plots/, recipe.yaml, live.json, run.log
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from merge_core import Checkpoint, Recipe
from merge_core.sources import digest_of
from merge_core.tokenizers import TOKENIZER_FILE
from merge_core.yaml_io import half_written, load_yaml, one_line, write_atomic
from objectives import make_scorer
from objectives.item_source import digest
from objectives.scorers import frozen_ref
from objectives.splits import SPLITS
from search.blocks import Blocks
from search.config import FROZEN, Search, parse
from search.errors import ConfigError, RunError
from search.incidents import Incidents
from search.lease import holder_file, lock_file
from search.secrets import Formatter, expanded, without_password

VERSION = 1
LOCK = ".lock"
STUDY = "study.db"
LOG_BYTES = 10_000_000
"""Of `run.log`; two older ones of that size are kept beside it."""
_MEND = "put back a copy, or start another run with --new"
_OFFERED = ("recipe.yaml", "report.html")
"""Files of a run that commands write anew on demand."""
_MARK, _JOINERS = "\u0301", "\u200c\u200d"  # a mark that stands for all; ZWNJ and ZWJ
_NAME = re.compile(rf"(?:\w{_MARK}*|-)(?:\w{_MARK}*|[.-])*")
_MANIFEST = ("version", "id", "root", "items", "roles", "sources")
# What a run that was killed while it began leaves.
_BEFORE_A_RUN = {LOCK, holder_file(Path(LOCK)).name, "search.yaml"}
log = logging.getLogger("mergefront")


@dataclass(frozen=True)
class Run:
    """One run folder and the search it holds.

    Attributes:
        folder: absolute.
        search: as frozen in the folder, with what may change taken from the file of this call.
        manifest: what run.json holds: contents of the sources by sha256, among others.
    """

    folder: Path
    search: Search
    manifest: Mapping[str, Any] = field(default_factory=dict)

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
    def prepared(self) -> Path:
        """Facts of the sources, by their contents; see `merge_core.facts`."""
        return self.folder / "prepared"

    @property
    def blocks(self) -> Blocks:
        """What is scored of merges that are not done yet."""
        return Blocks(self.folder / "blocks")

    @property
    def incidents(self) -> Incidents:
        """What went wrong in it."""
        return Incidents(self.folder / "incidents.jsonl")

    @property
    def confirmed(self) -> Path:
        """The confirmed front."""
        return self.folder / "confirmed.json"

    @property
    def storage(self) -> str:
        """Optuna's storage URL."""
        given = self.search.file.storage
        return f"sqlite:///{self.database}" if given is None else expanded(given, "storage")

    @property
    def begun(self) -> bool:
        """Whether its database is there; one that is no file of this machine is taken to be.

        Raises:
            RunError: it is not, though trials have results.
        """
        path = self.database
        if path is None or (path.is_file() and path.stat().st_size):
            return True
        self.refuse_lost(f"{path.name} is {'empty' if path.is_file() else 'missing'}")
        return False

    @property
    def database(self) -> Path | None:
        """The SQLite file that holds the study; None for a server, or what SQLite calls a URI."""
        if self.search.file.storage is None:
            return self.folder / STUDY
        url = make_url(self.storage)
        if url.drivername not in ("sqlite", "sqlite+pysqlite") or not url.database:
            return None
        return None if url.database.startswith((":memory:", "file:")) else Path(url.database)

    def refuse_own(self, out: Path) -> None:
        """ConfigError if `out`, which a user names to be written, is one of the run's own files."""
        place = out.resolve()
        if place.is_relative_to(self.folder) and place.exists():
            name = place.relative_to(self.folder).parts[0]
            if name not in _OFFERED and place.suffix != ".csv":
                raise ConfigError(f"--out {out}: belongs to the run; name another file")

    def refuse_lost(self, why: str) -> None:
        """RunError if there are results though there is no study: they would be numbered over."""
        if results := sum(1 for _ in (self.folder / "trials").glob("*.json")):
            raise RunError(
                f"{self.folder}: holds results of {results} trials but no study ({why}): "
                "put it back from a copy, or start another run with --new"
            )

    @property
    def tracking(self) -> str:
        """MLflow's URI: the file's, else MLFLOW_TRACKING_URI, else the one that the run had last,
        else a SQLite store in the run folder.
        """
        return (
            _tracking_given(self.search)
            or self.manifest.get("tracking")
            or f"sqlite:///{self.folder / 'mlflow.db'}"
        )

    # ---- life

    @classmethod
    def start(
        cls,
        search: Search,
        folder: Path,
        references: Iterable[str],
        roles: Mapping[str, str],
        progress: Callable[[str], None] | None = None,
    ) -> Run:
        """Create the run in `folder`, or continue it if it holds the same search.

        All sources are read once before anything is written: hashed, and searched for NaN. The
        caller holds the folder's lease.

        Args:
            search: what to run.
            folder: of the run.
            references: every model that a recipe of the run may name.
            roles: those whose contents the run keeps for its life: base and experts, by name.
            progress: called with each reference that is about to be read.

        Raises:
            RunError: it holds another search, or other weights than it began with.
            CheckpointError: a source is damaged or holds NaN.
        """
        folder = folder.resolve()
        path = folder / "run.json"
        check(search, folder)
        if path.is_file():
            manifest = _read_manifest(path)
        else:
            manifest = {
                "version": VERSION,
                "id": uuid.uuid4().hex,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "sources": {},
                "roles": {},
            }
        manifest["sources"] = _read_sources(references, manifest["sources"], progress)
        for role, reference in roles.items():
            digest = manifest["sources"][reference]["digest"]
            if manifest["roles"].setdefault(role, digest) != digest:
                raise RunError(
                    f"{reference}: run {folder.name} began with other weights for '{role}'; "
                    "put them back, or start another run with --new"
                )
        manifest["items"] = item_digests(search)
        if given := _tracking_given(search):
            manifest["tracking"] = without_password(given)
        # Relative, so that a project can be moved with its runs.
        manifest["root"] = os.path.relpath(search.root, folder)
        try:
            write_atomic(folder / "search.yaml", search.text)
            _write_json(path, manifest)
        except OSError as error:
            raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
        started = cls(folder, search, manifest)
        halves = list(started.prepared.rglob("*.tmp"))  # of workers that were killed
        for place in (folder, *(folder / name for name in ("trials", "baselines", *SPLITS))):
            halves += half_written(place)  # of a driver that was
        for half in halves:
            half.unlink(missing_ok=True)
        return started

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run that exists, with the search that it holds.

        Raises:
            RunError: no run there.
        """
        folder = folder.resolve()
        path = folder / "run.json"
        if not path.is_file():
            raise RunError(f"{folder}: holds no run (no run.json)")
        manifest = _read_manifest(path)
        place = (folder / manifest["root"]).resolve() / "search.yaml"
        return cls(folder, parse(load_yaml(folder / "search.yaml"), place), manifest)

    @property
    def id(self) -> str:
        """Names this run among all runs of all folders."""
        return str(self.manifest["id"])

    def fingerprint(self, recipe: Recipe) -> str:
        """The recipe's name for ever: its numbers and the contents of its sources."""
        references = [recipe.base_model] if recipe.base_model is not None else []
        references += [expert.model for expert in recipe.models]
        digests = self.digests
        return recipe.fingerprint([digests[reference] for reference in references])

    @property
    def digests(self) -> dict[str, str]:
        """Content hash of every source by reference."""
        return {name: str(held["digest"]) for name, held in self.manifest["sources"].items()}

    @property
    def layers(self) -> int | None:
        """Layers of the models, wherever they are now; None in runs of before this was kept."""
        told = (held.get("layers") for held in self.manifest["sources"].values())
        return next((int(layers) for layers in told if layers), None)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder against a second driver; the lock dies with this process.

    A folder that has become no run by the end of the block vanishes again.

    Raises:
        RunError: another driver has it, or it cannot be made.
    """
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_file(folder / LOCK, f"{folder}: another mergefront is working on this run")
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
        if not (folder / "run.json").exists():
            for path in (folder / LOCK, holder_file(folder / LOCK)):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty: it was there before, or holds search.yaml
                for path in made:
                    path.rmdir()


def _tracking_given(search: Search) -> str | None:
    given = search.file.tracking.uri
    if given is None:
        return os.environ.get("MLFLOW_TRACKING_URI")
    return expanded(given, "tracking.uri")


def folder_for(search: Search, runs: Path, name: str | None, *, new: bool) -> Path:
    """Where the run of a search file lives: runs/<name or file stem>, or the next free number."""
    stem = search.path.stem if name is None else name
    if not _may_name(stem):
        told = f"--name {name!r}" if name is not None else f"the file's name {stem!r}"
        do = "" if name is not None else ": give --name"
        raise ConfigError(f"{told}: a run's name has letters, digits, . _ and - only{do}")
    if not new or not (runs / stem).exists():
        return runs / stem
    number = 2
    while (runs / f"{stem}-{number}").exists():
        number += 1
    return runs / f"{stem}-{number}"


def _may_name(name: str) -> bool:
    """Whether a run can have this name. Marks and joiners are a part of the letter before them:
    Thai, Bengali or Tamil words cannot be written without.
    """
    joined = ("Mn", "Mc", "Me")
    plain = (_MARK if unicodedata.category(c) in joined or c in _JOINERS else c for c in name)
    return _NAME.fullmatch("".join(plain)) is not None


def freeze(search: Search) -> dict[str, Any]:
    """What a run keeps for its life, as JSON data.

    Models and items are not in it: their contents count, not their places (`roles`, `items`).
    """
    data: dict[str, Any] = json.loads(search.file.model_dump_json())
    frozen: dict[str, Any] = {}
    for key in FROZEN:
        node: Any = data
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        frozen[key] = node
    frozen.pop("base_model")
    for name in search.engine.incidental:
        frozen["engine"].pop(name, None)
    for model in frozen["models"]:
        model.pop("model")
    for task in frozen["tasks"].values():
        task.pop("items")
        task["scorers"] = [frozen_ref(reference) for reference in task["scorers"]]
        if task["fewshot"] is not None:
            task["fewshot"].pop("items")
    # Whether its password stands there or is named, and which it is today, makes no other search.
    frozen["storage"] = without_password(frozen["storage"] or "")
    return frozen


def item_digests(search: Search) -> dict[str, str]:
    """sha256 of each task's items, few-shot examples kept apart, and the user's own scorers."""
    digests = {}
    for name, task in search.file.tasks.items():
        digests[name] = digest(task.items, search.root)
        if task.fewshot is not None and task.fewshot.items is not None:
            digests[f"{name}.fewshot"] = digest(task.fewshot.items, search.root)
        for reference in task.scorers:
            scorer = make_scorer(reference).bound(task.items, search.root)
            files = scorer.files()
            # A run moves with its project: files are known by where they stand among themselves.
            above = os.path.commonpath([file.parent for file in files]) if files else ""
            for file in files:
                key = f"{name}.scorer.{scorer.name}.{file.relative_to(above).as_posix()}"
                digests[key] = digest(str(file), search.root)
    return digests


class _LogFile(RotatingFileHandler):
    """A bounded log. One that cannot be written says nothing: whoever writes a result tells."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the base's name)
        del record


@contextmanager
def logging_to(run: Run) -> Iterator[None]:
    """Send warnings and worker dumps to the run's log file."""
    path = run.folder / "run.log"
    handler = _LogFile(path, maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8")
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def check(search: Search, folder: Path) -> None:
    """Raise RunError if `search` cannot start or go on in `folder`: what can be told at once.

    The first difference is named. Both searches are frozen by today's code, so that a default
    that is new does not look like a change.
    """
    if not (folder / "run.json").is_file():
        if folder.exists() and not {path.name for path in folder.iterdir()} <= _BEFORE_A_RUN:
            raise RunError(f"{folder}: is not empty and holds no run; name another with --name")
        return
    manifest = _read_manifest(folder / "run.json")
    held = parse(load_yaml(folder / "search.yaml"), search.path.resolve())
    difference = _difference(freeze(held), freeze(search))
    if difference is None:
        difference = _difference(manifest["items"], item_digests(search), ("tasks", "items"))
    if difference is not None:
        where, was, now = difference
        raise RunError(
            f"{search.path}: '{where}' is frozen in run {folder} "
            f"(it was {_short(was)}, now it is {_short(now)}); "
            "change it back, or start another run with --new"
        )


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
    """What is known of each source: its content hash, its files' sizes and times, its layers.

    Hashing reads everything, so it is done again only where a file's size or time has changed.
    """
    sources = dict(known)
    opened: dict[str, Checkpoint] = {}
    for reference in dict.fromkeys(references):
        checkpoint = opened[reference] = Checkpoint.open(reference, opened)
        files = [*checkpoint.files, checkpoint.tokenizer_path / TOKENIZER_FILE]
        stamps = {f.name: [f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()}
        held = known.get(reference)
        if held is not None and held["stamps"] == stamps:
            sources[reference] = {**held, "layers": checkpoint.layers}  # older runs have none
            continue
        if progress is not None:
            progress(reference)
        digest = digest_of(checkpoint)
        checkpoint.check_finite()
        sources[reference] = {"digest": digest, "stamps": stamps, "layers": checkpoint.layers}
    return sources


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {one_line(error)}; {_MEND}") from error
    if not isinstance(manifest, dict) or not {*_MANIFEST} <= {*manifest}:
        raise RunError(f"{path}: is no run manifest; {_MEND}")
    if manifest["version"] != VERSION:
        raise RunError(
            f"{path}: was written by another version of mergefront; use that one, or start "
            "another run with --new"
        )
    maps = (manifest[key] for key in ("items", "roles", "sources"))
    if not isinstance(manifest["root"], str) or not all(isinstance(one, dict) for one in maps):
        raise RunError(f"{path}: is damaged; {_MEND}")
    return dict(manifest)


def _write_json(path: Path, data: Any) -> None:
    write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _file_name(label: str) -> str:
    """A label as a file name that no two labels share."""
    plain = re.sub(r"[^\w.-]+", "-", label).strip("-")
    if plain == label:
        return plain
    return f"{plain}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
