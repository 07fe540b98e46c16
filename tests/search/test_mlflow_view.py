"""Saved views of MLflow's runs page hold what they promise; names stay one to one."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import mlflow
import pytest

from search.mlflow_view import ALL, FRONT, PREFIX, runs_link, view_key, view_link, view_tags

OBJECTIVES = ["reasoning", "language"]
PARAMETERS = ["language/weight", "reasoning/weight/knee"]


def decode(value: str) -> dict[str, Any]:
    """What a view's tag holds: the name and, under "state", the search and the page."""
    view: dict[str, Any] = json.loads(value)
    packed = base64.b64decode(view["state"].removeprefix("deflate;"))
    return {**view, "state": json.loads(zlib.decompress(packed))}


def states(**options: object) -> tuple[dict, dict]:
    """What the views of the front and of all trials hold."""
    tags = view_tags(OBJECTIVES, PARAMETERS, **options)  # type: ignore[arg-type]
    run = options.get("run")
    keys = [PREFIX + view_key(key, run) for key in (FRONT, ALL)]  # type: ignore[arg-type]
    assert list(tags) == keys
    return decode(tags[keys[0]])["state"], decode(tags[keys[1]])["state"]


def test_both_views_decode_and_name_the_given_columns() -> None:
    confirmed = ["confirmed_reasoning", "confirmed_language"]
    for state in states():
        assert state["selectedColumns"] == [
            *(f"metrics.`{name}`" for name in (*OBJECTIVES, *confirmed, "joint", "tokens")),
            "tags.`role`",
            *(f"params.`{name}`" for name in PARAMETERS),
        ]
        assert set(state["selectedColumns"]) <= set(state["columnOrder"])
        assert not any("_low" in name or "_high" in name for name in state["selectedColumns"])
        assert state["runsHiddenMode"] == "SHOW_ALL"  # the page draws ten runs unless told


def test_charts_are_the_scatters_the_progress_and_the_recipes() -> None:
    state, _ = states()
    sections = {section["uuid"] for section in state["compareRunSections"]}
    charts = {
        chart["uuid"].removeprefix("mergefront-"): chart for chart in state["compareRunCharts"]
    }
    assert {chart["metricSectionId"] for chart in charts.values()} <= sections
    for name, prefix in (("scatter", ""), ("scatter-confirmed", "confirmed_")):
        assert charts[name]["xaxis"] == {"key": f"{prefix}reasoning", "type": "METRIC"}
        assert charts[name]["yaxis"] == {"key": f"{prefix}language", "type": "METRIC"}
    lines = [chart["metricKey"] for chart in charts.values() if chart["type"] == "LINE"]
    assert lines == ["hypervolume", "front_size", "failures", "tokens"]
    assert charts["parallel"]["selectedParams"] == PARAMETERS
    assert charts["parallel"]["selectedMetrics"] == OBJECTIVES


def charted(objectives: list[str]) -> list[list[str]]:
    """The metrics of each chart in the section that is seen first."""
    state = decode(view_tags(objectives, [])[PREFIX + ALL])["state"]
    first = state["compareRunSections"][0]["uuid"]
    return [
        [chart["metricKey"]]
        if chart["type"] == "BAR"
        else [chart[axis]["key"] for axis in ("xaxis", "yaxis")]
        for chart in state["compareRunCharts"]
        if chart["metricSectionId"] == first
    ]


def test_one_objective_is_drawn_over_trials_and_beside_the_baselines() -> None:
    assert charted(["reasoning"]) == [
        ["reasoning"],
        ["confirmed_reasoning"],
        ["trial", "reasoning"],
    ]


@pytest.mark.parametrize("more", [[], ["d"]])
def test_of_three_objectives_every_pair_is_drawn(more: list[str]) -> None:
    pairs = [["a", "b"], ["a", "c"], ["b", "c"]]
    assert charted(["a", "b", "c", *more]) == [
        [prefix + name for name in pair] for pair in pairs for prefix in ("", "confirmed_")
    ]
    tags = view_tags(["a", "b", "c"], [])
    charts = decode(tags[PREFIX + FRONT])["state"]["compareRunCharts"]
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_a_search_without_parameters_has_no_recipes() -> None:
    state = decode(view_tags(["reasoning"], [])[PREFIX + ALL])["state"]
    assert "PARALLEL" not in {chart["type"] for chart in state["compareRunCharts"]}


def test_the_front_is_without_the_other_trials_and_they_come_last_among_all() -> None:
    front, everything = states()
    assert front["searchFilter"] == "tags.role != 'trial'"
    assert everything["searchFilter"] == ""
    # In this order of roles: baseline, front, search, trial; the page loads a hundred runs.
    assert (everything["orderByKey"], everything["orderByAsc"]) == ("tags.`role`", True)


def test_the_front_is_ordered_by_the_first_objective_best_first() -> None:
    front, _ = states()
    assert (front["orderByKey"], front["orderByAsc"]) == ("metrics.`reasoning`", False)
    front, _ = states(ascending=True)
    assert (front["orderByKey"], front["orderByAsc"]) == ("metrics.`reasoning`", True)


def test_searches_that_share_an_experiment_have_views_of_their_own() -> None:
    front, everything = states(run="thai")
    assert everything["searchFilter"] == "tags.`mergefront.run` = 'thai'"
    assert front["searchFilter"] == "tags.`mergefront.run` = 'thai' and tags.role != 'trial'"
    assert not set(view_tags(OBJECTIVES, [], run="thai")) & set(view_tags(OBJECTIVES, []))


def test_tags_are_the_same_for_the_same_search() -> None:
    assert view_tags(OBJECTIVES, PARAMETERS) == view_tags(OBJECTIVES, PARAMETERS)


def test_the_menu_lists_the_front_first() -> None:
    tags = view_tags(OBJECTIVES, PARAMETERS)
    views = [json.loads(tags[PREFIX + key]) for key in (FRONT, ALL)]
    assert views[0]["updatedAt"] > views[1]["updatedAt"]
    assert [view["name"] for view in views] == ["The front", "All trials"]


def test_links_give_the_key_and_no_filter_that_would_hide_it() -> None:
    link = view_link("http://127.0.0.1:5000/", "7", FRONT)
    assert link.startswith("http://127.0.0.1:5000/#/experiments/7/runs?")
    assert link.endswith("&viewStateShareKey=front")
    assert "searchFilter" not in link
    assert view_link("", "7", ALL).startswith("#/experiments/7/runs?")
    assert (
        runs_link("http://x", "7") == "http://x/#/experiments/7/runs?workflowType=machine_learning"
    )


@pytest.mark.parametrize("needle", ['"mlflow.sharedViewState."', '"viewStateShareKey"'])
def test_the_installed_page_knows_the_tag(needle: str) -> None:
    scripts = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    texts = (path.read_text(encoding="utf-8") for path in scripts.glob("main.*.js"))
    assert any(needle in text for text in texts)


def test_many_parameters_fit_a_tag() -> None:
    many = [f"expert{expert}/weight/{anchor}" for expert in range(8) for anchor in range(64)]
    # MLflow's limit; a view of such a search is a few kilobytes.
    assert all(len(value) < 20_000 for value in view_tags(OBJECTIVES, many).values())
