"""What a scorer is: one answered item in, one number with a declared range out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from objectives.engines.base import ChatSettings, Continuation, Engine, Generation, Likelihood
from objectives.errors import ScorerError
from objectives.item import Item, ItemScore, detail
from objectives.item_file import near
from objectives.item_source import ItemsConfig
from objectives.tables import did_you_mean
from objectives.thinking import Thinking, split_text
from objectives.wording import WORDS, dotted, known_keys, real, shown

__all__ = ["Measure", "Params", "Rated", "Sample", "Scorer", "Thinking", "split_thinking"]

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Sample:
    """An item and what the model made of it.

    `generation` is empty for a task that generates nothing; `likelihoods` answers the
    continuations that the scorer asked for, in their order.
    """

    item: Item
    generation: Generation
    likelihoods: tuple[Likelihood, ...] = ()


class Rated(NamedTuple):
    """All that one scorer says of a sample, by the keys under which it is stored."""

    scores: dict[str, float]
    details: dict[str, str]


def split_thinking(generation: Generation) -> Thinking:
    """The generation's thinking and answer; see `objectives.thinking` for the reading of tags."""
    return split_text(generation.text, generation.thinking_open)


@dataclass(frozen=True)
class Measure:
    """What can be known of a score before any model runs.

    `always` is False for a sub-score that some items lack (there is no thinking to score where
    nothing was thought). `aggregation` "geometric" is the geometric mean over items, each with the
    weight that the measure named by `weights` has (perplexity: the number of tokens).
    """

    range: tuple[float, float] = (0.0, 1.0)
    direction: Direction = "maximize"
    binary: bool = False
    always: bool = True
    aggregation: Literal["mean", "geometric"] = "mean"
    weights: str | None = None


