"""What every engine must do; a new engine's tests subclass `EngineSuite` and give two fixtures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
import torch

from objectives.engines.base import (
    Continuation,
    Engine,
    Generation,
    GenerationSettings,
    Likelihood,
    Prompt,
)
from objectives.errors import EngineError

SHORT = GenerationSettings(max_tokens=8)


@dataclass(frozen=True)
class Spec:
    shape: tuple[int, ...]
    dtype: torch.dtype


class DictSource:
    """A weight source over a dictionary; `fail_after` tensors it raises."""

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        specs: Mapping[str, Spec] | None = None,
        fail_after: int | None = None,
    ) -> None:
        self._tensors = tensors
        self._specs = specs
        self._fail_after = fail_after

    def specs(self) -> Mapping[str, Spec]:
        if self._specs is not None:
            return self._specs
        return {name: Spec(tuple(t.shape), t.dtype) for name, t in self._tensors.items()}

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for at, (name, tensor) in enumerate(self._tensors.items()):
            if at == self._fail_after:
                raise OSError("the disk is gone")
            yield name, tensor


def user(name: str, text: str) -> Prompt:
    return Prompt(name, ({"role": "user", "content": text},))


PROMPTS = [
    user("a", "มี 5 . ซื้อ 2"),
    user("b", "has 3"),
    user("c", "มี 9 . ขาย 2 . ซื้อ 4 . คำตอบ คือ"),
    user("d", "w1 w2 w3 w4 w5 w6 w7 w8 w9"),
    user("e", "the answer"),
]


ASKED = [
    Continuation(prompt.id, prompt.messages, text)
    for prompt, texts in zip(
        PROMPTS,
        [
            ("มี 7", "has 7", "w1"),
            ("3",),
            (" ลูก 9 .", "11 . มี"),
            ("w10 w11 w12", "w10", "w12 w10 w11 w13 w14"),
            ("is =",),
        ],
        strict=True,
    )
    for text in texts
]


def same(found: list[Likelihood], expected: list[Likelihood]) -> None:
    """Equal but for the rounding that a batch's shape brings."""
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in expected], 1e-4)
    assert [(o.tokens, o.greedy) for o in found] == [(o.tokens, o.greedy) for o in expected]


