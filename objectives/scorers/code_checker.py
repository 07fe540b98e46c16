"""The program that holds an item's tests: runs them on an answer that lives in another sandbox.

Runs inside a sandbox, joined with `code_answer`. What the tests take from the answer
(`code_reading` says what) they get as proxies; each use of a proxy is a question to the other side.
Tests compare plain values here, where the answer has no hand.

Events go to standard error, one a line behind a random word: `total passed failed ended`, numbers
of asserts (those that held whenever they were reached, those that once did not) and 1 when the
tests ran to their end. The last line is the result.
"""

import ast
import builtins
import importlib
import json
import os
import sys
import types
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from objectives.scorers.code_values import decode, encode

# Raised through `map`, these would end a loop of the tests as if there were no more to test.
_ENDS = (StopIteration, StopAsyncIteration)
_RECORD = "__mergefront_record__"
CANDIDATE = "candidate"


class Lost(BaseException):
    """The other side is gone, or does not speak the protocol; no test may catch this."""


def always_holds(node: ast.Assert) -> bool:
    """Whether it asserts a true constant, or `(value, message)`, a tuple, which is always true."""
    if isinstance(node.test, ast.Tuple):
        return bool(node.test.elts)
    return isinstance(node.test, ast.Constant) and bool(node.test.value)


def main(
    tests: str,
    entry_point: str | None,
    names: Sequence[str],
    modules: Sequence[str],
    check: bool,
    word: str,
) -> None:
    """Run `tests` and report; `word` marks the events.

    `names` are taken from the answer, `modules` imported; where `check`, the tests leave it to us
    to call their `check(candidate)`.
    """
    events = os.fdopen(os.dup(2), "w")
    link = _Link(os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w"))
    empty, nowhere = os.pipe()
    os.close(nowhere)
    os.dup2(empty, 0)
    sys.stdout = sys.stderr = _Nowhere()

    def report(event: str) -> None:
        events.write(f"{word} {event}\n")
        events.flush()

    numbering = _Asserts()
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # tests may be as deep as Python's parser takes them
    tree = ast.fix_missing_locations(numbering.visit(ast.parse(tests)))
    sys.setrecursionlimit(usual)
    recorder = _Recorder(numbering.total, report)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    scope = module.__dict__
    scope[_RECORD] = recorder
    ended = False
    try:
        link.hello()
        for name in modules:
            scope[name] = importlib.import_module(name)
        _bind(scope, names, entry_point, link)
        link.used = False
        exec(compile(tree, "tests.py", "exec"), scope)
        if check:
            scope["check"](scope[CANDIDATE])
        # Tests may have caught that the other side was lost, or may never have asked it anything.
        ended = link.used and not link.lost
    except (Exception, SystemExit, Lost):  # noqa: BLE001 - tests may raise anything
        ended = False
    recorder.close(ended)


def _bind(
    scope: dict[str, Any], names: Sequence[str], entry_point: str | None, link: "_Link"
) -> None:
    """Put what is the answer's into `scope`; what it does not define stays undefined."""
    for name in names:
        found = link.find(name)
        if found is not None:
            scope[name] = found
    if entry_point is not None:
        scope[CANDIDATE] = _entry(entry_point, link)
        if entry_point in names:
            scope[entry_point] = scope[CANDIDATE]


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


class _Asserts(ast.NodeTransformer):
    """Numbers the asserts and turns each into a report, so that one failure does not hide others.

    `assert x` becomes `try: record(i, x)` / `except Exception: record(i, False)`: no new scope, so
    that names mean what they meant.
    """

    def __init__(self) -> None:
        self.total = 0

    def visit(self, node: ast.AST) -> Any:
        return node if isinstance(node, ast.expr) else super().visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        if always_holds(node):
            return ast.copy_location(ast.Pass(), node)
        index = ast.Constant(self.total)
        self.total += 1
        record = ast.Name(_RECORD, ast.Load())
        holds = ast.Expr(ast.Call(record, [index, node.test], []))
        fails = ast.Expr(ast.Call(record, [index, ast.Constant(False)], []))
        handler = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [fails])
        return ast.copy_location(ast.Try([holds], [handler], [], []), node)


class _Recorder:
    """Counts asserts, and reports often enough: what was not reported is lost if time runs out.

    Standard error is bounded, so a report waits until the count grew by a thirty-second: at most
    some 32 + 32 ln(asserts / 32) lines, for any number of asserts.
    """

    def __init__(self, total: int, report: Any) -> None:
        self._total = total
        self._report = report
        self._passed: set[int] = set()
        self._failed: set[int] = set()
        self._reported = 0
        self._tell(False)

    def __call__(self, index: int, value: Any) -> None:
        (self._passed if value else self._failed).add(index)
        seen = len(self._passed) + len(self._failed)
        if seen - self._reported > self._reported // 32:
            self._reported = seen
            self._tell(False)

    def close(self, ended: bool) -> None:
        """Report for the last time."""
        self._tell(ended)

    def _tell(self, ended: bool) -> None:
        passed = len(self._passed - self._failed)
        self._report(f"{self._total} {passed} {len(self._failed)} {int(ended)}")


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
        self.used = False
        """Whether the tests asked for more than a name."""
        self.lost = False

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
            raise self._lose() from None
        self.used = self.used or op != "find"
        answer = self._reply()
        try:
            changed = {int(at): after for at, after in (answer.get("changed") or {}).items()}
            mine = {at: args[at] for at in changed}
        except (ValueError, AttributeError, LookupError):
            raise self._lose() from None
        for at, after in changed.items():
            _change(mine[at], self._decode(after))
        return self._decode(answer.get("value"))

    def _reply(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._reading.readline())
            error = answer.get("error")
        except (OSError, ValueError, AttributeError, RecursionError):
            raise self._lose() from None
        if error is not None:
            kind = getattr(builtins, str(error), None)
            if not (isinstance(kind, type) and issubclass(kind, Exception)) or kind in _ENDS:
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
            raise self._lose() from None

    def _lose(self) -> Lost:
        self.lost = True
        return Lost()


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
