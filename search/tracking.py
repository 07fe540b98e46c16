"""MLflow, as a projection of the study.

The study is the truth; MLflow shows it. Writes are upserts keyed on the trial's tag, made in a
thread of their own, so that a slow or absent server never holds up the search; what could not be
written is filled in by the next `sync`.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from merge_core.yaml_io import dump_yaml, one_line
from search import study as studies
from search.names import to_mlflow
from search.results import Result, joint
from search.run import Run

log = logging.getLogger("mergefront")

TRIAL = "mergefront.trial"
BASELINE = "mergefront.baseline"
RUN = "mergefront.run"
PARENT = "mlflow.parentRunId"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def tracking_uri(run: Run) -> str:
    """The file's URI, else MLFLOW_TRACKING_URI, else a SQLite store in the run folder."""
    given = run.search.file.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    return given or f"sqlite:///{run.folder / 'mlflow.db'}"


class Tracker:
    """Writes one run's trials to MLflow.

    Args:
        run: the run folder.
        study: its study.

    Attributes:
        problem: the first thing that could not be written, or None.
    """

    def __init__(self, run: Run, study: optuna.Study) -> None:
        self.run = run
        self.study = study
        self.problem: str | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._store: _Store | None = None
        self._front: set[int] = set()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        self._queue.put(self._open)

    # ---- called by the driver; returns at once

    def trial(self, number: int, front: Sequence[int], volume: float) -> None:
        """A trial was told; `front` and its hypervolume are as of now."""
        trials = {t.number: t for t in self.study.get_trials(deepcopy=False)}
        finished = len(studies.scored(self.study))
        self._queue.put(lambda: self._trial(trials[number]))
        self._queue.put(lambda: self._progress(list(front), volume, finished))

    def baseline(self, label: str, result: Result) -> None:
        """A baseline was scored on the dev items."""
        self._queue.put(lambda: self._baseline(label, result))

    def report(
        self, files: Iterable[Path], metrics: dict[str, float], tags: dict[str, str]
    ) -> None:
        """Attach files, metrics and tags to the search's own run."""
        paths = list(files)
        self._queue.put(lambda: self._report(paths, metrics, tags))

    def confirmed(self, trials: dict[int, dict[str, float]]) -> None:
        """Confirmed scores by trial number."""
        self._queue.put(lambda: self._confirmed(trials))

    def close(self) -> None:
        """Fill in whatever is missing and wait until all is written; a second call does nothing."""
        if not self._thread.is_alive():
            return
        self._queue.put(self._sync)
        self._queue.put(self._finish)
        self._queue.put(None)
        self._thread.join()

    # ---- in the thread

    def _work(self) -> None:
        while (action := self._queue.get()) is not None:
            try:
                action()
            except Exception as error:  # noqa: BLE001 (an outage must never stop the search)
                if self.problem is None:
                    self.problem = one_line(error)[:200]
                    log.warning("MLflow: %s; the study has everything", self.problem)

    def _open(self) -> None:
        self._store = _Store(self.run)
        self._sync()

    def _opened(self) -> _Store:
        if self._store is None:
            self._store = _Store(self.run)
        return self._store

    def _sync(self) -> None:
        """Write finished trials that have no finished run in MLflow."""
        store = self._opened()
        missing = False
        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state.is_finished() and frozen.number not in store.written:
                self._trial(frozen)
                missing = True
        folder = self.run.folder / "baselines"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            if path.stem not in store.baselines:
                self._baseline(path.stem, Result.load(path))
        if missing:
            self._tag_front(studies.current_front(self.study, self.run.search))

    def _trial(self, frozen: optuna.trial.FrozenTrial) -> None:
        store = self._opened()
        search = self.run.search
        path = self.run.trial(frozen.number)
        metrics: dict[str, float] = {"trial": float(frozen.number)}
        tags = {TRIAL: str(frozen.number), "front": "false", "state": frozen.state.name.lower()}
        if frozen.state == TrialState.COMPLETE:
            for objective, value in zip(search.objectives, frozen.values, strict=True):
                metrics[objective.name] = value
                low, high, n = frozen.user_attrs["intervals"][objective.name]
                metrics |= {f"{objective.name}_low": low, f"{objective.name}_high": high}
                metrics[f"{objective.name}_n"] = n
            metrics["tokens"] = float(frozen.user_attrs["tokens"])
            for stage, spent in frozen.user_attrs["seconds"].items():
                metrics[f"seconds_{stage}"] = float(spent)
            if "joint" in frozen.user_attrs:
                metrics["joint"] = float(frozen.user_attrs["joint"])
            for key in ("fault", studies.DUPLICATE_OF, studies.FINGERPRINT):
                if key in frozen.user_attrs:
                    tags[key] = str(frozen.user_attrs[key])
        params = {to_mlflow(name): str(value) for name, value in frozen.params.items()}
        if "merge_method" not in params and (recipe := studies.recipe_of(frozen)) is not None:
            params["merge_method"] = recipe.merge_method
        store.child(
            key=(TRIAL, str(frozen.number)),
            name=f"trial {frozen.number}",
            params=params,
            metrics=metrics,
            tags=tags,
            result=Result.load(path) if path.is_file() else None,
            failed=frozen.state == TrialState.FAIL,
        )
        store.written.add(frozen.number)

    def _baseline(self, label: str, result: Result) -> None:
        search = self.run.search
        metrics = {}
        for objective in search.objectives:
            estimate = result.estimate(objective)
            metrics[objective.name] = estimate.value
            metrics[f"{objective.name}_low"] = estimate.low
            metrics[f"{objective.name}_high"] = estimate.high
        if (both := joint(result)) is not None:
            metrics["joint"] = both.value
        store = self._opened()
        place = self.run.baseline(label).stem
        store.child(
            key=(BASELINE, place),
            name=label,
            params={"merge_method": "baseline"},
            metrics=metrics,
            tags={BASELINE: place, "front": "false"},
            result=result,
            failed=False,
        )
        store.baselines.add(place)

    def _progress(self, front: list[int], volume: float, finished: int) -> None:
        store = self._opened()
        metrics = {
            "hypervolume": volume,
            "front_size": float(len(front)),
            "trials": float(finished),
        }
        store.metrics(store.parent, metrics, step=finished)
        self._tag_front(front)

    def _tag_front(self, front: list[int]) -> None:
        store = self._opened()
        for number in self._front.symmetric_difference(front) | (set(front) - store.tagged):
            run_id = store.find((TRIAL, str(number)))
            if run_id is not None:
                store.client.set_tag(run_id, "front", "true" if number in front else "false")
                store.tagged.add(number)
        self._front = set(front)

    def _confirmed(self, trials: dict[int, dict[str, float]]) -> None:
        store = self._opened()
        for number, metrics in trials.items():
            run_id = store.find((TRIAL, str(number)))
            if run_id is not None:
                store.client.set_tag(run_id, "confirmed", "true")
                store.metrics(run_id, metrics)

    def _report(self, files: list[Path], metrics: dict[str, float], tags: dict[str, str]) -> None:
        store = self._opened()
        for file in files:
            store.client.log_artifact(store.parent, str(file))
        store.metrics(store.parent, metrics)
        for key, value in tags.items():
            store.client.set_tag(store.parent, key, value)

    def _finish(self) -> None:
        store = self._opened()
        store.client.set_terminated(store.parent)


