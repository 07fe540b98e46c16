"""Unions of tokenizers are real tokenizers: `tokenizers` and transformers load them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Fast
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from merge_core.errors import VocabularyError
from merge_core.tokenizers import Tokenizer, extended

ENGLISH = ["the cat sat on the mat", "a cat and a hat", "that hat is the cat's"] * 4
THAI = ["แมวนั่งบนเสื่อ", "แมวกับหมวก", "หมวกของแมว the cat"] * 4
TEXTS = [*ENGLISH[:3], *THAI[:3], "  spaces\n<|new|> naïve"]


def byte_level_bpe() -> tuple[Fast, trainers.Trainer]:
    made = Fast(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return made, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet
    )


def metaspace_bpe() -> tuple[Fast, trainers.Trainer]:
    """As Llama 2 and Gemma: bytes for what has no piece, spaces by the normalizer."""
    made = Fast(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return made, trainers.BpeTrainer(vocab_size=340, special_tokens=pieces)


def word_piece() -> tuple[Fast, trainers.Trainer]:
    made = Fast(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    return made, trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "[CLS]"])


def word_level() -> tuple[Fast, trainers.Trainer]:
    made = Fast(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made, trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>"])


def unigram() -> tuple[Fast, trainers.Trainer]:
    made = Fast(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made, trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "<s>"], unk_token="<unk>"
    )


KINDS = {f.__name__: f for f in (byte_level_bpe, metaspace_bpe, word_piece, word_level, unigram)}


def trained(folder: Path, kind: str, texts: list[str], *added: str | AddedToken) -> Tokenizer:
    made, trainer = KINDS[kind]()
    made.train_from_iterator(texts, trainer)
    made.add_special_tokens([t for t in added if isinstance(t, str)])
    made.add_tokens([t for t in added if not isinstance(t, str)])
    if kind == "byte_level_bpe":
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
        )
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    found = Tokenizer.read(folder)
    assert found is not None
    assert found.ids == made.get_vocab(with_added_tokens=True)
    return found


def union_of(*tokenizers: Tokenizer) -> dict[str, int]:
    ids = dict(tokenizers[0].ids)
    for other in tokenizers[1:]:
        for token in sorted(other.ids, key=other.ids.__getitem__):
            ids.setdefault(token, max(ids.values()) + 1)
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_union_loads_with_every_token_at_its_id(tmp_path: Path, kind: str) -> None:
    base = trained(tmp_path / "base", kind, ENGLISH, "<|end|>")
    plain = AddedToken("<|mark|>", lstrip=True)
    expert = trained(tmp_path / "expert", kind, THAI, "<|new|>", plain)
    ids = union_of(base, expert)
    data = extended(base, [expert], ids)
    made = Fast.from_str(json.dumps(data))
    assert made.get_vocab(with_added_tokens=True) == ids
    added = {token.content: token for token in made.get_added_tokens_decoder().values()}
    assert added["<|new|>"].special
    assert not added["<|mark|>"].special
    assert added["<|mark|>"].lstrip
    assert added["<|end|>"].special
    for text in TEXTS if kind in ("byte_level_bpe", "metaspace_bpe") else ():
        numbers = made.encode(text).ids
        assert made.decode(numbers, skip_special_tokens=False).removeprefix("<s>") == text
    number = ids["<|new|>"]
    assert number in made.encode("the cat <|new|>").ids
    assert made.decode([number], skip_special_tokens=True) == ""
    # Base's file is left as it was.
    assert json.loads(base.file.read_text()) == base.data


@pytest.mark.parametrize("kind", KINDS)
def test_the_union_of_one_is_itself(tmp_path: Path, kind: str) -> None:
    base = trained(tmp_path / "base", kind, ENGLISH, "<|end|>")
    made = Fast.from_str(json.dumps(extended(base, [base], base.ids)))
    old = Fast.from_file(str(base.file))
    assert made.get_vocab() == old.get_vocab()
    for text in TEXTS:
        assert made.encode(text).ids == old.encode(text).ids


def test_the_experts_words_become_one_token(tmp_path: Path) -> None:
    """What the expert's merges are for; base's English stays as it was."""
    base = trained(tmp_path / "base", "byte_level_bpe", ENGLISH)
    expert = trained(tmp_path / "expert", "byte_level_bpe", THAI)
    made = Fast.from_str(json.dumps(extended(base, [expert], union_of(base, expert))))
    old, theirs = (Fast.from_file(str(t.file)) for t in (base, expert))
    word = "แมว"
    assert len(theirs.encode(word).ids) == len(made.encode(word).ids) < len(old.encode(word).ids)
    assert made.encode("the cat sat").ids == old.encode("the cat sat").ids


def test_holes_are_filled_and_the_id_of_base_s_added_tokens_stays(tmp_path: Path) -> None:
    """`tokenizers` would count their ids anew from the size of the vocabulary."""
    base = trained(tmp_path / "base", "word_level", ENGLISH, "<|end|>")
    end = base.ids["<|end|>"]
    ids = {**base.ids, "x": end + 3, "y": end + 1}
    expert = trained(tmp_path / "expert", "word_level", ["x y"])
    made = Fast.from_str(json.dumps(extended(base, [expert], ids)))
    assert [made.token_to_id(t) for t in ("<|end|>", "x", "y")] == [end, end + 3, end + 1]


def test_pieces_keep_their_scores_and_have_no_holes(tmp_path: Path) -> None:
    base = trained(tmp_path / "base", "unigram", ENGLISH, "<|end|>")
    expert = trained(tmp_path / "expert", "unigram", THAI)
    ids = union_of(base, expert)
    scores = dict(extended(base, [expert], ids)["model"]["vocab"])
    own = dict(base.data["model"]["vocab"])
    assert scores.items() >= own.items()
    assert min(scores.values()) == min(own.values())
    with pytest.raises(VocabularyError, match="no holes: a union cannot be made"):
        extended(base, [expert], {**ids, "far": max(ids.values()) + 2})


def test_merges_keep_the_spelling_of_base_unless_it_cannot_hold_them(tmp_path: Path) -> None:
    def bpe(vocab: str, merges: list) -> Tokenizer:
        ids = {token: number for number, token in enumerate(vocab.split("|"))}
        data = {"model": {"type": "BPE", "vocab": ids, "merges": merges}}
        return Tokenizer(tmp_path, data, ids)

    base = bpe("a|b|ab", ["a b"])
    ids = {"a": 0, "b": 1, "ab": 2, "c": 3, "ac": 4}
    assert extended(base, [bpe("a|c|ac", [["a", "c"]])], ids)["model"]["merges"] == ["a b", "a c"]
    spaced = bpe("a| b|a b", [["a", " b"]])
    found = extended(base, [spaced], {**base.ids, " b": 3, "a b": 4})
    assert found["model"]["merges"] == [["a", "b"], ["a", " b"]]
    assert len(Fast.from_str(json.dumps(found)).encode("a b").ids) == 1


CLASSES = {
    "PreTrainedTokenizerFast": "byte_level_bpe",
    "Qwen2Tokenizer": "byte_level_bpe",
    "GPT2Tokenizer": "byte_level_bpe",
    "LlamaTokenizer": "metaspace_bpe",
    "BertTokenizer": "word_piece",
    "XLMRobertaTokenizer": "unigram",
}


@pytest.mark.parametrize("name", CLASSES)
def test_transformers_loads_a_union(tmp_path: Path, name: str) -> None:
    """Of the class that base's settings name, which may build its model from the vocabulary."""
    base = trained(tmp_path / "base", CLASSES[name], ENGLISH, "<|end|>")
    expert = trained(tmp_path / "expert", CLASSES[name], THAI, "<|new|>")
    ids = union_of(base, expert)
    PreTrainedTokenizerFast(
        tokenizer_file=str(base.file), eos_token="<|end|>", pad_token="<|end|>"
    ).save_pretrained(tmp_path / "out")
    settings = tmp_path / "out" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": name}))
    (tmp_path / "out" / "tokenizer.json").write_text(json.dumps(extended(base, [expert], ids)))
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert {token: loaded.convert_tokens_to_ids(token) for token in ids} == ids
    assert loaded.eos_token_id == ids["<|end|>"]
    assert ids["<|new|>"] in loaded("the cat <|new|>")["input_ids"]
