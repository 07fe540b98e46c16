"""Whether the final answer of a text is mathematically the expected one."""

import os
import re
from functools import lru_cache
from typing import ClassVar

from pydantic import Field

from objectives.errors import ScorerError
from objectives.item import Item
from objectives.scorers import base
from objectives.scorers.answer_text import MAX_LENGTH, clean
from objectives.scorers.arithmetic import comes_to, plain_signs, rounds_to
from objectives.scorers.base import Sample, Scorer, split_thinking
from objectives.scorers.final_answer import alternatives, final_answer
from objectives.scorers.latex import askable, echoed, left_undone, same_form, without_unit
from objectives.scorers.plain_number import PlainNumber, plain_number
from objectives.scorers.verifier import shared_verifier

_OTHER_CHOICE = re.compile(r"(?<!\w)\(?[A-J][).](?:\s|$)|\bor\b")
_CHOICE_LABEL = re.compile(r"^(?:\([A-J]\)|[A-J]\))\s+(?=\S)")  # (B) 42
_EQUALS = re.compile(r"(?<![<>!\\:=])=+")
_COMMA_DECIMAL = re.compile(r"(?<![\d,])(\d+),(\d{1,2}|\d{4,})(?![\d,])")
_HAS_VALUE = re.compile(r"\d|\\[a-zA-Z]")
_APPROX = re.compile(r"\\approx\b")
# What may stand left of "=" without being computed: letters and words, with indices and powers.
_NAME = re.compile(
    r"(?:\\(?!ne|[lg]e|[lg]t|pm|mp|approx|not|equiv|sim)[a-zA-Z]+|[a-zA-Z]|[^\x00-\x7f]|"
    r"[_^]\{?[-\w]{1,8}\}?|[\s+\-*/.,:'(){}|])+"
)
_DENIES = re.compile(r"\bnot\b|ไม่|不|ليس|नहीं", re.IGNORECASE)
_CALL = re.compile(r"(?<=[a-zA-Z])\s*\([^()]{0,40}\)")  # f(3), and P(X = 2)


