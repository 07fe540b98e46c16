"""Modules of a task file's folder, imported without a trace.

Two task files may each have a `metrics.py` beside them: neither may be taken for the other, nor for
an installed module of that name. Such modules are therefore in `sys.modules`, and their folder in
`sys.path`, only while they are imported and while a function of theirs is called: then they may
import each other, pickle their classes and make dataclasses. Outside of calls, as in a thread that
a function leaves behind, or in a new process that it starts by `spawn`, Python does not find them.
"""

import ast
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from importlib.machinery import FrozenImporter
from pathlib import Path
from types import ModuleType
from typing import Any

from objectives.errors import ScorerError
from objectives.tables import did_you_mean

_IMPORTING = threading.RLock()


@lru_cache
def resolved(path: str, root: Path | None) -> Any:
    """What a dotted path names; imported once a process.

    Raises:
        ScorerError: there is no such module or attribute, or the module fails.
    """
    name, _, attribute = path.partition(":")
    try:
        module = _imported(root, name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            place = f"in {root} nor " if root else ""
            raise ScorerError(
                f"scorer {path}: no module {error.name!r} {place}among the installed ones;"
                " mend the path"
            ) from None
        raise ScorerError(f"scorer {path}: {name} needs {error.name!r}; install it") from None
    except (Exception, SystemExit) as error:
        raise ScorerError(
            f"scorer {path}: importing {name} failed: {what_failed(error)}"
        ) from error
    if not hasattr(module, attribute):
        names = [key for key in vars(module) if not key.startswith("_")]
        hint = did_you_mean(attribute, names) if names else "it is empty"
        raise ScorerError(f"scorer {path}: {name} has no {attribute!r}; {hint}")
    return getattr(module, attribute)


@contextmanager
def inside(path: str, root: Path | None) -> Iterator[None]:
    """Where a function of the folder is called: its neighbours can be imported."""
    name = path.partition(":")[0]
    if root is None or _file_in(root, name) is None:
        yield
        return
    with _IMPORTING:
        if _found_anyway(root, name):
            yield
        else:
            with _folder(root).entered():
                yield


def sources(root: Path, name: str) -> tuple[Path, ...]:
    """The files of a folder that a module of it is made of: its own, and of what it imports there.

    Read from the text of import statements, wherever they stand; nothing runs. What is imported by
    other means (`importlib.import_module`), and data files, are not among them.
    """
    found: dict[Path, None] = {}
    waiting = [name]
    while waiting:
        parts = waiting.pop().split(".")
        for count in range(1, len(parts) + 1):  # a package's __init__ runs before its modules
            part = ".".join(parts[:count])
            file = _file_in(root, part)
            if file is not None and file not in found:
                found[file] = None
                waiting += _imports(file, part)
    return tuple(sorted(found))


def what_failed(error: BaseException) -> str:
    """An error of the user's code on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class _Folder:
    """The modules of a folder that only its own functions see."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: set[str] = set()  # top names that are the folder's
        self._modules: dict[str, ModuleType] = {}

    def imported(self, name: str) -> ModuleType:
        """A module of the folder, and what it imports there."""
        self._names |= {_top(name)} | _names_in(self._root)
        importlib.invalidate_caches()
        before = set(sys.modules)
        with self.entered():
            try:
                return importlib.import_module(name)
            finally:  # packages without an __init__.py are known only now
                self._names |= {_top(key) for key in sys.modules.keys() - before if self._own(key)}

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The folder's modules in place of others of their names, until it is left."""
        with _IMPORTING:
            hidden = self._taken()
            sys.modules.update(self._modules)
            sys.path.insert(0, str(self._root))
            try:
                yield
            finally:
                with suppress(ValueError):
                    sys.path.remove(str(self._root))
                self._modules = self._taken()
                sys.modules.update(hidden)

    def _own(self, key: str) -> bool:
        file = getattr(sys.modules[key], "__file__", None)
        if file is None or not Path(file).is_relative_to(self._root):
            return False  # not merely below: an environment may be there, with its packages
        return Path(file).relative_to(self._root).parts[0] in (_top(key), f"{_top(key)}.py")

    def _taken(self) -> dict[str, ModuleType]:
        """The modules of these names, taken out."""
        if self._names.isdisjoint(sys.modules):
            return {}
        keys = [key for key in sys.modules if _top(key) in self._names]
        return {key: sys.modules.pop(key) for key in keys}


@cache
def _folder(root: Path) -> _Folder:
    return _Folder(root)


def _imported(root: Path | None, name: str) -> ModuleType:
    if root is None or _file_in(root, name) is None:
        return importlib.import_module(name)
    top = _top(name)
    if top in sys.builtin_module_names or FrozenImporter.find_spec(top) is not None:
        raise ImportError(f"Python has a module {top} of its own; rename the one in {root}")
    with _IMPORTING:
        if _found_anyway(root, name):
            return importlib.import_module(name)
        return _folder(root).imported(name)


def _found_anyway(root: Path, name: str) -> bool:
    """Whether Python finds the folder by itself: then its modules are imported as ever."""
    top = _top(name)
    return top in sys.modules and _is_of_folder(top, root)


def _imports(file: Path, module: str) -> list[str]:
    """Dotted names that a module's import statements may mean."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []  # the import says so
    package = module.split(".")
    if file.name != "__init__.py":
        package.pop()
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            names += [".".join([*base, alias.name]) for alias in node.names]
    return names


def _top(name: str) -> str:
    return name.partition(".")[0]


def _names_in(root: Path) -> set[str]:
    """Modules and packages of a folder, but those that Python has or finds there anyway."""
    names = {file.stem for file in root.glob("*.py")}
    names |= {file.parent.name for file in root.glob("*/__init__.py")}
    own = {name for name in names if name not in sys.modules or not _is_of_folder(name, root)}
    return own - sys.stdlib_module_names


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
