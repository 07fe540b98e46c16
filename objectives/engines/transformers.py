"""The default engine: a live Hugging Face model on one device, weights swapped in place."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from objectives.engines.answers import Answers
from objectives.engines.base import (
    Continuation,
    Engine,
    Generation,
    GenerationSettings,
    Likelihood,
    Prompt,
    PromptCheck,
)
from objectives.engines.batching import Batcher, Footprint, Size, free_bytes
from objectives.engines.config import TransformersConfig
from objectives.engines.decoding import Row, decode
from objectives.engines.encoding import Encoder
from objectives.engines.likelihood import score_spans
from objectives.engines.live_weights import LiveWeights
from objectives.engines.model_folder import (
    end_ids,
    has_weights,
    limit,
    opening,
    read_folder,
    read_tokenizer,
)
from objectives.errors import EngineError
from objectives.weights import WeightSource


class TransformersEngine(Engine):
    """Answers with `AutoModelForCausalLM`; safetensors only, no remote code, eval mode."""

    kind: ClassVar[str] = "transformers"

    def __init__(
        self,
        config: TransformersConfig,
        model: str | Path,
        free: Callable[[torch.device], int] = free_bytes,
    ) -> None:
        """`free` tells the free bytes of a device, by which batches are sized."""
        device = _device(config.device)
        self._model, self._tokenizer, self._complete = _open(Path(model), _dtype(config.dtype))
        # Moving and freezing keep the parameters' identity where it matters: before LiveWeights.
        self._model.to(device).eval().requires_grad_(False)
        self._batcher = Batcher(config, device, Footprint.of(self._model), free)
        self._live: LiveWeights | None = LiveWeights(self._model)
        self._end_ids = end_ids(self._model.generation_config, self._tokenizer)
        self._answers = Answers(self._tokenizer, self._end_ids)
        self._pad_id = int(self._tokenizer.pad_token_id or 0)  # masked: any id will do
        self._encoder = Encoder(self._tokenizer, limit(self._model.config))

    def load(self, source: WeightSource) -> None:
        """Check all specs, then copy tensor by tensor into the live parameters."""
        live = self._opened()
        specs = source.specs()
        live.check(specs)
        self._complete = False
        live.write(source, specs)
        self._complete = True

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """Answer in batches of similar length, longest first, so that memory fails early."""
        self._check_ready()
        rows, opens = [], []
        for prompt in prompts:
            tokens, thinking_open = self._encoder.prompt(prompt)
            budget = self._encoder.room(prompt.id, len(tokens), settings)
            rows.append(Row(prompt.id, tokens, budget, prompt.sample))
            opens.append(thinking_open)
        stopped = self._answers.stop_check(settings)
        new: dict[int, list[int]] = {}

        def answer(batch: list[int]) -> None:
            chosen = [rows[i] for i in batch]
            found = decode(self._model, chosen, settings, self._end_ids, self._pad_id, stopped)
            new.update(zip(batch, found, strict=True))

        self._batcher.run(
            sorted(range(len(rows)), key=lambda i: (-len(rows[i].tokens), i)),
            [Size(len(row.tokens), row.budget) for row in rows],
            [row.id for row in rows],
            answer,
        )
        return [self._answers.of(new[i], opens[i], settings) for i in range(len(rows))]

    def loglikelihood(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        """Score in batches, longest first; requests with one context share its reading.

        Tokens are paired as in lm-evaluation-harness: see `objectives.engines.encoding`. Texts
        longer than the model's limit are scored in windows, each token once. Where the model's
        output is not a number the log probability is minus infinity.
        """
        self._check_ready()
        spans = self._encoder.spans(requests)
        parts: list[list[Likelihood]] = [[] for _ in requests]

        def score(batch: list[int]) -> None:
            chosen = [spans[i] for i in batch]
            cells = self._batcher.logit_cells()
            scored = score_spans(self._model, chosen, self._pad_id, cells)
            for span, likelihood in zip(chosen, scored, strict=True):
                parts[span.owner].append(likelihood)

        def rank(i: int) -> tuple[int, tuple[int, ...], int, int]:
            return -len(spans[i].context), spans[i].context, -len(spans[i].tokens), i

        self._batcher.run(
            sorted(range(len(spans)), key=rank),
            # A slice of the continuation is read at once: all of it is the safe side.
            [Size(len(span.context) + len(span.tokens), 0) for span in spans],
            [requests[span.owner].id for span in spans],
            score,
        )
        return [Likelihood.of(mine) for mine in parts]

    def close(self) -> None:
        """Drop the model; on an accelerator its memory goes back to the device."""
        if self._live is None:
            return
        device = next(self._model.parameters()).device
        self._live = self._model = None
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _opened(self) -> LiveWeights:
        if self._live is None:
            raise EngineError("the transformers engine is closed; make a new one")
        return self._live

    def _check_ready(self) -> None:
        self._opened()
        if not self._complete:
            raise EngineError("no complete weights loaded; load before asking anything")


def prompt_check(config: TransformersConfig, model: str | Path) -> PromptCheck:
    """The engine's own encoder, of the tokenizer and configuration in `model` alone."""
    del config  # nothing in it changes what a prompt is
    return Encoder(*read_folder(Path(model)))


def _open(path: Path, dtype: torch.dtype | str) -> tuple[Any, Any, bool]:
    """Model and tokenizer of a local directory, without network, remote code or pickles.

    The third says whether the model has its weights: a directory without any weight file is the
    skeleton of a model whose weights are loaded later.
    """
    from transformers import AutoModelForCausalLM

    with opening(path):
        whole = has_weights(path)
        tokenizer = read_tokenizer(path)
        if whole:
            model, loading = AutoModelForCausalLM.from_pretrained(
                path,
                output_loading_info=True,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
        else:
            model, loading = _unfilled(path, dtype), {"missing_keys": ()}
    if loading["missing_keys"]:
        # Otherwise these would stay random, and be scored.
        raise EngineError(
            f"{path}: the weights lack {min(loading['missing_keys'])}; give a complete checkpoint"
        )
    accepted = inspect.signature(model.forward).parameters
    needed = {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
    lacking = sorted(needed - accepted.keys())
    if lacking or getattr(model, "_is_stateful", False):
        why = f"its forward has no {lacking[0]}" if lacking else "it keeps a recurrent state"
        raise EngineError(
            f"{path}: the transformers engine cannot batch {type(model).__name__} ({why});"
            " use another engine"
        )
    return model, tokenizer, whole


def _unfilled(path: Path, dtype: torch.dtype | str) -> Any:
    """The model of a directory's configuration, its parameters whatever memory held."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    if dtype == "auto":
        dtype = config.dtype or torch.get_default_dtype()
    with no_init_weights():  # every one is loaded before the first answer; drawing them is slow
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    model.tie_weights()
    if (path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
    return model


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EngineError(f"unknown device {name!r}; write auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EngineError(
            f"device {name!r} is not there; this machine has"
            f" {torch.cuda.device_count()} CUDA devices, write auto or cpu"
        )
    return device


def _dtype(name: str | None) -> torch.dtype | str:
    if name is None:
        return "auto"
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise EngineError(f"unknown dtype {name!r}; write bfloat16, float16 or float32")
    return dtype
