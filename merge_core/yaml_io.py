"""YAML in and out: YAML 1.2, duplicate keys refused, positions kept for messages.

Every user-facing reader of mergefront goes through `load_yaml`, so that all of them report
`file:line:column: what is wrong` in the same way.
"""

from __future__ import annotations

import difflib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from merge_core.errors import MergeError, RecipeError

MOST_TEXT = 16 << 20
"""Characters of a document: exported recipes have some hundred thousand."""
MOST_NODES = 300_000
"""Values of a document with its aliases written out, which a few lines of them can make endless."""

_HALF = re.compile(r"\..+\.(json|yaml|md|html|log)\.[a-z0-9_]{8}")
"""Names of files that `write_atomic` has not finished: tempfile adds eight characters."""

Where = tuple[str | int, ...]
"""A place in a document: keys and list indices from the root."""


def at(error: MergeError, where: Where) -> MergeError:
    """Attach a place in the document to `error`, outermost first, and return it."""
    error.where = where + error.where
    return error


@contextmanager
def inside(*where: str | int) -> Iterator[None]:
    """Prefix the place of any `MergeError` raised in the block with `where`."""
    try:
        yield
    except MergeError as error:
        raise at(error, where) from error.__cause__


class Document:
    """A parsed YAML file that knows where each of its parts stands.

    Attributes:
        path: the file, as the user named it.
        data: plain dicts, lists, strings, numbers, booleans and None.
    """

    def __init__(self, path: Path, tree: Any) -> None:
        self.path = path
        self._tree = tree
        self.data: Any = _plain(tree, iter(range(MOST_NODES)))

    def position(self, where: Sequence[str | int]) -> tuple[int, int]:
        """Line and column (from 1) of the deepest part of `where` that exists.

        A key is located by its own position, not its value's, because messages speak of keys.
        """
        node, line, column = self._tree, 0, 0
        for step in where:
            try:
                if isinstance(node, CommentedMap) and step in node:
                    line, column = node.lc.key(step)
                elif isinstance(node, CommentedSeq) and isinstance(step, int) and step < len(node):
                    line, column = node.lc.item(step)
                else:
                    break
            except (KeyError, AttributeError, TypeError):  # TypeError: what `<<` merged in
                break
            node = node[step]
        return line + 1, column + 1

    def locate(self, error: Exception) -> str:
        """`error`'s message as one line with `file:line:column` before it."""
        line, column = self.position(getattr(error, "where", ()))
        return f"{self.path}:{line}:{column}: {one_line(error)}"


def load_yaml(path: Path) -> Document:
    """Read one YAML 1.2 document.

    Raises:
        RecipeError: the file is missing, unreadable, no YAML, too large, or has a duplicate key.
    """
    try:
        if path.is_file() and path.stat().st_size > 4 * MOST_TEXT:  # a character has up to 4 bytes
            raise RecipeError(f"{path}: is too large for a YAML file of ours")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: cannot be read: {one_line(error)}") from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> Document:
    """Parse `text`; `path` only names it in messages. Raises RecipeError as `load_yaml` does."""
    if len(text) > MOST_TEXT:
        raise RecipeError(f"{path}: is too large for a YAML file of ours")
    yaml = YAML(typ="rt", pure=True)
    try:
        return Document(path, yaml.load(text))
    except DuplicateKeyError as error:
        mark = error.problem_mark
        what = str(error.problem).split(" with value")[0].replace("found ", "")
        raise RecipeError(f"{path}:{mark.line + 1}:{mark.column + 1}: {what}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise RecipeError(f"{path}{place}: not valid YAML: {one_line(error.problem)}") from None
    except RecursionError:
        raise RecipeError(f"{path}: not valid YAML: nested too deeply") from None
    except (YAMLError, ValueError) as error:  # ValueError: a date such as 2026-13-01
        raise RecipeError(f"{path}: not valid YAML: {one_line(error)}") from None


def dump_yaml(data: Any, *, header: str = "") -> str:
    """`data` as YAML text: keys in their order, short number lists on one line."""
    yaml = YAML()
    yaml.representer.add_representer(float, _represent_float)
    yaml.default_flow_style = False
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(_styled(data), stream)
    return header + stream.getvalue()


def write_atomic(path: Path, text: str) -> None:
    """Write UTF-8 `text` so that `path` holds the old content or all of the new, never a part.

    Where `path` is a link, what it leads to is written; a device or a pipe is written to.
    """
    path = path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_text(text, encoding="utf-8")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def half_written(folder: Path) -> list[Path]:
    """What `write_atomic` left in a folder when its process was killed."""
    return [path for path in folder.glob(".*") if _HALF.fullmatch(path.name) and path.is_file()]


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is not one of `known`: nearest first, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names) or 'none'}"
    return f"unknown {kind} '{name}'{hint}"


def one_line(error: object) -> str:
    """The message of `error` on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _plain(node: Any, left: Iterator[int]) -> Any:
    """`node` without what ruamel keeps beside it; `left` ends where it grows too large."""
    if next(left, None) is None:
        raise ValueError(f"its aliases stand for more than {MOST_NODES:,} values")
    if isinstance(node, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(node[key], left) for key in node}
    if isinstance(node, (list, tuple)):
        return [_plain(item, left) for item in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):  # ruamel's scalars are subclasses that remember formatting
        if isinstance(node, kind):
            return kind(node)
    return str(node)


def _represent_float(representer: Any, number: float) -> Any:
    # 1e-05 is a number to YAML 1.2 and a string to 1.1 (PyYAML, so mergekit); 1.0e-05 is both's.
    node = representer.represent_float(number)
    if "." not in node.value:
        node.value = node.value.replace("e", ".0e")
    return node


def _styled(data: Any) -> Any:
    if isinstance(data, Mapping):
        styled = CommentedMap((key, _styled(value)) for key, value in data.items())
        if data and len(data) <= 6 and all(_is_leaf(value) for value in data.values()):
            styled.fa.set_flow_style()
        return styled
    if isinstance(data, (list, tuple)):
        items = CommentedSeq(_styled(item) for item in data)
        if all(not isinstance(item, (Mapping, list, tuple)) for item in data):
            items.fa.set_flow_style()
        return items
    return data


def _is_leaf(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (int, float)) for item in value)
    return isinstance(value, (int, float)) and not isinstance(value, str)
