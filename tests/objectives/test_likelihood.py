"""Likelihoods of the transformers engine, against the raw model and lm-evaluation-harness."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.engines import ScriptedConfig, TransformersConfig, make_engine
from objectives.engines.base import ChatSettings, Continuation, Likelihood
from objectives.engines.batching import LOGIT_CELLS
from objectives.engines.encoding import Span
from objectives.engines.likelihood import score_spans
from objectives.engines.scripted import ScriptedEngine
from objectives.errors import EngineError
from tests.objectives.engine_suite import ASKED, DictSource, same
from tests.objectives.tiny_model import save_model

CPU = TransformersConfig(device="cpu")
PLAIN = ChatSettings(template=False)
WORDS = st.lists(st.sampled_from(["มี", "ขาย", "has", "7", "w3", "w44", "."]), min_size=1)


def after(context, text, chat=PLAIN, name="x"):
    return Continuation(name, ({"role": "user", "content": context},), text, chat)


def document(text):
    return Continuation("doc", (), text)


@pytest.fixture(scope="module")
def engine(tiny):
    with make_engine(CPU, tiny) as engine:
        yield engine


@pytest.fixture(scope="module")
def harness(engine):
    """lm-evaluation-harness's own model over the engine's live one."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=engine._model, tokenizer=engine._tokenizer, batch_size=4)


def theirs(harness, kind, arguments):
    from lm_eval.api.instance import Instance

    asked = [Instance(kind, {}, pair, i) for i, pair in enumerate(arguments)]
    return getattr(harness, kind)(asked, disable_tqdm=True)


@torch.inference_mode()
def by_hand(engine, context, tokens):
    """Sum of log probabilities, one plain forward, no cache and no padding."""
    ids = torch.tensor([[*context, *tokens]])
    logs = engine._model(input_ids=ids).logits[0].double().log_softmax(-1)
    at = range(len(context) - 1, ids.shape[1] - 1)
    picked = [logs[i, token] for i, token in zip(at, tokens, strict=True)]
    greedy = all(logs[i].argmax() == token for i, token in zip(at, tokens, strict=True))
    return Likelihood(float(sum(picked)), len(tokens), greedy)


def test_sums_are_those_of_the_raw_model(engine):
    expected = []
    for span in engine._encoder.spans(ASKED):
        expected.append(by_hand(engine, span.context, span.tokens))
    same(engine.loglikelihood(ASKED), expected)


@pytest.mark.parametrize("limits", [{"batch_size": 1}, {"batch_size": 3}, {"max_batch_tokens": 40}])
def test_batches_change_rounding_only(engine, tiny, limits):
    many = [*ASKED, *ASKED[::-1], document("w1 w2 w3"), document("w4")]
    with make_engine(CPU.model_copy(update=limits), tiny) as other:
        same(other.loglikelihood(many), engine.loglikelihood(many))


def test_slices_of_columns_change_rounding_only(engine, monkeypatch):
    many = [*ASKED, document(" ".join(f"w{i}" for i in range(90)))]
    whole = engine.loglikelihood(many)
    monkeypatch.setitem(LOGIT_CELLS, "cpu", 1)
    same(engine.loglikelihood(many), whole)


