"""Where items come from, how they are asked, and what they may not be used for."""

import json
import time
from collections import Counter

import pytest
from pydantic import ValidationError

from objectives import score_task
from objectives.engines import ScriptedConfig
from objectives.engines.base import GenerationSettings
from objectives.engines.scripted import ScriptedEngine
from objectives.errors import TaskError
from objectives.item_source import digest
from objectives.splits import SPLITS, SplitConfig, check_disjoint
from objectives.task import Task, TaskConfig

SMALL = SplitConfig(dev=4, confirm=3, test=2)


def line(i, **more):
    return {"id": f"q{i}", "prompt": f"what is {i} ?", "answer": str(i)} | more


def write(root, lines, name="items.jsonl"):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
    (root / name).write_text(text, encoding="utf-8")


def load(root, splits=SMALL, **config):
    config = {"items": "items.jsonl", "scorers": ["exact"]} | config
    return Task.load("sums", TaskConfig(**config), root, splits)


def contents(item):
    return [(message["role"], message["content"]) for message in item.messages]


# --- Other columns -------------------------------------------------------------------------------


def test_columns_and_templates_give_the_items_keys(tmp_path):
    rows = [
        {"n": i, "question": f"{i} + 1 ?", "solution": f"so #### {i + 1}", "opts": ["a", f"b{i}"]}
        for i in range(9)
    ]
    write(tmp_path, rows)
    fields = {
        "id": "n",
        "prompt": "{{question}}\nตอบ:",
        "answer": "{{ solution.split('####')[-1].strip() }}",
        "choices": ["{{ opts[0] }}", "{{ opts[1] }}"],
    }
    task = load(tmp_path, fields=fields)
    items = {item.id: item for split in SPLITS for item in task.items(split)}
    assert items["3"].messages[0]["content"] == "3 + 1 ?\nตอบ:"
    assert items["3"].answer == "4"
    assert items["3"].fields["choices"] == ["a", "b3"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "qestion"}, r"items\.jsonl:1: no column 'qestion'; did you mean 'question'"),
        ({"prompt": "{{ qestion }}"}, r"items\.jsonl:1: template .*'qestion' is undefined"),
        ({"prompt": "{{ question / 0 }}"}, "template .*unsupported operand"),
        ({"prompt": "{{ ''.__class__.__mro__ }}"}, "template .*unsafe"),
    ],
)
def test_a_template_that_fails_is_one_line(tmp_path, fields, message):
    write(tmp_path, [{"id": "a", "question": "x", "answer": "y"}])
    with pytest.raises(TaskError, match=message) as caught:
        load(tmp_path, SplitConfig(dev=1, confirm=0, test=0), fields=fields)
    assert "\n" not in str(caught.value)


def test_a_template_that_cannot_be_read_is_refused_with_the_file():
    with pytest.raises(ValidationError, match="prompt: not a template"):
        TaskConfig(items="x.jsonl", scorers=["exact"], fields={"prompt": "{{ open"})


# --- Data sets -----------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "maths"
    folder.mkdir()
    for split, start in (("train", 0), ("test", 100)):
        rows = [{"question": f"{i} ?", "answer": f"{i}"} for i in range(start, start + 12)]
        write(folder, rows, f"{split}.jsonl")
    return folder


@pytest.mark.timeout(120)
def test_a_data_set_gives_its_rows(dataset):
    source = {"dataset": "maths", "split": "train"}
    task = load(dataset.parent, items=source, fields={"prompt": "question"})
    ids = [item.id for split in SPLITS for item in task.items(split)]
    assert len(set(ids)) == 9
    assert set(ids) <= {str(i) for i in range(12)}
    assert {item.answer for item in task.items("dev")} <= {str(i) for i in range(12)}
    before = digest(task.config.items, dataset.parent)
    assert before == digest(task.config.items, dataset.parent)
    write(dataset, [{"question": "other ?", "answer": "1"}], "train.jsonl")
    assert digest(task.config.items, dataset.parent) != before


