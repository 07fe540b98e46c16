"""What is wrong with a value that a user wrote, in our own words for what pydantic finds."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

Where = tuple[str | int, ...]
"""A place in a document: keys and list indices from the root."""

WORDS: Mapping[str, str] = {
    "string_type": "has to be text",
    "path_type": "has to be a path",
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
    "too_long": "has too many values",
    "string_pattern_mismatch": "may hold letters, digits, - and _ only",
    "string_too_short": "is empty: fill it in",
    "greater_than_equal": "has to be at least {ge}",
    "greater_than": "has to be more than {gt}",
    "less_than_equal": "has to be at most {le}",
    "less_than": "has to be less than {lt}",
    "literal_error": "has to be {expected}",
}
"""By pydantic's names; what is not listed keeps pydantic's own words."""


def shown(given: object) -> str:
    """A value as a message quotes it: short."""
    text = "empty" if given is None else repr(given)
    return text if len(text) <= 40 else f"{text[:37]}..."


def dotted(where: Where) -> str:
    """A place as users write it in `--set`."""
    return ".".join(map(str, where))


def has(data: Any, where: Where) -> bool:
    """Whether a document has this place."""
    for step in where:
        if isinstance(data, list | tuple):
            found = isinstance(step, int) and step < len(data)
        else:
            found = isinstance(data, Mapping) and step in data
        if not found:
            return False
        data = data[step]
    return True


def real(where: Where, data: Any) -> Where:
    """`where` without the steps that pydantic adds for unions and keys."""
    kept: Where = ()
    for step in where:
        if has(data, (*kept, step)):
            kept = (*kept, step)
    return kept


def known_keys(model: type[BaseModel], where: Where) -> list[str]:
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
