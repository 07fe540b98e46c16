"""From chats and continuations to token ids: the one place where prompts become text.

The pairing of context and continuation follows lm-evaluation-harness (`TemplateLM._encode_pair`
and `HFLM.tok_encode` of lm_eval 0.4.13), so that likelihoods are the same numbers as its own.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.engines.base import ChatSettings, Continuation, Message, Prompt
from objectives.errors import EngineError
from objectives.thinking import ends_open, split_text

_TEMPLATE_OWN = ("tools", "documents", "chat_template")
"""Parameters of `apply_chat_template` that are the template's matter, not the engine's."""


@dataclass(frozen=True)
class Span:
    """Tokens to be scored after others; `owner` is the place of the request they belong to."""

    owner: int
    context: tuple[int, ...]
    tokens: tuple[int, ...]


class Encoder:
    """A tokenizer and its chat template; `limit` is the most tokens that the model takes."""

    def __init__(self, tokenizer: Any, path: Path, limit: int | None) -> None:
        self._tokenizer = tokenizer
        self._path = path
        self._limit = limit
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._prefix_id: int | None = end if begin is None else begin
        self._prefix = "" if self._prefix_id is None else str(tokenizer.decode(self._prefix_id))
        reserved = inspect.signature(tokenizer.apply_chat_template).parameters
        self._reserved = frozenset(reserved) - frozenset(_TEMPLATE_OWN)

    def prompt(self, prompt: Prompt) -> tuple[list[int], bool]:
        """Token ids of the rendered chat and prefill, and whether they end inside the thinking."""
        text, templated = self._render(prompt.id, prompt.messages, prompt.chat)
        prefill = prompt.chat.prefill
        thinking = split_text(prefill, ends_open(text))
        tokens = self._encode(text + prefill, templated)
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
        text, templated = "", False
        if request.messages:
            text, templated = self._render(request.id, request.messages, request.chat)
            if request.chat.template and not templated:
                text += "\n"  # the answer is a message of its own, here as between the others
            text += request.chat.prefill
        context = text.rstrip()
        whole = text + request.text
        if context:
            before = self._encode(context, templated)
            tokens = self._encode(whole, templated)
            if templated and tokens[: len(before)] != before:
                return before, self._encode(whole[len(context) :], templated)
            return tokens[: len(before)], tokens[len(before) :]
        if self._prefix_id is None:
            raise EngineError(
                f"{self._path}: the tokenizer has neither bos nor eos token to begin a document"
                " with; name one in its tokenizer_config.json"
            )
        tokens = self._encode(whole, templated=True)
        if request.messages and tokens[:1] == [self._prefix_id]:
            tokens = tokens[1:]  # the text itself begins the document
        return [self._prefix_id], tokens

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
        except TemplateError as error:
            raise EngineError(
                f"prompt {name!r}: the chat template of {self._path} refuses it: {error}"
            ) from None
        return str(text), True

    def _encode(self, text: str, templated: bool) -> list[int]:
        # A template writes the special tokens itself; adding them again would double them.
        begun = bool(self._prefix) and text.startswith(self._prefix)
        special = not templated and not begun
        return [int(i) for i in self._tokenizer(text, add_special_tokens=special)["input_ids"]]