@pytest.mark.timeout(120)
def test_a_data_set_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        TaskError, match="data set nobody/nothing, split train: cannot be"
    ) as caught:
        load(tmp_path, items={"dataset": "nobody/nothing", "split": "train"})
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(120)
def test_what_a_data_set_says_beside_the_items_need_not_fit(dataset):
    rows = [
        {
            "id": i // 2,  # each twice
            "question": f"{i % 20} ?",  # the last two are copies, with other answers
            "answer": i,
            "split": "train",
            "tags": ["algebra"],
            "subject": ("sums", "roots")[i % 2],
            "level": None if i % 3 else 2,
            "more": {"url": None, "parts": [i, [{"n": i}]]},
        }
        for i in range(22)
    ]
    write(dataset, rows, "train.jsonl")
    source = {"dataset": "maths", "split": "train"}
    sizes = SplitConfig(dev=0.5, confirm=0.3, test=0.2, stratify="subject")
    task = load(dataset.parent, sizes, items=source, fields={"prompt": "question"})
    items = [item for split in SPLITS for item in task.items(split)]
    assert sorted(item.id for item in items) == sorted(
        [*map(str, range(10)), *(f"{i}#2" for i in range(10))]
    )
    assert {item.answer for item in items} == set(map(str, range(20)))
    assert Counter(item.fields["subject"] for item in task.items("dev"))["roots"] == 5
    fields = {"prompt": "question", "tags": {"subject": "subject", "level": "{{ level }}"}}
    task = load(dataset.parent, sizes, items=source, fields=fields)
    assert {item.tags["subject"] for item in task.items("dev")} == {"sums", "roots"}
    assert {item.tags["level"] for item in task.items("dev")} == {"None", "2"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "level"}, r'maths\[train\]:0: "prompt" must be text, is null'),
        ({"prompt": "parts"}, '"prompt" must be text, is a list'),
        ({"prompt": "question", "answer": "more"}, '"answer" must be text, is an object'),
        ({"prompt": "question", "answer": "level"}, '"answer" must be text, is null'),
        ({"prompt": "question", "choices": "level"}, '"choices" must be a list'),
        ({"prompt": "question", "id": "when"}, '"id" must be text, is of type datetime'),
        ({"prompt": "question", "split": "name"}, "unknown split 'train'"),
        ({"prompt": "question", "tags": "parts"}, '"tags" must be an object, is a list'),
    ],
)
def test_a_column_of_the_wrong_kind_is_one_line(dataset, fields, message):
    row = {"question": "?", "answer": 1, "level": None, "parts": [1], "more": {"a": 1}}
    write(dataset, [row | {"when": "2024-05-06T07:08:09", "name": "train"}], "train.jsonl")
    source = {"dataset": "maths", "split": "train"}
    with pytest.raises(TaskError, match=message) as caught:
        load(
            dataset.parent,
            SplitConfig(dev=1, confirm=0, test=0),
            items=source,
            fields=fields,
        )
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(60)
def test_a_hub_out_of_reach_is_told_at_once(tmp_path, monkeypatch, capfd):
    datasets = pytest.importorskip("datasets")
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    with pytest.raises(TaskError, match="data set nobody/nothing, split train: cannot be loaded"):
        load(tmp_path, items={"dataset": "nobody/nothing", "split": "train"})
    assert time.monotonic() - began < 10
    assert "etry" not in capfd.readouterr().err
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_id_as_a_path_is_told_how_to_be_written(tmp_path):
    with pytest.raises(TaskError, match=r"\{dataset: openai/gsm8k, split: train\}"):
        load(tmp_path, items="openai/gsm8k")


