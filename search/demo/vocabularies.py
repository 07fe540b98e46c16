"""The demo's language expert with another vocabulary, as continued pre-training would leave it.

Made from the trained expert, never trained anew, so that a merge in base's vocabulary is the plain
trio's to the bit: a permuted one has the same rows at other ids, an extended one 40 rows more.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file

from merge_core.writing import new_folder

Vocabulary = Literal["plain", "extended", "permuted"]
VOCABULARIES: tuple[Vocabulary, ...] = get_args(Vocabulary)

NEW_TOKENS = tuple(f"คำใหม่{number}" for number in range(1, 41))
"""Words that the trio never reads: "new word 1" to 40."""

_EMBEDDING = "model.embed_tokens.weight"  # the head shares it


def write_expert(trained: Path, out: Path, vocabulary: Vocabulary) -> None:
    """Write the trained expert as the new folder `out`, with the vocabulary asked for.

    Raises:
        CheckpointError: `out` exists or cannot be written.
    """
    with new_folder(out) as folder:
        shutil.copytree(trained, folder, dirs_exist_ok=True)
        if vocabulary == "plain":
            return
        tensors = load_file(trained / "model.safetensors")
        rows = tensors[_EMBEDDING]
        count = len(rows)
        order = list(range(count))
        added: tuple[str, ...] = ()
        if vocabulary == "permuted":
            random.Random(0).shuffle(order)
        else:
            added = NEW_TOKENS
            # As resizing an embedding does it: a new row starts as the mean of all.
            mean = rows.float().mean(0, keepdim=True).to(rows.dtype)
            rows = torch.cat([rows, mean.expand(len(added), -1)])
            order += range(count, len(rows))
        tensors[_EMBEDDING] = rows[order].contiguous()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        _rewrite(folder, order, added)


def _rewrite(folder: Path, order: Sequence[int], added: Sequence[str]) -> None:
    """Let tokenizer and configurations say where each token's row has gone.

    Args:
        folder: of the model.
        order: the old id of each new one.
        added: tokens at the ids that the old vocabulary does not have.
    """
    new = {old: number for number, old in enumerate(order)}
    tokenizer = _read(folder / "tokenizer.json")
    vocab = tokenizer["model"]["vocab"]
    old = {**vocab, **{token: len(vocab) + i for i, token in enumerate(added)}}
    tokenizer["model"]["vocab"] = {token: new[number] for token, number in old.items()}
    for entry in tokenizer["added_tokens"]:
        entry["id"] = new[entry["id"]]
    tokenizer["added_tokens"].sort(key=lambda entry: entry["id"])
    _write(folder / "tokenizer.json", tokenizer)
    for name in ("config.json", "generation_config.json"):
        config = _read(folder / name)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            config[key] = new[config[key]]
        if "vocab_size" in config:
            config["vocab_size"] = len(order)
        _write(folder / name, config)


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
