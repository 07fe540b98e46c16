"""The way back: which parameters of a space give a recipe."""

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core import Recipe
from search.space import Space
from tests.search.test_space import RANGE, template, templates

optuna.logging.set_verbosity(optuna.logging.ERROR)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(templates(), st.integers(0, 2**31 - 1))
def test_the_parameters_of_a_sample_give_its_recipe_again(data, seed):
    space = Space(data)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    recipe = space.sample(trial)
    params = space.params_of(Recipe.parse(recipe.plain()))
    assert params is not None
    assert params.keys() == trial.params.keys()
    assert space.from_params(params).fingerprint() == recipe.fingerprint()
    for name, distribution in trial.distributions.items():
        assert distribution._contains(distribution.to_internal_repr(params[name]))


def recipe(**changes) -> Recipe:
    return Recipe.parse(template(**changes))


@pytest.mark.parametrize(
    ("inside", "params"),
    [
        ({"second": {"weight": 0.25}}, {"reasoning.weight": 0.25}),
        ({"second": {"weight": 0.2}}, {"reasoning.weight": 0.2}),
        ({"second": {"weight": 0.91}}, None),
        ({"second": {"weight": [0.25]}}, None),
        ({"second": {"weight": 0.25}, "method": "ties"}, None),
        ({"second": {"weight": 0.25, "slack": 0.5}}, None),
        ({"second": {"weight": 0.25, "slack": 0.0}}, {"reasoning.weight": 0.25}),
        ({"second": {"weight": 0.25}, "parameters": {"lambda": 1}}, {"reasoning.weight": 0.25}),
        ({"second": {"weight": 0.25}, "parameters": {"lambda": 2}}, None),
        ({"second": {"weight": 0.25}, "first": {"weight": 0.5}}, None),
        ({"second": {"weight": 0.1234567890123}}, None),  # more digits than are proposed
    ],
)
def test_what_lies_outside_has_no_parameters(inside, params):
    space = Space(template(second={"weight": RANGE}))
    assert space.params_of(recipe(**inside)) == params


def test_other_models_are_another_merge_unless_they_are_known_to_be_the_same():
    space = Space(template(second={"weight": RANGE}))
    data = template(second={"weight": 0.5}) | {"base_model": "/somewhere/base"}
    assert space.params_of(Recipe.parse(data)) is None
    same = space.params_of(Recipe.parse(data), lambda r: r.fingerprint(["b", "one", "two"]))
    assert same == {"reasoning.weight": 0.5}
    alone = template(second={"weight": 0.5})
    del alone["models"][0]
    assert space.params_of(Recipe.parse(alone)) is None


def test_one_number_for_all_experts_is_the_same_as_one_for_each():
    space = Space(template(parameters={"density": RANGE}))
    each = {"first": {"density": 0.4}, "second": {"density": 0.4}}
    assert space.params_of(recipe(**each)) == {"density": 0.4}
    assert space.params_of(recipe(parameters={"density": 0.4})) == {"density": 0.4}
    assert space.params_of(recipe(first={"density": 0.4}, second={"density": 0.5})) is None


def test_the_method_is_one_of_the_parameters_where_it_is_chosen():
    space = Space(template({"choices": ["task_arithmetic", "ties_sv"]}, second={"slack": RANGE}))
    found = space.params_of(recipe(second={"slack": 0.5}))
    assert found == {"merge_method": "ties_sv", "reasoning.slack": 0.5}
    only = {"merge_method": "task_arithmetic"}
    assert space.params_of(recipe(method="task_arithmetic")) == only
    assert space.params_of(recipe(method="linear")) is None


def test_a_range_that_is_nowhere_in_effect_may_be_anything():
    space = Space(template(parameters={"weight": RANGE}))
    params = space.params_of(recipe())
    assert params == {"weight": 0.2}
    assert space.from_params(params).fingerprint() == recipe().fingerprint()


def test_flags_are_no_numbers():
    space = Space(template(parameters={"normalize": {"choices": [False, True]}}))
    assert space.params_of(recipe(parameters={"normalize": True})) == {"normalize": True}
    # The method's own default
    assert space.params_of(recipe()) == {"normalize": True}