# --- Published test sets -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "items",
    [
        {"dataset": "openai/gsm8k", "subset": "main", "split": "test"},
        {"dataset": "HuggingFaceH4/MATH-500", "split": "train"},
        {"dataset": "Maxwell-Jia/AIME_2024", "split": "train"},
        {"dataset": "juletxara/mgsm", "subset": "th", "split": "train"},
        {"dataset": "facebook/belebele", "subset": "tha_Thai", "split": "train"},
        {"dataset": "cambridgeltl/xcopa", "subset": "th", "split": "validation"},
        {"dataset": "my/own", "split": "test"},
        {"dataset": "my/own", "split": "test[:50%]"},
        {"dataset": "my/own", "split": "train[:10]+test"},
        {"dataset": "my/own", "split": "test_th"},
        {"dataset": "allenai/ai2_arc", "subset": "ARC-Easy", "split": "validation"},
        {"dataset": "EleutherAI/hendrycks_math", "split": "test"},
        {"lm_eval": "arc_easy"},
        {"lm_eval": "leaderboard_bbh"},
        {"lm_eval": "okapi_mmlu_th"},
        {"lm_eval": "gsm8k"},
        {"lm_eval": "mgsm_direct_th"},
        {"lm_eval": "unheard_of"},
        {"lm_eval": "gsm8k", "include": "tasks"},
        {"dataset": "my/own", "split": "all"},
        {"dataset": "my/own", "split": "train + test"},
        {"dataset": "my/own", "split": "train[:10]+train[20:]+all"},
        {"dataset": "openai/gsm8k", "split": "train+validation"},
        {"dataset": "my/many", "subset": "mgsm", "split": "train"},
        {"dataset": "x/mgsm/", "split": "train"},
        {"dataset": "data/mgsm/th", "split": "train"},
        {"dataset": "MBZUAI/ArabicMMLU", "split": "dev"},
        {"dataset": "my/indommlu", "split": "validation"},
        {"dataset": "tinyBenchmarks/tinyGSM8k", "split": "validation"},
        {"dataset": "tinyBenchmarks/tinyTruthfulQA", "split": "train"},
    ],
)
def test_a_published_test_set_is_not_searched_on(items):
    scorers = [{"lm_eval": {"metrics": "acc"}}] if "lm_eval" in items else ["exact"]
    with pytest.raises(ValidationError, match="published test set"):
        TaskConfig(items=items, scorers=scorers)
    TaskConfig(items=items, scorers=scorers, role="report")
    TaskConfig(items=items, scorers=scorers, allow_test_split=True)


@pytest.mark.parametrize(
    "items",
    [
        "mgsm_th.jsonl",
        {"dataset": "openai/gsm8k", "subset": "main", "split": "train"},
        {"dataset": "my/own", "split": "validation"},
        {"dataset": "my/mathlingua", "split": "validation"},
        {"dataset": "my/research", "split": "validation"},
        {"dataset": "math-ai/own", "split": "validation"},
        {"dataset": "my/own", "split": "train[:10%]+train[20%:]"},
        {"dataset": "my/claimed", "subset": "allenby", "split": "train"},
        {"lm_eval": "math_of_ours", "include": "tasks"},
    ],
)
def test_other_items_are_the_users_own(items):
    of_harness = isinstance(items, dict) and "lm_eval" in items
    TaskConfig(items=items, scorers=[{"lm_eval": {"metrics": "acc"}}] if of_harness else ["exact"])


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"dataset": "a/b"}, "split"),
        ({"dataset": "a/b", "split": "train", "splt": 1}, "splt"),
        ({"lm_eval": ""}, "at least 1"),
        ("", "at least 1"),
        (7, "valid string"),
    ],
)
def test_a_wrong_source_is_refused(items, message):
    with pytest.raises(ValidationError, match=message):
        TaskConfig(items=items, scorers=["exact"])


# --- Splits --------------------------------------------------------------------------------------


def test_strata_are_spread_evenly_over_the_splits(tmp_path):
    kinds = ["add"] * 60 + ["subtract"] * 30 + ["mixed"] * 10
    write(tmp_path, [line(i, tags={"ops": kind}) for i, kind in enumerate(kinds)])
    sizes = SplitConfig(dev=20, confirm=30, test=50, stratify="ops")
    task = load(tmp_path, sizes)
    for split, expected in (("dev", 20), ("confirm", 30), ("test", 50)):
        found = Counter(item.tags["ops"] for item in task.items(split))
        assert sum(found.values()) == expected
        for kind, share in (("add", 0.6), ("subtract", 0.3), ("mixed", 0.1)):
            assert abs(found[kind] - share * expected) <= 1
    seen = [item.id for split in SPLITS for item in task.items(split)]
    assert len(set(seen)) == 100
    write(tmp_path, [line(i, tags={"ops": kind}) for i, kind in reversed(list(enumerate(kinds)))])
    assert load(tmp_path, sizes).splits == task.splits
    other = load(tmp_path, sizes.model_copy(update={"seed": 1}))
    assert other.items("dev") != task.items("dev")


