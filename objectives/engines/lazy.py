"""Tensors without storage: made where, when and as far as somebody copies them.

A model's own loader takes them for the tensors of a checkpoint. It cuts out its part by views,
fuses and pads as it always does, and copies the part into the live parameter: only then, and only
this part, is made by the source, straight into the parameter where its memory allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from objectives.engines.boxes import box_of
from objectives.weights import PartSource

_VIEWS = frozenset(
    (
        *("__getitem__", "narrow", "select", "view", "reshape", "view_as", "flatten", "unflatten"),
        *("squeeze", "unsqueeze", "transpose", "t", "permute", "movedim", "swapaxes", "swapdims"),
        *("contiguous", "chunk", "split", "tensor_split", "unbind", "detach", "diagonal"),
        *("expand", "expand_as", "ravel"),
    )
)
"""Names of what makes views of a tensor; what would copy after all is seen by its result."""


@dataclass
class Making:
    """One load: whose parts are made, and what became of it.

    Attributes:
        source: who makes them.
        write: parts are made; otherwise the load is only rehearsed: nothing is made or written.
        fault: the first error of the source. From then on nothing more is made and zeros are
            written, so that the loader comes to its end and leaves a model that can be loaded.
        taken: elements that were copied of each tensor.
        types: into which dtype each tensor was copied first.
        made: elements that were made.
        whole: elements of those that were made although nobody copied them: parts that are no
            boxes are cut out of the whole tensor.
        name: the tensor that the loader was given last.
    """

    source: PartSource
    write: bool = True
    fault: Exception | None = None
    taken: dict[str, int] = field(default_factory=dict)
    types: dict[str, torch.dtype] = field(default_factory=dict)
    made: int = 0
    whole: int = 0
    name: str = ""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the source, none of them made yet."""
        specs = self.source.specs()
        for name in self.source.ahead() if self.write else specs:
            self.name = name
            whole = torch.empty(specs[name].shape, dtype=specs[name].dtype, device="meta")
            yield name, LazyTensor(self, name, whole)

    def take(self, name: str, view: Tensor, dtype: torch.dtype) -> None:
        """Note that `view` of a tensor is copied into something of `dtype`."""
        self.taken[name] = self.taken.get(name, 0) + view.numel()
        self.types.setdefault(name, dtype)

    def fill(self, name: str, view: Tensor, target: Tensor) -> None:
        """Make what `view`, on the meta device, shows of a tensor, into `target`."""
        shape = self.source.specs()[name].shape
        box = box_of(shape, view.shape, view.stride(), int(view.storage_offset()))
        if self.fault is not None:
            target.zero_()
            return
        fits = target.dtype == view.dtype and target.shape == view.shape
        try:
            if box is None:
                # Rare (interleaved heads): the price is the rest of the tensor.
                made = self.source.part(name, ())
                self.made += made.numel()
                self.whole += made.numel() - view.numel()
                part = made.as_strided(view.shape, view.stride(), view.storage_offset())
                target.copy_(part.broadcast_to(target.shape))
                return
            self.made += view.numel()
            if box.straight and fits and target.is_contiguous():
                self.source.part(name, box.spans, target.view(-1))
                return
            room = torch.empty(view.numel(), dtype=view.dtype, device=target.device)
            made = self.source.part(name, box.spans, room)
            part = made.as_strided(view.shape, box.strides)
            target.copy_(part.broadcast_to(target.shape))
        except Exception as error:  # noqa: BLE001 - the loader must come to its end
            self.fault = error
            target.zero_()

    def tensor(self, name: str, view: Tensor) -> Tensor:
        """What `view` shows, made on the CPU: for operations that are neither view nor copy."""
        room = torch.zeros(view.shape, dtype=view.dtype)
        if self.write:
            self.fill(name, view, room)
        self.take(name, view, view.dtype)
        return room


class LazyTensor(Tensor):
    """A view of a tensor that is made when it is copied; shape, dtype and strides are real."""

    _making: Making
    _name: str
    _view: Tensor

    def __new__(cls, making: Making, name: str, view: Tensor) -> LazyTensor:
        made: LazyTensor = Tensor._make_wrapper_subclass(
            cls, view.shape, dtype=view.dtype, device=torch.device("cpu"), requires_grad=False
        )
        made._making, made._name, made._view = making, name, view
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunctionSubclass():
            if name == "copy_" and isinstance(args[1], cls) and not isinstance(args[0], cls):
                return args[1]._copied(args[0])
            if name in _VIEWS and isinstance(args[0], cls):
                seen = args[0]._seen(func, args, kwargs)
                if seen is not None:
                    return seen
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Whatever else is done with it: with the tensor itself, made for that."""
        made, named = torch.utils._pytree.tree_map_only(
            cls, lambda lazy: lazy._making.tensor(lazy._name, lazy._view), (args, kwargs or {})
        )
        return func(*made, **named)

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"LazyTensor({self._name}, {tuple(self.shape)}, {self.dtype})"

    def _copied(self, target: Tensor) -> Tensor:
        self._making.take(self._name, self._view, target.dtype)
        if target.is_meta:  # vLLM's layerwise reload counts elements before it loads them
            return target.copy_(self._view)
        if self._making.write:
            self._making.fill(self._name, self._view, target)
        return target

    def _seen(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The views that `func` makes of this one; None if it makes others."""
        result = func(self._view, *args[1:], **kwargs)
        views = [result] if isinstance(result, Tensor) else list(result)
        if any(_storage(view) != _storage(self._view) for view in views):
            return None
        if any(view.dtype != self._view.dtype for view in views):
            return None  # other numbers of the same memory: strides count other elements
        made = [LazyTensor(self._making, self._name, view) for view in views]
        return made[0] if isinstance(result, Tensor) else tuple(made)


class Rehearsal(TorchFunctionMode):
    """While it lasts nothing is written into `live` tensors: what would be is counted instead.

    Attributes:
        written: elements that would have been written into each tensor, by name.
    """

    def __init__(self, live: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {_storage(tensor): name for name, tensor in live.items()}
        self.written: dict[str, int] = dict.fromkeys(live, 0)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("copy_", "fill_", "zero_", "__setitem__") and type(args[0]) is not LazyTensor:
            with torch._C.DisableTorchFunctionSubclass():
                at = self._names.get(_storage(args[0]))
                if at is not None:
                    target, given = args[0], args[1] if name == "copy_" else None
                    if name == "__setitem__":
                        target, given = args[0][args[1]], args[2]
                    if isinstance(given, Tensor):  # the shapes fit, or this raises
                        room = torch.empty(target.shape, device="meta")
                        room[...] = torch.empty(given.shape, device="meta")
                    if isinstance(given, LazyTensor):
                        given._making.take(given._name, given._view, target.dtype)
                    self.written[at] += target.numel()
                    return args[0]
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    """What all views of one memory have in common, on the meta device too."""
    return int(tensor.untyped_storage()._cdata)
