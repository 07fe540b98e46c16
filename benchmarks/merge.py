"""Merge one bfloat16 tensor by each method, against a torch copy of the same bytes.

The floor of a merge is (N + 2) * 2 bytes a parameter in bfloat16: read base and experts, write
the merge. Runs of the merge and of the copy alternate, so that a change of the machine's speed
hits both; the ratio is of their medians.

    python -m benchmarks.merge [--millions 45] [--repeats 9]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from merge_core import MergePlan, Recipe
from merge_core.methods import METHODS, get_method

NAME = "model.layers.0.mlp.up_proj.weight"
EXPERTS = 2


def main() -> None:
    """Print one row a method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=45, help="parameters of the tensor")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = options.millions * 1000
        write_models(Path(folder), rows)
        numel = rows * 1000
        floor_bytes = (EXPERTS + 2) * 2 * numel
        source = torch.zeros(floor_bytes // 2, dtype=torch.uint8)
        target = torch.empty_like(source)
        sys.stdout.write(
            f"{numel / 1e6:.0f}M parameters, {EXPERTS} experts, {torch.get_num_threads()} threads; "
            "ratio = merge / copy of the same bytes\n"
            f"{'method':<16} {'ratio':>8} {'ns/param':>10} {'copy GB/s':>10}\n"
        )
        for method in METHODS:
            plan = MergePlan(recipe(Path(folder), method))
            out = torch.empty(numel, dtype=torch.bfloat16)

            def merge_once(plan: MergePlan = plan, out: torch.Tensor = out) -> None:
                plan.elements(NAME, 0, numel, out)

            merge_once()  # page cache warm, trim thresholds made (they are kept per density)
            merges, copies = [], []
            for _ in range(options.repeats):
                merges.append(timed(merge_once))
                copies.append(timed(lambda: target.copy_(source)))
            merge, copy = statistics.median(merges), statistics.median(copies)
            sys.stdout.write(
                f"{method:<16} {merge / copy:8.2f} {merge / numel * 1e9:10.3f} "
                f"{floor_bytes / copy / 1e9:10.1f}\n"
            )
            sys.stdout.flush()


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def write_models(folder: Path, rows: int) -> None:
    """Base and experts [rows, 1000]: bfloat16 weights, differences as fine-tuning leaves them."""
    generator = torch.Generator().manual_seed(0)
    base = (torch.randn(rows, 1000, generator=generator) * 0.02).bfloat16()
    models = {"base": base}
    for index in range(EXPERTS):
        noise = torch.randn(rows, 1000, generator=generator) * (5e-4, 1.5e-3)[index]
        models[f"expert{index}"] = (base.float() + noise).bfloat16()
    for name, tensor in models.items():
        (folder / name).mkdir()
        save_file({NAME: tensor}, folder / name / "model.safetensors")
        config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}
        (folder / name / "config.json").write_text(json.dumps(config))


def recipe(folder: Path, name: str) -> Recipe:
    """Density .3, weights .6 and .5, slack .5 where the method is TIES-SV."""
    method = get_method(name)
    models = []
    for index, weight in enumerate((0.6, 0.5)):
        own = {"weight": weight}
        if "density" in method.by_name:
            own["density"] = 0.3
        if name == "ties_sv" and index == 1:
            own["slack"] = 0.5
        models.append({"model": f"expert{index}", "parameters": own})
    data = {"merge_method": name, "base_model": "base", "models": models}
    return Recipe.parse(data).resolved(folder)


if __name__ == "__main__":
    main()
