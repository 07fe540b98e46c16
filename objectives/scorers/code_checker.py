"""The program that holds an item's tests: runs them on an answer that lives in another sandbox.

Runs inside a sandbox, joined with `code_answer`. Names that the tests use and do not define are
looked up in the answer, as proxies; each use of a proxy is a question to the other side. Tests
compare plain values here, where the answer has no hand.

Events go to standard error, one a line behind a random word: `total N`, then for each `assert`
`pass I` at the first time it holds and `fail I` at the first time it does not, `end` when the tests
ran to their end.
"""

import ast
import builtins
import importlib
import json
import os
import symtable
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

from objectives.scorers.code_values import decode, encode

_RECORD = "__mergefront_record__"
_CANDIDATE = "candidate"


class Lost(BaseException):
    """The other side is gone, or does not speak the protocol; no test may catch this."""


def count_asserts(tests: str) -> int:
    """How many asserts `tests` has; those of a true constant do not count.

    Raises:
        SyntaxError: it is not Python.
    """
    numbering = _Asserts()
    numbering.visit(ast.parse(tests))
    return numbering.total


def main(tests: str, entry_point: str | None, word: str) -> None:
    """Run `tests` and report; `word` marks the events."""
    events = os.fdopen(os.dup(2), "w")
    link = _Link(os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w"))
    empty, nowhere = os.pipe()
    os.close(nowhere)
    os.dup2(empty, 0)
    sys.stdout = sys.stderr = _Nowhere()

    def report(event: str) -> None:
        events.write(f"{word} {event}\n")
        events.flush()

    tree = ast.parse(tests)
    numbering = _Asserts()
    tree = ast.fix_missing_locations(numbering.visit(tree))
    report(f"total {numbering.total}")
    recorder = _Recorder(report)
    try:
        link.hello()
        names: dict[str, Any] = {"__name__": "tests", _RECORD: recorder}
        candidate = _bind(names, tests, entry_point, link)
        exec(compile(tree, "tests.py", "exec"), names)
        if candidate is not None and callable(names.get("check")) and not _calls_check(tree):
            names["check"](candidate)
    except (Exception, SystemExit, Lost):  # noqa: BLE001 - tests may raise anything
        return
    report("end")


def _bind(names: dict[str, Any], tests: str, entry_point: str | None, link: "_Link") -> Any:
    """What the tests expect to find defined, in `names`; the entry point, if there is one."""
    for name in sorted(free_names(tests)):
        if name in sys.stdlib_module_names:
            # Never the answer's: its `math` could hold that all things are close.
            names[name] = importlib.import_module(name)
        elif name != _CANDIDATE:
            found = link.find(name)
            if found is not None:
                names[name] = found
    if entry_point is None:
        return None
    candidate = _entry(entry_point, link)
    names[_CANDIDATE] = candidate
    if entry_point.isidentifier():
        names[entry_point] = candidate
    return candidate


def _entry(entry_point: str, link: "_Link") -> Any:
    """The value of `twoSum` or `Solution().twoSum` on the other side."""
    scope = {}
    for node in ast.walk(ast.parse(entry_point, mode="eval")):
        if isinstance(node, ast.Name):
            found = link.find(node.id)
            if found is None and entry_point.isidentifier():
                # LeetCode's form: a method of the class Solution.
                solution = link.find("Solution")
                found = getattr(solution(), node.id) if solution is not None else None
            if found is not None:
                scope[node.id] = found
    return eval(compile(entry_point, "entry point", "eval"), scope)  # noqa: S307 - in a sandbox


def _calls_check(tree: ast.AST) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "check"
        for node in ast.walk(tree)
    )


def free_names(tests: str) -> set[str]:
    """Names that `tests` uses and neither defines nor finds built in."""
    top = symtable.symtable(tests, "tests.py", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    used: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {
            s.get_name()
            for s in table.get_symbols()
            if s.is_referenced() and (table is top or s.is_global())
        }
    return used - bound - set(dir(builtins)) - {"__name__", "__file__"}


class _Asserts(ast.NodeTransformer):
    """Numbers the asserts and turns each into a report, so that one failure does not hide others.

    `assert x` becomes `record.begin(i)` and `try: record(i, x)` / `except Exception: record(i,
    False)`: no new scope, so that names mean what they meant.
    """

    def __init__(self) -> None:
        self.total = 0

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        if isinstance(node.test, ast.Constant) and node.test.value:
            return ast.copy_location(ast.Pass(), node)
        index = ast.Constant(self.total)
        self.total += 1
        record = ast.Name(_RECORD, ast.Load())
        holds = ast.Expr(ast.Call(record, [index, node.test], []))
        fails = ast.Expr(ast.Call(record, [index, ast.Constant(False)], []))
        handler = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [fails])
        return ast.copy_location(ast.Try([holds], [handler], [], []), node)


