r"""Finding the final answer in a text, and reading plain numbers exactly.

A final answer is, in this order: the last complete `\boxed{}`; what follows the last `####`; what
follows the last "the answer is" (in the languages below); the only number of a text that holds
just one. Anything else is no answer: the last of several numbers is a guess, not a statement.
"""

import re
import unicodedata
from fractions import Fraction

# "The answer is", where languages put the answer behind it. White space may stand anywhere in the
# unspaced scripts, whose words some tokenizers part.
_PHRASES = (
    r"final\s+answer(?:\s+is)?",
    r"answer\s+is",
    r"answer\s*[:=：]",
    r"คำ\s*ตอบ(?:\s*สุดท้าย)?\s*(?:คือ|เป็น|[:=：])",
    r"ตอบ\s*[:=：]",
    r"উত্তর(?:টি)?\s*(?:হলো|হল|হচ্ছে|হবে|[:=：])",
    r"ଉତ୍ତର(?:ଟି)?\s*(?:ହେଉଛି|ହେଲା|[:=：])",
    r"(?:விடை|பதில்)\s*(?:என்பது|[:=：])?",
    r"(?:సమాధానం|జవాబు)\s*[:=：]?",
    r"(?:ལན|དྲིས་ལན)་?\s*ནི",
    r"(?:хариулт|хариу)\s*(?:нь|бол|[:=：])",
    r"ᠬᠠᠷᠢᠭᠤᠯᠲᠠ\s*(?:ᠨᠢ|ᠪᠣᠯ|[:=：])",
    r"جاۋاب(?:ى)?\s*[:=：]?",
    r"(?:الإجابة|الجواب|الاجابة)(?:\s+النهائية)?\s*(?:هي|هو|[:=：])",
    r"उत्तर\s*(?:है|[:=：])",
    r"答案\s*(?:是|为|為|[:=：])",
    r"答え\s*は",
    r"(?:정답|답)\s*(?:은|[:=：])",
    r"ចម្លើយ\s*(?:គឺ|[:=：])",
    r"ຄຳຕອບ\s*(?:ແມ່ນ|ຄື|[:=：])",
    r"အဖြေ\s*(?:မှာ|[:=：])",
    r"පිළිතුර\s*(?:වන්නේ|[:=：])?",
)
_PHRASE = re.compile("|".join(_PHRASES), re.IGNORECASE)
_BOXED = re.compile(r"\\f?boxed\s*\{")

# A sentence ends here: a full stop before white space (decimals have a digit there), or the marks
# of the other scripts.
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？।॥།။؟۔]")
# `####` states an answer when a value follows; before a word it may be a heading.
_HASHES = re.compile(r"####[\s:=*]*(?=[$฿€£¥₹৳₮₩+\-.\d\\(\[{]|[A-Ja-jx]\b)")
_VALUE = r"-?\d+(?:\.\d+)?(?:/\d+)?(?:\s*\\?%)?"
_NUMBER = re.compile(rf"(?<![\w.^*/+\-(]){_VALUE}(?![\w^*/+(])")
_WORD = re.compile(r"[^\W\d_a-zA-Z]|[^\W\d_]{2}")  # of two letters, or of a script but Latin
_INLINE = re.compile(r"\$(?P<a>[^$]+)\$|\\\((?P<b>.+?)\\\)")
_COMMAND = re.compile(r"\\[a-zA-Z]+")

# Digits are folded one by one; these are what stands between digits.
_SIGNS = str.maketrans(
    {
        "−": "-",  # minus sign
        "－": "-",
        "＋": "+",
        "．": ".",
        "，": ",",
        "％": "%",
        "٪": "%",
        "٫": ".",  # Arabic decimal separator
        "٬": ",",  # Arabic thousands separator
        "’": "'",
        "⁄": "/",  # fraction slash
        "\u00a0": " ",  # no-break spaces part thousands
        "\u202f": " ",
        "\u2009": " ",
    }
)
_LATEX_SPACE = re.compile(r"\\[,;:!~ ]|(?<=\d)\{,\}(?=\d)|(?<!\\)~")
# 1,000 and the Indian 1,00,000; also 1'000, 1_000 and, where nothing else follows, 1 000.
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:[,'_]\d{2,3})*[,'_]\d{3}(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d ]*\d)")
_TEXT = re.compile(r"\\(?:text|mbox|textbf|mathrm|mathbf|textrm)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{(-?\d+)\}\s*\{(\d+)\}|(\d)\s*(\d))")
# One character per turn: nested repeats would take exponential time on "$$$$$$...".
_BEFORE = re.compile(r"^(?:\\[(\[]|[$*:=：\s])+")
_AFTER = re.compile(r"(?:\\[)\]]|[$*\s.。།۔])+$")

