"""Where a fault of a search file is, and what it is, in one line of our own words."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from merge_core.errors import MergeError
from merge_core.yaml_io import Document, Where, one_line, parse_yaml, unknown
from objectives.wording import WORDS, dotted, has, known_keys, real, shown
from search.errors import ConfigError


@dataclass
class Source:
    """A search file's text and the settings that go before it.

    Attributes:
        document: the file; `override` changes its data.
    """

    document: Document

    def __post_init__(self) -> None:
        self._written = deepcopy(self.document.data)
        self._overrides: dict[Where, str] = {}  # what the user typed, by the place that it sets

    def fault(self, where: Where, what: object) -> ConfigError:
        """An error at a place of the file, or of what was typed in its stead."""
        typed = self.typed(where)
        if typed is not None:
            return ConfigError(f"{typed}: {one_line(what)}")
        line, column = self.document.position(where)
        return ConfigError(f"{self.document.path}:{line}:{column}: {one_line(what)}")

    def typed(self, where: Where) -> str | None:
        """What was typed in place of a part of the file; None if the file's own stands."""
        for place, typed in reversed(self._overrides.items()):
            above = place[: len(where)] == where and not has(self._written, where)
            if where[: len(place)] == place or above:
                return typed
        return None

    def explain(self, error: ValidationError, model: type[BaseModel]) -> ConfigError:
        """The first fault of a pydantic error."""
        first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
        where, kind, given = tuple(first["loc"]), first["type"], first["input"]
        if kind == "extra_forbidden":
            return self.fault(
                self._real(where), unknown("key", where[-1], known_keys(model, where))
            )
        if kind == "missing":
            parent = self._real(where[:-1])
            what = f"'{where[-1]}' is missing" + (f" in {dotted(parent)}" if parent else "")
            return self.fault(parent, what)
        place = self._real(where)
        if kind in ("value_error", "assertion_error"):
            what = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            return self.fault(place, what)
        if where[-1] == "[key]":
            return self.fault(place, f"name {given!r} {WORDS.get(kind, first['msg'])}")
        if kind == "too_short":
            return self.fault(place, f"{dotted(place)} is empty: give at least one")
        if kind not in WORDS:
            return self.fault(
                place, f"{dotted(place)}: {first['msg'][0].lower()}{first['msg'][1:]}"
            )
        what = WORDS[kind].format(**first.get("ctx", {}))
        but = "" if given == "" else f", not {shown(given)}"
        return self.fault(place, f"{dotted(place)} {what}{but}")

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
                        f"--set {text}: there is no {part} in {dotted(place)}; known: {numbers}"
                    )
            elif not isinstance(node, dict):
                raise ConfigError(
                    f"--set {text}: {dotted(place) or 'the file'} is no mapping: set it whole"
                )
            place = (*place, step)
            if index == len(parts) - 1:
                node[step] = data
            else:
                if isinstance(node, dict) and node.get(part) is None:
                    node[part] = {}
                node = node[step]
        self._overrides[place] = f"--set {text}"

    def replace(self, key: str, value: Any, typed: str) -> None:
        """Put a value in place of the file's; `typed` is what the user wrote that means it.

        Of a mapping, only what it changes is taken as typed.
        """
        held = self.document.data.get(key)
        self.document.data[key] = value
        places: list[Where] = [(key,)]
        if isinstance(held, dict) and isinstance(value, dict):
            changed = [name for name in value if name not in held or held[name] != value[name]]
            places = [(key, name) for name in changed]
        for place in places:
            self._overrides.pop(place, None)  # the last one typed goes first
            self._overrides[place] = typed

    def _real(self, where: Where) -> Where:
        """`where` without the steps that pydantic adds for unions and keys."""
        return real(where, self.document.data)