class EngineSuite:
    """Subclasses give `engine` (live, initial weights) and `weights` (a full set for it)."""

    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        raise NotImplementedError

    @pytest.fixture
    def weights(self) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def test_has_a_kind(self, engine):
        from objectives.engines import ENGINES

        assert engine.kind in ENGINES

    def test_answers_nothing_to_nothing(self, engine):
        assert engine.generate([], SHORT) == []

    def test_answers_before_any_load(self, engine):
        answers = engine.generate(PROMPTS, SHORT)
        assert len(answers) == len(PROMPTS)
        for answer in answers:
            assert isinstance(answer, Generation)
            assert 0 <= answer.tokens <= SHORT.max_tokens
            assert answer.finish_reason in ("stop", "length")

    def test_order_of_answers_is_order_of_prompts(self, engine):
        forward = engine.generate(PROMPTS, SHORT)
        backward = engine.generate(PROMPTS[::-1], SHORT)
        alone = [engine.generate([prompt], SHORT)[0] for prompt in PROMPTS]
        assert forward == backward[::-1] == alone
        assert len({answer.text for answer in forward}) > 1  # or the order would prove nothing

    def test_same_answers_twice(self, engine):
        assert engine.generate(PROMPTS, SHORT) == engine.generate(PROMPTS, SHORT)

    def test_same_id_and_text_may_come_twice(self, engine):
        first, second = engine.generate([PROMPTS[0], PROMPTS[0]], SHORT)
        assert first == second

    def test_max_tokens_cuts_and_says_so(self, engine):
        (answer,) = engine.generate([PROMPTS[2]], GenerationSettings(max_tokens=1))
        assert answer.tokens == 1
        assert answer.finish_reason == "length"

    def test_stop_strings_end_and_are_cut(self, engine):
        (whole,) = engine.generate([PROMPTS[2]], SHORT)
        stop = whole.text.split()[1]
        (cut,) = engine.generate([PROMPTS[2]], SHORT.model_copy(update={"stop": (stop,)}))
        assert cut.text == whole.text[: whole.text.find(stop)]
        assert cut.finish_reason == "stop"

    def test_loads_again_and_again(self, engine, weights):
        for _ in range(3):
            engine.load(DictSource(weights))
        assert len(engine.generate(PROMPTS, SHORT)) == len(PROMPTS)

    def test_says_nothing_of_nothing(self, engine):
        assert engine.loglikelihood([]) == []

    def test_likelihoods_are_of_the_continuation_s_tokens(self, engine):
        found = engine.loglikelihood(ASKED)
        assert len(found) == len(ASKED)
        for request, one in zip(ASKED, found, strict=True):
            assert one.tokens == len(request.text.split())
            assert one.logprob < 0

    def test_order_and_company_of_requests_change_no_likelihood(self, engine):
        found = engine.loglikelihood(ASKED)
        same(engine.loglikelihood(ASKED[::-1])[::-1], found)
        same([engine.loglikelihood([request])[0] for request in ASKED], found)
        assert engine.loglikelihood(ASKED) == found
        assert len({one.logprob for one in found}) > 1

    def test_what_it_would_answer_is_likely(self, engine):
        (answer,) = engine.generate(PROMPTS[:1], GenerationSettings(max_tokens=3))
        own = Continuation(PROMPTS[0].id, PROMPTS[0].messages, answer.text)
        other = Continuation(PROMPTS[0].id, PROMPTS[0].messages, "w99 w98 w97")
        likely, unlikely = engine.loglikelihood([own, other])
        assert likely.greedy
        assert not unlikely.greedy
        assert likely.logprob > unlikely.logprob

    @pytest.mark.parametrize("text", ["", " "])
    def test_a_continuation_without_tokens_is_named(self, engine, text):
        with pytest.raises(EngineError, match=r"'b'.*no tokens"):
            engine.loglikelihood([Continuation("b", PROMPTS[1].messages, text)])

    def test_close_is_final_and_harmless_twice(self, engine, weights):
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.generate(PROMPTS, SHORT)
        with pytest.raises(EngineError, match="closed"):
            engine.loglikelihood(ASKED)
        with pytest.raises(EngineError, match="closed"):
            engine.load(DictSource(weights))

    def test_is_a_context_manager(self, engine):
        with engine as inside:
            assert inside is engine
        with pytest.raises(EngineError):
            engine.generate(PROMPTS, SHORT)


class ReadingEngineSuite(EngineSuite):
    """For engines that consume the tensors of a load."""

    def test_refuses_to_answer_after_a_load_that_failed_midway(self, engine, weights):
        with pytest.raises(OSError, match="disk"):
            engine.load(DictSource(weights, fail_after=2))
        with pytest.raises(EngineError, match="no complete weights loaded"):
            engine.generate(PROMPTS, SHORT)
        with pytest.raises(EngineError, match="no complete weights loaded"):
            engine.loglikelihood(ASKED)
        engine.load(DictSource(weights))
        assert len(engine.generate(PROMPTS, SHORT)) == len(PROMPTS)

    def test_the_same_weights_give_the_same_answers(self, engine, weights):
        engine.load(DictSource(weights))
        first = engine.generate(PROMPTS, SHORT)
        engine.load(DictSource({name: tensor + 1 for name, tensor in weights.items()}))
        assert engine.generate(PROMPTS, SHORT) != first
        engine.load(DictSource(dict(reversed(weights.items()))))
        assert engine.generate(PROMPTS, SHORT) == first

    def test_refuses_a_source_that_ends_early(self, engine, weights):
        specs = DictSource(weights).specs()
        fewer = dict(list(weights.items())[:-1])
        with pytest.raises(EngineError, match=next(reversed(weights))):
            engine.load(DictSource(fewer, specs=specs))
        with pytest.raises(EngineError, match="no complete weights loaded"):
            engine.generate(PROMPTS, SHORT)
