"""What the text of Python tests says before it runs: is every assert reached, what is the answer's.

An answer must not bring anything that judges it. So the tests may take from it only what
`entry_point` names or, without one, the single name that they use and nobody defines.
"""

import ast
import builtins
import symtable
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from objectives.errors import ScorerError
from objectives.scorers.code_checker import CANDIDATE, always_holds

_Function = ast.FunctionDef | ast.AsyncFunctionDef
# Who looks names up by these can reach anything.
_REFLECTION = frozenset({"globals", "locals", "vars", "dir", "eval", "exec"})
_GIVEN = frozenset(dir(builtins)) | {"__name__", "__file__"}


@dataclass(frozen=True)
class Reading:
    """`names` come from the answer, `modules` from Python; `check` has to be called for the tests.

    `modules` are of the standard library, used as `math.pi` and not imported.
    """

    names: tuple[str, ...]
    modules: tuple[str, ...]
    check: bool


def read(tests: str, field: str, entry_points: Iterable[str]) -> Reading:
    """Read `tests`, which stand in an item's `field`; `entry_points` are names of the answer.

    Raises:
        ScorerError: they are not Python, import what the sandbox lacks, hold an assert that is
            never reached or none that can hold, or leave open what is the answer's.
    """
    try:
        tree = ast.parse(tests)
        free, called = free_names(tests), _called(tree)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ScorerError(f'"{field}" is not Python ({error}); mend it') from None
    _refuse_imports(tree, field)
    offered = set(entry_points)
    check = _reach_all(tree, field, bool(offered))
    modules = {name for name in free - offered - called if name in sys.stdlib_module_names}
    names = free - modules
    if not offered:
        _one_name(names, field)
        return Reading(tuple(names), tuple(sorted(modules)), check)
    unknown = sorted(names - offered - {CANDIDATE})
    if unknown:
        raise ScorerError(
            f'"{field}" uses {unknown[0]}, which is neither defined there nor in "entry_point";'
            " define or import it in the tests (an answer must not bring what judges it)"
        )
    if not (names or check):
        raise ScorerError(f'"{field}" uses nothing of the answer; call {CANDIDATE} there')
    return Reading(tuple(sorted(names & offered)), tuple(sorted(modules)), check)


def free_names(tests: str) -> set[str]:
    """Names that `tests` uses and neither defines nor finds built in."""
    top = symtable.symtable(tests, "tests.py", "exec")
    bound: set[str] = set()
    used: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if table is top or symbol.is_global():
                if symbol.is_assigned() or symbol.is_imported():
                    bound.add(symbol.get_name())
                if symbol.is_referenced():
                    used.add(symbol.get_name())
    return used - bound - _GIVEN


def _called(tree: ast.AST) -> set[str]:
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)}


def _one_name(names: set[str], field: str) -> None:
    """Without an entry point: more than one name, and an answer's `isclose` could judge its `f`."""
    if CANDIDATE in names:
        raise ScorerError(
            f'"{field}" uses {CANDIDATE}, and there is no "entry_point"; add the name of the'
            " function or class that is tested"
        )
    if not names:
        raise ScorerError(f'"{field}" uses nothing of the answer; call what it is to define')
    if len(names) > 1:
        raise ScorerError(
            f'"{field}" uses {", ".join(sorted(names))}, all undefined; name in "entry_point" what'
            " the answer defines (a list, if several), and define or import the others in the tests"
        )


def _refuse_imports(tree: ast.AST, field: str) -> None:
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = ["." * node.level + (node.module or "")]
            if node.names[0].name == "*":
                raise ScorerError(
                    f'"{field}" imports * from {found[0]}, which could hide the answer\'s names;'
                    " name what it imports"
                )
        for module in found:
            if module.partition(".")[0] not in sys.stdlib_module_names:
                raise ScorerError(
                    f'"{field}" imports {module}, and the sandbox has the standard library only;'
                    " write the tests without it"
                )


def _reach_all(tree: ast.Module, field: str, entry: bool) -> bool:
    """Whether `check` has to be called for the tests: defined, and not called by them.

    Raises:
        ScorerError: some assert is not reached by any way, or none can hold.
    """
    reach = _Reach()
    reach.run(tree.body)
    has_check = any(isinstance(node, _Function) and node.name == "check" for node in tree.body)
    left_to_us = has_check and "check" not in reach.names
    if left_to_us and entry:
        reach.names.add("check")
        reach.follow()
    missed = reach.missed()
    if missed == "check" and left_to_us:
        raise ScorerError(
            f'"{field}" defines check and never calls it; add "entry_point", the name of the'
            " function that is tested"
        )
    if missed is not None:
        raise ScorerError(
            f'"{field}" holds asserts in {missed}, which nothing calls; call it in the tests'
        )
    asserts = _asserts(tree)
    if not asserts:
        raise ScorerError(f'"{field}" has no assert; add what an answer must hold')
    if all(isinstance(node.test, ast.Constant) for node in asserts):
        raise ScorerError(f'"{field}" has no assert that can hold; add what an answer must hold')
    return left_to_us and entry


def _asserts(tree: ast.AST) -> list[ast.Assert]:
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Assert))
    return [node for node in found if not always_holds(node)]


@dataclass
class _Reach:
    """Follows from statements to the functions whose names they use, whether or not they call them.

    It errs to the side of reached: no right test is refused, and one that runs no assert passes no
    answer.
    """

    names: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    waiting: list[tuple[str, _Function]] = field(default_factory=list)

    def run(self, nodes: Iterable[ast.AST]) -> None:
        self._visit(nodes)
        self.follow()

    def follow(self) -> None:
        """Visit the bodies that are reached by now, and what they reach."""
        while True:
            if self.names & _REFLECTION:
                reached, self.waiting = self.waiting, []
            else:
                known = self.names | self.attributes
                reached = [(name, node) for name, node in self.waiting if name in known]
                self.waiting = [(name, node) for name, node in self.waiting if name not in known]
            if not reached:
                return
            for _, function in reached:
                self._visit(function.body)

    def missed(self) -> str | None:
        """The function or class of the first assert that was not reached."""
        in_order = sorted(self.waiting, key=lambda pair: pair[1].lineno)
        return next((name for name, node in in_order if _asserts(node)), None)

    def _visit(self, nodes: Iterable[ast.AST]) -> None:
        """Note what `nodes` use; methods wait for the name of their class.

        No recursion: expressions may be as deep as Python's parser takes them.
        """
        stack: list[tuple[ast.AST, str | None]] = [(node, None) for node in nodes]
        while stack:
            node, owner = stack.pop()
            if isinstance(node, _Function):
                self.waiting.append((owner or node.name, node))
                if node.decorator_list:
                    self.names.add(owner or node.name)  # the decorator may call or keep it
                stack += [(part, owner) for part in (*node.decorator_list, node.args)]
                continue
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self.names.add(node.id)
            elif isinstance(node, ast.Attribute):
                self.attributes.add(node.attr)
            elif isinstance(node, ast.ClassDef):
                owner = node.name
            stack += [(part, owner) for part in ast.iter_child_nodes(node)]
