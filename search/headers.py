"""Names, shapes and dtypes of a model's tensors, without its weights.

From a folder or the hub's cache; else from the hub, a few hundred kilobytes by range requests;
else, for the models that our own search files name, from facts in `configs/headers/`, which
`benchmarks/headers.py` makes of the architecture's published numbers: no model's file was read for
them, and whoever prints what follows from them says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from merge_core import Checkpoint
from merge_core.checkpoint import DTYPES, TensorSpec, read_json
from merge_core.errors import CheckpointError, MergeError
from merge_core.references import split_reference
from search.secrets import said

Origin = Literal["folder", "hub", "packaged"]
_SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")


@dataclass(frozen=True)
class Headers:
    """What is known of a model before any weight is read.

    Attributes:
        reference: as the search file names it.
        specs: shape and dtype by tensor name.
        config: its config.json, or the parts of it that sizes follow from.
        origin: where this is from.
        adapter: bytes of a LoRA adapter's own tensors, if it is BASE+ADAPTER.
        why: why the hub was not asked, or did not answer, where it is packaged.
    """

    reference: str
    specs: Mapping[str, TensorSpec]
    config: Mapping[str, Any]
    origin: Origin
    adapter: int = 0
    why: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of its own tensors: of an adapter without its base."""
        return self.adapter or sum(spec.nbytes for spec in self.specs.values())


class HeaderReader:
    """Reads headers; a hub that was not reached once is not tried again.

    Args:
        endpoint: of the hub; None for HF_ENDPOINT or the public one.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint
        self._lost = ""

    def read(self, reference: str) -> Headers:
        """The headers of a folder, a hub id (`org/name`, `org/name@revision`), or BASE+ADAPTER.

        Raises:
            CheckpointError: they are nowhere to be had; one line.
        """
        parts = split_reference(reference)
        if parts is None:
            return self._model(reference)
        base, adapter = self._model(parts[0]), self._adapter(parts[1])
        return Headers(reference, base.specs, base.config, base.origin, adapter, base.why)

    def _model(self, reference: str) -> Headers:
        folder = _folder(reference)
        if folder is not None:
            opened = Checkpoint(reference, folder)
            return Headers(reference, opened.specs, opened.config, "folder")
        try:
            specs = self._of_hub(reference)
            return Headers(reference, specs, self._config_of_hub(reference), "hub")
        except CheckpointError as error:
            packaged = _packaged(reference)
            if packaged is None:
                raise
            specs, config = packaged
            return Headers(reference, specs, config, "packaged", why=str(error))

    def _adapter(self, reference: str) -> int:
        folder = _folder(reference)
        if folder is None:
            return sum(spec.nbytes for spec in self._of_hub(reference).values())
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def _of_hub(self, reference: str) -> dict[str, TensorSpec]:
        def ask(api: Any, name: str, revision: str | None) -> dict[str, TensorSpec]:
            found = api.get_safetensors_metadata(name, revision=revision)
            specs = {}
            for file in found.files_metadata.values():
                for tensor, held in file.tensors.items():
                    if held.dtype not in DTYPES:
                        raise ValueError(f"tensor {tensor} is {held.dtype}")
                    specs[tensor] = TensorSpec(tuple(held.shape), DTYPES[held.dtype])
            return dict(sorted(specs.items()))

        specs: dict[str, TensorSpec] = self._asked(reference, ask)
        return specs

    def _config_of_hub(self, reference: str) -> dict[str, Any]:
        def ask(api: Any, name: str, revision: str | None) -> dict[str, Any]:
            path = api.hf_hub_download(name, "config.json", revision=revision)
            return read_json(Path(path), "a checkpoint is a model folder")

        config: dict[str, Any] = self._asked(reference, ask)
        return config

    def _asked(self, reference: str, ask: Any) -> Any:
        """What `ask` has of the hub; CheckpointError if nothing."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError

        if constants.HF_HUB_OFFLINE:
            self._lost = "the hub is not asked (HF_HUB_OFFLINE)"
        if self._lost:
            raise CheckpointError(f"{reference}: no such folder, and {self._lost}")
        name, _, revision = reference.partition("@")
        try:
            with _no_bars():
                return ask(HfApi(endpoint=self._endpoint), name, revision or None)
        except (HfHubHTTPError, NotASafetensorsRepoError) as error:  # it is there, and refuses
            why = f"the hub does not give it: {said(error)[:160]}"
        except (ValueError, RuntimeError, KeyError, TypeError, MergeError) as error:
            why = f"what the hub has of it is not understood: {said(error)[:160]}"
        except Exception as error:  # noqa: BLE001 (of an HTTP library that is the hub's affair)
            why = self._lost = f"the hub cannot be reached ({said(error)[:80]})"
        raise CheckpointError(f"{reference}: no such folder, and {why}")


@contextmanager
def _no_bars() -> Iterator[None]:
    hub: Any = import_module("huggingface_hub.utils")
    if hub.are_progress_bars_disabled():
        yield
        return
    hub.disable_progress_bars()
    try:
        yield
    finally:
        hub.enable_progress_bars()


def _folder(reference: str) -> Path | None:
    """The folder that a reference names, or has in the hub's cache, all of it."""
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    name, _, revision = reference.partition("@")
    try:
        cached = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except (OSError, ValueError, RuntimeError):  # not there, or no name that the hub could have
        return None
    return cached if _all_there(cached) else None


def _all_there(folder: Path) -> bool:
    """Whether a folder of the cache has all files of weights: a fetch may have ended half-way.

    Raises:
        CheckpointError: its index cannot be read.
    """
    names = {file.name for file in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        placed = read_json(index, "a checkpoint is a model folder").get("weight_map")
        return isinstance(placed, dict) and set(placed.values()) <= names
    return bool(names) and not any(_SHARD.search(name) for name in names)


def _packaged(reference: str) -> tuple[dict[str, TensorSpec], dict[str, Any]] | None:
    """Specs and configuration of a model that `configs/headers/` knows, at any revision."""
    name = reference.partition("@")[0]
    for file in files("configs").joinpath("headers").iterdir():
        data = json.loads(file.read_text(encoding="utf-8"))
        if name in data["models"]:
            return spread(data), dict(data["config"])
    return None


def spread(data: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """The tensors of packaged facts: a `*` in a name stands for each layer."""
    specs = {}
    for name, (dtype, shape) in data["tensors"].items():
        for layer in range(data["config"]["num_hidden_layers"]) if "*" in name else (0,):
            specs[name.replace("*", str(layer))] = TensorSpec(tuple(shape), DTYPES[dtype])
    return dict(sorted(specs.items()))
