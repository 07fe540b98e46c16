"""The user's own function as a scorer: any Python that turns an answer into a number."""

import importlib
import inspect
import math
import sys
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.machinery import FrozenImporter
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from objectives.errors import ScorerError
from objectives.item_source import ItemsConfig
from objectives.scorers import base
from objectives.scorers.base import Direction, Measure, Sample, Scorer
from objectives.tables import did_you_mean

_IMPORTING = threading.RLock()


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"a range is [least, most], got [{bounds[0]:g}, {bounds[1]:g}]")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class Python(Scorer):
    """What `function(sample, **args)` returns: a number, or a mapping with "score" and `extras`.

    The function gets a `objectives.scorers.base.Sample`: `sample.item` (messages, answer, fields,
    tags) and `sample.generation` (text, tokens, finish_reason). A class that is a `Scorer` of
    generations is made with `args` instead, and has to declare the same range, direction and
    binary as the task file. The module is one that Python finds, or stands in the task file's
    folder; what it imports of that folder, it imports at its top.

    The task file says what the score is like, so that a search can be checked without running
    anybody's code. The function runs in the process that scores: it is trusted with everything.
    """

    name = "python"
    params: "Params"

    class Params(base.Params):
        """Which function, and what its score is like."""

        function: str = Field(
            pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$",
            description="package.module:function, of an installed module or of the file's folder",
        )
        range: Range = Field((0.0, 1.0), description="[least, most] of the score")
        direction: Direction = "maximize"
        binary: bool = Field(False, description="the score is always 0 or 1")
        extras: dict[str, Range] = Field(
            default_factory=dict, description="sub-scores that it may give, with their ranges"
        )
        args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments")
        root: Path | None = Field(None, description="folder of the module; default: the file's")

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
        """The module, where it stands in the task file's folder."""
        root, name = self.params.root, self.params.function.partition(":")[0]
        file = None if root is None else _file_in(root, name)
        return () if file is None else (file,)

    def check(self) -> None:
        """Import the module and look the function up."""
        self._function()

    def score(self, sample: Sample) -> float:
        """What the function says.

        Raises:
            ScorerError: it failed, or gave no number within its range.
        """
        return self._called(sample)["score"]

    def extras(self, sample: Sample) -> dict[str, float]:
        """The other keys of what the function says, which then runs twice for an answer."""
        if not self.params.extras:
            return {}
        return {key: value for key, value in self._called(sample).items() if key != "score"}

    def _function(self) -> Callable[[Sample], Any]:
        found = _resolved(self.params.function, self.params.root)
        if isinstance(found, type) and issubclass(found, Scorer):
            return self._of_class(found)
        if not callable(found) or isinstance(found, type):
            raise ScorerError(
                f"scorer {self.name}: {self.params.function} is {_a(found)}; name a function"
            )
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

    def _of_class(self, made: type[Scorer]) -> Callable[[Sample], Any]:
        scorer = made(**self.params.args)
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
        return lambda sample: {"score": scorer.score(sample), **scorer.extras(sample)}

    def _called(self, sample: Sample) -> dict[str, float]:
        function = self._function()
        try:
            said = function(sample)
        except Exception as error:
            raise self._fault(sample, f"{type(error).__name__}: {error}") from error
        said = said if isinstance(said, Mapping) else {"score": said}
        known = {"score": self.params.range, **self.params.extras}
        if "score" not in said:
            raise self._fault(sample, 'its mapping has no "score"')
        odd = next((key for key in said if key not in known), None)
        if odd is not None:
            raise self._fault(
                sample, f"undeclared {odd!r}; {did_you_mean(str(odd), known)}, or add it to extras"
            )
        return {key: self._number(sample, key, x, known[key]) for key, x in said.items()}

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


@lru_cache
def _resolved(path: str, root: Path | None) -> Any:
    """What a dotted path names; imported once a process.

    Raises:
        ScorerError: there is no such module or attribute, or the module fails.
    """
    name, _, attribute = path.partition(":")
    try:
        if root is not None and _file_in(root, name) is not None:
            module = _imported_from(root, name)
        else:
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            place = f"in {root} nor " if root else ""
            raise ScorerError(
                f"scorer {path}: no module {error.name!r} {place}among the installed ones;"
                " mend the path"
            ) from None
        raise ScorerError(f"scorer {path}: {name} needs {error.name!r}; install it") from None
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ScorerError(f"scorer {path}: importing {name} failed: {told}") from error
    if not hasattr(module, attribute):
        names = [key for key in vars(module) if not key.startswith("_")]
        hint = did_you_mean(attribute, names) if names else "it is empty"
        raise ScorerError(f"scorer {path}: {name} has no {attribute!r}; {hint}")
    return getattr(module, attribute)


def _imported_from(root: Path, name: str) -> ModuleType:
    """A module of a folder, without a trace in `sys.path` or `sys.modules`.

    Two task files may each have a `metrics.py` beside them: neither may be taken for the other, nor
    for an installed module of that name.
    """
    top = _top(name)
    if top in sys.builtin_module_names or FrozenImporter.find_spec(top) is not None:
        raise ImportError(f"Python has a module {top} of its own; rename the one in {root}")
    with _IMPORTING:
        if top in sys.modules and _is_of_folder(top, root):
            return importlib.import_module(name)  # Python finds the folder by itself
        own = {top} | (_names_in(root) - sys.stdlib_module_names)
        hidden = {key: sys.modules.pop(key) for key in list(sys.modules) if _top(key) in own}
        before = {_top(key) for key in sys.modules}
        sys.path.insert(0, str(root))
        importlib.invalidate_caches()
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(str(root))
            for key in [key for key in sys.modules if _top(key) not in before]:
                if _top(key) in own:
                    del sys.modules[key]
            sys.modules.update(hidden)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _names_in(root: Path) -> set[str]:
    """Modules and packages of a folder, but those that Python finds there anyway."""
    names = {file.stem for file in root.glob("*.py")}
    names |= {file.parent.name for file in root.glob("*/__init__.py")}
    return {name for name in names if name not in sys.modules or not _is_of_folder(name, root)}


def _is_of_folder(name: str, root: Path) -> bool:
    """Whether an imported module was read from the folder."""
    file = _file_in(root, name)
    mine = getattr(sys.modules[name], "__file__", None)
    return file is not None and mine is not None and Path(mine).resolve() == file.resolve()


def _file_in(root: Path, name: str) -> Path | None:
    """The file that a module of the folder would be read from."""
    place = root.joinpath(*name.split("."))
    files = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


def _a(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
