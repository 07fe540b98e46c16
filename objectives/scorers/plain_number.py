"""Reading plain numbers exactly: signs, currencies, fractions, percentages, scales and units."""

import re
from fractions import Fraction
from typing import NamedTuple

from objectives.scorers.answer_text import CURRENCY, MAX_LENGTH
from objectives.scorers.east_asian import read_numeral

MAX_EXPONENT = 400
"""Larger powers of ten are no plain numbers: they would cost memory, not mean anything."""


class PlainNumber(NamedTuple):
    """`value` as it is written, so 50 for 50%.

    `undone` says that it is a division that comes out even (14/2): a question, not its answer.
    """

    value: Fraction
    percent: bool
    undone: bool

    def same(self, other: "PlainNumber") -> bool:
        """Exact equality; where just one is a percentage, 50% is both 50 and 0.5."""
        if self.percent == other.percent:
            return self.value == other.value
        percent, bare = (self, other) if self.percent else (other, self)
        return bare.value in (percent.value, percent.value / 100)


_PER_CENT = r"\\?%|per\s?cent\b|เปอร์เซ็นต์|শতাংশ|प्रतिशत|ശതമാനം|శాతం|சதவீதம்|퍼센트|パーセント"
_MONEY = (
    rf"[{CURRENCY}]|(?:US|A|HK|NT)\$|(?:Rs\.?|INR|USD|EUR|THB|Rp\.?|RM|Tk\.?|CNY|RMB|VND)(?=\s*\d)"
)
_PLAIN = re.compile(
    rf"""
    \s*(?:{_MONEY})?\s*
    (?P<sign>[-+]?)\s*(?:{_MONEY})?\s*
    (?:(?P<whole>\d+)\s+(?=\d+\s*/))?
    (?P<number>\d+(?:\.\d*)?|\.\d+) (?:\s*/\s*(?P<below>\d+))?
    (?:(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{{?\s*|[eE])(?P<exponent>[-+]?\d+)\s*\}}?)?
    (?:\s*(?P<percent>{_PER_CENT}))?
    (?P<unit>.*)
    """,
    re.VERBOSE | re.DOTALL,
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\(?:overline|bar)\s*\{(\d+)\}")
_POWER_OF_TEN = re.compile(r"^\s*([-+]?)10\s*\^\s*(?=\{?[-+]?\d)")
# A unit: a word of two letters or of another script, or one of a few letters apart. Another Latin
# letter could be a variable, and operators or digits mean that the number was only a part.
_UNIT = re.compile(
    rf"""
    \s*(?:\^\\circ\s*)?
    (?:
      (?:[mskc]|[cmkd]?m|in|ft|yd|mi|units?|met(?:er|re)s?|inch(?:es)?|feet|miles?)
          \s*\^\s*\{{?[23]\}}? (?!\s*[a-zA-Z](?![a-zA-Z]))
    | (?:(?<=\s)[mgLlshNJWVKCF]\b)
    | [^\W\d_a-zA-Z] | [a-zA-Z]{{2}} | [{CURRENCY}] | (?<=\\circ)
    )?
    [^\d=+*^<>\\{{}}()\[\]]*
    (?:(?<=[/a-z\s])\^\s*\{{?-?[1-3]\}}?[\s.]*)?
    (?:\([^\d()\\]*\)[\s.]*)?
    """,
    re.VERBOSE,
)
_STARTS_UNIT = re.compile(
    rf"\s*(?:\^\\circ|[^\W\d_a-zA-Z]|[a-zA-Z]{{2}}|[mk]\s*\^|[{CURRENCY}]|\()"
)
# Letters that are seldom variables; what stands below a slash must be a unit too.
_LONE_LETTER = re.compile(
    r"\s+[mgLlshNJWVKCF](?:\s*/\s*(?:[kcm]?m|k?g|m?[lL]|s|sec|h|hr|min|mol|K|C)(?:\s*\^\{?[23]\}?)?)?[\s.]*"
)
# What follows a number and makes it another one, or not the only one: arithmetic in words, halves,
# doubts. "7 times" alone is how often.
_CHANGES = re.compile(
    r"^\W*(?:squared|cubed|factorial|pi\b|squares?\s+root|mod\b|modulo|plus|minus|"
    r"(?:divided|multiplied)\s+by|added\s+to|subtracted\s+from|(?:raised\s+)?to\s+the\s+(?:power|\w+th)|"
    r"by\s+\d|(?:times|over|less|more)\s+\W*(?:\d|[b-hj-z]\b)|(?:per\s?cent|%)\s+of)\b|"
    r"^\W*(?:[a-z]+\s+){0,3}(?:halves|thirds|fourths|fifths|sixths|sevenths|eighths|ninths|tenths|"
    r"(?:hundred|thousand|million)ths)\b|"
    r"^\W*(?:[a-z]+\s+){0,2}and\s+(?:an?|one|two|three)[\s-]+(?:half|thirds?|quarters?|fourths?|fifths?)\b|"
    r"^\W*(?:or|maybe|perhaps|possibly|either|otherwise)\b|"
    r"^\W*(?:คูณ|บวก|ลบ|หาร|乘(?!客)|加(?!仑|侖)|减|減|除(?!了|外|非)|掛け|足す|引く|割る|곱하기|더하기|빼기|나누기|"
    r"গুণ|যোগ|বিয়োগ|ভাগ|गुणा|जोड़|घटा|भाग|más|menos|moins|fois|geteilt|mal\s+\d|tambah|kurang|kali\s+\d|"
    r"dibagi|cộng|trừ|nhân|chia|плюс|минус|умнож|раздел)[^\d,.;]{0,12}\d|^\W*ยก\s*กำลัง|平方$|"
    r"^[^\d,.;]{0,40}?(?:ครึ่ง(?!\s*(?:หนึ่ง|ของ))|ເຄິ່ງ|កន្លះ|(?<!一)半(?!径|徑|圆|分|額|额|价|價|數|数)|"
    r"\s반(?:\s|$|이)|\by\s+media|\bet\s+demie?|\bsetengah|\brưỡi|ونصف|و\s?نیم|"
    r"\bхагас|সাড়ে|साढ़े)",
    re.IGNORECASE,
)
# Words that multiply the number before them; Latin and Cyrillic ones as whole words.
_SCALES: tuple[tuple[re.Pattern[str], int], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), scale)
    for pattern, scale in (
        (r"hundred\b|ร้อย|រយ|ຮ້ອຍ|শত\b", 100),
        (
            r"(?:thousand|mil|ribu|nghìn|ngàn|tausend|мянга|мянган|тысяч[аи]?)\b|พัน(?!ธ)|ພັນ|ពាន់|"
            r"হাজার|ହଜାର|हज़ार|हजार|હજાર|ಸಾವಿರ|ആയിരം|ஆயிரம்|వేల|వెయ్యి|ထောင်|སྟོང|مىڭ|ألف|هزار",
            1000,
        ),
        (r"หมื่น|ໝື່ນ|ម៉ឺន|သောင်း|ཁྲི", 10**4),
        (
            r"lakhs?\b|แสน|ແສນ|សែន|လက်|သိန်း|འབུམ|লক্ষ|লাখ|ଲକ୍ଷ|लाख|લાખ|ಲಕ್ಷ|ലക്ഷം|லட்சம்|"
            r"இலட்சம்|లక్షల|లక్ష",
            10**5,
        ),
        (
            r"(?:million(?:s|en)?|millones|juta|triệu|сая|миллион(?:а|ов)?)\b|ล้าน|ລ້ານ|លាន|သန်း|"
            r"ས་ཡ|مىليون|مليون|میلیون",
            10**6,
        ),
        (r"crores?\b|কোটি|କୋଟି|करोड़|કરોડ|ಕೋಟಿ|കോടി|கோடி|కోట్ల|కోటి", 10**7),
        (r"(?:billions?|miliar|tỷ|тэрбум|миллиард(?:а|ов)?)\b|مليار|مىليارد", 10**9),
        (r"trillions?\b", 10**12),
        (r"dozens?\b", 12),
    )
)


