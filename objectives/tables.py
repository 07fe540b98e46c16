"""Tables of names: `name -> "module:attribute"`, resolved only when the name is used."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped `name`: the nearest of `known`, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"


def resolve(table: Mapping[str, str], name: str) -> Any:
    """The attribute that `table[name]` names; the name must be in the table."""
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
