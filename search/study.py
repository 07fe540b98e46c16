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

Every COMPLETE trial sets every declared constraint, in file order: the GP sampler raises when
trials differ in them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from merge_core import Recipe
from merge_core.yaml_io import one_line
from objectives.engines.base import FinishReason
from search.config import Search
from search.errors import StorageError
from search.front import Point, front, gains
from search.results import Result, joint, values_of, violations_of
from search.run import Run, redacted
from search.samplers import make_sampler
from search.storage import OwnedStorage

RECIPE = "recipe"
DUPLICATE_OF = "duplicate_of"
PARTIAL = "partial"
ORIGIN = "origin"
FINGERPRINT = "fingerprint"
RETAINED = "retained"
ENDED = "ended"
CUT_SHORT: tuple[FinishReason, ...] = ("length", "loop")
"""Ends of answers that a user wants to know the shares of: at the limit of tokens, in a loop."""
OWNER = "mergefront.run"


def open_study(run: Run, *, create: bool = True) -> optuna.Study:
    """The study of a run: to look at, or (`create`, with its lease) to write as the only one.

    To write, it is created if it is not there yet.

    Raises:
        StorageError: the storage cannot be opened, or holds another run's study of that name.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = run.search
    options = {"connect_args": {"timeout": 60}} if run.storage.startswith("sqlite") else {}
    try:
        if create:
            study = optuna.create_study(
                study_name=run.name,
                storage=OwnedStorage(run.storage, options),
                directions=[objective.direction for objective in search.objectives],
                load_if_exists=True,
            )
        else:
            storage = optuna.storages.RDBStorage(run.storage, engine_kwargs=options)
            study = optuna.load_study(study_name=run.name, storage=storage)
        trials = study.get_trials(deepcopy=False)
        owner = study.user_attrs.get(OWNER)
        if create and owner is None and not trials:
            study.set_user_attr(OWNER, run.id)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([objective.name for objective in search.objectives])
        elif owner != run.id:
            raise StorageError(
                f"{redacted(run.storage)}: its study '{run.name}' is another run's; "
                "start this one under another --name"
            )
    except (
        SQLAlchemyError,
        optuna.exceptions.OptunaError,
        ImportError,
        KeyError,
        OSError,
        ValueError,
    ) as error:
        raise StorageError(
            f"{redacted(run.storage)}: cannot be opened: {one_line(error)[:200]}"
        ) from error
    study.sampler = make_sampler(search, finished=len(trials))
    return study


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
            "items": stopped.asked,
            "of": stopped.of,
            "audited": stopped.audited,
        }
    if result.fault is not None:
        attributes["fault"] = result.fault
    if result.origin:
        attributes[ORIGIN] = result.origin
    return attributes


def fail(study: optuna.Study, trial: optuna.Trial | int) -> None:
    """Finish a trial that no worker could do."""
    study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def recipe_of(trial: FrozenTrial, search: Search) -> Recipe | None:
    """The recipe that was dispatched for a trial; None if it was killed before that.

    It is stored with paths as the file names them, so that a project can be moved.
    """
    text = trial.user_attrs.get(RECIPE)
    return None if text is None else Recipe.parse(json.loads(text)).resolved(search.root)


def scored(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Finished trials with scores of their own: complete and no duplicate, by number."""
    return {
        trial.number: trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if DUPLICATE_OF not in trial.user_attrs
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
