"""A swapped engine answers as a fresh one that was started on the saved merge."""

from __future__ import annotations

import pytest
import torch

from merge_core import MergePlan, NonFiniteError
from objectives.engines.base import GenerationSettings
from objectives.errors import EngineDiedError, EngineError, EngineMemoryError
from tests.objectives.engine_suite import DictSource
from tests.vllm.kit import (
    FULL,
    SETTINGS,
    UNTIED,
    prompts,
    recipe,
    recipes,
    resident,
    started,
)

WAYS = ("in_place", "reload")


def check(engine, merges, expected):
    """Load each merge and compare all answers; then the first again."""
    wrong = {}
    for number, merge in enumerate([*merges, merges[0]]):
        engine.load(MergePlan(merge))
        found, fresh = engine.generate(prompts(), SETTINGS), expected[number % len(merges)]
        if found != fresh:
            same = sum(a == b for a, b in zip(found, fresh, strict=True))
            wrong[number] = f"{same} of {len(found)}"
    assert wrong == {}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
def test_twenty_recipes_tied(trio, answers, way):
    merges = recipes(trio)
    expected = [answers.of(merge) for merge in merges]
    with started(MergePlan(merges[0]), swap=way) as engine:
        assert engine.way == way
        check(engine, merges, expected)
    assert len({tuple(one.text for one in fresh) for fresh in expected}) > 15


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
def test_recipes_untied(untied, answers, way):
    merges = recipes(untied, UNTIED)
    expected = [answers.of(merge) for merge in merges]
    with started(MergePlan(merges[0]), swap=way) as engine:
        check(engine, merges, expected)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_tied(trio, answers, way):
    merges = recipes(trio)
    expected = [answers.of(merge) for merge in merges]
    with started(MergePlan(merges[0]), swap=way, tensor_parallel=2) as engine:
        check(engine, merges, expected)
        halves = [told["made"] for told in engine.last_load]
        whole = sum(spec.numel for spec in MergePlan(merges[0]).specs().values())
        # Each rank makes its half; norms, which all ranks hold, count twice.
        assert max(halves) < 0.52 * whole
        assert whole <= sum(halves) < 1.01 * whole
        assert all(told["whole"] == 0 for told in engine.last_load)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_untied(untied, answers, way):
    merges = recipes(untied, UNTIED)
    expected = [answers.of(merge) for merge in merges]
    with started(MergePlan(merges[0]), swap=way, tensor_parallel=2) as engine:
        check(engine, merges, expected)


@pytest.mark.skipif(not FULL, reason="MERGEFRONT_VLLM_FULL=1 starts fresh engines of two ranks")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_against_fresh_engines_of_two_ranks(trio, untied, answers, way):
    for models in (trio, untied):
        merges = recipes(models, 3)
        changes = {"tensor_parallel": 2, "swap": way}
        expected = [answers.of(merge, **changes) for merge in merges]
        with started(MergePlan(merges[0]), **changes) as engine:
            check(engine, merges, expected)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "changes",
    [{"swap": "in_place"}, {"swap": "reload"}]
    + ([{"swap": "in_place", "tensor_parallel": 2}] if FULL else []),
)
def test_two_hundred_swaps_take_no_memory(trio, changes, record_property):
    plans = [MergePlan(merge) for merge in recipes(trio, 10)]
    with started(plans[0], **changes) as engine:
        early = late = 0
        for number in range(200):
            engine.load(plans[number % 10])
            if number % 10 == 0:
                engine.generate(prompts(4), GenerationSettings(max_tokens=4))
            if number == 39:
                early = resident()
        late = resident()
    record_property("MiB after 40 swaps", early / 2**20)
    record_property("MiB after 200 swaps", late / 2**20)
    # The model has 1.7 MiB: a leak of one copy a swap would be 270; arenas take some.
    assert late - early < 24 * 2**20


