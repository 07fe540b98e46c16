"""Merges of models with different vocabularies, against the reference on rows in base's order."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import merge_core.plan
import merge_core.reading
from merge_core import MergePlan, NonFiniteError, Recipe, Sources
from merge_core.arithmetic import pair_products
from merge_core.methods import METHODS
from tests.merge_core.conftest import CONFIG, merged_by, write_checkpoint
from tests.merge_core.method_suite import NAMES, bits, cases, referenced, write
from tests.merge_core.test_parts import recipe_of

EMBEDDING = NAMES[0]
TIED = {**CONFIG, "num_hidden_layers": 2}
UNCOUNTED = ("linear", "task_arithmetic", "dare_linear", "dare_ties", "della_linear", "della")
"""Methods for which rows without a difference are as if they were not there."""


def tokens_of(path: Path, vocab: dict[str, int]) -> None:
    data = {"model": {"type": "WordLevel", "vocab": vocab}, "added_tokens": []}
    (path / "tokenizer.json").write_text(json.dumps(data))


def renamed(
    rng: np.random.Generator, rows: torch.Tensor, base: torch.Tensor
) -> tuple[dict[str, int], torch.Tensor, torch.Tensor]:
    """An expert that lacks some of base's tokens, has others, and keeps all where it likes.

    Its vocabulary, its rows, and what they are in base's order (base's row where it lacks one).
    """
    count = len(rows)
    kept = [i for i in range(count) if rng.random() < 0.7]
    added = [f"new{i}" for i in range(4) if rng.random() < 0.5]
    places = rng.permutation(len(kept) + len(added) + 2)  # two rows carry no token
    stored = torch.full((len(places), *rows.shape[1:]), 0.25, dtype=rows.dtype)
    vocab, inside = {}, base.to(rows.dtype).clone()
    for place, token in zip(places.tolist(), [*kept, *added], strict=False):
        if isinstance(token, int):
            vocab[f"t{token}"] = place
            stored[place] = inside[token] = rows[token]
        else:
            vocab[token] = place
            stored[place] = torch.from_numpy(rng.normal(0, 1, rows.shape[1:])).to(rows.dtype)
    return vocab, stored, inside


@pytest.mark.parametrize("method", METHODS)
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_rows_merge_by_token_as_the_reference_does(method: str, data: st.DataObject) -> None:
    recipe_data, base, experts = data.draw(cases(method, max_experts=2))
    assume(base[EMBEDDING].dim() == 2)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    count, own = len(base[EMBEDDING]), base[EMBEDDING]
    # Holes between base's tokens do not count; where counting plays no part, j shows all the same.
    step = data.draw(st.sampled_from([1, 2])) if method in UNCOUNTED else 1
    at = torch.arange(count) * step
    whole = torch.full((count * step + 3, own.shape[1]), -7.0, dtype=own.dtype)
    whole[at] = own
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, {**base, EMBEDDING: whole}, experts)
        names = {f"t{i}": row for i, row in enumerate(at.tolist())}
        tokens_of(root / "base", names)
        ordered, vocabularies, rows = [], [], []
        for index, expert in enumerate(experts):
            if recipe_data["models"][index]["model"] == "base":  # slerp names base as a model
                ordered.append(base)
                vocabularies.append(names)
                rows.append(whole)
                continue
            vocab, stored, inside = renamed(rng, expert[EMBEDDING], own)
            save_file({**expert, EMBEDDING: stored}, root / f"expert-{index}/model.safetensors")
            tokens_of(root / f"expert-{index}", vocab)
            spread = whole.to(inside.dtype).clone()
            spread[at] = inside
            ordered.append({**expert, EMBEDDING: inside if step == 1 else spread})
            vocabularies.append(vocab)
            rows.append(stored)
        stored_base = base if step == 1 else {**base, EMBEDDING: whole}
        expected = referenced(recipe_data, stored_base, ordered)
        source = data.draw(st.sampled_from(["base", "union"]))
        plan = MergePlan(Recipe.parse(recipe_data | {"tokenizer_source": source}).resolved(root))
        assert plan.sources.alignment is not None
        tile = data.draw(st.sampled_from([1, 40, 1 << 22]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(merge_core.plan, "TILE", tile)
            patch.setattr(merge_core.reading, "TILE", tile)
            merged = plan.tensor(EMBEDDING)
        for name in NAMES[1:]:
            np.testing.assert_array_equal(bits(plan.tensor(name)), bits(expected[name]))
        weights = plan.recipe.settings_for(EMBEDDING, 0.0).weights
        for token, row in plan.sources.vocabulary.items():
            if token.startswith("t"):
                want = expected[EMBEDDING][int(token[1:]) * step]
                np.testing.assert_array_equal(bits(merged[row]), bits(want))
                continue
            owners = [i for i, vocab in enumerate(vocabularies) if token in vocab]
            values = [rows[i][vocabularies[i][token]].to(merged.dtype) for i in owners]
            if len(owners) == 1:
                np.testing.assert_array_equal(bits(merged[row]), bits(values[0]))
            elif abs(sum(weights)) > 0.1:
                mean = sum(w * v.double() for w, v in zip(weights, values, strict=True))
                torch.testing.assert_close(
                    merged[row].double(), mean / sum(weights), rtol=0.02, atol=0.02
                )
        # A slice is the slice of the whole, wherever it is cut.
        numel = merged.numel()
        start = data.draw(st.integers(0, numel))
        stop = data.draw(st.integers(start, numel))
        part = plan.elements(EMBEDDING, start, stop)
        np.testing.assert_array_equal(bits(part), bits(merged.reshape(-1)[start:stop]))


def pair_of(folder: Path, base: torch.Tensor, expert: torch.Tensor, **recipe: object) -> Recipe:
    """A base of tokens t0 to tn, and an expert that has other ids for some, as `recipe` says."""
    rest = {name: torch.ones(2, 2) for name in NAMES[1:]}
    write(folder, {**rest, EMBEDDING: base}, [{**rest, EMBEDDING: expert}])
    tokens_of(folder / "base", {f"t{i}": i for i in range(len(base))})
    return Recipe.parse({"base_model": "base", **recipe}).resolved(folder)


@pytest.mark.parametrize("tile", [16, 80, 1 << 22])
def test_slerp_of_an_expert_in_another_dtype_that_lacks_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile: int
) -> None:
    """Tiles with rows of base's are float32, the others bfloat16: both are one sum."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(30, 8, generator=generator)
    expert = torch.randn(30, 8, generator=generator).bfloat16()
    models = [{"model": "base"}, {"model": "expert-0"}]
    settings = {"merge_method": "slerp", "models": models, "parameters": {"t": 0.4}}
    recipe = pair_of(tmp_path, base, expert, **settings)
    tokens_of(tmp_path / "expert-0", {f"t{i}": i for i in range(30) if not 20 <= i < 25})
    monkeypatch.setattr(merge_core.reading, "TILE", tile)
    inside = expert.float()
    inside[20:25] = base[20:25]
    found = Sources.open(recipe).facts.products(EMBEDDING)
    assert found == pair_products(base.reshape(-1).numpy(), inside.reshape(-1).numpy())


