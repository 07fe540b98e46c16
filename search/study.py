"""The Optuna study: opening it, proposing recipes, telling results.

How a trial is told (every state means the same to every sampler and to every reader):

| what happened | told |
|---|---|
| scored on all dev items | COMPLETE with its values |
| stopped by a race | COMPLETE with its estimate, tagged `partial`, never on the front |
| the recipe's own fault (overflow) | COMPLETE at the reference point, constraints at their worst |
| scored before, as a baseline or in another run | as then, tagged `origin`, no budget |
| a recipe seen before | COMPLETE with the values it had, tagged `duplicate_of`, no budget |
| its worker died again and again, or an error of ours | FAIL |
| never begun: the driver was killed as it was asked for | FAIL, and it has no recipe |

Every COMPLETE trial sets every declared constraint, in file order: the GP sampler raises when
trials differ in them.
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from merge_core import Recipe
from objectives.engines.base import FinishReason
from search.backup import BACKUP, Backup
from search.config import Search, seconds
from search.database import cause, check_tables, connect, is_server, opened, place_of, spoken
from search.ehvi import PARTIAL as PARTIAL
from search.errors import RunError, StorageError
from search.front import Point, front, gains
from search.lease import Lease
from search.results import Result, joint, values_of, violations_of
from search.run import VERSION, Run
from search.samplers import make_sampler
from search.storage import OwnedStorage

RECIPE = "recipe"
DUPLICATE_OF = "duplicate_of"
ORIGIN = "origin"
FINGERPRINT = "fingerprint"
RETAINED = "retained"
ENDED = "ended"
WORKER = "worker"
ZONE = "utc_offset"
"""Seconds that the driver's clock is ahead of UTC: Optuna keeps times without their zone."""
CUT_SHORT: tuple[FinishReason, ...] = ("length", "loop")
"""Ends of answers that a user wants to know the shares of: at the limit of tokens, in a loop."""
OWNER = "mergefront.run"
WRITTEN_BY = "mergefront.version"
"""Attribute of the study: the version of what we write into it."""
_HELD: dict[tuple[str, str], Lease | Backup] = {}
"""What this process holds, by storage and study: one that is opened twice is held once."""


def open_study(run: Run, *, create: bool = True) -> optuna.Study:
    """The study of a run: to look at, or (`create`, with its lease) to write as the only one.

    To write, it is created if it is not there yet, and held until `release` or this process ends.

    Raises:
        RunError: there is none to look at yet, or it is lost though trials have results; another
            driver is writing it.
        StorageError: the storage cannot be opened, is damaged, of another version, or holds another
            run's study of that name.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = run.search
    if not create and not run.begun:
        raise _not_begun(run)
    with _opening(run):
        if not create:
            study = _look(run)
            if study is None:
                raise _not_begun(run)
        else:
            study = _own(run)
        trials = study.get_trials(deepcopy=False)
        owner = study.user_attrs.get(OWNER)
        if create and owner is None and not trials:
            with warnings.catch_warnings(), together(study):
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_user_attr(OWNER, run.id)
                study.set_user_attr(WRITTEN_BY, VERSION)
                study.set_metric_names([objective.name for objective in search.objectives])
        elif owner != run.id:
            raise StorageError(
                f"{place_of(run.storage)}: its study '{run.name}' is another run's; "
                "start this one under another --name"
            )
        if (by := study.user_attrs.get(WRITTEN_BY, VERSION)) != VERSION:
            raise StorageError(
                f"{place_of(run.storage)}: its study '{run.name}' was written by another version "
                f"of mergefront (of format {by}, this one's is {VERSION}): go on with that one"
            )
    study.sampler = make_sampler(search, finished=len(trials))
    return study


def release(run: Run) -> None:
    """Let another driver write the run's study; nothing if this process does not hold it."""
    held = _HELD.pop((run.storage, run.name), None)
    if held is not None:
        held.close()


def hold(run: Run) -> None:
    """Become the only one to write the run's study, until `release`; what `open_study` does, too.

    Raises:
        RunError: another driver is writing it.
        StorageError: the storage cannot be opened, or is of another version.
    """
    with _opening(run):
        _hold(run)


def still_ours(study: optuna.Study, *, patient: bool = True) -> None:
    """Raise RunError if another driver has taken over: before what no transaction protects.

    Where only the database can tell and it is away: wait for it, or raise StorageError at once.
    """
    if isinstance(study._storage, OwnedStorage):
        study._storage.check(patient=patient)


def check_storage(run: Run) -> None:
    """Raise StorageError if the storage of a run that has not begun cannot be used; writes nothing.

    A file that is not there will be made.
    """
    if run.database is None or run.database.is_file():
        with _opening(run):
            _there(run)


def check_study(run: Run) -> None:
    """Raise what `open_study` would of a study that is lost or cannot be read; writes nothing."""
    if run.begun:
        with _opening(run):
            _look(run)


