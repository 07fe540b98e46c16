"""Ratios and groups of layers: in a search and in a plain recipe."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core import Recipe, RecipeError
from merge_core.values import Groups, parse_value
from search.config import load
from search.idle import idle
from search.space import Space
from tests.search.small import GOOD, CommandLine, make_workplace
from tests.search.test_space import RANGE, asks, own, template

LAYER = "model.layers.{}.mlp.up_proj.weight"


def two(language=None, reasoning=None, **changes) -> dict:
    """A template of which only the given weights are written."""
    data = template(**changes)
    for model, weight in zip(data["models"], (language, reasoning), strict=True):
        model["parameters"] = {} if weight is None else {"weight": weight}
    return data


# --- Ratios --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "rest"),
    [
        (0.7, 0.3),
        (0, 1.0),
        ([0.75, 0.75, 0.125], [0.25, 0.25, 0.875]),
        (
            {"plateau": 0.75, "end": 0.125, "knee": 0.67},
            {"plateau": 0.25, "end": 0.875, "knee": 0.67},
        ),
        ({"groups": [0.9, 0.6]}, {"groups": [0.1, 0.4]}),
        (
            [{"filter": "mlp", "value": 0.2}, {"value": [0.1, 0.9]}],
            [{"filter": "mlp", "value": 0.8}, {"value": [0.9, 0.1]}],
        ),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_ratio_is_two_weights(ratio, rest, which):
    pair = [{"ratio": ratio}, None]
    plain = [ratio, rest]
    recipe = Recipe.parse(two(*(pair if which == 0 else pair[::-1])))
    same = Recipe.parse(two(*(plain if which == 0 else plain[::-1])))
    assert recipe == same
    assert recipe.fingerprint() == same.fingerprint()
    assert "ratio" not in str(recipe.plain())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(0, 1))
def test_two_weights_of_a_ratio_sum_to_one(number):
    space = Space(two(None, {"ratio": {"low": 0, "high": 1}}))
    recipe = space.from_params({"reasoning.weight": number})
    own_, rest = (own(recipe, index, "weight") for index in (1, 0))
    assert own_ + rest == pytest.approx(1, abs=1e-15)
    # Whoever writes both weights by hand writes the same merge.
    spelled = Recipe.parse(two(round(1 - own_, 15), own_))
    if own_ > 1e-6:
        assert spelled.fingerprint() == recipe.fingerprint()
    assert space.from_params(space.params_of(recipe)).fingerprint() == recipe.fingerprint()


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"low": 0, "high": 1}, ["reasoning.weight"]),
        ({"low": 0, "high": 1, "anchors": 2}, ["reasoning.weight[0]", "reasoning.weight[1]"]),
        (
            {"plateau": RANGE, "end": RANGE, "knee": RANGE},
            ["reasoning.weight.plateau", "reasoning.weight.end", "reasoning.weight.knee"],
        ),
        (
            [{"filter": "mlp", "value": RANGE}, {"value": RANGE}],
            ["reasoning.weight[mlp]", "reasoning.weight[rest]"],
        ),
    ],
)
def test_a_ratio_is_one_set_of_numbers_under_the_name_of_the_weight(value, names):
    space = Space(two(None, {"ratio": value}))
    assert asks(space) == names


def test_plain_weights_that_sum_to_one_lie_in_a_space_of_a_ratio():
    space = Space(two(None, {"ratio": {"low": 0.2, "high": 1}}))
    assert space.params_of(Recipe.parse(two(0.3, 0.7))) == {"reasoning.weight": 0.7}
    assert space.params_of(Recipe.parse(two(0.4, 0.7))) is None
    assert space.params_of(Recipe.parse(two(0.9, 0.1))) is None


FIRST = ("models", 0, "parameters", "weight")
SECOND = ("models", 1, "parameters", "weight")


@pytest.mark.parametrize(
    ("data", "where", "words"),
    [
        (two(0.5, {"ratio": 0.5}), FIRST, "is 1 - the other model's ratio: leave it out"),
        (two({"ratio": 0.5}, {"ratio": 0.5}), SECOND, "leave it out"),
        (two({"ratio": 1.5}), (*FIRST, "ratio"), "1.5 lies outside 0 to 1"),
        (two({"ratio": "x"}), (*FIRST, "ratio"), "'x' is not a number"),
        (two({"ratio": 0.5, "low": 1}), FIRST, "stands alone"),
        (two({"ratio": {"ratio": 0.5}}), (*FIRST, "ratio"), "a ratio is the whole weight"),
        (two([{"filter": "mlp", "value": {"ratio": 0.5}}, {"value": 1}], 1), FIRST, "whole weight"),
        (two({"ratio": 0.5}, parameters={"weight": 1}), ("parameters", "weight"), "leave this out"),
        (two(parameters={"weight": {"ratio": 0.5}}), ("parameters", "weight"), "one of the two"),
        (
            two({"ratio": 0.5}) | {"models": [*two({"ratio": 0.5})["models"], {"model": "c"}]},
            FIRST,
            "of 3 give each its own",
        ),
        (two({"ratio": [{"filter": "mlp", "value": 0.5}]}), ("models", 0), "needs to match all"),
        (
            two(1, 1) | {"models": [{"model": "a", "parameters": {"weight": {"ratio": 1}}}]},
            FIRST,
            "of 1 give",
        ),
    ],
)
def test_what_no_ratio_is(data, where, words):
    for read in (Recipe.parse, Space):
        with pytest.raises(RecipeError, match=words) as caught:
            read(data)
        assert caught.value.where[: len(where)] == where


def test_a_range_of_ratios_ends_at_one():
    with pytest.raises(RecipeError, match=r"1\.5 lies outside 0 to 1") as caught:
        Space(two({"ratio": {"low": 0, "high": 1.5}}))
    assert caught.value.where == (*FIRST, "ratio")


@pytest.mark.parametrize(
    "models",
    ["x", [{"parameters": {"weight": {"ratio": 0.5}}, "model": "a"}, 3], [{}, {"parameters": 1}]],
)
def test_what_is_no_recipe_is_told_as_ever(models):
    with pytest.raises(RecipeError):
        Recipe.parse(two() | {"models": models})


# --- Groups of layers ----------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "count"), [(32, 4), (80, 4), (12, 3), (7, 7), (28, 1), (2, 2)])
def test_groups_share_the_layers_evenly(layers, count):
    value = Groups(tuple(range(count)))
    found = [value.at("", layer / (layers - 1)) for layer in range(layers)]
    assert found == sorted(found)
    assert [found.count(group) for group in range(count)] == [layers // count] * count


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 130), st.integers(1, 64))
def test_groups_differ_by_a_layer_at_most_and_none_is_left_out(layers, count):
    value = Groups(tuple(range(count)))
    depths = [layer / (layers - 1) for layer in range(layers)] if layers > 1 else [1.0]
    found = [value.at("", depth) for depth in depths]
    assert found == sorted(found)
    if count <= layers:
        sizes = [found.count(group) for group in range(count)]
        assert max(sizes) - min(sizes) <= 1 + (layers % count > 0)
        assert min(sizes) >= 1
    assert list(value.anchors(layers).anchors) == found


def test_what_stands_around_the_layers_belongs_to_the_nearest_group():
    value = parse_value({"groups": [0.1, 0.2, 0.3]})
    assert (value.at("model.embed_tokens.weight", 0.0), value.at("lm_head.weight", 1.0)) == (
        0.1,
        0.3,
    )
    assert parse_value(value.plain()) == value


@pytest.mark.parametrize(
    ("value", "where", "words"),
    [
        ({"groups": []}, (), "a list of at least one number"),
        ({"groups": 4}, (), "a list of at least one number"),
        ({"groups": [1], "knee": 0}, (), "stands alone"),
        ({"groups": [1, "x"]}, ("groups", 1), "not a number"),
    ],
)
def test_what_no_groups_are(value, where, words):
    with pytest.raises(RecipeError, match=words) as caught:
        parse_value(value)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("value", "where", "words"),
    [
        ({**RANGE, "groups": 0}, ("groups",), "groups 0 is not a whole number from 1 to 64"),
        ({**RANGE, "groups": True}, ("groups",), "not a whole number"),
        ({**RANGE, "groups": 2, "anchors": 2}, ("groups",), "not both"),
        ({"groups": [RANGE, {"low": 2, "high": 1}]}, ("groups", 1, "low"), "is above"),
        ({"groups": [{**RANGE, "anchors": 2}]}, ("groups", 0), "is not a number"),
    ],
)
def test_what_no_ranges_of_groups_are(value, where, words):
    with pytest.raises(RecipeError, match=words) as caught:
        Space(two(value, 1))
    assert caught.value.where == (*FIRST, *where)


# --- Filters that decide nothing -----------------------------------------------------------------


def test_check_points_out_filters_that_no_tensor_is_read_by(tmp_path, monkeypatch, capsys):
    place = make_workplace(tmp_path)
    density = """
        - {filter: self_atn, value: 0.1}
        - {filter: mlp, value: {low: 0.1, high: 1.0}}
        - {filter: up_proj, value: 0.3}
        - {filter: lm_head, value: 0.2}
        - {filter: embed_tokens, value: 0.2}
        - {value: 0.3}"""
    file = place / "search.yaml"
    file.write_text(file.read_text().replace("density: 0.5", f"density:{density}"))
    ended = CommandLine(monkeypatch, capsys)("check", file)
    assert ended.code == 0, ended.err
    said = [line for line in ended.out.splitlines() if "filter '" in line]
    assert [line.split(": ", 2)[2] for line in said] == [
        "filter 'self_atn' matches no tensor of the models, so it changes nothing",
        "filter 'up_proj' comes after filters that match all of its tensors, so it changes nothing",
        "filter 'lm_head' matches no tensor: the head is tied to the embeddings (embed_tokens), "
        "so it changes nothing",
    ]
    assert f"note: {file}:14:12: " in said[0]


# --- Parts of a space that vary nothing ----------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("", "", None),
        (
            "      weight: {low: 0.3, high: 1.2}",
            "      weight: [{filter: mlp, value: {low: 0, high: 1, groups: 4}}, {value: 1}]",
            "7:55: 4 groups of 3 layers: some are of no layer, and their numbers change nothing",
        ),
        (
            "density: 0.5",
            "density: {groups: [0.1, {low: 0, high: 1}, 0.2, 0.3, 0.4]}",
            "13:17: 5 groups of 3 layers: some are of no layer, and their numbers change nothing",
        ),
        (
            "density: {low: 0.1, high: 1.0}",
            "density: {low: 0.3, high: 0.305, groups: 2}",
            "8:7: language.density.group0 from 0.3 to 0.305 holds one step of density_step 0.01, "
            "so it never varies; widen it or lower density_step",
        ),
        ("density: {low: 0.1, high: 1.0}", "density: {low: 0.3, high: 0.3, groups: 3}", None),
    ],
)
def test_parts_that_vary_nothing_are_told(old, new, told, tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(GOOD.replace(old, new, 1))
    notes = idle(load(file), layers=3)
    assert notes == (() if told is None else (f"{file}:{told}",))


def test_a_space_without_ranges_is_told(tmp_path):
    file = tmp_path / "search.yaml"
    fixed = re.sub(r"\{low: ([\d.]+), high: [\d.]+\}", r"\1", GOOD)
    for text in (fixed, fixed.replace("slack: 0.0", "slack: {low: 0.5, high: 0.5}")):
        file.write_text(text)
        (note,) = idle(load(file), layers=3)
        assert note.startswith("nothing is varied, so there is one recipe to try: put a range")
