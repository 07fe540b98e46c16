"""Where a fault of a search file is, and what it is, in one line of our own words."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from merge_core.errors import MergeError
from merge_core.yaml_io import Document, Where, one_line, parse_yaml, unknown
from search.errors import ConfigError

_WORDS = {
    "string_type": "has to be text",
    "list_type": "has to be a list",
    "tuple_type": "has to be a list",
    "dict_type": "has to be a mapping",
    "model_type": "has to be a mapping",
    "model_attributes_type": "has to be a mapping",
    "int_type": "has to be a whole number",
    "int_from_float": "has to be a whole number",
    "int_parsing": "has to be a whole number",
    "float_type": "has to be a number",
    "float_parsing": "has to be a number",
    "finite_number": "has to be a finite number",
    "bool_type": "has to be true or false",
    "bool_parsing": "has to be true or false",
    "string_pattern_mismatch": "may hold letters, digits, - and _ only",
    "string_too_short": "is empty: fill it in",
    "greater_than_equal": "has to be at least {ge}",
    "greater_than": "has to be more than {gt}",
    "less_than_equal": "has to be at most {le}",
    "less_than": "has to be less than {lt}",
    "literal_error": "has to be {expected}",
}
"""What pydantic found, by its names; what is not listed keeps pydantic's own words."""


@dataclass
class Source:
    """A search file's text and the settings that go before it.

    Attributes:
        document: the file; `override` changes its data.
    """

    document: Document

    def __post_init__(self) -> None:
        self._written = deepcopy(self.document.data)
        self._overrides: dict[Where, str] = {}  # their texts, by the place that each sets

    def fault(self, where: Where, what: object) -> ConfigError:
        """An error at a place of the file, or at the `--set` that wrote there."""
        for place, text in reversed(self._overrides.items()):
            above = place[: len(where)] == where and not _has(self._written, where)
            if where[: len(place)] == place or above:
                return ConfigError(f"--set {text}: {one_line(what)}")
        line, column = self.document.position(where)
        return ConfigError(f"{self.document.path}:{line}:{column}: {one_line(what)}")

    def explain(self, error: ValidationError, model: type[BaseModel]) -> ConfigError:
        """The first fault of a pydantic error."""
        first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
        where, kind, given = tuple(first["loc"]), first["type"], first["input"]
        if kind == "extra_forbidden":
            return self.fault(self._real(where), unknown("key", where[-1], _keys(model, where)))
        if kind == "missing":
            parent = self._real(where[:-1])
            what = f"'{where[-1]}' is missing" + (f" in {_dotted(parent)}" if parent else "")
            return self.fault(parent, what)
        real = self._real(where)
        if kind in ("value_error", "assertion_error"):
            what = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            return self.fault(real, what)
        if where[-1] == "[key]":
            return self.fault(real, f"name {given!r} {_WORDS.get(kind, first['msg'])}")
        if kind == "too_short":
            return self.fault(real, f"{_dotted(real)} is empty: give at least one")
        if kind not in _WORDS:
            return self.fault(real, f"{_dotted(real)}: {first['msg'][0].lower()}{first['msg'][1:]}")
        what = _WORDS[kind].format(**first.get("ctx", {}))
        shown = "empty" if given is None else repr(given)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        return self.fault(
            real, f"{_dotted(real)} {what}" + ("" if given == "" else f", not {shown}")
        )

    def override(self, text: str) -> None:
        """Apply one `a.b=value` setting; its value is YAML.

        Raises:
            ConfigError: it is none, or there is no such place.
        """
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {text}: write a.b=value")
        try:
            data = parse_yaml(value, Path("value")).data
        except MergeError as error:
            raise ConfigError(f"--set {text}: {str(error).partition(': ')[2]}") from None
        node: Any = self.document.data
        place: Where = ()
        parts = key.split(".")
        for index, part in enumerate(parts):
            step: str | int = part
            if isinstance(node, list):
                step = int(part) if part.isdecimal() and int(part) < len(node) else part
                if step == part:
                    numbers = f"0 to {len(node) - 1}" if node else "none: it is empty"
                    raise ConfigError(
                        f"--set {text}: there is no {part} in {_dotted(place)}; known: {numbers}"
                    )
            elif not isinstance(node, dict):
                raise ConfigError(
                    f"--set {text}: {_dotted(place) or 'the file'} is no mapping: set it whole"
                )
            place = (*place, step)
            if index == len(parts) - 1:
                node[step] = data
            else:
                if isinstance(node, dict) and node.get(part) is None:
                    node[part] = {}
                node = node[step]
        self._overrides[place] = text

    def _real(self, where: Where) -> Where:
        """`where` without the steps that pydantic adds for unions and keys."""
        real: list[str | int] = []
        for step in where:
            if _has(self.document.data, (*real, step)):
                real.append(step)
        return tuple(real)


def _has(data: Any, where: Where) -> bool:
    for step in where:
        if isinstance(data, dict) and step in data:
            data = data[str(step)]
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return False
    return True


def _dotted(where: Where) -> str:
    return ".".join(map(str, where))


def _keys(model: type[BaseModel], where: Where) -> list[str]:
    """The legal keys where an unknown one stands."""
    owners = [model]
    for step in where[:-1]:
        inner = [
            found
            for owner in owners
            if step in owner.model_fields
            for found in _models(owner.model_fields[str(step)].annotation)
        ]
        # pydantic names the member of a union by its class, or by its `kind`.
        tagged = [o for o in owners if step in (o.__name__, _kind(o))]
        owners = inner or tagged or owners
    return [name for owner in owners for name in owner.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _kind(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None
