"""What a chat's settings make of it."""

import pytest

from objectives.engines import TransformersConfig, make_engine
from objectives.engines.base import PLAIN_CHAT, ChatSettings, Continuation, Prompt
from objectives.errors import EngineError
from tests.objectives.engine_suite import SHORT
from tests.objectives.tiny_model import TEMPLATE, save_model

CPU = TransformersConfig(device="cpu")
CHAT = ({"role": "user", "content": "has 3"}, {"role": "assistant", "content": "4"})
SWITCHED = TEMPLATE.replace("<bot>{% endif", "<bot>{% if thinking %} <think>\n{% endif %}{% endif")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = save_model(tmp_path_factory.mktemp("switched"), template=SWITCHED, adds_bos=True)
    with make_engine(CPU, path) as engine:
        yield engine._encoder


def words(encoder, **chat):
    tokens, thinking = encoder.prompt(Prompt("p", CHAT, 0, ChatSettings(**chat)))
    return encoder._tokenizer.decode(tokens), thinking


def test_the_template_writes_the_special_tokens_itself(encoder):
    assert words(encoder) == ("<bos> <user> has 3 <bot> 4 <eos> <bot>", False)


def test_without_the_template_texts_are_lines_and_the_tokenizer_begins(encoder):
    assert words(encoder, template=False) == ("<bos> has 3 4", False)
    begun = Prompt(
        "p", ({"role": "user", "content": "<bos> has"},), 0, ChatSettings(template=False)
    )
    assert encoder.prompt(begun)[0] == encoder._tokenizer.encode("has")


def test_settings_reach_the_template(encoder):
    text, thinking = words(encoder, template_kwargs={"thinking": True})
    assert text.endswith("<bot> <think>")
    assert thinking


@pytest.mark.parametrize(
    ("template_opens", "prefill", "thinking"),
    [
        (False, " <think>\n", True),
        (False, " <think>\nw1 w2", True),
        (False, " <think> w1 </think> w2", False),
        (False, " w1", False),
        (True, " w1", True),
        (True, " w1 </think>", False),
        (True, "", True),
    ],
)
@pytest.mark.parametrize("template", [True, False])
def test_the_prefill_follows_and_says_whether_thinking_is_open(
    encoder, template, template_opens, prefill, thinking
):
    settings = {"template": template, "prefill": prefill}
    if template:
        settings["template_kwargs"] = {"thinking": template_opens}
    elif template_opens:
        return
    text, found = words(encoder, **settings)
    assert text.endswith(" ".join(prefill.split()))
    assert found is thinking


def test_the_prefill_is_prompt_and_not_answer(tiny):
    with make_engine(CPU, tiny) as engine:
        asked = CHAT[:1]
        said = engine.generate([Prompt("p", asked)], SHORT)[0].text
        first, rest = said.split(" ", 1)
        filled = Prompt("p", asked, 0, ChatSettings(prefill=" " + first))
        (answer,) = engine.generate([filled], SHORT)
        assert answer.text.startswith(rest)
        assert answer.tokens == SHORT.max_tokens


@pytest.mark.parametrize(
    "name", ["tokenize", "add_generation_prompt", "return_dict", "messages", "conversation"]
)
def test_settings_of_the_engine_are_refused(encoder, name):
    with pytest.raises(EngineError, match=f"template_kwargs: '{name}'"):
        words(encoder, template_kwargs={name: True})


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tools": [3]}, "Tools should either be"),
        ({"chat_template": "{{ 1/0 }}"}, "division by zero"),
        ({"chat_template": "{{ messages[7].content }}"}, "has no element 7"),
        ({"chat_template": "{{ messages | dictsort }}"}, "items"),
        ({"chat_template": "{% if %}"}, "Expected an expression"),
        ({"chat_template": "{{ messages + 3 }}"}, "can only concatenate list"),
    ],
)
def test_whatever_a_template_raises_is_one_line(encoder, settings, why):
    with pytest.raises(EngineError, match="prompt 'p': the chat template refuses it: ") as caught:
        words(encoder, template_kwargs=settings)
    said = str(caught.value)
    assert why in said
    assert "\n" not in said
    assert said.endswith("; change its messages or the task's `chat`")


def test_a_refused_system_message_has_a_way_out(encoder):
    chat = ({"role": "system", "content": "x"}, *CHAT)
    with pytest.raises(EngineError, match=r"no system role here; .*`system_role: user`"):
        encoder.prompt(Prompt("p", chat))


@pytest.mark.parametrize("template", [True, False])
def test_half_a_character_is_named(encoder, template):
    chat = ChatSettings(template=template)
    text = "has \ud83d 3"
    with pytest.raises(EngineError, match=r"prompt 'p': .*half a character, '\\ud83d'; mend it"):
        encoder.prompt(Prompt("p", ({"role": "user", "content": text},), 0, chat))
    with pytest.raises(EngineError, match=r"prompt 'x': .*half a character"):
        encoder.spans([Continuation("x", CHAT[:1], text, chat)])


def test_neighbours_with_one_chat_are_encoded_as_each_alone(encoder):
    other = ({"role": "user", "content": "w9 w8"},)
    plain = ChatSettings(template=False)
    asked = [
        Continuation(str(at), messages, text, chat)
        for at, (messages, text, chat) in enumerate(
            [
                (CHAT[:1], "4", PLAIN_CHAT),
                (CHAT[:1], "w1 w2", PLAIN_CHAT),
                (CHAT[:1], " w1 w2", plain),
                (other, " w1", plain),
                (other, "w1", PLAIN_CHAT),
                ((), "w3 w4", PLAIN_CHAT),
                ((), "w5", PLAIN_CHAT),
                (CHAT[:1], "w1", PLAIN_CHAT),
            ]
        )
    ]
    together = encoder.spans(asked)
    for one, span in zip(asked, together, strict=True):
        encoder._last = None
        (alone,) = encoder.spans([one])
        assert (alone.context, alone.tokens) == (span.context, span.tokens)


def test_a_chat_keeps_its_tokens_where_a_continuation_would_melt_into_it(encoder):
    (span,) = encoder.spans([Continuation("x", CHAT[:1], "4 w1")])
    assert encoder._tokenizer.decode(list(span.context)) == "<bos> <user> has 3 <bot>"
    assert encoder._tokenizer.decode(list(span.tokens)) == "4 w1"
    with pytest.raises(EngineError, match=r"'x'.*no tokens of its own"):
        encoder.spans([Continuation("x", CHAT[:1], "4", ChatSettings(template=False))])


def test_a_document_needs_a_token_to_begin_with(tiny):
    with make_engine(CPU, tiny) as engine:
        engine._encoder._prefix_id = None
        with pytest.raises(EngineError, match="neither bos nor eos"):
            engine.loglikelihood([Continuation("x", (), "w1")])