class Math(Scorer):
    """1 when the final answer equals the item's; an unclosed think is wrong.

    Plain numbers are compared exactly and here (1,000 = 1000.0, 1/2 = 0.5, ๗ = 7, units aside);
    everything else is asked of math-verify, in processes that are killed at the time limit.
    Ambiguous forms are read by what the expected answer is, so that no answer has two readings:

    * `1,5` is 1.5 where the expected number is no integer, and a list otherwise; `1,500` is always
      1500, `1.500` always 1.5, and `1.000.000` a million. `0{,}5` is 0.5.
    * 50% is 50 and 0.5.
    * Of "a ≈ b", b counts where the expected number has decimals, otherwise a.
    * Of "a = b", b counts where a is a name (x, total, f(3)) or comes to b: 20 + 22 = 42.
    * "7 or 8", two boxes side by side and `#### 7 #### 8` are one list; a list is right for a
      number only where each member is ("1/2 or 0.5").
    * A unit of one letter stands apart (5 m, 5 m/s); 5x and 5 x are products.
    * Two values in one (3 hours 20 minutes) are no number, nor is one that words change (7 squared,
      7 plus 3).
    * Arithmetic left undone (5 + 2, 14/2) is not a number, and an expression copied from the
      question is no answer, whatever it equals.
    * Number words are not read, nor numerals without a decimal value, East Asian ones aside.
    """

    name = "math"
    binary: ClassVar[bool] = True
    correctness: ClassVar[bool] = True
    operational: ClassVar[frozenset[str]] = frozenset({"processes"})
    params: "Params"

    class Params(base.Params):
        """Limits of the verifier."""

        time_limit: float = Field(
            5.0,
            gt=0,
            le=600,
            description="seconds that one answer may cost the verifier; over it is wrong",
        )
        processes: int = Field(
            2,
            ge=1,
            le=64,
            description="how many verify side by side, each with up to a gigabyte of memory",
        )

    @property
    def parallel(self) -> int:
        """How many answers may be scored side by side: the verifier's processes."""
        return max(1, min(self.params.processes, len(os.sched_getaffinity(0))))

    def score(self, sample: Sample) -> float:
        """0 or 1."""
        answer = _stated(sample)
        if answer is None:
            return 0.0
        question = "\n".join(str(message["content"]) for message in sample.item.messages)
        return float(self._equal(_gold(sample.item.answer), answer, question))

    def details(self, sample: Sample) -> dict[str, str]:
        """`answer`: the final answer as it was read, digits folded; "" where there is none."""
        return {"answer": _stated(sample) or ""}

    def check_item(self, item: Item) -> None:
        """Raises ScorerError where the item's own answer could never be matched."""
        super().check_item(item)
        gold = _gold(item.answer)
        shown = item.answer if len(item.answer) <= 60 else item.answer[:57] + "..."
        if not any(char.isalnum() for char in gold):
            what = "holds no value"
        elif len(gold) > MAX_LENGTH:
            what = f"is longer than {MAX_LENGTH} characters"
        elif "\n" in item.answer.strip() and gold == clean(item.answer) and "\\begin" not in gold:
            what = "has several lines and marks no final answer (#### or \\boxed{})"
        elif not _balanced(gold):
            what = "has braces that do not match"
        else:
            return
        raise ScorerError(
            f'"answer" {shown!r} {what}; scorer {self.name} needs the value alone, such as 7 or '
            "\\frac{1}{2}"
        )

    def _equal(self, gold: str, answer: str, question: str) -> bool:
        if _squeezed(answer) == _squeezed(gold):
            return True
        expected = plain_number(gold)
        if expected is None and _is_letter(gold):
            return _chooses(answer, gold)
        decimals = expected is not None and expected.value.denominator != 1
        if _APPROX.search(answer) and not _APPROX.search(gold):
            exact, about = _APPROX.split(answer, maxsplit=1)
            named = expected is not None and "\\" not in exact and _is_name(clean(exact))
            wants_decimals = decimals and "." in gold
            answer = clean(about if wants_decimals or named or not exact.strip() else exact)
        if expected is not None:
            if decimals and "/" not in gold:
                answer = _COMMA_DECIMAL.sub(r"\1.\2", answer)
            return all(
                self._is_number(gold, expected, member, question)
                for member in alternatives(answer) or [answer]
            )
        members = [self._unlabelled(member, gold) for member in alternatives(answer)]
        if _EQUALS.search(gold) is None and any(map(_EQUALS.search, members)):
            return False
        if len(members) == 1 and _squeezed(members[0]) == _squeezed(gold):
            return True
        if gold[:1] not in "([{\\":
            wanted = alternatives(gold)
            if len(wanted) > 1 and (numbers := _numbers(wanted)) and (given := _numbers(members)):
                return _same_members(numbers, given)
        labelled = _EQUALS.split(gold)
        if len(labelled) == 2 and (expected := plain_number(clean(labelled[1]))):
            given_number = plain_number(members[0]) if len(members) == 1 else None
            if given_number is not None:
                return expected.same(given_number)
        gold, answer = ", ".join(alternatives(gold)), ", ".join(members)
        gold, answer = without_unit(gold, answer), without_unit(answer, gold)
        return _squeezed(gold) == _squeezed(answer) or self._asked(gold, answer, question)

    def _is_number(self, gold: str, expected: PlainNumber, answer: str, question: str) -> bool:
        """Whether one member of an answer is the expected number."""
        answer = self._unlabelled(_CHOICE_LABEL.sub("", answer), gold)
        given = plain_number(answer)
        if given is not None:
            return expected.same(given) and (expected.undone or not given.undone)
        if _HAS_VALUE.search(answer) is None:
            return False  # words only: what broken merges write
        if _EQUALS.search(answer) or left_undone(answer, gold):
            return False  # 1 = 2 = 7, or a computation not carried out
        return self._asked(gold, answer, question)

    def _unlabelled(self, answer: str, gold: str) -> str:
        """`x = 7` and `5 + 2 = 7` without what stands before; as it was where sides disagree."""
        last = clean(_EQUALS.split(answer)[-1])
        sides = [clean(side) for side in _EQUALS.split(_CALL.sub("", answer))]
        if len(sides) == 1 or not last:
            return answer
        label = _EQUALS.split(gold)
        if len(label) > 1 and _squeezed(label[0]) != _squeezed(_EQUALS.split(answer)[0]):
            return answer  # y = 7 is not x = 7
        if len(label) > 1 and len(sides) == 2 and plain_number(last) is None:
            return answer  # y = 2x and its like are the verifier's
        # 1 = 2 = 7 leads nowhere.
        return last if all(self._leads_to(side, last) for side in sides[:-1]) else answer

    def _leads_to(self, side: str, value: str) -> bool:
        """Whether what stands left of "=" is a name, or an expression equal to `value`."""
        number, known = plain_number(value), plain_number(side)
        if number is not None and known is not None and number.same(known):
            return True
        if _is_name(side):
            return True
        side = plain_signs(side)
        if number is not None:
            exact = number.value / 100 if number.percent and "/100" in side else number.value
            sum_ = comes_to(side)
            if sum_ is not None:
                _, _, places = value.partition(".")
                return rounds_to(sum_, len(re.sub(r"\D.*", "", places)), exact)
            value = f"\\frac{{{exact.numerator}}}{{{exact.denominator}}}"
        if not (askable(side, side) and askable(value, value)):
            return False
        return shared_verifier(self.parallel).equal(value, side, self.params.time_limit)

    def _asked(self, gold: str, answer: str, question: str) -> bool:
        """The verifier's verdict, where it may be asked."""
        if not (askable(answer, gold) and askable(gold, gold) and same_form(answer, gold)):
            return False
        if echoed(answer, question):
            return False
        verifier = shared_verifier(self.parallel)
        return verifier.equal(gold, answer, self.params.time_limit)


