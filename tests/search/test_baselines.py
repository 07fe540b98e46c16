from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from merge_core import Expert, MergePlan, Recipe
from merge_core.values import Scalar
from search.baselines import baselines, seen_from
from search.config import load
from search.errors import ConfigError
from tests.search.small import GOOD, make_workplace


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    bits=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_the_linear_merge_of_one_model_is_that_model_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, bits: list[int], dtype: torch.dtype
) -> None:
    """What makes baselines and `score` go through the same path as trials (decision 4)."""
    folder: Path = tmp_path_factory.mktemp("one")
    weights = torch.from_numpy(np.array(bits, np.uint16).view(np.int16)).view(dtype)
    weights = torch.where(torch.isfinite(weights), weights, torch.zeros_like(weights))
    save_file({"model.layers.0.weight": weights}, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["Toy"], "num_hidden_layers": 1})
    )
    recipe = Recipe("linear", None, (Expert(str(folder), "one", {"weight": Scalar(1.0)}),))
    merged = MergePlan(recipe).tensor("model.layers.0.weight")
    assert merged.view(torch.int16).tolist() == weights.view(torch.int16).tolist()


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    return make_workplace(tmp_path)


def named(workplace: Path, *entries: str) -> dict[str, Recipe]:
    text = GOOD.replace("[base, experts, uniform]", json.dumps(list(entries)))
    (workplace / "search.yaml").write_text(text)
    return baselines(load(workplace / "search.yaml"))


def test_methods_have_weight_1_and_their_papers_density(workplace: Path) -> None:
    found = named(workplace, "task_arithmetic", "ties", "dare_ties")
    assert [recipe.merge_method for recipe in found.values()] == list(found)
    arithmetic, ties, dare = (recipe.plain() for recipe in found.values())
    assert [m["parameters"] for m in arithmetic["models"]] == [{"weight": 1.0}] * 2
    assert arithmetic["parameters"] == {"normalize": False}
    assert ties["models"][1]["parameters"] == {"weight": 1.0, "density": 0.2}
    assert dare["models"][0]["parameters"] == {"weight": 1.0, "density": 0.5}
    assert ties["parameters"] == dare["parameters"] == {"normalize": True}
    for recipe in found.values():
        MergePlan(recipe).specs()


def test_the_published_schedule_is_shared_out_over_the_layers(workplace: Path) -> None:
    (recipe,) = named(workplace, "typhoon2_r1:reasoning").values()
    language, reasoning = (expert.parameters["weight"] for expert in recipe.models)
    for depth, share in ((0.0, 0.75), (53 / 79, 0.75), (66 / 79, 0.4375), (1.0, 0.125)):
        assert reasoning.at("", depth) == pytest.approx(share)
        assert language.at("", depth) == pytest.approx(1.0 - share)
    assert recipe.merge_method == "dare_linear"
    MergePlan(recipe).specs()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("typhoon2_r1", "did you mean 'typhoon2_r1:NAME'|expert"),
        ("typhoon2_r1:resoning", "did you mean 'reasoning'"),
        ("tise", "did you mean 'ties'"),
        ("ties:language", "unknown baseline"),
    ],
)
def test_a_baseline_that_is_none_is_named_with_its_place(
    workplace: Path, entry: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"search\.yaml:\d+:\d+: .*({message})"):
        named(workplace, entry)


def test_a_path_typed_here_is_written_as_the_file_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "rival").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "models")
    assert seen_from(tmp_path / "searches", "checkpoint:rival") == "checkpoint:../models/rival"
    assert seen_from(tmp_path, "checkpoint:org/on-the-hub") == "checkpoint:org/on-the-hub"
    assert seen_from(tmp_path, "ties") == "ties"
