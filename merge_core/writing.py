"""Writing merged checkpoints: sharded safetensors, config, tokenizer, card; all or nothing.

Tensors are streamed to disk one by one, so that memory holds one tensor, whatever the shard size
(safetensors' own writer wants a whole shard in memory). The bytes are those that safetensors'
`save_file` writes for the same tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from merge_core.card import mergekit_lack, model_card
from merge_core.checkpoint import (
    DTYPES,
    INDEX_FILE,
    SINGLE_FILE,
    Checkpoint,
    TensorSpec,
    read_json,
)
from merge_core.errors import CheckpointError
from merge_core.kernels.threads import beside
from merge_core.mergekit import to_mergekit
from merge_core.plan import MergePlan
from merge_core.tokenizers import SETTINGS_FILES, TOKENIZER_FILE, TOKENIZER_FILES
from merge_core.vocabulary import Alignment
from merge_core.yaml_io import dump_yaml

CARD_FILE, RECIPE_FILE, MERGEKIT_FILE = "README.md", "recipe.yaml", "mergekit_config.yml"
MAX_SHARD_BYTES = 5 * 10**9  # as transformers 5 shards
_TOKEN_ID = re.compile(r"_token_(id|ids|index)$")
"""Keys of a configuration that name tokens by id: bos_token_id, decoder_start_token_id ..."""
_PLACES = ("_name_or_path", "name_or_path", "special_tokens_map_file", "tokenizer_file")
"""Keys where transformers notes from where it read a model or its tokenizer: folders of the machine
on which a source was saved."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_merge(
    plan: MergePlan,
    out: Path,
    *,
    card: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Merge `plan` into the new folder `out`, which `transformers` and vLLM load unaided.

    Args:
        plan: what to merge.
        out: must not exist; appears whole or not at all.
        card: text of README.md; by default what is known without a search.
        max_shard_bytes: of one weight file.
        progress: called with bytes written so far and bytes in all.

    Raises:
        CheckpointError: `out` exists or cannot be written, or a source holds NaN or infinity.
        NonFiniteError: see `MergePlan.tensors`.
    """
    with new_folder(out) as folder:
        write_files(plan, folder, max_shard_bytes, progress)
        (folder / CARD_FILE).write_text(card or model_card(plan), encoding="utf-8")


def write_files(
    plan: MergePlan,
    folder: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """Write all that belongs to a merge but its card.

    Besides the weights: config.json, generation_config.json, the tokenizer with its chat template,
    recipe.yaml, and mergekit_config.yml where mergekit has the method.

    Args:
        plan: what to merge.
        folder: is there.
        max_shard_bytes: of one weight file.
        progress: called with bytes written so far and bytes in all.

    Returns:
        sha256 of each tensor's bytes as they left the merge, by name.

    Raises:
        CheckpointError: a source holds NaN or infinity.
        NonFiniteError: see `MergePlan.tensors`.
        OSError: `folder` cannot be written.
    """
    plan.sources.check_finite()
    hashes = _write_weights(plan, folder, max_shard_bytes, progress)
    write_skeleton(plan, folder)
    plan.recipe.save(folder / RECIPE_FILE)
    if mergekit_lack(plan) is None:
        text = dump_yaml(to_mergekit(plan.recipe, plan.sources))
        (folder / MERGEKIT_FILE).write_text(text, encoding="utf-8")
    return hashes


def write_skeleton(plan: MergePlan, folder: Path) -> None:
    """Write what a model folder holds besides weights: what an engine of the merge starts from.

    config.json and generation_config.json, the tokenizer and its chat template. Shapes come from
    the template (base, or the first expert); the tokenizer comes whole from the source whose
    vocabulary the merge takes, and with it the generation settings and the ids of special tokens.

    Args:
        plan: of the merge.
        folder: is there.

    Raises:
        OSError: `folder` cannot be written.
    """
    owner = _vocabulary_owner(plan)
    _write_json(folder / "config.json", _config(plan, owner))
    alignment = plan.sources.alignment
    files: tuple[str, ...] = TOKENIZER_FILES
    if alignment is not None and alignment.tokenizer is not None:
        files = SETTINGS_FILES
        _write_json(folder / TOKENIZER_FILE, alignment.tokenizer)
    source = owner.tokenizer_path
    for file in (*files, "generation_config.json"):
        if (source / file).is_file():
            _copy(source / file, folder / file)
    templates = source / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, folder / templates.name)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, and vanishes otherwise."""
    if out.exists():
        raise CheckpointError(f"{out}: exists already; name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written: {error.strerror or error}") from error
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(out)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise CheckpointError(f"{out}: cannot be written: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_weights(
    plan: MergePlan, folder: Path, limit: int, progress: Callable[[int, int], None] | None
) -> dict[str, str]:
    """Write the weight files; sha256 of each tensor's bytes."""
    specs = plan.specs()
    shards = shard(specs, limit)
    total, done = sum(spec.nbytes for spec in specs.values()), 0
    files, hashes = {}, {}
    for number, names in enumerate(shards, 1):
        file = SINGLE_FILE
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (folder / file).open("wb") as stream:
            stream.write(safetensors_header({name: specs[name] for name in names}))
            for name, tensor in plan.tensors(names=names):
                data = tensor.reshape(-1).view(torch.uint8).numpy().data
                digest = beside(_sha256, data)  # no slower than most disks
                stream.write(data)
                hashes[name] = digest()
                files[name] = file
                done += specs[name].nbytes
                if progress:
                    progress(done, total)
            stream.flush()
            os.fsync(stream.fileno())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return hashes


