"""LoRA adapters on a base, as PEFT stores them: a base's weights plus low-rank differences.

The names and the meaning of the stored tensors are PEFT's (github.com/huggingface/peft, docs:
developer_guides/checkpoint); what its `merge_and_unload` gives is the model that counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from merge_core.adapter_config import AdapterConfig
from merge_core.checkpoint import (
    EMBEDDINGS,
    HEAD,
    Checkpoint,
    StoredTensors,
    TensorSpec,
    files_sha256,
    open_safetensors,
    refuse_pickle,
    refuse_strange_links,
    tiles,
)
from merge_core.errors import CheckpointError
from merge_core.kernels.lowrank import fill_low_rank
from merge_core.pages import Span

ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<rows>[AB]))")
_INSIDE = re.compile(r"(.+)\.(base_layer|modules_to_save|original_module)\.(weight|bias)")


@dataclass(frozen=True, eq=False)
class LowRank:
    """A difference from a stored tensor: scale * (B @ A), in the tensor's own layout.

    Element (i, j) is float32(scale * sum_k B_ik * A_kj): every product and every sum is rounded to
    float32, k ascends, the sum starts with the first product, nothing is fused, and the scale is
    one multiplication at the end. So a slice has the bits of the whole.

    PEFT multiplies the same float32 factors by the same scale, but its BLAS sums in another order
    and fuses. With u = 2^-24 and g(n) = n u / (1 - n u), both are within g(r + 1) |scale|
    sum_k |B_ik| |A_kj| of the exact product (Higham, Accuracy and Stability, 3.1; r is the rank,
    products that underflow aside), hence within twice that of each other. PEFT's float32 merge
    rounds the sum with the base once more: u |base + difference|.

    Attributes:
        B: float32 [rows, rank], contiguous.
        A: float32 [rank, columns], contiguous.
        scale: the adapter's scale.
    """

    B: NDArray[np.float32]
    A: NDArray[np.float32]
    scale: np.float32

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the tensor."""
        return self.B.shape[0], self.A.shape[1]

    @property
    def rank(self) -> int:
        """Number of products in each element's sum."""
        return int(self.A.shape[0])

    def fill(self, out: NDArray[np.float32], start: int) -> None:
        """Write flat elements [start, start + out.size) into `out`, float32 [n], contiguous.

        Releases the GIL; runs on the caller's thread alone.
        """
        assert out.dtype == np.float32, "differences are float32"
        assert out.ndim == 1, "flat elements are written"
        assert out.flags.c_contiguous, "numba compiles for contiguous arrays"
        assert 0 <= start <= start + out.size <= self.shape[0] * self.shape[1], "outside the tensor"
        fill_low_rank(out, start, self.B, self.A, self.scale)


@dataclass
class _Factors:
    """Names of the stored factors of one module, and how they are read.

    Attributes:
        module: its name in the base model.
        kind: "linear" (A [rank, in], B [out, rank]) or "rows" (embedding: A [rank, rows]).
        stored: "A" and "B" to tensor names.
        turned: the tensor is the transposed product.
    """

    module: str
    kind: str
    stored: dict[str, str]
    turned: bool = False


