"""Small real checkpoints, made in a moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 3,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
SHAPES = {
    "model.embed_tokens.weight": (23, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (17, 8),
    "model.layers.1.self_attn.q_proj.weight": (8, 8),
    "model.layers.1.mlp.up_proj.weight": (17, 8),
    "model.layers.2.self_attn.q_proj.weight": (8, 8),
    "model.layers.2.mlp.up_proj.weight": (17, 8),
    "model.norm.weight": (8,),
}


def write_checkpoint(path: Path, tensors: dict, config: dict = CONFIG, vocab=("a", "b")) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config))
    tokenizer = {
        "model": {
            "type": "WordLevel",
            "vocab": {t: i for i, t in enumerate(vocab)},
            "unk_token": vocab[0],  # or nothing can open it
        },
        "added_tokens": [],
    }
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (path / "chat_template.jinja").write_text("{{ messages }}")
    return path


def make_model(seed: int, base: dict | None = None, dtype=torch.bfloat16, scale=0.01) -> dict:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in SHAPES.items():
        noise = torch.randn(shape, generator=generator)
        value = noise * 0.05 if base is None else base[name].float() + noise * scale
        tensors[name] = value.to(dtype)
    return tensors


@pytest.fixture
def trio_dirs(tmp_path: Path) -> dict[str, Path]:
    base = make_model(0)
    return {
        "base": write_checkpoint(tmp_path / "base-model", base),
        "language": write_checkpoint(tmp_path / "thai", make_model(1, base)),
        "reasoning": write_checkpoint(tmp_path / "r1", make_model(2, base)),
    }


def recipe_data(dirs: dict[str, Path], method="ties", parameters=None, **experts) -> dict:
    def own(name: str) -> dict:
        return {"weight": 0.5, **experts.get(name, {})}

    return {
        "merge_method": method,
        "base_model": str(dirs["base"]),
        "models": [
            {"model": str(dirs[name]), "name": name, "parameters": own(name)}
            for name in ("language", "reasoning")
        ],
        **({"parameters": parameters} if parameters else {}),
    }


def merged_by(source) -> dict[str, torch.Tensor]:
    """All tensors of a weight source, each a copy: a source may yield views of one buffer."""
    return {name: tensor.clone() for name, tensor in source.tensors()}
