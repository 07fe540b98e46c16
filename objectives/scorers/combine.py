"""Scores made of other scores of the same answer: for objectives that want several things at once.

A mean over items of a product or a minimum is not the product or minimum of means: "right in 60%,
in the language in 60%" may mean that no answer is both. These combine answer by answer.
"""

import math
from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from objectives.scorers.base import Combination, CombinationParams, Sample


class Mean(Combination):
    """The mean of other scores, weighted if told."""

    name = "mean"
    params: "Params"

    class Params(CombinationParams):
        """What counts how much."""

        weights: tuple[float, ...] | None = Field(
            None, description="one positive number for each score of `of`; unset: equal ones"
        )

        @model_validator(mode="after")
        def _one_each(self) -> Self:
            if self.weights is not None:
                if len(self.weights) != len(self.of):
                    raise ValueError(f"{len(self.weights)} weights for {len(self.of)} scores")
                if not all(0.0 < weight < math.inf for weight in self.weights):
                    raise ValueError("weights are positive numbers")
            return self

    def combine(self, sample: Sample, scores: Mapping[str, float]) -> float:
        """Within [0, 1]."""
        given = self.params.weights or (1.0,) * len(self.params.of)
        weights = [weight / max(given) for weight in given]  # sums of the largest are infinite
        total = math.fsum(w * scores[key] for w, key in zip(weights, self.params.of, strict=True))
        return min(1.0, total / math.fsum(weights))


class Min(Combination):
    """The least of other scores: no strength makes up for a weakness."""

    name = "min"

    def combine(self, sample: Sample, scores: Mapping[str, float]) -> float:
        """Within [0, 1]."""
        return min(scores[key] for key in self.params.of)


class All(Combination):
    """1 when every score reaches its bound: the general form of "right *and* in the language"."""

    name = "all"
    binary = True
    params: "Params"

    class Params(CombinationParams):
        """What each score has to reach."""

        at: dict[str, float] = Field(
            default_factory=dict,
            description="bounds by score, such as `{language: 0.8}`; 1 for those not named",
        )

        @model_validator(mode="after")
        def _of_these(self) -> Self:
            odd = sorted(self.at.keys() - set(self.of))
            if odd:
                raise ValueError(f"{odd[0]!r} has a bound in `at` but is not among `of`")
            if not all(0.0 < bound <= 1.0 for bound in self.at.values()):
                raise ValueError("bounds in `at` lie in (0, 1]")
            return self

    def combine(self, sample: Sample, scores: Mapping[str, float]) -> float:
        """0 or 1."""
        return float(all(scores[key] >= self.params.at.get(key, 1.0) for key in self.params.of))


class LengthPenalty(Combination):
    """The mean of other scores, less for long answers: thinking costs tokens.

    Up to `free` generated tokens the score is kept; from there the share that is kept falls
    linearly to 0 at `limit`.
    """

    name = "length_penalty"
    params: "Params"

    class Params(CombinationParams):
        """How long an answer may be: in generated tokens, thinking included."""

        free: int = Field(
            ge=0, description="tokens, thinking included, up to which nothing is lost"
        )
        limit: int = Field(gt=0, description="tokens from which nothing is left; more than `free`")

        @model_validator(mode="after")
        def _ascending(self) -> Self:
            if self.limit <= self.free:
                raise ValueError(f"limit {self.limit} must be over free {self.free}")
            return self

    def combine(self, sample: Sample, scores: Mapping[str, float]) -> float:
        """Within [0, 1]."""
        over = (sample.generation.tokens - self.params.free) / (
            self.params.limit - self.params.free
        )
        kept = 1.0 - min(1.0, max(0.0, over))
        return min(
            1.0, kept * math.fsum(scores[key] for key in self.params.of) / len(self.params.of)
        )