class Params(BaseModel):
    """Parameters of a scorer; each scorer's own class lists its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*$",
        description="under which its scores are kept, where a task has two of one kind",
    )


class Scorer(ABC):
    """Scores one sample at a time; deterministic, picklable, without state of its own.

    What it reads: "generation" is the generated answer; "likelihoods" are those of its
    `continuations`; "scores" are the values of scorers before it (`Combination`); "engine" is the
    live model itself (`EngineScorer`).

    A new scorer is one file with one subclass and one line in `objectives.scorers.SCORERS`; the
    conformance suite of the tests picks it up from there.
    """

    name: str  # of the table of scorers; a task may give its own
    reads: ClassVar[Literal["generation", "likelihoods", "scores", "engine"]] = "generation"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    direction: ClassVar[Direction] = "maximize"
    binary: ClassVar[bool] = False  # always the least or the most of its range
    correctness: ClassVar[bool] = False  # tells right from wrong: one half of the joint score
    speech: ClassVar[bool] = False  # tells whether the language is right: the other half
    extra_measures: ClassVar[Mapping[str, Measure]] = {}  # what `extras` may give, by sub-name
    operational: ClassVar[frozenset[str]] = frozenset()  # parameters that say how, not what
    params: Params

    class Params(Params):
        """No parameters, unless a scorer says otherwise."""

    def __init__(self, **params: Any) -> None:
        try:
            self.params = self.Params(**params)
        except ValidationError as error:
            raise ScorerError(self._parameter_error(error, params)) from None
        self.name = self.params.name or type(self).name

    @property
    def parallel(self) -> int:
        """How many samples may be scored at once, each in a thread: for scorers that wait."""
        return 1

    @abstractmethod
    def score(self, sample: Sample) -> float:
        """The score, a finite number within `range`; never raises for what a model wrote."""

    def extras(self, sample: Sample) -> dict[str, float]:
        """Sub-scores by sub-name; `{"thinking": x}` is shown as "language.thinking"."""
        return {}

    def details(self, sample: Sample) -> Mapping[str, str]:
        """What it read in the answer, by sub-name: for people, and never part of a score.

        It must cost next to nothing beside `score`: share its reading (see `rated`).
        """
        return {}

    def rated(self, sample: Sample) -> Rated:
        """`score`, `extras` and `details` of a sample.

        For a scorer that would have to ask or run something once for each of them, a place to do
        it once for all; what is only read again is better remembered for the next call.
        """
        return self._rated(self.score(sample), self.extras(sample), self.details(sample))

    def _rated(
        self, score: float, extras: Mapping[str, float], details: Mapping[str, str]
    ) -> Rated:
        return Rated(
            {self.name: float(score)}
            | {f"{self.name}.{key}": float(value) for key, value in extras.items()},
            {f"{self.name}.{key}": detail(text) for key, text in details.items()},
        )

    def continuations(self, item: Item, chat: ChatSettings) -> tuple[Continuation, ...]:
        """What a scorer of likelihoods asks the engine for each item; the same number or not."""
        return ()

    def bound(self, items: ItemsConfig, root: Path) -> Self:
        """The scorer as a task has it: told where its items come from, and the file's folder."""
        return self

    def with_params(self, **changes: Any) -> Self:
        """The same scorer with some parameters changed."""
        return type(self)(**{**self.params.model_dump(exclude_unset=True), **changes})

    def files(self) -> tuple[Path, ...]:
        """What the user wrote that decides the scores: a change of it is a change of the search."""
        return ()

    def check(self) -> None:  # noqa: B027 (most scorers have nothing to check)
        """Whether it can run here at all; called when a search is checked and a worker starts.

        Raises:
            ScorerError: it cannot (no sandbox, no key, no package); one line says what to do.
        """

    def check_item(self, item: Item) -> None:
        """Whether an item has what it needs; called for every item when a task is read.

        One that tells right from wrong needs the item's answer, unless it says otherwise here.

        Raises:
            ScorerError: it has not; the caller puts the item's file and line before the message.
        """
        if self.correctness and not item.answer:
            raise ScorerError(f'"answer" is missing; add it{near("answer", item.fields)}')

    def measures(self) -> dict[str, Measure]:
        """Everything this scorer may give, by the key under which it is stored."""
        own = {self.name: Measure(self.range, self.direction, self.binary)}
        return own | {f"{self.name}.{key}": value for key, value in self.extra_measures.items()}

    def _parameter_error(self, error: ValidationError, params: Mapping[str, Any]) -> str:
        faults = error.errors()
        # An unknown parameter is often the reason of the other faults.
        first = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
        whose, where = f"scorer {self.name}", tuple(first["loc"])
        place = dotted(real(where, params))
        if first["type"] == "extra_forbidden":
            known = known_keys(self.Params, where)
            hint = did_you_mean(str(where[-1]), known) if known else "it takes none"
            return f"{whose}: unknown parameter {place!r}; {hint}"
        if first["type"] == "missing":
            if isinstance(where[-1], int):
                return f"{whose}: {place} has too few values, {shown(first['input'])}"
            inside = f" in {place}" if place else ""
            return f"{whose}: parameter {where[-1]!r} is missing{inside}; give it a value"
        if first["type"] in ("value_error", "assertion_error"):
            what = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            return f"{whose}: {place}: {what}" if place else f"{whose}: {what}"
        given = first["input"]
        if first["type"] == "too_short":
            return f"{whose}: {place} is empty: give at least one"
        if first["type"] not in WORDS:
            told = first["msg"]
            return f"{whose}: {place}: {told[0].lower()}{told[1:]}, not {shown(given)}"
        # A union has a fault for each of its members.
        alike = [one for one in faults if real(tuple(one["loc"]), params) == real(where, params)]
        words = [
            WORDS[one["type"]].format(**one.get("ctx", {})) for one in alike if one["type"] in WORDS
        ]
        what = " or ".join(dict.fromkeys(words)).replace(" or has to be ", " or ")
        but = "" if given == "" else f", not {shown(given)}"
        return f"{whose}: {place} {what}{but}"


class CombinationParams(Params):
    """What a combination combines."""

    of: tuple[str, ...] = Field(
        min_length=1, description="the scores to combine, such as `[math, language]`"
    )


class Combination(Scorer):
    """One number from what other scorers of the task, listed before it, say of the same answer.

    What it combines has the range [0, 1], is to be maximized and known for every item.
    """

    reads = "scores"
    params: CombinationParams

    class Params(CombinationParams):
        """`of` alone, unless a combination says otherwise."""

    @abstractmethod
    def combine(self, sample: Sample, scores: Mapping[str, float]) -> float:
        """The score, from all scores that the sample has so far."""

    def score(self, sample: Sample) -> float:
        """The least: without other scores there is nothing to combine."""
        return 0.0


class EngineScorer(Scorer):
    """Asks and scores in its own way; stands alone in its task."""

    reads = "engine"

    @abstractmethod
    def run(self, engine: Engine, items: Sequence[Item]) -> list[ItemScore]:
        """Score the live model on these items, in their order.

        Raises:
            EngineError: the model failed.
            ScorerError: what this scorer depends on failed.
        """

    def score(self, sample: Sample) -> float:
        """The least: one answer's text is not what it reads."""
        return self.range[0]
