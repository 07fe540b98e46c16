"""Short ways to make what scorers take."""

from collections.abc import Sequence

from objectives.engines.base import Generation, Likelihood
from objectives.item import Item, content_digest
from objectives.scorers.base import Sample

CHOICES = ["7", "8", "9"]
FIELDS = {"choices": CHOICES, "tests": [{"input": "1\n", "output": "7\n"}], "reference": "7"}
"""What items of any scorer have besides their answer."""

EVEN = (Likelihood(-1.0, 1, False),) * 6
"""Three choices, asked about twice (calibrated), all of them equally likely."""


def item(answer: str = "7", **fields: object) -> Item:
    messages = ({"role": "user", "content": "?"},)
    return Item("i", messages, answer, {}, content_digest(messages, answer), fields)


def sample(
    text: str,
    answer: str = "7",
    thinking_open: bool = False,
    likelihoods: Sequence[Likelihood] = EVEN,
) -> Sample:
    said = Generation(text, len(text.split()), "stop", thinking_open)
    return Sample(item(answer, choices=CHOICES), said, tuple(likelihoods))


def likelihoods(*logprobs: float, tokens: int = 1) -> tuple[Likelihood, ...]:
    return tuple(Likelihood(logprob, tokens, False) for logprob in logprobs)


def wordiness(sample: Sample, enough: int = 10) -> float:
    """A user's function: how many words there are of those that are enough."""
    return min(1.0, len(sample.generation.text.split()) / enough)
