"""Whether a program that the model wrote passes its tests."""

import hashlib
import re
import secrets
import textwrap
import threading
import time
from collections import OrderedDict
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from objectives.errors import ScorerError
from objectives.item import Item, detail
from objectives.sandbox import Limits, Program, make_sandbox
from objectives.sandbox.base import Outcome
from objectives.scorers import base
from objectives.scorers.base import Measure, Sample, Scorer, split_thinking
from objectives.scorers.code_tests import Asserts, Case, read_tests

Result = tuple[int, int]
"""Tests passed, of how many."""

_RAISED = re.compile(r"[\w.]{1,60}(?=:|$)")
_SHOWN = 60  # characters of what a program printed
_PYTHON = ("python", "python3", "py", "py3")
_REMEMBERED = 1 << 14  # at some 300 bytes each


class Ran(NamedTuple):
    """How the tests went, and in words how the first that failed did; "" where none did."""

    result: Result
    failed: str = ""


_results: OrderedDict[bytes, Ran] = OrderedDict()
_lock = threading.Lock()


class Code(Scorer):
    """1 when the last Python block of the answer passes every test of the item; 0 otherwise.

    Tests are what LiveCodeBench has (`tests: [{"input": ..., "output": ...}]`: programs that read
    and print; with `entry_point`, calls) or what HumanEval and MBPP have (`tests`: Python asserts
    and perhaps `entry_point`). Nothing runs outside the `sandbox`, and without one nothing runs
    at all. `passed` is the share of the tests passed. `code_reading` says which Python tests are
    refused, because they could pass any answer.

    An answer cannot see what is expected of it: printed output is compared out here, and asserts
    run in a second sandbox, which the answer reaches by the values that its functions return.
    """

    name = "code"
    binary: ClassVar[bool] = True
    correctness: ClassVar[bool] = True
    extra_measures: ClassVar[dict[str, Measure]] = {"passed": Measure()}
    operational: ClassVar[frozenset[str]] = frozenset({"sandbox", "parallel"})
    params: "Params"

    class Params(base.Params):
        """Limits are per run: a run is one input, or all asserts of an item together."""

        sandbox: str | dict[str, Any] | None = Field(
            None,
            description="`bubblewrap`, `unshare`, `landlock`, or `{http: URL}`; unset: the search"
            " does not start",
        )
        tests: str = Field("tests", min_length=1, description="the item's key that holds the tests")
        time_limit: float = Field(6.0, gt=0, le=600, description="processor seconds of a run")
        item_limit: float = Field(120.0, gt=0, description="seconds for all runs of an item")
        memory: int = Field(1024, ge=64, description="MiB of a run")
        output: int = Field(1024, ge=1, description="KiB that a run may print")
        parallel: int = Field(2, ge=1, le=256, description="answers run at once")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        if self.params.sandbox is not None:
            make_sandbox(self.params.sandbox)  # a wrong name is said at once

    @property
    def parallel(self) -> int:
        return self.params.parallel

    def check(self) -> None:
        if self.params.sandbox is None:
            raise ScorerError(
                f"scorer {self.name}: no sandbox to run answers in; give it one, such as"
                " {code: {sandbox: landlock}} (docs/sandbox.md)"
            )
        make_sandbox(self.params.sandbox).check()

    def check_item(self, item: Item) -> None:
        read_tests(item, self.params.tests)

    def score(self, sample: Sample) -> float:
        """0 or 1.

        Raises:
            ScorerError: there is no sandbox, or it failed: then the answer is neither right nor
                wrong.
        """
        passed, total = self._ran(sample).result
        return float(passed == total)

    def extras(self, sample: Sample) -> dict[str, float]:
        passed, total = self._ran(sample).result
        return {"passed": passed / total}

    def details(self, sample: Sample) -> dict[str, str]:
        """`tests`: how many passed, and what became of the first that did not."""
        ran = self._ran(sample)
        return {"tests": ran.failed or f"all {ran.result[1]} passed"}

    def _ran(self, sample: Sample) -> Ran:
        if self.params.sandbox is None:
            self.check()
        code = last_block(split_thinking(sample.generation).answer)
        if code is None:
            return Ran((0, 1), "no Python block")
        # Once for `score`, `extras` and `details`, and for equal answers of several samples. Tests
        # can be megabytes, so they are neither kept nor read again.
        given = (sample.item.fields.get(self.params.tests), sample.item.fields.get("entry_point"))
        key = hashlib.sha256(
            repr((self.params.model_dump_json(), given, code)).encode("utf-8", "surrogatepass")
        ).digest()
        with _lock:
            if key in _results:
                return _results[key]
        tests = read_tests(sample.item, self.params.tests)
        result = self._run(code, tests)
        with _lock:
            _results[key] = result
            if len(_results) > _REMEMBERED:
                _results.popitem(last=False)
        return result

    def _run(self, code: str, tests: tuple[Case, ...] | Asserts) -> Ran:
        assert self.params.sandbox is not None
        sandbox = make_sandbox(self.params.sandbox)
        params = self.params
        limits = Limits(params.time_limit, params.memory << 20, params.output << 10)
        if isinstance(tests, Asserts):
            word = secrets.token_hex(16)
            answer = Program(module_program("code_answer", code))
            read = tests.reading
            arguments = (tests.text, tests.entry_point, read.names, read.modules, read.check, word)
            checker = Program(module_program("code_checker", *arguments))
            _, checked = sandbox.run_joined(answer, checker, limits)
            held, of = read_events(checked.stderr, word)
            return Ran((held, of), "" if held == of else f"{held} of {of} asserts hold")
        passed, failed = 0, ""
        deadline = time.monotonic() + params.item_limit
        for number, case in enumerate(tests, 1):
            if time.monotonic() >= deadline:
                failed = failed or f"test {number} of {len(tests)}: item_limit was over"
                break
            outcome = sandbox.run(Program(code, case.input), limits)
            right = outcome.status == "ok" and same_output(case.output, outcome.stdout)
            passed += right
            if not right and not failed:
                failed = detail(f"test {number} of {len(tests)}: {_why(outcome, case.output)}")
        return Ran((passed, len(tests)), failed)