def _sha256(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def shard(specs: dict[str, TensorSpec], limit: int) -> list[list[str]]:
    """Names per file, each in the order in which safetensors lays them out.

    Files are filled in name order to at most `limit` bytes (a larger tensor has its own).
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += spec.nbytes
    return [sorted(names, key=lambda n: (-_rank(specs[n].dtype), n)) for names in shards]


def safetensors_header(specs: dict[str, TensorSpec]) -> bytes:
    """The length and JSON header of a safetensors file with data in `specs`' order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, spec in specs.items():
        header[name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _rank(dtype: torch.dtype) -> int:
    # safetensors sorts by descending position of the dtype in its own list, then by name.
    order = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "I64")
    return order.index(_NAMES[dtype])


def _config(plan: MergePlan, owner: Checkpoint) -> dict[str, Any]:
    """The template's configuration, with the dtype, tying and vocabulary of the merge."""
    sources = plan.sources
    config = dict(sources.template.config)
    if plan.recipe.dtype is not None:
        # transformers 5 reads `dtype`; older versions read `torch_dtype`.
        for key in {"dtype", "torch_dtype"} & config.keys() or {"dtype"}:
            config[key] = plan.recipe.dtype
    if sources.untied:
        config["tie_word_embeddings"] = False
    if owner is not sources.template:
        config = _with_tokens_of(owner.config, config, sources.alignment)
    if sources.alignment is not None:
        rows = len(sources.alignment.output)
        text = config.get("text_config")
        nested = isinstance(text, dict) and "vocab_size" in text
        if nested:
            config["text_config"] = {**config["text_config"], "vocab_size": rows}
        if "vocab_size" in config or not nested:
            config["vocab_size"] = rows
    placeless: dict[str, Any] = _without_places(config)
    return placeless


def _with_tokens_of(
    owner: Mapping[str, Any], config: Mapping[str, Any], alignment: Alignment | None
) -> dict[str, Any]:
    """`config` with the token ids of `owner`, whose vocabulary the merge takes.

    Ids that `owner` does not name are base's, renumbered; None where the merge lacks the token.
    """

    def renumbered(value: Any) -> Any:
        if isinstance(value, list):
            return [n for n in map(renumbered, value) if n is not None]
        if type(value) is not int or value < 0 or alignment is None:
            return value
        return alignment.renumbered(value)

    result = {key: renumbered(v) if _TOKEN_ID.search(key) else v for key, v in config.items()}
    result |= {key: value for key, value in owner.items() if _TOKEN_ID.search(key)}
    if isinstance(config.get("text_config"), dict):
        text = owner.get("text_config")
        nested = text if isinstance(text, dict) else {}
        result["text_config"] = _with_tokens_of(nested, config["text_config"], alignment)
    return result


def _vocabulary_owner(plan: MergePlan) -> Checkpoint:
    """The source whose tokenizer files the merge takes."""
    sources, wanted = plan.sources, plan.recipe.tokenizer_source
    if sources.alignment is not None:
        return sources.all[sources.alignment.source]
    if wanted.startswith("model:"):
        return sources.experts[plan.recipe.names.index(wanted.removeprefix("model:"))]
    return sources.template


def _copy(file: Path, out: Path) -> None:
    """Copy a file; settings of a tokenizer that name places come without them."""
    settings = file.read_bytes() if file.name == "tokenizer_config.json" else b""
    if any(f'"{key}"'.encode() in settings for key in _PLACES):
        _write_json(out, _without_places(read_json(file, "")))
    else:
        shutil.copyfile(file, out)


def _without_places(data: Any) -> Any:
    if isinstance(data, list):
        return [_without_places(entry) for entry in data]
    if isinstance(data, dict):
        return {key: _without_places(data[key]) for key in data if key not in _PLACES}
    return data


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
