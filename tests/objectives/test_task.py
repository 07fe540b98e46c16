import json
import os
import pickle
import subprocess
import sys

import pytest
from pydantic import ValidationError

from objectives import score_task, summarize
from objectives.engines import ScriptedConfig, make_engine
from objectives.engines.scripted import ScriptedEngine
from objectives.errors import TaskError
from objectives.statistics import estimate
from objectives.task import SPLITS, SplitConfig, Task, TaskConfig

SMALL = SplitConfig(dev=4, confirm=3, test=2)


def line(i, **more):
    return {"id": f"q{i}", "prompt": f"what is {i} ?", "answer": str(i)} | more


@pytest.fixture
def write(tmp_path):
    def write(lines, name="items.jsonl"):
        texts = [text if isinstance(text, str) else json.dumps(text) for text in lines]
        (tmp_path / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
        return tmp_path

    return write


def load(root, splits=SMALL, **config):
    config = {"items": "items.jsonl", "scorers": ["exact"]} | config
    return Task.load("sums", TaskConfig(**config), root, splits)


def asked(task, split):
    return [item.digest for item in task.items(split)]


def test_splits_are_disjoint_seeded_and_free_of_file_order(write):
    lines = [line(i) for i in range(12)]
    task = load(write(lines))
    ids = {split: [item.id for item in task.items(split)] for split in SPLITS}
    assert [len(ids[split]) for split in SPLITS] == [4, 3, 2]
    assert len({i for split in SPLITS for i in ids[split]}) == 9
    again = load(write(lines[::-1]))
    assert again.splits == task.splits
    assert [asked(again, s) for s in SPLITS] == [asked(task, s) for s in SPLITS]
    other = load(write(lines), SMALL.model_copy(update={"seed": 1}))
    assert asked(other, "dev") != asked(task, "dev")
    assert load(write(lines), system="be brief").items("dev")[0].id == ids["dev"][0]


def test_contents_know_messages_and_answers(write):
    def dev():
        return [item.id for item in load(tmp).items("dev")]

    tmp = write([line(i) for i in range(12)])
    known = dev()
    write([line(i) | {"tags": {"x": 1}, "more": 2} for i in range(12)])
    assert dev() == known
    write([line(i, answer="0") for i in range(12)])
    assert dev() != known


def test_the_order_of_old_runs_is_kept(write):
    """Of files without `fields`, plain and in strata; frozen."""

    def ids(sizes):
        task = load(write([line(i, tags={"rest": i % 3}) for i in range(12)]), sizes)
        return [" ".join(item.id for item in task.items(split)) for split in SPLITS]

    assert ids(SMALL) == ["q3 q0 q1 q4", "q10 q8 q9", "q2 q5"]
    strata = SMALL.model_copy(update={"stratify": "rest"})
    assert ids(strata) == ["q3 q1 q8 q0", "q4 q2 q9", "q10 q5"]


def test_splits_hold_in_a_fresh_process(write):
    root = write([line(i) for i in range(12)])
    code = (
        "import sys; from objectives.task import *;"
        "t = Task.load('sums', TaskConfig(items='items.jsonl', scorers=['exact']), sys.argv[1],"
        " SplitConfig(dev=4, confirm=3, test=2));"
        "sys.stdout.write(','.join(i.digest for i in t.items('dev')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout.split(",") == asked(load(root), "dev")


def test_the_files_own_splits_are_used(write):
    names = ["test", "dev", "confirm"] * 5
    root = write([line(i, split=name) for i, name in enumerate(names)])
    task = load(root, SplitConfig(dev=2, confirm=5, test=0.4))
    assert [item.id for item in task.items("dev")] == ["q1", "q4"]
    assert [item.id for item in task.items("confirm")] == ["q2", "q5", "q8", "q11", "q14"]
    assert [item.id for item in task.items("test")] == ["q0", "q3"]
    with pytest.raises(TaskError, match=r"task sums: split dev asks for 6 items, .* 5 left of 5"):
        load(root, SplitConfig(dev=6, confirm=1, test=1))


def test_fractions_and_the_tasks_own_splits(write):
    root = write([line(i) for i in range(100)])
    task = load(root, SplitConfig(dev=0.29, confirm=0.5, test=21))
    assert [len(task.items(split)) for split in SPLITS] == [29, 50, 21]
    config = TaskConfig(
        items="items.jsonl", scorers=["exact"], splits={"dev": 1, "confirm": 1, "test": 1}
    )
    assert len(Task.load("own", config, root, SMALL).items("dev")) == 1
    with pytest.raises(TaskError, match=r"split test asks for 512 items, .* has 72 left of 100"):
        load(root, SplitConfig(dev=20, confirm=8))
    with pytest.raises(TaskError, match=r"split dev asks for 0\.001"):
        load(root, SplitConfig(dev=0.001))


def test_a_report_task_is_scored_whole(write):
    task = load(write([line(i) for i in range(5)]), role="report")
    assert [len(task.items(split)) for split in SPLITS] == [0, 0, 5]
    with pytest.raises(TaskError, match=r"splits\.dev is 0"):
        load(write([line(i) for i in range(5)]), SplitConfig(dev=0))


def test_messages_and_numbers_are_taken(write):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    root = write([{"id": 5, "messages": chat, "answer": 7.5, "tags": {"level": 2}}])
    (item,) = load(root, SplitConfig(dev=1, confirm=0, test=0), system="be brief").items("dev")
    assert item.id == "5"
    assert item.answer == "7.5"
    assert item.tags == {"level": 2}
    assert item.messages == ({"role": "system", "content": "be brief"}, *chat)


GOOD = line(1)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "{"], r"items\.jsonl:2: not JSON"),
        (["[" * 100_000], "nested too deeply|not JSON"),
        (["[1]"], ":1: a list instead of an object"),
        ([{"id": "a", "prompt": "x", "anwser": "y"}], ":1: \"answer\" is missing.*'anwser'"),
        ([{"id": "a", "answer": "y"}], 'needs one of "prompt", "messages", "text", has none'),
        ([GOOD | {"messages": []}], "has prompt and messages"),
        ([{"id": "a", "messages": [], "answer": "y"}], "non-empty list"),
        ([{"id": "a", "messages": [{"role": "user"}], "answer": "y"}], "a message must be"),
        (
            [{"id": "a", "messages": [{"role": "usr", "content": "x"}], "answer": "y"}],
            "unknown role 'usr'; did you mean 'user'",
        ),
        ([GOOD | {"answer": ["y"]}], '"answer" must be text, is a list'),
        ([GOOD | {"answer": True}], "is a boolean"),
        ([GOOD | {"answer": " "}], '"answer" is empty'),
        ([GOOD | {"tags": 1}], '"tags" must be an object'),
        ([GOOD | {"split": "train"}], "unknown split 'train'"),
        ([GOOD, "", line(2) | {"id": "q1"}], r":3: id 'q1' was used in .*items\.jsonl:1"),
        ([GOOD, GOOD | {"id": "q2"}], r":2: same content as .*items\.jsonl:1"),
        ([GOOD, line(2, split="dev")], ':1: no "split", but .*:2 has one'),
        (["", ""], "has no items"),
    ],
)
def test_a_wrong_line_is_named(write, lines, message):
    with pytest.raises(TaskError, match=message) as caught:
        load(write(lines), SplitConfig(dev=1, confirm=0, test=0))
    assert "\n" not in str(caught.value)


