"""How much of a text stands in the expected scripts, weighed by what it says.

Each letter and each vowel, tone or subjoined mark weighs 1, a sign of a syllabary 2 and a Han
character 3: what a paragraph says then weighs the same in every script. Over a Thai, Tamil, Telugu,
Odia, Bengali, Tibetan, Uyghur, Mongolian, Chinese, Japanese, Arabic, Hindi or Korean text followed
by its English translation, the share of the first half is .36 to .55. By UTF-8 bytes it is .54 to
.78 (and half an English answer may then be English where Thai is expected, but not a tenth of it
Thai where English is); by letters without marks .26 to .48; by words .10 to .50, as unspaced
scripts have none.

Latin names and terms in a text of another script weigh a third, which is what bytes would give
them in Thai: a list of programming languages is as Thai as its sentences are. What is a sentence
is none: see `_names`.
"""

import regex

from objectives.scorers.alphabets import ENGLISH_WORDS
from objectives.scorers.languages import Expected, count

_HAN = regex.compile(r"\p{Han}")
_SYLLABLE = regex.compile(
    r"[\p{Hangul}\p{Hiragana}\p{Katakana}\p{Ethiopic}\p{Canadian_Aboriginal}\p{Cherokee}\p{Yi}]"
)
_MARK = regex.compile(r"[^\P{M}\p{Common}\p{Inherited}]")
LETTER_OF_A_SCRIPT = regex.compile(r"[^\P{L}\p{Common}\p{Inherited}]")
"""Finds a letter that belongs to one script."""
LATIN = regex.compile(r"\p{Latin}")

_NAME = 1 / 3
_RUN = regex.compile(r"\p{Latin}[\p{Latin}\p{M}]*(?: \p{Latin}[\p{Latin}\p{M}]*)*")
_UPPER = regex.compile(r"\p{Lu}")
_TERM = 2  # words; more in lower case are prose
_FEW = 0.25  # of the text's own weight; so much of it may be terms in lower case
# With words that other languages have too: what is asked here stands beside another script.
_PROSE_TEXT = """
a am an as at be by can did do done for go goes got he i if in is it its let me my no not now on or
our out said say so some still take them to up us want your yes
"""
_PROSE = ENGLISH_WORDS | frozenset(_PROSE_TEXT.split())


def script_share(text: str, expected: Expected) -> float:
    """The share of what `text` (words only) says in the expected scripts, in [0, 1]; 0 if nothing.

    Letters that belong to no one script (a long-vowel sign of Japanese, say) do not count.
    """
    letters = count(LETTER_OF_A_SCRIPT, text)
    inside = count(expected.letters, text)
    if inside in (0, letters):
        return float(inside > 0)
    own = weight("".join(expected.scripted.findall(text)))
    other = weight("".join(expected.other_scripted.findall(text)))
    if "Latin" not in expected.scripts:
        other -= (1 - _NAME) * _names(text, own)
    return own / (own + other)


def weight(text: str) -> float:
    """What the letters and marks of `text` weigh; more marks than letters are decoration."""
    letters = count(LETTER_OF_A_SCRIPT, text)
    more = 2 * count(_HAN, text) + count(_SYLLABLE, text)
    return float(letters + min(letters, count(_MARK, text)) + more)


def _names(text: str, own: float) -> float:
    """How many letters of `text`, of which `own` weighs what is expected, are in names and terms.

    Of Latin words side by side, none of which is a little word of English ("is", "because"): those
    with a capital; and a word or two without one ("virtual environment"), of which no more is a
    term than a quarter of `own`.
    """
    names = terms = 0
    for run in _RUN.findall(text):
        if not _PROSE.isdisjoint(run.lower().split(" ")):
            continue
        words = run.split(" ")
        plain = [word for word in words if not _UPPER.search(word)]
        names += sum(map(len, words)) - sum(map(len, plain))
        if len(plain) <= _TERM:
            terms += sum(map(len, plain))
    return names + min(terms, _FEW * own)