def _nameless(run: Run) -> str:
    """Why a storage that is there has not the run's study."""
    return (
        f"{_place(run, short=True)} holds none of its name, '{run.name}': was the folder renamed?"
    )


def _look(run: Run) -> optuna.Study | None:
    """The study, to be read only; None if there is none and no trial has a result either."""
    storage = opened(run.storage, write=False) if _there(run) else None
    if storage is None or not _holds(storage, run.name):
        run.refuse_lost(_nameless(run))
        return None
    return optuna.load_study(study_name=run.name, storage=storage)


def _there(run: Run) -> bool:
    """Whether Optuna's tables are there; StorageError if they are of another version."""
    engine = connect(run.storage)
    try:
        return check_tables(engine)
    finally:
        engine.dispose()


def _own(run: Run) -> optuna.Study:
    """The study, to be written by this process alone; created if there is none."""
    lease = _hold(run)
    storage = OwnedStorage(
        run.storage,
        lease if isinstance(lease, Lease) else None,
        seconds(run.search.file.storage_timeout),
        run.incidents.record,
        lease.told if isinstance(lease, Backup) else None,
    )
    if not _holds(storage, run.name):
        run.refuse_lost(_nameless(run))
        directions = [objective.direction for objective in run.search.objectives]
        optuna.create_study(study_name=run.name, storage=storage, directions=directions)
    return optuna.load_study(study_name=run.name, storage=storage)


def _hold(run: Run) -> Lease | Backup | None:
    """What this process holds while it writes a study: on a server a lease, else its backup.

    Tables of another version are refused before anything is written.
    """
    key = (run.storage, run.name)
    if key in _HELD:
        return _HELD[key]
    engine = connect(run.storage)
    try:
        check_tables(engine)
    except BaseException:
        engine.dispose()
        raise
    if is_server(run.storage):
        _HELD[key] = Lease(engine, run.name, place_of(run.storage))
        return _HELD[key]
    engine.dispose()
    if run.database is None:  # what SQLite calls a URI: nobody else can open it, or no file to copy
        return None
    _HELD[key] = Backup(run.database, run.folder / BACKUP, study=run.name)
    return _HELD[key]


def _not_begun(run: Run) -> RunError:
    return RunError(f"{run.folder}: no trial has begun yet")


def _place(run: Run, *, short: bool = False) -> str:
    """The run's database, as users know it; a file without its folder if `short`."""
    if run.database is None:
        return place_of(run.storage)
    return run.database.name if short else str(run.database)


def _holds(storage: BaseStorage, name: str) -> bool:
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        return False
    return True