class _Store:
    """The MLflow client and what it already holds of this run."""

    def __init__(self, run: Run) -> None:
        for key, value in _QUIET.items():
            os.environ.setdefault(key, value)
        import mlflow  # at use: three seconds to import
        from mlflow.entities import ViewType

        logging.getLogger("alembic").setLevel(logging.ERROR)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        uri = tracking_uri(run)
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        name = run.search.file.tracking.experiment or run.name
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            local = uri.startswith("sqlite:")
            place = (run.folder / "mlartifacts").as_uri() if local else None
            self.experiment = self.client.create_experiment(
                name, place, tags={"mlflow.experimentKind": "custom_model_development"}
            )
        else:
            self.experiment = experiment.experiment_id
        self.parent = self._parent(run, ViewType.ACTIVE_ONLY)
        self._ids: dict[tuple[str, str], str] = {}
        self.written: set[int] = set()
        self.baselines: set[str] = set()
        self.tagged: set[int] = set()
        self._read(ViewType.ACTIVE_ONLY)

    def find(self, key: tuple[str, str]) -> str | None:
        """The id of the child run with this tag."""
        return self._ids.get(key)

    def child(
        self,
        *,
        key: tuple[str, str],
        name: str,
        params: dict[str, str],
        metrics: dict[str, float],
        tags: dict[str, str],
        result: Result | None,
        failed: bool,
    ) -> None:
        """Create or complete the child run with this tag."""
        from mlflow.entities import Metric, Param, RunTag

        run_id = self.find(key)
        if run_id is None:
            created = self.client.create_run(
                self.experiment,
                run_name=name,
                tags={PARENT: self.parent, key[0]: key[1], RUN: self._run_name},
            )
            run_id = self._ids[key] = created.info.run_id
        now = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[Metric(k, v, now, 0) for k, v in metrics.items()],
            params=[Param(k, v[:6000]) for k, v in params.items()],
            tags=[RunTag(k, v) for k, v in tags.items()],
        )
        if result is not None:
            self.client.log_text(run_id, dump_yaml(dict(result.recipe)), "recipe.yaml")
            self.client.log_dict(run_id, _table(result), "items.json")
        self.client.set_terminated(run_id, "FAILED" if failed else "FINISHED")

    def metrics(self, run_id: str, metrics: dict[str, float], step: int = 0) -> None:
        """Log several metrics at once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(k, v, now, step) for k, v in metrics.items()])

    def _parent(self, run: Run, active: Any) -> str:
        self._run_name = run.name
        found = self.client.search_runs(
            [self.experiment],
            filter_string=f"tags.`{RUN}` = '{run.name}' and tags.role = 'search'",
            run_view_type=active,
            max_results=1,
        )
        if found:
            return str(found[0].info.run_id)
        created = self.client.create_run(
            self.experiment, run_name=run.name, tags={RUN: run.name, "role": "search"}
        )
        run_id = str(created.info.run_id)
        file = run.search.file
        for key, value in {
            "base_model": file.base_model or "",
            "models": ", ".join(entry.model for entry in file.models),
            "objectives": ", ".join(objective.name for objective in run.search.objectives),
        }.items():
            self.client.log_param(run_id, key, value[:6000])
        self.client.log_artifact(run_id, str(run.folder / "search.yaml"))
        return run_id

    def _read(self, active: Any) -> None:
        """Which trials and baselines are there already, and which of them are finished."""
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment],
                filter_string=f"tags.`{PARENT}` = '{self.parent}'",
                run_view_type=active,
                max_results=1000,
                page_token=token,
            )
            for child in page:
                tags = child.data.tags
                for kind in (TRIAL, BASELINE):
                    if kind in tags:
                        self._ids[(kind, tags[kind])] = child.info.run_id
                if child.info.status != "RUNNING":
                    if TRIAL in tags:
                        self.written.add(int(tags[TRIAL]))
                    if BASELINE in tags:
                        self.baselines.add(tags[BASELINE])
                if tags.get("front") == "true" and TRIAL in tags:
                    self.tagged.add(int(tags[TRIAL]))
            token = page.token
            if not token:
                return


def _table(result: Result) -> dict[str, Any]:
    """Per-item outputs in the split form that MLflow shows as a table."""
    measures = sorted({m for rows in result.items.values() for row in rows for m in row.scores})
    columns = ["task", "id", *measures, "tokens", "finish_reason", "text"]
    return {
        "columns": columns,
        "data": [
            [
                task,
                row.id,
                *(row.scores.get(m) for m in measures),
                row.tokens,
                row.finish_reason,
                row.text,
            ]
            for task, rows in result.items.items()
            for row in rows
        ],
    }
