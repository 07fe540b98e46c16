"""What people read of single items: tables of answers, and of what changed against a baseline."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives import ItemScore, SampleScore
from search.config import load
from search.item_pages import (
    LONGEST,
    NOT_FOUND,
    PAGE,
    SHORTEST,
    Asked,
    changes,
    cut,
    deciding,
    diff_table,
    items_table,
    nearest_baseline,
    prompts_of,
    text_limit,
)
from search.results import Result
from search.run import Run, item_digests
from tests.search.small import make_workplace

PROMPTS = {("sums", f"i{n}"): Asked(f"What is 0 + {n}?", str(n)) for n in range(12)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workplace(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def search(folder: Path):
    return load(folder / "search.yaml")


def row(name, right, spoken=1.0, text="The answer is 7.", read="7", tongue="en"):
    details = {"math.answer": read, "language.answer": tongue}
    scores = {"math": right, "language": spoken, "language.switch": 0.0, "joint": right * spoken}
    return ItemScore(name, scores, text, 5, "stop", (), details)


def result(*rows, task="sums") -> Result:
    return Result({}, "f" * 8, "dev", {task: rows})


def rows_of(table):
    return [dict(zip(table["columns"], data, strict=True)) for data in table["data"]]


def test_a_row_shows_prompt_and_what_was_expected_beside_what_was_read():
    table = items_table(result(row("i7", 1.0), row("i8", 0.0)), PROMPTS)
    assert json.loads(json.dumps(table)) == table
    assert table["columns"][:2] == ["item", "text"]
    assert not any("." in name for name in table["columns"])
    assert len(set(table["columns"])) == len(table["columns"])
    first, second = rows_of(table)
    assert first["prompt"] == "What is 0 + 7?"
    assert (second["expected"], second["read math/answer"]) == ("8", "7")
    assert (second["math"], second["language"], second["read language/answer"]) == (0.0, 1.0, "en")
    assert (second["tokens"], second["finish_reason"]) == (5, "stop")
    assert (second["task"], second["id"]) == ("sums", "i8")


def test_results_of_older_versions_have_no_readings_and_still_have_a_page():
    old = result(replace(row("gone", 1.0), details={}))
    (only,) = rows_of(items_table(old, {}))
    assert (only["item"], only["prompt"], only["expected"]) == ("sums/gone", NOT_FOUND, NOT_FOUND)
    assert not any(name.startswith("read ") for name in only)
    assert rows_of(items_table(result(), {})) == []


def samples_row(name, rights):
    samples = tuple(
        SampleScore({"math": r, "language": 1.0}, f"say {k}", 3, "stop", {"math.answer": f"{k}"})
        for k, r in enumerate(rights)
    )
    means = {"math": sum(rights) / len(rights), "language": 1.0}
    return ItemScore(name, means, "say 0", 3 * len(rights), "stop", samples, samples[0].details)


def test_each_of_several_answers_has_its_row():
    found = rows_of(items_table(result(samples_row("i1", [1.0, 0.0, 0.0])), PROMPTS))
    assert [one["item"] for one in found] == ["sums/i1 #0", "sums/i1 #1", "sums/i1 #2"]
    assert [one["read math/answer"] for one in found] == ["0", "1", "2"]
    assert [one["text"] for one in found] == ["say 0", "say 1", "say 2"]


def test_the_page_of_a_thousand_long_answers_is_bounded_and_says_what_it_cut():
    text = "ก" * 20_000 + " the answer is 7"
    prompts = {("sums", f"i{n}"): Asked("ถาม " * 1000, "7") for n in range(1000)}
    table = items_table(result(*(row(f"i{n}", 1.0, text=text) for n in range(1000))), prompts)
    written = json.dumps(table, ensure_ascii=False)
    assert len(written) < PAGE + 1000 * 400
    first = rows_of(table)[0]["text"]
    assert first.endswith("the answer is 7")
    assert "characters, whole in the result file" in first
    few = items_table(result(row("i1", 1.0, text=text)), {})
    assert len(rows_of(few)[0]["text"]) < LONGEST + 100


@given(st.text(max_size=900), st.integers(3, 400))
def test_a_cut_text_keeps_its_ends_and_tells_how_much_is_gone(text, limit):
    told = cut(text, limit)
    if len(text) <= limit:
        assert told == text
        return
    gone = len(text) - limit
    assert f"{gone:,} characters" in told
    assert told.startswith(text[: limit // 3])
    assert told.endswith(text[-(limit - limit // 3) :])


def test_the_limit_of_a_text_falls_with_their_number():
    assert text_limit(0) == text_limit(10) == LONGEST
    assert text_limit(1000) == PAGE // 1000
    assert text_limit(10**9) == SHORTEST


def test_changes_stand_first_and_say_what_is_better(search):
    base = result(row("i0", 1.0), row("i1", 0.0), row("i2", 1.0, 0.5), row("i3", 1.0), row("i4", 0))
    ours = result(
        row("i0", 1.0),
        row("i1", 1.0, read="1"),
        row("i2", 1.0, 0.75),
        row("i3", 0.0, 1.0, tongue="th"),
    )
    table = diff_table(ours, base, "expert:v1.5", search)
    assert not any("." in name for name in table["columns"])
    assert table["columns"][:2] == ["item", "change"]
    assert json.loads(json.dumps(table)) == table
    found = rows_of(table)
    assert [(one["item"], one["change"]) for one in found] == [
        ("sums/i1", "better: math"),
        ("sums/i3", "worse: math"),
        ("sums/i2", "better: language"),
        ("sums/i0", "same"),
    ]  # i4 was not asked of both
    first, second = found[:2]
    assert (first["math"], first["baseline math"]) == (1.0, 0.0)
    assert (first["joint"], first["baseline joint"]) == (1.0, 0.0)
    assert (first["read math/answer"], first["baseline read math/answer"]) == ("1", "7")
    assert second["read language/answer"] == "th"
    assert {one["baseline"] for one in found} == {"expert:v1.5"}
    # What decides nothing is left to the other table.
    assert "language/switch" not in table["columns"]


def test_of_several_answers_the_first_that_differs_is_shown(search):
    base, ours = samples_row("i1", [1.0, 0.0, 0.0]), samples_row("i1", [1.0, 1.0, 0.0])
    (only,) = rows_of(diff_table(result(ours), result(base), "base", search))
    assert (only["change"], only["answer"], only["text"]) == ("better: math", "2 of 3", "say 1")
    # As many right, others: the mean is the same, and it is told whose answers are shown.
    other = samples_row("i1", [0.0, 1.0, 0.0])
    (only,) = rows_of(diff_table(result(other), result(base), "base", search))
    assert (only["change"], only["answer"]) == ("same", "1 of 3")


def test_a_score_to_be_minimized_is_better_when_smaller(search):
    (part, measure), *_ = deciding(search).items()
    down = {part: replace(measure, direction="minimize", range=(1.0, math.inf))}
    (only,) = changes(result(row("i0", 2.0)), result(row("i0", 8.0)), down)
    assert (only.better, only.worse, only.size) == (("math",), (), 0.75)


def test_what_stands_against_itself_is_the_same(search):
    one = result(row("i0", 1.0), row("i1", 0.0))
    assert [c.verdict for c in changes(one, one, deciding(search))] == ["same", "same"]
    assert changes(one, result(row("i0", 1.0), task="other"), deciding(search)) == []


def test_the_nearest_baseline_is_by_objectives_scaled_by_their_range():
    near = {"base": (0.1, 500.0), "uniform": (0.9, 100.0)}
    assert nearest_baseline((0.8, 300.0), near) == "uniform"
    assert nearest_baseline((0.2, 280.0), near) == "base"
    # One in which all agree decides nothing.
    assert nearest_baseline((0.4, 1.0), {"b": (0.9, 1.0), "a": (0.1, 1.0)}) == "a"


def test_ties_go_by_label_and_what_is_not_finite_is_nobodys_nearest():
    same = {"uniform": (0.5, 0.5), "base": (0.5, 0.5)}
    assert nearest_baseline((0.1, 0.2), same) == "base"
    assert nearest_baseline((0.1, 0.2), dict(reversed(same.items()))) == "base"
    assert nearest_baseline((0.1, 0.2), {"a": (math.nan, 0.0), "b": (9.0, 9.0)}) == "b"
    assert nearest_baseline((math.inf, 0.2), same) is None
    assert nearest_baseline((0.1, 0.2), {}) is None


SCORE = st.floats(0, 1)


@given(
    st.tuples(SCORE, SCORE),
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(SCORE, SCORE), min_size=1),
)
def test_the_order_of_baselines_decides_nothing(values, baselines):
    found = nearest_baseline(values, baselines)
    assert found == nearest_baseline(values, dict(reversed(baselines.items())))
    label = next(iter(baselines))
    assert baselines[nearest_baseline(baselines[label], baselines)] == pytest.approx(
        baselines[label], abs=1e-8
    )


class TestPrompts:
    def test_they_are_those_of_the_items(self, folder, search):
        run = Run(folder, search, {"items": item_digests(search)})
        assert prompts_of(run) == PROMPTS

    def test_messages_before_are_counted(self):
        turns = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "1 + 1?\nSay it."},
        ]
        from tests.objectives.samples import item

        asked = Asked.of(replace(item("2"), messages=tuple(turns)))
        assert asked == Asked("[after 3 messages] 1 + 1?\nSay it.", "2")
        assert Asked.of(replace(item("2"), messages=tuple(turns[:2]))).prompt.startswith(
            "[after 1 message] "
        )
        assert Asked.of(replace(item("a text"), messages=())) == Asked("a text", "")

    def test_items_that_are_gone_or_others_have_none_and_the_log_says_so(
        self, folder, search, caplog
    ):
        run = Run(folder, search, {"items": {"sums": "another digest"}})
        assert prompts_of(run) == {}
        assert "no prompts of task sums are shown: its items are not the run's" in caplog.text
        gone = load(folder / "search.yaml", ["tasks.sums.items=gone.jsonl"])
        assert prompts_of(replace(run, search=gone)) == {}
        assert "no such item file" in caplog.text or "cannot be read" in caplog.text

    def test_who_asks_is_told_instead_of_the_log(self, folder, search, caplog):
        lost = {}
        run = Run(folder, search, {"items": {"sums": "another digest"}})
        assert prompts_of(run, lost.__setitem__) == {}
        assert (lost, caplog.text) == ({"sums": "its items are not the run's"}, "")
