"""The MLflow client of one run: what the store already holds of it, and upserts into it."""

from __future__ import annotations

import json
import logging
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from merge_core.yaml_io import dump_yaml
from search.results import Result
from search.run import Run
from search.secrets import redacted

TRIAL = "mergefront.trial"
BASELINE = "mergefront.baseline"
RUN = "mergefront.run"
PARENT = "mlflow.parentRunId"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # Seven, the default, are four minutes for each of the calls that an absent server refuses.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}


def import_mlflow() -> Any:
    """MLflow, kept quiet; imported at use because that takes three seconds."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    import mlflow

    logging.getLogger("alembic").setLevel(logging.ERROR)
    # It prints a traceback of what it raises as well; the tracker tells it in one line.
    for name in ("mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


def _make(uri: str) -> None:
    """A SQLite store with all its tables, if there is none yet.

    Under another name first: a store whose making was killed half-way opens never again.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    url = make_url(uri) if uri.startswith("sqlite") else None
    if url is None or not url.database or Path(url.database).exists():
        return
    file = Path(url.database).absolute()
    half = file.with_name(f"{file.name}.half")
    half.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"sqlite:///{half}", (file.parent / "mlartifacts").as_uri())
    store.engine.dispose()
    half.replace(file)


class Store:
    """The MLflow client and what it already holds of this run."""

    def __init__(self, run: Run) -> None:
        mlflow = import_mlflow()
        from mlflow.entities import ViewType

        uri = run.tracking
        _make(uri)
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
        """Trials whose runs say that they are on the front."""
        history = self.client.get_metric_history(self.parent, "trials")
        self.steps = {metric.step for metric in history}
        """Of the search's own curves."""
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
        times: tuple[int, int],
    ) -> None:
        """Create or complete the child run with this tag."""
        from mlflow.entities import Metric, Param, RunTag

        run_id = self.find(key)
        if run_id is None:
            created = self.client.create_run(
                self.experiment,
                run_name=name,
                start_time=times[0],
                tags={PARENT: self.parent, key[0]: key[1], RUN: self._run_id},
            )
            run_id = self._ids[key] = created.info.run_id
        if result is not None:
            tags = {**tags, "mlflow.loggedArtifacts": _TABLES}
        # The same values at the same time are the same point: a second writing adds none.
        self.client.log_batch(
            run_id,
            metrics=[Metric(k, v, times[1], 0) for k, v in metrics.items()],
            params=[Param(k, v[:6000]) for k, v in params.items()],
            tags=[RunTag(k, v) for k, v in tags.items()],
        )
        if result is not None:
            self.client.log_text(run_id, dump_yaml(dict(result.recipe)), "recipe.yaml")
            self.client.log_dict(run_id, _table(result), _ITEMS)
        self.client.set_terminated(run_id, "FAILED" if failed else "FINISHED", times[1])

    def metrics(
        self, run_id: str, metrics: dict[str, float], step: int = 0, at: int | None = None
    ) -> None:
        """Log several metrics at once."""
        from mlflow.entities import Metric

        at = int(time.time() * 1000) if at is None else at
        self.client.log_batch(run_id, metrics=[Metric(k, v, at, step) for k, v in metrics.items()])

    def latest(self, run_id: str, metrics: dict[str, float]) -> None:
        """Log those of `metrics` that the run does not have yet."""
        there = self.client.get_run(run_id).data.metrics
        if new := {key: value for key, value in metrics.items() if there.get(key) != value}:
            self.metrics(run_id, new)

    def _parent(self, run: Run, active: Any) -> str:
        self._run_id = run.id
        found = self.client.search_runs(
            [self.experiment],
            filter_string=f"tags.`{RUN}` = '{run.id}' and tags.role = 'search'",
            run_view_type=active,
            max_results=1,
        )
        if found:
            run_id = str(found[0].info.run_id)
            self.client.update_run(run_id, status="RUNNING")
            return run_id
        created = self.client.create_run(
            self.experiment, run_name=run.name, tags={RUN: run.id, "role": "search"}
        )
        run_id = str(created.info.run_id)
        file = run.search.file
        for key, value in {
            "base_model": file.base_model or "",
            "models": ", ".join(entry.model for entry in file.models),
            "objectives": ", ".join(objective.name for objective in run.search.objectives),
        }.items():
            self.client.log_param(run_id, key, value[:6000])
        self.client.log_text(run_id, redacted(run.search.text), "search.yaml")
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


_ITEMS = "items.json"
_TABLES = json.dumps([{"path": _ITEMS, "type": "table"}])


def _table(result: Result) -> dict[str, Any]:
    """Per-item outputs in the split form that MLflow shows as a table.

    Of several answers to one item each has its row. MLflow's page groups by the first column and
    compares runs in the second; a column with a dot in its name stays blank.
    """
    measures = sorted({m for rows in result.items.values() for row in rows for m in row.scores})
    scores = [measure.replace(".", "/") for measure in measures]
    return {
        "columns": ["item", "text", *scores, "tokens", "finish_reason", "task", "id"],
        "data": [
            [
                f"{task}/{row.id}" + (f" #{number}" if row.samples else ""),
                answer.text,
                *(answer.scores.get(m) for m in measures),
                answer.tokens,
                answer.finish_reason,
                task,
                row.id,
            ]
            for task, rows in result.items.items()
            for row in rows
            for number, answer in enumerate(row.answers)
        ],
    }


def milliseconds(moment: datetime | None) -> int:
    """Since the epoch; of now for None."""
    return int((time.time() if moment is None else moment.timestamp()) * 1000)
