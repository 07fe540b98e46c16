r"""What written arithmetic comes to, exactly: 20 + 22, 3 \times 14, (50% of 84) / 2, 5 x 3."""

import ast
import operator
import re
from fractions import Fraction

from objectives.scorers.answer_text import CURRENCY, MAX_LENGTH

_PI = "(3.14159265358979)"  # what is said to be equal to it is rounded more
_MAX_EXPONENT = 64
_MAX_DIGITS = 400  # of what a power may come to
_UNITS = re.compile(rf"[{CURRENCY}]|(?<![\\a-zA-Z])(?:[a-zA-Z]{{2,}}|[^\x00-\x7f]+)(?![a-zA-Z(])")
_SIGNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), sign)
    for pattern, sign in (
        (r"\\?%\s*(?:of\b)?(?=\s*[\d(])", "/100*"),
        (r"\\?%", "/100"),
        (r"(?<=[\d)])\s*[xX]\s*(?=[\d(])|\\times\b|\\cdot\b", "*"),
        (r"(?<=\d)\s*:\s*(?=\d)|\\div\b", "/"),
    )
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_READ = re.compile(r"[\d.\s()+\-*/]+")


def rounds_to(exact: Fraction, decimals: int, written: Fraction) -> bool:
    """Whether `written`, of so many decimals, is `exact` rounded or cut off; equal if it has 0."""
    if exact == written or decimals == 0:
        return exact == written
    unit = Fraction(1, 10**decimals)
    cut_off = exact * written >= 0 and 0 <= abs(exact) - abs(written) < unit
    return cut_off or abs(exact - written) <= unit / 2


def plain_signs(text: str) -> str:
    """`text` without units, and with one sign each for times, by and per cent."""
    for pattern, sign in _SIGNS:
        text = pattern.sub(lambda _, sign=sign: f" {sign} ", text)  # type: ignore[misc]
    return _UNITS.sub(" ", text)


def comes_to(text: str) -> Fraction | None:
    """The value of `text`, as `plain_signs` leaves it; None where it is no plain arithmetic."""
    if len(text) > MAX_LENGTH:
        return None
    text = re.sub(r"\\pi\b", _PI, text)
    text = _FRACTION.sub(r"((\1)/(\2))", text).replace("{", "(").replace("}", ")")
    if "**" in text or _READ.fullmatch(text.replace("^", "*")) is None:
        return None
    # Zeros in front are no octal number here.
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text.replace("^", "**"))
    text = re.sub(r"(?<=[\d)])\s*(?=\()|(?<=\))\s*(?=\d)", "*", text)
    try:
        return _value(ast.parse(" ".join(text.split()), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Fraction:
    """Raises ValueError where `node` is anything but arithmetic of numbers."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand)
        case ast.UnaryOp(op=ast.UAdd()):
            return _value(node.operand)
        case ast.BinOp():
            left, right = _value(node.left), _value(node.right)
        case _:
            raise ValueError("no arithmetic")
    if isinstance(node.op, ast.Pow):
        digits = len(str(left.numerator)) + len(str(left.denominator))
        if (
            right.denominator != 1
            or abs(right) > _MAX_EXPONENT
            or digits * abs(right) > _MAX_DIGITS
        ):
            raise ValueError("no plain power")
        return left ** int(right)
    if type(node.op) not in _OPERATORS:
        raise ValueError("no arithmetic")
    result: Fraction = _OPERATORS[type(node.op)](left, right)
    return result