@contextmanager
def _opening(run: Run) -> Iterator[None]:
    """Turn what reading a database raises into a line that has no SQL in it."""
    file = run.database
    try:
        if file is not None and file.is_file():
            _check_pages(file)
        yield
    except (
        *(SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError, ImportError, OSError),
        *(LookupError, ValueError, TypeError, RuntimeError),  # what Optuna raises of odd contents
    ) as error:
        why = spoken(error)
        # Of what SQLite says, only these are about what the file holds: not rights, locks, space.
        code = getattr(cause(error), "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        sound = code not in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        if file is None or sound or isinstance(cause(error), OSError):
            mend = "" if file is not None else _mend(why)
            raise StorageError(f"{_place(run)}: cannot be opened: {why}{mend}") from error
        copy = run.folder / BACKUP
        back = f"{copy}" if copy.is_file() else "a copy"
        other = ", or start another run with --new" if run.search.file.storage is None else ""
        raise StorageError(f"{file}: is damaged ({why}): put it back from {back}{other}") from error


def _mend(why: str) -> str:
    """What to do about what a server said."""
    if "password" in why:
        return "; give it by PGPASSWORD, ~/.pgpass or ${NAME} in `storage`"
    if "database" in why and "does not exist" in why:
        return "; make it with createdb"
    return ""


def _check_pages(path: Path) -> None:
    """Read every page: a broken one may hold what is only asked for in the middle of a search."""
    with closing(sqlite3.connect(path, timeout=60)) as held:
        (told,) = held.execute("PRAGMA quick_check(1)").fetchone()
    if told != "ok":
        raise ValueError(told.replace("*** in database main ***", ""))


def together(study: optuna.Study) -> AbstractContextManager[None]:
    """While the block runs, what is written into the driver's own study waits for its end."""
    storage = study._storage
    return storage.together() if isinstance(storage, OwnedStorage) else nullcontext()


def tell(
    study: optuna.Study,
    search: Search,
    trial: optuna.Trial,
    result: Result,
    duplicate_of: int | None = None,
) -> FrozenTrial:
    """Finish `trial` with what its recipe scored. Safe to repeat after a crash in the middle."""
    attributes = attributes_of(result, search)
    if duplicate_of is not None:
        attributes |= {DUPLICATE_OF: duplicate_of, "tokens": 0}
        attributes.pop(WORKER, None)  # nobody worked for it
    with together(study):
        with warnings.catch_warnings():
            # A crash between constraints and telling leaves them set; the values are the same.
            warnings.simplefilter("ignore")
            for key, violation in violations_of(result, search).items():
                trial.set_constraint(key, violation)
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        return study.tell(trial, values_of(result, search), skip_if_finished=True)


def attributes_of(result: Result, search: Search) -> dict[str, Any]:
    """The user attributes of a trial that is told `result`."""
    attributes: dict[str, Any] = {
        FINGERPRINT: result.fingerprint,
        "tokens": result.tokens,
        "seconds": dict(result.seconds),
        "intervals": {
            objective.name: [estimate.low, estimate.high, estimate.n]
            for objective in search.objectives
            if (estimate := result.estimate(objective))
        },
        ENDED: {reason: result.ended(reason) for reason in CUT_SHORT},
    }
    if (both := joint(result)) is not None:
        attributes["joint"] = both.value
    if result.retained:
        attributes[RETAINED] = dict(result.retained)
    if (stopped := result.stopped) is not None:
        attributes[PARTIAL] = {
            "reason": stopped.reason,
            "expected": {name: list(pair) for name, pair in stopped.expected.items()},
            "items": stopped.asked,
            "of": stopped.of,
            "audited": stopped.audited,
        }
    if result.fault is not None:
        attributes["fault"] = result.fault
    if result.origin:
        attributes[ORIGIN] = result.origin
    elif result.worker:
        attributes[WORKER] = result.worker
    return attributes


def fail(study: optuna.Study, trial: optuna.Trial | int) -> None:
    """Finish a trial that no worker could do."""
    study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def zone() -> float:
    """`ZONE` of this process."""
    offset = datetime.now().astimezone().utcoffset()
    return 0.0 if offset is None else offset.total_seconds()


def began(trial: FrozenTrial) -> float | None:
    """When a trial was asked for, epoch seconds, whatever zone the reader's clock has."""
    return _epoch(trial, trial.datetime_start)


def ended(trial: FrozenTrial) -> float | None:
    """When it was told."""
    return _epoch(trial, trial.datetime_complete)


def _epoch(trial: FrozenTrial, moment: datetime | None) -> float | None:
    if moment is None:
        return None
    ahead = trial.user_attrs.get(ZONE)  # older trials have none
    there = None if ahead is None else timezone(timedelta(seconds=ahead))
    return (moment if there is None else moment.replace(tzinfo=there)).timestamp()


def failed(trial: FrozenTrial) -> bool:
    """Whether no worker could do a trial.

    One that was never begun is no failure and took nothing: its driver was killed while it was
    asked for, or it waited for the scores of one that failed.
    """
    return trial.state == TrialState.FAIL and RECIPE in trial.user_attrs


def recipe_of(trial: FrozenTrial, search: Search) -> Recipe | None:
    """The recipe that was dispatched for a trial; None if it was killed before that.

    It is stored with paths as the file names them, so that a project can be moved.
    """
    text = trial.user_attrs.get(RECIPE)
    return None if text is None else Recipe.parse(json.loads(text)).resolved(search.root)


def scored(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Finished trials with scores of their own: complete and no duplicate, by number."""
    return scored_of(study.get_trials(deepcopy=False))


def scored_of(trials: Iterable[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Those among `trials`, as `scored`."""
    return {
        trial.number: trial
        for trial in trials
        if trial.state == TrialState.COMPLETE and DUPLICATE_OF not in trial.user_attrs
    }


def paid(trials: Mapping[int, FrozenTrial]) -> dict[int, FrozenTrial]:
    """Those that this run has scored itself, and that count against its budget."""
    return {n: trial for n, trial in trials.items() if counts(trial)}


def counts(trial: FrozenTrial) -> bool:
    """Whether a finished trial was scored by this run itself."""
    return ORIGIN not in trial.user_attrs


def feasible(trial: FrozenTrial) -> bool:
    """Whether a trial holds all constraints by its point estimates and is no fault."""
    return "fault" not in trial.user_attrs and all(v <= 0.0 for v in trial.constraints.values())


def points(trials: Mapping[int, FrozenTrial], search: Search) -> dict[int, Point]:
    """The gains of the feasible ones among `trials` whose full scores are known."""
    return {
        number: gains(trial.values, search.objectives)
        for number, trial in trials.items()
        if known(trial)
    }


def known(trial: FrozenTrial) -> bool:
    """Whether a finished trial may be on the front: feasible, and its full scores are known."""
    return feasible(trial) and PARTIAL not in trial.user_attrs


def current_front(study: optuna.Study, search: Search) -> list[int]:
    """Trial numbers on the front, best first objective first.

    Not `study.best_trials`: duplicates, estimates and infeasible trials are not on it.
    """
    return front(points(scored(study), search))
