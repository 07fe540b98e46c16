"""Reading items out of rows that have other columns: names of columns, or Jinja templates."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from objectives.errors import TaskError
from objectives.item_file import WAYS
from objectives.tables import did_you_mean

FieldMap = dict[str, str | list[str]]
"""Item key to the name of a column, to a template, or to a list of them (choices)."""


def check_fields(fields: FieldMap) -> None:
    """Whether the templates can be read.

    Raises:
        ValueError: one cannot, with its error.
    """
    from jinja2 import TemplateSyntaxError

    for key, value in fields.items():
        for text in value if isinstance(value, list) else [value]:
            try:
                _template(text)
            except TemplateSyntaxError as error:
                raise ValueError(f"{key}: not a template: {error.message}") from None


def mapped(row: Mapping[str, Any], fields: FieldMap, where: str) -> dict[str, Any]:
    """The row with the item keys that `fields` gives, in place of its own ways to ask.

    Raises:
        TaskError: the row lacks a column, or a template fails on it.
    """
    given = {key: _value(row, value, where) for key, value in fields.items()}
    # A column that happens to be called text or prompt is none of the item's then.
    dropped = WAYS if given.keys() & set(WAYS) else ()
    return {key: value for key, value in row.items() if key not in dropped} | given


def _value(row: Mapping[str, Any], value: str | list[str], where: str) -> Any:
    from jinja2 import TemplateError

    if isinstance(value, list):
        return [_value(row, one, where) for one in value]
    if not _is_template(value):
        if value not in row:
            raise TaskError(f"{where}: no column {value!r}; {did_you_mean(value, row)}")
        return row[value]
    try:
        return _template(value).render(row)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise TaskError(f"{where}: template {value!r}: {error}") from None


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


@lru_cache
def _template(text: str) -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # A search file may come from anywhere: its templates see the row and nothing else.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    return environment.from_string(text)
