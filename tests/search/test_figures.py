"""Figures: what is drawn of which run, that page and picture agree, and what must not break."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from objectives import Estimate
from search import figures
from search.confirm import Member
from search.figures.chart import Axis, Bars, Line, Placed, Points, spanned
from search.figures.figure import spread
from search.figures.front import front
from search.figures.importance import importance
from search.figures.interactive import drawn_plotly
from search.figures.picture import drawn_matplotlib
from search.figures.progress import progress
from search.figures.retained import retained
from search.figures.schedules import schedules
from search.figures.slices import MOST, slices
from search.figures.workers import workers
from search.view import BaselineView, RunView
from tests.search.views import Told, search_of, view_of

PARTIAL = {"partial": {"reason": "behind", "items": 2, "of": 4, "audited": False, "expected": {}}}


def numbers(count: int, seed: int = 0, objectives: int = 2) -> list[Told]:
    draw = random.Random(seed)
    return [
        Told([round(draw.random(), 2) for _ in range(objectives)], worker=f"w{n % 2}")
        for n in range(count)
    ]


def member(label: str, trial: int | None, x: float, y: float) -> Member:
    scores = {"right": Estimate(x, x - 0.1, x + 0.1, 8), "english": Estimate(y, y - 0.2, y, 8)}
    claimed = {name: dataclasses.replace(e, value=e.value + 0.05) for name, e in scores.items()}
    return Member(label, trial, label, {}, claimed, scores, None, True, on_front=True)


def baseline(label: str, *values: float) -> BaselineView:
    return BaselineView(label, values, {}, {}, "", 0, 1, "w0", 1, {}, {}, None, "", True)


def confirmed(view: RunView) -> RunView:
    best = view.front[0]
    members = [member(f"trial {best}", best, 0.5, 0.6), member("base", None, 0.2, 0.3)]
    held = {"base": baseline("base", 0.25, 0.35)}
    return dataclasses.replace(view, members=members, chosen=members[0], baselines=held)


def named(chart, name: str, kind=Points):
    panels = [chart.panels[0]]
    return next(s for p in panels for s in p.series if s.name == name and isinstance(s, kind))


def test_every_trial_with_scores_has_one_mark_and_the_front_is_told_apart(tmp_path: Path) -> None:
    told = [
        *numbers(9),
        Told((0.3, 0.4), PARTIAL),
        Told((0.0, 0.0), {"fault": "NaN"}),
        Told((0.9, 0.05), constraints={"english": 0.05}),
        Told((0.3, 0.3), {"duplicate_of": 2}),
        Told(()),
        Told(None),
    ]
    view = confirmed(view_of(tmp_path, search_of(tmp_path), told))
    figure = front(view)
    assert figure is not None
    panel = figure.chart.panels[0]
    by_name = {s.name: s for s in panel.series if isinstance(s, Points)}
    at = {n: list(zip(s.x, s.y, strict=True)) for n, s in by_name.items()}
    assert at["front, claimed"] == [view.trials[n].values for n in view.front]
    assert sorted(at["trials"] + at["front, claimed"]) == sorted(tuple(t.values) for t in told[:9])
    assert at["stopped early"] == [(0.3, 0.4)]
    assert at["misses a constraint"] == [(0.9, 0.05)]
    assert at["baselines, claimed"] == [(0.25, 0.35)]
    assert at["confirmed, 95% at once"] == at["exported"] == [(0.5, 0.6)]
    assert at["baselines, confirmed"] == [(0.2, 0.3)]
    low, high = by_name["confirmed, 95% at once"].x_bars[0]
    assert (low, high) == (pytest.approx(0.4), pytest.approx(0.6))
    # Not by color alone: neighbours in kind differ in their marks, too.
    assert len({s.symbol for n, s in by_name.items() if "baselines" not in n}) >= 5
    (region,) = panel.regions  # english >= .1, an objective
    assert (region.bound, region.upright) == (0.1, False)
    assert region.end == panel.y.span[0]
    assert "1 merge with infinite weights" in figure.caption
    texts = by_name["front, claimed"].texts[0].split("\n")
    assert texts[0] == f"trial {view.front[0]} (all items)"
    assert any(line.startswith("right ") for line in texts)
    assert any(line.startswith("language.weight = ") for line in texts)
    assert "misses the constraint on english" in by_name["misses a constraint"].texts[0]


def test_a_broken_baseline_is_not_drawn_and_one_that_is_off_is_named(tmp_path: Path) -> None:
    view = confirmed(view_of(tmp_path, search_of(tmp_path), numbers(9)))
    none = dict.fromkeys(("right", "english"), (0.0, 0.0, 0))
    zero = dict.fromkeys(("right", "english"), Estimate(0.0, 0.0, 0.0, 0))
    lost = dataclasses.replace(baseline("uniform", 0.0, 0.0), intervals=none, feasible=False)
    off = dataclasses.replace(baseline("ties", 0.7, 0.05), feasible=False)
    held = {"uniform": lost, "ties": off, **view.baselines}
    gone = member("uniform", None, 0.0, 0.0)
    gone = dataclasses.replace(gone, claimed=zero, confirmed=zero, feasible=False, on_front=False)
    view = dataclasses.replace(view, baselines=held, members=[*view.members, gone])
    figure = front(view)
    assert figure is not None
    claimed = named(figure.chart, "baselines, claimed")
    assert list(zip(claimed.x, claimed.y, strict=True)) == [(0.7, 0.05), (0.25, 0.35)]
    assert claimed.texts[0].endswith("misses a constraint")
    assert len(named(figure.chart, "baselines, confirmed").x) == 1
    assert "uniform" not in [label.text for label in figure.chart.panels[0].labels]
    assert "Not drawn, because its merge is broken: baseline uniform." in figure.caption
    assert "Of the baselines, ties misses a constraint." in figure.caption
    # A front trial that could not be confirmed keeps its claimed mark.
    alone = dataclasses.replace(view, members=view.members[1:], chosen=None)
    figure = front(alone)
    assert figure is not None
    assert len(named(figure.chart, "front, claimed").x) == len(view.front)
    assert figure.png().axes


def test_a_bound_that_all_trials_miss_is_in_sight(tmp_path: Path) -> None:
    search = search_of(tmp_path, constraints={"english": ">= 0.95"})
    told = [Told((0.1 * n, 0.05 * n), constraints={"english": 0.95 - 0.05 * n}) for n in range(6)]
    figure = front(view_of(tmp_path, search, told))
    assert figure is not None
    panel = figure.chart.panels[0]
    (region,) = panel.regions
    assert panel.y.span[0] == region.end < 0.25 < region.bound == 0.95 < panel.y.span[1]
    assert any("misses english" in (t.name or "") for t in figure.html().data)
    # Held by all and far away, it takes no room.
    search = search_of(tmp_path, constraints={"english": ">= 0.05"})
    held = [Told((0.1 * n, 0.5 + 0.05 * n), constraints={"english": -0.45}) for n in range(6)]
    figure = front(view_of(tmp_path, search, held))
    assert figure is not None
    assert not figure.chart.panels[0].regions
    assert figure.chart.panels[0].y.span[0] > 0.05


def test_a_constraint_without_an_axis_is_told_with_how_many_miss_it(tmp_path: Path) -> None:
    objectives = {"right": "sums/math", "both": ["sums/math", "sums/language"]}
    bounds = {"sums/language": ">= 0.5", "sums/math": ">= 0.1"}
    search = search_of(tmp_path, objectives=objectives, constraints=bounds)
    told = [*numbers(4), Told((0.5, 0.4), constraints={"sums/language": 0.1, "sums/math": -0.4})]
    figure = front(view_of(tmp_path, search, told))
    assert figure is not None
    text = "sums/language >= 0.5 is a constraint without an axis here: 1 trial misses it."
    assert text in figure.caption
    assert "sums/math >= 0.1 is" not in figure.caption


def test_the_levels_of_baselines_are_in_sight_where_there_is_one_objective(tmp_path: Path) -> None:
    search = search_of(tmp_path, objectives={"right": "sums/math"}, constraints=None)
    view = view_of(tmp_path, search, [Told((0.1,)), Told((0.2,))])
    view = dataclasses.replace(view, baselines={"base": baseline("base", 0.9)})
    figure = front(view)
    assert figure is not None
    assert figure.chart.panels[0].y.span[1] > 0.9


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("abcdef:_", min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 1)),
        max_size=12,
    )
)
def test_labels_stay_inside_and_cover_none_that_had_to_be_free(names: list) -> None:
    placed = Placed(Axis("", (0.0, 1.0)), Axis("", (0.0, 1.0)))
    for name, x, y in names:
        placed.add(name, x, y, "#000000")
    for one in placed.labels:
        assert math.hypot(one.right, one.up) <= 80
        assert 0 <= placed.width * one.x + one.right <= placed.width
    boxes = placed._boxes
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            wide = min(one[2], other[2]) - max(one[0], other[0])
            high = min(one[3], other[3]) - max(one[1], other[1])
            assert wide <= 1e-9 or high <= 1e-9


@given(st.lists(st.integers(0, 10**6), unique=True).map(sorted), st.integers(1, 40))
@settings(max_examples=50, derandomize=True)
def test_a_spread_is_even_and_of_at_most_so_many(held: list[int], most: int) -> None:
    found = spread(held, most)
    assert len(found) == min(len(held), most)
    assert found == sorted(set(found))
    assert set(found) <= set(held)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True)))
@settings(max_examples=50, derandomize=True)
def test_a_span_is_never_empty(values: list[float]) -> None:
    low, high = spanned(values)
    assert low < high or not math.isfinite(high - low)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({}, [Told(None)]),
        ({}, [Told(())]),
        ({}, [Told((0.0, 0.0), {"fault": "NaN"})]),
        ({}, [Told((0.5, 0.5))]),
        ({}, [Told((0.4, 0.4), PARTIAL)]),
        ({"objectives": {"right": "sums/math"}, "constraints": None}, numbers(6, 0, 1)),
        (
            {
                "objectives": {
                    "a": "sums/math",
                    "b": "sums/language",
                    "c": ["sums/math", "sums/language"],
                },
                "constraints": None,
            },
            numbers(8, 0, 3),
        ),
    ],
    ids=["empty", "running", "failed", "fault", "one", "estimate", "single", "three"],
)
def test_what_there_is_no_data_for_is_left_out(tmp_path: Path, changes: dict, told: list) -> None:
    view = view_of(tmp_path, search_of(tmp_path, **changes), told)
    found = figures.figures(view)
    assert (not found) == (not view.scored and not view.steps)
    assert "importance" not in [figure.name for figure in found]  # too few trials
    for figure in found:
        assert figure.title
        assert figure.caption.endswith(".")
        assert figure.html().data
    for figure in found[:1]:
        assert figure.png().axes


def test_a_space_of_one_parameter_and_one_of_choices_are_drawn(tmp_path: Path) -> None:
    models = [
        {"model": "models/thai", "name": "language", "parameters": {"weight": 0.5}},
        {
            "model": "models/r1",
            "name": "reasoning",
            "parameters": {"weight": {"choices": [0.25, 0.5, 1.0]}},
        },
    ]
    search = search_of(tmp_path, models=models, merge_method="linear", parameters=None)
    view = view_of(tmp_path, search, numbers(30))
    figure = slices(view)
    assert figure is not None
    assert len(figure.chart.panels) == 2  # of two objectives
    panel = figure.chart.panels[0]
    assert panel.x.names == ("0.25", "0.5", "1")
    places = [round(x) for s in panel.series for x in s.x]
    assert sorted(set(places)) == [0, 1, 2]
    weights = schedules(view)
    assert weights is not None
    assert {line.y[0] for line in weights.chart.panels[0].series} == {0.5}


def test_page_and_picture_show_the_same_places(tmp_path: Path) -> None:
    view = confirmed(view_of(tmp_path, search_of(tmp_path), numbers(25)))
    found = figures.figures(view)
    names = [figure.name for figure in found]
    assert names == [f.__name__ for f in figures.FAMILIES]
    for figure in found:
        page, picture = figure.html(), figure.png()
        for panel, axes in zip(figure.chart.panels, picture.axes, strict=False):
            given = sum(len(s.x) for s in panel.series if isinstance(s, Points))
            offsets = sum(len(c.get_offsets()) for c in axes.collections if hasattr(c, "get_sizes"))
            assert offsets == given
        points = [t for t in page.data if t.type == "scatter" and t.mode == "markers"]
        drawn = sum(len(t.x) for t in points if t.x and t.x[0] is not None)
        series = [s for p in figure.chart.panels for s in p.series]
        assert drawn == sum(len(s.x) for s in series if isinstance(s, Points))
        assert [t for t in page.data if t.type == "bar"] or not any(
            isinstance(s, Bars) for s in series
        )
        assert page.layout.paper_bgcolor == page.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert page.layout.font.color is None  # a template's


def test_the_front_dominates_what_its_staircase_encloses(tmp_path: Path) -> None:
    view = view_of(tmp_path, search_of(tmp_path), numbers(60, seed=3))
    stairs = named(front(view).chart, "", Line)
    corners = list(zip(stairs.x, stairs.y, strict=True))
    for one, other in pairwise(corners):
        assert one[0] == other[0] or one[1] == other[1]
    for trial in view.scored.values():
        x, y = trial.values
        assert not any(x > a and y > b for a, b in corners[::2])


def test_progress_holds_each_value_until_the_next_trial_ends(tmp_path: Path) -> None:
    view = view_of(tmp_path, search_of(tmp_path), numbers(20))
    figure = progress(view)
    assert figure is not None
    line = named(figure.chart, "the search", Line)
    assert (line.x[0], line.x[-1]) == (1.0, 20.0)
    assert line.y[-1] == view.steps[-1].volume
    assert all(a <= b for a, b in pairwise(line.y))
    by_hour = figure.chart.panels[1].series[0]
    assert by_hour.y[-1] == line.y[-1]
    assert by_hour.x[-1] == pytest.approx(200 / 60)  # minutes


def test_importance_needs_trials_and_marks_chance(tmp_path: Path) -> None:
    view = view_of(tmp_path, search_of(tmp_path), numbers(30))
    figure = importance(view)
    assert figure is not None
    assert [panel.title for panel in figure.chart.panels] == [
        "coming close to the front",
        "right",
        "english",
    ]
    for panel in figure.chart.panels:
        rows = sorted(row for s in panel.series if isinstance(s, Bars) for row in s.y)
        assert rows == list(range(len(panel.y.names)))
    assert figure.chart.named_before(1)
    assert len(slices(view).chart.panels) <= 2 * MOST


def test_weights_are_evaluated_layer_by_layer_whatever_their_form(tmp_path: Path) -> None:
    models = [
        {
            "model": "models/thai",
            "name": "language",
            "parameters": {"weight": [{"filter": "mlp", "value": [0.0, 1.0]}, {"value": 0.5}]},
        },
        {
            "model": "models/r1",
            "name": "reasoning",
            "parameters": {
                "weight": {"plateau": {"low": 0.5, "high": 1.0}, "end": 0.25, "knee": 0.5}
            },
        },
    ]
    search = search_of(tmp_path, models=models, merge_method="task_arithmetic")
    view = view_of(tmp_path, search, numbers(5), layers=5)
    figure = schedules(view)
    assert figure is not None
    assert figure.chart.panels[0].x.title == "layer"
    panels = {panel.title: panel.series[0] for panel in figure.chart.panels}
    assert panels["language, tensors with 'mlp'"].y == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert panels["language, all other tensors"].y == [0.5] * 5
    heights = panels["reasoning"].y
    assert heights[:3] == [heights[0]] * 3
    assert heights[4] == 0.25
    assert heights[3] == pytest.approx((heights[0] + 0.25) / 2)


def test_medians_are_of_groups_of_equally_many(tmp_path: Path) -> None:
    view = view_of(tmp_path, search_of(tmp_path), numbers(48))
    figure = retained(view)
    assert figure is not None
    line = named(figure.chart, "median of equally many trials", Line)
    assert len(line.x) == 8
    assert list(line.x) == sorted(line.x)
    assert (
        retained(view_of(tmp_path, search_of(tmp_path), numbers(8)))
        .chart.panels[0]
        .series[-1]
        .name.startswith("trials")
    )


def test_no_worker_does_two_things_at_once(tmp_path: Path) -> None:
    told = [*numbers(12), Told((0.1, 0.1), {"seconds": {"load": 900.0, "generate": 40.0}})]
    view = view_of(tmp_path, search_of(tmp_path), told)
    incidents = [
        {
            "at": view.sessions[0].began,
            "kind": "worker_lost",
            "where": "trial 3 on w1",
            "message": "it died",
        }
    ]
    figure = workers(dataclasses.replace(view, incidents=incidents))
    assert figure is not None
    spans = [
        (row, begin, end)
        for s in figure.chart.panels[0].series
        if isinstance(s, Bars)
        for row, begin, end in zip(s.y, s.begin, s.end, strict=True)
    ]
    assert len(spans) == 26  # merging and generating
    for row in (0, 1):
        own = sorted((begin, end) for at, begin, end in spans if at == row)
        assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(own))
        assert own[0][0] >= 0.0
    faults = named(figure.chart, "a fault")
    assert (list(faults.x), list(faults.y)) == ([0.0], [1])


def test_a_name_that_the_font_cannot_draw_is_left_out_of_pictures(tmp_path: Path) -> None:
    chart = front(view_of(tmp_path, search_of(tmp_path), numbers(3))).chart
    titles = {
        name: drawn_matplotlib(chart, f"{name}: the front").get_suptitle()
        for name in ("search", "größe", "ค้นหา", "বাংলা", "தமிழ்")
    }
    assert [*titles.values()] == ["search: the front", "größe: the front", *["the front"] * 3]


def test_files_are_written_whole_and_pages_need_no_network(tmp_path: Path) -> None:
    evil = "<b>'$x_1$\"</b>"
    view = view_of(tmp_path, search_of(tmp_path), numbers(12))
    view = dataclasses.replace(confirmed(view), baselines={evil: baseline(evil, 0.3, 0.4)})
    written = figures.write(view, tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in written} == {
        *("front.html", "front.png", "plots.html"),
        *(f"plots/{family.__name__}.png" for family in figures.FAMILIES if family != importance),
    }
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.verify()
                assert image.width == 1100
    page = (tmp_path / "plots.html").read_text()
    assert page.count("plotly.js v") == 1
    assert 'src="http' not in page
    assert "cdn.plot.ly" not in page.split("<body>")[1]
    assert evil not in page
    assert page.count("<h2>") == len(figures.FAMILIES) - 1
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob(".plots*"))


def test_a_figure_that_cannot_be_drawn_is_an_incident_and_the_rest_is_there(tmp_path: Path) -> None:
    view = view_of(tmp_path, search_of(tmp_path), numbers(12))
    folder = view.run.folder
    (folder / "plots").mkdir()
    (folder / "plots" / "slices.png").mkdir()  # where a file is to be
    figures.draw(view)
    assert view.run.incidents.counts == {"not_drawn": 1}
    (row,) = view.run.incidents.recent()
    assert row["where"] == "figure slices"
    assert (folder / "front.html").is_file()
    assert "weights over the layers" in (folder / "plots.html").read_text()


def test_a_thousand_trials_are_drawn_small(tmp_path: Path) -> None:
    view = view_of(tmp_path, search_of(tmp_path), numbers(1000))
    for figure in (front(view), retained(view), workers(view)):
        assert figure is not None
        text = json.dumps(drawn_plotly(figure.chart).to_plotly_json(), default=str)
        assert len(text) < 700_000
    drawn = [s for p in retained(view).chart.panels[:1] for s in p.series if isinstance(s, Points)]
    assert sum(len(s.x) for s in drawn) == 400
    assert drawn_matplotlib(front(view).chart, "x").axes
