"""Saved views of MLflow's runs page: the columns and charts of a search, one click away.

MLflow keeps a saved view as an experiment tag `mlflow.sharedViewState.<key>` that its page reads
when the address says `viewStateShareKey=<key>`; since 3.17 the tag also puts the view's name into
the page's "Views" menu. The form is not documented. It is what the page of MLflow 3.17.2 writes
for a view saved by hand:

- the tag is JSON: name, createdAt and updatedAt in milliseconds, and the state;
- the state is `deflate;` and the base64 of zlib-compressed JSON;
- that JSON holds the search (filter, order) and the page (columns, charts and their sections).

Best effort: a page that does not know the form says so and shows its defaults. The page shows
either the table of columns or the charts; a link opens the charts, its list icon the table.

The page loads a hundred runs. So the view that opens first has the front and the baselines alone;
that of all trials lists these two first, by their `role`, and then the newest trials.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from search.config import measures_of
from search.names import to_mlflow
from search.run import Run

PREFIX = "mlflow.sharedViewState."
FRONT, ALL = "front", "all"
_HEADER = "deflate;"
CURVES = ("hypervolume", "front_size", "failures", "tokens")
"""Metrics of the search's own run that are drawn over finished trials; with a price, cost, too."""
_PAIRED = 3  # objectives of which every two make a scatter
_AXES = 12  # of parallel coordinates: more cannot be told apart
_FIRST_COLUMNS = ("attributes.`Run Name`", "runDateAndNestInfo")
_SEARCH, _RECIPES, _CURVES, _METRICS, _SYSTEM = (
    f"mergefront-{name}" for name in ("search", "recipes", "curves", "metrics", "system")
)


def views_of(run: Run) -> dict[str, str]:
    """The experiment's tags that hold a run's views, by name."""
    search = run.search
    joint = any("joint" in measures_of(task) for task in search.file.tasks.values())
    price = search.file.budget.gpu_hour_price
    return view_tags(
        [objective.name for objective in search.objectives],
        [to_mlflow(name) for name in search.space.distributions()],
        metrics=["joint", "tokens"] if joint else ["tokens"],
        curves=[*CURVES, *([] if price is None else ["cost"])],
        ascending=search.objectives[0].direction == "minimize",
        run=_shared(run),
    )


def key_for(run: Run, key: str) -> str:
    """The key of a run's own view."""
    return view_key(key, _shared(run))


def _shared(run: Run) -> str | None:
    """What tells a run from others in its experiment; None where it has one of its own."""
    return run.id if run.search.file.tracking.experiment else None


def view_tags(
    objectives: Sequence[str],
    parameters: Sequence[str],
    *,
    metrics: Sequence[str] = ("joint", "tokens"),
    curves: Sequence[str] = CURVES,
    ascending: bool = False,
    run: str | None = None,
) -> dict[str, str]:
    """Experiment tags of two views: of the front beside the baselines, and of all trials.

    Args:
        objectives: metrics that are searched for: of two and three every pair is a scatter, of
            more the pairs of the first three; one alone is drawn as bars and over trials.
        parameters: MLflow's names of the parameters.
        metrics: further metric columns.
        curves: metrics of the search's own run that are drawn over finished trials.
        ascending: whether smaller values of the first objective are better.
        run: in an experiment of several searches, the one to show; see `view_key`.

    Returns:
        The tags' values by name: always the same for the same arguments.
    """
    of_run = [f"tags.`mergefront.run` = '{run}'"] if run is not None else []
    ours = f" of {run}" if run is not None else ""
    shown = [metric for metric in metrics if metric not in objectives]
    columns = [*objectives, *(f"confirmed_{name}" for name in objectives), *shown]
    page = _page(objectives, parameters, columns, curves)
    front = [*of_run, "tags.role != 'trial'"]
    return {
        # The menu lists the last changed first.
        PREFIX + view_key(FRONT, run): _view(
            f"The front{ours}",
            2,
            _search(front, f"metrics.`{objectives[0]}`", ascending=ascending),
            page,
        ),
        PREFIX + view_key(ALL, run): _view(
            f"All trials{ours}", 1, _search(of_run, "tags.`role`", ascending=True), page
        ),
    }


def view_key(key: str, run: str | None = None) -> str:
    """A view's key; in an experiment of several searches, `run`'s own."""
    return key if run is None else f"{key}-{run}"


def view_link(base: str, experiment: str, key: str) -> str:
    """The address that opens a view.

    Args:
        base: address of the MLflow server; "" for a link from one of its own pages.
        experiment: its id.
        key: of the view.
    """
    # The page looks at the key only where the address gives no filter or order.
    return f"{runs_link(base, experiment)}&compareRunsMode=CHART&viewStateShareKey={key}"


