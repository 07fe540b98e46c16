"""What a search file may say about its engine: one class per kind, told apart by `kind`.

Kept apart from the engines so that reading a search file imports neither torch nor transformers.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from objectives.engines.vllm_arguments import refusal
from objectives.tables import did_you_mean

ENGINES: dict[str, str] = {
    "scripted": "objectives.engines.scripted:ScriptedEngine",
    "transformers": "objectives.engines.transformers:TransformersEngine",
    "vllm": "objectives.engines.vllm:VllmEngine",
}
"""Engines by kind. A new one is one file, one line here and one config class in the union."""

PROMPT_CHECKS: dict[str, str] = {
    "transformers": "objectives.engines.transformers:prompt_check",
    "vllm": "objectives.engines.vllm:prompt_check",
}
"""What makes a `PromptCheck` of configuration and model directory, by kind.

Engines that are not here take any prompt.
"""

DEFAULT_KIND = "transformers"


class TransformersConfig(BaseModel):
    """The default engine: a live `AutoModelForCausalLM` on one device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    incidental: ClassVar[frozenset[str]] = frozenset({"device", "batch_size", "max_batch_tokens"})
    """Settings that change speed and memory, and answers by no more than rounding."""

    kind: Literal["transformers"] = Field("transformers", description="which engine")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="`auto` (cuda where there is one), `cpu`, `mps`, `cuda`, `cuda:1`, ...",
    )
    dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        None, description="that the model answers with; unset: the checkpoint's"
    )
    batch_size: int | None = Field(
        None, gt=0, description="prompts at a time at most; unset: by memory"
    )
    max_batch_tokens: int | None = Field(
        None,
        gt=0,
        description="rows times (longest prompt + `max_tokens`) of a batch at most; unset: by free"
        " memory, and on a CPU 16384",
    )

    @property
    def devices(self) -> int:
        """Accelerators that one engine needs."""
        return 1


class ScriptedConfig(BaseModel):
    """Answers from a table instead of a model: for tests and for trying a search file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"responses", "default", "delay", "read_weights", "thinking_open"}
    )
    """All of them: what is scripted is for tests."""

    kind: Literal["scripted"] = Field("scripted", description="which engine")
    responses: Path | None = Field(None, description="JSON or JSONL table of answers")
    default: str | None = Field(None, description="answer to prompts that the table lacks")
    delay: float = Field(0.0, ge=0, description="seconds that each generate call takes")
    read_weights: bool = Field(False, description="consume the tensors of a load, not only specs")
    thinking_open: bool = Field(False, description="answers start inside the thinking")

    @property
    def devices(self) -> int:
        """Accelerators that one engine needs, where workers have any."""
        return 1


class VllmConfig(BaseModel):
    """vLLM, on as many devices as `tensor_parallel` says; merges are made in its own processes.

    Any other of vLLM's engine arguments may stand beside these and is passed on as it is.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    incidental: ClassVar[frozenset[str]] = frozenset(
        {
            *("tensor_parallel", "pipeline_parallel", "gpu_memory_utilization", "swap"),
            *("kv_cache_memory_bytes", "cpu_offload_gb", "num_gpu_blocks_override", "block_size"),
            *("max_num_seqs", "max_num_batched_tokens"),
            *("enable_prefix_caching", "enable_chunked_prefill", "async_scheduling"),
            *("enforce_eager", "compilation_config", "max_cudagraph_capture_size"),
            *("distributed_executor_backend", "disable_custom_all_reduce"),
            "enable_expert_parallel",
        }
    )
    """Settings that change speed and memory, and answers by no more than rounding."""

    kind: Literal["vllm"] = Field("vllm", description="which engine")
    tensor_parallel: int = Field(1, ge=1, description="devices that share each layer")
    pipeline_parallel: int = Field(1, ge=1, description="groups of devices that share the layers")
    dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        None, description="that the model answers with; unset: the merge's"
    )
    max_model_len: int | None = Field(
        None, gt=0, description="tokens of prompt and answer at most; unset: the model's limit"
    )
    gpu_memory_utilization: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of a device's memory that vLLM takes; unset: its own",
    )
    swap: Literal["auto", "in_place", "reload"] = Field(
        "auto",
        description="how merges come into the live model: `in_place` writes its parameters,"
        " `reload` goes layer by layer through vLLM's own processing (quantised or packed weights);"
        " `auto` takes `in_place` where that is safe",
    )

    @property
    def devices(self) -> int:
        """Accelerators that one engine needs."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def arguments(self) -> dict[str, Any]:
        """VLLM's engine arguments, but for the model's."""
        given = {name: getattr(self, name) for name in ("max_model_len", "gpu_memory_utilization")}
        return {
            "tensor_parallel_size": self.tensor_parallel,
            "pipeline_parallel_size": self.pipeline_parallel,
            "dtype": self.dtype or "auto",
            **{name: value for name, value in given.items() if value is not None},
            **(self.model_extra or {}),
        }

    @model_validator(mode="after")
    def _known_arguments(self) -> Self:
        for name in self.model_extra or {}:
            why = refusal(name, frozenset(type(self).model_fields))
            if why is not None:
                raise ValueError(why)
        return self


def _known_kind(data: Any) -> Any:
    """Fill in the default kind, and name the nearest known one where it is mistyped."""
    if not isinstance(data, dict):
        return data
    kind = data.get("kind", DEFAULT_KIND)
    if kind not in ENGINES:
        raise ValueError(f"unknown engine {kind!r}; {did_you_mean(str(kind), ENGINES)}")
    return {**data, "kind": kind}


EngineConfig = Annotated[
    Annotated[TransformersConfig | ScriptedConfig | VllmConfig, Field(discriminator="kind")],
    BeforeValidator(_known_kind),
]
"""An engine's configuration of any kind; `kind` may be left out and is then transformers."""
