"""Models, recipes and what mergekit makes of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.agreement import Difference, compare
from benchmarks.models import names, write_set
from merge_core import MergePlan, Recipe, write_merge
from merge_core.mergekit import to_mergekit
from merge_core.yaml_io import dump_yaml

SMALL, LARGE = 1.1, 20.0
"""Millions of parameters of the sets: 24 layers each."""
HEAD, NORM = "lm_head.weight", "model.norm.weight"

# What its console script does, for many files: to import it takes as long as thirty small merges.
_RUN_ALL = """
import json, sys
from mergekit.scripts.run_yaml import main
for file, out in json.load(open(sys.argv[1])):
    main([file, out], standalone_mode=False)
"""


@dataclass(frozen=True)
class Case:
    """A recipe on one of the sets.

    Attributes:
        method: of the merge.
        own: parameters of the first and of the second expert.
        shared: of the merge.
        models: name of the set: "tied" and "untied" are small, "large" is tied.
        experts: how many.
    """

    method: str
    own: tuple[Mapping[str, Any], ...] = ({"weight": 0.73}, {"weight": 0.4})
    shared: Mapping[str, Any] | None = None
    models: str = "tied"

    def recipe(self, sets: Mapping[str, Path]) -> Recipe:
        """It, with the set's places."""
        folder = sets[self.models]
        data: dict[str, Any] = {
            "merge_method": self.method,
            "base_model": str(folder / "base"),
            "models": [
                {"model": str(folder / name), "name": name, "parameters": dict(own)}
                for name, own in zip(names(len(self.own))[1:], self.own, strict=True)
            ],
            "parameters": dict(self.shared or {}),
            "dtype": "bfloat16",
        }
        if self.method == "linear":
            del data["base_model"]
        if self.method == "slerp":
            data["models"] = [{"model": str(folder / name)} for name in names(1)]
        return Recipe.parse(data)


def write_sets(root: Path) -> dict[str, Path]:
    """The sets, on disk."""
    sets = {"tied": root / "tied", "untied": root / "untied", "large": root / "large"}
    write_set(sets["tied"], SMALL)
    write_set(sets["large"], LARGE)
    shutil.copytree(sets["tied"], sets["untied"])
    for seed, name in enumerate(names(2)):
        _untie(sets["untied"] / name, seed)
    return sets


def _untie(folder: Path, seed: int) -> None:
    """Give a model a head of its own, near its embedding."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["model.embed_tokens.weight"].float()
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(seed))
    tensors[HEAD] = (embedding + 2e-3 * noise).bfloat16()
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))


def write_config(recipe: Recipe, file: Path, **changes: Any) -> Path:
    """The export of `recipe`, as mergekit gets it; `changes` replace keys, None removes one."""
    data = to_mergekit(recipe) | changes
    file.write_text(dump_yaml({k: v for k, v in data.items() if v is not None}), encoding="utf-8")
    return file


def run_mergekit(mergekit: Path, jobs: Sequence[tuple[Path, Path]], work: Path) -> None:
    """`mergekit-yaml FILE OUT` for each pair, one after the other in one process."""
    file = work / "jobs.json"
    file.write_text(json.dumps([[str(one), str(other)] for one, other in jobs]))
    started = [mergekit / "python", "-c", _RUN_ALL, file]
    ended = subprocess.run(started, capture_output=True, text=True, env=environment(), timeout=1000)
    assert ended.returncode == 0, ended.stderr[-3000:]


def environment() -> dict[str, str]:
    """No hub, and no path of ours: mergekit's process imports nothing of this repository."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def merged(recipe: Recipe, out: Path) -> Path:
    """Our merge of `recipe`, written."""
    write_merge(MergePlan(recipe), out)
    return out


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a written merge."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def difference(recipe: Recipe, one: Path, other: Path) -> Difference:
    """How far two written merges of `recipe` are apart."""
    return compare(recipe, one, other)
