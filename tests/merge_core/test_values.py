from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given

from merge_core import RecipeError
from merge_core.recipe import Recipe, stepped
from merge_core.values import Filtered, Gradient, Knee, Scalar, parse_value
from tests.merge_core.method_suite import values

ATTENTION = "model.layers.0.self_attn.q_proj.weight"
MLP = "model.layers.0.mlp.up_proj.weight"


def test_a_gradient_is_read_between_its_anchors() -> None:
    value = parse_value([0, 1, 4])
    assert [value.at("", t) for t in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 2.5, 4]
    assert parse_value([0.3]).at("", 0.7) == 0.3


def test_equal_anchors_give_the_anchor_itself() -> None:
    value = Gradient((0.1, 0.1, 0.1))
    assert {value.at("", layer / 97) for layer in range(98)} == {0.1}


def test_the_published_schedule() -> None:
    """Typhoon2-R1: 75% to layer 53 of 80, then linear to 12.5%."""
    knee = parse_value({"plateau": 0.75, "end": 0.125, "knee": 53 / 79})
    read = [knee.at("", layer / 79) for layer in range(80)]
    assert set(read[:54]) == {0.75}
    assert read[54] < 0.75
    assert read[-1] == 0.125
    steps = [a - b for a, b in itertools.pairwise(read[53:])]
    assert max(steps) - min(steps) < 1e-12


@pytest.mark.parametrize("knee", [0.0, 1.0])
def test_a_knee_at_an_end(knee: float) -> None:
    value = Knee(0.5, 0.25, knee)
    assert value.at("", 0.0) == 0.5
    assert value.at("", 1.0) == (0.25 if knee == 0 else 0.5)


@pytest.mark.parametrize(("layers", "anchors"), [(1, 1), (2, 2), (32, 32)])
def test_a_knee_as_anchors(layers: int, anchors: int) -> None:
    value = Knee(0.75, 0.125, 0.5)
    assert len(value.anchors(layers).anchors) == anchors
    assert value.anchors(layers).anchors[-1] == 0.125


def test_the_first_matching_filter_wins_and_none_gives_none() -> None:
    value = parse_value(
        [{"filter": "attn", "value": 1}, {"filter": "self_attn", "value": 2}, {"value": [3, 5]}]
    )
    assert value.at(ATTENTION, 0.5) == 1
    assert value.at(MLP, 0.5) == 4
    partial = parse_value([{"filter": "attn", "value": 1}])
    assert partial.at(MLP, 0.5) is None
    assert parse_value([{"filter": "*", "value": 2}]) == Filtered(((None, Scalar(2.0)),))


def recipe(own: object, shared: object = None, method: str = "ties") -> Recipe:
    return Recipe.parse(
        {
            "merge_method": method,
            "base_model": "b",
            "models": [{"model": "m", "parameters": {"weight": 1, "density": own}}],
            "parameters": {} if shared is None else {"density": shared},
        }
    )


def test_filters_fall_through_to_global_and_default() -> None:
    own = [{"filter": "self_attn", "value": 0.1}]
    made = recipe(own, [{"filter": "mlp", "value": 0.2}])
    names = (ATTENTION, MLP, "model.norm.weight")
    assert [made.settings_for(n, 0).densities for n in names] == [(0.1,), (0.2,), (1.0,)]
    assert recipe(own, 0.3).settings_for(MLP, 0).densities == (0.3,)
    # A whole own value hides the global one.
    assert recipe(0.5, [{"filter": "mlp", "value": 0.2}]).settings_for(MLP, 0).densities == (0.5,)


def test_a_weight_that_misses_tensors_is_an_error() -> None:
    data = {
        "merge_method": "linear",
        "models": [
            {"model": "m", "parameters": {"weight": [{"filter": "mlp", "value": 1}]}},
        ],
    }
    with pytest.raises(RecipeError, match="the last filter entry needs to match all"):
        Recipe.parse(data)


def test_weights_are_float32_and_densities_steps() -> None:
    made = recipe(0.284)
    settings = made.settings_for(MLP, 0.0)
    assert settings.densities == (0.28,)
    weighted = Recipe.parse(
        {"merge_method": "linear", "models": [{"model": "m", "parameters": {"weight": 0.1}}]}
    )
    assert weighted.settings_for(MLP, 0.0).weights == (0.10000000149011612,)


@pytest.mark.parametrize(
    ("density", "step", "expected"),
    [(0.57, 0.01, 0.57), (0.333, 0.0, 0.333), (1.0, 0.3, 0.9), (0.5, 1e-310, 0.5), (1, 0.01, 1)],
)
def test_density_steps(density: float, step: float, expected: float) -> None:
    assert stepped(density, step) == expected


@given(values(-2, 2))
def test_what_is_parsed_prints_and_parses_again(data: object) -> None:
    value = parse_value(data)
    assert parse_value(value.plain()) == value
    numbers = list(value.numbers())
    for t in (0.0, 1 / 3, 0.5, 1.0):
        number = value.at(MLP, t)
        assert number is not None
        assert min(numbers) - 1e-12 <= number <= max(numbers) + 1e-12


@pytest.mark.parametrize(
    ("data", "where", "message"),
    [
        ([], (), "empty list"),
        ("0.5", (), "'0.5' is not a number"),
        (True, (), "True is not a number"),
        (None, (), "None is not a number"),
        (math.inf, (), "not a finite"),
        (math.nan, (), "not a finite"),
        (1e39, (), "not a finite float32"),
        (10**400, (), "not a finite"),
        ([0.1, "x"], (1,), "'x' is not a number"),
        ([0.1, {"value": 1}], (0,), "filter and value only"),
        ([{"filter": "a"}], (0,), "has no value"),
        ([{"filter": "", "value": 1}], (0,), "is not a substring"),
        ([{"filter": 3, "value": 1}], (0,), "is not a substring"),
        ([{"value": 1}, {"filter": "a", "value": 1}], (0,), "must come last"),
        ([{"value": [{"value": 1}]}], (0, "value"), "cannot stand inside"),
        ([{"value": {"plateau": 1}}], (0, "value"), "exactly the keys"),
        ([{"vaule": 1}], (0,), "filter and value only"),
        ({"plateau": 1, "end": 1, "knee": 1.5}, ("knee",), "outside 0 to 1"),
        ({"plateau": "x", "end": 1, "knee": 0}, ("plateau",), "not a number"),
    ],
)
def test_bad_values_are_refused_with_their_place(data, where, message) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_value(data)
    assert caught.value.where == where
    assert "\n" not in str(caught.value)