def _stated(sample: Sample) -> str | None:
    return _read(split_thinking(sample.generation).answer)


# `score` and `details` ask the same, of as many answers at once as there are processes.
_read = lru_cache(maxsize=128)(final_answer)


def _gold(answer: str) -> str:
    """The expected answer, cleaned as candidates are; whole solutions end in one (GSM8K's do)."""
    stated = final_answer(answer) if "####" in answer or "\\boxed" in answer else None
    return stated if stated is not None else clean(answer)


def _squeezed(text: str) -> str:
    """Without spaces, but for those between two numbers: 4 2 is not 42."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text).casefold()


def _is_name(side: str) -> bool:
    return (
        _NAME.fullmatch(side) is not None
        and any(char.isalpha() for char in side)
        and not any(char.isnumeric() and not char.isascii() for char in side)
        and side[0] not in "^_*/.,:)+'"
        and _balanced(side.replace("(", "{").replace(")", "}"))
        and side.count("|") % 2 == 0
        and _DENIES.search(side) is None
    )


def _balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def _is_letter(gold: str) -> bool:
    """Whether the expected answer names a choice: A to J, (a) to (j), or a letter as ก is one."""
    letter = gold.strip("() .")
    if len(letter) != 1 or not letter.isalpha():
        return False
    return not letter.isascii() or letter in "ABCDEFGHIJ" or gold[0] == "("


def _chooses(answer: str, gold: str) -> bool:
    """Whether the answer names the choice and no other: A, (A), A) five apples."""
    letter = re.escape(gold.strip("() ."))
    match = re.fullmatch(
        rf"(?:(?:option|choice|ข้อ|选项|選項)\s*)?\(?{letter}(?:[).:]+(?P<rest>\s.*)?)?",
        answer,
        re.IGNORECASE | re.DOTALL,
    )
    return match is not None and _OTHER_CHOICE.search(match["rest"] or "") is None


def _numbers(members: list[str]) -> list[PlainNumber] | None:
    numbers = [number for number in map(plain_number, members) if number is not None]
    return numbers if len(numbers) == len(members) else None


def _same_members(expected: list[PlainNumber], given: list[PlainNumber]) -> bool:
    """Whether two lists have the same members, in any order."""
    left = list(given)
    for number in expected:
        match = next((other for other in left if number.same(other)), None)
        if match is None:
            return False
        left.remove(match)
    return not left
