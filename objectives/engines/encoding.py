"""From chats and continuations to token ids: the one place where prompts become text.

The pairing of context and continuation follows lm-evaluation-harness (`TemplateLM._encode_pair`
and `HFLM.tok_encode` of lm_eval 0.4.13), so that likelihoods are the same numbers as its own.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from objectives.engines.base import (
    ChatSettings,
    Continuation,
    GenerationSettings,
    Message,
    Prompt,
    PromptCheck,
)
from objectives.errors import EngineError
from objectives.thinking import ends_open, split_text

_TEMPLATE_OWN = ("tools", "documents", "chat_template")
"""Parameters of `apply_chat_template` that are the template's matter, not the engine's."""

_REFUSALS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What templates and tokenizers raise, besides their own errors, for what they cannot take."""


@dataclass(frozen=True)
class Span:
    """Tokens to be scored after others; `owner` is the place of the request they belong to."""

    owner: int
    context: tuple[int, ...]
    tokens: tuple[int, ...]


_Context = tuple[str, bool, list[int] | None]
"""Text before a continuation, whether a template wrote it, and its tokens; None if it is blank."""


class Encoder(PromptCheck):
    """A tokenizer and its chat template; `limit` is the most tokens that the model takes."""

    def __init__(self, tokenizer: Any, limit: int | None) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._last: tuple[Continuation, _Context] | None = None
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._prefix_id: int | None = end if begin is None else begin
        self._prefix = "" if self._prefix_id is None else str(tokenizer.decode(self._prefix_id))
        reserved = inspect.signature(tokenizer.apply_chat_template).parameters
        self._reserved = frozenset({*reserved, "messages"}) - frozenset(_TEMPLATE_OWN)

    def prompts(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> int:
        """Every prompt as it will be asked; how many have room for less than `max_tokens`."""
        rooms = (self.room(p.id, len(self.prompt(p)[0]), settings) for p in prompts)
        return sum(room < settings.max_tokens for room in rooms)

    def continuations(self, requests: Sequence[Continuation]) -> None:
        """Every continuation as it will be asked."""
        for request in requests:
            self.spans([request])

    def room(self, name: str, length: int, settings: GenerationSettings) -> int:
        """New tokens a prompt may get: the settings', less what the model's positions forbid.

        Raises:
            EngineError: none at all; `name` is the prompt's.
        """
        if self._limit is None:
            return settings.max_tokens
        if length >= self._limit:
            raise EngineError(
                f"prompt {name!r} has {length} tokens, the model takes {self._limit} with the"
                " answer; shorten it"
            )
        return min(settings.max_tokens, self._limit - length)

    def prompt(self, prompt: Prompt) -> tuple[list[int], bool]:
        """Token ids of the rendered chat and prefill, and whether they end inside the thinking."""
        text, templated = self._render(prompt.id, prompt.messages, prompt.chat)
        prefill = prompt.chat.prefill
        thinking = split_text(prefill, ends_open(text))
        tokens = self._encode(prompt.id, text + prefill, templated)
        if not tokens:
            raise EngineError(f"prompt {prompt.id!r} has no tokens; give it text")
        return tokens, thinking.opened and not thinking.closed

    def spans(self, requests: Sequence[Continuation]) -> list[Span]:
        """What is to be scored: one span for each request, several for texts over the limit.

        Raises:
            EngineError: a continuation has no tokens of its own, or is too long for the model.
        """
        spans = []
        for owner, request in enumerate(requests):
            context, tokens = self._pair(request)
            if not tokens:
                raise EngineError(
                    f"prompt {request.id!r}: the continuation {request.text[:40]!r} has no tokens"
                    " of its own; give it text that does not melt into the context's last token"
                )
            if not request.messages:
                spans += self._windows(owner, context, tokens)
                continue
            if self._limit is not None and len(context) + len(tokens) - 1 > self._limit:
                raise EngineError(
                    f"prompt {request.id!r} has {len(context)} tokens and a continuation of"
                    f" {len(tokens)}, the model takes {self._limit}; shorten it"
                )
            spans.append(Span(owner, tuple(context), tuple(tokens)))
        return spans

    def _pair(self, request: Continuation) -> tuple[list[int], list[int]]:
        """Context and continuation as token ids.

        White space at the context's end counts to the continuation, because tokenizers join a
        space to the word behind it. Both are encoded together, and what the context alone takes
        is cut off. An empty context is the token that begins a document, which is not scored.

        A chat that a template wrote keeps its tokens, as it does when it is answered: where the
        continuation would melt into the last of them it is encoded apart.
        """
        text, templated, before = self._context(request)
        whole = text + request.text
        if before is not None:
            tokens = self._encode(request.id, whole, templated)
            if templated and tokens[: len(before)] != before:
                rest = whole[len(text.rstrip()) :]
                return before, self._encode(request.id, rest, templated)
            return tokens[: len(before)], tokens[len(before) :]
        if self._prefix_id is None:
            raise EngineError(
                "the tokenizer has neither bos nor eos token to begin a document with; name one in"
                " its tokenizer_config.json"
            )
        tokens = self._encode(request.id, whole, templated=True)
        if request.messages and tokens[:1] == [self._prefix_id]:
            tokens = tokens[1:]  # the text itself begins the document
        return [self._prefix_id], tokens

    def _context(self, request: Continuation) -> "_Context":
        """What stands before a continuation; that of neighbours with one chat is made once."""
        if self._last is not None:
            other, context = self._last
            if other.messages == request.messages and other.chat == request.chat:
                return context
        text, templated = "", False
        if request.messages:
            text, templated = self._render(request.id, request.messages, request.chat)
            if request.chat.template and not templated:
                text += "\n"  # the answer is a message of its own, here as between the others
            text += request.chat.prefill
        shown = text.rstrip()
        before = self._encode(request.id, shown, templated) if shown else None
        self._last = request, (text, templated, before)
        return self._last[1]

    def _windows(self, owner: int, context: list[int], tokens: list[int]) -> list[Span]:
        """Each token once, in windows of the model's limit; the last looks back as far as it can.

        So does lm-evaluation-harness's `loglikelihood_rolling`.
        """
        limit = len(tokens) if self._limit is None else self._limit
        spans = [Span(owner, tuple(context), tuple(tokens[:limit]))]
        for start in range(limit, len(tokens), limit):
            end = min(start + limit, len(tokens))
            spans.append(
                Span(owner, tuple(tokens[end - limit - 1 : start]), tuple(tokens[start:end]))
            )
        return spans

    def _render(
        self, name: str, messages: Sequence[Message], chat: ChatSettings
    ) -> tuple[str, bool]:
        """The chat as text without prefill, and whether the chat template wrote it."""
        if not chat.template or self._tokenizer.chat_template is None:
            return "\n".join(message["content"] for message in messages), False
        from jinja2 import TemplateError

        clash = sorted(self._reserved & chat.template_kwargs.keys())
        if clash:
            raise EngineError(f"template_kwargs: {clash[0]!r} is the engine's own; leave it out")
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **chat.template_kwargs
            )
        except (TemplateError, *_REFUSALS) as error:
            roles = {message["role"] for message in messages}
            hint = ", or put its system message elsewhere by `system_role: user`"
            raise EngineError(
                f"prompt {name!r}: the chat template refuses it: {_one_line(error)}; change its"
                f" messages or the task's `chat`{hint if 'system' in roles else ''}"
            ) from None
        return str(text), True

    def _encode(self, name: str, text: str, templated: bool) -> list[int]:
        # A template writes the special tokens itself; adding them again would double them.
        begun = bool(self._prefix) and text.startswith(self._prefix)
        special = not templated and not begun
        try:
            ids = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        except _REFUSALS as error:
            half = next((c for c in text if "\ud800" <= c <= "\udfff"), None)
            what = f"half a character, {half!r}" if half else _one_line(error)
            raise EngineError(
                f"prompt {name!r}: the tokenizer refuses its text: {what}; mend it"
            ) from None
        return [int(i) for i in ids]


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())[:200].rstrip(".")
    return said or type(error).__name__
