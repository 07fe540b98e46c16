"""What every scorer must do; `test_scorers.py` runs it over the whole table."""

import json
import math
import pickle
import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from objectives.engines.base import ChatSettings
from objectives.errors import ScorerError
from objectives.item import DETAIL
from objectives.scorers.base import Combination, EngineScorer, Measure, Sample, Scorer
from tests.objectives.samples import CHOICES, FIELDS, item, likelihoods, sample

_RANDOM = random.Random(0)
TEXTS = {
    "empty": "",
    "blank": " \n\t ",
    "digits": "7",
    "open think": "<think> มี 5",
    "empty think": "<think></think>",
    "think only": "<think> มี 5 </think>",
    "nested think": "<think><think>a</think></think> 7",
    "think backwards": "</think> 7 <think>",
    "garbage": "".join(_RANDOM.choice("\\{}$#<>/`[]()^_ก7aé漢 \n") for _ in range(10_000)),
    "dollars": "$" * 10_000,
    "boxes": "\\boxed{" * 1_500,
    "hashes": "####" * 2_500,
    "numbers": "1 " * 5_000,
    "one long number": "9" * 10_000,
    "spaces": "the answer is" + " " * 10_000 + "x",
    "fractions": "\\frac{1}{" * 1_200,
    "words": "คำตอบ คือ " * 1_000,
    "control": "".join(map(chr, range(32))) + "\x7f\x80\x9f\ufffe\uffff คำตอบ",
    "unassigned": "\u0378\U000e0fff\ue000 คำตอบ \U0010ffff",
    "joiners": "\u200b\u200c\u200d\ufeff\u202e คำตอบ",
    "combining": "e" + "\u0301" * 5_000,
    "emoji": "👩‍👩‍👧 ✅ 7️⃣",
}
NOTHING = likelihoods(*[-math.inf] * 6)
LIKELIHOODS = {
    "impossible": NOTHING,
    "certain": likelihoods(*[0.0] * 6),
    "equal": likelihoods(*[-3.5] * 6),
    "tiny": likelihoods(*[-5e-324] * 6),
    "huge": likelihoods(*[-1e308] * 6, tokens=1_000_000),
    "no numbers": likelihoods(*[math.nan] * 6),
    "right is no number": likelihoods(math.nan, -1, -1, math.nan, -1, -1),
    "others are no numbers": likelihoods(-1, math.nan, math.nan, -1, math.nan, math.nan),
    "right is impossible": likelihoods(-math.inf, -1, -1, -1, -1, -1),
    "neutral is impossible": likelihoods(-1, -1, -1, -math.inf, -math.inf, -math.inf),
    "over one": likelihoods(1e-6, 800.0, math.inf, 1.0, 1.0, 1.0),
    "no tokens": likelihoods(*[-2.0] * 6, tokens=0),
}


def rated(scorer: Scorer, case: Sample, others: float = 1.0) -> dict[str, float]:
    """Everything the scorer gives; a combination's parts are all `others`."""
    if isinstance(scorer, Combination):
        return {scorer.name: scorer.combine(case, dict.fromkeys(scorer.params.of, others))}
    scores = {scorer.name: scorer.score(case)}
    return scores | {f"{scorer.name}.{key}": x for key, x in scorer.extras(case).items()}


def check_details(details: Mapping[str, str], name: str) -> None:
    """Short lines under the scorer's name, which JSON and UTF-8 take."""
    for key, text in details.items():
        assert key.startswith(f"{name}.")
        assert type(text) is str
        assert len(text) <= DETAIL
        assert len(text.splitlines()) <= 1
    told = json.dumps(details, ensure_ascii=False).encode()
    assert json.loads(told) == details


def check_scores(scores: Mapping[str, float], measures: Mapping[str, Measure]) -> None:
    for key, value in scores.items():
        assert type(value) is float
        assert math.isfinite(value)
        low, high = measures[key].range
        assert low <= value <= high
        assert not measures[key].binary or value in (0.0, 1.0)
    assert json.loads(json.dumps(scores)) == scores


