"""A base and experts as fine-tuning leaves them: Llama names and shapes, bfloat16, on disk.

    python -m benchmarks.models --folder FOLDER [--millions 450] [--experts 2]

Written piece by piece, so that memory stays low whatever the size; base and experts hold 2 bytes a
parameter each on disk. A folder that holds the same set already is left as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from merge_core import TensorSpec
from merge_core.checkpoint import tiles
from merge_core.writing import safetensors_header

HEADS, KEY_HEADS = 16, 4
EMBEDDING_SHARE = 0.24  # as in models of half a billion parameters with 100,000 tokens
WEIGHT_SCALE = 0.02
EXPERT_SCALES = (5e-4, 1.5e-3)  # a light fine-tune and a heavy one, in turn
PIECE = 1 << 22  # elements made at once
MARK = "set.json"


@dataclass(frozen=True)
class Shape:
    """Dimensions of a Llama with tied embeddings."""

    hidden: int
    layers: int
    vocabulary: int

    @classmethod
    def of(cls, millions: float) -> Shape:
        """The shape of about `millions` of parameters (at least 1.1)."""
        layers, wanted = 24, millions * 1e6
        a_layer = 2.5 + 8.25  # hidden^2: attention with a quarter of the key heads, and the MLP
        hidden = math.sqrt(wanted * (1 - EMBEDDING_SHARE) / (layers * a_layer))
        hidden = 64 * max(1, round(hidden / 64))
        rest = wanted - layers * a_layer * hidden**2
        return cls(hidden, layers, max(64, round(rest / hidden)))

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes as transformers stores them."""
        hidden, inner = self.hidden, self.hidden * 11 // 4
        keys = hidden // HEADS * KEY_HEADS
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, inner),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.v_proj": (keys, hidden),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, hidden)
        }
        for layer in range(self.layers):
            shapes.update({f"model.layers.{layer}.{n}.weight": s for n, s in block.items()})
        return {**shapes, "model.norm.weight": (hidden,)}

    @property
    def parameters(self) -> int:
        """How many numbers a model holds."""
        return sum(math.prod(shape) for shape in self.tensors().values())

    def config(self) -> dict[str, object]:
        """config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.hidden * 11 // 4,
            "num_hidden_layers": self.layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_HEADS,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
            "torch_dtype": "bfloat16",
        }


def names(experts: int) -> list[str]:
    """The folders of a set: base first."""
    return ["base", *(f"expert{index}" for index in range(experts))]


def write_set(folder: Path, millions: float, experts: int = 2) -> Shape:
    """Make sure that `folder` holds base and experts of about `millions` of parameters each.

    Raises:
        SystemExit: the folder holds something else.
    """
    shape = Shape.of(millions)
    wanted = {**asdict(shape), "experts": experts}
    mark = folder / MARK
    if mark.is_file():
        if json.loads(mark.read_text()) == wanted:
            return shape
        mark.unlink()
        for path in [*folder.glob("expert*"), folder / "base"]:
            shutil.rmtree(path)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"{folder}: holds other things than a set of models; name an empty folder")
    _write_weights(folder, shape, experts)
    for name in names(experts):
        _write_rest(folder / name, shape)
    mark.write_text(json.dumps(wanted))  # last: a set cut short is no set
    return shape


def _write_weights(folder: Path, shape: Shape, experts: int) -> None:
    specs = {name: TensorSpec(size, torch.bfloat16) for name, size in shape.tensors().items()}
    with ExitStack() as stack:
        files = []
        for name in names(experts):
            (folder / name).mkdir()
            file = stack.enter_context((folder / name / "model.safetensors").open("wb"))
            file.write(safetensors_header(specs))
            files.append(file)
        for seed, (name, spec) in enumerate(specs.items()):
            for pieces in _values(seed, spec.numel, experts, is_norm="norm" in name):
                for file, piece in zip(files, pieces, strict=True):
                    file.write(piece.view(torch.uint8).numpy().data)


def _values(
    seed: int, numel: int, experts: int, *, is_norm: bool
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Base and experts of one tensor, piece by piece, flat."""
    generator = torch.Generator().manual_seed(seed)
    for start, stop in tiles(numel, PIECE):
        base = torch.randn(stop - start, generator=generator).mul_(WEIGHT_SCALE)
        if is_norm:
            base.add_(1.0)
        base = base.bfloat16()
        pieces = [base]
        for index in range(experts):
            noise = torch.randn(stop - start, generator=generator)
            scale = EXPERT_SCALES[index % len(EXPERT_SCALES)]
            pieces.append(noise.mul_(scale).add_(base).bfloat16())
        yield tuple(pieces)


def _write_rest(path: Path, shape: Shape) -> None:
    (path / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
    vocabulary = {f"t{index}": index for index in range(shape.vocabulary)}
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"},
    }
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "t0"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def main() -> None:
    """Write a set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--millions", type=float, default=450, help="parameters of each model")
    parser.add_argument("--experts", type=int, default=2)
    options = parser.parse_args()
    write_set(options.folder, options.millions, options.experts)


if __name__ == "__main__":
    main()
