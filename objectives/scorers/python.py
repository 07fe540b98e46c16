"""The user's own function as a scorer: any Python that turns an answer into a number."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from objectives.errors import ScorerError
from objectives.item_source import ItemsConfig
from objectives.scorers import base
from objectives.scorers.base import Direction, Measure, Rated, Sample, Scorer
from objectives.scorers.python_module import inside, resolved, sources, what_failed
from objectives.tables import did_you_mean

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"a range is [least, most], got [{bounds[0]:g}, {bounds[1]:g}]")
    return bounds


def _a_path(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise ValueError(f"write package.module:function, not {text!r}")
    return text


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class Python(Scorer):
    """What `function(sample, **args)` returns: a number, or a mapping with "score" and `extras`.

    The mapping may have "details", texts by name: what the function read in the answer.

    The function gets a `objectives.scorers.base.Sample`: `sample.item` (messages, answer, fields,
    tags) and `sample.generation` (text, tokens, finish_reason). A class that is a `Scorer` of
    generations is made with `args` instead, and has to declare the same range, direction and
    binary as the task file. The module is one that Python finds, or stands in the task file's
    folder, and may import its neighbours there (see `python_module`).

    The task file says what the score is like, so that a search can be checked without running
    anybody's code. The function runs in the process that scores: it is trusted with everything.
    """

    name = "python"
    params: "Params"

    class Params(base.Params):
        """Which function, and what its score is like."""

        function: Annotated[str, AfterValidator(_a_path)] = Field(
            description="`package.module:function`, installed or in the search file's folder",
        )
        range: Range = Field((0.0, 1.0), description="least and most that the score can be")
        direction: Direction = Field("maximize", description="what is better")
        binary: bool = Field(False, description="the score is always 0 or 1")
        extras: dict[str, Range] = Field(
            default_factory=dict, description="sub-scores that it may give, each with its range"
        )
        args: dict[str, Any] = Field(
            default_factory=dict, description="keyword arguments of the function"
        )
        root: Path | None = Field(
            None, description="folder of the module; unset: the search file's"
        )

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.name = self.params.name or self.params.function.partition(":")[2]

    def measures(self) -> dict[str, Measure]:
        """What the task file says."""
        given = self.params
        own = {self.name: Measure(given.range, given.direction, given.binary)}
        return own | {
            f"{self.name}.{key}": Measure(bounds, always=False)
            for key, bounds in given.extras.items()
        }

    def bound(self, items: ItemsConfig, root: Path) -> Self:
        """Told where to look for the module."""
        own = self.params.root
        folder = root.resolve() if own is None else (root / own.expanduser()).resolve()
        return self.with_params(root=folder)

    def files(self) -> tuple[Path, ...]:
        """The module, where it stands in the task file's folder, and what it imports of that."""
        root, name = self.params.root, self.params.function.partition(":")[0]
        return () if root is None else sources(root, name)

    def check(self) -> None:
        """Import the module and look the function up."""
        self._function()

    def score(self, sample: Sample) -> float:
        """What the function says.

        Raises:
            ScorerError: it failed, or gave no number within its range.
        """
        return self._called(sample)[0]["score"]

    def extras(self, sample: Sample) -> dict[str, float]:
        """The other numbers of what the function says."""
        if not self.params.extras:
            return {}
        return {key: x for key, x in self._called(sample)[0].items() if key != "score"}

    def details(self, sample: Sample) -> dict[str, str]:
        """The texts under its key "details"."""
        return self._called(sample)[1]

    def rated(self, sample: Sample) -> Rated:
        """All of it, from one call."""
        numbers, details = self._called(sample)
        return self._rated(numbers.pop("score"), numbers, details)

    def _function(self) -> Callable[[Sample], Any]:
        """What is called; only `_inside` its module's folder."""
        found = resolved(self.params.function, self.params.root)
        if isinstance(found, type) and issubclass(found, Scorer):
            return self._of_class(found)
        if not callable(found) or isinstance(found, type):
            raise ScorerError(
                f"scorer {self.name}: {self.params.function} is {_a(found)}; name a function"
            )
        self._returns(found)
        args = self.params.args
        try:
            inspect.signature(found).bind(None, **args)
        except TypeError as error:
            raise ScorerError(
                f"scorer {self.name}: {self.params.function} cannot be called with a sample and"
                f" {', '.join(args) or 'no args'}: {error}"
            ) from None
        except ValueError:
            pass  # some builtins tell no signature
        return lambda sample: found(sample, **args)

    def _returns(self, function: Callable[..., Any]) -> None:
        """Refuse what gives no number when it is called."""
        for one in (function, getattr(function, "__call__", None)):  # noqa: B004
            if inspect.iscoroutinefunction(one):
                kind = "an async function"
            elif inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
                kind = "a generator"
            else:
                continue
            raise ScorerError(
                f"scorer {self.name}: {self.params.function} is {kind}; write a plain function that"
                " returns the score"
            )

    def _of_class(self, made: type[Scorer]) -> Callable[[Sample], Any]:
        try:
            with self._inside():
                scorer = made(**self.params.args)
        except ScorerError:
            raise
        except (Exception, SystemExit) as error:
            raise ScorerError(
                f"scorer {self.name}: {self.params.function} cannot be made with"
                f" {', '.join(self.params.args) or 'no args'}: {what_failed(error)}"
            ) from error
        self._returns(scorer.score)
        own = Measure(scorer.range, scorer.direction, scorer.binary)
        if scorer.reads != "generation":
            raise ScorerError(
                f"scorer {self.name}: {self.params.function} reads {scorer.reads}; only scorers of"
                " generations can be named by path: add it to the table of scorers"
            )
        given = self.params
        if own != Measure(given.range, given.direction, given.binary):
            binary = str(own.binary).lower()
            raise ScorerError(
                f"scorer {self.name}: {given.function} has other declarations; write range:"
                f" [{own.range[0]:g}, {own.range[1]:g}], direction: {own.direction},"
                f" binary: {binary}"
            )

        def key_of(key: str) -> str:
            return key.removeprefix(scorer.name).removeprefix(".") or "score"

        def called(sample: Sample) -> dict[str, Any]:
            rated = scorer.rated(sample)
            details = {key_of(key): text for key, text in rated.details.items()}
            return {"details": details} | {key_of(key): x for key, x in rated.scores.items()}

        return called

    def _inside(self) -> AbstractContextManager[None]:
        return inside(self.params.function, self.params.root)

    def _called(self, sample: Sample) -> tuple[dict[str, float], dict[str, str]]:
        """Its numbers, "score" among them, and its details."""
        function = self._function()
        try:
            with self._inside():
                said = function(sample)
        except (Exception, SystemExit) as error:  # nobody's answer ends a search
            raise self._fault(sample, what_failed(error)) from error
        said = dict(said) if isinstance(said, Mapping) else {"score": said}
        told = {} if "details" in self.params.extras else said.pop("details", {})
        known = {"score": self.params.range, **self.params.extras}
        if "score" not in said:
            raise self._fault(sample, 'its mapping has no "score"')
        odd = next((key for key in said if key not in known), None)
        if odd is not None:
            raise self._fault(
                sample, f"undeclared {odd!r}; {did_you_mean(str(odd), known)}, or add it to extras"
            )
        numbers = {key: self._number(sample, key, x, known[key]) for key, x in said.items()}
        return numbers, self._texts(sample, told)

    def _texts(self, sample: Sample, told: Any) -> dict[str, str]:
        texts = told if isinstance(told, Mapping) else {"": told}
        for key, text in texts.items():
            if not (isinstance(key, str) and key and isinstance(text, str)):
                raise self._fault(sample, 'its "details" are no mapping of names to texts')
        return dict(texts)

    def _number(self, sample: Sample, key: str, value: Any, bounds: tuple[float, float]) -> float:
        try:
            if isinstance(value, str | bytes):  # float would read them
                raise TypeError
            number = float(value)  # a bool, and scalars of numpy and torch
        except (TypeError, ValueError, OverflowError, RuntimeError):
            raise self._fault(sample, f"{key} is {_a(value)}, not a number") from None
        if not bounds[0] <= number <= bounds[1] or not math.isfinite(number):
            raise self._fault(
                sample, f"{key} is {number:g}, outside its range [{bounds[0]:g}, {bounds[1]:g}]"
            )
        if key == "score" and self.params.binary and number not in (0.0, 1.0):
            raise self._fault(sample, f"{key} is {number:g}, but it is declared binary")
        return number

    def _fault(self, sample: Sample, what: str) -> ScorerError:
        told = " ".join(what.split())[:300]
        return ScorerError(
            f"scorer {self.name}: {self.params.function} on item {sample.item.id!r}: {told}"
        )


def _a(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
