"""Vocabularies that differ: which rows belong together, by token string."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core import (
    Checkpoint,
    CheckpointError,
    MergePlan,
    Recipe,
    Sources,
    VocabularyError,
    write_merge,
)
from merge_core.tokenizers import Tokenizer
from merge_core.vocabulary import Alignment, align
from tests.merge_core.conftest import CONFIG, SHAPES, make_model, recipe_data, write_checkpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def tokenizer_data(vocab: Mapping[str, int], added: Mapping[str, int] = {}, **model) -> dict:
    return {
        "model": {"type": "WordLevel", "vocab": dict(vocab), **model},
        "added_tokens": [
            {"id": number, "content": token, "special": True} for token, number in added.items()
        ],
    }


def write_model(
    path: Path,
    vocab: Mapping[str, int] | dict | None,
    rows: int = 23,
    config: Mapping = {},
    **tensors: torch.Tensor,
) -> Path:
    """A checkpoint with `rows` rows; `vocab` is token to id, a whole tokenizer.json, or None."""
    model = make_model(1)
    model[EMBEDDING] = torch.arange(rows * 8).reshape(rows, 8).bfloat16()
    write_checkpoint(path, {**model, **tensors}, {**CONFIG, **config})
    if vocab is None:
        (path / "tokenizer.json").unlink()
    else:
        data = vocab if "model" in vocab else tokenizer_data(vocab)
        (path / "tokenizer.json").write_text(json.dumps(data))
    return path


def numbered(text: str, start: int = 0) -> dict[str, int]:
    return {token: index for index, token in enumerate(text.split(), start)}


def aligned(root: Path, *vocabularies, source: str = "base", rows=None, base: bool = True):
    """The alignment of models with these vocabularies, the first of them base."""
    rows = rows or [23] * len(vocabularies)
    checkpoints = [
        Checkpoint.open(str(write_model(root / f"m{i}", vocab, count)))
        for i, (vocab, count) in enumerate(zip(vocabularies, rows, strict=True))
    ]
    names = [f"e{i}" for i in range(len(checkpoints) - base)]
    return align(checkpoints[0] if base else None, checkpoints[base:], source, names)


# ---- nothing to align


@pytest.mark.parametrize("source", ["base", "union", "model:e1"])
def test_same_vocabularies_need_no_alignment(tmp_path: Path, source: str) -> None:
    """Rows without a token are merged like all others then."""
    same = numbered("a b c")
    assert aligned(tmp_path, same, same, same, source=source) is None


def test_weights_alone_share_the_others_vocabulary(tmp_path: Path) -> None:
    assert aligned(tmp_path, numbered("a b"), None, numbered("a b")) is None
    assert aligned(tmp_path, None, numbered("a b"), numbered("a b")) is None
    assert aligned(tmp_path, None, None) is None
    found = aligned(tmp_path, numbered("a b"), None, numbered("b a"))
    assert found.rows[0] is None
    assert found.rows[1].tolist() == [1, 0]


def test_pieces_and_added_tokens_are_the_vocabulary(tmp_path: Path) -> None:
    pieces = {"model": {"vocab": [["a", 0.0], ["b", -1.0]]}, "added_tokens": []}
    assert aligned(tmp_path, numbered("a b"), pieces) is None
    listed = {**pieces, "added_tokens": [{"id": 7, "content": "<s>", "special": True}]}
    found = aligned(tmp_path, pieces, listed, source="union")
    assert found.ids == {"a": 0, "b": 1, "<s>": 7}


# ---- who is merged with whom


def test_permuted_ids(tmp_path: Path) -> None:
    base, expert = numbered("a b c", 2), numbered("c a b")
    found = aligned(tmp_path, base, expert, base)
    assert found.core.tolist() == [2, 3, 4]
    assert [None if r is None else r.tolist() for r in found.rows] == [[1, 2, 0], None]
    assert found.output.tolist() == [-1, -2, 0, 1, 2, *range(-3, -21, -1)]
    assert found.extras[0] == ((0, 0),)
    assert found.extras[2] == ((0, 5),)
    assert found.ids == base
    assert found.source == 0


def test_added_tokens_are_dropped_by_base_and_owned_in_the_union(tmp_path: Path) -> None:
    base, one = numbered("a b c"), numbered("a b c x y")
    found = aligned(tmp_path, base, one, base, rows=[3, 5, 3])
    assert found.rows == (None, None)
    assert found.output.tolist() == [0, 1, 2]
    assert found.extras == ()
    union = aligned(tmp_path, base, one, base, rows=[3, 5, 3], source="union")
    assert union.output.tolist() == [0, 1, 2, -1, -2]
    assert union.extras == (((1, 3),), ((1, 4),))
    assert union.source == 1
    assert union.tokenizer is None
    both = aligned(tmp_path, base, one, numbered("y a b c x"), rows=[3, 5, 5], source="union")
    assert both.extras == (((1, 3), (2, 4)), ((1, 4), (2, 0)))
    assert both.source == 1  # the first of those that have all


def test_the_rows_of_a_dropped_base_token_stay_in_the_core(tmp_path: Path) -> None:
    """What is trimmed of base's tokens does not hang on the vocabulary of the merge."""
    base, one = numbered("a b c"), numbered("c a x")
    found = aligned(tmp_path, base, one, source="model:e0", rows=[3, 4])
    assert found.core.tolist() == [0, 1, 2]
    assert found.rows[0].tolist() == [1, -1, 0]
    assert found.output.tolist() == [2, 0, -1, -2]
    assert found.extras == (((1, 2),), ((1, 3),))
    assert [found.renumbered(row) for row in range(4)] == [1, None, 0, None]


