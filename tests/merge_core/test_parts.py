"""Parts of a merge: rows, columns and boxes of a tensor have the bits of the whole.

Engines with tensor parallelism merge only their shard; mixtures of experts keep three axes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import merge_core.jobs
import merge_core.reading
from merge_core import MergePlan, NonFiniteError, Recipe, reference
from merge_core.kernels import fused
from merge_core.methods import METHODS, get_method
from tests.merge_core.conftest import merged_by, write_checkpoint

CONFIG = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_hidden_layers": 2}
SHAPES = {
    "lm_head.weight": (19, 6),
    "model.embed_tokens.weight": (19, 6),
    "model.layers.0.block_sparse_moe.experts.0.w1.weight": (9, 6),
    "model.layers.0.block_sparse_moe.experts.1.w1.weight": (9, 6),
    "model.layers.0.block_sparse_moe.gate.weight": (2, 6),
    "model.layers.1.mlp.experts.gate_up_proj": (3, 5, 8),  # as transformers 5 fuses them
    "model.layers.1.input_layernorm.weight": (6,),
    "model.norm.weight": (6,),
}
THREE_AXES = "model.layers.1.mlp.experts.gate_up_proj"


def model(seed: int, base: dict | None = None, dtype: torch.dtype = torch.bfloat16) -> dict:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in SHAPES.items():
        noise = torch.randn(shape, generator=generator)
        value = noise * 0.05 if base is None else base[name].float() + 0.01 * noise
        made[name] = value.to(dtype)
    return made


def recipe_of(folder: Path, method_name: str, experts: int = 2) -> Recipe:
    method = get_method(method_name)
    data: dict = {"merge_method": method_name, "base_model": str(folder / "m0"), "seed": 3}
    if method.interpolates:
        data["models"] = [{"model": str(folder / f"m{i}"), "name": f"e{i}"} for i in (0, 1)]
        data["parameters"] = {"t": 0.4}
        return Recipe.parse(data)
    own: dict = {"weight": 0.6}
    own |= {k: v for k, v in (("density", 0.4), ("epsilon", 0.1)) if k in method.by_name}
    models = []
    for index in range(experts):
        slack = {"slack": 0.5} if "slack" in method.by_name and index == 1 else {}
        path = str(folder / f"m{index + 1}")
        models.append({"model": path, "name": f"e{index}", "parameters": {**own, **slack}})
    return Recipe.parse({**data, "models": models})


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """[start, stop) along each axis, empty ones too."""
    ends = [sorted((draw(st.integers(0, size)), draw(st.integers(0, size)))) for size in shape]
    return [(start, stop) for start, stop in ends]


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moe")
    dtype = getattr(torch, request.param)
    base = model(0, dtype=dtype)
    for index, tensors in enumerate([base, *(model(i, base, dtype) for i in (1, 2))]):
        write_checkpoint(path / f"m{index}", tensors, CONFIG)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_experts_of_a_mixture_merge_as_the_reference_does(folder: Path, method: str) -> None:
    plan = MergePlan(recipe_of(folder, method))
    base, *experts = [{n: source.tensor(n) for n in SHAPES} for source in plan.sources.all]
    expected = reference.merge(
        plan.recipe, base, experts, plan.sources.depths, next(iter(base.values())).dtype
    )
    merged = merged_by(plan)
    for name in SHAPES:
        assert torch.equal(merged[name].view(torch.int16), expected[name].view(torch.int16)), name


@pytest.mark.parametrize("method", METHODS)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_box_of_a_tensor_has_the_bits_of_the_whole(
    folder: Path, method: str, data: st.DataObject
) -> None:
    plan = MergePlan(recipe_of(folder, method))
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    whole = plan.tensor(name)
    spans = data.draw(boxes(SHAPES[name][: data.draw(st.integers(0, len(SHAPES[name])))]))
    merge_core.reading.TILE, before = (
        data.draw(st.sampled_from([1, 7, 1 << 22])),
        (merge_core.reading.TILE),
    )
    try:
        got = plan.part(name, spans)
    finally:
        merge_core.reading.TILE = before
    expected = whole[tuple(slice(*span) for span in spans)]
    assert got.shape == expected.shape
    assert torch.equal(got.view(torch.int16), expected.contiguous().view(torch.int16))


def test_a_part_is_merged_into_the_given_tensor(folder: Path) -> None:
    plan = MergePlan(recipe_of(folder, "ties"))
    out = torch.zeros(2 * 6, dtype=plan.specs()["lm_head.weight"].dtype)
    part = plan.part("lm_head.weight", [(3, 5)], out)
    assert part.data_ptr() == out.data_ptr()
    assert torch.equal(part, plan.tensor("lm_head.weight")[3:5])


@pytest.mark.parametrize("method", ["ties_sv", "dare_ties", "della", "linear"])
def test_threads_and_pieces_change_no_bit(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor large enough for several pieces and threads, in one thread and in three."""
    generator = torch.Generator().manual_seed(0)
    name = "model.layers.0.mlp.weight"
    base = torch.randn(257, 1021, generator=generator).bfloat16()
    config = {"architectures": ["Toy"], "num_hidden_layers": 1}
    for index in range(3):
        noise = 0.05 * torch.randn(257, 1021, generator=generator) * (index > 0)
        write_checkpoint(tmp_path / f"m{index}", {name: (base.float() + noise).bfloat16()}, config)
    recipe = recipe_of(tmp_path, method)
    whole = MergePlan(recipe).tensor(name)
    threads = torch.get_num_threads()
    try:
        for count, longest, shortest in ((1, 1 << 22, 1 << 15), (3, 40_000, 100), (2, 4097, 1)):
            torch.set_num_threads(count)
            monkeypatch.setattr(fused, "LONGEST", longest)
            monkeypatch.setattr(fused, "SHORTEST", shortest)
            again = MergePlan(recipe).tensor(name)
            assert torch.equal(whole.view(torch.int16), again.view(torch.int16))
            left = MergePlan(recipe).part(name, [(0, 257), (0, 500)])
            assert torch.equal(left, whole[:, :500])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537])