def test_a_copied_row_that_overflows_is_no_merge(tmp_path: Path) -> None:
    """What float16 cannot hold is the recipe's fault, in rows outside the arithmetic too."""
    base, expert = torch.ones(3, 4), torch.cat([torch.ones(3, 4), torch.full((1, 4), 1e5)])
    settings = {
        "merge_method": "task_arithmetic",
        "models": [{"model": "expert-0", "parameters": {"weight": 1.0}}],
        "tokenizer_source": "union",
        "dtype": "float16",
    }
    recipe = pair_of(tmp_path, base, expert, **settings)
    tokens_of(tmp_path / "expert-0", {f"t{i}": i for i in range(4)})
    with pytest.raises(NonFiniteError, match="4 of 16 merged entries"):
        MergePlan(recipe).tensor(EMBEDDING)


@pytest.mark.parametrize("tile", [7, 1 << 22])
@pytest.mark.parametrize("method", METHODS)
def test_a_bias_of_the_head_at_other_ids_merges_as_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, tile: int
) -> None:
    """It has one axis: one row of ranks for DELLA, although each entry is a token's."""
    generator = torch.Generator().manual_seed(0)
    bias, count = "lm_head.bias", 40
    tokens = np.array([f"t{i}" for i in range(count)])
    models = []
    for index in range(3):
        models.append({EMBEDDING: torch.randn(count, 4, generator=generator)})
        models[index] |= {bias: torch.randn(count, generator=generator)}
        models[index] |= {name: torch.ones(2, 2) for name in NAMES[1:]}
        write_checkpoint(tmp_path / f"m{index}", models[index], TIED, tokens)
    plain = merged_by(MergePlan(recipe_of(tmp_path, method)))
    order = torch.randperm(count, generator=generator)
    moved = {name: models[1][name][order] for name in (EMBEDDING, bias)}
    write_checkpoint(tmp_path / "m1", {**models[1], **moved}, TIED, tokens[order])
    monkeypatch.setattr(merge_core.plan, "TILE", tile)
    monkeypatch.setattr(merge_core.reading, "TILE", tile)
    plans = [MergePlan(recipe_of(tmp_path, method)) for _ in range(2)]
    plans[1].sources.facts.keep(tmp_path / "prepared", plans[1].sources.digests())
    for plan in plans:
        assert plan.sources.alignment is not None
        merged = merged_by(plan)
        for name in plain:
            np.testing.assert_array_equal(bits(merged[name]), bits(plain[name]), err_msg=name)
        part = plan.elements(bias, 5, 33)
        np.testing.assert_array_equal(bits(part), bits(plain[bias][5:33]))
