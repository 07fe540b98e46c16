"""What the reference has to give whatever the executor does: methods that meet, and bounds."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.merge_core.method_suite import DTYPES, NAMES, bits, cases, referenced

EXAMPLES = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ROW = NAMES[1]


def assert_same_bits(one: dict, other: dict) -> None:
    for name in NAMES:
        np.testing.assert_array_equal(bits(one[name]), bits(other[name]), err_msg=name)


def as_method(data: dict, method: str, drop: tuple[str, ...] = (), **own: float) -> dict:
    """`data` for another method, with parameters left out and others set for every expert."""
    data = copy.deepcopy(data) | {"merge_method": method}
    for model in data["models"]:
        model["parameters"] |= own
    for parameters in (data["parameters"], *(model["parameters"] for model in data["models"])):
        for name in drop:
            parameters.pop(name, None)
    return data


def alone(method: str, rows: list, own: list[dict], shared: dict | None = None, **top) -> list:
    """The merge of differences from a base of zeros; one tensor, in float32."""
    made = [{name: torch.tensor(row, dtype=torch.float32) for name in NAMES} for row in rows]
    base = {name: torch.zeros_like(tensor) for name, tensor in made[0].items()}
    models = [
        {"model": f"expert-{i}", "name": f"e{i}", "parameters": parameters}
        for i, parameters in enumerate(own)
    ]
    data = {"merge_method": method, "base_model": "base", "models": models, **top}
    return referenced({**data, "parameters": shared or {}}, base, made)[ROW].tolist()


# ---- methods that meet


@EXAMPLES
@given(case=cases("breadcrumbs_ties"))
def test_breadcrumbs_without_outliers_trims_as_ties_does(case: tuple) -> None:
    data, base, experts = case
    same = as_method(data, "ties", drop=("gamma",))
    assert_same_bits(
        referenced(as_method(data, "breadcrumbs_ties", gamma=0.0), base, experts),
        referenced(same, base, experts),
    )


@EXAMPLES
@given(case=cases("breadcrumbs", max_experts=1))
def test_breadcrumbs_without_outliers_is_trimmed_task_arithmetic(case: tuple) -> None:
    """As TIES is with one expert, whose signs win: the same values (and +0 where that has -0)."""
    data, base, experts = case
    data["parameters"]["normalize"] = False
    one = referenced(as_method(data, "breadcrumbs", gamma=0.0), base, experts)
    two = referenced(as_method(data, "ties", drop=("gamma",)), base, experts)
    for name in NAMES:
        assert torch.equal(one[name], two[name])


@pytest.mark.parametrize(
    ("method", "full"),
    [
        ("breadcrumbs", "task_arithmetic"),
        ("breadcrumbs_ties", "ties"),
        ("della_linear", "task_arithmetic"),
        ("della", "ties"),
        ("dare_linear", "task_arithmetic"),
        ("dare_ties", "ties"),
    ],
)
@EXAMPLES
@given(data=st.data())
def test_density_one_drops_nothing(method: str, full: str, data: st.DataObject) -> None:
    """Whatever gamma or epsilon is."""
    raw, base, experts = data.draw(cases(method))
    raw = as_method(raw, method, density=1.0)
    gone = ("gamma", "epsilon", *(("density", "scope") if full == "task_arithmetic" else ()))
    assert_same_bits(
        referenced(raw, base, experts), referenced(as_method(raw, full, gone), base, experts)
    )


@pytest.mark.parametrize("epsilon", [0.0, 1e-9])  # the latter moves no threshold of a whole percent
@pytest.mark.parametrize(
    ("method", "dare"), [("della", "dare_ties"), ("della_linear", "dare_linear")]
)
@EXAMPLES
@given(data=st.data())
def test_della_without_epsilon_is_dare(method: str, dare: str, epsilon: float, data) -> None:
    raw, base, experts = data.draw(cases(method))
    raw = as_method(raw, method, epsilon=epsilon)
    assert_same_bits(
        referenced(raw, base, experts),
        referenced(as_method(raw, dare, drop=("epsilon",)), base, experts),
    )


# ---- DELLA


def kept(rows, density: float, epsilon: float, seed: int = 0) -> np.ndarray:
    own = [{"weight": 1.0, "density": density, "epsilon": epsilon}]
    return np.array(alone("della_linear", [rows], own, seed=seed)) != 0


def test_della_keeps_the_large_more_often_and_the_expected_value() -> None:
    generator = np.random.default_rng(0)
    rows = generator.permuted(np.tile(np.arange(1.0, 101.0), (2000, 1)), axis=1)
    own = [{"weight": 1.0, "density": 0.5, "epsilon": 0.3}]
    merged = np.array(alone("della_linear", [rows.tolist()], own))
    assert abs(merged.mean() / rows.mean() - 1.0) < 0.01
    shares = [(merged != 0)[rows == size].mean() for size in (1.0, 25.0, 75.0, 100.0)]
    np.testing.assert_allclose(
        shares, [0.2, 0.2 + 0.6 * 24 / 99, 0.2 + 0.6 * 74 / 99, 0.8], atol=0.04
    )


def test_della_ranks_each_row_alone() -> None:
    """So a row's scale does not matter; one row of the whole tensor would be another draw."""
    rows = np.random.default_rng(1).normal(size=(8, 64))
    scaled = rows * 2.0 ** np.arange(-4, 4)[:, None]
    np.testing.assert_array_equal(kept(rows.tolist(), 0.5, 0.4), kept(scaled.tolist(), 0.5, 0.4))
    flat = kept(scaled.reshape(-1).tolist(), 0.5, 0.4).reshape(rows.shape)
    assert (flat != kept(scaled.tolist(), 0.5, 0.4)).any()
    assert flat[-1].mean() > flat[0].mean()