class _Recorder:
    def __init__(self, report: Any) -> None:
        self._report = report
        self._seen: set[str] = set()

    def __call__(self, index: int, value: Any) -> None:
        event = f"{'pass' if value else 'fail'} {index}"
        if event not in self._seen:
            self._seen.add(event)
            self._report(event)


class _Nowhere:
    """Takes what tests print."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        return None


class _Link:
    """Questions to the answer's side."""

    def __init__(self, reading: Any, writing: Any) -> None:
        self._reading = reading
        self._writing = writing

    def hello(self) -> None:
        """Wait until the answer's own code has run; what it raised is raised."""
        self._reply()

    def find(self, name: str) -> Any:
        """A proxy for what the answer defines as `name`; None if it does not."""
        try:
            return self.ask("find", name)
        except AttributeError:
            return None

    def ask(
        self,
        op: str,
        on: str | int,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        name: str = "",
    ) -> Any:
        sent = [self._encode(value) for value in args]
        named = {key: self._encode(value) for key, value in (kwargs or {}).items()}
        question = {"op": op, "on": on, "args": sent, "kwargs": named, "name": name}
        try:
            self._writing.write(json.dumps(question) + "\n")
            self._writing.flush()
        except OSError:
            raise Lost from None
        answer = self._reply()
        for index, after in (answer.get("changed") or {}).items():
            _change(args[int(index)], self._decode(after))
        return self._decode(answer.get("value"))

    def _reply(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._reading.readline())
            error = answer.get("error")
        except (OSError, ValueError, AttributeError, RecursionError):
            raise Lost from None
        if error is not None:
            kind = getattr(builtins, str(error), None)
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                kind = RuntimeError  # SystemExit among them: it is the answer that wanted to exit
            try:
                raised = kind(str(answer.get("text")))
            except TypeError:  # UnicodeDecodeError wants five arguments
                raised = RuntimeError(str(answer.get("text")))
            raise raised
        return answer

    def _encode(self, value: Any) -> Any:
        return encode(value, _handle_of)

    def _decode(self, data: Any) -> Any:
        try:
            return decode(data, lambda kept: Proxy(self, int(kept["handle"])))
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            raise Lost from None


def _handle_of(value: Any) -> dict[str, Any]:
    if isinstance(value, Proxy):
        return {"handle": object.__getattribute__(value, "_proxy")[1]}
    raise TypeError(f"a test cannot pass a {type(value).__name__} to an answer")


def _change(mine: Any, after: Any) -> None:
    """Make an argument what the call made of it, in place; of another type it stays."""
    if isinstance(mine, list | bytearray) and isinstance(after, list | bytearray):
        mine[:] = after
    elif isinstance(mine, dict | set) and isinstance(after, type(mine)):
        mine.clear()
        mine.update(after)
    elif isinstance(mine, deque) and isinstance(after, deque):
        mine.clear()
        mine.extend(after)


class Proxy:
    """Something on the answer's side.

    It has no `==` and no `in` of its own: those are the tests' to decide, on plain values.
    """

    __slots__ = ("_proxy",)

    def __init__(self, link: _Link, handle: int) -> None:
        object.__setattr__(self, "_proxy", (link, handle))

    def _ask(self, op: str, *args: Any, **more: Any) -> Any:
        link, handle = object.__getattribute__(self, "_proxy")
        return link.ask(op, handle, args, **more)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask("call", *args, kwargs=kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", value, name=name)

    def __len__(self) -> int:
        length = self._ask("length")
        if not isinstance(length, int):
            raise TypeError("a length that is no number")
        return length

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._ask("items")))

    def __bool__(self) -> bool:
        return self._ask("truth") is True
