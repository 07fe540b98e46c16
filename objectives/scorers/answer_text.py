r"""Answers made comparable: every script's digits in ASCII, one spelling a sign, no dressing.

Digits are read by their Unicode decimal value, in every script that has them. Beside those only
East Asian numerals are numbers (see `east_asian`); signs for ten or a hundred (Tamil, Malayalam),
Roman, Ethiopic and circled numerals and number words are not.
"""

import re
import unicodedata

MAX_LENGTH = 400
"""Longer candidates are not answers; it also bounds what the verifier is asked."""

CURRENCY = "$฿€£¥₹৳₮₩₫₭៛₦₱₽₺﷼"

_NATIVE_DIGIT = re.compile(r"[^\D0-9]")
# Nothing to see: joiners, marks of direction, variation selectors, tags, the frame of a keycap.
_UNSEEN = (
    "\u00ad\u0600-\u0605\u061c\u06dd\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060\u2066-\u206f"
    "\u20e3\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef"
)
_SIGNS = {
    **dict.fromkeys("−‐‑‒–﹣", "-"),
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # fullwidth ASCII
    "٪": "%",
    "٫": ".",  # Arabic decimal separator
    "٬": ",",  # Arabic thousands separator
    "،": ",",
    "、": ", ",
    "’": "'",
    "⁄": "/",  # fraction slash
    "∕": "/",
    "∶": ":",
    **dict.fromkeys("\u00a0\u202f\u2009\u2007\u3000", " "),  # no-break spaces part thousands
}
_SIGN = re.compile(f"[{_UNSEEN}{re.escape(''.join(_SIGNS))}]")
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")
_VULGAR = re.compile("[¼½¾⅐-⅞↉]")

# Symbols of mathematics in LaTeX, which the verifier reads.
_SYMBOLS = {
    "×": "\\times ",
    "÷": "\\div ",
    **dict.fromkeys("·⋅∙", "\\cdot "),
    "π": "\\pi ",
    "∞": "\\infty ",
    "≤": "\\le ",
    "≥": "\\ge ",
    "≠": "\\ne ",
    "≈": "\\approx ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "∅": "\\emptyset ",
    "±": "\\pm ",
    "°": "^\\circ ",
}
_SYMBOL = re.compile(f"[{''.join(_SYMBOLS)}]")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[a-z]))")
_ALIASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\\varnothing\b|\\O\b", r"\\emptyset "),
        (r"\\thickapprox\b|\\simeq\b", r"\\approx "),
        (r"\^\s*\{\s*\\circ\s*\}|\\degree\b|(?<=\d)\\circ\b", r"^\\circ "),
        (r"\^\\circ\s*(?:\\?text\s*\{)?\s*([CF])\b\}?", r"^\\circ "),
        (r"\+\s*\\infty", r"\\infty"),
        (r"^(?:positive )?infinity$", r"\\infty"),
        (r"^(?:negative |- ?)infinity$", r"-\\infty"),
    )
)

_DECIMAL_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)(?!\d{3}(?!\d))")
_LATEX_SPACE = re.compile(
    r"(?<!\\)\\[,;:!~ ]|(?<=\d)\{,\}(?=\d)|(?<!\\)~|\\q?quad\b|\\thinspace\b|"
    r"\\displaystyle\b|\\color\s*\{\w*\}"
)
_TEXT = re.compile(
    r"\\(?:text|mbox|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|operatorname|bm|emph|boldsymbol|underline)"
    r"\s*\{([^{}]*)\}"
)
_LEFT_RIGHT = re.compile(r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])")
_NESTED_BOX = re.compile(r"\\(?:f?boxed|fbox)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
# One character a turn: nested repeats would take exponential time on "$$$$$$...".
_BEFORE = re.compile(r"^(?:\\[(\[]|[$*:=：\s\"“”„«»「『])+")
_AFTER = re.compile(r"(?:\\[)\]]|[$*\s.。།۔\"“”«»」』])+$")

# 1,000 and the Indian 1,00,000; also 1'000, 1_000 and, where nothing else follows, 1 000.
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:[,'_]\d{2,3})*[,'_]\d{3}(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d ]*\d)")
# 1.000.000 and 1.234,56: points can only part thousands there. A lone 1.000 is one.
_POINTED_THOUSANDS = re.compile(
    r"(?<![\d.,])(?:\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}(?:\.\d{3})+,\d+)(?![\d.,]*\d)"
)


def fold(text: str) -> str:
    """`text` with ASCII digits for those of every script, and ASCII signs between them."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    text = _SIGN.sub(lambda m: _SIGNS.get(m[0], ""), text)
    text = _NATIVE_DIGIT.sub(lambda m: str(unicodedata.decimal(m[0])), text)
    # A fraction in one character, and 7² which is not 72 (nor 7).
    text = _VULGAR.sub(lambda m: f" {unicodedata.normalize('NFKC', m[0]).replace('⁄', '/')} ", text)
    text = _RAISED_RUN.sub(lambda m: f"^{{{''.join(map(_RAISED.__getitem__, m[0]))}}}", text)
    return _LOWERED_RUN.sub(lambda m: f"_{{{''.join(map(_LOWERED.__getitem__, m[0]))}}}", text)


def latex_symbols(text: str) -> str:
    """`text` with LaTeX commands for the symbols of mathematics."""
    if text.isascii():
        return text
    text = _ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text)
    return _SYMBOL.sub(lambda m: _SYMBOLS[m[0]], text)


def clean(text: str) -> str:
    """A candidate without dressing: math signs, bold, text commands, thousands separators."""
    text = fold(text)
    if "\\" in text or "~" in text or "{" in text:
        text = _NESTED_BOX.sub(r"\1", text)
        text = _DECIMAL_COMMA.sub(".", text)  # 0{,}5 is one number, for {,} is no list's comma
        text = _LATEX_SPACE.sub(lambda m: "" if m[0] in ("\\!", "{,}", "\\,") else " ", text)
        text = _TEXT.sub(r" \1 ", text)
        text = _LEFT_RIGHT.sub("", text.replace("\\$", "$"))
    text = " ".join(latex_symbols(text).split())
    previous = None
    while previous != text:
        previous, text = text, _AFTER.sub("", _BEFORE.sub("", text))
    for pattern, name in _ALIASES:
        text = pattern.sub(name, text)
    return join_thousands(text).strip()


def join_thousands(text: str) -> str:
    """`text` with plain decimals for numbers in groups of digits."""
    # Inside brackets a comma parts the members of a pair or a set.
    if text[:1] in "([{" or text.startswith("\\{"):
        return text
    text = _POINTED_THOUSANDS.sub(lambda m: m[0].replace(".", "").replace(",", "."), text)
    text = _THOUSANDS.sub(lambda m: re.sub("[,'_]", "", m[0]), text)
    return _SPACED_THOUSANDS.sub(lambda m: m[0].replace(" ", ""), text)
