"""The program that holds an answer: runs it, then serves calls to what it defines.

Runs inside a sandbox, joined with `code_checker`. It sees the arguments of each call and nothing
else of the tests, so that an answer cannot look up what is expected of it; and what it sends back
can claim no more than a return value.

In, one JSON line a question: `{"op", "on": name or handle, "args", "kwargs"}`. Out, one line an
answer: `{"value"}` with `{"changed": {index: value}}` for arguments that the call changed, or
`{"error": type's name, "text"}`. The first line out, unasked, says how the answer's own code ran.
"""

import itertools
import json
import os
import sys
import types
from collections import deque
from typing import Any

from objectives.scorers.code_values import MAX_ITEMS, decode, encode

_MUTABLE = (list, dict, set, bytearray, deque)


def main(code: str) -> None:
    """Serve until the checker closes its end."""
    channel_in, channel_out = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    # What the answer prints goes to standard error, and it reads an empty input.
    os.dup2(2, 1)
    empty, closed = os.pipe()
    os.close(closed)
    os.dup2(empty, 0)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    server = _Server(module)

    def reply(value: dict[str, Any]) -> None:
        channel_out.write(json.dumps(value) + "\n")
        channel_out.flush()

    def run() -> dict[str, Any]:
        exec(compile(code, "solution.py", "exec"), module.__dict__)
        return {"value": None}

    reply(_guarded(run))
    for line in channel_in:
        question = json.loads(line)
        reply(_guarded(lambda question=question: server.answer(question)))


def _guarded(action: Any) -> dict[str, Any]:
    try:
        result: dict[str, Any] = action()
        json.dumps(result)
    except BaseException as error:  # noqa: BLE001 - an answer may raise or exit as it likes
        # The nearest built-in class: that is all the tests can know.
        names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
        return {"error": names[0], "text": _text_of(error)}
    return result


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except BaseException:  # noqa: BLE001 - its __str__ is the answer's too
        return ""


class _Server:
    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._kept: list[Any] = []

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        on = question["on"]
        target = getattr(self._module, on) if isinstance(on, str) else self._kept[on]
        op = question["op"]
        if op == "find":
            return {"value": self._keep(target)}
        if op == "get":
            return {"value": self._encode(getattr(target, question["name"]))}
        if op == "set":
            setattr(target, question["name"], self._decode(question["args"][0]))
            return {"value": None}
        if op == "truth":
            return {"value": bool(target)}
        if op == "length":
            return {"value": len(target)}
        if op == "item":
            return {"value": self._encode(target[self._decode(question["args"][0])])}
        if op == "items":
            return {"value": self._encode(list(itertools.islice(target, MAX_ITEMS)))}
        assert op == "call"
        args = [self._decode(value) for value in question["args"]]
        kwargs = {key: self._decode(value) for key, value in question["kwargs"].items()}
        value = self._encode(target(*args, **kwargs))
        changed = {}
        for index, argument in enumerate(args):
            if isinstance(argument, _MUTABLE):
                after = self._encode(argument)
                if after != question["args"][index]:
                    changed[index] = after
        return {"value": value, "changed": changed}

    def _encode(self, value: Any) -> Any:
        return encode(value, self._keep)

    def _decode(self, data: Any) -> Any:
        return decode(data, lambda handle: self._kept[handle["handle"]])

    def _keep(self, value: Any) -> dict[str, Any]:
        self._kept.append(value)
        return {"handle": len(self._kept) - 1}