class ScorerSuite:
    """Subclasses give `scorer`; one whose items need more than an answer gives `fields`."""

    fields: Mapping[str, object] = FIELDS

    @pytest.fixture
    def scorer(self) -> Scorer:
        raise NotImplementedError

    @pytest.mark.timeout(120)
    @pytest.mark.parametrize("name", TEXTS)
    def test_any_text_gets_a_score_in_range(self, scorer, name):
        for thinking_open in (False, True):
            case = sample(TEXTS[name], thinking_open=thinking_open)
            for others in (0.0, 0.5, 1.0) if isinstance(scorer, Combination) else (1.0,):
                self.check_rated(scorer, case, others)

    @pytest.mark.timeout(120)
    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_any_likelihoods_get_a_score_in_range(self, scorer, name):
        if isinstance(scorer, EngineScorer):
            return  # its own tests give it such engines
        self.check_rated(scorer, sample("7", likelihoods=LIKELIHOODS[name]), 1.0)

    def check_rated(self, scorer: Scorer, case: Sample, others: float) -> None:
        measures = scorer.measures()
        scores = rated(scorer, case, others)
        check_scores(scores, measures)
        assert rated(scorer, case, others) == scores
        told = scorer.rated(case)
        check_details(told.details, scorer.name)
        assert scorer.rated(case) == told
        if not isinstance(scorer, Combination):
            assert told.scores == scores
        # What an engine scorer gives besides, it knows of whole items only.
        if not isinstance(scorer, EngineScorer):
            assert {key for key, measure in measures.items() if measure.always} <= scores.keys()

    def test_nothing_said_is_worth_the_least(self, scorer):
        nothing = rated(scorer, sample("", likelihoods=NOTHING), 0.0)[scorer.name]
        measure = scorer.measures()[scorer.name]
        worst = measure.range[0] if measure.direction == "maximize" else measure.range[1]
        if math.isfinite(worst):
            assert nothing == worst
        for text in TEXTS.values():
            other = rated(scorer, sample(text, likelihoods=NOTHING), 0.0)[scorer.name]
            assert other >= nothing if measure.direction == "maximize" else other <= nothing

    def test_declares_itself(self, scorer):
        assert scorer.name in scorer.measures()
        for key, measure in scorer.measures().items():
            low, high = measure.range
            assert low < high
            assert measure.direction in ("maximize", "minimize")
            assert not measure.binary or measure.range == (0.0, 1.0)
            assert key == scorer.name or key.startswith(f"{scorer.name}.")
            assert "/" not in key
            assert measure.weights is None or measure.weights in scorer.measures()
        assert scorer.name.isidentifier()
        assert scorer.parallel >= 1

    def test_takes_another_name(self, scorer):
        given = scorer.params.model_dump(exclude_unset=True)
        other = type(scorer)(**{**given, "name": "Other-one_2"})
        renamed = [key.replace(scorer.name, other.name, 1) for key in scorer.measures()]
        assert list(other.measures()) == renamed
        for key, measure in other.measures().items():
            was = scorer.measures()[key.replace(other.name, scorer.name, 1)]
            renamed_weights = was.weights and was.weights.replace(scorer.name, other.name, 1)
            assert measure == replace(was, weights=renamed_weights)
        if not isinstance(scorer, EngineScorer):
            assert rated(other, sample("7")).keys() <= other.measures().keys()

    def test_knows_a_good_item_from_a_bad_one(self, scorer):
        scorer.check_item(item("7", **self.fields))
        if scorer.reads == "likelihoods":
            bare = item("", **{key: x for key, x in self.fields.items() if key != "choices"})
            with pytest.raises(ScorerError) as caught:
                scorer.check_item(bare)
            assert "\n" not in str(caught.value)

    def test_asks_the_same_of_an_item_each_time(self, scorer):
        case = item("7", **self.fields)
        for chat in (ChatSettings(), ChatSettings(template=False), ChatSettings(prefill="So")):
            asked = scorer.continuations(case, chat)
            assert asked == scorer.continuations(case, chat)
            assert bool(asked) == (scorer.reads == "likelihoods")
            assert len(asked) in (0, 1, len(CHOICES), 2 * len(CHOICES))
            assert all(one.id == case.id and one.text for one in asked)

    def test_travels_to_workers(self, scorer):
        again = pickle.loads(pickle.dumps(scorer))
        assert (again.params, again.name) == (scorer.params, scorer.name)
        assert rated(again, sample("7")) == rated(scorer, sample("7"))
