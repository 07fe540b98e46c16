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
from merge_core.kernels.fused import count_not_finite
from merge_core.kernels.job import elements
from merge_core.kernels.threads import beside
from merge_core.pages import Span, read_ahead
from merge_core.references import locate as locate  # also from here, for those that open
from merge_core.references import split_reference
from merge_core.yaml_io import one_line

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""Ends of the names of the tensor that a shared head lives in."""
_MOST_JSON = 1 << 30  # bytes; tokenizers have up to some tens of millions
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")

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


class StoredTensors:
    """The tensors of safetensors files, mapped. Headers are read at once, bytes when used.

    Picklable: a copy in another process opens its own maps.

    Args:
        file_of: the file that holds each tensor, by tensor name.

    Attributes:
        specs: shape and dtype of every tensor, in name order.

    Raises:
        CheckpointError: a file is damaged, cut short or holds what is not merged; one line.
    """

    def __init__(self, file_of: Mapping[str, Path]) -> None:
        self._file_of = dict(file_of)
        self._maps: dict[Path, Any] = {}
        self._views: dict[str, torch.Tensor] = {}
        self._finite = False  # until `check_finite` has seen all
        self.specs: dict[str, TensorSpec] = {
            name: self._spec(name) for name in sorted(self._file_of)
        }
        self._spans: dict[str, tuple[int, int]] = {}
        for file in self.files:
            self._spans |= _spans(file)

    @property
    def files(self) -> list[Path]:
        """The files, in name order."""
        return sorted(set(self._file_of.values()))

    def tensor(self, name: str) -> torch.Tensor:
        """The stored tensor, a view of the mapped file: never write to it."""
        if name not in self._views:
            self._views[name] = self._map(self._file_of[name]).get_tensor(name)
        return self._views[name]

    def span(self, name: str) -> Span:
        """Where the bytes of `name` lie."""
        return Span(self._file_of[name], *self._spans[name])

    def check_finite(self) -> None:
        """Raise CheckpointError, naming file and tensor, if any weight is NaN or infinite.

        Reads everything, the first time.
        """
        if self._finite:
            return
        floating = [name for name, spec in self.specs.items() if spec.floating]
        for name in read_ahead(floating, lambda name: [self.span(name)]):
            flat = self.tensor(name).reshape(-1)
            # float16 is widened: in pieces, so that memory stays bounded.
            size = 1 << 22 if flat.dtype == torch.float16 else max(1, flat.numel())
            if any(count_not_finite(elements(flat[a:b])) for a, b in tiles(flat.numel(), size)):
                raise CheckpointError(
                    f"{self._file_of[name]}: tensor {name} holds NaN or infinity; "
                    "the source is damaged: fetch or train it again"
                )
        self._finite = True  # a base is a source itself, and part of each of its adapters

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}, "_views": {}}

    def _map(self, file: Path) -> Any:
        if file not in self._maps:
            self._maps[file] = open_safetensors(file)
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


class Checkpoint:
    """One model on disk. Opening reads headers only; tensors are views of the mapped files.

    Picklable.

    Attributes:
        reference: as the user named it.
        path: its folder.
        config: config.json.
        specs: shape and dtype of every stored tensor, in name order.
    """

    def __init__(self, reference: str, path: Path) -> None:
        self.reference = reference
        self.path = path
        if not (path / "config.json").is_file() and (path / ADAPTER_CONFIG).is_file():
            raise CheckpointError(f"{path}: is an adapter; name it with its base: BASE+{reference}")
        refuse_strange_links(path)
        self.config = read_json(path / "config.json", "a checkpoint is a model folder")
        self._stored = StoredTensors(_files(path))
        self.specs = self._stored.specs

    @classmethod
    def open(cls, reference: str, opened: Mapping[str, Checkpoint] | None = None) -> Checkpoint:
        """Open a local folder, a hub id (`org/name`, `org/name@revision`), or BASE+ADAPTER.

        BASE and ADAPTER are each a folder or a hub id; the result is then an
        `merge_core.adapters.AdaptedCheckpoint`.

        Args:
            reference: what to open.
            opened: checkpoints already open, by reference: BASE is taken from here if it is one.

        Raises:
            CheckpointError: missing, damaged, unsafe or unsupported; one line.
        """
        parts = split_reference(reference)
        if parts is None:
            return Checkpoint(reference, locate(reference))
        from merge_core.adapters import AdaptedCheckpoint  # it builds on this module

        base = (opened or {}).get(parts[0])
        if base is None:
            base = Checkpoint(parts[0], locate(parts[0]))
        return AdaptedCheckpoint(reference, base, locate(parts[1]))

    def tensor(self, name: str) -> torch.Tensor:
        """The stored tensor, a view of the mapped file: never write to it."""
        return self._stored.tensor(name)

    def span(self, name: str) -> Span:
        """Where the bytes of the stored tensor lie."""
        return self._stored.span(name)

    @property
    def files(self) -> list[Path]:
        """The files that hold or scale its weights, in name order."""
        return self._stored.files

    @property
    def tokenizer_path(self) -> Path:
        """The folder whose tokenizer files count."""
        return self.path

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
    def shares_head(self) -> bool:
        """`tied`, or no head is stored (where tying is the class's default)."""
        return self.tied or HEAD not in self.specs

    def stored_name(self, name: str) -> str:
        """Under which name `name` is stored: a shared head lives in the embedding.

        Raises:
            CheckpointError: the head is shared, and with what is not known.
        """
        if name != HEAD or not self.shares_head:
            return name
        embeddings = [n for n in self.specs if n.endswith(EMBEDDINGS)]
        if len(embeddings) != 1:
            raise CheckpointError(
                f"{self.path}: shares its head, and which tensor it is shared with is not known "
                f"({', '.join(embeddings) or 'no embedding found'})"
            )
        return embeddings[0]

    @property
    def layers(self) -> int:
        """Number of layers in the stack."""
        text = self.config.get("text_config", self.config)
        for key in ("num_hidden_layers", "n_layer", "num_layers"):
            if isinstance(text, dict) and isinstance(text.get(key), int) and text[key] > 0:
                return int(text[key])
        raise CheckpointError(f"{self.path / 'config.json'}: has no num_hidden_layers")

    def sha256(self) -> dict[str, str]:
        """sha256 of each file of `files`, by file name. Reads everything once."""
        return files_sha256({file.name: file for file in self.files})

    def check_finite(self) -> None:
        """Raise CheckpointError, naming file and tensor, if any weight is NaN or infinite."""
        self._stored.check_finite()


def files_sha256(files: Mapping[str, Path]) -> dict[str, str]:
    """sha256 of each file in hexadecimal, under the name that it is given here; in threads."""

    def digest(names: list[str]) -> dict[str, str]:
        digests = {}
        for name in names:
            with files[name].open("rb") as stream:
                digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return digests

    threads, names = torch.get_num_threads(), list(files)
    parts = [beside(digest, names[first::threads]) for first in range(min(threads, len(names)))]
    found = {name: digest for part in parts for name, digest in part().items()}
    return {name: found[name] for name in names}


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        expected: what to tell about its place if it is missing.

    Raises:
        CheckpointError: it is missing, or holds anything else.
    """
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise FileNotFoundError
        if path.stat().st_size > _MOST_JSON:
            raise ValueError("it is too large for a file of a model's settings")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; {expected}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return data


def _files(path: Path) -> dict[str, Path]:
    """The file that holds each tensor, by tensor name."""
    single = path / SINGLE_FILE
    if single.is_file():
        return dict.fromkeys(open_safetensors(single).keys(), single)
    index = path / INDEX_FILE
    if not index.is_file():
        for pickle in _PICKLES:
            refuse_pickle(path / pickle)
        raise CheckpointError(f"{path}: has neither {SINGLE_FILE} nor {INDEX_FILE}")
    weight_map = read_json(index, "").get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map")
    return {str(name): _confined(path, index, file) for name, file in weight_map.items()}


def refuse_pickle(file: Path) -> None:
    """Raise CheckpointError if there is such a file: it is a pickle."""
    if file.exists():
        raise CheckpointError(
            f"{file}: is a pickle, which can run code when loaded: "
            "save the model as safetensors first"
        )


def refuse_strange_links(folder: Path) -> None:
    """Raise CheckpointError if a model's text files are links to files that are no model's.

    Tokenizers and settings are copied into merges, which people publish: a folder that was made by
    others (`git clone` keeps links) must not name a key or a token of this machine's as one of
    them. Links into the hub's cache, and to the file of the same name in a folder with weights, are
    what people have. Weights may be linked from anywhere: only tensors are read of them.
    """
    root = folder.resolve()
    try:
        links = [file for file in root.iterdir() if file.is_symlink()]
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror or error}") from error
    for link in links:
        try:
            target = link.resolve(strict=True)
        except (OSError, RuntimeError):
            continue  # leads nowhere: whoever reads it says so
        if target.is_dir() or target.suffix == ".safetensors" or target.is_relative_to(root):
            continue
        cached = target.parent.name == "blobs" and _BLOB.fullmatch(target.name)
        model = target.name == link.name and any(target.parent.glob("*.safetensors"))
        if not cached and not model:
            raise CheckpointError(
                f"{folder / link.name}: is a link to {target}, which is no file of a model: "
                "put a copy in its place if it is meant"
            )


def _confined(path: Path, index: Path, file: Any) -> Path:
    if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
        raise CheckpointError(
            f"{index}: points to {file!r}; only .safetensors files in the same folder are read"
        )
    if not (path / file).is_file():
        raise CheckpointError(f"{index}: {file} is missing from its folder")
    return path / file


def open_safetensors(file: Path) -> Any:
    """The file, mapped: an object of the safetensors library.

    Raises:
        CheckpointError: it is no whole safetensors file.
    """
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: damaged or cut short ({one_line(error)}): fetch it again"
        ) from error


def _spans(file: Path) -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of each tensor in `file`.

    Raises:
        CheckpointError: the file is shorter than its header says: it would fault in mid-merge.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    places = {k: v["data_offsets"] for k, v in header.items() if k != "__metadata__"}
    if file.stat().st_size < 8 + length + max((end for _, end in places.values()), default=0):
        raise CheckpointError(f"{file}: cut short: fetch it again")
    return {name: (8 + length + start, end - start) for name, (start, end) in places.items()}


def tiles(numel: int, size: int) -> Iterator[tuple[int, int]]:
    """[start, stop) pieces of at most `size` elements."""
    for start in range(0, numel, size):
        yield start, min(numel, start + size)
