import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from merge_core import Recipe, RecipeError
from merge_core.arithmetic import della_allows
from merge_core.methods import METHODS, get_method
from search.space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)


def template(method="ties_sv", first=None, second=None, parameters=None) -> dict:
    return {
        "merge_method": method,
        "base_model": "base",
        "models": [
            {"model": "a", "name": "language", "parameters": {"weight": 1.0, **(first or {})}},
            {"model": "b", "name": "reasoning", "parameters": {"weight": 1.0, **(second or {})}},
        ],
        **({"parameters": parameters} if parameters else {}),
    }


def asks(space: Space, method: str | None = None) -> list[str]:
    """The names that one recipe asks for, in order."""
    asked = []

    def suggest(name, distribution):
        asked.append(name)
        if name == "merge_method" and method is not None:
            return method
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[0]
        return distribution.low

    space.recipe(suggest)
    return asked


def own(recipe: Recipe, expert: int, parameter: str):
    return recipe.plain()["models"][expert]["parameters"][parameter]


def filled(value, number=0.4, parameter="weight", **changes):
    """What `value` becomes when every range gives `number`."""
    space = Space(template(first={parameter: value}, **changes))
    return own(space.recipe(lambda name, distribution: number), 0, parameter)


RANGE = {"low": 0.2, "high": 0.9}


# --- Names and shapes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (RANGE, ["reasoning.weight"]),
        ({"choices": [0.1, 0.2]}, ["reasoning.weight"]),
        ({**RANGE, "anchors": 3}, [f"reasoning.weight[{i}]" for i in range(3)]),
        (
            {"plateau": RANGE, "end": RANGE, "knee": RANGE},
            ["reasoning.weight.plateau", "reasoning.weight.end", "reasoning.weight.knee"],
        ),
        ({"plateau": 0.5, "end": RANGE, "knee": 0.5}, ["reasoning.weight.end"]),
        ({**RANGE, "groups": 2}, ["reasoning.weight.group0", "reasoning.weight.group1"]),
        ({"groups": [0.5, RANGE]}, ["reasoning.weight.group1"]),
        ([0.5, RANGE, 0.1], ["reasoning.weight[1]"]),
        (
            [{"filter": "self_attn", "value": RANGE}, {"value": RANGE}],
            ["reasoning.weight[self_attn]", "reasoning.weight[rest]"],
        ),
        (
            [{"filter": "mlp", "value": {**RANGE, "groups": 2}}, {"filter": "*", "value": RANGE}],
            [
                "reasoning.weight[mlp].group0",
                "reasoning.weight[mlp].group1",
                "reasoning.weight[rest]",
            ],
        ),
        (
            [{"filter": "mlp", "value": {**RANGE, "anchors": 2}}, {"value": 1.0}],
            ["reasoning.weight[mlp][0]", "reasoning.weight[mlp][1]"],
        ),
        (0.5, []),
    ],
)
def test_parameters_are_named_by_expert_and_place(value, names):
    space = Space(template(second={"weight": value}))
    assert asks(space) == names
    assert list(space.distributions()) == names


def test_parameters_of_the_whole_merge_are_named_by_themselves():
    space = Space(template(parameters={"lambda": RANGE, "scope": {"choices": ["tensor", "model"]}}))
    assert asks(space) == ["lambda", "scope"]


def test_experts_without_a_name_get_their_models():
    data = template(second={"weight": RANGE})
    del data["models"][1]["name"]
    data["models"][1]["model"] = "org/Some.Model@main"
    assert asks(Space(data)) == ["Some-Model.weight"]


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        (RANGE, 0.4),
        ({**RANGE, "anchors": 2}, [0.4, 0.4]),
        ([0.5, RANGE], [0.5, 0.4]),
        ({**RANGE, "groups": 2}, {"groups": [0.4, 0.4]}),
        ({"groups": [0.5, RANGE]}, {"groups": [0.5, 0.4]}),
        ({"plateau": RANGE, "end": 0.3, "knee": RANGE}, {"plateau": 0.4, "end": 0.3, "knee": 0.4}),
        (
            [{"filter": "mlp", "value": RANGE}, {"value": 1.0}],
            [{"filter": "mlp", "value": 0.4}, {"value": 1.0}],
        ),
    ],
)
def test_ranges_become_numbers_in_place(value, becomes):
    assert filled(value) == becomes


def test_choices_may_be_words_flags_or_numbers():
    space = Space(template(parameters={"normalize": {"choices": [True, False]}}))
    assert space.from_params({"normalize": False}).flag("normalize") is False
    assert space.example().flag("normalize") is True