def test_a_wrong_file_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"items\.jsonl: no such item file"):
        load(tmp_path)
    (tmp_path / "items.jsonl").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(TaskError, match="not UTF-8"):
        load(tmp_path)
    (tmp_path / "items.jsonl").unlink()
    (tmp_path / "items.jsonl").mkdir()
    with pytest.raises(TaskError, match="cannot be read"):
        load(tmp_path)


def test_two_system_messages_are_refused(write):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    root = write([{"id": "a", "messages": messages, "answer": "y"}])
    with pytest.raises(TaskError, match="its own system message"):
        load(root, SplitConfig(dev=1, confirm=0, test=0), system="x")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scorers": []}, "at least 1"),
        ({"scorers": ["exat"]}, "unknown scorer 'exat'; did you mean 'exact'"),
        ({"scorers": ["exact", "exact"]}, "'exact' is listed twice"),
        ({"scorers": ["exact"], "rôle": "search"}, "Extra inputs"),
        ({"scorers": ["exact"], "role": "train"}, "'search' or 'report'"),
        ({"scorers": ["exact"], "splits": {"dev": -1}}, "greater than"),
        ({"scorers": ["exact"], "splits": {"dev": 1.5}}, "less than or equal to 1"),
        ({"scorers": ["exact"], "splits": {"dev": True}}, "valid integer"),
        ({"scorers": ["exact"], "generate": {"max_token": 5}}, "Extra inputs"),
    ],
)
def test_a_wrong_task_is_refused(config, message):
    with pytest.raises(ValidationError, match=message):
        TaskConfig(items="x.jsonl", **config)