def test_a_missing_stratum_is_named(tmp_path):
    write(tmp_path, [line(0, tags={"opz": 1})])
    sizes = SplitConfig(dev=1, confirm=0, test=0, stratify="ops")
    with pytest.raises(TaskError, match=r"items\.jsonl:1: no tag 'ops' .*did you mean 'opz'"):
        load(tmp_path, sizes)


def test_an_item_serves_one_purpose_in_all_tasks(tmp_path):
    write(tmp_path, [line(i) for i in range(12)])

    def uses(**splits):
        task = load(tmp_path, SplitConfig(**splits), system="s" if splits["dev"] == 5 else None)
        return {split: [item.digest for item in task.items(split)] for split in SPLITS}

    one = uses(dev=4, confirm=3, test=2)
    check_disjoint({"a": one, "b": one})
    with pytest.raises(TaskError, match="tasks a and b share an item that is confirm in one and"):
        check_disjoint({"a": one, "b": uses(dev=5, confirm=3, test=2)})


# --- Few-shot, system messages -------------------------------------------------------------------


def test_examples_come_before_every_item_and_are_never_asked(tmp_path):
    write(tmp_path, [line(i, solution=f"think {i} #### {i}") for i in range(12)])
    task = load(tmp_path, fewshot={"count": 2}, system="be brief")
    items = [item for split in SPLITS for item in task.items(split)]
    shots = {tuple(contents(item)[1:5]) for item in items}
    assert len(shots) == 1
    ((first, told, _, _),) = shots
    assert (first[0], told[0]) == ("user", "assistant")
    assert told[1].startswith("think ")
    assert contents(items[0])[0] == ("system", "be brief")
    asked = {contents(item)[-1] for item in items}
    assert first not in asked
    assert len(asked) == 9
    again = load(tmp_path, fewshot={"count": 2, "seed": 1}, system="be brief")
    assert contents(again.items("dev")[0])[:5] != contents(task.items("dev")[0])[:5]


def test_examples_of_their_own_file_or_split(tmp_path):
    write(tmp_path, [line(i) for i in range(9)])
    write(tmp_path, [line(i) for i in range(50, 53)], "shots.jsonl")
    task = load(tmp_path, fewshot={"count": 3, "items": "shots.jsonl"})
    said = {content for _, content in contents(task.items("dev")[0])[:-1]}
    assert said == {f"what is {i} ?" for i in range(50, 53)} | {"50", "51", "52"}
    write(tmp_path, [line(3), line(70)], "shots.jsonl")
    with pytest.raises(TaskError, match="is among the few-shot examples too"):
        load(tmp_path, fewshot={"count": 1, "items": "shots.jsonl"})
    purposes = ["fewshot"] * 2 + ["dev"] * 4 + ["confirm"] * 3 + ["test"] * 2
    write(tmp_path, [line(i, split=purpose) for i, purpose in enumerate(purposes)])
    task = load(tmp_path, fewshot={"count": 2})
    assert {c for _, c in contents(task.items("dev")[0])[:4]} >= {"what is 0 ?", "what is 1 ?"}
    assert len(load(tmp_path).items("dev")) == 4
    with pytest.raises(TaskError, match="fewshot asks for 3 examples, there are 2"):
        load(tmp_path, fewshot={"count": 3})


def test_a_system_message_can_begin_the_users(tmp_path):
    write(tmp_path, [line(i) for i in range(9)])
    item = load(tmp_path, system="be brief", system_role="user").items("dev")[0]
    ((role, content),) = contents(item)
    assert role == "user"
    assert content.startswith("be brief\n\nwhat is ")


