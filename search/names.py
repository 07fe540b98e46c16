"""Names in MLflow: one tested bijection from the study's parameter and score names.

MLflow refuses brackets in parameter names and shows blank columns for names with dots. The
study's `reasoning.weight[2]` is MLflow's `reasoning/weight/2`. What the study's names cannot hold
in these places (`/` and digits after a dot) keeps the mapping one to one.
"""

from __future__ import annotations

import re

_INDEX = re.compile(r"\[([^\]]*)\]")


def to_mlflow(name: str) -> str:
    """`reasoning.weight[2]` -> `reasoning/weight/2`; `weight[self_attn]` -> `weight/self_attn`.

    Dots inside brackets (filters on whole tensor names) become colons.
    """
    plain = _INDEX.sub(lambda match: "/" + match[1].replace(".", ":"), name)
    return plain.replace(".", "/")


def from_mlflow(name: str, known: list[str]) -> str:
    """The study's name that `to_mlflow` maps to `name`; KeyError if none of `known` does."""
    by_mlflow = {to_mlflow(one): one for one in known}
    return by_mlflow[name]
