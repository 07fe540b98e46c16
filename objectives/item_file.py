"""Reading item files: JSONL, one question per line, every complaint with path and line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.engines.base import Message
from objectives.errors import TaskError
from objectives.tables import did_you_mean

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Line:
    """One validated line; `where` is "path:line"."""

    where: str
    id: str
    messages: tuple[Message, ...]
    answer: str
    split: str | None
    tags: dict[str, Any]


def read_lines(path: Path) -> Iterator[Line]:
    """Stream the items of a JSONL file; blank lines are skipped, unknown keys are let be.

    Raises:
        TaskError: the file cannot be read, or a line is not an item.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield _parse(text, f"{path}:{number}")
    except FileNotFoundError:
        raise TaskError(
            f"{path}: no such item file; give a JSONL path (hub data sets are not supported yet)"
        ) from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parse(text: str, where: str) -> Line:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise TaskError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); write one object per line"
        ) from None
    except RecursionError:
        raise TaskError(f"{where}: nested too deeply to be an item; flatten it") from None
    if not isinstance(data, dict):
        raise TaskError(f"{where}: {_type(data)} instead of an object; write {{'id': ...}}")
    return Line(
        where=where,
        id=_text(data, "id", where, numbers=True),
        messages=_messages(data, where),
        answer=_text(data, "answer", where, numbers=True),
        split=_split(data, where),
        tags=_tags(data, where),
    )


def _messages(data: dict[str, Any], where: str) -> tuple[Message, ...]:
    if ("prompt" in data) == ("messages" in data):
        found = "both" if "prompt" in data else "neither"
        raise TaskError(f'{where}: needs "prompt" or "messages", has {found}; give exactly one')
    if "prompt" in data:
        return ({"role": "user", "content": _text(data, "prompt", where)},)
    messages = data["messages"]
    if not isinstance(messages, list) or not messages:
        raise TaskError(f'{where}: "messages" must be a non-empty list, is {_type(messages)}')
    for message in messages:
        if not (
            isinstance(message, dict)
            and message.keys() == {"role", "content"}
            and isinstance(message["content"], str)
        ):
            raise TaskError(
                f'{where}: a message must be {{"role": ..., "content": text}}; mend the line'
            )
        if message["role"] not in ROLES:
            hint = did_you_mean(str(message["role"]), ROLES)
            raise TaskError(f"{where}: unknown role {message['role']!r}; {hint}")
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)


def _text(data: dict[str, Any], key: str, where: str, numbers: bool = False) -> str:
    """A required text; ids and answers may be written as JSON numbers, and keep that spelling."""
    if key not in data:
        near = did_you_mean(key, data) if data else "the object is empty"
        hint = f"; {near}" if near.startswith("did") else ""
        raise TaskError(f'{where}: "{key}" is missing; add it{hint}')
    value = data[key]
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise TaskError(f'{where}: "{key}" must be text, is {_type(value)}; put it in quotes')
    if not value.strip():
        raise TaskError(f'{where}: "{key}" is empty; fill it in')
    return value


def _split(data: dict[str, Any], where: str) -> str | None:
    split = data.get("split")
    if split is None:
        return None
    names = ("dev", "confirm", "test")
    if split not in names:
        hint = did_you_mean(str(split), names)
        raise TaskError(f"{where}: unknown split {split!r}; {hint}")
    return str(split)


def _tags(data: dict[str, Any], where: str) -> dict[str, Any]:
    tags = data.get("tags", {})
    if not isinstance(tags, dict):
        raise TaskError(f'{where}: "tags" must be an object, is {_type(tags)}; write {{...}}')
    return tags


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