THAI = ["math", {"language": {"expect": "th"}}, "think"]
ANSWERS = {
    "q0": "<think> มี 0 </think> คำตอบ คือ #### 0 ลูก ครับ",
    "q1": "<think> has 1 </think> the answer is #### 1",
    "q2": "คำตอบ คือ #### 9 ลูก ครับ",
    "q3": "<think> มี 3",
}


@pytest.fixture
def thai(write):
    root = write([line(i) for i in range(4)])
    return load(root, SplitConfig(dev=4, confirm=0, test=0), scorers=THAI)


def test_scores_every_item_with_every_scorer(thai, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(ANSWERS), encoding="utf-8")
    engine = make_engine(ScriptedConfig(responses=tmp_path / "r.json"), "")
    found = score_task(engine, thai, thai.items("dev"))
    assert [score.id for score in found] == [item.id for item in thai.items("dev")]
    by_id = {score.id: score for score in found}
    assert by_id["q0"].scores == {
        "math": 1.0,
        "language": 1.0,
        "language.thinking": 1.0,
        "language.switch": 0.0,
        "language.switch_rate": 0.0,
        "language.copied": 0.0,
        "language.repeated": 0.0,
        "think": 1.0,
        "joint": 1.0,
    }
    one = by_id["q1"].scores
    assert (one["math"], one["language"], one["joint"]) == (1.0, 0.0, 0.0)
    two = by_id["q2"].scores
    assert (two["math"], two["language"], two["joint"], two["think"]) == (0.0, 1.0, 0.0, 0.0)
    assert "language.thinking" not in two
    assert by_id["q3"].scores["language"] == 0.0
    assert by_id["q3"].text == ANSWERS["q3"]
    summary = summarize(thai, found)
    assert summary["math"].value == 0.5
    assert summary["joint"].value == 0.25
    assert summary["language.thinking"].n == 3
    assert summary["math"] == estimate([1.0, 1.0, 0.0, 0.0], binary=True)


def test_measures_are_known_before_any_model_runs(thai, write):
    keys = {"math", "language", "language.thinking", "language.switch", "think", "joint"}
    keys |= {"language.switch_rate", "language.copied", "language.repeated"}
    assert thai.measures.keys() == keys
    assert thai.measures["joint"].binary
    assert not thai.measures["language"].binary
    assert "joint" not in load(write([line(i) for i in range(9)])).measures


def test_settings_of_the_task_or_the_call_reach_the_engine(thai):
    seen = []

    class Spy(ScriptedEngine):
        def generate(self, prompts, settings):
            seen.append(settings.max_tokens)
            return super().generate(prompts, settings)

    engine = Spy(ScriptedConfig(default="x"))
    score_task(engine, thai, thai.items("dev"))
    score_task(
        engine, thai, thai.items("dev"), thai.config.generate.model_copy(update={"max_tokens": 3})
    )
    assert seen == [512, 3]
    assert score_task(engine, thai, []) == []


def test_tasks_travel_to_workers(thai):
    again = pickle.loads(pickle.dumps(thai))
    assert again.splits == thai.splits
    assert asked(again, "dev") == asked(thai, "dev")
    assert [scorer.params for scorer in again.scorers] == [s.params for s in thai.scorers]
