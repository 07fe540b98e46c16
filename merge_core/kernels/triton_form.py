"""The Triton form of the kernels' template: a program holds a block of elements at once.

`base[i]` in the loop over elements is the block itself, the loop is gone; `x if c else y` selects,
tables are read at each element's index, counts are added over the elements that are `live`. What
the template writes to `out[i]` is what the function returns. Scalars are not parameters but lie in
one small array: numbers differ with each trial, and Triton compiles anew for special integers.
"""

from __future__ import annotations

import ast

from merge_core.kernels.unroll import Evaluator

FLOATS = ("factors", "table")
"""Scalars that are float32; the others are uint32."""
TABLES = ("limits", "scales")
"""Per expert an array in device memory; so is `table` where it is no register."""


class BlockForm(Evaluator):
    """`template.block`, for a block of elements."""

    def function(self, function: ast.FunctionDef) -> None:
        """As the base does, with the loop's parts as parameters instead of `out`."""
        (loop,) = (n for n in function.body if isinstance(n, ast.For))
        assert isinstance(loop.target, ast.Name)
        self.element = loop.target.id
        arguments = function.args.args
        place = next(n for n, argument in enumerate(arguments) if argument.arg == "out")
        arguments[place : place + 1] = [ast.arg(self.element), ast.arg("live")]
        super().function(function)
        function.body.append(_statement("return out"))

    def loop(self, node: ast.For) -> list[ast.stmt]:
        """All elements at once."""
        return self.block(node.body)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """The block itself, or a look-up."""
        found = super().visit_Subscript(node)
        if not isinstance(found, ast.Subscript):
            return found
        if isinstance(found.slice, ast.Name) and found.slice.id == self.element:
            assert isinstance(found.value, ast.Name), ast.unparse(node)
            return ast.Name(found.value.id, found.ctx)
        # Elements beyond the row are zeros: what they look up exists too.
        return _call("tl.load", ast.BinOp(found.value, ast.Add(), found.slice))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        """tally[k, column] += x."""
        target = node.target
        assert isinstance(target, ast.Subscript), ast.unparse(node)
        assert isinstance(target.slice, ast.Tuple), ast.unparse(node)
        row, column = (self._value(index) for index in target.slice.elts)
        place = ast.BinOp(target.value, ast.Add(), ast.Constant(4 * row + column))
        return ast.Expr(_call("count", place, self.visit(node.value), ast.Name("live")))

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """A select."""
        return _call("tl.where", *(self.visit(x) for x in (node.test, node.body, node.orelse)))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """`not` of a block of truths."""
        node.operand = self.visit(node.operand)
        return ast.UnaryOp(ast.Invert(), node.operand) if isinstance(node.op, ast.Not) else node


class ProgramForm(Evaluator):
    """`triton_program.program`: scalars are loaded from `numbers`."""

    def function(self, function: ast.FunctionDef) -> None:
        """As the base does; scalars become loads, in the order of the parameters."""
        names = [argument.arg for argument in function.args.args]
        scalars = [n for n in names[names.index("numbers") + 1 :] if self._is_scalar(n)]
        loads: list[ast.stmt] = []
        for name in scalars:
            for part in self.names(name):
                word = f"tl.load(numbers + {len(loads)})"
                value = f"from_bits({word})" if name in FLOATS else word
                loads.append(_statement(f"{part} = {value}"))
        function.args.args = [a for a in function.args.args if a.arg not in scalars]
        super().function(function)
        function.body[:0] = loads

    def _is_scalar(self, name: str) -> bool:
        return name not in TABLES and (name != "table" or name in self.registers)


def _statement(text: str) -> ast.stmt:
    return ast.parse(text).body[0]


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.parse(name, mode="eval").body, list(arguments), [])
