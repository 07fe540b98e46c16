"""What runs inside vLLM's worker processes: merges are made there, straight into the live model.

vLLM mixes `MergeExtension` into its worker class; the engine calls it by name in every worker.
Answers are plain data, errors included: an exception that crosses vLLM's processes arrives as text.

Two ways lead into the live model. *In place*: the model's own loader copies into the parameters
that it answers with, and what it copies is made at that moment (`objectives.engines.lazy`). Right
where parameters are held as the loader knows them. *Reload*: vLLM takes the model back to that
form layer by layer, lets the loader fill it, and packs or quantises it again.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from objectives.engines.lazy import Making, Rehearsal
from objectives.engines.vllm_errors import lacks_memory, plain
from objectives.engines.vllm_processes import alive
from objectives.tables import resolve
from objectives.weights import PartSource, short

_PLAIN = ("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod")
"""vLLM's methods that leave parameters as the loader fills them (but on a CPU: see `_packed`)."""

_WATCH_EVERY = 2.0
"""Seconds between two looks at the process that the workers belong to."""

_PLAIN_MODULES = ("Attention",)
"""Modules that process weights after loading, but only scales of the cache."""


class MergeExtension:
    """Methods that vLLM's workers have besides their own."""

    model_runner: Any
    vllm_config: Any
    device: torch.device

    def mergefront_open(self, swap: str, owner: int | None) -> dict[str, Any]:
        """Settle how merges come into the model, and end with the engine's process.

        Args:
            swap: the configuration's.
            owner: the engine's process, if it is on this machine.
        """
        if owner not in (None, os.getpid()):
            threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
        try:
            self._mergefront = LiveModel(self.model_runner.get_model(), self.vllm_config, swap)
        except Exception as error:  # noqa: BLE001 - see the module
            return {"fault": plain(error)}
        return {"fault": None, "way": self._mergefront.way, "why": self._mergefront.why}

    def mergefront_rehearse(self, maker: str, data: dict[str, Any]) -> dict[str, Any]:
        """What the model's loader would do with a source; nothing is made or written."""
        return self._mergefront.rehearse(maker, data)

    def mergefront_load(self, maker: str, data: dict[str, Any]) -> dict[str, Any]:
        """Make a source's weights in the live model."""
        return self._mergefront.load(maker, data)


