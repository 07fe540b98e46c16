"""Optuna's database for a study with one writer: reads cost nothing, a trial's writes go together.

Optuna's own storage reads every unfinished trial again whenever a sampler looks at the study (with
64 running trials 60 ms a proposal), and commits each parameter and attribute by itself. The driver
alone owns its study (`search.run.locked`, `search.lease`), so what it wrote is what there is: it
reads from memory. What is in the tables is what Optuna's storage writes, no more and no less, and
any reader of Optuna's (`optuna.load_study`, optuna-dashboard) can look at it meanwhile.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.storages._rdb.models import TrialModel
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.database import PATIENCE_S, Database, Recorder
from search.lease import Lease


class OwnedStorage(BaseStorage):
    """`RDBStorage` for the only writer of one study. Safe to read from other threads.

    Args:
        url: of the database, as SQLAlchemy takes it.
        lease: who makes sure that there is no other writer; None where nobody else can write.
        patience: seconds that the database may be away; see `search.database`.
        record: keeps that it was.
        told: called whenever a trial was finished.
    """

    def __init__(
        self,
        url: str,
        lease: Lease | None = None,
        patience: float = PATIENCE_S,
        record: Recorder | None = None,
        told: Callable[[], None] | None = None,
    ) -> None:
        self._held = Database(url, lease, patience, record)
        self._database = self._held.optuna
        self._lease = lease
        self._told = told
        self._lock = threading.RLock()
        self._study: int | None = None
        self._trials: list[FrozenTrial] = []
        self._numbers: dict[int, int] = {}
        self._attributes: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        self._block: list[Callable[[], object]] | None = None
        self._new: dict[int, int] = {}  # ids of trials that the block made, by number

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write all that the block writes in one transaction at its end, or nothing of it.

        After a block that fails, memory is as it was before, like the database.

        Raises:
            StorageError: the database refuses it, or is away for too long.
            RunError: another driver has taken over the study.
        """
        if self._block is not None:
            yield
            return
        with self._lock:
            before = (list(self._trials), copy.deepcopy(self._attributes))
        self._block, self._new = [], {}
        try:
            yield
            if self._block:
                self._held.write(self._block)
                self._name_new()
        except BaseException:
            with self._lock:
                self._trials, self._attributes = before
                kept = range(len(self._trials))
                self._numbers = {k: n for k, n in self._numbers.items() if n in kept}
            raise
        finally:
            self._block = None

    def check(self, *, patient: bool = True) -> None:
        """Raise RunError if another driver may have taken over the study: nothing is to be written.

        A look at the clock, mostly.

        Raises:
            RunError: another one has.
            StorageError: the database, which knows, is away for too long; if not `patient`, at all.
        """
        if self._lease is not None:
            (self._held.read if patient else self._held.read_now)(self._lease.check)

    def close(self) -> None:
        """Give up all connections."""
        self._held.close()

    # ---- studies

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        return self._database.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._database.delete_study(study_id)
        self._study = None

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        with self.together():
            self._do(lambda: self._database.set_study_user_attr(study_id, key, value))
            self._read(study_id)[0][key] = _as_stored(value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        with self.together():
            self._do(lambda: self._database.set_study_system_attr(study_id, key, value))
            self._read(study_id)[1][key] = _as_stored(value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._held.read(lambda: self._database.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._held.read(lambda: self._database.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._held.read(lambda: self._database.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        with self._lock:
            return copy.deepcopy(self._read(study_id)[0])

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with self._lock:
            return copy.deepcopy(self._read(study_id)[1])

    def get_all_studies(self) -> list[Any]:
        return self._database.get_all_studies()

    def _read(self, study_id: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The attributes of the study; all of it is read once."""
        with self._lock:
            if self._study != study_id:
                self._attributes, self._trials = self._held.read(
                    lambda: (
                        (
                            self._database.get_study_user_attrs(study_id),
                            self._database.get_study_system_attrs(study_id),
                        ),
                        self._database.get_all_trials(study_id, deepcopy=False),
                    )
                )
                self._numbers = {trial._trial_id: trial.number for trial in self._trials}
                self._study = study_id
            return self._attributes

    # ---- trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._read(study_id)
        with self.together():
            with self._lock:
                number = len(self._trials)
                trial = _begun(number, template_trial)
                # Until the database gives it an id it has one of ours, which it goes on to answer
                # to.
                self._numbers[trial._trial_id] = number
                self._trials.append(trial)
            self._do(lambda: self._make(study_id, trial))
        return self.get_trial(trial._trial_id)._trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        number = self._open(trial_id)
        with self.together():
            self._do(
                lambda: self._database.set_trial_param(
                    self._id(number), param_name, param_value_internal, distribution
                )
            )
            value = distribution.to_external_repr(param_value_internal)
            with self._change(number) as trial:
                trial.params = {**trial.params, param_name: value}
                trial.distributions = {**trial.distributions, param_name: distribution}

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        number = self._open(trial_id)
        waited = self._trials[number].state == TrialState.WAITING
        if state == TrialState.RUNNING and not waited:
            return False
        now = datetime.now()
        with self.together():
            self._do(lambda: self._end(self._id(number), state, values, now))
            with self._change(number) as trial:
                trial.state = state
                if values is not None:
                    trial.values = list(values)
                if state == TrialState.RUNNING:
                    trial.datetime_start = now
                if state.is_finished():
                    trial.datetime_complete = now
        if state.is_finished() and self._told is not None:
            self._told()
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        number = self._open(trial_id)
        with self.together():
            self._do(
                lambda: self._database.set_trial_intermediate_value(
                    self._id(number), step, intermediate_value
                )
            )
            with self._change(number) as trial:
                trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        number = self._open(trial_id)
        with self.together():
            self._do(lambda: self._database.set_trial_user_attr(self._id(number), key, value))
            with self._change(number) as trial:
                trial.user_attrs = {**trial.user_attrs, key: _as_stored(value)}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        number = self._open(trial_id)
        with self.together():
            self._do(lambda: self._database.set_trial_system_attr(self._id(number), key, value))
            with self._change(number) as trial:
                trial.system_attrs = {**trial.system_attrs, key: _as_stored(value)}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            held = self._trials[self._number(trial_id)]
        if held.state.is_finished():
            return held
        # `optuna.Trial` keeps it and writes what it suggests into its mappings.
        own = copy.copy(held)
        own.params, own.distributions = dict(own.params), dict(own.distributions)
        own.user_attrs, own.system_attrs = dict(own.user_attrs), dict(own.system_attrs)
        return own

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        with self._lock:
            self._read(study_id)
            if not 0 <= trial_number < len(self._trials):
                raise KeyError(f"No trial with trial number {trial_number} exists.")
            return self._trials[trial_number]._trial_id

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        with self._lock:
            self._read(study_id)
            held = self._trials
            found = list(held) if states is None else [t for t in held if t.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def remove_session(self) -> None:
        self._database.remove_session()

    # ---- operations: done once more if their transaction is

    def _do(self, operation: Callable[[], object]) -> None:
        assert self._block is not None
        self._block.append(operation)

    def _make(self, study_id: int, trial: FrozenTrial) -> None:
        made = self._database._create_new_trial(study_id, trial)
        if made.number != trial.number:
            raise optuna.exceptions.StorageInternalError(
                f"trial {trial.number} is there already: something else writes this study"
            )
        self._new[made.number] = made._trial_id

    def _end(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None, at: datetime
    ) -> None:
        self._database.set_trial_state_values(trial_id, state, values)
        # Optuna takes its own time, which after an outage is another one.
        model = TrialModel.find_or_raise_by_id(trial_id, self._held.session)
        if state == TrialState.RUNNING:
            model.datetime_start = at
        if state.is_finished():
            model.datetime_complete = at

    def _id(self, number: int) -> int:
        """The database's id of a trial, which the transaction may just have given it."""
        return self._new.get(number, self._trials[number]._trial_id)

    def _name_new(self) -> None:
        for number, trial_id in self._new.items():
            self._numbers[trial_id] = number
            with self._change(number) as trial:
                trial._trial_id = trial_id

    # ---- memory

    def _number(self, trial_id: int) -> int:
        if trial_id not in self._numbers:
            raise KeyError(f"No trial with trial_id {trial_id} exists.")
        return self._numbers[trial_id]

    def _open(self, trial_id: int) -> int:
        """The number of a trial that may still be written."""
        with self._lock:
            number = self._number(trial_id)
            self.check_trial_is_updatable(trial_id, self._trials[number].state)
            return number

    @contextmanager
    def _change(self, number: int) -> Iterator[FrozenTrial]:
        """A copy to change, which then takes the trial's place: who holds the old one keeps it."""
        with self._lock:
            changed = copy.copy(self._trials[number])
            yield changed
            self._trials[number] = changed


def _begun(number: int, template: FrozenTrial | None) -> FrozenTrial:
    """A new trial as a later session will read it; its id is none of the database's."""
    own = -1 - number
    if template is None:
        return FrozenTrial(
            number=number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
            trial_id=own,
        )
    trial = copy.deepcopy(template)
    trial.number, trial._trial_id = number, own
    held = trial.distributions
    trial.params = {
        name: held[name].to_external_repr(held[name].to_internal_repr(value))
        for name, value in trial.params.items()
    }
    trial.user_attrs = _as_stored(trial.user_attrs)
    trial.system_attrs = _as_stored(trial.system_attrs)
    return trial


def _as_stored(value: Any) -> Any:
    """A value as a later session reads it."""
    return json.loads(json.dumps(value))