# --- Answers, texts, choices ---------------------------------------------------------------------


def test_an_answer_is_needed_where_right_is_told_from_wrong(tmp_path):
    write(tmp_path, [{"id": "a", "prompt": "x"}])
    one = SplitConfig(dev=1, confirm=0, test=0)
    with pytest.raises(TaskError, match=r'items\.jsonl:1: "answer" is missing'):
        load(tmp_path, one)
    task = load(tmp_path, one, scorers=[{"language": {"expect": "th"}}])
    assert task.items("dev")[0].answer == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "text": "x"}, 'scorer exact needs a "prompt"'),
        ({"id": "a", "text": "x", "answer": "y"}, '"text" is scored as a whole'),
        (line(1, choices=["a"]), '"choices" must be a list of two or more different'),
        (line(1, choices=["a", "a"]), '"choices" must be a list of two or more different'),
        (line(1, choices="ab"), '"choices" must be a list of two or more different'),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, row, message):
    write(tmp_path, [row])
    with pytest.raises(TaskError, match=message):
        load(tmp_path, SplitConfig(dev=1, confirm=0, test=0))


def test_a_text_takes_no_system_message(tmp_path):
    write(tmp_path, [{"id": "a", "text": "x"}])
    one = SplitConfig(dev=1, confirm=0, test=0)
    assert load(tmp_path, one, scorers=["perplexity"]).items("dev")[0].messages == ()
    with pytest.raises(TaskError, match='"text" is scored as a whole, without a system'):
        load(tmp_path, one, scorers=["perplexity"], system="s")


def test_a_column_of_that_name_is_not_the_items_when_another_is_given(tmp_path):
    write(tmp_path, [{"id": "a", "text": "what ?", "answer": "y"}])
    one = SplitConfig(dev=1, confirm=0, test=0)
    item = load(tmp_path, one, fields={"prompt": "text"}).items("dev")[0]
    assert contents(item) == [("user", "what ?")]


# --- Several answers to one item -----------------------------------------------------------------


class Counting(ScriptedEngine):
    """Answers the n-th sample with n: right where the item says so."""

    def generate(self, prompts, settings):
        self.asked = [(prompt.id, prompt.sample, prompt.chat) for prompt in prompts]
        base = super().generate(prompts, settings)
        return [
            type(one)(str(prompt.sample), 2 + prompt.sample, "stop")
            for one, prompt in zip(base, prompts, strict=True)
        ]


def test_scores_are_means_over_the_samples(tmp_path):
    write(tmp_path, [line(0, answer="0"), line(1, answer="3"), line(2, answer="9")])
    sizes = SplitConfig(dev=3, confirm=0, test=0)
    chat = {"prefill": "<think>\n", "template": False}
    warm = {"temperature": 0.7}
    task = load(tmp_path, sizes, samples=4, generate=warm, chat=chat)
    assert not task.measures["exact"].binary
    engine = Counting(ScriptedConfig(default="x"))
    found = score_task(engine, task, task.items("dev"))
    assert [entry[:2] for entry in engine.asked[:5]] == [
        *((found[0].id, sample) for sample in range(4)),
        (found[1].id, 0),
    ]
    assert engine.asked[0][2].prefill == "<think>\n"
    by_id = {row.id: row for row in found}
    assert by_id["q0"].scores == {"exact": 0.25}
    assert by_id["q2"].scores == {"exact": 0.0}
    assert [sample.scores["exact"] for sample in by_id["q1"].samples] == [0.0, 0.0, 0.0, 1.0]
    assert by_id["q0"].tokens == 2 + 3 + 4 + 5
    assert by_id["q0"].text == "0"


def test_greedy_samples_would_all_be_the_same():
    with pytest.raises(ValidationError, match="4 samples at temperature 0 are all the same"):
        TaskConfig(items="x.jsonl", scorers=["exact"], samples=4)
    TaskConfig(
        items="x.jsonl",
        scorers=["exact"],
        samples=4,
        generate=GenerationSettings(temperature=1.0),
    )