_PLAIN = re.compile(
    r"""
    \s*[$฿€£¥₹৳₮₩]?\s*
    (?P<sign>[-+]?)\s*[$฿€£¥₹৳₮₩]?\s*
    (?:(?P<whole>\d+)\s+(?=\d+\s*/))?
    (?P<number>\d+(?:\.\d*)?|\.\d+) (?:\s*/\s*(?P<below>\d+))?
    \s*(?P<percent>\\?%|per\s?cent\b|เปอร์เซ็นต์|শতাংশ|प्रतिशत)?
    (?P<unit>.*)
    """,
    re.VERBOSE | re.DOTALL,
)
# A unit: a word of two letters or of another script. A single Latin letter could be a variable,
# and operators or digits mean that the number was only a part.
_UNIT = re.compile(r"\s*(?:[^\W\d_a-zA-Z]|[a-zA-Z]{2})[^\d=+*^<>\\{}()\[\]]*|\s*[$฿€£¥₹৳₮₩]")
_THEN_WORDS = re.compile(
    rf"(?P<value>[$฿€£¥₹৳₮₩]?\s*{_VALUE})"
    r"[,;]?\s+\(?(?!(?:or|and|to)\b|หรือ|และ|ถึง)(?:[^\W\d_a-zA-Z]|[a-zA-Z]{2})"
)
# Words that multiply the number before them; Latin ones as whole words.
_SCALES: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern), scale)
    for pattern, scale in (
        (r"hundred\b", 100),
        (r"thousand\b", 1000),
        (r"million\b", 10**6),
        (r"billion\b", 10**9),
        (r"trillion\b", 10**12),
        (r"lakhs?\b", 10**5),
        (r"crores?\b", 10**7),
        (r"dozen\b", 12),
        (r"ร้อย", 100),
        (r"พัน(?!ธ)", 1000),
        (r"หมื่น", 10**4),
        (r"แสน", 10**5),
        (r"ล้าน", 10**6),
        (r"হাজার|हज़ार|हजार", 1000),
        (r"লক্ষ|লাখ|लाख", 10**5),
        (r"কোটি|करोड़", 10**7),
        (r"мянга", 1000),
        (r"сая", 10**6),
        (r"千", 1000),
        (r"万|萬|만", 10**4),
        (r"亿|億|억", 10**8),
    )
)
MAX_LENGTH = 400
"""Longer candidates are not answers; it also bounds what the verifier is asked."""


def final_answer(text: str) -> str | None:
    """The final answer stated in `text`, digits folded and dressing removed; None if there is none.

    `text` is what follows the thinking.
    """
    text = fold(text)
    candidate = _last_boxed(text)
    if candidate is None:
        candidate = _after_marker(text)
    if candidate is None:
        candidate = _lone_value(text)
    if candidate is None or len(candidate) > MAX_LENGTH:
        return None
    return clean(candidate) or None


def fold(text: str) -> str:
    """ASCII digits for the decimal digits of every script, and ASCII signs between them."""
    if text.isascii():
        return text
    folded = [
        char if char.isascii() or not char.isdecimal() else str(unicodedata.decimal(char))
        for char in text
    ]
    return "".join(folded).translate(_SIGNS)


def clean(text: str) -> str:
    """A candidate without dressing: math signs, bold, text commands, thousands separators."""
    text = fold(text)
    text = _LATEX_SPACE.sub(lambda m: "" if m[0] in ("\\!", "{,}", "\\,") else " ", text)
    text = _TEXT.sub(r" \1 ", text)
    text = text.replace("\\$", "$").replace("\\left", "").replace("\\right", "")
    text = " ".join(text.split())
    previous = None
    while previous != text:
        previous, text = text, _AFTER.sub("", _BEFORE.sub("", text))
    return _join_thousands(text)