def _why(outcome: Outcome, expected: str) -> str:
    """How a run failed its test."""
    if outcome.status == "error":
        # The name alone: what follows it may hold an address, another one in every run.
        raised = _RAISED.match(outcome.stderr.strip().rpartition("\n")[2])
        return f"it raised {raised[0]}" if raised else "it did not end well"
    if outcome.status != "ok":
        return {"time": "time_limit was over", "output": "it printed too much"}[outcome.status]
    given, wanted = outcome.stdout.strip()[:_SHOWN], expected.strip()[:_SHOWN]
    return f"printed {given!r}, expected {wanted!r}"


def last_block(text: str) -> str | None:
    """The last complete fenced block in Python, or else the last one without a language."""
    found: dict[bool, str] = {}
    fence = language = ""
    lines: list[str] = []
    for line in text.splitlines():
        mark = line.strip()
        if fence:
            if mark.startswith(fence) and not mark.strip(fence[0]):
                if language in ("", *_PYTHON):
                    found[bool(language)] = textwrap.dedent("\n".join(lines)) + "\n"
                fence = ""
            else:
                lines.append(line)
        elif mark.startswith(("```", "~~~")):
            rest = mark.lstrip(mark[0])
            if mark[0] in rest:
                continue  # code within a line
            fence = mark[: len(mark) - len(rest)]
            language = rest.split()[0].lower() if rest.strip() else ""
            lines = []
    return found.get(True, found.get(False))


def same_output(expected: str, printed: str) -> bool:
    """Equal line by line, white space at the ends aside; numbers by value, 1.50 and 1.5 alike."""
    wanted, given = expected.strip().split("\n"), printed.strip().split("\n")
    if len(wanted) != len(given):
        return False
    for left, right in zip(wanted, given, strict=True):
        if left.strip() == right.strip():
            continue
        numbers = _numbers(left)
        if numbers is None or numbers != _numbers(right):
            return False
    return True


def _numbers(line: str) -> list[Decimal] | None:
    try:
        values = [Decimal(word) for word in line.split()]
    except InvalidOperation:
        return None
    return values if values and all(value.is_finite() for value in values) else None


def module_program(module: str, *arguments: object) -> str:
    """The text of a program that is `module` of this folder, its `main` called with `arguments`.

    Those are plain data, which is what it says of itself.
    """
    sources = {name: _source(name) for name in ("code_values", module)}
    return (
        "import sys, types\n"
        f"for name, source in {sources!r}.items():\n"
        "    name = 'objectives.scorers.' + name\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    exec(compile(source, name, 'exec'), sys.modules[name].__dict__)\n"
        f"sys.modules[name].main(*{arguments!r})\n"
    )


@cache
def _source(module: str) -> str:
    return Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")


def read_events(text: str, word: str) -> Result:
    """How the checker's tests went, by the last of the lines that begin with `word`.

    Tests that did not run to their end have one more failure: whatever ended them. An assert that
    was not reached had no occasion, but where none was reached and held, nothing was shown.
    """
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith(f"{word} ")]
    if not lines:
        return 0, 1
    total, passed, failed, ended = map(int, lines[-1])
    if not ended:
        return passed, total + 1
    return (total if passed and not failed else passed), total