def test_what_della_keeps_at_a_density_it_keeps_at_a_larger_one() -> None:
    rows = np.random.default_rng(2).normal(size=(8, 64)).tolist()
    less, more = kept(rows, 0.4, 0.1), kept(rows, 0.6, 0.1)
    assert (more | ~less).all()
    assert less.sum() < more.sum()
    assert (kept(rows, 0.5, 0.1, seed=1) != kept(rows, 0.5, 0.1, seed=2)).any()


def test_ties_within_a_row_are_broken_by_the_hash_not_the_index() -> None:
    shares = kept(np.ones((200, 64)).tolist(), 0.5, 0.49).mean(0)
    assert shares[:16].mean() == pytest.approx(0.5, abs=0.05)
    assert shares[-16:].mean() == pytest.approx(0.5, abs=0.05)


# ---- breadcrumbs


@EXAMPLES
@given(
    density=st.integers(0, 100), gamma=st.floats(0, 1), size=st.integers(1, 60), tied=st.booleans()
)
def test_a_band_keeps_exactly_k_behind_the_largest(density, gamma, size, tied) -> None:
    row = np.full(size, 0.5) if tied else np.random.default_rng(size).permutation(size) + 1.0
    own = [{"weight": 1.0, "density": density / 100, "gamma": gamma}]
    stays = np.array(alone("breadcrumbs", [row.tolist()], own)) != 0
    count = max(1, density * size // 100) if density else 0
    assert stays.sum() == count
    if not tied:
        outliers = min(int(gamma * size), size - count)
        expected = sorted(row)[::-1][outliers : outliers + count]
        assert sorted(row[stays])[::-1] == expected


# ---- SLERP


@EXAMPLES
@given(case=cases("slerp"), end=st.sampled_from([0.0, 1.0]))
def test_slerp_ends_at_its_models(case: tuple, end: float) -> None:
    data, base, experts = case
    data["parameters"]["t"] = end
    merged = referenced(data, base, experts)
    index = next(i for i, m in enumerate(data["models"]) if (m["model"] == "base") == (end == 0.0))
    for name in NAMES:
        # Equal values; a zero may change its sign, as in any sum with a zero.
        assert torch.equal(merged[name], experts[index][name].to(merged[name].dtype))


@EXAMPLES
@given(case=cases("slerp"), t=st.floats(0, 1))
def test_slerp_is_near_the_same_in_float64(case: tuple, t: float) -> None:
    data, base, experts = case
    data |= {"dtype": "float32", "parameters": {"t": t}}
    merged = referenced(data, base, experts)
    other = experts[1] if data["models"][0]["model"] == "base" else experts[0]
    for name in NAMES:
        b, e = (x[name].double().numpy().reshape(-1) for x in (base, other))
        size = np.linalg.norm(b) * np.linalg.norm(e)
        cosine = float(b @ e / size) if size else 1.0
        f = (1 - t, t)
        if abs(abs(cosine) - 0.9995) < 1e-9:
            continue
        if abs(cosine) <= 0.9995:
            angle = np.arccos(cosine)
            f = (np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle))
        got = merged[name].double().numpy().reshape(-1)
        bound = 2.0**-22 * (abs(b * f[0]) + abs(e * f[1])) + 1e-44  # three roundings; subnormals
        assert (abs(got - (b * f[0] + e * f[1])) <= bound).all()


def test_slerp_stays_on_the_arc() -> None:
    """Of two vectors of one length, the linear average is shorter."""
    generator = torch.Generator().manual_seed(0)
    base, other = (
        {name: torch.randn(50, 200, generator=generator) for name in NAMES} for _ in range(2)
    )
    data = {
        "merge_method": "slerp",
        "base_model": "base",
        "models": [{"model": "base"}, {"model": "other"}],
        "parameters": {"t": 0.5},
    }
    merged = referenced(data, base, [base, other])[ROW]
    assert float(merged.norm() / base[ROW].norm()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_slerp_of_parallel_or_zero_tensors_is_linear(dtype: str) -> None:
    base = {name: torch.tensor([1.0, -2.0, 3.0]).to(DTYPES[dtype]) for name in NAMES}
    for factor in (2.0, -1.0, 0.0):
        other = {name: (tensor * factor) for name, tensor in base.items()}
        data = {
            "merge_method": "slerp",
            "base_model": "base",
            "models": [{"model": "other"}, {"model": "base"}],
            "parameters": {"t": 0.25},
        }
        merged = referenced(data, base, [other, base])[ROW]
        expected = 0.75 * base[ROW].float() + 0.25 * other[ROW].float()
        assert torch.equal(merged, expected.to(DTYPES[dtype]))
