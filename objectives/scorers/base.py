"""What a scorer is: one generated answer in, one number with a declared range out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from objectives.engines.base import Generation
from objectives.errors import ScorerError
from objectives.item import Item
from objectives.tables import did_you_mean
from objectives.thinking import Thinking, split_text

__all__ = ["Measure", "Params", "Sample", "Scorer", "Thinking", "split_thinking"]

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Sample:
    """An item and what the model generated for it."""

    item: Item
    generation: Generation


def split_thinking(generation: Generation) -> Thinking:
    """The generation's thinking and answer; see `objectives.thinking` for the reading of tags."""
    return split_text(generation.text, generation.thinking_open)


@dataclass(frozen=True)
class Measure:
    """What can be known of a score before any model runs.

    `always` is False for a sub-score that some items lack (there is no thinking to score where
    nothing was thought).
    """

    range: tuple[float, float] = (0.0, 1.0)
    direction: Direction = "maximize"
    binary: bool = False
    always: bool = True


class Params(BaseModel):
    """Parameters of a scorer; each scorer's own class lists its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scorer(ABC):
    """Scores one sample at a time; deterministic, picklable, without state of its own.

    A new scorer is one file with one subclass and one line in `objectives.scorers.SCORERS`; the
    conformance suite of the tests picks it up from there.
    """

    name: ClassVar[str]
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    direction: ClassVar[Direction] = "maximize"
    binary: ClassVar[bool] = False  # 0/1 scores, so that Wilson's interval is the textbook one
    correctness: ClassVar[bool] = False  # tells right from wrong: one half of the joint score
    extra_measures: ClassVar[Mapping[str, Measure]] = {}  # what `extras` may give, by sub-name
    params: Params

    class Params(Params):
        """No parameters, unless a scorer says otherwise."""

    def __init__(self, **params: Any) -> None:
        try:
            self.params = self.Params(**params)
        except ValidationError as error:
            raise ScorerError(self._parameter_error(error)) from None

    @abstractmethod
    def score(self, sample: Sample) -> float:
        """The score, a finite number within `range`; never raises for what a model wrote."""

    def extras(self, sample: Sample) -> dict[str, float]:
        """Sub-scores by sub-name; `{"thinking": x}` is shown as "language.thinking"."""
        return {}

    def measures(self) -> dict[str, Measure]:
        """Everything this scorer may give, by the key under which it is stored."""
        own = {self.name: Measure(self.range, self.direction, self.binary)}
        return own | {f"{self.name}.{key}": value for key, value in self.extra_measures.items()}

    def _parameter_error(self, error: ValidationError) -> str:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = list(self.Params.model_fields)
            hint = did_you_mean(field, known) if known else "it takes none"
            return f"scorer {self.name}: unknown parameter {field!r}; {hint}"
        if first["type"] == "missing":
            return f"scorer {self.name}: parameter {field!r} is missing; give it a value"
        what = first["msg"].removeprefix("Value error, ")
        return f"scorer {self.name}: {field}: {what}"
