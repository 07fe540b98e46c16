"""What may stand in a line of an item file: every complaint with path and line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from objectives.engines.base import Message
from objectives.errors import TaskError
from objectives.tables import did_you_mean

ROLES = ("system", "user", "assistant", "tool")
PURPOSES = ("dev", "confirm", "test", "fewshot")
WAYS = ("prompt", "messages", "text")
"""Ways to ask, of which a line has one."""

DEPTH = 64
"""Lists and objects within each other, at most: what copies, stores and sends items recurses."""

_READ = ("id", *WAYS, "answer", "split", "tags")


@dataclass(frozen=True)
class Line:
    """One validated line; `where` is "path:line", `fields` what it holds besides.

    `row` is the line as its file or data set has it, before the task's `fields` are applied.
    """

    where: str
    id: str
    messages: tuple[Message, ...]
    answer: str
    split: str | None
    tags: dict[str, Any]
    fields: dict[str, Any]
    row: Mapping[str, Any]

    @property
    def choices(self) -> list[str] | None:
        """The options of a multiple-choice item."""
        return self.fields.get("choices")


def parse(data: Mapping[str, Any], where: str, row: Mapping[str, Any] | None = None) -> Line:
    """A line from its data, which `row` was before columns were given other names.

    It has an `id`; `prompt` or `messages`, or `text` to be scored as a whole (its `answer`);
    `answer` where a scorer needs it; `choices`, `split` and `tags` if it likes.

    Raises:
        TaskError: it is no item.
    """
    check_values(data, where)
    messages, answer = _said(data, where)
    return Line(
        where=where,
        id=_text(data, "id", where, numbers=True),
        messages=messages,
        answer=answer,
        split=_split(data, where),
        tags=_tags(data, where),
        fields=_fields(data, where),
        row=data if row is None else row,
    )


def check_values(data: Mapping[str, Any], where: str) -> None:
    """Refuse what no tokenizer, hash or store would take: half characters, endless nesting."""
    held: list[tuple[Any, int]] = [(data, 0)]
    while held:
        value, depth = held.pop()
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                half = ascii(value[error.start])
                raise TaskError(
                    f"{where}: {half} is half a character (a lone surrogate); mend the text"
                ) from None
        elif isinstance(value, Mapping | list | tuple):
            if depth > DEPTH:
                raise TaskError(f"{where}: nested too deeply to be an item; flatten it")
            inner = [*value, *value.values()] if isinstance(value, Mapping) else value
            held += [(one, depth + 1) for one in inner]


def _said(data: Mapping[str, Any], where: str) -> tuple[tuple[Message, ...], str]:
    ways = [key for key in WAYS if key in data]
    if ways == ["text"]:
        if "answer" in data:
            raise TaskError(f'{where}: "text" is scored as a whole; drop it or "answer"')
        return (), _text(data, "text", where)
    if ways not in (["prompt"], ["messages"]):
        found = "none" if not ways else " and ".join(ways)
        raise TaskError(f'{where}: needs one of "prompt", "messages", "text", has {found}')
    answer = _text(data, "answer", where, numbers=True) if "answer" in data else ""
    if ways == ["prompt"]:
        return ({"role": "user", "content": _text(data, "prompt", where)},), answer
    return _messages(data["messages"], where), answer


def _messages(messages: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise TaskError(f'{where}: "messages" must be a non-empty list, is {kind_of(messages)}')
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


def _text(data: Mapping[str, Any], key: str, where: str, numbers: bool = False) -> str:
    """A required text; ids and answers may be written as JSON numbers, and keep that spelling."""
    if key not in data:
        raise TaskError(f'{where}: "{key}" is missing; add it{near(key, data)}')
    value = data[key]
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise TaskError(f'{where}: "{key}" must be text, is {kind_of(value)}; put it in quotes')
    if not value.strip():
        raise TaskError(f'{where}: "{key}" is empty; fill it in')
    return value


def near(key: str, data: Mapping[str, Any]) -> str:
    """A hint that ends a complaint about a missing key, if a key like it is there."""
    hint = did_you_mean(key, data) if data else ""
    return f"; {hint}" if hint.startswith("did") else ""


def _split(data: Mapping[str, Any], where: str) -> str | None:
    split = data.get("split")
    if split is None:
        return None
    if split not in PURPOSES:
        hint = did_you_mean(str(split), PURPOSES)
        raise TaskError(f"{where}: unknown split {split!r}; {hint}")
    return str(split)


def _tags(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    tags = data.get("tags", {})
    if not isinstance(tags, dict):
        raise TaskError(f'{where}: "tags" must be an object, is {kind_of(tags)}; write {{...}}')
    return tags


def _fields(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields = {key: value for key, value in data.items() if key not in _READ}
    choices = fields.get("choices", ["a", "b"])
    if not (
        isinstance(choices, list)
        and len(choices) > 1
        and all(isinstance(choice, str) and choice.strip() for choice in choices)
        and len(set(choices)) == len(choices)
    ):
        raise TaskError(f'{where}: "choices" must be a list of two or more different texts')
    return fields


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), f"of type {type(value).__name__}")
