"""Optuna's database for a study with one writer: reads cost nothing, a trial's writes go together.

Optuna's own storage reads every unfinished trial again whenever a sampler looks at the study (with
64 running trials 60 ms a proposal), and commits each parameter and attribute by itself. The driver
alone owns its study (`search.run.lease`), so what it wrote is what there is: it reads from memory.
What is on disk is what Optuna's storage writes, no more and no less, and any reader of Optuna's
(`optuna.load_study`, optuna-dashboard) can look at it meanwhile.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.orm import Session, scoped_session, sessionmaker


class _Together(Session):
    """A database session whose commits wait while it is held: then all are one transaction."""

    held = False
    broken = False

    def commit(self) -> None:
        if self.held:
            self.flush()
        else:
            super().commit()

    def close(self) -> None:
        if self.held:
            self.expunge_all()  # as after a real one, the next reads see what was written
        else:
            super().close()

    def rollback(self) -> None:
        self.broken = self.held
        super().rollback()


class OwnedStorage(BaseStorage):
    """`RDBStorage` for the only writer of one study. Safe to read from other threads.

    Args:
        url: of the database, as SQLAlchemy takes it.
        engine_kwargs: for SQLAlchemy's engine.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any] | None = None) -> None:
        self._database = RDBStorage(url, engine_kwargs=engine_kwargs)
        self._sessions = scoped_session(sessionmaker(bind=self._database.engine, class_=_Together))
        self._database.scoped_session = self._sessions  # type: ignore[assignment]
        self._lock = threading.RLock()
        self._study: int | None = None
        self._trials: list[FrozenTrial] = []
        self._numbers: dict[int, int] = {}
        self._attributes: tuple[dict[str, Any], dict[str, Any]] = ({}, {})

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write all that the block writes in one transaction at its end, or nothing of it.

        A block that fails leaves memory ahead of the database: the session has to end.

        Raises:
            StorageInternalError: the database refused a part of it.
        """
        session = self._sessions()
        session.held, session.broken = True, False
        try:
            yield
        except BaseException:
            session.held = False
            session.rollback()
            session.close()
            raise
        session.held = False
        try:
            if session.broken:
                raise optuna.exceptions.StorageInternalError("a part of a trial was refused")
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()

    # ---- studies

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        return self._database.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._database.delete_study(study_id)
        self._study = None

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._database.set_study_user_attr(study_id, key, value)
        self._read(study_id)[0][key] = _as_stored(value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._database.set_study_system_attr(study_id, key, value)
        self._read(study_id)[1][key] = _as_stored(value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._database.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._database.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._database.get_study_directions(study_id)

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
                self._attributes = (
                    self._database.get_study_user_attrs(study_id),
                    self._database.get_study_system_attrs(study_id),
                )
                self._trials = self._database.get_all_trials(study_id, deepcopy=False)
                self._numbers = {trial._trial_id: trial.number for trial in self._trials}
                self._study = study_id
            return self._attributes

    # ---- trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._read(study_id)
        trial_id = self._database.create_new_trial(study_id, template_trial)
        with self._lock:
            trial = self._database.get_trial(trial_id)
            self._numbers[trial_id] = trial.number
            self._trials.append(trial)
            return trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        self._database.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        value = distribution.to_external_repr(param_value_internal)
        with self._change(trial_id) as trial:
            trial.params = {**trial.params, param_name: value}
            trial.distributions = {**trial.distributions, param_name: distribution}

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if not self._database.set_trial_state_values(trial_id, state, values):
            return False
        with self._change(trial_id) as trial:
            trial.state = state
            if values is not None:
                trial.values = list(values)
            if state == TrialState.RUNNING:
                trial.datetime_start = datetime.now()
            if state.is_finished():
                trial.datetime_complete = datetime.now()
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._database.set_trial_intermediate_value(trial_id, step, intermediate_value)
        with self._change(trial_id) as trial:
            trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._database.set_trial_user_attr(trial_id, key, value)
        with self._change(trial_id) as trial:
            trial.user_attrs = {**trial.user_attrs, key: _as_stored(value)}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._database.set_trial_system_attr(trial_id, key, value)
        with self._change(trial_id) as trial:
            trial.system_attrs = {**trial.system_attrs, key: _as_stored(value)}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            if trial_id not in self._numbers:
                raise KeyError(f"No trial with trial_id {trial_id} exists.")
            return self._trials[self._numbers[trial_id]]

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

    @contextmanager
    def _change(self, trial_id: int) -> Iterator[FrozenTrial]:
        """A copy to change, which then takes the trial's place: who holds the old one keeps it."""
        with self._lock:
            number = self._numbers[trial_id]
            changed = copy.copy(self._trials[number])
            yield changed
            self._trials[number] = changed


def _as_stored(value: Any) -> Any:
    """A value as a later session reads it."""
    return json.loads(json.dumps(value))
