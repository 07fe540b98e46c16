"""Which of given choices a model finds likeliest: nothing is generated that could be misread."""

import math
import string
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from objectives.engines.base import ChatSettings, Continuation, Likelihood, Message
from objectives.errors import ScorerError
from objectives.item import Item
from objectives.item_file import near
from objectives.scorers import base
from objectives.scorers.base import Measure, Sample, Scorer

LETTERS = string.ascii_uppercase


class Choice(Scorer):
    """1 when the item's right choice is likelier than every other; a tie with it is wrong.

    A line has `choices`, two or more texts, and an `answer`: the text of the right one; where no
    choice has that text, its letter (A is the first); or its number, which counts from 0, as data
    sets write it. "1" among the choices "1", "2" and "3" is therefore the first.

    `choice.probability` is the right one's share of the softmax over what is compared: graded, so
    that small sets of items tell models apart which 0/1 scores do not. A model that gives no
    numbers is wrong: it may not win by what it cannot compare.

    A template that opens a think tag wants a `chat.prefill` that closes it before the choice.
    """

    name = "choice"
    reads = "likelihoods"
    binary: ClassVar[bool] = True
    correctness: ClassVar[bool] = True
    extra_measures: ClassVar = {"probability": Measure()}
    params: "Params"

    class Params(base.Params):
        """How choices are shown, and what of their log-probabilities is compared."""

        normalize: Literal["none", "characters", "bytes", "tokens", "calibrated"] = Field(
            "none",
            description="what is compared: the log-probability; per character (`acc_norm` of"
            " lm-eval), byte (`acc_bytes`) or token; or less that of the same choice after a"
            " neutral question (PMI: arXiv 2104.08315), for choices that are common whatever is"
            " asked",
        )
        neutral: str = Field(
            "N/A", min_length=1, description="the question that asks nothing, for calibrated"
        )
        present: Literal["text", "letters"] = Field(
            "text", description="letters: the prompt lists the choices, a letter is the answer"
        )
        cue: str = Field("Answer:", description="last line of the prompt, after listed choices")
        prefix: str | None = Field(
            None, description="put before a choice; unset: a space where none would part them"
        )

    def continuations(self, item: Item, chat: ChatSettings) -> tuple[Continuation, ...]:
        """One for each choice; when calibrated, then one for each after the neutral question."""
        choices = _choices(item)
        told = self._asked(item.messages, choices)
        asked = self._continued(item.id, told, choices, chat)
        if self.params.normalize != "calibrated":
            return asked
        system = tuple(message for message in item.messages[:1] if message["role"] == "system")
        neutral = (*system, {"role": "user", "content": self.params.neutral})
        return asked + self._continued(item.id, self._asked(neutral, choices), choices, chat)

    def score(self, sample: Sample) -> float:
        """0 or 1."""
        values, right = self._compared(sample)
        others = values[:right] + values[right + 1 :]
        # Comparisons with NaN are false: whatever is not a number never makes the right one win.
        return float(math.isfinite(values[right]) and all(values[right] > x for x in others))

    def extras(self, sample: Sample) -> dict[str, float]:
        """`probability`, within [0, 1]."""
        values, right = self._compared(sample)
        top = max(values)
        if not math.isfinite(top) or any(math.isnan(value) for value in values):
            return {"probability": 0.0}
        shares = [math.exp(value - top) for value in values]
        return {"probability": min(1.0, shares[right] / math.fsum(shares))}

    def details(self, sample: Sample) -> dict[str, str]:
        """`answer`: the likeliest choice, all of them in a tie; "" where one is no number."""
        values, _ = self._compared(sample)
        if any(math.isnan(value) for value in values) or max(values) == -math.inf:
            return {"answer": ""}
        choices = _choices(sample.item)
        top = [
            choice for choice, value in zip(choices, values, strict=True) if value == max(values)
        ]
        return {"answer": " | ".join(top)}

    def check_item(self, item: Item) -> None:
        """Whether it has choices of which its answer names one."""
        choices = _choices(item)
        if self.params.present == "letters" and len(choices) > len(LETTERS):
            raise ScorerError(
                f'{len(choices)} "choices" are more than letters; give `present: text`, or fewer'
            )
        right_choice(item)

    def _asked(self, messages: tuple[Message, ...], choices: Sequence[str]) -> tuple[Message, ...]:
        if self.params.present == "text":
            return messages
        lines = [f"{LETTERS[at]}. {choice}" for at, choice in enumerate(choices)]
        listed = "\n".join([*lines, self.params.cue] if self.params.cue else lines)
        *before, last = messages or ({"role": "user", "content": ""},)
        content = f"{last['content']}\n{listed}" if last["content"] else listed
        return (*before, {**last, "content": content})

    def _continued(
        self, name: str, messages: tuple[Message, ...], choices: Sequence[str], chat: ChatSettings
    ) -> tuple[Continuation, ...]:
        prefix = self.params.prefix
        if prefix is None:
            prefix = separator(messages, chat)
        shown = self._shown(choices)
        return tuple(Continuation(name, messages, prefix + text, chat) for text in shown)

    def _shown(self, choices: Sequence[str]) -> Sequence[str]:
        """What stands for the choices in answers."""
        return LETTERS[: len(choices)] if self.params.present == "letters" else choices

    def _compared(self, sample: Sample) -> tuple[list[float], int]:
        """What is compared of each choice, and the place of the right one."""
        choices, given = _choices(sample.item), sample.likelihoods
        right = right_choice(sample.item)
        neutral = given[len(choices) :] or given
        parts = zip(given, neutral, self._shown(choices), strict=False)
        return [self._normal(one, after, text) for one, after, text in parts], right

    def _normal(self, likelihood: Likelihood, neutral: Likelihood, shown: str) -> float:
        if self.params.normalize == "tokens":
            return likelihood.logprob / max(1, likelihood.tokens)
        if self.params.normalize == "characters":
            return likelihood.logprob / len(shown)
        if self.params.normalize == "bytes":
            return likelihood.logprob / len(shown.encode())
        if self.params.normalize == "calibrated":
            return likelihood.logprob - neutral.logprob
        return likelihood.logprob


