"""One question with its known answer, and what a model's answers to it scored."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from objectives.engines.base import FinishReason, Message


@dataclass(frozen=True)
class Item:
    """One line of an item file, as the model will see it (a task's system message included).

    `answer` is empty where the task's scorers need none. `fields` holds what else the line says
    ("choices", "tests", "reference", ...), for scorers that need it. `digest` holds the hashes by
    which copies of it in other tasks are known, with spaces between: two items that share one are
    one item (`objectives.copies`).
    """

    id: str
    messages: tuple[Message, ...]
    answer: str
    tags: Mapping[str, Any]
    digest: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def content_digest(
    messages: Sequence[Message], answer: str, choices: Sequence[str] | None = None
) -> str:
    """32 hex digits of SHA-256 over messages, answer and choices; the same in every process."""
    said: list[Any] = [[[m["role"], m["content"]] for m in messages], answer]
    if choices is not None:
        said.append(list(choices))
    content = json.dumps(said, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(content.encode("ascii")).hexdigest()[:32]


DETAIL = 200
"""Characters of a detail that are kept: a search keeps hundreds of thousands of them."""


def detail(text: str, most: int = DETAIL) -> str:
    """`text` in one line of at most `most` characters; "…" stands where it was cut."""
    head = text[: 8 * most]
    line = " ".join(head.split())
    return line if len(line) <= most and head == text else line[: most - 1] + "…"


@dataclass(frozen=True)
class SampleScore:
    """One of several answers to an item; `details` as in `ItemScore`."""

    scores: dict[str, float]
    text: str
    tokens: int
    finish_reason: FinishReason
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemScore:
    """What one item got: stored per item, because paired comparisons and audits need it.

    `scores` maps each measure ("math", "language", "language.thinking", "joint", ...) to its
    value; a sub-score that the item lacks is absent. Where a task asks for several answers
    (avg@k), `scores` are means over them, `samples` holds each, `text`, `finish_reason` and
    `details` are those of the first, and `tokens` is the sum.

    `details` maps "SCORER.KEY" ("math.answer", "language.thinking") to what that scorer read in
    the answer, in a line of at most `DETAIL` characters; results of older versions have none.
    """

    id: str
    scores: dict[str, float]
    text: str
    tokens: int
    finish_reason: FinishReason
    samples: tuple[SampleScore, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def answers(self) -> "tuple[ItemScore | SampleScore, ...]":
        """Each answer with its own scores: the samples, or the item itself where it has one."""
        return self.samples or (self,)
