"""Reading checkpoints: Hugging Face directories of safetensors, memory-mapped, headers first.

Nothing here runs code from a checkpoint: pickles are refused, index files cannot point outside
their folder, and configurations are read as plain JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from merge_core.errors import CheckpointError
from merge_core.yaml_io import one_line

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")

DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What is read, by safetensors' names. Quantized and double weights are refused by name."""
FLOATING = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor, known from its file's header."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.numel * self.dtype.itemsize

    @property
    def floating(self) -> bool:
        """Whether it is merged by arithmetic (integers are copied)."""
        return self.dtype in FLOATING


class Checkpoint:
    """One model on disk. Opening reads headers only; tensors are views of the mapped files.

    Picklable: a copy in another process opens its own maps.

    Attributes:
        reference: as the user named it.
        path: its folder.
        config: config.json.
        specs: shape and dtype of every stored tensor, in name order.
    """

    def __init__(self, reference: str, path: Path) -> None:
        self.reference = reference
        self.path = path
        self.config: dict[str, Any] = _read_json(path / "config.json")
        self._file_of = _files(path)
        self._maps: dict[Path, Any] = {}
        self.specs: dict[str, TensorSpec] = {
            name: self._spec(name) for name in sorted(self._file_of)
        }
        for file in self.files:
            _check_length(file)

    @classmethod
    def open(cls, reference: str) -> Checkpoint:
        """Open a local folder, or a hub id (`org/name`, `org/name@revision`) in the hub's cache.

        Raises:
            CheckpointError: missing, damaged, unsafe or unsupported; one line.
        """
        return cls(reference, locate(reference))

    def tensor(self, name: str) -> torch.Tensor:
        """The stored tensor, a view of the mapped file: never write to it."""
        tensor: torch.Tensor = self._map(self._file_of[name]).get_tensor(name)
        return tensor

    @property
    def files(self) -> list[Path]:
        """The weight files, in name order."""
        return sorted(set(self._file_of.values()))

    @property
    def architecture(self) -> str:
        """The model class, or the model type where none is given."""
        names = self.config.get("architectures")
        if isinstance(names, list) and names:
            return str(names[0])
        return str(self.config.get("model_type", "unknown"))

    @property
    def tied(self) -> bool:
        """Whether the head shares the embedding's storage."""
        return bool(self.config.get("tie_word_embeddings", False))

    @property
    def layers(self) -> int:
        """Number of layers in the stack."""
        text = self.config.get("text_config", self.config)
        for key in ("num_hidden_layers", "n_layer", "num_layers"):
            if isinstance(text, dict) and isinstance(text.get(key), int) and text[key] > 0:
                return int(text[key])
        raise CheckpointError(f"{self.path / 'config.json'}: has no num_hidden_layers")

    def sha256(self) -> dict[str, str]:
        """sha256 of each weight file, by file name. Reads everything once."""
        digests = {}
        for file in self.files:
            with file.open("rb") as stream:
                digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return digests

    def check_finite(self) -> None:
        """Raise CheckpointError, naming file and tensor, if any weight is NaN or infinite."""
        for name, spec in self.specs.items():
            if not spec.floating:
                continue
            flat = self.tensor(name).reshape(-1)
            for start, stop in tiles(spec.numel, 1 << 22):
                if not bool(torch.isfinite(flat[start:stop]).all()):
                    raise CheckpointError(
                        f"{self._file_of[name]}: tensor {name} holds NaN or infinity; "
                        "the source is damaged: fetch or train it again"
                    )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def _map(self, file: Path) -> Any:
        if file not in self._maps:
            self._maps[file] = _open(file)
        return self._maps[file]

    def _spec(self, name: str) -> TensorSpec:
        file = self._file_of[name]
        try:
            part = self._map(file).get_slice(name)
        except SafetensorError as error:
            raise CheckpointError(
                f"{file}: tensor {name} of the index is not in it: fetch the checkpoint again"
            ) from error
        dtype = part.get_dtype()
        if dtype not in DTYPES:
            raise CheckpointError(
                f"{file}: tensor {name} is {dtype}; mergeable are bfloat16, float16 and float32: "
                "convert or dequantize the checkpoint first"
            )
        return TensorSpec(tuple(part.get_shape()), DTYPES[dtype])


def locate(reference: str) -> Path:
    """The folder of a model reference, fetched from the hub if it is a hub id.

    Raises:
        CheckpointError: no such folder, or the hub cannot give it.
    """
    try:
        path = Path(reference).expanduser()
        if path.is_dir():
            return path
        if path.is_file():
            raise CheckpointError(f"{reference}: is a file; name the model's folder")
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{reference[:200]}: cannot be read: {one_line(error)}") from error
    base, plus, adapter = reference.partition("+")
    if plus and Path(adapter).expanduser().joinpath("adapter_config.json").is_file():
        raise CheckpointError(
            f"{reference}: LoRA adapters are not merged yet; merge the adapter into {base} first"
        )
    if not _HUB_ID.fullmatch(reference):
        raise CheckpointError(f"{reference}: no such folder")
    return _fetch(reference)


def _fetch(reference: str) -> Path:
    from huggingface_hub import snapshot_download  # at use: half a second to import
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    repository, _, revision = reference.partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"],
            )
        )
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{reference}: no such folder, and the hub does not give it: it is not in the hub's "
            "cache, and the hub cannot be reached (HF_HUB_OFFLINE, or no network)"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{reference}: no such folder, and the hub does not give it: {one_line(error)[:200]}"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; a checkpoint is a model folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return data


def _files(path: Path) -> dict[str, Path]:
    """The file that holds each tensor, by tensor name."""
    single = path / SINGLE_FILE
    if single.is_file():
        return dict.fromkeys(_open(single).keys(), single)
    index = path / INDEX_FILE
    if not index.is_file():
        for pickle in _PICKLES:
            if (path / pickle).exists():
                raise CheckpointError(
                    f"{path / pickle}: is a pickle, which can run code when loaded: "
                    "save the model as safetensors first"
                )
        raise CheckpointError(f"{path}: has neither {SINGLE_FILE} nor {INDEX_FILE}")
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map")
    return {str(name): _confined(path, index, file) for name, file in weight_map.items()}


def _confined(path: Path, index: Path, file: Any) -> Path:
    if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
        raise CheckpointError(
            f"{index}: points to {file!r}; only .safetensors files in the same folder are read"
        )
    if not (path / file).is_file():
        raise CheckpointError(f"{index}: {file} is missing from its folder")
    return path / file


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: damaged or cut short ({one_line(error)}): fetch it again"
        ) from error


def _check_length(file: Path) -> None:
    """A file that is shorter than its header says would fault in the middle of a merge."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    end = max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
    if file.stat().st_size < 8 + length + end:
        raise CheckpointError(f"{file}: cut short: fetch it again")


def tiles(numel: int, size: int) -> Iterator[tuple[int, int]]:
    """[start, stop) pieces of at most `size` elements."""
    for start in range(0, numel, size):
        yield start, min(numel, start + size)
