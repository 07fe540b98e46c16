"""What every engine takes and gives: prompts in, generations out, weights swapped in between."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from objectives.errors import EngineError
from objectives.weights import WeightSource

Message = dict[str, str]
"""One chat turn: `{"role": "system" | "user" | "assistant", "content": text}`."""


LEAST_TEMPERATURE = 1e-3
"""Of sampling: what is colder is greedy in all but name."""


FinishReason = Literal["stop", "length", "loop"]
"""Why an answer ended: by itself, at its limit of tokens, or because it only repeated itself."""


class ChatSettings(BaseModel):
    """How messages become the text that a model reads; part of a run's frozen identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: bool = Field(
        True, description="the model's chat template; false: texts joined by newlines (base models)"
    )
    template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="given to the template, such as `{enable_thinking: true}`"
    )
    prefill: str = Field(
        "", description='start of every answer, such as `"<think>\\n"`; not part of what is scored'
    )


PLAIN_CHAT = ChatSettings()


class GenerationSettings(BaseModel):
    """How a task's answers are generated; part of a run's frozen identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(512, gt=0, description="new tokens at most, end token included")
    temperature: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="0 is greedy; otherwise at least 0.001"
    )
    top_p: float = Field(1.0, ge=1e-6, le=1, description="nucleus of sampling; unused when greedy")
    seed: int = Field(0, description="of sampling; each prompt draws its own stream from its id")
    stop_loops: bool = Field(True, description="end an answer that only repeats itself")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="strings that end an answer and are cut from it"
    )

    @field_validator("temperature")
    @classmethod
    def _greedy_or_warm(cls, temperature: float) -> float:
        # Logits divided by less leave float32, and nothing is left to be drawn from.
        if 0 < temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"temperature {temperature:g} is too small to sample with; write 0, which is"
                f" greedy, or at least {LEAST_TEMPERATURE:g}"
            )
        return temperature


@dataclass(frozen=True)
class Prompt:
    """One chat to be answered; `id` names it in errors and, with `sample`, seeds its sampling.

    `sample` counts the answers to one item: 0 is the first.
    """

    id: str
    messages: tuple[Message, ...]
    sample: int = 0
    chat: ChatSettings = PLAIN_CHAT


@dataclass(frozen=True)
class Continuation:
    """A text whose probability after a chat is asked for.

    Without messages `text` is scored from the start of a document. With a chat template it stands
    where the answer would; without one it follows the last message's text as it is written, so
    that a separating space or newline belongs to one of them.
    """

    id: str
    messages: tuple[Message, ...]
    text: str
    chat: ChatSettings = PLAIN_CHAT


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds a continuation.

    `logprob` is the sum of its tokens' natural log probabilities, minus infinity where the model's
    output is not a number; `tokens` how many there are; `greedy` whether each was the likeliest.
    """

    logprob: float
    tokens: int
    greedy: bool

    @classmethod
    def of(cls, parts: Sequence["Likelihood"]) -> Self:
        """That of a text whose parts, each after those before it, have these."""
        return cls(
            math.fsum(part.logprob for part in parts),
            sum(part.tokens for part in parts),
            all(part.greedy for part in parts),
        )


@dataclass(frozen=True)
class Generation:
    """One answer.

    `tokens` counts what was generated, end token included. `finish_reason` is "length" when the
    answer was cut short, "loop" when it was ended for repeating itself. `thinking_open` says that
    the chat template's generation prompt, or the prefill behind it, itself ended in an open think
    tag (R1 templates), so that `text` starts inside the thinking.
    """

    text: str
    tokens: int
    finish_reason: FinishReason
    thinking_open: bool = False


class PromptCheck(ABC):
    """What an engine knows of prompts before it has weights."""

    @abstractmethod
    def prompts(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> int:
        """Encode every prompt as `Engine.generate` does; how many get less than `max_tokens`.

        Raises:
            EngineError: one cannot be asked; it is named by its id.
        """

    @abstractmethod
    def continuations(self, requests: Sequence[Continuation]) -> None:
        """Encode every continuation as `Engine.loglikelihood` does.

        Raises:
            EngineError: one cannot be asked; it is named by its id.
        """


class Engine(ABC):
    """A live model whose weights can be replaced in place.

    Life: construct (initial weights of the model directory), then any number of `load` and
    `generate`, then `close`. One caller at a time. A `load` that fails leaves the engine able to
    load again.
    """

    kind: ClassVar[str]

    @abstractmethod
    def load(self, source: WeightSource) -> None:
        """Replace all weights by those of `source`, in place.

        Raises:
            EngineError: names, shapes or dtypes do not fit (raised before the first write, the
                old weights stay), or the source broke its word midway (`generate` then refuses
                until a load succeeds). What the source itself raises is passed on.
        """

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """Answer every prompt, in the order of `prompts`.

        Raises:
            EngineError: no complete weights are loaded, the engine is closed, or a prompt does not
                fit the model.
        """

    def loglikelihood(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        """How likely each continuation is, in the order of `requests`.

        Raises:
            EngineError: no complete weights are loaded, the engine is closed, a continuation has no
                tokens or does not fit the model, or the engine cannot tell likelihoods.
        """
        raise EngineError(
            f"the {self.kind} engine cannot tell likelihoods; use `engine: {{kind: transformers}}`"
        )

    @abstractmethod
    def close(self) -> None:
        """Free memory and child processes; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