def test_a_union_that_nobody_has_fills_padding_first(tmp_path: Path) -> None:
    base = {"a": 0, "b": 2}
    found = aligned(
        tmp_path, base, numbered("b x y"), numbered("a z x w"), rows=[4, 3, 4], source="union"
    )
    assert found.ids == {"a": 0, "b": 2, "x": 1, "y": 3, "z": 4, "w": 5}
    assert found.output.tolist() == [0, -1, 1, -2, -3, -4]
    assert found.extras == (((1, 1), (2, 2)), ((1, 2),), ((2, 1),), ((2, 3),))
    assert found.source == 0
    assert found.tokenizer["model"]["vocab"] == found.ids
    assert [found.renumbered(row) for row in range(4)] == [0, 1, 2, 3]


def test_padding_alone(tmp_path: Path) -> None:
    """One vocabulary, padded by some trainers to other numbers of rows."""
    same = numbered("a b")
    found = aligned(tmp_path, same, same, rows=[2, 4])
    assert (found.output.tolist(), found.extras) == ([0, 1], ())
    found = aligned(tmp_path, same, same, rows=[2, 4], source="model:e0")
    assert (found.output.tolist(), found.extras) == ([0, 1, -1, -2], (((1, 2),), ((1, 3),)))
    found = aligned(tmp_path, same, same, rows=[3, 2], source="union")
    assert (found.output.tolist(), found.extras) == ([0, 1, -1], (((0, 2),),))


def test_without_base_the_first_expert_plays_its_part(tmp_path: Path) -> None:
    found = aligned(tmp_path, numbered("a b"), numbered("b a x"), base=False)
    assert [None if r is None else r.tolist() for r in found.rows] == [None, [1, 0]]
    found = aligned(tmp_path, numbered("a b"), numbered("b a x"), base=False, source="model:e1")
    assert found.source == 1
    assert found.output[:3].tolist() == [1, 0, -1]
    assert found.extras[0] == ((1, 2),)


