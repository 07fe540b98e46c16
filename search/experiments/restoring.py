"""TIES-SV with other criteria than its own for what slack gives back: for experiments alone.

Recipes and kernels know the paper's criterion and no other. Here a merge is made by the readable
reference (`merge_core.reference`), tensor by tensor, and written as a checkpoint, which is then
scored as any model is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from merge_core import MergePlan, Recipe, reference
from merge_core.arithmetic import Float32
from merge_core.errors import CheckpointError
from merge_core.random import tensor_ids
from merge_core.reference import Criterion, nearest
from merge_core.writing import write_skeleton
from search.errors import ConfigError

Kind = Literal["magnitude", "farthest", "random", "fisher"]
"""What is restored first:

magnitude  where the expert's magnitude is nearest to the winner's: the paper's, slack rule 1
farthest   where it is farthest from it: the paper's turned round
random     any, by a seeded draw
fisher     what the expert's own answers depend on most: largest diagonal Fisher information
"""

_LARGEST = np.uint32(0x7F7FFFFF)  # bits of the largest finite float32


def criterion_of(kind: Kind, *, seed: int = 0, fisher: Path | None = None) -> Criterion:
    """The criterion called `kind`.

    Args:
        kind: which.
        seed: of random's draw.
        fisher: safetensors file with a tensor for each of the model's, shaped as it.

    Raises:
        ConfigError: fisher without a file.
    """
    if kind == "magnitude":
        return nearest
    if kind == "farthest":
        return lambda i, name, delta, opponent: _reversed(nearest(i, name, delta, opponent))
    if kind == "random":

        def drawn(expert: int, tensor: str, delta: Float32, opponent: Float32) -> Float32:
            del opponent
            stream = [seed, expert, tensor_ids([tensor])[tensor]]
            return np.random.default_rng(stream).random(delta.size, np.float32)

        return drawn
    if fisher is None:
        raise ConfigError("criterion fisher needs a file of Fisher information")

    def informed(expert: int, tensor: str, delta: Float32, opponent: Float32) -> Float32:
        del expert, opponent
        with safe_open(fisher, "pt") as file:
            if tensor not in file.keys():  # noqa: SIM118 (it is no dictionary)
                raise CheckpointError(f"{fisher}: lacks tensor {tensor} that the models have")
            held = file.get_tensor(tensor).to(torch.float32).reshape(-1).numpy()
        if held.size != delta.size or not (np.isfinite(held).all() and (held >= 0).all()):
            raise CheckpointError(
                f"{fisher}: tensor {tensor} is not {delta.size} finite numbers of 0 or more"
            )
        return _reversed(held)

    return informed


def _reversed(key: Float32) -> Float32:
    """Non-negative finite numbers in the opposite order, exactly."""
    bits: Float32 = (_LARGEST - np.abs(key).view(np.uint32)).view(np.float32)
    return bits


def write_restored(recipe: Recipe, criterion: Criterion, folder: Path) -> None:
    """Write the merge of a recipe, with this criterion for its slack, as a checkpoint.

    One tensor and its copies are in memory at a time, all merged tensors at the end: for models
    of a few billion parameters. With `nearest` the bits are those of any other merge.

    Raises:
        ConfigError: the recipe's models differ in vocabulary, or it ranks over the whole model.
    """
    plan = MergePlan(recipe)
    sources = plan.sources
    if sources.alignment is not None:
        raise ConfigError("criteria for slack need models of one vocabulary")
    if "scope" in recipe.method.by_name and recipe.flag("scope") == "model":
        raise ConfigError("criteria for slack need `scope: tensor`, which is the default")
    assert sources.base is not None
    merged = {}
    for name, spec in plan.specs().items():
        if not sources.mergeable(name):
            merged[name] = plan.tensor(name).clone()
            continue
        base, *experts = ({name: source.tensor(source.stored_name(name))} for source in sources.all)
        merged |= reference.merge(recipe, base, experts, sources.depths, spec.dtype, criterion)
    folder.mkdir(parents=True, exist_ok=True)
    write_skeleton(plan, folder)
    save_file(merged, folder / "model.safetensors", metadata={"format": "pt"})


def fingerprint_of(plain: str, kind: Kind, *, seed: int, fisher: Path | None) -> str:
    """The name of a recipe's merge with a criterion.

    Args:
        plain: the recipe's own fingerprint.
        kind: the criterion; the paper's leaves the fingerprint as it is.
        seed: counts for random.
        fisher: counts for fisher, by its contents.
    """
    if kind == "magnitude":
        return plain
    said: Mapping[str, Any] = {"recipe": plain, "criterion": kind}
    if kind == "random":
        said = {**said, "seed": seed}
    if kind == "fisher" and fisher is not None:
        with fisher.open("rb") as file:
            said = {**said, "fisher": hashlib.file_digest(file, "sha256").hexdigest()}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
