"""Whether the final answer of a text is mathematically the expected one."""

import re
from fractions import Fraction
from typing import ClassVar

from pydantic import Field

from objectives.scorers import base
from objectives.scorers.base import Sample, Scorer, split_thinking
from objectives.scorers.final_answer import clean, final_answer, plain_number
from objectives.scorers.verifier import shared_verifier

_CHOICE = re.compile(r"\(?([A-Ja-j])(?:[).:]+(?:\s.*)?)?", re.DOTALL)  # A, (A), A) five apples
_HAS_VALUE = re.compile(r"\d|\\[a-zA-Z]|[π∞√]")


class Math(Scorer):
    """1 when the final answer equals the item's; an unclosed think is wrong.

    Plain numbers are compared exactly and here (1,000 = 1000.0, 1/2 = 0.5, ๗ = 7, units aside);
    everything else is asked of math-verify, in a process that is killed at the time limit.
    """

    name = "math"
    binary: ClassVar[bool] = True
    correctness: ClassVar[bool] = True
    params: "Params"

    class Params(base.Params):
        """`time_limit`: seconds that one answer may cost the verifier; over it is wrong."""

        time_limit: float = Field(5.0, gt=0, le=600)

    def score(self, sample: Sample) -> float:
        """0 or 1."""
        parts = split_thinking(sample.generation)
        answer = final_answer(parts.answer)
        if answer is None:
            return 0.0
        gold = _gold(sample.item.answer)
        return float(self._equal(gold, answer))

    def _equal(self, gold: str, answer: str) -> bool:
        if answer.casefold() == gold.casefold():
            return True
        expected, given = plain_number(gold), plain_number(answer)
        if expected is not None and given is not None:
            return _same(expected, given)
        letter = _CHOICE.fullmatch(gold)
        if letter is not None:
            choice = _CHOICE.fullmatch(answer)
            return choice is not None and choice[1].casefold() == letter[1].casefold()
        if expected is not None and not _HAS_VALUE.search(answer):
            return False  # words only: what broken merges write, and not worth asking
        return shared_verifier().equal(gold, answer, self.params.time_limit)


def _gold(answer: str) -> str:
    """The expected answer, cleaned as candidates are; whole solutions end in one (GSM8K's do)."""
    stated = final_answer(answer) if "####" in answer or "\\boxed" in answer else None
    return stated if stated is not None else clean(answer)


def _same(expected: tuple[Fraction, bool], given: tuple[Fraction, bool]) -> bool:
    """Exact equality; where just one is a percentage, 50% is both 50 and 0.5."""
    (gold, gold_percent), (value, value_percent) = expected, given
    if gold_percent == value_percent:
        return gold == value
    percent, bare = (gold, value) if gold_percent else (value, gold)
    return bare in (percent, percent / 100)
