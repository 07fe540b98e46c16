"""From token ids to answers: the one place where what a model generated becomes text."""

from collections.abc import Callable, Sequence
from typing import Any

from objectives.engines.base import FinishReason, Generation, GenerationSettings
from objectives.engines.loops import CHECK_EVERY, is_loop
from objectives.thinking import TAG_NAMES


class Answers:
    """What a tokenizer makes of new tokens; `end_ids` are those that end an answer."""

    def __init__(self, tokenizer: Any, end_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._hidden_ids = _hidden_ids(tokenizer)

    def stop_check(self, settings: GenerationSettings) -> Callable[[list[int]], bool]:
        """Whether an answer is over though no end token ended it."""
        # Only the newest token can complete a stop string; each of the others has a byte at least.
        reach = max((len(stop.encode()) for stop in settings.stop), default=0) + 8

        def stopped(new: list[int]) -> bool:
            if settings.stop_loops and len(new) % CHECK_EVERY == 0 and is_loop(new):
                return True
            if not settings.stop:
                return False
            tail = self.text(new[-reach:])
            return any(stop in tail for stop in settings.stop)

        return stopped

    def text(self, tokens: Sequence[int]) -> str:
        """What a reader sees of tokens."""
        shown = [token for token in tokens if token not in self._hidden_ids]
        return str(self._tokenizer.decode(shown, skip_special_tokens=False))

    def of(
        self, tokens: Sequence[int], thinking_open: bool, settings: GenerationSettings
    ) -> Generation:
        """The answer of these tokens, at least one, cut at stop strings."""
        text = self.text(tokens)
        cuts = [at for at in (text.find(stop) for stop in settings.stop) if at >= 0]
        text = text[: min(cuts, default=len(text))]
        reason: FinishReason = "length"
        if cuts or tokens[-1] in self._end_ids:
            reason = "stop"
        elif settings.stop_loops and is_loop(tokens):
            reason = "loop"
        return Generation(text, len(tokens), reason, thinking_open)


def _hidden_ids(tokenizer: Any) -> frozenset[int]:
    """Special tokens left out of answers; think tags stay, whatever the tokenizer calls them."""
    shown = {tag for name in TAG_NAMES for tag in (f"<{name}>", f"</{name}>")}
    pairs = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return frozenset(int(i) for i, token in pairs if token not in shown)
