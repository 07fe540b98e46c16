"""Numerals of Chinese, Japanese and Korean: 十八, 三百二十, 二〇二四, 3万5千, 三分之二."""

import re
from fractions import Fraction

_DIGITS = {
    **{char: value for value, char in enumerate("零一二三四五六七八九")},
    "〇": 0,
    "兩": 2,
    "两": 2,
}
_SMALL = {"十": 10, "百": 100, "千": 1000, "십": 10, "백": 100, "천": 1000}
_LARGE = {"万": 10**4, "萬": 10**4, "만": 10**4, "亿": 10**8, "億": 10**8, "억": 10**8}
_SIGNS = "".join([*_DIGITS, *_SMALL, *_LARGE])
_NUMERAL = re.compile(rf"(?:\d+(?:\.\d+)?|[{_SIGNS}])(?: ?(?:\d+(?:\.\d+)?|[{_SIGNS}]))*")
_TOKEN = re.compile(rf"\d+(?:\.\d+)?|[{_SIGNS}]")
_HAS_SIGN = re.compile(f"[{_SIGNS}]")
_OF_PARTS = re.compile("分之")


def read_numeral(text: str) -> tuple[Fraction, str] | None:
    """The value of the numeral that `text` starts with, and what follows it; None without one.

    Numbers of ASCII digits alone are no East Asian numerals.
    """
    if _HAS_SIGN.search(text) is None:
        return None
    match = _NUMERAL.match(text)
    if match is None or _HAS_SIGN.search(match[0]) is None:
        return None
    value = _value(match[0])
    parts = _OF_PARTS.match(text, match.end())
    if parts and value:
        above = _NUMERAL.match(text, parts.end())
        over = _value(above[0]) if above else None
        if above is None or over is None:
            return None
        return over / value, text[above.end() :]
    return None if value is None else (value, text[match.end() :])


def _value(numeral: str) -> Fraction | None:
    """None where the signs do not make a number, as in 三五十."""
    tokens = _TOKEN.findall(numeral)
    if all(token in _DIGITS for token in tokens):
        # One sign, or a row of them as digits are written: 二〇二四.
        return Fraction("".join(str(_DIGITS[token]) for token in tokens))
    total = group = Fraction(0)
    pending: Fraction | None = None
    largest = 0
    for token in tokens:
        if token in _SMALL:
            group += (1 if pending is None else pending) * _SMALL[token]
            pending = None
        elif token in _LARGE:
            unit = _LARGE[token]
            before = group + (pending or 0)
            if unit > largest and total:
                total = (total + before) * unit  # 万亿: a million million
            else:
                total += (before or 1) * unit
            largest, group, pending = unit, Fraction(0), None
        elif pending:
            return None  # two numbers side by side
        else:
            pending = Fraction(_DIGITS.get(token, token))
    return total + group + (pending or 0)
