"""Values between the program that holds an answer and the one that holds its tests, as JSON.

Runs inside sandboxes, so it imports nothing of this project. Only plain data travels: whatever a
hostile answer returns, its tests meet numbers, text and containers of Python's own types, or a
handle on something that stays behind.
"""

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_ITEMS = 1_000_000  # of an iterator that is drawn: some never end


def encode(value: Any, keep: Callable[[Any], dict[str, Any]]) -> Any:
    """JSON for `value`; what is not plain data is given to `keep`, whose result stands for it.

    Raises:
        RecursionError: a container that holds itself.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        # Hexadecimal: decimal digits of large numbers take quadratic time.
        return number if abs(number) < 1 << 63 else {"int": hex(number)}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {type_name(value, bytes, bytearray): bytes(value).hex()}
    if isinstance(value, Fraction):
        return {"fraction": [hex(value.numerator), hex(value.denominator)]}
    if isinstance(value, Decimal):
        return {"decimal": Decimal.__str__(value)}
    if isinstance(value, range):
        return {"range": [encode(n, keep) for n in (value.start, value.stop, value.step)]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, keep), encode(v, keep)] for k, v in dict.items(value)]}
    if isinstance(value, list | tuple | set | frozenset | deque):
        name = type_name(value, list, tuple, set, frozenset, deque)
        return {name: [encode(item, keep) for item in value]}
    return keep(value)


def type_name(value: Any, *kinds: type) -> str:
    """The name of the plain type that `value` is, or is derived from."""
    return next(kind.__name__ for kind in kinds if isinstance(value, kind))


_CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}


def decode(data: Any, fetch: Callable[[dict[str, Any]], Any]) -> Any:
    """The value that `encode` wrote; what it kept is given to `fetch`.

    Raises:
        ValueError, TypeError: `data` was not written by `encode`.
    """
    if not isinstance(data, dict):
        if isinstance(data, list):
            raise TypeError("a bare list")
        return data
    ((kind, content),) = data.items()
    if kind in _CONTAINERS:
        return _CONTAINERS[kind]([decode(item, fetch) for item in content])
    if kind == "dict":
        return {decode(key, fetch): decode(value, fetch) for key, value in content}
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float.fromhex(content)
    if kind == "complex":
        return complex(float.fromhex(content[0]), float.fromhex(content[1]))
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "bytearray":
        return bytearray.fromhex(content)
    if kind == "fraction":
        return Fraction(int(content[0], 16), int(content[1], 16))
    if kind == "decimal":
        return Decimal(content)
    if kind == "range":
        return range(*(decode(number, fetch) for number in content))
    return fetch(data)