class AdaptedCheckpoint(Checkpoint):
    """A base model with a LoRA adapter, of which nothing is formed before it is asked for.

    Of a tensor the adapter either changes nothing, or stores a low-rank difference (`delta`), or
    stores all of it (`replaces`). Where it stores an embedding's frozen weights beside a
    difference, as PEFT does for adapted and for resized embeddings, and those are not the base's,
    the sum is formed in float32 and replaces the tensor.

    Where base shares its head, PEFT's merge decides: a difference of either tensor is one of the
    shared tensor; a copy of either that was trained by itself unties them.

    Picklable, as a `Checkpoint`.

    Attributes:
        base: the opened base.
        path: the adapter's folder.
        config: base's; `tie_word_embeddings` is false where the adapter unties.
        specs: base's; what is replaced has the adapter's shape and dtype.

    Raises:
        CheckpointError: the adapter is damaged, fits another base, or is none that is merged.
    """

    def __init__(self, reference: str, base: Checkpoint, path: Path) -> None:
        # Not Checkpoint's: an adapter's folder holds neither a configuration nor a model.
        assert not isinstance(base, AdaptedCheckpoint), "one adapter a base"
        self.reference = reference
        self.path = path
        self.base = base
        self.config: dict[str, Any] = base.config
        refuse_strange_links(path)
        self.adapter_config = AdapterConfig.read(path)
        self._file = path / ADAPTER_FILE
        if base.config.get("quantization_config"):
            raise CheckpointError(
                f"{base.path}: is quantized; name its full-precision original as the adapter's base"
            )
        if not self._file.is_file():
            refuse_pickle(path / "adapter_model.bin")
            raise CheckpointError(f"{path}: has no {ADAPTER_FILE}")
        self._adapter = StoredTensors(
            dict.fromkeys(open_safetensors(self._file).keys(), self._file)
        )
        self._factors: dict[str, _Factors] = {}
        self._whole: dict[str, str] = {}
        self._frozen: dict[str, str] = {}
        self._base_name: dict[str, str] = {}
        self._read_names()
        self._settle_tying()
        self.specs = self._checked_specs()
        self._settle_layouts()
        for name in [n for n in self._frozen if self._is_base(n)]:
            del self._frozen[name]
        for name in self._frozen:
            self.specs[name] = TensorSpec(self.specs[name].shape, torch.float32)
        self._latest: tuple[str, LowRank] | None = None
        self._formed: dict[str, torch.Tensor] = {}

    # ---- what is asked of it

    def delta(self, name: str) -> LowRank | None:
        """The difference that the adapter makes to `tensor(name)`; None where it makes none."""
        if name not in self._factors or name in self._frozen:
            return None
        latest = self._latest  # asked for slice by slice, from several threads
        if latest is None or latest[0] != name:
            latest = self._latest = name, self._low_rank(name)
        return latest[1]

    def replaces(self, name: str) -> bool:
        """Whether `tensor(name)` is the adapter's, not base's."""
        return name in self._whole or name in self._frozen

    def tensor(self, name: str) -> torch.Tensor:
        """The replaced tensor, or base's stored one: without `delta(name)`, which is not added."""
        if name in self._whole:
            return self._adapter.tensor(self._whole[name])
        if name not in self._frozen:
            return self.base.tensor(self._base_name.get(name, name))
        if name not in self._formed:
            flat = torch.empty(self.specs[name].numel, dtype=torch.float32)
            self._low_rank(name).fill(flat.numpy(), 0)
            flat += self._adapter.tensor(self._frozen[name]).reshape(-1).float()
            self._formed[name] = flat.reshape(self.specs[name].shape)
        return self._formed[name]

    def span(self, name: str) -> Span:
        """Where most bytes of `tensor(name)` lie."""
        if name in self._whole:
            return self._adapter.span(self._whole[name])
        if name in self._frozen:
            return self._adapter.span(self._frozen[name])
        return self.base.span(self._base_name.get(name, name))

    @property
    def files(self) -> list[Path]:
        return [*self.base.files, self.adapter_config.file, self._file]

    @property
    def tokenizer_path(self) -> Path:
        """The adapter's folder if it has a tokenizer.json, otherwise base's."""
        return self.path if (self.path / "tokenizer.json").is_file() else self.base.tokenizer_path

    @property
    def layers(self) -> int:
        return self.base.layers

    def sha256(self) -> dict[str, str]:
        """sha256 of each file, as `base/<name>` and `adapter/<name>`. Reads everything once."""
        own = (self.adapter_config.file, self._file)
        digests = {f"base/{name}": digest for name, digest in self.base.sha256().items()}
        return digests | files_sha256({f"adapter/{file.name}": file for file in own})

    def check_finite(self) -> None:
        """Raise CheckpointError, naming file and tensor, if base or adapter is not finite."""
        self.base.check_finite()
        self._adapter.check_finite()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_latest": None, "_formed": {}}

    # ---- opening

    def _read_names(self) -> None:
        """Sort the adapter's tensors into factors, whole tensors and frozen weights."""
        for stored in self._adapter.specs:
            if not stored.startswith(_PREFIX):
                raise self._unknown(stored)
            name = stored.removeprefix(_PREFIX)
            if factor := _FACTOR.fullmatch(name):
                kind = "linear" if factor["linear"] else "rows"
                found = self._factors.setdefault(
                    f"{factor[1]}.weight", _Factors(factor[1], kind, {})
                )
                if found.kind != kind:
                    raise self._unknown(stored)
                found.stored[factor["linear"] or factor["rows"]] = stored
            elif (inside := _INSIDE.fullmatch(name)) is None:
                self._whole[name] = stored  # after its copies of the next lines, in name order
            elif inside[2] == "modules_to_save":
                self._whole[f"{inside[1]}.{inside[3]}"] = stored
            elif inside[2] == "base_layer":
                kinds = self._frozen if inside[3] == "weight" else self._whole
                kinds[f"{inside[1]}.{inside[3]}"] = stored
            elif not self.adapter_config.trains_whole(inside[1]):
                raise self._unknown(stored)
        if not self._adapter.specs:
            raise CheckpointError(f"{self._file}: holds no tensors: save the adapter again")
        known = {*self.base.specs, HEAD} if self.base.shares_head else set(self.base.specs)
        for tensors in (self._factor_names(), self._whole, self._frozen):
            for name, stored in tensors.items():
                if name not in known:
                    raise self._unknown(stored)
        for factors in self._factors.values():
            if len(factors.stored) < 2:
                (stored,) = factors.stored.values()
                raise CheckpointError(f"{self._file}: {stored} lacks its other factor")

    def _factor_names(self) -> dict[str, str]:
        return {name: next(iter(f.stored.values())) for name, f in self._factors.items()}

    def _unknown(self, stored: str) -> CheckpointError:
        return CheckpointError(
            f"{self._file}: {stored} belongs to no tensor of {self.base.path}: another base, a "
            "checkpoint whose names are not its modules', or an adapter that is not plain LoRA"
        )

    def _settle_tying(self) -> None:
        """Where base shares its head: one tensor or two, as PEFT's merge leaves them."""
        named = {*self._factors, *self._whole}
        if not self.base.shares_head or not any(n == HEAD or n.endswith(EMBEDDINGS) for n in named):
            return
        shared = self.base.stored_name(HEAD)
        config = self.adapter_config
        whole = [name for name in (shared, HEAD) if name in self._whole]
        if not config.keeps_tying and any(
            config.trains_whole(name.removesuffix(".weight")) for name in whole
        ):
            self.config = {**self.base.config, "tie_word_embeddings": False}
            self._base_name[HEAD] = shared
            return
        if HEAD in self._factors and shared in self._factors:
            raise CheckpointError(
                f"{self._file}: adapts both {shared} and the head, which share one tensor in "
                f"{self.base.path}; merge the adapter into its base first"
            )
        if len(whole) == 2 and not torch.equal(
            *(self._adapter.tensor(self._whole[name]) for name in whole)
        ):
            raise CheckpointError(
                f"{self._file}: stores a head that differs from {shared}, with which "
                f"{self.base.path} shares it; merge the adapter into its base first"
            )
        tables: tuple[dict[str, Any], ...] = (self._factors, self._whole, self._frozen)
        for table in tables:
            if HEAD in table:
                table[shared] = table.pop(HEAD)

    def _checked_specs(self) -> dict[str, TensorSpec]:
        """Shapes and dtypes with the adapter: only vocabularies may differ from base's."""
        untied = HEAD in self._base_name
        specs = dict(self.base.specs)
        if untied:
            specs[HEAD] = self.base.specs[self._base_name[HEAD]]
        elif self.base.shares_head:
            specs.pop(HEAD, None)
        for name, stored in {**self._frozen, **self._whole}.items():
            found, expected = self._adapter.specs[stored], specs[name]
            free = 1 if name == HEAD or name.endswith(EMBEDDINGS) else 0
            if (
                len(found.shape) != len(expected.shape)
                or found.shape[free:] != expected.shape[free:]
                or found.floating != expected.floating
            ):
                raise CheckpointError(
                    f"{self._file}: {stored} is {list(found.shape)} of {found.dtype}, in "
                    f"{self.base.path} it is {list(expected.shape)} of {expected.dtype}"
                )
            if (name in self._factors) != (name in self._frozen) or (
                name in self._whole and name in self._frozen
            ):
                raise self._unknown(stored)
            specs[name] = found
        self._check_rows(specs)
        return dict(sorted(specs.items()))

    def _check_rows(self, specs: dict[str, TensorSpec]) -> None:
        """A vocabulary is resized as a whole."""
        embeddings = [n for n in specs if n.endswith(EMBEDDINGS)]
        if HEAD not in specs or len(embeddings) != 1:
            return
        resized = [
            specs[name].shape[0] != self.base.specs[self.base.stored_name(name)].shape[0]
            for name in (embeddings[0], HEAD)
        ]
        if specs[embeddings[0]].shape[0] != specs[HEAD].shape[0] and any(resized):
            raise CheckpointError(
                f"{self._file}: {embeddings[0]} has {specs[embeddings[0]].shape[0]} rows and "
                f"{HEAD} {specs[HEAD].shape[0]}: it lacks one of the two; save the adapter with "
                "save_embedding_layers=True"
            )

    def _settle_layouts(self) -> None:
        """Check the factors' shapes; settle which products are stored transposed."""
        square, against = [], []
        for name, factors in self._factors.items():
            a, b = (self._adapter.specs[factors.stored[key]] for key in "AB")
            shape = self.specs[name].shape
            rank = self.adapter_config.rank_of(factors.module)
            found = f"{factors.stored['A']} is {list(a.shape)} and its B {list(b.shape)}"
            if (len(a.shape), len(b.shape)) != (2, 2) or not (a.floating and b.floating):
                raise CheckpointError(
                    f"{self._file}: {found}; only adapters of linear layers and embeddings are "
                    "merged: merge it into its base with PEFT first"
                )
            if (a.shape[0], b.shape[1]) != (rank, rank):
                raise CheckpointError(
                    f"{self._file}: {found}; {self.adapter_config.file.name} gives rank {rank}"
                )
            product = (b.shape[0], a.shape[1])
            if factors.kind == "rows":
                factors.turned = True
            else:
                factors.turned = self.adapter_config.transposed
                if product[0] == product[1]:
                    square.append(name)
                elif product == (shape[::-1] if not factors.turned else shape):
                    # PEFT goes by the layer's class; the setting is only what the last one had.
                    factors.turned = not factors.turned
                    against.append(name)
            if shape != (product[::-1] if factors.turned else product):
                raise CheckpointError(
                    f"{self._file}: {factors.stored['A']} and its B make {list(product)}, "
                    f"{name} in {self.base.path} is {list(shape)}"
                )
        if square and against:
            raise CheckpointError(
                f"{self.adapter_config.file}: fan_in_fan_out does not hold for {against[0]}, so "
                f"the layout of {square[0]} is not known; merge the adapter into its base first"
            )

    # ---- bytes

    def _is_base(self, name: str) -> bool:
        """Whether the frozen weights are base's, as far as the narrower dtype of both can tell."""
        frozen = self._adapter.tensor(self._frozen[name])
        stored = self.base.tensor(self._base_name.get(name, name))
        if frozen.shape != stored.shape:
            return False
        frozen, stored = frozen.reshape(-1), stored.reshape(-1)
        equal = [True, True]
        for start, stop in tiles(frozen.numel(), 1 << 22):
            x, y = frozen[start:stop], stored[start:stop]
            equal = [
                equal[0] and torch.equal(x, y.to(x.dtype)),
                equal[1] and torch.equal(x.to(y.dtype), y),
            ]
            if not any(equal):
                return False
        return True

    def _low_rank(self, name: str) -> LowRank:
        factors = self._factors[name]
        a, b = (self._adapter.tensor(factors.stored[key]).float().numpy() for key in "AB")
        if factors.turned:
            a, b = b.T, a.T
        return LowRank(
            np.ascontiguousarray(b),
            np.ascontiguousarray(a),
            self.adapter_config.scale_of(factors.module),
        )
