"""The tests of an item, in the forms that data sets write them."""

import ast
import contextlib
import json
from dataclasses import dataclass
from typing import Any

from objectives.errors import ScorerError
from objectives.item import Item
from objectives.scorers.code_reading import Reading, read

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
    """Python text with `assert` statements on what an answer defines.

    `entry_point` is the expression that they know as `candidate`.
    """

    text: str
    entry_point: str | None
    reading: Reading


def read_tests(item: Item, field: str) -> tuple[Case, ...] | Asserts:
    """The item's tests.

    `[{"input": text, "output": text}]` are cases; with an `entry_point` beside them they are calls:
    JSON arguments, one a line, and the JSON result. Text, or a list of texts, is Python.
    `entry_point` says what the tests may take from the answer; see `code_reading`.

    Raises:
        ScorerError: there are none, or they have another form.
    """
    tests = item.fields.get(field)
    entry_points = _entry_points(item.fields.get("entry_point"))
    if isinstance(tests, str) and tests.lstrip().startswith("["):
        with contextlib.suppress(json.JSONDecodeError):  # Python can start so, too
            tests = json.loads(tests)  # LiveCodeBench keeps them so
    if isinstance(tests, list) and tests and all(_is_case(test) for test in tests):
        if not entry_points:
            return tuple(Case(test["input"], test["output"]) for test in tests)
        # Known without reading, which takes seconds where arguments are megabytes.
        return Asserts(_calls(tests, field), entry_points[0], Reading((), (), False))
    if isinstance(tests, list) and tests and all(isinstance(test, str) for test in tests):
        tests = "\n".join(tests)
    if not isinstance(tests, str) or not tests.strip():
        raise ScorerError(
            f'"{field}" must hold tests: [{{"input": text, "output": text}}, ...] or the text of'
            " Python asserts; add it"
        )
    entry_point = entry_points[0] if entry_points else None
    return Asserts(tests, entry_point, read(tests, field, _names(entry_points)))


def _entry_points(given: Any) -> list[str]:
    """What tests take from the answer: a name, or an expression; or several, the tested one first.

    Raises:
        ScorerError: it is something else.
    """
    entry_points = [] if given is None else given if isinstance(given, list) else [given]
    right = all(_is_expression(text) for text in entry_points)
    if given == [] or not (right and all(text.isidentifier() for text in entry_points[1:])):
        raise ScorerError(
            f'"entry_point" is {given!r}; write a name, or Solution().name, or a list of names'
        )
    return entry_points


def _names(entry_points: list[str]) -> set[str]:
    nodes = [node for text in entry_points for node in ast.walk(ast.parse(text, mode="eval"))]
    return {node.id for node in nodes if isinstance(node, ast.Name)}


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
