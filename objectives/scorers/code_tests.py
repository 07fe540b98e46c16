"""The tests of an item, in the forms that data sets write them."""

import ast
import contextlib
import json
from dataclasses import dataclass
from typing import Any

from objectives.errors import ScorerError
from objectives.item import Item
from objectives.scorers.code_checker import count_asserts

# Answers give tuples where JSON has lists: LiveCodeBench takes either.
_SAME = """
def _lists(value):
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value

"""


@dataclass(frozen=True)
class Case:
    """What a program is to print for an input."""

    input: str
    output: str


@dataclass(frozen=True)
class Asserts:
    """Python text with `assert` statements on what an answer defines."""

    text: str
    entry_point: str | None


def read_tests(item: Item, field: str) -> tuple[Case, ...] | Asserts:
    """The item's tests.

    `[{"input": text, "output": text}]` are cases; with an `entry_point` beside them they are calls:
    JSON arguments, one a line, and the JSON result. Text, or a list of texts, is Python.

    Raises:
        ScorerError: there are none, or they have another form.
    """
    tests = item.fields.get(field)
    entry_point = item.fields.get("entry_point")
    if entry_point is not None and not _is_expression(entry_point):
        raise ScorerError(f'"entry_point" is {entry_point!r}; write a name, or Solution().name')
    if isinstance(tests, str) and tests.lstrip().startswith("["):
        with contextlib.suppress(json.JSONDecodeError):  # Python can start so, too
            tests = json.loads(tests)  # LiveCodeBench keeps them so
    if isinstance(tests, list) and tests and all(_is_case(test) for test in tests):
        if entry_point is None:
            return tuple(Case(test["input"], test["output"]) for test in tests)
        return Asserts(_calls(tests, field), entry_point)
    if isinstance(tests, list) and tests and all(isinstance(test, str) for test in tests):
        tests = "\n".join(tests)
    if not isinstance(tests, str) or not tests.strip():
        raise ScorerError(
            f'"{field}" must hold tests: [{{"input": text, "output": text}}, ...] or the text of'
            " Python asserts; add it"
        )
    try:
        total = count_asserts(tests)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ScorerError(f'"{field}" is not Python ({error}); mend it') from None
    if not total:
        raise ScorerError(f'"{field}" has no assert; add what an answer must hold')
    return Asserts(tests, entry_point)


def _is_case(test: Any) -> bool:
    return (
        isinstance(test, dict)
        and isinstance(test.get("input"), str)
        and isinstance(test.get("output"), str)
    )


def _is_expression(text: Any) -> bool:
    try:
        ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, TypeError):
        return False
    return True


def _calls(tests: list[dict[str, str]], field: str) -> str:
    lines = [_SAME]
    for number, test in enumerate(tests, 1):
        try:
            given = [json.loads(line) for line in test["input"].splitlines() if line.strip()]
            wanted = json.loads(test["output"])
        except json.JSONDecodeError:
            raise ScorerError(
                f'"{field}" {number}: with an entry_point, inputs are JSON, one argument a line,'
                " and the output is JSON; mend it"
            ) from None
        arguments = ", ".join(map(repr, given))
        lines.append(f"assert _lists(candidate({arguments})) == {wanted!r}\n")
    return "".join(lines)
