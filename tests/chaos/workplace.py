"""The search that is run: tiny checkpoints, some sums, an engine that asks a child."""

from __future__ import annotations

import json
from pathlib import Path

from merge_core.yaml_io import dump_yaml
from tests.merge_core.conftest import make_model, write_checkpoint

NAME = "search"
OBJECTIVES = ("right", "thai")
DEV = 24
AT_LEAST = 0.1  # of Thai, or a trial is not on the front


def make_workplace(
    folder: Path, *, trials: int, workers: int, delay: float, seed: int, storage: str, tracking: str
) -> Path:
    """A folder with base and experts, items, and a search file; that file."""
    base = make_model(0)
    write_checkpoint(folder / "models" / "base", base)
    write_checkpoint(folder / "models" / "thai", make_model(1, base))
    write_checkpoint(folder / "models" / "r1", make_model(2, base))
    items = [
        {"id": f"i{n}", "prompt": f"What is 0 + {n}?", "answer": str(n)} for n in range(DEV + 16)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    weight = {"low": 0.3, "high": 1.2}
    data = {
        "merge_method": "ties",
        "base_model": "models/base",
        "models": [
            {
                "model": f"models/{name}",
                "name": name,
                "parameters": {"weight": weight, "density": {"low": 0.1, "high": 1.0}},
            }
            for name in ("thai", "r1")
        ],
        "parameters": {"normalize": False},
        "tokenizer_source": "base",
        "tasks": {
            "sums": {
                "items": "items.jsonl",
                "generate": {"max_tokens": 16},
                "scorers": ["math", {"language": {"expect": "th"}}],
            }
        },
        "objectives": dict(zip(OBJECTIVES, ("sums/math", "sums/language"), strict=True)),
        "constraints": {"sums/language": f">= {AT_LEAST}"},
        "splits": {"dev": DEV, "confirm": 8, "test": 8},
        "confirm": {"max": 8},
        "baselines": ["uniform"],
        "engine": {"kind": "scripted", "default": "-", "delay": delay},
        "budget": {"trials": trials},
        "workers": {"count": workers, "gpus": 1, "cpus": 1},
        "sampler": {"name": "random", "seed": seed},
        # A raced trial's values are estimates against the front of its day, not facts of a recipe.
        "racing": False,
        "storage": storage,
        "tracking": {"uri": tracking},
    }
    file = folder / f"{NAME}.yaml"
    file.write_text(dump_yaml(data), encoding="utf-8")
    return file