def _end_with(owner: int) -> None:
    """End this process once `owner` has ended; vLLM's would wait for ever for a killed one."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(owner)
        while alive(process):
            time.sleep(_WATCH_EVERY)
    os._exit(1)


class LiveModel:
    """One worker's part of the model.

    Attributes:
        way: "in_place" or "reload".
        why: what kept "auto" from in_place, or None.
    """

    def __init__(self, model: torch.nn.Module, vllm_config: Any, swap: str) -> None:
        self._model = model
        self._config = vllm_config
        self._kept: dict[str, Any] = {}
        self._shared = _shared(model)
        self.why = _bars_in_place(model)
        if swap == "in_place" and self.why is not None:
            raise ValueError(f"merges cannot be written in place: {self.why}; set swap: reload")
        self.way = "reload" if swap == "reload" or self.why is not None else "in_place"

    def rehearse(self, maker: str, data: dict[str, Any]) -> dict[str, Any]:
        """Go through the loader without making or writing anything.

        Returns:
            fault: what the loader or maker raised, or None. taken: elements of each tensor that
            this worker copies. types: dtype of what they are copied into. lacking: names of live
            parameters that are not wholly written.
        """
        try:
            making = Making(self._source(maker, data), write=False)
        except Exception as error:  # noqa: BLE001 - see the module
            return {"fault": plain(error)}
        fault, lacking = None, []
        with _in_loader_form(self._model, self.way):
            live = dict(self._model.named_parameters())
            with Rehearsal(live) as rehearsal:
                try:
                    self._fill(making)
                except Exception as error:  # noqa: BLE001 - see the module
                    fault = _told(making, error)
            owners = {name: self._model.get_submodule(name.rpartition(".")[0]) for name in live}
            for name, count in rehearsal.written.items():
                # Quantised layers have scales and padding of their own, which no checkpoint holds.
                loads = _is_plain(owners[name])
                if count < live[name].numel() and loads and name not in self._shared:
                    lacking.append(name)
        types = {name: short(dtype) for name, dtype in making.types.items()}
        # In the loader's form shared weights lie apart: what fills them there is lost afterwards.
        taken = {name: n for name, n in making.taken.items() if name not in self._shared}
        return {"fault": fault, "taken": taken, "types": types, "lacking": lacking}

    def load(self, maker: str, data: dict[str, Any]) -> dict[str, Any]:
        """Make and write every part that this worker holds.

        Returns:
            fault: what the source raised, or None: from there on zeros were written. seconds. made:
            elements made. whole: those of them that nobody copied.
        """
        started = time.monotonic()
        try:
            making = Making(self._source(maker, data))
        except Exception as error:  # noqa: BLE001 - see the module
            return {"fault": plain(error)}
        fault = None
        try:
            if self.way == "in_place":
                self._fill(making)
            else:
                self._reload(making)
        except Exception as error:  # noqa: BLE001 - see the module
            fault = _told(making, error)
        if making.fault is not None:
            fault = plain(making.fault)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return {
            "fault": fault,
            "seconds": time.monotonic() - started,
            "made": making.made,
            "whole": making.whole,
        }

    def _source(self, maker: str, data: Mapping[str, Any]) -> PartSource:
        source: PartSource = resolve({"maker": maker}, "maker")(data, self._kept)
        return source

    @torch.no_grad()
    def _fill(self, making: Making) -> None:
        from vllm.config import set_current_vllm_config

        with set_current_vllm_config(self._config):
            self._model.load_weights(making.tensors())  # type: ignore[operator]

    @torch.no_grad()
    def _reload(self, making: Making) -> None:
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.model_loader.reload import (
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        with set_current_vllm_config(self._config):
            initialize_layerwise_reload(self._model)
            try:
                self._model.load_weights(making.tensors())  # type: ignore[operator]
            finally:  # otherwise parameters stay without memory, and nothing can be loaded again
                finalize_layerwise_reload(self._model, self._config.model_config)
            _pack_again(self._model)


@contextlib.contextmanager
def _in_loader_form(model: torch.nn.Module, way: str) -> Iterator[None]:
    """Parameters as the loader knows them, without memory; afterwards the live ones are back."""
    if way == "in_place":
        yield
        return
    from vllm.model_executor.model_loader.reload import initialize_layerwise_reload, layerwise

    initialize_layerwise_reload(model)
    try:
        for module in model.modules():
            for tensor in layerwise.get_layer_tensors(module).values():
                # Not the loaders that count: a layer that is complete would be processed.
                tensor.weight_loader = layerwise._get_original_loader(tensor)
        yield
    finally:
        for module in model.modules():
            info = layerwise.get_layerwise_info(module)
            if info.can_load():
                layerwise._place_kernel_tensors(module, info)
            info.reset()


def _pack_again(model: torch.nn.Module) -> None:
    """On a CPU: renew the packed copies that modules hold of a weight they share (tied heads).

    The loader fills a shared weight once, and only the module that it names packs it anew.
    """
    holders: dict[int, list[Any]] = {}
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.numel():
            holders.setdefault(id(weight), []).append(module)
    for modules in holders.values():
        for module in modules if len(modules) > 1 else ():
            if hasattr(module, "cpu_linear"):
                module.quant_method.process_weights_after_loading(module)


def _bars_in_place(model: torch.nn.Module) -> str | None:
    """Why what the loader writes would not be what the model answers with; None if it would."""
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        if method is not None and type(method).__name__ not in _PLAIN:
            return f"{name} is held by {type(method).__name__}"
        if _packed(module):
            return f"{name} is packed for this CPU"
        processes = hasattr(module, "process_weights_after_loading")
        if processes and type(module).__name__ not in _PLAIN_MODULES:
            return f"{name} ({type(module).__name__}) derives other weights from those it loads"
    return None


def _packed(module: torch.nn.Module) -> bool:
    """Whether a layer computes with a packed copy of its weight."""
    return getattr(module, "cpu_linear", None) not in (None, torch.nn.functional.linear)


def _is_plain(module: torch.nn.Module) -> bool:
    method = getattr(module, "quant_method", None)
    return method is None or type(method).__name__ in _PLAIN


def _shared(model: torch.nn.Module) -> set[str]:
    """Names of parameters that have the memory of an earlier one (tied heads)."""
    seen: set[int] = set()
    found = set()
    for name, tensor in model.named_parameters(remove_duplicate=False):
        storage = tensor.untyped_storage()._cdata
        if tensor.numel() and storage in seen:
            found.add(name)
        seen.add(storage)
    return found


def _told(making: Making, error: Exception) -> dict[str, str]:
    """What stopped the loader: want of memory as that, all else as a tensor that does not fit."""
    return plain(error) if lacks_memory(error) else {"kind": "", "message": _misfit(making, error)}


def _misfit(making: Making, error: Exception) -> str:
    """What the loader said to the tensor that it was given last, in one line."""
    said = " ".join(str(error).split())[:200]
    if isinstance(error, KeyError) or "There is no module or parameter named" in said:
        return f"the live model has no tensor {making.name}; check that both have one architecture"
    spec = making.source.specs().get(making.name)
    shape = "" if spec is None else f" of shape {tuple(spec.shape)}"
    return (
        f"{making.name}: the live model does not take a tensor{shape}"
        f" ({type(error).__name__}{': ' if said else ''}{said});"
        " start the engine from a model of the merge's shapes"
    )