def right_choice(item: Item) -> int:
    """The place of the item's right choice; for how answers name it see `Choice`.

    Raises:
        ScorerError: the answer names none of its choices.
    """
    choices, answer = _choices(item), item.answer.strip()
    for at, choice in enumerate(choices):
        if choice.strip() == answer:
            return at
    if len(answer) == 1 and answer.upper() in LETTERS[: len(choices)]:
        return LETTERS.index(answer.upper())
    if answer.isascii() and answer.isdigit() and len(answer) < 4 and int(answer) < len(choices):
        return int(answer)
    last = len(choices) - 1
    raise ScorerError(
        f'"answer" {item.answer[:40]!r} names none of {len(choices)} "choices"; write the text of'
        f" one, its letter (A to {LETTERS[min(last, 25)]}) or its number (0 to {last})"
    )


def separator(messages: Sequence[Message], chat: ChatSettings) -> str:
    """A space where the text before a continuation would else run into it, nothing elsewhere.

    A chat template ends its own turn markers as it wants them; where it does not help, what stands
    before is the prefill, or without a template the last message.
    """
    before = chat.prefill
    if not before and not chat.template and messages:
        before = messages[-1]["content"]
    return " " if before and not before[-1].isspace() else ""


def _choices(item: Item) -> list[str]:
    choices = item.fields.get("choices")
    if choices is None:
        raise ScorerError(f'"choices" is missing; add it{near("choices", item.fields)}')
    if not (
        isinstance(choices, list)
        and len(choices) > 1
        and all(isinstance(choice, str) and choice.strip() for choice in choices)
        and len({choice.strip() for choice in choices}) == len(choices)
    ):
        raise ScorerError('"choices" must be a list of two or more different texts; mend it')
    return choices
