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
        return float(not _missing(sample))

    def details(self, sample: Sample) -> dict[str, str]:
        """`missing`: why it is 0; nothing where it is 1."""
        missing = _missing(sample)
        return {"missing": missing} if missing else {}


def _missing(sample: Sample) -> str:
    """What a whole block with an answer after it lacks, in words; "" for nothing."""
    parts = split_thinking(sample.generation)
    if parts.thinking is None:
        return "no thinking"
    if not parts.opened:
        return "never opened"
    if not parts.closed:
        return "never closed"
    if not parts.thinking.strip():
        return "empty thinking"
    return "" if parts.answer.strip() else "no answer"
