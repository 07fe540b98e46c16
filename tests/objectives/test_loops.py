"""What counts as a loop, and that nothing people write does."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from objectives.engines import ScriptedConfig, TransformersConfig, make_engine
from objectives.engines.base import GenerationSettings, Prompt
from objectives.engines.loops import CHECK_EVERY, LONGEST_PERIOD, is_loop
from tests.objectives.engine_suite import PROMPTS, DictSource, user
from tests.objectives.tiny_model import save_model

LONG = GenerationSettings(max_tokens=1000)


def plainly(tokens):
    """The rule as it reads, over every period."""

    def repeats(period, span):
        end = tokens[-span:]
        return len(end) == span and all(end[i] == end[i - period] for i in range(period, span))

    smallest = (p for p in range(1, LONGEST_PERIOD + 1) if repeats(p, max(256, 4 * p)))
    period = next(smallest, None)
    return period is not None and (period > 4 or repeats(period, 512))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(st.integers(0, 3), min_size=1, max_size=90),
    st.integers(200, 600),
    st.lists(st.integers(0, 3), max_size=1),
)
@example([], [0], 512, [])
@example([], [0], 511, [])
@example([5], [0, 0, 0, 1, 1], 256, [])
@example([], list(range(512)), 2048, [])
@example([], list(range(512)), 2047, [])
@example([], list(range(513)), 4 * 513, [])
def test_the_fast_way_is_the_plain_rule(before, period, length, after):
    tokens = [*before, *(period[i % len(period)] for i in range(length)), *after]
    assert is_loop(tokens) == plainly(tokens)


@pytest.mark.parametrize(
    ("period", "length"),
    [(1, 512), (4, 512), (5, 256), (64, 256), (65, 260), (300, 1200), (512, 2048)],
)
def test_it_begins_exactly_where_the_rule_says(period, length):
    tokens = [*range(-9, 0), *(list(range(period)) * 600)[:length]]
    assert is_loop(tokens)
    assert not is_loop(tokens[:-1])
    assert not is_loop([*tokens, -1])


BYTES = {
    "a line of dots": "." * 500,
    "a rule": "-" * 500,
    "thai repetition": "ๆ" * 80,
    "padding of a drawing": "\n".join(" " * 120 + "*" + " " * 60 + "|" for _ in range(1)),
    "a zero matrix": r"\begin{pmatrix}" + r"0 & 0 & 0 & 0 \\ " * 14 + r"\end{pmatrix}",
    "alignment": "".join(rf"x_{{{i}}} &= {i}^2 + {3 * i} \\ " for i in range(90)),
    "numbers": " ".join(str(i) for i in range(600)),
    "a table": "\n".join(f"| {i} | {i * i % 7} | - |" for i in range(100)),
    "a refrain": "na na na na, hey hey hey, goodbye\n" * 7,
    "a count that goes on": "".join(f"{i}. The same again. " for i in range(100)),
    "powers": "3" * 300 + "4" * 300,
}


@pytest.mark.parametrize("name", BYTES)
def test_what_people_write_is_no_loop_at_any_length(name):
    # One token a byte: a tokenizer joins several, and so sees less repetition.
    tokens = list(BYTES[name].encode())
    assert not any(is_loop(tokens[:at]) for at in range(0, len(tokens) + 1, 3))


@pytest.fixture(scope="module")
def stuck(tmp_path_factory):
    """A model with room for long answers, whose every next token is the one before it."""
    path = save_model(tmp_path_factory.mktemp("stuck"), positions=2048, layers=1)
    with make_engine(TransformersConfig(device="cpu"), path) as engine:
        live = engine._live._tensors
        silent = {
            name: torch.zeros_like(tensor)
            if name.endswith(("o_proj.weight", "down_proj.weight"))
            else tensor.clone()
            for name, tensor in live.items()
        }
        engine.load(DictSource(silent))
        yield engine


def test_a_live_loop_is_ended_alone_and_keeps_its_text(stuck):
    prompts = [user("a", "w1 w2 w3"), user("b", "4 has 5")]
    answers = stuck.generate(prompts, LONG)
    for answer in answers:
        assert (answer.tokens, answer.finish_reason) == (512, "loop")
        assert len(answer.text.split()) == 512
    assert [stuck.generate([prompt], LONG)[0] for prompt in prompts] == answers
    on = LONG.model_copy(update={"stop_loops": False, "max_tokens": 530})
    (whole,) = stuck.generate(prompts[:1], on)
    assert (whole.tokens, whole.finish_reason) == (530, "length")
    assert whole.text.startswith(answers[0].text)


@pytest.mark.parametrize(("limit", "reason"), [(511, "length"), (512, "loop"), (513, "loop")])
def test_stop_comes_before_loop_and_loop_before_length(stuck, limit, reason):
    settings = GenerationSettings(max_tokens=limit)
    (answer,) = stuck.generate(PROMPTS[:1], settings)
    assert answer.finish_reason == reason
    if limit == 513:  # the stop string is whole with the very token that makes the loop
        stop = " ".join(answer.text.split()[:512])
        stops = settings.model_copy(update={"stop": (stop,)})
        (answer,) = stuck.generate(PROMPTS[:1], stops)
        assert (answer.text, answer.tokens, answer.finish_reason) == ("", 512, "stop")


@pytest.mark.parametrize(
    ("text", "limit", "tokens", "reason"),
    [
        ("so it is . " * 300, 1000, 512, "loop"),
        ("one two three four five six " * 100, 1000, 256, "loop"),
        ("x " + "one two three four five six " * 100, 1000, 256 + CHECK_EVERY, "loop"),
        ("one two three four five six " * 100, 255, 255, "length"),
        ("x " + "one two three four five six " * 100, 257, 257, "loop"),
        (" ".join(map(str, range(900))), 1000, 900, "stop"),
    ],
)
def test_scripted_answers_loop_by_words(text, limit, tokens, reason):
    with make_engine(ScriptedConfig(default=text), "") as engine:
        settings = GenerationSettings(max_tokens=limit)
        (answer,) = engine.generate([Prompt("a", ())], settings)
    assert (answer.tokens, answer.finish_reason) == (tokens, reason)
