from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_core import MergePlan, NonFiniteError, Recipe, reference
from merge_core.analysis import BY, KINDS, SHARES, analyze, kind
from merge_core.methods import METHODS, get_method
from merge_core.random import tensor_ids
from tests.merge_core.conftest import SHAPES, make_model, recipe_data, write_checkpoint
from tests.merge_core.method_suite import DEPTHS, NAMES, Case, cases

EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ELECTING = [name for name in METHODS if get_method(name).elects]


def counted(data: dict, base: dict, experts: list[dict]) -> tuple[dict, dict]:
    """By name: (entries, stayed, retained, lost, restored) of each expert, and, of two experts,
    the entries where their terms have different signs. From the masks of the reference."""
    recipe = Recipe.parse(data)
    method, count = recipe.method, range(len(experts))
    ids = tensor_ids(base)
    s = {name: recipe.settings_for(name, DEPTHS[name]) for name in NAMES}
    e = [{name: reference._float32(x[name]) for name in NAMES} for x in experts]
    if not method.on_differences:
        found = {}
        for name in NAMES:
            factors = s[name].weights
            if method.interpolates:
                factors = reference._arc_factors(s[name], [x[name] for x in e], recipe)
            terms = [x[name] * np.float32(w) for x, w in zip(e, factors, strict=True)]
            found[name] = [(t.size, t.size, int((t != 0).sum()), 0, 0) for t in terms]
        return found, {}

    b = {name: reference._float32(base[name]) for name in NAMES}
    delta = [{name: x[name] - b[name] for name in NAMES} for x in e]
    whole = "scope" in method.by_name and recipe.flag("scope") == "model"
    groups = [list(NAMES)] if whole else [[name] for name in NAMES]
    stays: list[dict] = [{} for _ in experts]
    t: list[dict] = [{} for _ in experts]
    for i in count:
        if method.sparsify != "rank_drop":
            for group in groups:
                stays[i] |= reference._sparsify(recipe, i, group, delta[i], s, ids)
        for name in NAMES:
            if method.sparsify == "rank_drop":
                stays[i][name], factor = reference._drop_by_rank(
                    recipe, i, delta[i][name], base[name].shape, s[name], ids[name]
                )
            else:
                own = reference.multipliers(method, s[name].weights, s[name].densities)
                factor = np.float32(own[i])
            t[i][name] = np.where(stays[i][name], delta[i][name] * factor, np.float32(0))
    won = {name: [np.ones(b[name].shape, bool) for _ in experts] for name in NAMES}
    if method.elects:
        won = {name: reference._elect([t[i][name] for i in count]) for name in NAMES}
    keep = [{name: won[name][i].copy() for name in NAMES} for i in count]
    if method.elects:
        for group in groups:
            reference._restore(recipe, group, delta, t, keep, s, ids)
    found, conflicts = {}, {}
    for name in NAMES:
        found[name] = [
            (
                b[name].size,
                int(stays[i][name].sum()),
                int(((t[i][name] != 0) & keep[i][name]).sum()),
                int(((t[i][name] != 0) & ~keep[i][name]).sum()),
                int((keep[i][name] & ~won[name][i]).sum()),
            )
            for i in count
        ]
        if len(experts) == 2:
            conflicts[name] = int((np.sign(t[0][name]) * np.sign(t[1][name]) < 0).sum())
    return found, conflicts


# Three experts once more: each combination of flags is a kernel of its own to compile.
@pytest.mark.parametrize(("method", "most"), [*((m, 2) for m in METHODS), ("ties_sv", 3)])
@EXAMPLES
@given(data=st.data())
def test_counts_are_those_of_the_references_masks(
    method: str, most: int, data: st.DataObject
) -> None:
    raw, base, experts = data.draw(cases(method, max_experts=most))
    raw["dtype"] = "float32"
    expected, conflicts = counted(raw, base, experts)
    with Case(raw, base, experts) as case:
        found = analyze(MergePlan(case.recipe, case.plan.sources, tally=True))
    rows = {row.name: row for row in found.tensors}
    assert list(rows) == [name for name in NAMES if base[name].numel()]
    for name, row in rows.items():
        for counts, (entries, stayed, retained, lost, restored) in zip(
            row.experts, expected[name], strict=True
        ):
            assert counts.entries == entries == base[name].numel()
            assert counts.trimmed == entries - stayed
            assert counts.retained == retained
            assert counts.lost == lost
            assert counts.restored == restored <= retained
            assert counts.zero == stayed - retained - lost >= 0
            assert counts.retained + counts.lost + counts.zero + counts.trimmed == entries
        if get_method(method).elects and len(experts) <= 2:
            assert row.conflict == conflicts.get(name, 0)
        else:
            assert row.conflict is None


