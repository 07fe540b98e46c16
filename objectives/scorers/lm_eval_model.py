"""An engine as a model of lm-evaluation-harness. Imports the harness: import this at use."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from pydantic import ValidationError

from objectives.engines.base import (
    ChatSettings,
    Continuation,
    Engine,
    Generation,
    GenerationSettings,
    Message,
    Prompt,
)
from objectives.errors import ScorerError
from objectives.thinking import split_text

PLAIN = ChatSettings(template=False)
"""The harness's own way: prompts are texts."""

DEFAULT_MAX_TOKENS = 256
"""As the harness's own models, where a task does not say how long answers may be."""

# Values of generation arguments that change nothing; everything else unknown is refused.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "repetition_penalty": (1, 1.0),
    "top_k": (0, -1),
    "use_cache": (True, False),
}
_OF_SAMPLING = ("top_k", "top_p", "min_p")


class EngineLM(LM):  # type: ignore[misc]
    """A live engine for `lm_eval.evaluate` and `lm_eval.simple_evaluate(model=...)`.

    With a chat template, contexts travel through the harness as JSON of their messages: the engine
    renders them. `drop_thinking` scores what follows the thinking; stop strings then end the
    answer alone, for thinking is full of the blank lines that tasks stop at.
    """

    def __init__(
        self, engine: Engine, chat: ChatSettings = PLAIN, *, drop_thinking: bool = False
    ) -> None:
        super().__init__()
        self._engine = engine
        self._chat = chat
        self._drop_thinking = drop_thinking

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether it is greedy."""
        asked = []
        for request in requests:
            context, continuation = request.args
            messages, chat = self._asked(context)
            asked.append(Continuation(_name(request), messages, continuation, chat))
        return [(one.logprob, one.greedy) for one in self._engine.loglikelihood(asked)]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Log-probability of each text from the start of a document."""
        asked = [Continuation(_name(one), (), one.args[0], self._chat) for one in requests]
        return [one.logprob for one in self._engine.loglikelihood(asked)]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answers, cut at the task's stop strings."""
        return [answer.text for answer in self.generations(requests)]

    def generations(self, requests: Sequence[Instance]) -> list[Generation]:
        """As `generate_until`, with the answers' lengths and ends.

        Raises:
            ScorerError: the task asks for a way of generating that engines do not have.
        """
        groups: dict[GenerationSettings, list[int]] = {}
        prompts: list[Prompt] = []
        times: dict[int, int] = {}
        for at, request in enumerate(requests):
            context, arguments = request.args
            messages, chat = self._asked(context)
            # The harness repeats the very same request where it wants several answers to it.
            sample = times[id(request)] = times.get(id(request), -1) + 1
            prompts.append(Prompt(_name(request), messages, sample, chat))
            groups.setdefault(_settings(request.task_name, arguments), []).append(at)
        answers: dict[int, Generation] = {}
        for settings, places in groups.items():
            asked = settings
            if self._drop_thinking:
                asked = settings.model_copy(update={"stop": ()})
            given = self._engine.generate([prompts[at] for at in places], asked)
            answers.update(zip(places, (self._cut(one, settings) for one in given), strict=True))
        return [answers[at] for at in range(len(prompts))]

    def apply_chat_template(
        self, chat_history: list[Message], add_generation_prompt: bool = True
    ) -> str:
        """As `as_context`."""
        return as_context(chat_history, add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """Asked for where requests are cached on disk, which this project never does."""
        return self._engine.kind

    def _asked(self, context: str) -> tuple[tuple[Message, ...], ChatSettings]:
        if not self._chat.template:
            return ({"role": "user", "content": context},), self._chat
        if not context:  # the choice alone, for acc_mutual_info
            return ({"role": "user", "content": ""},), PLAIN
        *before, last = json.loads(context)
        if last["role"] != "assistant":
            return (*before, last), self._chat
        prefill = self._chat.prefill + last["content"]
        return tuple(before), self._chat.model_copy(update={"prefill": prefill})

    def _cut(self, answer: Generation, settings: GenerationSettings) -> Generation:
        if not self._drop_thinking:
            return answer
        text = split_text(answer.text, answer.thinking_open).answer.lstrip()
        ends = [at for at in (text.find(stop) for stop in settings.stop) if at >= 0]
        return replace(answer, text=text[: min(ends, default=len(text))], thinking_open=False)


def as_context(history: list[Message], add_generation_prompt: bool = True) -> str:
    """A chat as the harness's context: JSON. A last message of the assistant begins the answer."""
    del add_generation_prompt  # told by the last message's role
    return json.dumps(history, ensure_ascii=False)


def _name(request: Instance) -> str:
    return f"{request.task_name}/{request.doc_id}/{request.idx}"


def _settings(task: str | None, arguments: Mapping[str, Any]) -> GenerationSettings:
    given = dict(normalize_gen_kwargs(dict(arguments), DEFAULT_MAX_TOKENS))
    stop = tuple(dict.fromkeys(text for text in given.pop("until") if text))
    temperature = float(given.pop("temperature", 0.0))
    if not given.pop("do_sample") or temperature == 0.0:
        temperature = 0.0
        given = {key: value for key, value in given.items() if key not in _OF_SAMPLING}
    try:
        settings = GenerationSettings(
            max_tokens=given.pop("max_gen_toks"),
            temperature=temperature,
            top_p=given.pop("top_p", 1.0),
            stop_loops=False,  # the harness's models go on
            stop=stop,
        )
    except ValidationError as error:
        first = error.errors()[0]
        what = first["msg"].removeprefix("Value error, ")
        raise ScorerError(
            f"lm_eval task {task}: generation_kwargs: {first['loc'][0]}: {what}; mend it"
        ) from None
    odd = next((k for k, v in given.items() if v is not None and v not in _NEUTRAL.get(k, ())), "")
    if odd:
        raise ScorerError(
            f"lm_eval task {task}: generation_kwargs has {odd}: {given[odd]!r}, which engines do"
            " not have; copy the task into a folder of yours without it, and `include` that"
        )
    return settings
