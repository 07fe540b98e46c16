"""Whether an answer is written in the expected language.

Two witnesses, and the stricter one counts: the share of letters in the language's script, which no
romanised text passes, and CLD2's share of bytes, which tells apart languages of one script. A text
too short for the detector is judged by its script alone. Nothing is skipped: empty is 0, and
unspaced scripts count like any other.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import regex
from pydantic import field_validator

from objectives.errors import ScorerError
from objectives.scorers import base
from objectives.scorers.base import Measure, Sample, Scorer, split_thinking
from objectives.scorers.languages import DETECTED_AS, SCRIPTS
from objectives.tables import did_you_mean

# Below this many letters CLD2's opinion is not asked: it takes short Bengali for Assamese and one
# English word for anything.
DETECTABLE = 24

_CODE = regex.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`", regex.DOTALL)
_URL = regex.compile(r"https?://\S+")
_TAG = regex.compile(r"</?[A-Za-z_|][^<>\n]{0,60}>")
_ENVIRONMENT = regex.compile(r"\\(?:begin|end)\s*\{[^{}]*\}")
_MATH = regex.compile(
    r"\$\$(?P<a>[^$]{0,2000})\$\$|\$(?P<b>[^$\n]{0,500})\$"
    r"|\\\((?P<c>.{0,2000}?)\\\)|\\\[(?P<d>.{0,2000}?)\\\]",
    regex.DOTALL,
)
_COMMAND = regex.compile(r"\\(?:[A-Za-z]+|.)", regex.DOTALL)
# In a formula: long Latin words and words of other scripts are language, the rest is symbols.
_FORMULA_WORD = regex.compile(r"[\p{L}\p{M}]{4,}|[^\P{L}\p{Latin}\p{Greek}][\p{L}\p{M}]*")
_VARIABLE = regex.compile(r"(?<![\p{L}\p{M}])\p{Latin}(?![\p{L}\p{M}])")
_UNSAFE = regex.compile(r"[\p{Cc}\p{Cs}\p{Co}\p{Cn}]+")  # CLD2 raises on them
_NOT_WORDS = regex.compile(r"[\p{N}\p{P}\p{S}\p{Z}]+")
_LETTER = regex.compile(r"\p{L}")
_SCRIPTED = regex.compile(r"[^\P{L}\p{Common}\p{Inherited}]")


class Language(Scorer):
    """The share of an answer in the expected language, in [0, 1]; the thinking is scored apart.

    Sub-scores: `language.thinking`, the same measure over the thinking, where there is any;
    `language.switch`, 1 when the answer mixes letters of the expected script with others.
    """

    name = "language"
    speech: ClassVar[bool] = True
    extra_measures: ClassVar[Mapping[str, Measure]] = {
        "thinking": Measure(always=False),
        "switch": Measure(direction="minimize", binary=True),
    }
    params: "Params"

    class Params(base.Params):
        """`expect`: an ISO 639 code of `objectives.scorers.languages.SCRIPTS`."""

        expect: str

        @field_validator("expect")
        @classmethod
        def _known(cls, code: str) -> str:
            if code not in SCRIPTS:
                raise ValueError(f"unknown language {code!r}; {did_you_mean(code, SCRIPTS)}")
            return code

    def score(self, sample: Sample) -> float:
        """The share of the answer (what follows the thinking); 0 when no words are left of it."""
        return share(split_thinking(sample.generation).answer, self.params.expect)

    def extras(self, sample: Sample) -> dict[str, float]:
        """`switch` always; `thinking` when something was thought."""
        parts = split_thinking(sample.generation)
        extras = {"switch": float(0 < script_share(words(parts.answer), self.params.expect) < 1)}
        if parts.thinking is not None and parts.thinking.strip():
            extras["thinking"] = share(parts.thinking, self.params.expect)
        return extras


def share(text: str, expect: str) -> float:
    """The share of `text` in language `expect`: the lesser of script share and detected share.

    Raises:
        ScorerError: the detector is not installed.
    """
    text = words(text)
    by_script = script_share(text, expect)
    if by_script == 0.0 or len(_LETTER.findall(text)) < DETECTABLE:
        return by_script
    detected = _detected_share(text, expect)
    return by_script if detected is None else min(by_script, detected)


def words(text: str) -> str:
    """What is language in `text`: no code, formulas, tags, digits, punctuation or variables.

    Words inside formulas stay, so that no language hides there.
    """
    text = _UNSAFE.sub(" ", text)
    text = _CODE.sub(" ", text)
    text = _URL.sub(" ", text)
    text = _TAG.sub(" ", text)
    text = _ENVIRONMENT.sub(" ", text)
    text = _MATH.sub(_formula_words, text)
    text = _COMMAND.sub(" ", text)
    text = _VARIABLE.sub(" ", text)
    return str(_NOT_WORDS.sub(" ", text)).strip()


def script_share(text: str, expect: str) -> float:
    """The share of letters of `text` in the scripts of `expect`; 0 when it has no letters.

    Letters that belong to no one script (a long-vowel sign of Japanese, say) do not count.
    """
    letters = len(_SCRIPTED.findall(text))
    return len(_letters_of(expect).findall(text)) / letters if letters else 0.0


def _formula_words(match: Any) -> str:
    content = next(group for group in match.groups() if group is not None)
    return f" {' '.join(_FORMULA_WORD.findall(_COMMAND.sub(' ', content)))} "


@lru_cache
def _letters_of(expect: str) -> Any:
    scripts = "".join(rf"\p{{{script}}}" for script in SCRIPTS[expect])
    return regex.compile(rf"[[{scripts}]&&[^\P{{L}}\p{{Common}}]]", regex.VERSION1)


def _detected_share(text: str, expect: str) -> float | None:
    """CLD2's share of bytes in `expect` among those it knows; None when it has no opinion."""
    try:
        import pycld2
    except ImportError:
        raise ScorerError("scorer language: needs pycld2; run `pip install pycld2`") from None
    try:
        reliable, _, found = pycld2.detect(text, isPlainText=True)
    except pycld2.error:
        # Characters that its own Unicode tables do not know: it has no opinion on them.
        return None
    codes = DETECTED_AS.get(expect, (expect,))
    known = sum(percent for _, code, percent, _ in found if code != "un")
    if not reliable or known == 0:
        return None
    return float(sum(percent for _, code, percent, _ in found if code in codes) / known)
