"""An engine without a model: answers from a table or a function.

For tests, for trying a search file before hiring an accelerator, and for simulating trials: a
function may look at the weights that were loaded.
"""

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from objectives.engines.base import (
    Continuation,
    Engine,
    FinishReason,
    Generation,
    GenerationSettings,
    Likelihood,
    Prompt,
)
from objectives.engines.config import ScriptedConfig
from objectives.engines.loops import CHECK_EVERY, is_loop
from objectives.errors import EngineError
from objectives.weights import WeightSource

if TYPE_CHECKING:
    import torch

Respond = Callable[[Prompt, "Mapping[str, torch.Tensor]"], str]
"""Prompt and loaded weights (empty unless `read_weights`) to answer."""

Judge = Callable[[Continuation, "Mapping[str, torch.Tensor]"], Likelihood]
"""Continuation and loaded weights (empty unless `read_weights`) to its likelihood."""

_EXPECTED, _OTHER = 0.9, 0.1
"""Probability of a word that the answer has at its place, and of any other word there."""

_WORD = re.compile(r"\S+")


class ScriptedEngine(Engine):
    """Answers from `config.responses`, or from `respond`, a function given in code.

    A table maps a prompt's id, or the text of its last message, to an answer, or to a list of
    answers: the n-th load is answered by the n-th of them, cyclically (before any load: the first).
    As JSON it is one object; as JSONL each line is `{"id" or "prompt": ..., "response": ...}`.
    Tokens are words between white space.

    A continuation is as likely as it agrees with that answer, unless `judge`, a function given in
    code, says otherwise: each of its words has probability 0.9 where the answer has the same word
    at the same place, and 0.1 elsewhere. It is greedy where all of them agree.
    """

    kind: ClassVar[str] = "scripted"

    def __init__(
        self,
        config: ScriptedConfig,
        model: str | Path = "",
        respond: Respond | None = None,
        judge: Judge | None = None,
    ) -> None:
        del model  # any will do: nothing is read from it
        self._config = config
        self._respond = respond
        self._judge = judge
        self._table = {} if config.responses is None else _read_table(config.responses)
        if not (respond or judge or self._table) and config.default is None:
            raise EngineError("scripted engine: nothing to answer; give `responses` or `default`")
        self._loads = 0
        self._weights: dict[str, torch.Tensor] = {}
        self._complete = True
        self._closed = False

    def load(self, source: WeightSource) -> None:
        """Ask for the specs; consume and keep copies of the tensors only with `read_weights`."""
        self._check_open()
        specs = source.specs()
        if self._config.read_weights:
            self._complete = False
            self._weights = {name: tensor.clone() for name, tensor in source.tensors()}
            if self._weights.keys() != specs.keys():
                odd = sorted(self._weights.keys() ^ specs.keys())[0]
                raise EngineError(f"the source's tensors and specs differ in {odd!r}; mend it")
        self._complete = True
        self._loads += 1

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """Look every answer up, cut at `stop` strings and after `max_tokens` words."""
        self._check_ready()
        answers = [self._cut(self._answer(prompt), settings) for prompt in prompts]
        if self._config.delay:
            time.sleep(self._config.delay)
        return answers

    def loglikelihood(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        """Compare each continuation with the answer to its chat, word by word."""
        self._check_ready()
        found = [self._likelihood(request) for request in requests]
        if self._config.delay:
            time.sleep(self._config.delay)
        return found

    def close(self) -> None:
        """Forget the weights."""
        self._closed = True
        self._weights = {}

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the scripted engine is closed; make a new one")

    def _check_ready(self) -> None:
        self._check_open()
        if not self._complete:
            raise EngineError("no complete weights loaded; load again before asking anything")

    def _likelihood(self, request: Continuation) -> Likelihood:
        words = request.text.split()
        if not words:
            raise EngineError(
                f"prompt {request.id!r}: the continuation {request.text[:40]!r} has no tokens of"
                " its own; give it text"
            )
        if self._judge is not None:
            return self._judge(request, self._weights)
        answer = self._answer(Prompt(request.id, request.messages)).split()[: len(words)]
        agree = sum(a == b for a, b in zip(words, answer, strict=False))
        logprob = agree * math.log(_EXPECTED) + (len(words) - agree) * math.log(_OTHER)
        return Likelihood(logprob, len(words), agree == len(words))

    def _answer(self, prompt: Prompt) -> str:
        if self._respond is not None:
            return self._respond(prompt, self._weights)
        text = prompt.messages[-1]["content"] if prompt.messages else ""
        for key in (prompt.id, text):
            if key in self._table:
                answers = self._table[key]
                return answers[max(0, self._loads - 1) % len(answers)]
        if self._config.default is None:
            raise EngineError(
                f"scripted engine: no response for prompt {prompt.id!r}; add one to"
                f" {self._config.responses or 'the table'}, or set `default`"
            )
        return self._config.default

    def _cut(self, text: str, settings: GenerationSettings) -> Generation:
        ends = [at for at in (text.find(stop) for stop in settings.stop if stop) if at >= 0]
        text = text[: min(ends, default=len(text))]
        words = list(_WORD.finditer(text))
        said = [word.group() for word in words]
        limit = settings.max_tokens
        if settings.stop_loops:
            checks = range(CHECK_EVERY, min(len(said), limit), CHECK_EVERY)
            limit = next((at for at in checks if is_loop(said[:at])), limit)
        reason: FinishReason = "stop"
        if len(words) > limit:
            reason = "loop" if settings.stop_loops and is_loop(said[:limit]) else "length"
            words = words[:limit]
            text = text[: words[-1].end()]
        return Generation(text, len(words), reason, self._config.thinking_open)


def _read_table(path: Path) -> dict[str, tuple[str, ...]]:
    """The answers of a JSON or JSONL file by id or prompt text."""
    table: dict[str, tuple[str, ...]] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"{path}: responses cannot be read: {error}; check the path") from None
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                where = f"{path}:{number}"
                entry = _object(line, where)
                key = entry.get("id", entry.get("prompt"))
                if not isinstance(key, str) or "response" not in entry:
                    raise EngineError(f'{where}: write {{"id" or "prompt": ..., "response": ...}}')
                table[key] = _answers(entry["response"], where)
        return table
    for key, value in _object(text, str(path)).items():
        table[key] = _answers(value, f"{path}: {key!r}")
    return table


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise EngineError(f"{where}: not JSON ({error.msg}); mend the table") from None
    if not isinstance(data, dict):
        raise EngineError(f"{where}: must be an object, is {type(data).__name__}; mend the table")
    return data


def _answers(value: Any, where: str) -> tuple[str, ...]:
    answers = tuple(value) if isinstance(value, list) else (value,)
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise EngineError(f"{where}: a response is text or a non-empty list of texts; mend it")
    return answers
