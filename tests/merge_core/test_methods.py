from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import merge_core.reading
from merge_core import NonFiniteError
from merge_core.methods import METHODS, get_method
from merge_core.methods.base import MAX_MODELS
from tests.merge_core.conftest import merged_by
from tests.merge_core.method_suite import NAMES, Case, bits, cases

EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ELECTING = [name for name in METHODS if get_method(name).elects]
RANKING = [name for name in METHODS if get_method(name).ranked]


@pytest.mark.parametrize("method", METHODS)
def test_every_table_entry_resolves(method: str) -> None:
    assert get_method(method).name == method
    assert get_method(method).parameters


@pytest.mark.parametrize("method", METHODS)
@EXAMPLES
@given(data=st.data())
def test_executor_equals_reference_bit_for_bit(method: str, data: st.DataObject) -> None:
    with Case(*data.draw(cases(method))) as case:
        expected = case.expected()
        for name in NAMES:
            got = case.plan.tensor(name)
            assert got.dtype == expected[name].dtype
            assert got.shape == expected[name].shape
            np.testing.assert_array_equal(bits(got), bits(expected[name]), err_msg=name)


@pytest.mark.parametrize("experts", [5, 8])  # coefficients by look-up; as many as there may be
@pytest.mark.parametrize("method", [m for m in METHODS if get_method(m).max_models == MAX_MODELS])
@settings(EXAMPLES, max_examples=4)
@given(data=st.data())
def test_many_experts(method: str, experts: int, data: st.DataObject) -> None:
    raw, base, models = data.draw(cases(method, max_experts=experts))
    while len(models) < experts:
        models.append(models[-1])
        raw["models"].append(
            {**raw["models"][-1], "name": f"m{len(models)}", "model": f"expert-{len(models) - 1}"}
        )
    for model in raw["models"][2:]:
        model["parameters"].pop("slack", None)
    with Case(raw, base, models) as case:
        expected = case.expected()
        for name in NAMES:
            np.testing.assert_array_equal(bits(case.plan.tensor(name)), bits(expected[name]))


@pytest.mark.parametrize("method", METHODS)
@EXAMPLES
@given(data=st.data())
def test_slices_and_tiles_equal_the_whole(method: str, data: st.DataObject) -> None:
    tile = merge_core.reading.TILE
    with Case(*data.draw(cases(method, max_experts=3))) as case:
        whole = {name: case.plan.tensor(name).reshape(-1) for name in NAMES}
        merge_core.reading.TILE = data.draw(st.sampled_from([1, 3, 8]))
        try:
            for name in NAMES:
                size = whole[name].numel()
                cut = data.draw(st.integers(0, size))
                parts = [case.plan.elements(name, 0, cut), case.plan.elements(name, cut, size)]
                np.testing.assert_array_equal(bits(torch.cat(parts)), bits(whole[name]))
        finally:
            merge_core.reading.TILE = tile


@pytest.mark.parametrize("method", METHODS)
@EXAMPLES
@given(data=st.data())
def test_swapping_two_experts_gives_the_same_bits(method: str, data: st.DataObject) -> None:
    raw, base, experts = data.draw(cases(method, max_experts=2))
    if len(experts) < 2 or get_method(method).random:
        return
    for model in raw["models"]:
        model["parameters"].pop("slack", None)
    models = [
        {**model, "model": "base" if model["model"] == "base" else f"expert-{i}"}
        for i, model in enumerate(raw["models"][::-1])
    ]
    swapped = {**raw, "models": models}
    with Case(raw, base, experts) as one, Case(swapped, base, experts[::-1]) as two:
        for name in NAMES:
            np.testing.assert_array_equal(bits(one.plan.tensor(name)), bits(two.plan.tensor(name)))


@EXAMPLES
@given(case=cases("ties_sv", max_experts=3))
def test_ties_sv_without_slack_is_ties(case: tuple) -> None:
    raw, base, experts = case
    for model in raw["models"]:
        model["parameters"]["slack"] = 0.0
    with (
        Case(raw, base, experts) as one,
        Case({**raw, "merge_method": "ties"}, base, experts) as two,
    ):
        for name in NAMES:
            np.testing.assert_array_equal(bits(one.plan.tensor(name)), bits(two.plan.tensor(name)))


