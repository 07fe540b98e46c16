"""The merge methods: one file each, and the table that names them.

A new method is a new file and one line in `METHODS`; its tests are inherited from the conformance
suite in `tests/merge_core/method_suite.py`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from merge_core.errors import RecipeError
from merge_core.methods.base import Method, Parameter
from merge_core.yaml_io import unknown

METHODS = {
    "linear": "merge_core.methods.linear:LINEAR",
    "task_arithmetic": "merge_core.methods.task_arithmetic:TASK_ARITHMETIC",
    "ties": "merge_core.methods.ties:TIES",
    "ties_sv": "merge_core.methods.ties_sv:TIES_SV",
    "dare_linear": "merge_core.methods.dare:DARE_LINEAR",
    "dare_ties": "merge_core.methods.dare:DARE_TIES",
    "della_linear": "merge_core.methods.della:DELLA_LINEAR",
    "della": "merge_core.methods.della:DELLA",
    "breadcrumbs": "merge_core.methods.breadcrumbs:BREADCRUMBS",
    "breadcrumbs_ties": "merge_core.methods.breadcrumbs:BREADCRUMBS_TIES",
    "slerp": "merge_core.methods.slerp:SLERP",
}


@cache
def get_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        RecipeError: no such method; the message names the nearest.
    """
    if name not in METHODS:
        raise RecipeError(unknown("merge_method", name, METHODS))
    module, attribute = METHODS[name].split(":")
    method: Method = getattr(import_module(module), attribute)
    assert method.name == name, f"the table calls {method.name} {name}"
    return method


__all__ = ["METHODS", "Method", "Parameter", "get_method"]