def runs_link(base: str, experiment: str) -> str:
    """The address of an experiment's runs page as it comes, in the mode that shows metrics."""
    root = f"{base.rstrip('/')}/" if base else ""
    return f"{root}#/experiments/{experiment}/runs?workflowType=machine_learning"


def _view(name: str, at: int, search: dict[str, Any], page: dict[str, Any]) -> str:
    plain = json.dumps({**search, **page}, separators=(",", ":"))
    state = _HEADER + base64.b64encode(zlib.compress(plain.encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": at, "updatedAt": at, "state": state})


def _search(filters: Sequence[str], order: str, *, ascending: bool) -> dict[str, Any]:
    # In any order but by time the page lists children beside their parent, not folded below it.
    return {
        "searchFilter": " and ".join(filters),
        "orderByKey": order,
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
    }


def _page(
    objectives: Sequence[str],
    parameters: Sequence[str],
    metrics: Sequence[str],
    curves: Sequence[str],
) -> dict[str, Any]:
    columns = [
        *(f"metrics.`{name}`" for name in metrics),
        "tags.`role`",
        *(f"params.`{name}`" for name in parameters),
    ]
    charts = [*(_pairs(objectives) if len(objectives) > 1 else _alone(objectives[0]))]
    charts += [_curve(name) for name in curves]
    if parameters:
        charts.append(
            _chart(
                "PARALLEL",
                "parallel",
                metricSectionId=_RECIPES,
                selectedParams=list(parameters)[:_AXES],
                selectedMetrics=list(objectives),
                showAllRuns=False,
            )
        )
    return {
        "selectedColumns": columns,
        # Without an order the page sorts columns by name, tags after all parameters.
        "columnOrder": [*_FIRST_COLUMNS, *columns, "duration"],
        "columnWidths": {column: max(100, 8 * len(column) - 40) for column in columns},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        # The page adds a chart of every metric to "Model metrics": folded, for they are many.
        "compareRunSections": [
            _section(_SEARCH, "The front", display=True) | {"columns": 2, "cardHeight": 420},
            _section(_RECIPES, "Recipes", display=True) | {"columns": 1, "cardHeight": 420},
            _section(_CURVES, "Progress over trials", display=True)
            | {"columns": 3, "cardHeight": 300},
            _section(_METRICS, "Model metrics", display=False),
            _section(_SYSTEM, "System metrics", display=False),
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def _pairs(objectives: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Two objectives against each other: as claimed, and beside that as confirmed."""
    for number, pair in enumerate(combinations(objectives[:_PAIRED], 2), 1):
        for prefix in ("", "confirmed_"):
            name = f"scatter{'' if number == 1 else f'-{number}'}{'-confirmed' if prefix else ''}"
            yield _scatter(name, *(prefix + objective for objective in pair))


def _alone(objective: str) -> Iterator[dict[str, Any]]:
    """The best trial beside the baselines, and the trials one after the other."""
    for prefix in ("", "confirmed_"):
        name = f"bar{'-confirmed' if prefix else ''}"
        yield _chart("BAR", name, runsCountToCompare=100, metricKey=prefix + objective)
    yield _scatter("scatter", "trial", objective)


def _scatter(name: str, x: str, y: str) -> dict[str, Any]:
    return _chart(
        "SCATTER",
        name,
        runsCountToCompare=100,
        xaxis={"key": x, "type": "METRIC"},
        yaxis={"key": y, "type": "METRIC"},
    )


def _curve(metric: str) -> dict[str, Any]:
    """A metric of the search's own run over finished trials."""
    return _chart(
        "LINE",
        f"line-{metric}",
        metricSectionId=_CURVES,
        metricKey=metric,
        selectedMetricKeys=[metric],
        xAxisKey="step",
        yAxisKey="metric",
        xAxisScaleType="linear",
        scaleType="linear",
        lineSmoothness=0,
        range={},
        useGlobalXaxisKey=True,
    )


def _chart(kind: str, name: str, **rest: Any) -> dict[str, Any]:
    return {
        "uuid": f"mergefront-{name}",
        "type": kind,
        "runsCountToCompare": 10,
        "metricSectionId": _SEARCH,
        "deleted": False,
        "isGenerated": False,
        **rest,
    }


def _section(uuid: str, name: str, *, display: bool) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "display": display,
        "isReordered": True,
        "deleted": False,
        "isGenerated": uuid in (_METRICS, _SYSTEM),
    }
