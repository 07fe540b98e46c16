"""LoRA experts in every method: the differences that are merged are B A s itself, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from merge_core import MergePlan, Recipe, reference
from merge_core.adapters import AdaptedCheckpoint
from merge_core.methods import METHODS, get_method
from tests.merge_core.conftest import CONFIG, SHAPES, make_model, merged_by, write_checkpoint
from tests.merge_core.test_parts import boxes, recipe_of

ADAPTED = [name for name in SHAPES if "proj" in name]
DIFFERENCES = [name for name in METHODS if get_method(name).on_differences]


def write_adapter(path: Path, seed: int, rank: int = 3) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in ADAPTED:
        stem = "base_model.model." + name.removesuffix(".weight")
        rows, columns = SHAPES[name]
        tensors[f"{stem}.lora_A.weight"] = 0.1 * torch.randn(rank, columns, generator=generator)
        tensors[f"{stem}.lora_B.weight"] = 0.1 * torch.randn(rows, rank, generator=generator)
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "up_proj"],
        "bias": "none",
    }
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m0 a base of zeros, so that an expert's weights are its differences; m1, m2 on it."""
    path = tmp_path_factory.mktemp("lora")
    zeros = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    write_checkpoint(path / "m0", zeros, CONFIG)
    for index in (1, 2):
        write_adapter(path / f"adapter{index}", index)
    write_checkpoint(path / "full", make_model(5, dtype=torch.float32), CONFIG)
    return path


def adapted_recipe(folder: Path, method: str, *, full: bool = False) -> Recipe:
    data = recipe_of(folder, method).plain()
    for index, expert in enumerate(data["models"]):
        expert["model"] = f"{folder / 'm0'}+{folder / f'adapter{index + 1}'}"
    if full:
        data["models"][0]["model"] = str(folder / "full")
    return Recipe.parse(data)


def whole_tensors(source) -> dict[str, torch.Tensor]:
    """The expert's weights over a base of zeros: its differences."""
    made = {}
    for name, shape in SHAPES.items():
        made[name] = source.tensor(name).clone()
        delta = source.delta(name) if isinstance(source, AdaptedCheckpoint) else None
        if delta is not None:
            values = np.empty(int(np.prod(shape)), np.float32)
            delta.fill(values, 0)
            made[name] = torch.from_numpy(values).reshape(shape)
    return made


def test_all_adapters_of_the_base_share_it(folder: Path) -> None:
    """It is mapped, checked and read once, however many there are."""
    sources = MergePlan(adapted_recipe(folder, "task_arithmetic")).sources
    assert all(expert.base is sources.base for expert in sources.experts)


@pytest.mark.parametrize("full", [False, True], ids=["two adapters", "an adapter and a model"])
@pytest.mark.parametrize("method", DIFFERENCES)
def test_differences_are_merged_as_they_are(folder: Path, method: str, full: bool) -> None:
    plan = MergePlan(adapted_recipe(folder, method, full=full))
    base, *experts = [whole_tensors(source) for source in plan.sources.all]
    expected = reference.merge(plan.recipe, base, experts, plan.sources.depths, torch.float32)
    merged = merged_by(plan)
    assert any(bool(merged[name].any()) for name in ADAPTED)
    for name in SHAPES:
        assert torch.equal(merged[name].view(torch.int32), expected[name].view(torch.int32)), name


@pytest.mark.parametrize("method", METHODS)
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_slices_equal_the_whole(folder: Path, method: str, data: st.DataObject) -> None:
    recipe = recipe_of(folder, "slerp") if method == "slerp" else adapted_recipe(folder, method)
    if method == "slerp":
        plain = recipe.plain()
        plain["models"][1]["model"] = f"{folder / 'm0'}+{folder / 'adapter1'}"
        recipe = Recipe.parse(plain)
    plan = MergePlan(recipe)
    name = data.draw(st.sampled_from(ADAPTED))
    spans = data.draw(boxes(SHAPES[name]))
    whole = plan.tensor(name)[tuple(slice(*span) for span in spans)].contiguous()
    assert torch.equal(plan.part(name, spans).view(torch.int32), whole.view(torch.int32))


def test_linear_merges_what_the_adapted_model_is(tmp_path: Path) -> None:
    """Methods without differences take base + difference, formed in float32 and never stored."""
    base = make_model(0)
    write_checkpoint(tmp_path / "m0", base, CONFIG)
    write_adapter(tmp_path / "adapter1", 1)
    reference_ = f"{tmp_path / 'm0'}+{tmp_path / 'adapter1'}"
    models = [{"model": reference_, "parameters": {"weight": 1.0}}]
    plan = MergePlan(Recipe.parse({"merge_method": "linear", "models": models}))
    (source,) = plan.sources.experts
    assert isinstance(source, AdaptedCheckpoint)
    merged = merged_by(plan)
    for name in SHAPES:
        expected = base[name].float()
        delta = source.delta(name)
        if delta is not None:
            values = np.empty(expected.numel(), np.float32)
            delta.fill(values, 0)
            expected = expected + torch.from_numpy(values).reshape(expected.shape)
        assert torch.equal(merged[name], expected.bfloat16()), name


def test_an_adapter_of_another_model_is_a_difference_from_the_merges_base(tmp_path: Path) -> None:
    """Its base is fine-tuned itself: e = x + B A s, and e - b is merged."""
    base = make_model(0, dtype=torch.float32)
    tuned = make_model(1, base, dtype=torch.float32)
    write_checkpoint(tmp_path / "m0", base, CONFIG)
    write_checkpoint(tmp_path / "tuned", tuned, CONFIG)
    write_adapter(tmp_path / "adapter1", 1)
    models = [
        {"model": f"{tmp_path / 'tuned'}+{tmp_path / 'adapter1'}", "parameters": {"weight": 1.0}}
    ]
    data = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "m0"), "models": models}
    plan = MergePlan(Recipe.parse(data))
    (source,) = plan.sources.experts
    assert isinstance(source, AdaptedCheckpoint)
    for name, tensor in merged_by(plan).items():
        expert = tuned[name]
        delta = source.delta(name)
        if delta is not None:
            values = np.empty(expert.numel(), np.float32)
            delta.fill(values, 0)
            expert = torch.from_numpy(values).reshape(expert.shape) + expert
        assert torch.equal(tensor, base[name] + (expert - base[name])), name


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_a_copy_of_the_base_elsewhere_gives_the_same_bits(tmp_path: Path, method: str) -> None:
    base = make_model(0)
    write_checkpoint(tmp_path / "m0", base, CONFIG)
    write_checkpoint(tmp_path / "copy", base, CONFIG)
    write_adapter(tmp_path / "adapter1", 1)
    merges, names = [], []
    for own in ("m0", "copy"):
        expert = {"weight": 0.7, **({"density": 0.3} if method == "ties" else {})}
        model = f"{tmp_path / own}+{tmp_path / 'adapter1'}"
        data = {"merge_method": method, "base_model": str(tmp_path / "m0")}
        plan = MergePlan(Recipe.parse({**data, "models": [{"model": model, "parameters": expert}]}))
        merges.append(merged_by(plan))
        names.append(plan.fingerprint())
    assert names[0] == names[1]
    for name in SHAPES:
        assert torch.equal(merges[0][name], merges[1][name]), name
