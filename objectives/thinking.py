"""Where the thinking ends and the answer begins: the one reading of think tags in the project."""

import re
from dataclasses import dataclass

# Spellings in use: R1, Qwen and Typhoon write <think>; others <thinking> and <thought>.
TAG_NAMES = ("think", "thinking", "thought")
_TAG = re.compile(rf"<(?P<close>/?)(?:{'|'.join(TAG_NAMES)})>")
_OPEN_AT_END = re.compile(rf"<(?:{'|'.join(TAG_NAMES)})>\s*\Z")


@dataclass(frozen=True)
class Thinking:
    """A generated text taken apart.

    `thinking` is None when there is no thinking at all; otherwise everything up to the last
    closing tag, tags removed. `answer` is what follows it, and empty when the thinking never
    closed. `opened` says that an opening tag came first, in the text or at the prompt's end.
    """

    thinking: str | None
    answer: str
    closed: bool
    opened: bool


def split_text(text: str, thinking_open: bool = False) -> Thinking:
    """Take `text` apart at its last closing tag; blocks before it all count as thinking.

    A closing tag without an opening one still ends the thinking (some templates hide the opening
    tag), but `opened` is then False.
    """
    last_open = last_close = -1
    first_open = 0 if thinking_open else -1
    close_end = 0
    for tag in _TAG.finditer(text):
        if tag["close"]:
            last_close, close_end = tag.start(), tag.end()
        else:
            last_open = tag.start()
            if first_open < 0:
                first_open = last_open
    if last_close < 0 and first_open < 0:
        return Thinking(None, text, closed=False, opened=False)
    if last_open > last_close or last_close < 0:
        return Thinking(_TAG.sub("", text), "", closed=False, opened=True)
    opened = 0 <= first_open <= last_close
    return Thinking(_TAG.sub("", text[:last_close]), text[close_end:], closed=True, opened=opened)


def ends_open(prompt: str) -> bool:
    """Whether a rendered prompt ends in an opening tag, so that generation starts inside it."""
    return _OPEN_AT_END.search(prompt) is not None