@pytest.mark.parametrize("method", METHODS)
@settings(EXAMPLES, max_examples=10)
@given(data=st.data())
def test_slices_and_boxes_count_as_the_whole(method: str, data: st.DataObject) -> None:
    raw, base, experts = data.draw(cases(method, max_experts=2))
    raw["dtype"] = "float32"
    with Case(raw, base, experts) as case:

        def plan() -> MergePlan:
            return MergePlan(case.recipe, case.plan.sources, tally=True)

        whole, sliced, boxed = plan(), plan(), plan()
        for name in NAMES:
            whole.tensor(name)
            spec = whole.specs()[name]
            cut = data.draw(st.integers(0, spec.numel))
            sliced.elements(name, 0, cut)
            sliced.elements(name, cut, spec.numel)
            if len(spec.shape) < 2:
                boxed.tensor(name)
                continue
            middle = data.draw(st.integers(0, spec.shape[1]))
            boxed.part(name, [(0, spec.shape[0]), (0, middle)])
            boxed.part(name, [(0, spec.shape[0]), (middle, spec.shape[1])])
        for other in (sliced, boxed):
            assert set(other.tallies) == set(whole.tallies)
            for name, tally in whole.tallies.items():
                np.testing.assert_array_equal(other.tallies[name], tally, err_msg=name)


def test_counting_changes_no_bit_and_counts_once(trio_dirs: dict) -> None:
    recipe = Recipe.parse(recipe_data(trio_dirs, "ties_sv", {"density": 0.4, "slack": 0.5}))
    counting, plain = MergePlan(recipe, tally=True), MergePlan(recipe)
    for (name, one), (other, two) in zip(counting.tensors(), plain.tensors(), strict=True):
        assert name == other
        assert torch.equal(one, two)
    assert plain.tallies == {}
    first = analyze(counting)  # it has counted before: these are not added to
    assert first == analyze(counting) == analyze(MergePlan(recipe, tally=True))


def test_a_plan_that_does_not_count_is_refused(trio_dirs: dict) -> None:
    with pytest.raises(AssertionError, match="tally=True"):
        analyze(MergePlan(Recipe.parse(recipe_data(trio_dirs))))


# ---- together


