"""Names in MLflow: one tested bijection from the study's parameter and score names.

MLflow refuses brackets in parameter names and shows blank columns for names with dots. The
study's `reasoning.weight[2]` is MLflow's `reasoning/weight/2`. What the study's names cannot hold
in these places (`/` and digits after a dot) keeps the mapping one to one.
"""

from __future__ import annotations

import re

# A filter may itself hold brackets; after it come an anchor's number or a part of a schedule.
_NAME = re.compile(r"([^\[]*)(?:\[(.*?)\])?(?:\[(\d+)\]|\.(\w+))?", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_-]")


def to_mlflow(name: str) -> str:
    """`reasoning.weight[2]` -> `reasoning/weight/2`; `weight[self_attn]` -> `weight/self_attn`.

    Inside brackets stand filters, which are any text: dots become colons, and what MLflow refuses
    in names its code point between spaces (`q*` -> `q 2a `).
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        return _escaped(name)
    places = [part for part in parts.groups()[1:] if part is not None]
    return "/".join([parts[1].replace(".", "/"), *map(_escaped, places)])


def from_mlflow(name: str, known: list[str]) -> str:
    """The study's name that `to_mlflow` maps to `name`; KeyError if none of `known` does."""
    by_mlflow = {to_mlflow(one): one for one in known}
    return by_mlflow[name]


def _escaped(label: str) -> str:
    return "".join(
        char if _PLAIN.match(char) else ":" if char == "." else f" {ord(char):x} " for char in label
    )