VOCABULARIES = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True).flatmap(
    lambda tokens: st.permutations(range(len(tokens) + 2)).map(
        lambda rows: dict(zip(tokens, rows, strict=False))
    )
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    vocabularies=st.lists(VOCABULARIES, min_size=2, max_size=4),
    source=st.sampled_from(["base", "union", "model:e0"]),
    with_base=st.booleans(),
)
def test_every_row_of_the_merge_is_its_tokens(vocabularies, source, with_base) -> None:
    rows = [max(vocab.values()) + 2 for vocab in vocabularies]
    with TemporaryDirectory() as root:
        found = aligned(Path(root), *vocabularies, source=source, rows=rows, base=with_base)
    if found is None:
        assert all(vocab == vocabularies[0] for vocab in vocabularies)
        return
    assert_consistent(found, vocabularies, rows, len(vocabularies) - with_base)
    tokens = set().union(*vocabularies)
    if source == "base":
        assert found.ids == vocabularies[0]
    elif source == "union":
        assert set(found.ids) == tokens
        whole = [v for v in vocabularies if set(v) == tokens]
        if whole:
            assert found.ids == whole[0]
        else:
            assert found.ids.items() >= vocabularies[0].items()
    else:
        assert found.ids == vocabularies[with_base]
    if found.tokenizer is None:
        assert (len(found.output), found.ids) == (rows[found.source], vocabularies[found.source])
    else:
        assert Tokenizer(Path(), found.tokenizer, {}).kind == "WordLevel"


def assert_consistent(found: Alignment, vocabularies: list, rows: list, experts: int) -> None:
    """What the docstring of Alignment says, token by token."""
    base = vocabularies[0]
    names = {row: token for token, row in base.items()}
    assert found.core.tolist() == sorted(names)
    for expert, own in zip(vocabularies[-experts:], found.rows, strict=True):
        expected = [expert.get(names[row], -1) for row in sorted(names)]
        assert (found.core if own is None else own).tolist() == expected
    tokens = {row: token for token, row in found.ids.items()}
    assert len(tokens) == len(found.ids)
    for row, code in enumerate(found.output.tolist()):
        token = tokens.get(row)
        if code >= 0:
            assert names[found.core[code]] == token
            assert found.source == 0 or found.renumbered(int(found.core[code])) == row
        elif token is None:
            assert found.extras[-1 - code] == ((found.source, row),)
            assert row < rows[found.source]
        else:
            assert token not in base
            owners = tuple((i, v[token]) for i, v in enumerate(vocabularies) if token in v)
            assert found.extras[-1 - code] == owners != ()
    assert sorted(-1 - code for code in found.output.tolist() if code < 0) == list(
        range(len(found.extras))
    )


# ---- the report


def test_the_report_names_what_differs(tmp_path: Path) -> None:
    base, one = numbered("a b c d"), numbered("b a c v w x y z")
    found = aligned(tmp_path, base, one, base, rows=[4, 9, 4])
    assert found.report() == [
        "vocabulary of the merge: base's; 4 tokens, 4 rows",
        "  e0: adds 5 tokens ('v', 'w', 'x', ..., 5 of them not in the merge); lacks 1 of base's "
        "('d'); has 2 tokens at other ids ('b' 1 -> 0, 'a' 0 -> 1); has 9 rows where base has 4",
        "  e1: the same tokens as base",
    ]
    found = aligned(tmp_path, base, one, base, rows=[4, 9, 4], source="model:e0")
    assert found.report()[0] == (
        "vocabulary of the merge: e0's; 8 tokens, 9 rows, 1 without a token: e0's bits"
    )
    found = aligned(tmp_path, base, one, base, rows=[4, 9, 4], source="union")
    assert found.report()[0] == (
        "vocabulary of the merge: base's with 5 tokens of the experts added; 9 tokens, 9 rows"
    )


# ---- what cannot be aligned


def bpe(vocab: str, **parts: object) -> dict:
    return {"model": {"type": "BPE", "vocab": numbered(vocab), "merges": []}, **parts}