def plain_number(text: str) -> PlainNumber | None:
    r"""The exact value of a cleaned text that is one number; None where it is anything else.

    Understood: a sign, a currency, a fraction of integers, a mixed number, scientific notation,
    East Asian numerals, words of scale ("3 million") and a unit behind. None is a matter for the
    verifier, if it has a value at all.
    """
    if len(text) > MAX_LENGTH:
        return None
    if "\\" in text:
        # The space makes 3\frac{1}{2} three and a half.
        text = _REPEATING.sub(_repeated, text)
        text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", text)
    text = _POWER_OF_TEN.sub(r"\g<1>1\\times 10^", text, count=1) if "^" in text else text
    numeral = None if text.isascii() else read_numeral(text.lstrip("-"))
    if numeral is not None:
        value, unit = numeral
        percent = undone = False
        negative = text.startswith("-")
    else:
        match = _PLAIN.fullmatch(text)
        if match is None:
            return None
        found = _match_value(match)
        if found is None:
            return None
        value, undone = found
        unit, percent, negative = match["unit"], bool(match["percent"]), match["sign"] == "-"
    if unit.strip(" ."):
        scale = _unit_scale(unit)
        if scale is None:
            return None
        value *= scale
    return PlainNumber(-value if negative else value, percent, undone)


def changes_value(words: str) -> bool:
    """Whether words behind a number make it another, or not the only one: 7 squared, 7 or so."""
    return _CHANGES.search(words) is not None


def _repeated(match: re.Match[str]) -> str:
    r"""0.1\overline{6} as a fraction: 16 - 1 over 90."""
    whole, fixed, repeated = match.groups()
    above = int(whole + fixed + repeated) - int("0" + whole + fixed)
    return str(Fraction(above, int("9" * len(repeated) + "0" * len(fixed))))


def _match_value(match: re.Match[str]) -> tuple[Fraction, bool] | None:
    value = Fraction(match["number"].rstrip("."))
    undone = False
    if match["below"]:
        below = int(match["below"])
        if below == 0 or (match["whole"] and value >= below):
            return None
        value /= below
        undone = below != 1 and value.denominator == 1
    if match["whole"]:
        value += int(match["whole"])
    if match["exponent"]:
        exponent = int(match["exponent"])
        if abs(exponent) > MAX_EXPONENT:
            return None
        value *= Fraction(10) ** exponent
    return value, undone


def _unit_scale(unit: str) -> int | None:
    """What a unit multiplies by ("3 hundred million apples"); None when it is no unit."""
    scale = 1
    rest = unit.lstrip()
    found = True
    while found:
        found = False
        for pattern, factor in _SCALES:
            match = pattern.match(rest)
            if match:
                scale *= factor
                rest = rest[match.end() :].lstrip()
                found = True
    if not rest.strip(" .") and scale > 1:
        return scale
    if scale == 1 and not _STARTS_UNIT.match(unit) and not _LONE_LETTER.fullmatch(unit):
        return None
    if not _UNIT.fullmatch(unit if scale == 1 else " " + rest) or changes_value(unit):
        return None
    # Numerals that are no decimal digits (ten, circled seven) are not units either.
    if not unit.isascii() and any(c.isnumeric() and not c.isalpha() for c in unit):
        return None
    return scale