@pytest.mark.parametrize("kind", ["MistralConfig", "Gemma2Config", "GPT2Config"])
@pytest.mark.parametrize("cells", [1, 5000])
def test_sliding_windows_and_learned_positions_are_scored_alike(kind, cells):
    import transformers

    sizes = {"vocab_size": 99, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}
    sizes |= {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 40}
    if kind != "GPT2Config":
        sizes |= {"num_key_value_heads": 2, "intermediate_size": 64, "sliding_window": 8}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**sizes))
    for parameter in model.eval().requires_grad_(False).parameters():
        parameter.normal_(0, 0.3)
    contexts = [tuple(range(3, 3 + length)) for length in (1, 6, 30)]
    spans = [
        Span(0, context, tuple(range(50, 50 + length)))
        for context in contexts
        for length in (1, 11)
    ]
    for span, one in zip(spans, score_spans(model, spans, 0, cells), strict=True):
        logs = (
            model(torch.tensor([(span.context + span.tokens)[:-1]]))
            .logits[0]
            .double()
            .log_softmax(-1)
        )
        at = torch.arange(len(span.context) - 1, len(logs))
        assert one.logprob == pytest.approx(float(logs[at, list(span.tokens)].sum()), 1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(WORDS, WORDS, WORDS)
def test_the_chain_rule_holds(engine, c, a, b):
    c, a, b = (" ".join(words) for words in (c, a, b))
    both, first, second = engine.loglikelihood(
        [after(c, f" {a} {b}"), after(c, f" {a}"), after(f"{c} {a}", f" {b}")]
    )
    assert both.logprob == pytest.approx(first.logprob + second.logprob, 1e-4)
    assert both.tokens == first.tokens + second.tokens
    assert both.greedy == (first.greedy and second.greedy)


def test_the_harness_has_the_same_numbers(engine, harness):
    pairs = [
        ("มี 5 . ซื้อ 2", " 7"),
        ("has 3 ", "4 ."),
        ("w1 w2\n", "w3 w4 w5"),
        ("<bos> has", " 3"),
        ("", "the answer"),
        ("", "<bos> the answer"),
        ("w9 " * 100, "w1 w2"),
    ]
    expected = theirs(harness, "loglikelihood", pairs)
    found = engine.loglikelihood([after(*pair) for pair in pairs])
    assert [one.logprob for one in found] == pytest.approx([one[0] for one in expected], 1e-5)
    assert [one.greedy for one in found] == [one[1] for one in expected]


@pytest.mark.parametrize("words", [1, 127, 128, 129, 256, 300])
def test_documents_are_those_of_the_harness_and_each_token_counts_once(engine, harness, words):
    text = " ".join(f"w{i % 97}" for i in range(words))
    (found,) = engine.loglikelihood([document(text)])
    assert found.tokens == words
    assert found.logprob == pytest.approx(theirs(harness, "loglikelihood_rolling", [(text,)])[0])


def test_a_tokenizer_that_begins_documents_itself_is_followed(tmp_path):
    from lm_eval.models.huggingface import HFLM

    path = save_model(tmp_path, adds_bos=True)
    pairs = [("has 3", " 4"), ("<bos> has 3", " 4"), ("", " 4 w1"), ("has ", "3")]
    with make_engine(CPU, path) as engine:
        harness = HFLM(pretrained=engine._model, tokenizer=engine._tokenizer)
        expected = theirs(harness, "loglikelihood", pairs)
        found = engine.loglikelihood([after(*pair) for pair in pairs])
        assert [one.logprob for one in found] == pytest.approx([one[0] for one in expected], 1e-5)
        # What a document begins with is given, never scored: the harness's rolling scores it.
        assert engine.loglikelihood([document("has 3")])[0].tokens == 2
        told, own = (harness.tok_encode("has 3"), harness.tok_encode("<bos> has 3"))
        assert told == own == [1, *engine._tokenizer.encode("has 3", add_special_tokens=False)]


def test_after_a_chat_template_the_continuation_stands_where_the_answer_would(engine):
    messages = ({"role": "user", "content": "has 3"},)
    (plain, filled) = engine.loglikelihood(
        [
            Continuation("x", messages, " 4"),
            Continuation("x", messages, " 4", ChatSettings(prefill=" <think> w1 </think>")),
        ]
    )
    ids = engine._tokenizer("<bos> <user> has 3 <bot> <think> w1 </think> 4")["input_ids"]
    expected = [by_hand(engine, ids[:5], ids[-1:]), by_hand(engine, ids[:-1], ids[-1:])]
    same([plain, filled], expected)


def test_too_long_for_the_model_is_named(engine):
    fits = after("w1 " * 120, " ".join(["w2"] * 9))  # 129 tokens: the last one is never read
    assert engine.loglikelihood([fits])[0].tokens == 9
    with pytest.raises(EngineError, match=r"'x' has 121 tokens.*of 9, the model takes 128"):
        engine.loglikelihood([after("w1 " * 121, " ".join(["w2"] * 9))])


def test_what_is_no_number_is_minus_infinity(tmp_path):
    from safetensors.torch import load_file

    path = save_model(tmp_path)
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"] = torch.full((96,), math.nan)
    with make_engine(CPU, path) as engine:
        engine.load(DictSource(weights))
        assert engine.loglikelihood(ASKED[:1])[0].logprob == -math.inf


def test_scripted_likelihoods_come_from_the_answer_or_a_function():
    with make_engine(ScriptedConfig(default="7 . end"), "") as engine:
        right, half, wrong = engine.loglikelihood(
            [after("q", text) for text in ("7 .", "7 w1", "w1 w2")]
        )
    assert right == Likelihood(2 * math.log(0.9), 2, True)
    assert half == Likelihood(math.log(0.9) + math.log(0.1), 2, False)
    assert wrong == Likelihood(2 * math.log(0.1), 2, False)

    def judge(request, weights):
        return Likelihood(-float(weights["x"].sum()), len(request.text), True)

    engine = ScriptedEngine(ScriptedConfig(read_weights=True), judge=judge)
    engine.load(DictSource({"x": torch.ones(3)}))
    assert engine.loglikelihood([after("q", "four")]) == [Likelihood(-3.0, 4, True)]