def test_layers_and_modules_add_up_to_the_model(trio_dirs: dict) -> None:
    recipe = Recipe.parse(recipe_data(trio_dirs, "ties_sv", {"density": 0.5, "slack": 0.3}))
    seen: list[tuple[int, int]] = []
    found = analyze(MergePlan(recipe, tally=True), lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert len(seen) == len(SHAPES)
    assert [row.name for row in found.layers] == ["before", "0", "1", "2", "after"]
    assert [row.name for row in found.modules] == ["embedding", "self_attn", "mlp", "norm"]
    assert found.model.entries == sum(int(np.prod(shape)) for shape in SHAPES.values())
    for by in BY:
        rows = found.rows(by)
        assert sum(row.conflict for row in rows) == found.model.conflict > 0
        for place, counts in enumerate(found.model.experts):
            for what in (*SHARES, "entries"):
                total = sum(getattr(row.experts[place], what) for row in rows)
                assert total == getattr(counts, what)
    for counts in found.model.experts:
        assert counts.share("trimmed") == pytest.approx(0.5, abs=0.02)
        assert 0 < counts.restored < counts.retained
        assert counts.lost > 0


def test_plain_data_are_json(trio_dirs: dict) -> None:
    recipe = Recipe.parse(recipe_data(trio_dirs, "ties", {"density": 0.5}))
    found = analyze(MergePlan(recipe, tally=True))
    data = json.loads(json.dumps(found.plain()))
    assert data["merge_method"] == "ties"
    assert data["experts"] == ["language", "reasoning"]
    assert [len(data[key]) for key in ("layers", "modules", "tensors")] == [5, 4, len(SHAPES)]
    model = data["model"]
    assert model["entries"] == found.model.entries
    own = model["experts"]["language"]
    parts = [own[what]["entries"] for what in ("retained", "lost", "trimmed", "zero")]
    assert sum(parts) == model["entries"]
    assert own["retained"]["share"] == own["retained"]["entries"] / model["entries"]
    assert 0 < model["conflict"]["share"] < 1


def test_conflicts_that_counts_do_not_tell_are_left_out(trio_dirs: dict) -> None:
    for method in ("task_arithmetic", "dare_linear", "linear"):
        parameters = {"density": 0.5} if method == "dare_linear" else {}
        recipe = Recipe.parse(recipe_data(trio_dirs, method, parameters))
        found = analyze(MergePlan(recipe, tally=True))
        assert found.model.conflict is None
        assert "conflict" not in found.plain()["model"]


def test_an_overflow_is_no_analysis(tmp_path: Path) -> None:
    base = make_model(0, dtype=torch.float16)
    dirs = {
        "base": write_checkpoint(tmp_path / "b", base),
        "language": write_checkpoint(tmp_path / "l", make_model(1, base, torch.float16, 1.0)),
        "reasoning": write_checkpoint(tmp_path / "r", make_model(2, base, torch.float16, 1.0)),
    }
    data = recipe_data(dirs, "task_arithmetic", language={"weight": 1e6})
    with pytest.raises(NonFiniteError, match="too large"):
        analyze(MergePlan(Recipe.parse(data), tally=True))


def test_copied_tensors_and_rows_outside_the_arithmetic_are_not_counted(tmp_path: Path) -> None:
    """The expert has two tokens more than base; a buffer of integers is copied."""
    base = make_model(0)
    base["model.layers.0.steps"] = torch.arange(4)
    expert = {**make_model(1, base), "model.layers.0.steps": torch.arange(4)}
    rows = SHAPES["model.embed_tokens.weight"][0]
    more = torch.ones(2, SHAPES["model.embed_tokens.weight"][1], dtype=torch.bfloat16)
    expert["model.embed_tokens.weight"] = torch.cat([expert["model.embed_tokens.weight"], more])
    tokens = [f"t{i}" for i in range(rows)]
    write_checkpoint(tmp_path / "b", base, vocab=tokens)
    write_checkpoint(tmp_path / "e", expert, vocab=[*tokens, "new", "newer"])
    data = {
        "merge_method": "ties",
        "base_model": str(tmp_path / "b"),
        "models": [
            {"model": str(tmp_path / "e"), "name": "e", "parameters": {"weight": 1, "density": 0.5}}
        ],
        "tokenizer_source": "union",
    }
    plan = MergePlan(Recipe.parse(data), tally=True)
    assert plan.specs()["model.embed_tokens.weight"].shape[0] == rows + 2
    found = analyze(plan)
    assert "model.layers.0.steps" not in {row.name for row in found.tensors}
    embedding = found.modules[0]
    assert embedding.name == "embedding"
    assert embedding.entries == rows * 8
    assert embedding.experts[0].trimmed == embedding.entries - embedding.entries // 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("gpt_neox.embed_in.weight", "embedding"),
        ("embed_out.weight", "head"),
        ("lm_head.weight", "head"),
        ("lm_head.bias", "head"),
        ("model.norm.weight", "norm"),
        ("transformer.ln_f.bias", "norm"),
        ("model.layers.3.input_layernorm.weight", "norm"),
        ("model.layers.3.post_attention_layernorm.weight", "norm"),
        ("model.layers.3.self_attn.q_norm.weight", "norm"),
        ("model.layers.3.self_attn.q_proj.bias", "self_attn"),
        ("gpt_neox.layers.3.attention.query_key_value.weight", "self_attn"),
        ("transformer.h.3.attn.c_attn.weight", "self_attn"),
        ("model.layers.3.linear_attn.in_proj.weight", "self_attn"),
        ("model.layers.3.mlp.up_proj.weight", "mlp"),
        ("model.layers.3.mlp.experts.17.down_proj.weight", "mlp"),
        ("model.layers.3.mlp.shared_expert_gate.weight", "mlp"),
        ("model.layers.3.block_sparse_moe.gate.weight", "mlp"),
        ("model.layers.3.block_sparse_moe.experts.0.w1.weight", "mlp"),
        ("model.decoder.layers.3.fc1.weight", "mlp"),
        ("model.layers.3.mixer.A_log", "other"),
        ("scale", "other"),
    ],
)
def test_kinds_from_names(name: str, expected: str) -> None:
    assert kind(name) == expected
    assert expected in KINDS