def test_what_is_worked_on_in_pairs_may_end_anywhere(tmp_path: Path, size: int) -> None:
    """Two threads take 65,537 elements as 65,536 and a single one, which has no other half."""
    generator = torch.Generator().manual_seed(0)
    name = "model.layers.0.mlp.weight"
    config = {"architectures": ["Toy"], "num_hidden_layers": 1}
    tensors = [{name: torch.randn(size, generator=generator).bfloat16()} for _ in range(3)]
    for index, own in enumerate(tensors):
        write_checkpoint(tmp_path / f"m{index}", own, config)
    recipe = recipe_of(tmp_path, "task_arithmetic")
    expected = reference.merge(recipe, tensors[0], tensors[1:], {name: 1.0}, torch.bfloat16)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        plan = MergePlan(recipe)
        for start in (0, 1, size - 3, size - 1):
            merged = plan.elements(name, start, size)
            assert torch.equal(merged.view(torch.int16), expected[name][start:].view(torch.int16))
    finally:
        torch.set_num_threads(threads)


def test_what_overflows_is_counted_once(tmp_path: Path) -> None:
    """Rows of three are worked on as a pair and, again, the last two."""
    name = "model.layers.0.mlp.weight"
    config = {"architectures": ["Toy"], "num_hidden_layers": 1}
    for index in range(3):
        value = torch.full((4, 3), 3e38 * (index > 0)).bfloat16()
        write_checkpoint(tmp_path / f"m{index}", {name: value}, config)
    with pytest.raises(NonFiniteError, match=r"^8 of 8 merged entries"):
        MergePlan(recipe_of(tmp_path, "task_arithmetic")).part(name, [(0, 4), (1, 3)])
    with pytest.raises(NonFiniteError, match=r"^12 of 12 merged entries"):
        MergePlan(recipe_of(tmp_path, "task_arithmetic")).part(name, [(0, 4)])
    with pytest.raises(NonFiniteError, match=r"^11 of 11 merged entries"):
        MergePlan(recipe_of(tmp_path, "task_arithmetic")).elements(name, 1, 12)


@pytest.mark.parametrize("missed", [(0, 10), (0x7FFFFFF0, 0x7FFFFFFF)], ids=["low", "high"])
def test_a_slack_bracket_that_misses_costs_a_pass_and_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missed: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(1)
    name = "model.layers.0.mlp.weight"
    base = torch.randn(64, 512, generator=generator)
    config = {"architectures": ["Toy"], "num_hidden_layers": 1}
    tensors = []
    for index in range(3):
        noise = 0.1 * torch.randn(64, 512, generator=generator) * (index > 0)
        tensors.append({name: base + noise})
        write_checkpoint(tmp_path / f"m{index}", tensors[-1], config)
    recipe = recipe_of(tmp_path, "ties_sv")
    asked = []

    def bracket(sample: np.ndarray, slack: float, deviations: float) -> tuple[int, int]:
        asked.append(deviations)
        return missed if len(asked) == 1 else right(sample, slack, deviations)

    right = merge_core.jobs._bracket
    monkeypatch.setattr(merge_core.jobs, "_bracket", bracket)
    merged = MergePlan(recipe).tensor(name)
    expected = reference.merge(recipe, tensors[0], tensors[1:], {name: 1.0}, torch.float32)
    assert len(asked) == 2
    np.testing.assert_array_equal(
        merged.view(torch.int32).numpy(), expected[name].view(torch.int32).numpy()
    )
