"""Vocabularies of the sources, read from their tokenizer files without running any of their code.

All sources must share one vocabulary, token by token; aligning vocabularies that differ is not
built yet and refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from merge_core.checkpoint import Checkpoint
from merge_core.errors import CheckpointError, VocabularyError
from merge_core.yaml_io import one_line

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""What belongs to a tokenizer in a model folder, copied together from one source."""


def vocabulary(path: Path) -> dict[str, int] | None:
    """Token strings to ids, added tokens included; None if the folder has no tokenizer.json.

    Raises:
        CheckpointError: tokenizer.json cannot be read.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        model = data["model"]["vocab"]
        pieces = model if isinstance(model, dict) else {p[0]: i for i, p in enumerate(model)}
        return {**pieces, **{t["content"]: t["id"] for t in data.get("added_tokens") or ()}}
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


def check_same_vocabulary(base: Checkpoint, others: Sequence[Checkpoint]) -> None:
    """Raise VocabularyError, naming tokens, unless all tokenizers map every token alike.

    Sources without a tokenizer.json (weights alone) are taken to share the others' vocabulary.
    """
    vocabularies = {
        source.path: (source, found)
        for source in dict.fromkeys((base, *others))
        if (found := vocabulary(source.path)) is not None
    }
    if not vocabularies:
        return
    (base, expected), *rest = vocabularies.values()
    for other, found in rest:
        if found == expected:
            continue
        differing = sorted(
            token
            for token in expected.keys() | found.keys()
            if expected.get(token) != found.get(token)
        )
        shown = ", ".join(
            f"{token!r} ({expected.get(token, 'absent')} in {base.path.name}, "
            f"{found.get(token, 'absent')} in {other.path.name})"
            for token in differing[:3]
        )
        raise VocabularyError(
            f"{other.path / 'tokenizer.json'}: {len(differing)} tokens differ from "
            f"{base.path}: {shown}; vocabularies that differ are not aligned yet"
        )