# --- Numbers -------------------------------------------------------------------------------------


def test_densities_are_proposed_in_the_steps_that_they_are_evaluated_in():
    assert filled({"low": 0.1, "high": 1.0}, 0.4567, "density") == 0.46
    assert filled({"low": 0.1, "high": 1.0, "anchors": 2}, 0.4567, "density") == [0.46, 0.46]


def test_the_step_of_densities_is_the_recipes():
    coarse = {"density_step": 0.25}
    assert filled({"low": 0, "high": 1.0}, 0.4, "density", parameters=coarse) == 0.5
    assert filled({"low": 0, "high": 1.0}, 0.4, "weight", parameters=coarse) == 0.4
    exact = {"density_step": 0.0}
    assert filled({"low": 0, "high": 1.0}, 0.4567, "density", parameters=exact) == 0.4567


@pytest.mark.parametrize(("number", "step"), [(0.105, 0.11), (0.148, 0.14)])
def test_a_density_is_not_rounded_out_of_its_range(number, step):
    assert filled({"low": 0.105, "high": 0.148}, number, "density") == step


def test_a_range_without_a_step_in_it_is_refused():
    with pytest.raises(RecipeError, match="no multiple of density_step"):
        Space(template(first={"density": {"low": 0.101, "high": 0.104}}))


def test_densities_on_a_log_scale_need_steps_that_tell_them_apart():
    density = {"low": 0.01, "high": 1.0, "log": True}
    with pytest.raises(RecipeError, match=r"set density_step: 0\.001 in the top") as caught:
        Space(template(first={"density": density}))
    assert caught.value.where == ("models", 0, "parameters", "density", "low")
    space = Space(template(first={"density": density}, parameters={"density_step": 0.001}))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [own(space.sample(study.ask()), 0, "density") for _ in range(200)]
    assert max(drawn.count(number) for number in drawn) <= 6
    Space(template(first={"density": {**density, "low": 0.05}}))
    Space(template(first={"density": density}, parameters={"density_step": 0}))


def test_small_numbers_keep_their_digits():
    value = {"low": 1e-8, "high": 1e-2, "log": True}
    assert filled(value, 1.23456789e-7) == 1.23457e-7


def test_rounding_never_leaves_the_range():
    low, high = 0.1234564, 0.8765436  # to six digits both lie outside
    assert filled({"low": low, "high": high}, low) == low
    assert filled({"low": low, "high": high}, high) == high


def test_equal_bounds_are_a_fixed_number():
    space = Space(template(first={"weight": {"low": 0.123456789, "high": 0.123456789}}))
    assert own(space.sample(optuna.create_study().ask()), 0, "weight") == 0.123456789


def test_a_step_ends_at_the_last_whole_one():
    value = {"low": 0.1, "high": 1.0, "step": 0.4}
    distribution = Space(template(first={"weight": value})).distributions()["language.weight"]
    assert isinstance(distribution, FloatDistribution)
    assert (distribution.low, distribution.high, distribution.step) == (0.1, 0.9, 0.4)


def test_a_step_that_optuna_cannot_keep_is_refused():
    value = {"low": -1.0425533393279494, "high": 0.0, "step": 0.34751777977598314}
    with pytest.raises(RecipeError, match="too many digits"):
        Space(template(first={"weight": value}))


def test_a_space_without_ranges_is_one_recipe():
    space = Space(template())
    assert space.distributions() == {}
    trial = optuna.create_study().ask()
    assert space.sample(trial) == space.example() == Recipe.parse(template())
    assert trial.params == {}


# --- A choice among methods ----------------------------------------------------------------------

CHOICE = {"choices": ["ties_sv", "dare_linear", "task_arithmetic"]}


def test_only_the_parameters_of_the_chosen_method_are_asked_for():
    space = Space(template(CHOICE, second={"density": RANGE, "slack": RANGE}))
    assert space.conditional
    assert asks(space, "ties_sv") == ["merge_method", "reasoning.density", "reasoning.slack"]
    assert asks(space, "dare_linear") == ["merge_method", "reasoning.density"]
    assert asks(space, "task_arithmetic") == ["merge_method"]
    assert set(space.distributions()) == {"merge_method", "reasoning.density", "reasoning.slack"}


def test_optuna_stores_only_what_was_asked_for():
    space = Space(template(CHOICE, second={"density": RANGE, "slack": RANGE}))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(20):
        trial = study.ask()
        recipe = space.sample(trial)
        seen.add(recipe.merge_method)
        assert set(trial.params) == set(asks(space, recipe.merge_method))
    assert seen == set(CHOICE["choices"])


