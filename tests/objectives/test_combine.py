import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives import score_task
from objectives.engines import ScriptedConfig
from objectives.engines.scripted import ScriptedEngine
from objectives.errors import ScorerError
from objectives.scorers import make_scorer
from objectives.task import Task, TaskConfig, measures_of
from tests.objectives.samples import sample

SHARES = st.floats(0.0, 1.0)


def combined(kind, scores, text="x", **params):
    scorer = make_scorer({kind: {"of": list(scores)} | params})
    return scorer.combine(sample(text), {"other": 0.123, **scores})


def test_what_combinations_say():
    scores = {"a": 0.5, "b": 1.0}
    assert combined("mean", scores) == 0.75
    assert combined("mean", scores, weights=[3, 1]) == 0.625
    assert combined("mean", scores, weights=[1e308, 1e308]) == 0.75
    assert combined("mean", scores, weights=[1e-320, 1e308]) == 1.0
    assert combined("mean", scores, weights=[5e-324, 5e-324]) == 0.75
    assert combined("min", scores) == 0.5
    assert combined("all", scores) == 0.0
    assert combined("all", scores, at={"a": 0.5}) == 1.0
    assert combined("all", scores, at={"a": 0.51}) == 0.0
    assert combined("all", {"a": 1.0, "b": 1.0}) == 1.0


@pytest.mark.parametrize(
    ("words", "kept"), [(0, 1.0), (10, 1.0), (11, 0.9), (15, 0.5), (20, 0.0), (1000, 0.0)]
)
def test_long_answers_cost(words, kept):
    scores = {"a": 0.5, "b": 1.0}
    found = combined("length_penalty", scores, "w " * words, free=10, limit=20)
    assert found == pytest.approx(0.75 * kept)


@given(st.lists(SHARES, min_size=1, max_size=6), st.integers(0, 40), st.data())
def test_combinations_stay_between_the_least_and_the_most(values, words, data):
    scores = {f"s{i}": value for i, value in enumerate(values)}
    weights = data.draw(st.lists(st.floats(1e-6, 1e6), min_size=len(values), max_size=len(values)))
    low, high = min(values), max(values)
    for found in (combined("mean", scores), combined("mean", scores, weights=weights)):
        assert low - 1e-9 <= found <= min(1.0, high + 1e-9)
    assert combined("min", scores) == low
    assert combined("all", scores) in (0.0, 1.0)
    assert combined("all", scores) <= combined("min", scores)
    text = "w " * words
    penalised = combined("length_penalty", scores, text, free=5, limit=30)
    longer = combined("length_penalty", scores, text + "w", free=5, limit=30)
    assert 0.0 <= longer <= penalised <= combined("mean", scores) + 1e-12


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ({"mean": {"of": []}}, "of is empty: give at least one"),
        ({"mean": {"of": ["a"], "weights": [1, 2]}}, "2 weights for 1 scores"),
        ({"mean": {"of": ["a"], "weights": [0]}}, "weights are positive"),
        ({"mean": {"of": ["a"], "weights": [float("inf")]}}, "weights are positive"),
        (
            {"all": {"of": ["a"], "at": {"b": 0.5}}},
            "scorer all: 'b' has a bound in `at` but is not among",
        ),
        ({"all": {"of": ["a"], "at": {"a": 0}}}, r"bounds in `at` lie in \(0, 1\]"),
        ({"all": {"of": ["a"], "at": {"a": 1.5}}}, r"bounds in `at` lie in \(0, 1\]"),
        ({"length_penalty": {"of": ["a"], "free": 9, "limit": 9}}, "limit 9 must be over free 9"),
        ({"length_penalty": {"of": ["a"], "free": 9}}, "'limit' is missing"),
        ("min", "'of' is missing"),
    ],
)
def test_wrong_parameters_are_one_clear_line(ref, message):
    with pytest.raises(ScorerError, match=message) as caught:
        make_scorer(ref)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ([{"mean": {"of": ["exact"]}}], "no score 'exact' of a scorer before it; list it first"),
        (["exact", {"mean": {"of": ["exakt"]}}], "did you mean 'exact'"),
        ([{"mean": {"of": ["exact"]}}, "exact"], "list it first"),
        (["perplexity", {"mean": {"of": ["perplexity"]}}], "cannot be combined"),
        (
            [{"language": {"expect": "th"}}, {"min": {"of": ["language.thinking"]}}],
            "known for every item",
        ),
    ],
)
def test_what_cannot_be_combined(refs, message):
    with pytest.raises(ScorerError, match=message):
        measures_of([make_scorer(ref) for ref in refs], samples=1)


def test_answers_are_combined_one_by_one(tmp_path):
    """Right in half, thought in half, both in none: means would not tell."""
    lines = [f'{{"id": "{i}", "prompt": "{i}", "answer": "7"}}' for i in "ab"]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    (tmp_path / "said.json").write_text('{"a": "7", "b": "<think> x </think> 8"}')
    refs = [
        "exact",
        "think",
        {"all": {"of": ["exact", "think"]}},
        {"mean": {"of": ["exact", "all"], "name": "mixed"}},  # a combination of a combination
    ]
    config = TaskConfig(items="items.jsonl", scorers=refs, role="report")
    task = Task.load("t", config, tmp_path)
    engine = ScriptedEngine(ScriptedConfig(responses=tmp_path / "said.json"))
    found = [one.scores for one in score_task(engine, task, task.items("test"))]
    assert found == [
        {"exact": 1.0, "think": 0.0, "all": 0.0, "mixed": 0.5},
        {"exact": 0.0, "think": 1.0, "all": 0.0, "mixed": 0.0},
    ]
    assert task.measures["all"].binary
    assert not task.measures["mixed"].binary