BYTES = {"pre_tokenizer": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"}}
LLAMA = {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace", "content": "▁"}]}}
ERRORS = {
    "types": (bpe("a b"), numbered("a x"), None, "m1/tokenizer.json: is a WordLevel tokenizer"),
    "spelling": (bpe("a b", **BYTES), bpe("a c", **LLAMA), None, "is a metaspace BPE tokenizer, "),
    "old files": (bpe("a b"), {"model": {"vocab": [["a", 0]]}}, None, "is a Unigram tokenizer"),
    "no tokenizer, other rows": (
        numbered("a"),
        None,
        [3, 5],
        "m1: has no tokenizer.json, and its model.embed_tokens.weight has 5 rows where",
    ),
    "no base tokenizer, other rows": (None, numbered("a"), [3, 5], "m0: has no tokenizer.json"),
    "ids beyond": (
        numbered("a b"),
        numbered("a c x y z w"),
        [3, 2],
        "m1/tokenizer.json: 4 tokens have ids beyond the 2 rows",
    ),
    "ids beyond, named": (numbered("a b c"), numbered("a b"), [2, 2], "m0 (model.embed_tokens.w"),
    "one id twice": (
        numbered("a b"),
        {"a": 0, "b": 1, "c": 1},
        None,
        "m1/tokenizer.json: tokens 'b' and 'c' are duplicates: both have id 1",
    ),
    "one piece twice": (
        {"model": {"vocab": [["a", 0], ["b", 0]]}},
        {"model": {"vocab": [["a", 0], ["b", 0], ["a", 0]]}},
        None,
        "m1/tokenizer.json: token 'a' has duplicates",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_vocabularies_that_cannot_be_aligned(tmp_path: Path, case: str) -> None:
    base, expert, rows, message = ERRORS[case]
    with pytest.raises(VocabularyError) as caught:
        aligned(tmp_path, base, expert, rows=rows)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_experts_differ_and_base_has_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"m0: has no tokenizer\.json, and those of the"):
        aligned(tmp_path, None, numbered("a b"), numbered("b a"))


# ---- the sources


def open_sources(root: Path, models: Mapping[str, Path], source: str = "base") -> Sources:
    return Sources.open(Recipe.parse(recipe_data(models) | {"tokenizer_source": source}))


@pytest.fixture
def untied(tmp_path: Path) -> dict[str, Path]:
    """Base, an expert with two more tokens, one with a permuted vocabulary; own heads."""
    head = {"tie_word_embeddings": False}
    made = {}
    for name, vocab in (("base", "a b c"), ("language", "a b c x y"), ("reasoning", "c b a")):
        rows = len(vocab.split())
        made[name] = write_model(
            tmp_path / name,
            numbered(vocab),
            rows,
            head,
            **{HEAD: torch.ones(rows, 8), "lm_head.bias": torch.ones(rows)},
        )
    return made


def test_sources_have_the_rows_of_the_merge(untied: dict, tmp_path: Path) -> None:
    sources = open_sources(tmp_path, untied)
    assert sources.vocabulary_tensors == {EMBEDDING, HEAD, "lm_head.bias"}
    assert sources.alignment.rows[1].tolist() == [2, 1, 0]
    assert [sources.specs[n].shape for n in (EMBEDDING, HEAD, "lm_head.bias")] == [
        *[(3, 8)] * 2,
        (3,),
    ]
    union = open_sources(tmp_path, untied, "union")
    assert [union.specs[n].shape for n in (EMBEDDING, HEAD, "lm_head.bias")] == [
        *[(5, 8)] * 2,
        (5,),
    ]
    assert union.specs["model.norm.weight"].shape == SHAPES["model.norm.weight"]


def test_a_head_that_some_share_has_the_rows_of_the_merge_too(tmp_path: Path) -> None:
    own = {"config": {"tie_word_embeddings": False}, HEAD: torch.ones(5, 8)}
    models = {
        "base": write_model(tmp_path / "base", numbered("a b c"), 3),
        "language": write_model(tmp_path / "language", numbered("c x b y a"), 5, **own),
        "reasoning": write_model(tmp_path / "reasoning", numbered("a b c"), 4),
    }
    sources = open_sources(tmp_path, models, "union")
    assert sources.untied
    assert sources.specs[HEAD].shape == sources.specs[EMBEDDING].shape == (5, 8)


def test_columns_must_agree(untied: dict, tmp_path: Path) -> None:
    write_model(
        untied["language"],
        numbered("a b c x y"),
        5,
        {"tie_word_embeddings": False},
        **{HEAD: torch.ones(5, 9), "lm_head.bias": torch.ones(5)},
    )
    with pytest.raises(CheckpointError, match=r"tensor lm_head.weight has shape \[5, 9\], in"):
        open_sources(tmp_path, untied)


def test_heads_of_another_name_are_not_merged_by_row(tmp_path: Path) -> None:
    config = {"tie_word_embeddings": False}
    models = {
        name: write_model(
            tmp_path / name, numbered(vocab), 11, config, **{"model.to_logits": torch.ones(11, 8)}
        )
        for name, vocab in (("base", "a b"), ("language", "b a"), ("reasoning", "a b"))
    }
    with pytest.raises(VocabularyError, match=r"whether the 11 rows of model\.to_logits are"):
        open_sources(tmp_path, models)


def test_rows_that_differ_within_one_source(untied: dict, tmp_path: Path) -> None:
    write_model(
        untied["base"],
        numbered("a b c"),
        3,
        {"tie_word_embeddings": False},
        **{HEAD: torch.ones(4, 8), "lm_head.bias": torch.ones(4)},
    )
    with pytest.raises(VocabularyError, match=r"different numbers of rows \(lm_head.bias has 4, "):
        open_sources(tmp_path, untied)


def test_the_name_of_a_merge_tells_vocabularies_apart(untied: dict, tmp_path: Path) -> None:
    """The same weights with their tokens at other ids are another merge."""
    names = []
    for vocab in ("a b c x y", "b a c x y"):
        data = tokenizer_data(numbered(vocab))
        (untied["language"] / "tokenizer.json").write_text(json.dumps(data))
        names.append(MergePlan(Recipe.parse(recipe_data(untied))).fingerprint())
    assert names[0] != names[1]


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_added_tokens(tmp_path: Path) -> None:
    """Its embedding replaces base's, its tokenizer says which rows are new."""
    from tests.merge_core.test_adapters import base_model, train

    base = base_model(tmp_path / "base", tied=True)
    lora = train(base, tmp_path / "lora", rows=44)
    tokens = [f"t{number}" for number in range(44)]
    for path, count in ((base, 41), (lora, 44)):
        vocab = {token: number for number, token in enumerate(tokens[:count])}
        (path / "tokenizer.json").write_text(json.dumps(tokenizer_data(vocab)))
    models = {"base": base, "language": Path(f"{base}+{lora}"), "reasoning": base}
    data = recipe_data(models, "task_arithmetic", language={"weight": 1.0})
    plan = MergePlan(Recipe.parse(data | {"tokenizer_source": "union"}))
    language = plan.sources.experts[0]
    merged = plan.tensor(EMBEDDING)
    assert merged.shape == (44, 16)
    assert torch.equal(merged[41:], language.tensor(EMBEDDING)[41:].to(merged.dtype))
    delta = language.tensor(EMBEDDING)[:41].float() - plan.sources.base.tensor(EMBEDDING).float()
    expected = plan.sources.base.tensor(EMBEDDING).float() + delta
    assert torch.equal(merged[:41], expected.to(merged.dtype))
    write_merge(plan, tmp_path / "out")
    tokenizer = (lora / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == tokenizer
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 44


def test_rows_are_64_bit(tmp_path: Path) -> None:
    found = aligned(tmp_path, numbered("a b"), numbered("b a"))
    assert {found.core.dtype, found.output.dtype, found.rows[0].dtype} == {np.dtype(np.int64)}
