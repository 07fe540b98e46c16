"""Whether the answer is the expected text."""

import unicodedata
from functools import lru_cache
from typing import ClassVar

from objectives.scorers.base import Sample, Scorer, split_thinking


class Exact(Scorer):
    """1 when the text after the thinking equals the item's answer, white space and case aside.

    Unicode is compared in its composed canonical form (NFC): one word typed in two orders of
    combining marks is one word.
    """

    name = "exact"
    binary: ClassVar[bool] = True
    correctness: ClassVar[bool] = True

    def score(self, sample: Sample) -> float:
        """0 or 1."""
        answer = _said(sample)
        return float(bool(answer) and answer == _normal(sample.item.answer))

    def details(self, sample: Sample) -> dict[str, str]:
        """`answer`: the text that was compared, in lower case and its spaces single."""
        return {"answer": _said(sample)}


def _said(sample: Sample) -> str:
    return _normal(split_thinking(sample.generation).answer)


@lru_cache(maxsize=64)  # `score` and `details` ask the same
def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
