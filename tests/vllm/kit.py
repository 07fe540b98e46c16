"""Engines, recipes and what fresh engines answer."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file, save_file

from merge_core import MergePlan, Recipe
from merge_core.writing import write_merge, write_skeleton
from objectives.engines import VllmConfig, make_engine
from objectives.engines.base import Generation, GenerationSettings, Prompt
from objectives.engines.vllm import VllmEngine
from search.demo import Trio
from search.demo.world import draw_problems

FULL = os.environ.get("MERGEFRONT_VLLM_FULL") == "1"
RECIPES = 20
"""Random recipes of tied models, in every combination; of untied ones `UNTIED`."""
UNTIED = RECIPES if FULL else 5

SMALL: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 128,
    "enforce_eager": True,
    "max_num_seqs": 64,
    "kv_cache_memory_bytes": 32 * 2**20,
}
SETTINGS = GenerationSettings(max_tokens=40)


def prompts(count: int = 48, times: int = 1) -> list[Prompt]:
    """Questions of the demo's world, each so many times over; every second one in English."""
    problems = draw_problems(count, seed=5)
    texts = [problem.question("en" if n % 2 else "th") for n, problem in enumerate(problems)]
    texts = [" . ".join([text] * times) for text in texts]
    return [Prompt(str(n), ({"role": "user", "content": text},)) for n, text in enumerate(texts)]


def vllm(folder: Path, **changes: Any) -> VllmEngine:
    """A live engine on the model in `folder`."""
    with _llvmlite_hidden():
        engine = make_engine(VllmConfig(**SMALL | changes), folder)
    assert isinstance(engine, VllmEngine)
    return engine


@contextlib.contextmanager
def started(plan: MergePlan, **changes: Any) -> Iterator[VllmEngine]:
    """A live engine on a merge's skeleton, as a worker starts it."""
    with tempfile.TemporaryDirectory() as folder:
        write_skeleton(plan, Path(folder))
        engine = vllm(Path(folder), **changes)
    with engine:
        yield engine


@contextlib.contextmanager
def _llvmlite_hidden() -> Iterator[None]:
    """vLLM's CPU build looks through all modules, and stumbles over one of llvmlite's objects."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if "llvmlite" in name}
    try:
        yield
    finally:
        sys.modules.update(hidden)


def untie(trio: Trio, root: Path) -> Trio:
    """Copies of the trio whose heads are not their embeddings."""
    for seed, name in enumerate(("base", "language", "reasoning")):
        folder = shutil.copytree(getattr(trio, name), root / name)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
        tensors = load_file(folder / "model.safetensors")
        head = tensors["model.embed_tokens.weight"]
        noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
        tensors["lm_head.weight"] = (head.float() + 0.02 * noise).to(head.dtype)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Trio(root, root / "base", root / "language", root / "reasoning")


def recipe(trio: Trio, method: str, one: dict, two: dict, **changes: Any) -> Recipe:
    """A merge of the trio in float32."""
    data = {
        "merge_method": method,
        "base_model": str(trio.base),
        "models": [
            {"model": str(trio.language), "name": "language", "parameters": one},
            {"model": str(trio.reasoning), "name": "reasoning", "parameters": two},
        ],
        "dtype": "float32",
        "seed": 3,
    }
    return Recipe.parse(data | changes)


def recipes(trio: Trio, count: int = RECIPES) -> list[Recipe]:
    """Random merges of mixed methods, every second one with weights by layer."""
    rng = random.Random(11)
    found = []
    methods = ("linear", "task_arithmetic", "ties", "ties_sv", "dare_ties")
    for number in range(count):
        method = methods[number % len(methods)]
        settings = []
        for _ in range(2):
            weight: Any = round(rng.uniform(0.3, 1.1), 3)
            if number % 2:
                weight = [round(rng.uniform(0.2, 1.2), 3) for _ in range(rng.choice((2, 4)))]
            own: dict[str, Any] = {"weight": weight}
            if method not in ("linear", "task_arithmetic"):
                own["density"] = round(rng.uniform(0.1, 0.8), 2)
            if method == "ties_sv":
                own["slack"] = round(rng.uniform(0.0, 1.0), 2)
            settings.append(own)
        found.append(recipe(trio, method, *settings))
    return found


class FreshAnswers:
    """What engines that were started on a saved merge say, by recipe; asked once each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, list[Generation]] = {}

    def of(
        self, merge: Recipe, asked: Sequence[Prompt] | None = None, **changes: Any
    ) -> list[Generation]:
        """The answers to `asked`, or `prompts()`, of an engine that has loaded its own folder only.

        To be asked while no other engine is live: those in one process share vLLM's groups.
        """
        asked = prompts() if asked is None else asked
        key = json.dumps([merge.plain(), changes, len(asked)], sort_keys=True)
        if key not in self._known:
            saved = self._folder / "merge"
            write_merge(MergePlan(merge), saved)
            with vllm(saved, **changes) as engine:
                self._known[key] = engine.generate(asked, SETTINGS)
            shutil.rmtree(saved)
        return self._known[key]


def resident() -> int:
    """Bytes that this process and its children hold of their own."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_full_info().uss for process in processes)
