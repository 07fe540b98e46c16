"""What PEFT's adapter_config.json says of a LoRA adapter, and what of it cannot be merged.

The tensors of an adapter are a low-rank difference from its base only for plain LoRA; for every
other variant of PEFT the file is refused by the name of its setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import regex

from merge_core.checkpoint import ADAPTER_CONFIG, read_json
from merge_core.errors import CheckpointError
from merge_core.yaml_io import one_line

_PATIENCE = 1.0  # seconds for one pattern and one name: the worst patterns take for ever

_READ = (
    "peft_type",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "fan_in_fan_out",
    "modules_to_save",
    "ensure_weight_tying",
    "init_lora_weights",
)
_NO_MATTER = (
    # What was trained shows in the stored tensors; what only training used is spent.
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "enable_lora",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
)
_REFUSED = {
    "alora_invocation_tokens": "activated LoRA, which acts on some tokens only",
    "arrow_config": "Arrow, which routes between adapters",
    "kasa_config": "KaSA, which changes the base weights",
    "layer_replication": "a base whose layers are repeated",
    "lora_bias": "LoRA with biases of its own",
    "megatron_config": "LoRA on Megatron's layers",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "LoRA on bare parameters, such as fused experts",
    "trainable_token_indices": "single trained rows of the embedding",
    "use_bdlora": "block-diagonal LoRA",
    "use_dora": "DoRA, which rescales the adapted weights",
    "use_qalora": "QALoRA, which groups the inputs",
    "velora_config": "VeLoRA",
}
_LARGEST = float(np.finfo(np.float32).max)
_KEPT_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initializations that leave the base's weights as they were."""


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of a plain LoRA adapter.

    Attributes:
        file: adapter_config.json.
        rank: of the modules that no pattern names.
        alpha: of the modules that no pattern names.
        ranks: ranks by pattern, in the file's order.
        alphas: alphas by pattern, in the file's order.
        stabilized: whether the scale is alpha / sqrt(rank) instead of alpha / rank.
        transposed: whether the adapted layers store [inputs, outputs].
        saved: ends of the names of modules that were trained whole, on a copy of their own.
        keeps_tying: whether copies of tied modules were tied too.
    """

    file: Path
    rank: int
    alpha: float
    ranks: dict[str, int]
    alphas: dict[str, float]
    stabilized: bool
    transposed: bool
    saved: tuple[str, ...]
    keeps_tying: bool

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Read the adapter_config.json of a folder.

        Raises:
            CheckpointError: it is missing or damaged, or asks for what is not merged.
        """
        file = folder / ADAPTER_CONFIG
        data = read_json(file, "what follows + is the folder of a LoRA adapter")
        _check_plain(file, data)
        ranks = _patterns(file, data, "rank_pattern")
        for rank in (data.get("r"), *ranks.values()):
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
                raise CheckpointError(
                    f"{file}: a rank is {str(rank)[:40]}; it is a whole number from 1"
                )
        alphas = _patterns(file, data, "alpha_pattern")
        for alpha in (data.get("lora_alpha"), *alphas.values()):
            number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
            if not number or not abs(alpha) <= _LARGEST:
                raise CheckpointError(
                    f"{file}: an alpha is {str(alpha)[:40]}; it is a number that float32 holds"
                )
        saved = data.get("modules_to_save") or []
        if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
            raise CheckpointError(f"{file}: modules_to_save is {saved!r}; it is a list of names")
        return cls(
            file=file,
            rank=data["r"],
            alpha=float(data["lora_alpha"]),
            ranks=ranks,
            alphas={pattern: float(alpha) for pattern, alpha in alphas.items()},
            stabilized=_flag(file, data, "use_rslora"),
            transposed=_flag(file, data, "fan_in_fan_out"),
            saved=tuple(saved),
            keeps_tying=_flag(file, data, "ensure_weight_tying"),
        )

    def rank_of(self, module: str) -> int:
        """The rank of a module, by its name in the base model."""
        return int(self._of(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> np.float32:
        """What the product of a module's factors is multiplied by."""
        alpha = self._of(self.alphas, module, self.alpha)
        rank = self.rank_of(module)
        return np.float32(alpha / math.sqrt(rank) if self.stabilized else alpha / rank)

    def _of(self, patterns: Mapping[str, float], module: str, default: float) -> float:
        try:
            return next((v for key, v in patterns.items() if _matches(key, module)), default)
        except TimeoutError:
            raise CheckpointError(
                f"{self.file}: a pattern takes for ever to be matched with {module}: simplify it"
            ) from None

    def trains_whole(self, module: str) -> bool:
        """Whether modules_to_save names a module."""
        return any(module.endswith(name) for name in self.saved)


def _check_plain(file: Path, data: dict[str, Any]) -> None:
    if data.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{file}: peft_type is {data.get('peft_type')!r}; of adapters only LORA is merged: "
            "merge it into its base with PEFT first"
        )
    for key, value in data.items():
        if key in _REFUSED and value:
            raise CheckpointError(
                f"{file}: {key} is set: {_REFUSED[key]}, is no low-rank difference from the base; "
                "merge it into its base with PEFT first"
            )
        if key not in (*_READ, *_NO_MATTER, *_REFUSED) and value:
            raise CheckpointError(
                f"{file}: {key} is not known here, so neither is what it does to the weights; "
                "merge the adapter into its base with PEFT first"
            )
    start = data.get("init_lora_weights", True)
    if isinstance(start, str):
        start = start.lower()
    if start not in _KEPT_BASE:
        raise CheckpointError(
            f"{file}: init_lora_weights is {start!r}, which changes the base's weights, and the "
            "adapter is relative to the changed ones; save it with PEFT's "
            "path_initial_model_for_weight_conversion, or merge it into its base first"
        )


def _patterns(file: Path, data: dict[str, Any], key: str) -> dict[str, Any]:
    patterns = data.get(key) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{file}: {key} is {patterns!r}; it is a mapping from module names")
    for pattern in patterns:
        try:
            _matches(pattern, "")
        except (regex.error, TimeoutError, RecursionError, OverflowError) as error:
            raise CheckpointError(
                f"{file}: {key}: {pattern!r} is no regular expression: {one_line(error)}"
            ) from error
    return patterns


def _matches(pattern: str, module: str) -> bool:
    """PEFT's rule: the pattern is the whole name, or what follows one of its dots."""
    return regex.match(rf"(.*\.)?({pattern})$", module, timeout=_PATIENCE) is not None


def _flag(file: Path, data: dict[str, Any], key: str) -> bool:
    value = data.get(key) or False
    if not isinstance(value, bool):
        raise CheckpointError(f"{file}: {key} is {value!r}; it is true or false")
    return value
