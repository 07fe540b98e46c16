"""One problem in several tasks: other templates, spellings, choices and languages."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.errors import TaskError
from objectives.splits import SPLITS, SplitConfig, check_disjoint
from objectives.task import Task, TaskConfig
from tests.objectives.test_task_items import SMALL, line, write

ONE = SplitConfig(dev=1, confirm=0, test=0)


def load(root, splits=SMALL, **config):
    config = {"items": "items.jsonl", "scorers": ["exact"]} | config
    return Task.load("sums", TaskConfig(**config), root, splits)


def ids(task):
    return {split: [item.id for item in task.items(split)] for split in SPLITS}


def uses(**tasks):
    return {
        name: {s: [item.digest for item in task.items(s)] for s in SPLITS}
        for name, task in tasks.items()
    }


def rows(count, **more):
    return [
        {"id": f"q{i}", "problem": f"{i} + 1", "answer": str(i + 1)} | more for i in range(count)
    ]


# --- Templates -----------------------------------------------------------------------------------

TEMPLATES = [
    {"prompt": "problem"},
    {"prompt": "{{ problem }} = ?"},
    {"prompt": "Think. {{ problem }}", "answer": "{{ answer }}.0"},
    {"prompt": "{{ problem }} = 1 ?", "choices": ["{{ 1 }}", "{{ 'no' }}"], "answer": "{{ 'no' }}"},
]


@pytest.mark.parametrize("fields", TEMPLATES)
def test_two_templates_over_one_file_divide_it_alike(tmp_path, fields):
    write(tmp_path, rows(30, tags={"kind": "sum"}))
    third = SplitConfig(dev=10, confirm=10, test=10)
    for sizes in (third, third.model_copy(update={"stratify": "kind", "seed": 3})):
        one, other = (
            load(tmp_path, sizes, fields=TEMPLATES[0]),
            load(tmp_path, sizes, fields=fields),
        )
        assert ids(one) == ids(other)
        check_disjoint(uses(one=one, other=other))
    moved = load(tmp_path, third, fields=fields)
    with pytest.raises(TaskError, match="tasks one and moved share an item"):
        check_disjoint(uses(one=one, moved=moved))


def test_a_template_over_items_leaves_their_order(tmp_path):
    write(tmp_path, [line(i) for i in range(12)])
    asked_again = load(tmp_path, fields={"prompt": "{{ prompt }} In Thai!"})
    assert ids(asked_again) == ids(load(tmp_path))


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 5)), min_size=1, max_size=12))
def test_no_hash_is_shared_within_a_task(tmp_path_factory, pairs):
    """Whatever the rows hold, every one of them is itself alone."""
    root = tmp_path_factory.mktemp("rows")
    texts = [{"id": f"q{i}", "a": a, "b": b} for i, (a, b) in enumerate(pairs)]
    write(root, texts)
    task = load(root, SplitConfig(dev=len(pairs), confirm=0, test=0), fields=FIELDS)
    keys = [key for item in task.items("dev") for key in item.digest.split()]
    assert len(keys) == len(set(keys)) == 2 * len(pairs)


FIELDS = {"prompt": "{{ id }}: {{ a }} {{ b }}", "answer": "{{ b }}"}


# --- Copies --------------------------------------------------------------------------------------

MATH = {"id": "a", "prompt": "What is 1 + 2?", "answer": "3"}
COPIES = {
    "exact": ({"id": "b"}, "same content as"),
    "answer spelled otherwise": ({"id": "b", "answer": "3.0"}, "asks the same as"),
    "space at the end": ({"id": "b", "prompt": "What is  1 + 2? \n"}, "asks the same as"),
    "with choices": ({"id": "b", "choices": ["2", "3"]}, "asks the same as"),
    "another answer": ({"id": "b", "answer": "4"}, "asks the same as"),
}


@pytest.mark.parametrize("case", COPIES)
def test_a_question_stands_once_in_a_file_and_serves_one_purpose(tmp_path, case):
    change, message = COPIES[case]
    write(tmp_path, [MATH, MATH | change])
    with pytest.raises(TaskError, match=rf"items\.jsonl:2: {message} .*items\.jsonl:1, .*remove"):
        load(tmp_path, ONE)
    write(tmp_path, [MATH | change], "other.jsonl")
    write(tmp_path, [MATH])
    dev, confirm = (
        load(tmp_path, ONE),
        load(tmp_path, SplitConfig(dev=0, confirm=0, test=1), items="other.jsonl", role="report"),
    )
    with pytest.raises(TaskError, match="share an item that is dev in one and test"):
        check_disjoint(uses(a=dev, b=confirm))
    with pytest.raises(TaskError, match="is among the few-shot examples too"):
        load(tmp_path, ONE, fewshot={"count": 1, "items": "other.jsonl"})


def test_choices_tell_questions_apart_but_not_their_order(tmp_path):
    asked = {"prompt": "Which is right?", "answer": "A"}
    first = asked | {"id": "a", "choices": ["he goes", "he go"]}
    write(tmp_path, [first, asked | {"id": "b", "choices": ["it rains", "it rain"]}])
    assert len(load(tmp_path, SplitConfig(dev=2, confirm=0, test=0)).items("dev")) == 2
    write(tmp_path, [first, asked | {"id": "b", "choices": ["he go", "he goes "]}])
    with pytest.raises(TaskError, match=":2: asks the same as"):
        load(tmp_path, ONE)


def test_where_nothing_is_right_the_answer_tells_texts_apart(tmp_path):
    write(tmp_path, [{"id": i, "prompt": "Go on:", "answer": f"text {i}"} for i in range(2)])
    two = SplitConfig(dev=2, confirm=0, test=0)
    assert len(load(tmp_path, two, scorers=["perplexity"]).items("dev")) == 2


# --- Translations --------------------------------------------------------------------------------

BY = SplitConfig(dev=0.4, confirm=0.3, test=0.3, by="id")


def test_translations_of_a_problem_serve_one_purpose(tmp_path):
    write(tmp_path, [line(i) for i in range(20)])
    write(tmp_path, [line(i, prompt=f"ข้อ {i}") for i in reversed(range(20))], "th.jsonl")
    apart = BY.model_copy(update={"by": None})
    en, th = load(tmp_path, apart), load(tmp_path, apart, items="th.jsonl")
    assert {*ids(en)["dev"]} & {*ids(th)["confirm"]}  # what is to be prevented
    for sizes in (BY, BY.model_copy(update={"dev": 8, "confirm": 6, "test": 6, "seed": 1})):
        en, th = load(tmp_path, sizes), load(tmp_path, sizes, items="th.jsonl")
        assert ids(en) == ids(th)
        check_disjoint(uses(en=en, th=th))
        assert sum(map(len, ids(en).values())) == 20
    moved = load(tmp_path, BY.model_copy(update={"seed": 1}), items="th.jsonl")
    with pytest.raises(TaskError, match="share an item that is"):
        check_disjoint(uses(en=load(tmp_path, BY), moved=moved))


def test_rows_of_one_problem_in_one_file_stay_together(tmp_path):
    both = [line(f"{i}{c}", nr=i, tags={"lang": c}) for i in range(15) for c in ("en", "th")]
    write(tmp_path, both)
    for stratify in (None, "lang"):
        sizes = SplitConfig(dev=5, confirm=0.4, test=0.2, by="nr", stratify=stratify)
        found = ids(load(tmp_path, sizes))
        assert [len(found[split]) for split in SPLITS] == [5, 12, 6]
        named = {split: {name[:-2] for name in found[split]} for split in SPLITS}
        assert not named["dev"] & named["confirm"] | named["confirm"] & named["test"]
        assert [len(named[split]) for split in SPLITS] == [3, 6, 3]
    with pytest.raises(TaskError, match=r"asks for 1\.0 problems, .* has 12 left of 15"):
        load(tmp_path, SplitConfig(dev=5, confirm=1.0, test=0, by="nr"))


def test_a_problem_is_named_by_tag_field_or_column(tmp_path):
    write(tmp_path, [line(i, nr=i, tags={"source": f"s{i}"}) for i in range(12)])
    write(
        tmp_path, [{"key": i, "nr": str(i), "q": f"ข้อ {i}", "answer": "1"} for i in range(12)], "th"
    )
    sizes = SMALL.model_copy(update={"by": "nr"})
    th = load(tmp_path, sizes, items="th", fields={"id": "q{{ key }}", "prompt": "q"})
    assert ids(load(tmp_path, sizes)) == ids(th)
    load(tmp_path, SMALL.model_copy(update={"by": "source"}))
    with pytest.raises(TaskError, match=r":1: no column or tag 'sorce' to .*did you mean 'source'"):
        load(tmp_path, SMALL.model_copy(update={"by": "sorce"}))
    load(tmp_path, SMALL.model_copy(update={"by": "sorce"}), role="report")  # scored whole


def test_a_problem_with_two_named_splits_is_refused(tmp_path):
    splits = {"nr": 1, "split": "dev"}, {"nr": 2, "split": "confirm"}, {"nr": 1, "split": "test"}
    write(tmp_path, [line(i) | more for i, more in enumerate(splits)])
    with pytest.raises(TaskError, match=r":3: the same 'nr' as .*:1, but another split"):
        load(tmp_path, SplitConfig(dev=1, confirm=1, test=1, by="nr"))


# --- Named splits in strata ----------------------------------------------------------------------


def test_named_splits_are_cut_evenly(tmp_path):
    kinds = ["add"] * 12 + ["subtract"] * 6
    lines = [
        line(f"{split}{i}", split=split, tags={"ops": kind})
        for split in SPLITS
        for i, kind in enumerate(kinds)
    ]
    write(tmp_path, lines)
    sizes = SplitConfig(dev=6, confirm=9, test=0.5, stratify="ops")
    task = load(tmp_path, sizes)
    for split, expected in (("dev", 2), ("confirm", 3), ("test", 3)):
        found = [item.tags["ops"] for item in task.items(split)]
        assert found.count("subtract") == expected
        assert all(item.id.startswith(f"q{split}") for item in task.items(split))
    write(tmp_path, [*lines, line(99, split="test")])
    with pytest.raises(TaskError, match=r":55: no tag 'ops' to stratify by"):
        load(tmp_path, sizes)
    for key in ("stratify", "by"):
        with pytest.raises(ValueError, match="at least 1"):
            SplitConfig(**{key: ""})


# --- Few-shot ------------------------------------------------------------------------------------


def test_examples_leave_the_splits_of_a_file_alone(tmp_path):
    write(tmp_path, [line(i) for i in range(20)])
    for sizes in (
        SMALL,
        SplitConfig(dev=0.3, confirm=0.3, test=0.2),
        SMALL.model_copy(update={"by": "id"}),
    ):
        plain, shown = load(tmp_path, sizes), load(tmp_path, sizes, fewshot={"count": 3})
        assert ids(plain) == ids(shown)
        check_disjoint(uses(plain=plain, shown=shown))
        said = {m["content"] for m in shown.items("dev")[0].messages[:-1] if m["role"] == "user"}
        asked = {item.messages[-1]["content"] for s in SPLITS for item in shown.items(s)}
        assert len(said) == 3
        assert not said & asked
    full = SplitConfig(dev=0.5, confirm=0.3, test=0.2)
    with pytest.raises(TaskError, match="fewshot asks for 3 examples, the splits leave 0; lower"):
        load(tmp_path, full, fewshot={"count": 3})
    reported = load(tmp_path, role="report", fewshot={"count": 3})
    assert len(reported.items("test")) == 17


SAID = [{"role": "system", "content": "own"}, {"role": "user", "content": "u"}]


def test_an_examples_own_system_message_is_left_out(tmp_path):
    write(tmp_path, [line(i) for i in range(9)])
    write(tmp_path, [{"id": "s", "messages": SAID, "answer": "1"}], "shots.jsonl")
    task = load(tmp_path, system="the task's", fewshot={"count": 1, "items": "shots.jsonl"})
    roles = [message["role"] for message in task.items("dev")[0].messages]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a text"}, 'needs a "prompt" or "messages"'),
        ({"messages": SAID[:1], "answer": "1"}, 'needs a "prompt" or "messages"'),
        ({"messages": [*SAID, *SAID], "answer": "1"}, "system message in mid-chat"),
        (
            {"messages": [*SAID, {"role": "assistant", "content": "a"}], "answer": "1"},
            "ends with the assistant",
        ),
    ],
)
def test_what_cannot_be_an_example_is_one_line(tmp_path, row, message):
    write(tmp_path, [line(i) for i in range(9)])
    write(tmp_path, [{"id": "s"} | row], "shots.jsonl")
    with pytest.raises(
        TaskError, match=rf"shots\.jsonl:1: a few-shot example .*{message}"
    ) as caught:
        load(tmp_path, fewshot={"count": 1, "items": "shots.jsonl"})
    assert "\n" not in str(caught.value)


# --- What items may hold -------------------------------------------------------------------------


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{{"id": "a", "prompt": "x", "answer": {"1" * 5000}}}', "a number is too long"),
        (json.dumps(line(1, deep=nested(900))), "nested too deeply"),
        (json.dumps(line(1, prompt="a \ud800 b")), r"'\\ud800' is half a character"),
        (json.dumps(line(1, tags={"x": ["\udfff"]})), "'.udfff' is half a character"),
        (json.dumps(line(1, **{"\ud800": 1})), "'.ud800' is half a character"),
    ],
)
def test_what_no_item_may_hold_is_one_line(tmp_path, text, message):
    (tmp_path / "items.jsonl").write_text(text)
    for fields in ({}, {"prompt": "{{ prompt }}"}):
        with pytest.raises(TaskError, match=rf"items\.jsonl:1: {message}") as caught:
            load(tmp_path, ONE, fields=fields)
        assert "\n" not in str(caught.value)


DEEP = [
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{% if 1 %}" * 200 + "x" + "{% endif %}" * 200,
]


@pytest.mark.parametrize("template", DEEP)
def test_a_template_that_python_cannot_take_is_refused_with_the_file(template):
    with pytest.raises(ValueError, match="prompt: not a template: ") as caught:
        TaskConfig(items="x.jsonl", scorers=["exact"], fields={"prompt": template})
    assert len(caught.value.errors()[0]["msg"]) < 300


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "without end"),
        ("{{ prompt.x.y }}", "has no attribute 'x'"),
        (r"{{ '\ud800' }}", "half a character"),
        ("{{ 10 ** (answer | int * 5000) }}", "template .*4300"),
    ],
)
def test_a_template_that_fails_on_a_row_is_one_line(tmp_path, template, message):
    write(tmp_path, [line(1)])
    with pytest.raises(TaskError, match=message) as caught:
        load(tmp_path, ONE, fields={"prompt": template})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# --- What a task may say -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "where", "message"),
    [
        ({"scorers": ["exact", "mth"]}, ("scorers", 1), "unknown scorer 'mth'"),
        ({"scorers": ["exact", {"language": {"x": 1}}]}, ("scorers", 1), "unknown parameter 'x'"),
        ({"scorers": ["exact", "exact"]}, ("scorers",), "listed twice"),
        ({"scorers": [{"exact": {"name": "joint"}}]}, ("scorers",), "'joint' is the name"),
        ({"scorers": ["python:math:joint"]}, ("scorers",), "'joint' is the name"),
        (
            {"scorers": ["exact", {"mean": {"of": ["exact"], "name": "joint"}}]},
            ("scorers",),
            "joint",
        ),
        ({"role": "report", "splits": {"test": 0}}, (), "its splits.test is 0"),
        ({"items": {"lm_eval": "x", "include": "y"}}, (), "'exact' cannot score a task of lm-eval"),
        ({"items": {"lm_eval": "x", "dataset": "y"}}, ("items", "LmEvalItems"), "`dataset` or"),
        ({"system": "\ud800"}, ("system",), "half a character"),
    ],
)
def test_a_fault_of_a_task_stands_where_it_is(config, where, message):
    with pytest.raises(ValueError, match=message) as caught:
        TaskConfig(**{"items": "x.jsonl", "scorers": ["exact"]} | config)
    assert caught.value.errors()[0]["loc"][: len(where)] == where


def test_a_conjunction_may_be_the_joint_score():
    scorers = ["exact", "think", {"all": {"name": "joint", "of": ["exact", "think"]}}]
    TaskConfig(items="x.jsonl", scorers=scorers)
