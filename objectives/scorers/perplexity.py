"""How surprised a model is by a text: a measure of language that needs no answer."""

import math
from typing import ClassVar

from pydantic import Field

from objectives.engines.base import ChatSettings, Continuation
from objectives.errors import ScorerError
from objectives.item import Item
from objectives.scorers import base
from objectives.scorers.base import Direction, Measure, Sample, Scorer
from objectives.scorers.choice import separator

CEILING = 1e9
"""The most that a perplexity can be: a broken model's is infinite, which nothing can store."""


class Perplexity(Scorer):
    """Perplexity per token of the item's `answer` after its messages, or of its `text` alone.

    A task's perplexity is that of all its texts together: the geometric mean over items, weighted
    by their tokens. It compares models of one vocabulary; `perplexity.bits_per_byte` compares any,
    weighted by `perplexity.bytes`. A model without numbers gets `CEILING`.
    """

    name = "perplexity"
    reads = "likelihoods"
    range = (1.0, math.inf)
    direction: ClassVar[Direction] = "minimize"
    params: "Params"

    class Params(base.Params):
        """What stands before the text."""

        prefix: str | None = Field(
            None, description="put before the answer; unset: a space where none would part them"
        )

    def continuations(self, item: Item, chat: ChatSettings) -> tuple[Continuation, ...]:
        """The text that is scored."""
        prefix = self.params.prefix
        if prefix is None:
            prefix = separator(item.messages, chat) if item.messages else ""
        return (Continuation(item.id, item.messages, prefix + item.answer, chat),)

    def score(self, sample: Sample) -> float:
        """Within [1, `CEILING`]."""
        return min(CEILING, math.exp(_nats(sample)))

    def extras(self, sample: Sample) -> dict[str, float]:
        """`tokens` and `bytes` of the text, and `bits_per_byte`."""
        tokens, size = _tokens(sample), len(sample.item.answer.encode())
        bits = _nats(sample) * tokens / math.log(2)
        return {
            "tokens": float(tokens),
            "bytes": float(size),
            "bits_per_byte": bits / size,
        }

    def check_item(self, item: Item) -> None:
        """Whether there is a text to be scored."""
        if not item.answer:
            raise ScorerError('needs "answer" after a prompt, or "text" alone; add one')

    def measures(self) -> dict[str, Measure]:
        """Perplexity and bits per byte with their weights, tokens and bytes."""
        count = Measure((0.0, math.inf))
        tokens, size = f"{self.name}.tokens", f"{self.name}.bytes"
        return {
            self.name: Measure(self.range, self.direction, aggregation="geometric", weights=tokens),
            tokens: count,
            size: count,
            f"{self.name}.bits_per_byte": Measure((0.0, math.inf), self.direction, weights=size),
        }


def _tokens(sample: Sample) -> int:
    return max(1, sample.likelihoods[0].tokens)


def _nats(sample: Sample) -> float:
    """Nats per token, from 0 to those of `CEILING`."""
    nats = -sample.likelihoods[0].logprob / _tokens(sample)
    most = math.log(CEILING)
    return most if math.isnan(nats) else min(most, max(0.0, nats))
