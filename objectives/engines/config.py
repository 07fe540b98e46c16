"""What a search file may say about its engine: one class per kind, told apart by `kind`.

Kept apart from the engines so that reading a search file imports neither torch nor transformers.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from objectives.tables import did_you_mean

ENGINES: dict[str, str] = {
    "scripted": "objectives.engines.scripted:ScriptedEngine",
    "transformers": "objectives.engines.transformers:TransformersEngine",
}
"""Engines by kind. A new one is one file, one line here and one config class in the union."""

PROMPT_CHECKS: dict[str, str] = {
    "transformers": "objectives.engines.transformers:prompt_check",
}
"""What makes a `PromptCheck` of configuration and model directory, by kind.

Engines that are not here take any prompt.
"""

DEFAULT_KIND = "transformers"


class TransformersConfig(BaseModel):
    """The default engine: a live `AutoModelForCausalLM` on one device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["transformers"] = "transformers"
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="auto (cuda where there is one), cpu, cuda, cuda:1, ...",
    )
    dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        None, description="the checkpoint's if unset"
    )
    batch_size: int | None = Field(
        None, gt=0, description="prompts at a time at most; unset: by memory"
    )
    max_batch_tokens: int | None = Field(
        None,
        gt=0,
        description="rows times (longest prompt + max_tokens) of a batch at most; unset: by free"
        " memory, and on a CPU 16384",
    )


class ScriptedConfig(BaseModel):
    """Answers from a table instead of a model: for tests and for trying a search file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["scripted"] = "scripted"
    responses: Path | None = Field(None, description="JSON or JSONL table of answers")
    default: str | None = Field(None, description="answer to prompts that the table lacks")
    delay: float = Field(0.0, ge=0, description="seconds that each generate call takes")
    read_weights: bool = Field(False, description="consume the tensors of a load, not only specs")
    thinking_open: bool = Field(False, description="answers start inside the thinking")


def _known_kind(data: Any) -> Any:
    """Fill in the default kind, and name the nearest known one where it is mistyped."""
    if not isinstance(data, dict):
        return data
    kind = data.get("kind", DEFAULT_KIND)
    if kind not in ENGINES:
        raise ValueError(f"unknown engine {kind!r}; {did_you_mean(str(kind), ENGINES)}")
    return {**data, "kind": kind}


EngineConfig = Annotated[
    Annotated[TransformersConfig | ScriptedConfig, Field(discriminator="kind")],
    BeforeValidator(_known_kind),
]
"""An engine's configuration of any kind; `kind` may be left out and is then transformers."""
