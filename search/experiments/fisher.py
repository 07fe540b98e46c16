"""Diagonal Fisher information of a model: how much its answers depend on each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from objectives.engines.base import Prompt
from objectives.engines.encoding import Encoder
from objectives.engines.model_folder import read_folder


def write_fisher(model: Path, prompts: Sequence[Prompt], out: Path, *, tokens: int) -> None:
    """Estimate and write it: float32 tensors by the model's parameter names, shaped as they.

    F = mean over prompts of (d log p(answer | prompt) / d parameter)^2, where the answer is the
    model's own greedy one, end token included: the empirical Fisher information at the model's
    most likely answers, per answer, not per token.

    Args:
        model: a Hugging Face model directory.
        prompts: asked as the engines ask them.
        out: the safetensors file.
        tokens: most new tokens of an answer.

    Raises:
        EngineError: the tokenizer cannot be read, or refuses a prompt.
    """
    encoder = Encoder(*read_folder(model))
    network = AutoModelForCausalLM.from_pretrained(
        model,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    network.eval()
    sums = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    for prompt in prompts:
        given = torch.tensor([encoder.prompt(prompt)[0]])
        with torch.inference_mode():
            said = network.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=tokens,
                do_sample=False,
            )
        whole = said.clone()  # made in inference mode, which takes no gradients
        logits = network(input_ids=whole, use_cache=False).logits[0, given.shape[1] - 1 : -1]
        loss = functional.cross_entropy(logits, whole[0, given.shape[1] :], reduction="sum")
        network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for name, value in network.named_parameters():
            if value.grad is not None:
                sums[name] += value.grad.square()
    held = {name: (total / len(prompts)).contiguous() for name, total in sums.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}")
    save_file(held, temporary)
    temporary.replace(out)