def test_without_the_reset_old_weights_answer(trio, answers, monkeypatch):
    before, after = recipes(trio, 2)
    asked = prompts(12, times=3)  # over 60 tokens
    long = {"block_size": 32}  # of the cache
    fresh = answers.of(after, asked, **long)
    with started(MergePlan(before), **long) as engine:
        engine.load(MergePlan(before))
        engine.generate(asked, SETTINGS)
        with monkeypatch.context() as patch:
            patch.setattr(engine._engine, "reset_prefix_cache", lambda: True)
            engine.load(MergePlan(after))
            stale = engine.generate(asked, SETTINGS)
        engine.load(MergePlan(after))
        right = engine.generate(asked, SETTINGS)
        with monkeypatch.context() as patch:
            patch.setattr(engine._engine, "reset_prefix_cache", lambda: False)
            with pytest.raises(EngineDiedError, match="did not reset its prefix cache"):
                engine.load(MergePlan(after))
        with pytest.raises(EngineError, match="no complete weights"):
            engine.generate(asked, SETTINGS)
    assert right == fresh
    assert sum(a == b for a, b in zip(stale, fresh, strict=True)) < len(fresh) / 2


def no_room(model, weights):
    """A loader whose layer finds no room."""
    next(weights)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("way", WAYS)
def test_after_a_load_that_failed_a_good_one_answers(trio, answers, way, monkeypatch):
    good = recipes(trio, 3)[2]
    expected = answers.of(good)
    heavy = {"weight": 1e38}
    huge = recipe(trio, "task_arithmetic", heavy, heavy, parameters={"lambda": 1000.0})
    with started(MergePlan(good), swap=way) as engine:
        with pytest.raises(EngineError, match="no complete weights loaded; load before"):
            engine.generate(prompts(), SETTINGS)
        for _ in range(2):
            engine.load(MergePlan(good))
            assert engine.generate(prompts(), SETTINGS) == expected
            with pytest.raises(NonFiniteError, match="not finite: the recipe's weights are too"):
                engine.load(MergePlan(huge))
            with pytest.raises(EngineError, match="no complete weights loaded"):
                engine.generate(prompts(), SETTINGS)
        (kind,) = engine._engine.apply_model(type)
        with monkeypatch.context() as patch:
            patch.setattr(kind, "load_weights", no_room)
            with pytest.raises(EngineMemoryError, match="inside vLLM ran out of memory: CUDA"):
                engine.load(MergePlan(good))
        with pytest.raises(EngineError, match="no complete weights loaded"):
            engine.generate(prompts(), SETTINGS)
        engine.load(MergePlan(good))
        assert engine.generate(prompts(), SETTINGS) == expected


@pytest.mark.parametrize("way", WAYS)
def test_names_every_misfit_before_the_first_write(trio, untied, answers, way):
    good = recipes(trio, 3)[2]
    expected = answers.of(good)
    plan = MergePlan(good)
    norm, mlp = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"

    def source(**changes):
        tensors = {name: tensor.clone() for name, tensor in plan.tensors()}
        tensors |= changes
        return DictSource({name: tensor for name, tensor in tensors.items() if tensor is not None})

    cases = [
        (source(**{norm: torch.ones(97)}), rf"{norm}: the live model does not take.*\(97,\)"),
        (source(**{mlp: torch.ones(200, 96)}), rf"{mlp}: the source has 19200 entries.*takes"),
        (source(**{norm: torch.ones(96).bfloat16()}), "norm.*bfloat16.*float32"),
        (source(extra=torch.ones(1)), "no tensor extra"),
        (source(**{mlp: None}), r"lacks what fills model\.layers\.1\.mlp\.gate_up_proj\.weight"),
        (MergePlan(recipes(untied, 1)[0]), r"lm_head\.weight apart from the embedding.*ties"),
        (source(**{norm: torch.ones(96, dtype=torch.int64)}), "norm.*int64.*float32"),
    ]
    with started(plan, swap=way) as engine:
        for wrong, message in cases:
            engine.load(plan)
            with pytest.raises(EngineError, match=message):
                engine.load(wrong)
            if hasattr(wrong, "portable"):  # nothing was written
                assert engine.generate(prompts(), SETTINGS) == expected
        half = MergePlan(recipe(trio, "linear", {"weight": 1}, {"weight": 1}, dtype="bfloat16"))
        with pytest.raises(EngineError, match=r"bfloat16.*float32; set the recipe's or the engine"):
            engine.load(half)
        engine.load(plan)
        assert engine.generate(prompts(), SETTINGS) == expected