def plain_number(text: str) -> tuple[Fraction, bool] | None:
    """The exact value of a cleaned text that is one number, and whether it is a percentage.

    A sign, a currency, a fraction of integers, a unit behind it and words of scale ("3 million")
    are understood; anything else is None and a matter for the verifier.
    """
    if len(text) > MAX_LENGTH:
        return None
    # The space makes 3\\frac{1}{2} three and a half.
    text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", text)
    match = _PLAIN.fullmatch(text)
    if match is None:
        return None
    unit = match["unit"]
    if unit.strip(" .") and not _UNIT.fullmatch(unit):
        return None
    value = Fraction(match["number"].rstrip("."))
    if match["below"]:
        if int(match["below"]) == 0:
            return None
        value /= int(match["below"])
    if match["whole"]:
        value += int(match["whole"])
    for pattern, scale in _SCALES:
        if pattern.match(unit.lstrip()):
            value *= scale
            break
    return (-value if match["sign"] == "-" else value), bool(match["percent"])


def _last_boxed(text: str) -> str | None:
    r"""Content of the last complete \boxed{...}; braces may nest, \{ and \} do not count."""
    for start in reversed([match.end() for match in _BOXED.finditer(text)]):
        depth = 1
        at = start
        # Bounded: thousands of unclosed boxes must not cost the square of their number.
        while at < min(len(text), start + MAX_LENGTH):
            char = text[at]
            if char == "\\":
                at += 1
            elif char in "{}":
                depth += 1 if char == "{" else -1
                if depth == 0:
                    return text[start:at]
            at += 1
    return None


def _after_marker(text: str) -> str | None:
    """What the last `####`, else the last "the answer is", states; None without either."""
    for marker in (_HASHES, _PHRASE):
        last = max((match.end() for match in marker.finditer(text)), default=None)
        if last is not None:
            return _statement(text[last:])
    _, hashes, after = text.rpartition("####")
    return _statement(after) if hashes else None


def _statement(text: str) -> str:
    """The value at the start of `text`: of its first line, and of that the first sentence."""
    text = text.lstrip(" \t:：=*\n\r")[: MAX_LENGTH * 2]  # it may stand on the next line
    if text.startswith(("\\[", "$$")):
        close = text.find("\\]" if text.startswith("\\[") else "$$", 2)
        return text[2:close] if close > 0 else text[2:]
    line = text.partition("\n")[0]
    inline = _INLINE.match(line)
    if inline and not _WORD.search(_COMMAND.sub("", inline["a"] or inline["b"])):
        return inline["a"] or inline["b"]
    end = _SENTENCE_END.search(line)
    line = clean(line[: end.start()] if end and end.start() > 0 else line)
    if plain_number(line) is not None:
        return line
    # "7 because 3 + 4 = 7", "18 eggs out of 20": the value comes first, words follow.
    first = _THEN_WORDS.match(line)
    if first:
        return first["value"]
    # "5 + 2 = 7": the value comes last.
    _, equals, value = line.rpartition("=")
    if equals and plain_number(clean(value)) is not None:
        return value
    return _only_number(line) or line


def _lone_value(text: str) -> str | None:
    """A text that states nothing but one value, or holds just one number; else None."""
    cleaned = clean(text) if len(text) <= MAX_LENGTH else ""
    if plain_number(cleaned) is not None:
        return cleaned
    number = _only_number(_join_thousands(text))
    if number is not None:
        return number
    # A formula alone; with words beside it, it would be a guess which of its parts is meant.
    return None if _WORD.search(_COMMAND.sub("", cleaned)) else cleaned


def _only_number(text: str) -> str | None:
    """The number of a text of words and one number; None when there are more, or no words."""
    found = list(_NUMBER.finditer(text))
    if len(found) != 1 or "\\" in text:
        return None
    rest = text[: found[0].start()] + " " + text[found[0].end() :]
    return None if re.search(r"\d", rest) or not _WORD.search(rest) else found[0][0]


def _join_thousands(text: str) -> str:
    # Inside brackets a comma parts the members of a pair or a set.
    if text[:1] in "([{" or text.startswith("\\{"):
        return text
    text = _THOUSANDS.sub(lambda m: re.sub("[,'_]", "", m[0]), text)
    return _SPACED_THOUSANDS.sub(lambda m: m[0].replace(" ", ""), text)
