"""One question with its known answer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from objectives.engines.base import Message


@dataclass(frozen=True)
class Item:
    """One line of an item file, as the model will see it (a task's system message included).

    `digest` is the content hash of messages and answer: two items with one digest are one item.
    """

    id: str
    messages: tuple[Message, ...]
    answer: str
    tags: Mapping[str, Any]
    digest: str


def content_digest(messages: Sequence[Message], answer: str) -> str:
    """32 hex digits of SHA-256 over messages and answer; the same in every process."""
    content = json.dumps(
        [[[m["role"], m["content"]] for m in messages], answer],
        ensure_ascii=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(content.encode("ascii")).hexdigest()[:32]
