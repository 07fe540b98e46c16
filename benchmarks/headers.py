"""What `configs/headers/` holds: names, shapes and dtypes of models whose files were not read.

    python -m benchmarks.headers

Each model's class is made on the meta device, without weights, of the numbers that are published.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.measure import say
from merge_core.checkpoint import DTYPES, HEAD
from merge_core.yaml_io import write_atomic

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "headers"
SOURCE = (
    "The Llama 3 Herd of Models, arXiv 2407.21783, table 3: made by benchmarks.headers, no model's "
    "file was read"
)
MODELS: Mapping[str, tuple[dict[str, int], list[str]]] = {
    "llama-3.1-70b": (
        {
            "num_hidden_layers": 80,
            "hidden_size": 8192,
            "num_attention_heads": 64,
            "intermediate_size": 28672,
        },
        [
            "meta-llama/Llama-3.1-70B",
            "meta-llama/Llama-3.1-70B-Instruct",
            "meta-llama/Llama-3.3-70B-Instruct",
            "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
            "scb10x/llama3.1-typhoon2-70b-instruct",
            "scb10x/llama3.1-typhoon2-deepseek-r1-70b-preview",
        ],
    ),
    "llama-3.1-8b": (
        {
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "intermediate_size": 14336,
        },
        [
            "meta-llama/Llama-3.1-8B",
            "meta-llama/Llama-3.1-8B-Instruct",
            "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
            "scb10x/llama3.1-typhoon2-8b-instruct",
        ],
    ),
}
"""By file: numbers of the architecture, and hub ids that have it."""
SHARED = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
_FACTS = (
    *("architectures", "model_type", "num_hidden_layers", "hidden_size", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"),
)
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LAYER = re.compile(r"\.(\d+)\.")


def facts(config: Any, models: list[str], source: str) -> dict[str, Any]:
    """Facts to package of a transformers configuration: its class on the meta device, no weights.

    Args:
        config: of transformers.
        models: hub ids that have this architecture.
        source: where its numbers are published.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    shared = {HEAD} if config.tie_word_embeddings else set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name not in shared:
            stands = _LAYER.sub(".*.", name, count=1)
            tensors[stands] = [_NAMES[tensor.dtype], list(tensor.shape)]
    held = {key: value for key in _FACTS if (value := getattr(config, key, None)) is not None}
    held["architectures"] = [type(model).__name__]
    return {"source": source, "models": models, "config": held, "tensors": tensors}


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Package `facts`, a tensor a line."""
    text = json.dumps(data, indent=1)
    flat = re.sub(r"\[\s+([^\[\]]*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    flat = re.sub(r'\[\s+("[A-Z0-9]+"),\s+(\[[^\]]*\])\s+\]', r"[\1, \2]", flat)
    write_atomic(path, flat + "\n")


def main() -> None:
    """Write all files anew."""
    for name, (numbers, models) in MODELS.items():
        write(FOLDER / f"{name}.json", facts(LlamaConfig(**numbers, **SHARED), models, SOURCE))
        say(f"{name}: written")


if __name__ == "__main__":
    main()
