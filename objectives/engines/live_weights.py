"""Writing a weight source into a live model, in place, after checking everything first."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from objectives.errors import EngineError
from objectives.tables import did_you_mean
from objectives.weights import TensorSpec, WeightSource, short, yielded


class LiveWeights:
    """The parameters and persistent buffers of a live model under their checkpoint names.

    Names that share one tensor (tied embeddings) count once, under the first of them; a source
    must give that one only.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        self._tied: dict[str, str] = {}  # second name -> the name it is loaded under
        first_names: dict[int, str] = {}
        # keep_vars gives the parameters themselves, so that tied ones are one object.
        for name, tensor in model.state_dict(keep_vars=True).items():
            first = first_names.setdefault(id(tensor), name)
            if first == name:
                self._tensors[name] = tensor
            else:
                self._tied[name] = first
        # Old checkpoints carry rotary caches and the like, which the live model computes itself.
        unused = [name for name, _ in model.named_buffers() if name not in self._tensors]
        patterns: Any = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
        self._ignored = [re.compile(re.escape(name)) for name in unused]
        self._ignored += [re.compile(pattern) for pattern in patterns]

    def check(self, specs: Mapping[str, TensorSpec]) -> None:
        """Hold every name, shape and dtype against the live model.

        Raises:
            EngineError: the first thing that does not fit, named with both sides.
        """
        for name, spec in specs.items():
            live = self._tensors.get(name)
            if live is None:
                self._unexpected(name)
                continue
            if tuple(spec.shape) != tuple(live.shape):
                raise EngineError(
                    f"{name}: the source has shape {tuple(spec.shape)}, the live model"
                    f" {tuple(live.shape)}; start the engine from a model of the merge's shapes"
                )
            if spec.dtype != live.dtype:
                raise EngineError(
                    f"{name}: the source has dtype {short(spec.dtype)}, the live model"
                    f" {short(live.dtype)}; set the recipe's or the engine's dtype so they agree"
                )
        missing = [name for name in self._tensors if name not in specs]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise EngineError(
                f"the source lacks {missing[0]}{more} of {len(self._tensors)} tensors of the live"
                " model; check that both have one architecture"
            )

    @torch.no_grad()
    def write(self, source: WeightSource, specs: Mapping[str, TensorSpec]) -> None:
        """Copy every tensor into place as it comes; `specs` must have passed `check`.

        Raises:
            EngineError: the source yields what its specs did not say, or ends early.
        """
        missing = set(self._tensors)
        for name, tensor in yielded(source, specs):
            live = self._tensors.get(name)
            if live is not None:
                live.copy_(tensor)
                missing.discard(name)
        if missing:
            raise EngineError(f"the source ended without {min(missing)}; mend it")

    def _unexpected(self, name: str) -> None:
        if name in self._tied:
            raise EngineError(
                f"the source holds {name} apart from {self._tied[name]}, but the live model ties"
                " them; start the engine from a model with tie_word_embeddings: false"
            )
        if not any(pattern.search(name) for pattern in self._ignored):
            hint = did_you_mean(name, self._tensors)
            hint = hint if hint.startswith("did") else "check that both have one architecture"
            raise EngineError(f"the live model has no tensor {name}; {hint}")
