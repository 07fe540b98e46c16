"""What every engine takes and gives: prompts in, generations out, weights swapped in between."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from objectives.weights import WeightSource

Message = dict[str, str]
"""One chat turn: `{"role": "system" | "user" | "assistant", "content": text}`."""


class GenerationSettings(BaseModel):
    """How a task's answers are generated; part of a run's frozen identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(512, gt=0, description="new tokens at most, end token included")
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus of sampling; unused when greedy")
    seed: int = Field(0, description="of sampling; each prompt draws its own stream from its id")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="strings that end an answer and are cut from it"
    )


@dataclass(frozen=True)
class Prompt:
    """One chat to be answered; `id` names it in errors and seeds its sampling."""

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Generation:
    """One answer.

    `tokens` counts what was generated, end token included. `finish_reason` is "length" when the
    answer was cut short. `thinking_open` says that the chat template's generation prompt itself
    ended in an open think tag (R1 templates), so that `text` starts inside the thinking.
    """

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    thinking_open: bool = False


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