def test_a_parameter_of_none_of_the_methods_is_refused():
    with pytest.raises(RecipeError, match="unknown parameter 'slcak'; did you mean 'slack'") as e:
        Space(template(CHOICE, second={"slcak": 0.5}))
    assert e.value.where == ("models", 1, "parameters", "slcak")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"choices": ["ties", "ties"]}, "'ties' is listed twice"),
        ({"choices": ["ties", "foo"]}, "unknown merge_method 'foo'"),
        (None, "merge_method is missing"),
    ],
)
def test_bad_methods(choice, words):
    with pytest.raises(RecipeError, match=words) as caught:
        Space(template(choice))
    assert caught.value.where[:1] == ("merge_method",)


def test_one_choice_is_no_choice():
    space = Space(template({"choices": ["ties"]}))
    assert not space.conditional
    assert asks(space) == []


def test_the_mistake_of_any_method_is_found():
    with pytest.raises(RecipeError, match="scope: model"):
        Space(
            template(
                {"choices": ["task_arithmetic", "ties"]},
                first={"density": [0.1, 0.2]},
                parameters={"scope": "model"},
            )
        )


# --- Any space -----------------------------------------------------------------------------------


def bounds(low: float, high: float):
    return (
        st.tuples(st.floats(low, high), st.floats(low, high))
        .map(sorted)
        .map(lambda pair: {"low": pair[0], "high": pair[1]})
    )


def density_bounds():
    """In whole percents, so that a step lies inside."""
    numbers = st.integers(0, 100).map(lambda n: n / 100)
    return st.tuples(numbers, numbers).map(
        lambda pair: {"low": min(pair), "high": max(pair)},
    )


@st.composite
def stepped_bounds(draw) -> dict:
    """As people write them: in few digits."""
    low, count = draw(st.integers(-2000, 2000)), draw(st.integers(1, 1000))
    step = draw(st.integers(1, count))
    return {"low": low / 1000, "high": (low + count) / 1000, "step": step / 1000}


def _groups(numbers) -> dict:
    return {"groups": numbers}


def values(ranges, fixed, knee):
    """Every shape of value over `ranges`."""
    one = (
        ranges
        | fixed
        | st.lists(fixed, min_size=1, max_size=3, unique=True).map(
            lambda choices: {"choices": choices}
        )
    )
    anchored = st.tuples(ranges, st.integers(1, 4)).map(lambda t: {**t[0], "anchors": t[1]})
    grouped = st.tuples(ranges, st.integers(1, 3)).map(lambda t: {**t[0], "groups": t[1]})
    gradient = st.lists(ranges | fixed, min_size=1, max_size=3)
    schedule = st.fixed_dictionaries({"plateau": one, "end": one, "knee": knee})
    simple = one | anchored | gradient | schedule | grouped | gradient.map(_groups)
    filters = st.tuples(simple, simple).map(
        lambda pair: [{"filter": "mlp", "value": pair[0]}, {"value": pair[1]}]
    )
    return simple | filters


WEIGHTS = values(bounds(-2, 2) | stepped_bounds(), st.floats(-2, 2), bounds(0, 1))
DENSITIES = values(density_bounds(), st.integers(0, 100).map(lambda n: n / 100), bounds(0, 1))
SLACKS = values(bounds(0, 1), st.floats(0, 1), bounds(0, 1))


# What these want of several parameters or of the models is tested below.
FREE = [m for m in METHODS if not {"epsilon", "t"} & get_method(m).by_name.keys()]


@st.composite
def templates(draw) -> dict:
    methods = draw(st.lists(st.sampled_from(sorted(FREE)), min_size=1, max_size=3, unique=True))
    known = {name for method in methods for name in get_method(method).by_name}
    given = {"weight": WEIGHTS, "density": DENSITIES, "slack": SLACKS}
    parameters = [
        {name: draw(value) for name, value in given.items() if name in known} for _ in range(2)
    ]
    return template({"choices": methods} if len(methods) > 1 else methods[0], *parameters)


def assert_inside(written, value) -> None:
    """`value`, of a recipe, lies in `written`, of its template."""
    if isinstance(written, dict) and "low" in written:
        value = value["groups"] if isinstance(value, dict) else value
        for number in value if isinstance(value, list) else [value]:
            assert written["low"] <= number <= written["high"]
    elif isinstance(written, dict) and "choices" in written:
        assert value in written["choices"]
    elif isinstance(written, dict):
        assert written.keys() == value.keys()
        for key in written:
            assert_inside(written[key], value[key])
    elif isinstance(written, list):
        assert len(written) == len(value)
        for one, other in zip(written, value, strict=True):
            assert_inside(one, other)
    else:
        assert written == value


