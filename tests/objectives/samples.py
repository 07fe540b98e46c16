"""Short ways to make what scorers take."""

from objectives.engines.base import Generation
from objectives.item import Item, content_digest
from objectives.scorers.base import Sample


def sample(text: str, answer: str = "7", thinking_open: bool = False) -> Sample:
    messages = ({"role": "user", "content": "?"},)
    item = Item("i", messages, answer, {}, content_digest(messages, answer))
    return Sample(item, Generation(text, len(text.split()), "stop", thinking_open))
