"""Reading items out of rows that have other columns: names of columns, or Jinja templates."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from objectives.errors import TaskError
from objectives.item_file import WAYS
from objectives.tables import did_you_mean

FieldMap = dict[str, str | list[str] | dict[str, str]]
"""Item key to a column's name or a template, or to a list (choices) or mapping (tags) of them."""


def check_fields(fields: FieldMap) -> None:
    """Whether the templates can be read.

    Raises:
        ValueError: one cannot, with its error.
    """
    for key, value in fields.items():
        for text in _texts(value):
            try:
                _template(text)
            # Jinja's and Python's parsers and compilers fail in many ways, each the template's.
            except Exception as error:
                raise ValueError(f"{key}: not a template: {_told(error)}") from error


def _texts(value: str | list[str] | dict[str, str]) -> list[str]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def mapped(row: Mapping[str, Any], fields: FieldMap, where: str) -> dict[str, Any]:
    """The row with the item keys that `fields` gives, in place of its own ways to ask.

    Raises:
        TaskError: the row lacks a column, or a template fails on it.
    """
    given = {key: _value(row, value, where) for key, value in fields.items()}
    # A column that happens to be called text or prompt is none of the item's then.
    dropped = WAYS if given.keys() & set(WAYS) else ()
    return {key: value for key, value in row.items() if key not in dropped} | given


def _value(row: Mapping[str, Any], value: str | list[str] | dict[str, str], where: str) -> Any:
    if isinstance(value, list):
        return [_value(row, one, where) for one in value]
    if isinstance(value, dict):
        return {key: _value(row, one, where) for key, one in value.items()}
    if not _is_template(value):
        if value not in row:
            raise TaskError(f"{where}: no column {value!r}; {did_you_mean(value, row)}")
        return row[value]
    try:
        return _template(value).render(row)
    # A template is the user's program: whatever goes wrong in it is for the user to mend.
    except Exception as error:
        shown = value if len(value) <= 80 else f"{value[:77]}..."
        raise TaskError(f"{where}: template {shown!r}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """What went wrong, on one line of bounded length."""
    if isinstance(error, RecursionError | MemoryError):
        return "nested too deeply, or without end; simplify it"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


@lru_cache
def _template(text: str) -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # A search file may come from anywhere: its templates see the row and nothing else.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    return environment.from_string(text)