@given(templates(), st.integers(0, 2**31 - 1))
def test_any_sample_of_any_space_is_a_recipe_inside_it_and_its_parameters_give_it_again(data, seed):
    space = Space(data)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    recipe = space.sample(trial)
    assert Recipe.parse(recipe.plain()).fingerprint() == recipe.fingerprint()
    assert space.from_params(trial.params) == recipe
    for name, distribution in trial.distributions.items():
        assert space.distributions()[name] == distribution
    for written, expert in zip(data["models"], recipe.plain()["models"], strict=True):
        for key, value in expert["parameters"].items():
            assert_inside(written["parameters"][key], value)
    for depth in (0.0, 0.5, 1.0):
        settings = recipe.settings_for("model.layers.0.mlp.up_proj.weight", depth)
        assert all(math.isfinite(weight) for weight in settings.weights)
        assert all(0.0 <= density <= 1.0 for density in settings.densities)


NEAR = st.sampled_from([0.2, 0.3, 0.5, 0.7, 0.99, 1.0])
LITTLE = st.sampled_from([0.0, 0.005, 0.05, 0.15, 0.2, 0.3])


def ranges_of(numbers):
    return st.tuples(numbers, numbers, st.sampled_from([None, 0.1])).map(
        lambda t: (
            {"low": min(t[:2]), "high": max(t[:2])}
            | ({"step": t[2]} if t[2] and max(t[:2]) - min(t[:2]) > t[2] else {})
        )
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    density=values(ranges_of(NEAR), NEAR, bounds(0, 1)),
    epsilon=values(ranges_of(LITTLE), LITTLE, bounds(0, 1)),
    step=st.sampled_from([0, 0.01]),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_space_of_della_refuses_what_some_sample_would_be_refused_for(
    density, epsilon, step, seed
) -> None:
    own = {"weight": 1, "density": density, "epsilon": epsilon}
    data = template("della", own, {"density": 1}, {"density_step": step})
    try:
        space = Space(data)
    except RecipeError:
        return
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(5):
        recipe = space.sample(study.ask())
        for depth in (0.0, 0.3, 1.0):
            s = recipe.settings_for("model.layers.0.mlp.up_proj.weight", depth)
            assert all(map(della_allows, s.densities, s.epsilons))


@pytest.mark.parametrize(
    ("density", "epsilon", "legal"),
    [
        ({"low": 0.2, "high": 0.8}, 0.15, True),
        ({"low": 0.2, "high": 0.8}, {"low": 0.01, "high": 0.19}, True),
        ({"low": 0.2, "high": 0.8}, {"low": 0.01, "high": 0.2}, False),  # only where both meet
        ({"low": 0.3, "high": 1.0}, 0.15, False),  # 1 is legal, .9 is not
        ({"low": 0.3, "high": 1.0}, 0.005, True),
        ({"low": 0.3, "high": 1.0, "step": 0.1}, 0.05, True),
        ({"low": 0.3, "high": 1.0, "step": 0.1, "anchors": 2}, 0.05, False),  # .99 between them
        ({"choices": [0.5, 1.0]}, 0.3, True),
        ({"choices": [0.9, 0.5]}, {"choices": [0.3, 0.01]}, False),
        ([{"choices": [0.5, 1.0]}, {"choices": [0.5, 1.0]}], 0.3, False),
        ({"groups": [{"choices": [0.5, 1.0]}, 1.0]}, 0.3, True),
        ({"low": 0.3, "high": 1.0, "step": 0.1, "groups": 2}, 0.05, True),
        ({"low": 0.3, "high": 1.0, "groups": 2}, 0.05, False),
    ],
)
def test_spaces_of_della(density, epsilon, legal) -> None:
    data = template("della_linear", {"density": density, "epsilon": epsilon}, {"density": 1})
    if legal:
        Space(data)
        return
    with pytest.raises(RecipeError, match="keeps entries with probability") as caught:
        Space(data)
    assert caught.value.where == ("models", 0, "parameters", "density")


def test_a_space_of_slerp() -> None:
    data = template("slerp", {}, {}, {"t": {"low": 0, "high": 1, "anchors": 2}})
    for model in data["models"]:
        model["parameters"].clear()
    with pytest.raises(RecipeError, match="none of the models is"):
        Space(data)
    data["models"][0]["model"] = data["base_model"]
    assert sorted(Space(data).distributions()) == ["t[0]", "t[1]"]
