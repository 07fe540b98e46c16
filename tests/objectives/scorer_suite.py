"""What every scorer must do; `test_scorers.py` runs it over the whole table."""

import json
import math
import pickle
import random

import pytest

from objectives.scorers.base import Scorer
from tests.objectives.samples import sample

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


class ScorerSuite:
    """Subclasses give `scorer`."""

    @pytest.fixture
    def scorer(self) -> Scorer:
        raise NotImplementedError

    @pytest.mark.timeout(20)
    @pytest.mark.parametrize("name", TEXTS)
    def test_any_text_gets_a_score_in_range(self, scorer, name):
        own = scorer.measures()
        for thinking_open in (False, True):
            case = sample(TEXTS[name], thinking_open=thinking_open)
            scores = {scorer.name: scorer.score(case)}
            scores |= {f"{scorer.name}.{key}": x for key, x in scorer.extras(case).items()}
            assert {key for key, measure in own.items() if measure.always} <= scores.keys()
            for key, value in scores.items():
                assert type(value) is float
                assert math.isfinite(value)
                low, high = own[key].range
                assert low <= value <= high
                assert not own[key].binary or value in (0.0, 1.0)
            assert json.loads(json.dumps(scores)) == scores
            assert scorer.score(case) == scores[scorer.name]

    def test_nothing_written_is_worth_the_least(self, scorer):
        worst = scorer.range[0] if scorer.direction == "maximize" else scorer.range[1]
        assert scorer.score(sample("")) == worst

    def test_declares_itself(self, scorer):
        low, high = scorer.range
        assert low < high
        assert scorer.direction in ("maximize", "minimize")
        assert scorer.name.isidentifier()

    def test_travels_to_workers(self, scorer):
        again = pickle.loads(pickle.dumps(scorer))
        assert again.params == scorer.params
        assert again.score(sample("7")) == scorer.score(sample("7"))
