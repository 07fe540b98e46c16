"""Tables of names: `name -> "module:attribute"`, resolved only when the name is used."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

_LISTED = 20
"""Names that a hint lists; of languages there are ten times as many."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped `name`: the nearest of `known`, whatever its case, or the first 20."""
    names = sorted(known)
    folded = {key.casefold(): key for key in names}
    near = difflib.get_close_matches(name, names, n=1)
    if name.casefold() in folded:
        near = [folded[name.casefold()]]
    elif not near:
        near = [folded[key] for key in difflib.get_close_matches(name.casefold(), folded, n=1)]
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose one of {', '.join(names[:_LISTED])}{', ...' * (len(names) > _LISTED)}"


def resolve(table: Mapping[str, str], name: str) -> Any:
    """The attribute that `table[name]` names; the name must be in the table."""
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
