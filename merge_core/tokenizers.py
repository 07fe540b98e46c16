"""Tokenizers of the sources: tokenizer.json read, compared and extended, none of their code run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.errors import CheckpointError, VocabularyError
from merge_core.yaml_io import one_line

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""What stands beside a tokenizer.json and holds no vocabulary of its own."""
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    *SETTINGS_FILES,
    "tokenizer.model",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
"""What belongs to a tokenizer in a model folder, copied together from one source."""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """One tokenizer.json.

    Attributes:
        file: where it lies.
        data: what it says.
        ids: token strings to ids, added tokens included.
    """

    file: Path
    data: Mapping[str, Any]
    ids: Mapping[str, int]

    @classmethod
    def read(cls, folder: Path) -> Tokenizer | None:
        """The tokenizer of a model folder; None if it has no tokenizer.json.

        Raises:
            CheckpointError: tokenizer.json cannot be read.
        """
        file = folder / TOKENIZER_FILE
        if not file.is_file():
            return None
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            vocab = data["model"]["vocab"]
            pieces = vocab if isinstance(vocab, dict) else {p[0]: i for i, p in enumerate(vocab)}
            ids = {**pieces, **{t["content"]: t["id"] for t in data.get("added_tokens") or ()}}
            for token, number in ids.items():
                if type(number) is not int or number < 0:
                    raise ValueError(f"the id of token {token!r} is {number!r}")
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
            RecursionError,
        ) as error:
            raise CheckpointError(f"{file}: is no tokenizer file: {one_line(error)}") from error
        return cls(file, data, ids)

    @property
    def kind(self) -> str:
        """Model type and how its strings spell spaces and bytes, as in "byte-level BPE".

        Tokens of different kinds do not mean the same text by the same string.
        """
        types = set()
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            for node in _nodes(self.data.get(part)):
                types.add(node.get("type"))
                if node.get("type") == "Replace" and node.get("content") == "\u2581":
                    types.add("Metaspace")  # as Llama's and Gemma's normalizers spell it
        spelling = {"ByteLevel": "byte-level ", "Metaspace": "metaspace "}
        return next((s for t, s in spelling.items() if t in types), "") + self._model

    @property
    def _model(self) -> str:
        model = self.data["model"]
        if "type" in model:
            return str(model["type"])
        if isinstance(model["vocab"], list):  # old files do not name their type
            return "Unigram"
        if "merges" in model:
            return "BPE"
        return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"

    def check(self, rows: int, tensor: str) -> None:
        """Raise VocabularyError unless every token has a row of `tensor` to itself."""
        beyond = [token for token, number in self.ids.items() if number >= rows]
        if beyond:
            raise VocabularyError(
                f"{self.file}: {len(beyond)} tokens have ids beyond the {rows} rows of {tensor}: "
                f"{named(beyond)}; give the model the tokenizer it was trained with"
            )
        seen: dict[int, str] = {}
        for token, number in self.ids.items():
            if number in seen:
                raise VocabularyError(
                    f"{self.file}: tokens {seen[number]!r} and {token!r} are duplicates: both "
                    f"have id {number}, so rows cannot be told by token; take one of them out"
                )
            seen[number] = token
        vocab = self.data["model"]["vocab"]
        if isinstance(vocab, list) and len({piece[0] for piece in vocab}) < len(vocab):
            pieces = [piece[0] for piece in vocab]
            twice = next(p for i, p in enumerate(pieces) if p in pieces[:i])
            raise VocabularyError(
                f"{self.file}: token {twice!r} has duplicates in the list of pieces: "
                "which of its rows is meant is not known"
            )


def named(tokens: Sequence[str], count: int = 3) -> str:
    """The first tokens of a list, quoted."""
    return ", ".join(map(repr, tokens[:count])) + (", ..." if len(tokens) > count else "")


def extended(
    base: Tokenizer, others: Sequence[Tokenizer], ids: Mapping[str, int]
) -> dict[str, Any]:
    """Base's tokenizer.json with the tokens it lacks, at the ids given, taken from `others`.

    Every token stands in the model's own vocabulary, because `tokenizers` counts the ids of added
    tokens that do not from its size, whatever the file says. Merges of `others` that base lacks
    follow base's. Pieces keep the score of the first of `others` that has them.

    Args:
        base: what is extended; its own ids stay.
        others: of base's kind, in the order in which they are asked.
        ids: every token of the result, base's among them.

    Raises:
        VocabularyError: pieces are numbered by their place in a list, and `ids` has holes.
    """
    data: dict[str, Any] = json.loads(json.dumps(base.data))
    model = data["model"]
    new = [token for token in sorted(ids, key=ids.__getitem__) if token not in base.ids]
    if isinstance(model["vocab"], list):
        model["vocab"] = _pieces(base, others, ids)
    else:
        model["vocab"] = {token: ids[token] for token in sorted(ids, key=ids.__getitem__)}
    if "merges" in model:
        model["merges"] = _merges([base, *others])
    added: dict[str, Any] = {}
    for other in others:
        for entry in other.data.get("added_tokens") or ():
            added.setdefault(entry["content"], entry)
    data["added_tokens"] = [
        *(data.get("added_tokens") or ()),
        *({**added[token], "id": ids[token]} for token in new if token in added),
    ]
    data["added_tokens"].sort(key=lambda entry: entry["id"])
    return data


def _pieces(
    base: Tokenizer, others: Sequence[Tokenizer], ids: Mapping[str, int]
) -> list[list[Any]]:
    own = base.data["model"]["vocab"]
    # Added tokens are found before pieces are; the lowest score keeps them out of plain text and
    # leaves the score of unknown characters (lowest less 10) as it is.
    lowest = min((score for _, score in own), default=0.0)
    scores: dict[str, float] = {}
    for tokenizer in (base, *others):
        for piece, score in tokenizer.data["model"]["vocab"]:
            scores.setdefault(piece, score)
    by_id = {number: token for token, number in ids.items()}
    pieces = [list(piece) for piece in own]
    for number in range(len(own), max(ids.values(), default=-1) + 1):
        if number not in by_id:
            raise VocabularyError(
                f"{base.file}: id {number} has no token, and a Unigram vocabulary has no holes: "
                "a union cannot be made; take tokenizer_source base or model:<name>"
            )
        pieces.append([by_id[number], max(lowest, scores.get(by_id[number], lowest))])
    return pieces


def _merges(tokenizers: Sequence[Tokenizer]) -> list[Any]:
    def pair(merge: Any) -> tuple[str, ...]:
        return tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)

    lists = [tokenizer.data["model"].get("merges") or [] for tokenizer in tokenizers]
    merges = list(dict.fromkeys(pair(merge) for part in lists for merge in part))
    # Pairs were strings until tokenizers 0.20, which cannot hold tokens with spaces.
    as_text = any(isinstance(m, str) for m in lists[0]) and not any(
        " " in part for merge in merges for part in merge
    )
    return [" ".join(merge) if as_text else list(merge) for merge in merges]


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    """The JSON objects inside a part of tokenizer.json that have a type."""
    if isinstance(node, Mapping):
        if "type" in node:
            yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)
