"""Whether the model thought first and then answered."""

from typing import ClassVar

from objectives.scorers.base import Sample, Scorer, split_thinking


class Think(Scorer):
    """1 for a closed, non-empty think block before a non-empty answer; 0 otherwise.

    The block counts as opened when the text opens it or the chat template already did.
    """

    name = "think"
    binary: ClassVar[bool] = True

    def score(self, sample: Sample) -> float:
        """0 or 1."""
        parts = split_thinking(sample.generation)
        thought = parts.opened and parts.closed and bool((parts.thinking or "").strip())
        return float(thought and bool(parts.answer.strip()))
