from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

import merge_core.reading
import merge_core.sources
from merge_core import (
    Checkpoint,
    CheckpointError,
    MergePlan,
    NonFiniteError,
    Recipe,
    RecipeError,
    Sources,
    reference,
)
from merge_core.checkpoint import TensorSpec
from tests.merge_core.conftest import (
    CONFIG,
    SHAPES,
    make_model,
    merged_by,
    recipe_data,
    write_checkpoint,
)
from tests.merge_core.method_suite import bits

ATTENTION = "model.layers.0.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
UNTIED = {**CONFIG, "tie_word_embeddings": False}


def load(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint.open(str(path))
    return {name: checkpoint.tensor(name).clone() for name in checkpoint.specs}


def plan_of(dirs: dict, *args, **kwargs) -> MergePlan:
    return MergePlan(Recipe.parse(recipe_data(dirs, *args, **kwargs)))


def assert_same(got: dict, expected: dict) -> None:
    assert list(got) == list(expected)
    for name in got:
        assert (got[name].dtype, got[name].shape) == (expected[name].dtype, expected[name].shape)
        np.testing.assert_array_equal(bits(got[name]), bits(expected[name]), err_msg=name)


def hollow(path: Path, shapes: dict[str, tuple[int, ...]], config: dict = CONFIG) -> Path:
    """A checkpoint whose data is a hole in the file: nothing in it was ever written."""
    path.mkdir()
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    (path / "config.json").write_text(json.dumps(config))
    return path


BIG = {**dict.fromkeys(SHAPES, (1 << 14, 1 << 14)), "model.norm.weight": (1 << 14,)}


@pytest.fixture
def big_dirs(tmp_path: Path, monkeypatch) -> dict[str, Path]:
    """Three checkpoints of 3.8 GB each, of which nobody may read a tensor."""

    def read(self: Checkpoint, name: str) -> None:
        raise AssertionError(f"read {name}")

    monkeypatch.setattr(Checkpoint, "tensor", read)
    return {name: hollow(tmp_path / name, BIG) for name in ("base", "language", "reasoning")}


def test_a_plan_reads_no_tensor(big_dirs: dict) -> None:
    plan = plan_of(big_dirs, "ties_sv")
    assert plan.specs()[EMBEDDING] == TensorSpec((1 << 14, 1 << 14), torch.bfloat16)
    assert len(pickle.dumps(plan)) < 20_000
    with pytest.raises(AssertionError, match=r"read model\.embed_tokens"):
        next(plan.tensors())


@pytest.mark.parametrize(
    ("shapes", "config", "message"),
    [
        ({**BIG, ATTENTION: (4, 4)}, CONFIG, "has shape [4, 4]"),
        ({n: s for n, s in BIG.items() if n != ATTENTION}, CONFIG, f"lacks tensor {ATTENTION}"),
        ({**BIG, "model.extra": (1,)}, CONFIG, "has tensor model.extra"),
        (BIG, {**CONFIG, "architectures": ["Other"]}, "is Other"),
    ],
)
def test_mismatches_are_raised_from_headers(big_dirs, tmp_path, shapes, config, message) -> None:
    big_dirs["reasoning"] = hollow(tmp_path / "bad", shapes, config)
    with pytest.raises(CheckpointError) as caught:
        plan_of(big_dirs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tensor_too_large_to_rank_is_refused(tmp_path: Path) -> None:
    shapes = {"model.layers.0.w": (1 << 17, 1 << 16)}
    config = {**CONFIG, "num_hidden_layers": 1}
    names = ("base", "language", "reasoning")
    dirs = {name: hollow(tmp_path / name, shapes, config) for name in names}
    for method in ("ties", "dare_ties"):
        parameters = {"density": 0.5}
        with pytest.raises(RecipeError, match="too large to rank"):
            plan_of(dirs, method, parameters)
    plan_of(dirs, "task_arithmetic")


# ---- what a plan gives


def test_specs_are_in_name_order_and_true(trio_dirs: dict) -> None:
    plan = plan_of(trio_dirs, parameters={"density": 0.5})
    assert list(plan.specs()) == sorted(SHAPES)
    for name, tensor in plan.tensors():
        assert plan.specs()[name] == TensorSpec(tuple(tensor.shape), tensor.dtype)
        assert tensor.is_contiguous()


def test_a_pickled_plan_gives_the_same_bits(trio_dirs: dict) -> None:
    plan = plan_of(trio_dirs, "ties_sv", {"density": 0.5, "slack": 0.5, "scope": "model"})
    first = merged_by(plan)
    assert_same(merged_by(pickle.loads(pickle.dumps(plan))), first)
    assert plan.fingerprint() == pickle.loads(pickle.dumps(plan)).fingerprint()


def test_the_fingerprint_follows_contents_not_paths(trio_dirs: dict, tmp_path: Path) -> None:
    first = plan_of(trio_dirs).fingerprint()
    moved = dict(trio_dirs)
    moved["language"] = trio_dirs["language"].rename(tmp_path / "elsewhere")
    assert plan_of(moved).fingerprint() == first
    write_checkpoint(moved["language"], make_model(7))
    assert plan_of(moved).fingerprint() != first


@pytest.mark.parametrize("tile", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("limit", [0, 1 << 22])
def test_tiles_of_any_size_and_both_selections(trio_dirs, monkeypatch, tile, limit) -> None:
    for path in trio_dirs.values():  # float16 is widened tile by tile; the rest are views
        write_checkpoint(path, {name: tensor.half() for name, tensor in load(path).items()})
    parameters = {"density": 0.3, "slack": 0.4, "scope": "model"}
    data = recipe_data(trio_dirs, "ties_sv", parameters)
    names = (EMBEDDING, "model.norm.weight")
    expected = {n: MergePlan(Recipe.parse(data)).tensor(n) for n in names}
    monkeypatch.setattr(merge_core.reading, "TILE", tile)
    monkeypatch.setattr("merge_core.selection._IN_MEMORY", limit)
    plan = MergePlan(Recipe.parse(data))
    assert_same({n: plan.tensor(n) for n in names}, expected)


def test_scope_model_with_ties_across_tensors(tmp_path: Path) -> None:
    """Equal tensors under two names tie in magnitude everywhere; whole ranks tie by force."""
    base = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    expert = {name: torch.full(shape, 0.5) for name, shape in SHAPES.items()}
    other = {name: torch.full(shape, -0.5) for name, shape in SHAPES.items()}
    dirs = {
        "base": write_checkpoint(tmp_path / "b", base),
        "language": write_checkpoint(tmp_path / "l", expert),
        "reasoning": write_checkpoint(tmp_path / "r", other),
    }
    total = sum(tensor.numel() for tensor in base.values())
    for density in (0.01, 0.35, 0.99):
        recipe = Recipe.parse(
            recipe_data(
                dirs,
                "ties_sv",
                {"density": density, "scope": "model", "normalize": False},
                reasoning={"weight": 0.25, "slack": 0.5},
            )
        )
        plan = MergePlan(recipe)
        merged = merged_by(plan)
        depths = plan.sources.depths
        assert_same(merged, reference.merge(recipe, base, [expert, other], depths, torch.float32))
        # Both keep the same entries (all tie); half of them are won back.
        kept = sum(int((tensor != 0).sum()) for tensor in merged.values())
        assert kept == int(density * total)
        won_back = sum(int((tensor < 0).sum()) for tensor in merged.values())
        assert won_back == kept // 2


def test_equal_keys_in_two_tensors_are_kept_in_name_order(trio_dirs, monkeypatch) -> None:
    """With one id for all tensors, whole keys tie across tensors; the first names win."""
    for module in (merge_core.sources, reference):
        monkeypatch.setattr(module, "tensor_ids", lambda names: dict.fromkeys(names, 99))
    models = {
        "base": {name: torch.zeros(shape) for name, shape in SHAPES.items()},
        "language": {name: torch.full(shape, 0.5) for name, shape in SHAPES.items()},
        "reasoning": {name: torch.full(shape, -0.25) for name, shape in SHAPES.items()},
    }
    for name, tensors in models.items():
        write_checkpoint(trio_dirs[name], tensors)
    base, *experts = models.values()
    for density in (0.002, 0.01, 0.02, 0.5):
        parameters = {"density": density, "slack": 0.3, "scope": "model", "density_step": 0}
        recipe = Recipe.parse(recipe_data(trio_dirs, "ties_sv", parameters))
        plan = MergePlan(recipe)
        depths = plan.sources.depths
        expected = reference.merge(recipe, base, experts, depths, torch.float32)
        assert_same(merged_by(plan), expected)


@pytest.mark.parametrize("source", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("out", [None, "bfloat16", "float16", "float32"])
def test_dtype_conversions(tmp_path: Path, source: str, out: str | None) -> None:
    base = make_model(0, dtype=getattr(torch, source))
    experts = [make_model(i, base, dtype=getattr(torch, source)) for i in (1, 2)]
    paths = [write_checkpoint(tmp_path / f"m{i}", m) for i, m in enumerate([base, *experts])]
    dirs = dict(zip(("base", "language", "reasoning"), paths, strict=True))
    data = recipe_data(dirs, "task_arithmetic") | ({"dtype": out} if out else {})
    plan = MergePlan(Recipe.parse(data))
    dtype = getattr(torch, out or source)
    assert {spec.dtype for spec in plan.specs().values()} == {dtype}
    expected = reference.merge(plan.recipe, base, experts, plan.sources.depths, dtype)
    assert_same(merged_by(plan), dict(sorted(expected.items())))


def test_sources_of_mixed_dtypes_take_the_templates(trio_dirs: dict) -> None:
    tensors = load(trio_dirs["reasoning"])
    write_checkpoint(trio_dirs["reasoning"], {n: t.float() for n, t in tensors.items()})
    assert {s.dtype for s in plan_of(trio_dirs).specs().values()} == {torch.bfloat16}


def test_sources_serve_many_recipes(trio_dirs: dict) -> None:
    """Bounds are kept between plans, by count: other densities get their own."""
    sources = Sources.open(Recipe.parse(recipe_data(trio_dirs)))
    for density in (0.5, 0.2, 0.5):
        recipe = Recipe.parse(recipe_data(trio_dirs, parameters={"density": density}))
        assert_same(merged_by(MergePlan(recipe, sources)), merged_by(MergePlan(recipe)))


def test_sources_of_another_recipe_are_a_bug(trio_dirs: dict) -> None:
    data = recipe_data(trio_dirs)
    swapped = Recipe.parse({**data, "models": data["models"][::-1]})
    with pytest.raises(AssertionError, match="sources of another recipe"):
        MergePlan(swapped, Sources.open(Recipe.parse(data)))


# ---- who is merged how


def add(path: Path, config: dict | None = None, **tensors: torch.Tensor) -> None:
    made = {**load(path), **tensors}
    kept = json.loads((path / "config.json").read_text()) if config is None else config
    write_checkpoint(path, made, kept)


CACHE = "model.layers.0.self_attn.rotary_emb.inv_freq"


def test_integers_and_caches_are_copied(trio_dirs: dict) -> None:
    copied = {
        "model.steps": torch.tensor([1, 2**40 + 1]),
        "model.mask": torch.tensor([True, False]),
        CACHE: torch.tensor([1.0, 1e-3]),
    }
    for path in trio_dirs.values():
        add(path, **copied)
    plan = MergePlan(Recipe.parse(recipe_data(trio_dirs) | {"dtype": "float16"}))
    for name, tensor in copied.items():
        assert torch.equal(plan.tensor(name), tensor)
        assert plan.specs()[name].dtype == tensor.dtype
        assert torch.equal(plan.elements(name, 1, 2), tensor[1:])


@pytest.mark.parametrize("name", ["model.steps", CACHE])
def test_copied_tensors_that_differ_are_an_error(trio_dirs: dict, name: str) -> None:
    dtype = torch.int64 if name == "model.steps" else torch.float32
    for path in trio_dirs.values():
        add(path, **{name: torch.tensor([1, 2], dtype=dtype)})
    add(trio_dirs["language"], **{name: torch.tensor([1, 3], dtype=dtype)})
    with pytest.raises(CheckpointError, match="is copied, not merged, and differs from"):
        plan_of(trio_dirs).tensor(name)
    # Another dtype is known from the headers.
    other = torch.int32 if name == "model.steps" else torch.bfloat16
    add(trio_dirs["language"], **{name: torch.tensor([1, 2], dtype=other)})
    with pytest.raises(CheckpointError, match=f"tensor {name} is torch"):
        plan_of(trio_dirs)


def test_tied_weights_are_merged_once(trio_dirs: dict) -> None:
    """Also where a tied checkpoint stores its head a second time."""
    expected = merged_by(plan_of(trio_dirs))
    add(trio_dirs["base"], **{HEAD: load(trio_dirs["base"])[EMBEDDING].clone()})
    plan = plan_of(trio_dirs)
    assert plan.tied
    assert_same(merged_by(plan), expected)


@pytest.mark.parametrize("untied", [("base",), ("language",), ("language", "reasoning")])
@pytest.mark.parametrize("by_default", [False, True])
def test_mixed_tying_unties_the_merge(trio_dirs, untied, by_default) -> None:
    """A shared head counts as a copy of the embedding; `by_default`: config.json is silent."""
    full = {}
    for seed, name in enumerate(("base", "language", "reasoning")):
        tensors = load(trio_dirs[name])
        if name in untied:
            tensors[HEAD] = make_model(seed + 50)[EMBEDDING]
            write_checkpoint(trio_dirs[name], tensors, UNTIED)
        else:
            config = UNTIED if by_default else CONFIG
            write_checkpoint(trio_dirs[name], tensors, config)
            tensors = {**tensors, HEAD: tensors[EMBEDDING]}
        full[name] = dict(sorted(tensors.items()))
    plan = plan_of(trio_dirs, parameters={"density": 0.5})
    assert not plan.tied
    assert plan.sources.untied
    base, *experts = full.values()
    depths = plan.sources.depths
    assert depths[HEAD] == 1.0
    assert_same(
        merged_by(plan), reference.merge(plan.recipe, base, experts, depths, torch.bfloat16)
    )


def test_all_untied_keep_their_heads(trio_dirs: dict) -> None:
    for path in trio_dirs.values():
        add(path, UNTIED, **{HEAD: load(path)[EMBEDDING].clone()})
    plan = plan_of(trio_dirs)
    assert not plan.tied
    assert not plan.sources.untied
    assert HEAD in plan.specs()


def test_no_head_and_no_word_of_tying_is_tied(trio_dirs: dict) -> None:
    config = {k: v for k, v in CONFIG.items() if k != "tie_word_embeddings"}
    for path in trio_dirs.values():
        add(path, config)
    plan = plan_of(trio_dirs)
    assert plan.tied
    assert HEAD not in plan.specs()


def test_a_shared_head_without_a_known_embedding_is_an_error(trio_dirs: dict) -> None:
    for path in trio_dirs.values():
        tensors = load(path)
        tensors["model.words.weight"] = tensors.pop(EMBEDDING)
        write_checkpoint(path, tensors)
    add(trio_dirs["language"], UNTIED, **{HEAD: torch.zeros(23, 8, dtype=torch.bfloat16)})
    with pytest.raises(CheckpointError, match="no embedding found"):
        plan_of(trio_dirs)


def test_linear_needs_no_base(trio_dirs: dict) -> None:
    data = recipe_data(trio_dirs, "linear")
    del data["base_model"]
    plan = MergePlan(Recipe.parse(data))
    assert plan.sources.template is plan.sources.experts[0]
    experts = [load(trio_dirs[name]) for name in ("language", "reasoning")]
    depths = plan.sources.depths
    expected = reference.merge(plan.recipe, None, experts, depths, torch.bfloat16)
    assert_same(merged_by(plan), expected)


def test_weights_that_overflow_are_the_recipes_fault(trio_dirs: dict) -> None:
    plan = plan_of(trio_dirs, "task_arithmetic", {"lambda": 1e30}, language={"weight": 3e38})
    with pytest.raises(NonFiniteError, match="the recipe's weights are too large") as caught:
        plan.tensor(EMBEDDING)
    assert "\n" not in str(caught.value)


def test_empty_and_scalar_tensors(trio_dirs: dict) -> None:
    for path in trio_dirs.values():
        add(path, **{"model.empty": torch.zeros(0, 4), "model.scale": torch.tensor(2.0)})
    merged = merged_by(plan_of(trio_dirs, parameters={"density": 0.5}))
    assert merged["model.empty"].shape == (0, 4)
    assert merged["model.scale"].shape == ()
    assert float(merged["model.scale"]) == 2.0