@EXAMPLES
@given(case=cases("ties_sv", max_experts=3))
def test_full_slack_of_the_first_expert_leaves_it_alone_where_it_had_lost(case: tuple) -> None:
    """As if its differences were all that stands where they are not trimmed away."""
    raw, base, experts = case
    raw["parameters"] = {"slack_mode": "replace", "normalize": False}
    for index, model in enumerate(raw["models"]):
        model["parameters"] = {"weight": 0.5, "density": 1.0, "slack": 1.0 if index == 0 else 0.0}
    with Case(raw, base, experts) as merged:
        for name in NAMES:
            b, e = base[name].float(), experts[0][name].float()
            others = [x[name].float() - b for x in experts[1:]]
            alone = b + (e - b) * 0.5
            opposed = torch.zeros_like(b, dtype=torch.bool)
            for other in others:
                opposed |= (other * (e - b)) < 0
            total = (e - b) * 0.5
            for other in others:
                total = total + other * 0.5
            lost = opposed & (((e - b) > 0) != (total >= 0)) & ((e - b) * 0.5 != 0)
            got = merged.plan.tensor(name)
            assert torch.equal(got[lost], alone.to(got.dtype)[lost])


@pytest.mark.parametrize("method", RANKING)
@EXAMPLES
@given(data=st.data())
def test_density_zero_keeps_nothing(method: str, data: st.DataObject) -> None:
    raw, base, experts = data.draw(cases(method, max_experts=2))
    for model in raw["models"]:
        model["parameters"]["density"] = 0.0
    with Case(raw, base, experts) as case:
        for name in NAMES:
            got = case.plan.tensor(name)
            assert torch.equal(got, base[name].to(got.dtype))


def test_trim_keeps_exactly_k_spread_over_the_tensor() -> None:
    """Where all magnitudes tie, the kept share is the same in each quarter (not index order)."""
    base = {name: torch.zeros(4, 1000, dtype=torch.bfloat16) for name in NAMES}
    expert = {name: torch.full((4, 1000), 0.5, dtype=torch.bfloat16) for name in NAMES}
    raw = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "expert-0", "parameters": {"weight": 1.0, "density": 0.2}}],
    }
    with Case(raw, base, [expert]) as case:
        kept = (case.plan.tensor(NAMES[1]) != 0).float()
        assert kept.sum() == 800
        assert all(0.15 < float(share) < 0.25 for share in kept.mean(1))


def test_dare_keeps_the_expected_value() -> None:
    base = {name: torch.zeros(100, 1000) for name in NAMES}
    expert = {name: torch.ones(100, 1000) for name in NAMES}
    raw = {
        "merge_method": "dare_linear",
        "base_model": "base",
        "models": [{"model": "expert-0", "parameters": {"weight": 1.0, "density": 0.3}}],
        "seed": 5,
    }
    with Case(raw, base, [expert]) as case:
        merged = case.plan.tensor(NAMES[1])
        assert abs(float(merged.mean()) - 1.0) < 0.02
        other = case.plan.tensor(NAMES[2])
        assert not torch.equal(merged, other)  # another tensor, another mask


def test_weights_that_cancel_do_not_divide() -> None:
    """Weights .3, .6, -.9 sum to 1e-17: dividing by that would blow the merge up."""
    base = {name: torch.zeros(3) for name in NAMES}
    experts = [{name: torch.full((3,), float(i + 1)) for name in NAMES} for i in range(3)]
    models = [
        {"model": f"expert-{i}", "name": f"e{i}", "parameters": {"weight": w}}
        for i, w in enumerate((0.3, 0.6, -0.9))
    ]
    raw = {"merge_method": "linear", "models": models}
    with Case(raw, base, experts) as case:
        assert float(case.plan.tensor(NAMES[0]).abs().max()) < 10


def test_overflow_is_the_recipes_fault() -> None:
    base = {name: torch.zeros(3, dtype=torch.float16) for name in NAMES}
    expert = {name: torch.full((3,), 60000.0, dtype=torch.float16) for name in NAMES}
    raw = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "expert-0", "parameters": {"weight": 2.0}}],
    }
    with Case(raw, base, [expert]) as case, pytest.raises(NonFiniteError, match=r"embed_tokens"):
        merged_by(case.plan)
