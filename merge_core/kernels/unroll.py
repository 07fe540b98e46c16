"""Partial evaluation of kernel templates: loops over experts become straight-line code.

A template is ordinary Python over `range(N)` experts and flags. `specialize` evaluates what is
known (N, the flags), unrolls those loops, drops the branches not taken, and turns `name[k]` of
per-expert names into scalars `name_k`: the form that LLVM vectorizes. The template is read by
people, the result by the compiler; it is plain Python too, and lies in the cache to be looked at.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any


def specialize(
    template: Callable[..., Any],
    constants: Mapping[str, Any],
    registers: Mapping[str, int],
    form: type[Evaluator] | None = None,
) -> str:
    """Source of `template` for the given constants.

    Args:
        template: a function whose loops over constant ranges are to be unrolled.
        constants: values of the free names that are known now.
        registers: names that are indexed by constants only, with their number of elements; such
            a parameter of the template becomes that many parameters.
        form: how what is left is written; plain Python by default.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(template)))
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    function.returns = None
    (form or Evaluator)(constants, registers).function(function)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


class Evaluator(ast.NodeTransformer):
    """Carries out what is known and leaves the rest as plain Python.

    Args:
        constants: as in `specialize`.
        registers: as in `specialize`.
    """

    def __init__(self, constants: Mapping[str, Any], registers: Mapping[str, int]) -> None:
        self.constants = dict(constants)
        self.registers = registers

    def function(self, function: ast.FunctionDef) -> None:
        """Rewrite parameters and body in place."""
        arguments = function.args.args
        function.args.args = [ast.arg(name) for a in arguments for name in self.names(a.arg)]
        function.body = self.block(function.body)

    def names(self, name: str) -> list[str]:
        """The scalars that a register is made of; any other name is itself."""
        if name not in self.registers:
            return [name]
        return [f"{name}_{index}" for index in range(self.registers[name])]

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Statements with their constant control flow carried out."""
        result: list[ast.stmt] = []
        for statement in body:
            result += self._statement(statement)
        return result

    def _statement(self, node: ast.stmt) -> list[ast.stmt]:
        if isinstance(node, ast.If) and self._known(node.test):
            return self.block(node.body if self._value(node.test) else node.orelse)
        if isinstance(node, ast.For):
            if not self._known(node.iter):
                return self.loop(node)
            assert isinstance(node.target, ast.Name)
            outer = dict(self.constants)
            result = []
            for value in self._value(node.iter):
                self.constants[node.target.id] = value
                # Visiting changes nodes in place: each round works on its own copy.
                result += self.block([_copy(part) for part in node.body])
            self.constants = outer
            return result
        if isinstance(node, ast.If):
            node.test = self.visit(node.test)
            node.body, node.orelse = self.block(node.body), self.block(node.orelse)
            return [node]
        return [self.visit(node)]

    def loop(self, node: ast.For) -> list[ast.stmt]:
        """A loop over what is not known now: the elements."""
        node.iter = self.visit(node.iter)
        node.body = self.block(node.body)
        return [node]

    def visit_Call(self, node: ast.Call) -> ast.AST:
        arguments: list[ast.expr] = []
        for argument in node.args:
            if isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Name):
                names = self.names(argument.value.id)
                arguments += [ast.Name(name, ast.Load()) for name in names]
            else:
                arguments.append(self.visit(argument))
        node.args = arguments
        node.func = self.visit(node.func)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id in self.registers:
            index = self._value(node.slice)
            assert 0 <= index < self.registers[node.value.id], ast.unparse(node)
            return ast.Name(f"{node.value.id}_{index}", node.ctx)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        value = self.constants.get(node.id)
        return ast.Constant(value) if isinstance(value, (int, float)) else node

    def _known(self, node: ast.expr) -> bool:
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        return names <= self.constants.keys() | {"range", "len"}

    def _value(self, node: ast.expr) -> Any:
        code = compile(ast.Expression(_copy(node)), "<template>", "eval")
        # The templates are our own; nothing of a user's reaches this.
        return eval(code, {"range": range, "len": len}, self.constants)  # noqa: S307


def _copy(node: Any) -> Any:
    import copy

    return ast.fix_missing_locations(copy.deepcopy(node))
