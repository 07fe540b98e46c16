"""Names in MLflow: one tested bijection from the study's parameter and score names.

MLflow refuses brackets in parameter names and shows blank columns for names with dots. The
study's `reasoning.weight[2]` is MLflow's `reasoning/weight/2`. What the study's names cannot hold
in these places (`/` and digits after a dot) keeps the mapping one to one.

Names of registered models and aliases of their versions are checked before anything is written.
"""

from __future__ import annotations

import re

# A filter may itself hold brackets; after it come an anchor's number or a part of a schedule.
_NAME = re.compile(r"([^\[]*)(?:\[(.*?)\])?(?:\[(\d+)\]|\.(\w+))?", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_-]")
_LONGEST = 200  # characters of names and aliases; MLflow keeps a few more
_NOT_IN_MODELS = re.compile(r"[/:'\"`\x00-\x1f\x7f]")  # or its filters cannot say them
_ALIAS = re.compile(r"[A-Za-z][\w-]*")
_KEPT = re.compile(r"latest|v\d+", re.IGNORECASE)


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


def _escaped(label: str) -> str:
    return "".join(
        char if _PLAIN.match(char) else ":" if char == "." else f" {ord(char):x} " for char in label
    )


def model_name(name: str) -> str:
    """`name`, which a registered model can have; ValueError with the rule that it breaks."""
    _some(name, "a registered model's name")
    if found := _NOT_IN_MODELS.search(name):
        raise ValueError(
            f"{name!r} holds {found[0]!r}: a registered model's name has no / : quotes"
        )
    if name in (".", "..") or name != name.strip():
        raise ValueError(f"{name!r}: a registered model's name is no dot, with no space around it")
    return name


def version_alias(alias: str) -> str:
    """`alias`, which a model's version can have; ValueError with the rule that it breaks."""
    _some(alias, "an alias")
    if not _ALIAS.fullmatch(alias):
        raise ValueError(
            f"{alias!r}: an alias begins with a letter from a to z and has letters, digits, _ and -"
        )
    if _KEPT.fullmatch(alias):
        raise ValueError(f"{alias!r}: an alias is not latest or v1, v2, ...: MLflow keeps these")
    return alias


def _some(text: str, what: str) -> None:
    if not text.strip():
        raise ValueError(f"{text!r}: {what} cannot be blank")
    if len(text) > _LONGEST:
        raise ValueError(f"{text[:20]!r}...: {what} has at most {_LONGEST} characters")
