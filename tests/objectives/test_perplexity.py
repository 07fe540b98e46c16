import math

import pytest

from objectives import score_task
from objectives.engines import TransformersConfig, make_engine
from objectives.engines.base import ChatSettings, Generation, Likelihood
from objectives.errors import ScorerError
from objectives.item import Item
from objectives.scorers import make_scorer
from objectives.scorers.base import Sample
from objectives.scorers.perplexity import CEILING
from objectives.task import Task, TaskConfig

PLAIN = ChatSettings(template=False)


def scored(logprob, tokens, text="ab"):
    case = Sample(
        Item("i", (), text, {}, ""),
        Generation("", 0, "stop"),
        (Likelihood(logprob, tokens, False),),
    )
    scorer = make_scorer("perplexity")
    return scorer.score(case), scorer.extras(case)


def test_perplexity_is_per_token_and_bits_are_per_byte():
    value, extras = scored(-8 * math.log(2), 4, "กa")
    assert value == pytest.approx(4.0)
    assert extras == {"tokens": 4.0, "bytes": 4.0, "bits_per_byte": pytest.approx(2.0)}


@pytest.mark.parametrize("logprob", [-math.inf, math.nan, -1e300])
def test_a_model_without_numbers_gets_the_ceiling(logprob):
    value, extras = scored(logprob, 3, "abcdef")
    assert value == pytest.approx(CEILING)
    assert extras["bits_per_byte"] == pytest.approx(3 * math.log2(CEILING) / 6)


def test_rounding_makes_nothing_likelier_than_certain():
    assert scored(1e-6, 3)[0] == 1.0
    assert scored(0.0, 0)[0] == 1.0


def test_measures_say_how_to_take_the_mean():
    found = make_scorer({"perplexity": {"name": "fluency"}}).measures()
    assert list(found) == [
        "fluency",
        "fluency.tokens",
        "fluency.bytes",
        "fluency.bits_per_byte",
    ]
    own = found["fluency"]
    assert (own.aggregation, own.weights) == ("geometric", "fluency.tokens")
    assert (own.direction, own.range) == ("minimize", (1.0, math.inf))
    assert found["fluency.bits_per_byte"].weights == "fluency.bytes"


def test_what_is_asked():
    scorer = make_scorer("perplexity")
    chat = ({"role": "user", "content": "q"},)
    texts = [
        scorer.continuations(Item("i", messages, "a b", {}, ""), settings)[0].text
        for messages, settings in (((), PLAIN), (chat, PLAIN), (chat, ChatSettings()))
    ]
    assert texts == ["a b", " a b", "a b"]
    with pytest.raises(ScorerError, match='needs "answer"'):
        scorer.check_item(Item("i", chat, "", {}, ""))


def test_all_texts_together_are_one_text(tmp_path, tiny):
    """The weighted geometric mean over items is the perplexity of all their tokens."""
    texts = ["w1 w2 w3", "มี 5 ลูก ครับ", "w9", "the answer คือ 7 . " * 40]
    lines = [f'{{"id": "{i}", "text": "{text}"}}' for i, text in enumerate(texts)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = TaskConfig(items="texts.jsonl", scorers=["perplexity"], role="report")
    task = Task.load("t", config, tmp_path)
    assert task.items("test")[0].messages == ()
    with make_engine(TransformersConfig(device="cpu"), tiny) as engine:
        scores = [one.scores for one in score_task(engine, task, task.items("test"))]
        asked = [
            make_scorer("perplexity").continuations(item, task.config.chat)[0]
            for item in task.items("test")
        ]
        found = engine.loglikelihood(asked)
    total = sum(one["perplexity.tokens"] for one in scores)
    nats = sum(one["perplexity.tokens"] * math.log(one["perplexity"]) for one in scores) / total
    assert nats == pytest.approx(-sum(x.logprob for x in found) / sum(x.tokens for x in found))
    size = sum(one["perplexity.bytes"] for one in scores)
    bits = sum(one["perplexity.bytes"] * one["perplexity.bits_per_byte"] for one in scores) / size
    assert size == sum(len(text.strip().encode()) for text in texts) + 1
    assert bits == pytest.approx(nats * total / size / math.log(2))
