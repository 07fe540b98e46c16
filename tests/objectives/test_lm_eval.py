"""Tasks of lm-evaluation-harness: the same numbers through our engine as through its own model."""

import json
import math
import pickle
from pathlib import Path

import pytest

from objectives import score_task
from objectives.engines import ScriptedConfig, TransformersConfig, make_engine
from objectives.engines.base import ChatSettings, GenerationSettings, Likelihood, Prompt
from objectives.engines.scripted import ScriptedEngine
from objectives.errors import ScorerError, TaskError
from objectives.scorers import make_scorer
from objectives.scorers.lm_eval import CEILING, documents
from objectives.task import SplitConfig, Task, TaskConfig
from tests.objectives.engine_suite import DictSource
from tests.objectives.scorer_suite import TEXTS, ScorerSuite

CPU = TransformersConfig(device="cpu")

CHOICE = """\
task: mc
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}/mc.jsonl, train: {data}/shots.jsonl}}
test_split: test
training_split: train
fewshot_split: train
num_fewshot: 2
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_bytes, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_mutual_info, aggregation: mean, higher_is_better: true}}
  - {{metric: brier_score, aggregation: brier_score, higher_is_better: false}}
  - {{metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}}
"""
GENERATE = """\
task: gen
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}/mc.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{word}}}}"
generation_kwargs: {{until: ["w7", "<eos>"], max_gen_toks: 12, do_sample: false}}
filter_list:
  - name: whole
    filter: [{{function: take_first}}]
  - name: first
    filter:
      - {{function: regex, regex_pattern: "(\\\\S+)"}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}
"""
ROLLING = """\
task: ppl
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}/text.jsonl}}
test_split: test
num_fewshot: 0
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""
LAST_WORD = """\
task: last
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}/mc.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{question}}}}"
doc_to_target: " {{{{word}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
GROUP = """\
group: both
task: [mc, gen]
"""
METRICS = {
    "mc": ["acc", "acc_norm", "acc_bytes", "acc_mutual_info", "brier_score"],
    "gen": ["exact_match"],
    "ppl": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
    "last": ["perplexity", "acc"],
}
DOCUMENTS = 24


def question(i):
    return f"w{i} มี {i % 20} . w{3 * i % 125} ซื้อ {i * 7 % 20} ? :"


@pytest.fixture(scope="module")
def engine(tiny):
    with make_engine(CPU, tiny) as engine:
        yield engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory, engine):
    """Tasks of four kinds, their data beside them; some answers are those of the tiny model."""
    root = tmp_path_factory.mktemp("harness")
    data = root / "data"
    data.mkdir()
    plain = ChatSettings(template=False)
    prompts = [
        Prompt(str(i), ({"role": "user", "content": question(i)},), chat=plain)
        for i in range(DOCUMENTS)
    ]
    settings = GenerationSettings(max_tokens=12, stop=("w7",), stop_loops=False)
    said = [answer.text for answer in engine.generate(prompts, settings)]
    whole = [" ".join(text.split()) or "w1" for text in said]
    words = [text if i % 3 else text.split()[0] for i, text in enumerate(whole)]
    lines = [
        {
            "question": question(i),
            "choices": [f"{i % 20}", f"w{i} ลูก", f"{(i + 3) % 20} + w{i}"],
            "label": i % 3,
            "word": words[i],
        }
        for i in range(DOCUMENTS)
    ]
    shots = [
        line | {"question": f"{question(i + 60)}", "label": i % 3} for i, line in enumerate(lines)
    ]
    long = " ".join(f"w{i * i % 125}" for i in range(300))  # the model takes 128 tokens
    texts = [{"text": f"{question(i)} คำตอบ คือ {i % 20}"} for i in range(5)] + [{"text": long}]
    for name, rows in (("mc", lines), ("shots", shots), ("text", texts)):
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (data / f"{name}.jsonl").write_text(text + "\n", encoding="utf-8")
    tasks = {"mc": CHOICE, "gen": GENERATE, "ppl": ROLLING, "last": LAST_WORD, "both": GROUP}
    for name, text in tasks.items():
        (root / f"{name}.yaml").write_text(text.format(data=data), encoding="utf-8")
    return root


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Data sets are cached away from the user's, and nothing is asked of the network.

    Of the harness's own tasks only one folder is indexed: all of them take ten seconds.
    """
    import datasets
    from lm_eval.tasks import manager

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(manager, "__file__", str(Path(manager.__file__).parent / "hellaswag" / "x"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


def load(folder, name, **params):
    config = TaskConfig(
        items={"lm_eval": name, "include": str(folder)},
        scorers=[{"lm_eval": {"metrics": METRICS[name]} | params}],
        role="report",
    )
    return Task.load(name, config, folder)


def state(path):
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


@pytest.fixture(scope="module")
def theirs(folder, tiny, tiny_other):
    """What the harness says with its own model, before and after its weights change in place."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    lm = HFLM(
        pretrained=model,
        tokenizer=AutoTokenizer.from_pretrained(tiny),
        batch_size=8,
        max_length=128,
    )

    def evaluate():
        return simple_evaluate(
            model=lm, tasks=list(METRICS), task_manager=manager, bootstrap_iters=0
        )

    with pytest.MonkeyPatch.context() as patch:
        # It asks pip and git about the machine: six seconds.
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        before = evaluate()
        with torch.no_grad():
            model.load_state_dict(state(tiny_other), strict=False)
        return before, evaluate()


def number(metric, said):
    """A document's metric as a number, as this file's reader would compute it."""
    if metric in ("word_perplexity", "byte_perplexity"):
        return math.exp(-said[0] / said[1])
    if metric == "bits_per_byte":
        return -said[0] / said[1] / math.log(2)
    if metric == "perplexity":
        return math.exp(-said)
    if metric == "brier_score":
        return sum((p - (at == said[0])) ** 2 for at, p in enumerate(said[1]))
    return said


def check_same(task, scores, found, way):
    """Item by item, and their mean weighted as the task declares."""
    samples = [one for one in found["samples"][task.name] if one["filter"] == way]
    assert [one.id for one in scores] == [str(one["doc_id"]) for one in samples]
    for at, metric in enumerate(METRICS[task.name]):
        key = f"lm_eval.{metric}" if at else "lm_eval"
        ours = [one.scores[key] for one in scores]
        assert ours == pytest.approx([number(metric, one[metric]) for one in samples], rel=1e-4)
        measure = task.measures[key]
        weights = [1.0 if measure.weights is None else s.scores[measure.weights] for s in scores]
        to, back = (math.log, math.exp) if measure.aggregation == "geometric" else (float, float)
        mean = sum(w * to(x) for w, x in zip(weights, ours, strict=True)) / sum(weights)
        whole = found["results"][task.name][f"{metric},{way}"]
        assert back(mean) == pytest.approx(whole, rel=1e-4)
    if task.name == "gen":
        assert [one.text for one in scores] == [one["resps"][0][0] for one in samples]


@pytest.mark.parametrize(
    ("name", "way"),
    [("mc", "none"), ("gen", "whole"), ("gen", "first"), ("ppl", "none"), ("last", "none")],
)
def test_the_same_numbers_as_the_harness_before_and_after_weights_change_in_place(
    name, way, folder, tiny, tiny_other, theirs
):
    task = load(folder, name, **({"filter": way} if name == "gen" else {}))
    with make_engine(CPU, tiny) as engine:
        before = score_task(engine, task, task.items("test"))
        engine.load(DictSource(state(tiny_other)))
        after = score_task(engine, task, task.items("test"))
    check_same(task, before, theirs[0], way)
    check_same(task, after, theirs[1], way)
    assert [one.scores for one in before] != [one.scores for one in after]


def test_a_document_is_asked_the_same_whichever_others_are(folder, engine):
    """Racing scores blocks: few-shot examples must not depend on them."""
    task = load(folder, "mc")
    items = task.items("test")
    whole = score_task(engine, task, items)
    places = (17, 3, 8)
    some = score_task(engine, task, [items[at] for at in places])
    for one, at in zip(some, places, strict=True):
        assert (one.id, one.text) == (whole[at].id, whole[at].text)
        assert one.scores == pytest.approx(whole[at].scores, rel=1e-4)
    assert score_task(engine, task, []) == []


def test_what_is_kept_of_an_answer(folder, engine):
    (one,) = score_task(engine, task := load(folder, "gen"), task.items("test")[:1])
    assert one.text
    assert one.tokens > 0
    assert one.finish_reason in ("stop", "length")
    (one,) = score_task(engine, task := load(folder, "mc"), task.items("test")[:1])
    assert one.text.strip() in task.items("test")[0].fields["choices"]


def test_documents_are_items(folder):
    rows = [row for _, row in documents("mc", folder)]
    assert rows[1] == {
        "id": "1",
        "prompt": question(1),
        "choices": ["1", "w1 ลูก", "4 + w1"],
        "answer": "w1 ลูก",
    }
    assert next(row["text"] for _, row in documents("ppl", folder)).startswith(question(0))
    config = TaskConfig(
        items={"lm_eval": "mc", "include": folder.name}, scorers=[{"lm_eval": {"metrics": "acc"}}]
    )
    task = Task.load("mc", config, folder.parent, SplitConfig(dev=8, confirm=8, test=8))
    ids = [item.id for split in ("dev", "confirm", "test") for item in task.items(split)]
    assert sorted(map(int, ids)) == list(range(DOCUMENTS))


def test_chats_are_rendered_by_the_engine(folder, tiny):
    asked = []

    def judge(request, _weights):
        asked.append(request)
        return Likelihood(-1.0 - len(asked), 1, False)

    def respond(prompt, _weights):
        asked.append(prompt)
        return "<think> w7 x </think> w1 w7 w2"

    task = load(folder, "mc", chat={"template": True}, metrics=["acc"])
    score_task(ScriptedEngine(ScriptedConfig(), judge=judge), task, task.items("test")[:1])
    assert [one.text for one in asked] == ["0", "w0 ลูก", "3 + w0"] * 2
    assert not asked[3].messages[0]["content"]  # acc_mutual_info: the choice alone
    assert [m["role"] for m in asked[0].messages] == ["user", "assistant"] * 2 + ["user"]
    assert asked[0].chat.template
    with make_engine(CPU, tiny) as engine:
        assert len(score_task(engine, task, task.items("test"))) == DOCUMENTS
    task = load(folder, "gen", drop_thinking=True)
    (one,) = score_task(ScriptedEngine(ScriptedConfig(), respond=respond), task, items(task, 1))
    assert one.text == "w1 "
    assert one.details.keys() == {"lm_eval.answer"}  # as the task's filter has it
    task = load(folder, "gen")
    (one,) = score_task(ScriptedEngine(ScriptedConfig(), respond=respond), task, items(task, 1))
    assert one.text == "<think> "


def items(task, count):
    return task.items("test")[:count]


class TestLmEval(ScorerSuite):
    """The suite of all scorers, and hostile answers through the whole way."""

    @pytest.fixture
    def scorer(self, folder):
        return make_scorer({"lm_eval": {"metrics": ["acc"], "task": "mc", "include": folder}})

    @pytest.mark.parametrize("logprob", [-math.inf, math.nan, 0.0, -1e-300, -1e300])
    def test_a_model_without_numbers_is_wrong(self, folder, logprob):
        engine = ScriptedEngine(
            ScriptedConfig(), judge=lambda request, _weights: Likelihood(logprob, 1, True)
        )
        for name in ("mc", "ppl", "last"):
            task = load(folder, name)
            for one in score_task(engine, task, task.items("test")):
                assert one.scores.keys() == task.measures.keys()
                for key, value in one.scores.items():
                    low, high = task.measures[key].range
                    assert math.isfinite(value)
                    assert low <= value <= high
                if not math.isfinite(logprob):
                    worst = {"mc": 0.0, "ppl": CEILING, "last": CEILING}[name]
                    assert one.scores["lm_eval"] == pytest.approx(worst)
                json.dumps(one.scores, allow_nan=False)

    @pytest.mark.parametrize("name", TEXTS)
    def test_any_answer_gets_a_score(self, folder, name):
        engine = ScriptedEngine(ScriptedConfig(default=TEXTS[name] or " "))
        task = load(folder, "gen", drop_thinking=len(name) % 2 == 0)
        assert {one.scores["lm_eval"] for one in score_task(engine, task, items(task, 3))} == {0.0}

    def test_travels_with_its_task(self, folder, engine):
        task = load(folder, "last")
        again = pickle.loads(pickle.dumps(task))
        assert score_task(engine, again, items(again, 2)) == score_task(
            engine, task, items(task, 2)
        )


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("mcc", {}, "no lm_eval task 'mcc' in .*did you mean 'mc'"),
        ("both", {}, "lm_eval task 'both' is a group of tasks; name one"),
        ("mc", {"metrics": ["exact_match"]}, "task mc: no metric 'exact_match'; "),
        ("mc", {"metrics": {"mcc": {"range": [-1, 1], "direction": "maximize"}}}, "whole corpus"),
        ("gen", {"filter": "hole"}, "task gen: no filter 'hole'; did you mean 'whole'"),
        ("ppl", {"fewshot": 2}, "task ppl: it says num_fewshot: 0; drop `fewshot`"),
        ("mc", {"metrics": {"acc": {"direction": "minimize"}}}, "acc is to be maximized"),
    ],
)
def test_a_wrong_task_is_one_clear_line(folder, name, params, message):
    given = {"metrics": METRICS.get(name, ["acc"]), "task": name, "include": folder} | params
    with pytest.raises(ScorerError, match=message) as caught:
        make_scorer({"lm_eval": given}).check()
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_one_clear_line(folder, tmp_path):
    (tmp_path / "hub.yaml").write_text(
        "task: hub\ndataset_path: no-such-owner/no-such-set\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_target: 0\n"
        "doc_to_choice: [a, b]\n"
    )
    with pytest.raises(
        TaskError, match=r"task hub: its data cannot be loaded: .*no-such-set"
    ) as no:
        list(documents("hub", tmp_path))
    assert "\n" not in str(no.value)
    assert str(no.value).endswith("; download the data set where there is a network")
    # A task of the harness is no task of the folder: it would be another's numbers.
    with pytest.raises(TaskError, match=r"no lm_eval task 'hellaswag' in .*; choose one of hub"):
        list(documents("hellaswag", tmp_path))
    with pytest.raises(TaskError, match=r"task hellaswag: its data cannot be loaded: .*network"):
        list(documents("hellaswag", None))
    unsafe = CHOICE.format(data=folder / "data").replace("task: mc", "task: un\nunsafe_code: true")
    (tmp_path / "unsafe.yaml").write_text(unsafe)
    with pytest.raises(TaskError, match="task un: it runs what models write"):
        list(documents("un", tmp_path))
    with pytest.raises(TaskError, match="no such folder of lm_eval tasks"):
        list(documents("un", tmp_path / "nowhere"))
    config = TaskConfig(items="items.jsonl", scorers=[{"lm_eval": {"metrics": ["acc"]}}])
    with pytest.raises(ScorerError, match=r"write items: \{lm_eval: NAME\}"):
        Task.load("t", config, tmp_path)


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("test_split: test", "test_split: tset", "no 'tset'.*; mend .*own.yaml$"),
        ("mc.jsonl", "nothing.jsonl", "data cannot be loaded: .*; mend dataset_kwargs in .*, or"),
        ("mc.jsonl", "broken.jsonl", "data cannot be loaded: .*; mend dataset_kwargs in .*, or"),
        (
            "output_type: mul",
            "output_type: mlu",
            "cannot be opened: .*mlutiple_choice.*; mend .*l$",
        ),
        (
            "num_fewshot: 2",
            "num_fewshots: 2",
            "cannot be opened: .*num_fewshots.*; mend .*own.yaml$",
        ),
        ("num_fewshot: 2", "process_docs: !function lost.f", "lost.*; install what is missing, or"),
        ("num_fewshot: 2", "process_docs: !function ends.f", "SystemExit: 3; mend .*own.yaml$"),
        (
            "num_fewshot: 2",
            "process_docs: [",
            "no lm_eval task 'mc' in .*own.yaml cannot be read: ",
        ),
        ("num_fewshot: 2", "include: gone.yaml", "own.yaml cannot be read: FileNotFoundError"),
        (
            '"{{question}}"',
            '"{{question"',
            "cannot be opened: TemplateSyntaxError.*; mend .*own.yaml$",
        ),
        (
            '"{{question}}"',
            "!function third.f",
            "document 3 cannot be read: KeyError: 'third'; mend doc_to_text, doc_to_target or",
        ),
    ],
)
def test_a_fault_of_a_task_file_says_what_fits(folder, tmp_path, was, now, message):
    (folder / "data" / "broken.jsonl").write_text("{\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)\n")
    third = (
        f"def f(doc):\n    return doc['third' if doc['question'] == {question(3)!r} else 'word']\n"
    )
    (tmp_path / "third.py").write_text(third)
    text = CHOICE.format(data=folder / "data")
    assert was in text
    (tmp_path / "own.yaml").write_text(text.replace(was, now))
    with pytest.raises(TaskError, match=message) as caught:
        list(documents("mc", tmp_path))
    assert "\n" not in str(caught.value)
    assert "network" not in str(caught.value)


@pytest.mark.parametrize(
    ("was", "now", "fewshot", "message"),
    [
        ("num_fewshot", "num_fewshot", None, None),
        ("num_fewshot", "num_fewshot", 24, None),
        ("num_fewshot", "num_fewshot", 25, "25 examples are asked for, split train has 24; lower"),
        ("fewshot_split: train\n", "", 2, None),
        ("fewshot_split: train\nnum_fewshot: 2", "", 1, None),
        ("training_split: train\nfewshot_split: train\nnum_fewshot: 2", "", None, None),
        ("training_split: train\nfewshot_split: train\nnum_fewshot: 2", "", 2, "; drop `fewshot`"),
        (
            "training_split: train\nfewshot_split: train",
            "",
            None,
            "; give `fewshot: 0`, or give it",
        ),
        ("training_split: train\nfewshot_split: train", "", 0, None),
        ("fewshot_split: train", "fewshot_split: test", None, "the one that is evaluated .test."),
        ("fewshot_split: train", "fewshot_config: {split: test}", 1, "evaluated .test."),
        ("test_split: test\ntraining_split: train", "validation_split: train", None, "train"),
        (
            "fewshot_split: train",
            "process_docs: !function halves.last\nfewshot_config:\n"
            "  {split: test, process_docs: !function halves.first}",
            2,
            None,
        ),
    ],
)
def test_examples_are_not_the_documents_that_are_asked(
    folder, tmp_path, was, now, fewshot, message
):
    (tmp_path / "halves.py").write_text(
        "def first(docs):\n    return docs.select(range(12))\n"
        "def last(docs):\n    return docs.select(range(12, 24))\n"
    )
    text = CHOICE.format(data=folder / "data")
    assert was in text
    (tmp_path / "own.yaml").write_text(text.replace(was, now))
    given = {"metrics": ["acc"], "task": "mc", "include": tmp_path, "fewshot": fewshot}
    scorer = make_scorer({"lm_eval": given})
    if message is None:
        scorer.check()
        return
    with pytest.raises(ScorerError, match=message) as caught:
        scorer.check()
    assert "\n" not in str(caught.value)


def test_a_prompt_that_cannot_be_made_is_one_clear_line(folder, tmp_path, engine):
    known = [question(i) for i in range(DOCUMENTS)]
    code = f"def f(doc):\n    return {{text: text for text in {known!r}}}[doc['question']]\n"
    (tmp_path / "known.py").write_text(code)  # examples are others
    text = CHOICE.format(data=folder / "data").replace('"{{question}}"', "!function known.f")
    (tmp_path / "own.yaml").write_text(text)
    task = load(tmp_path, "mc", metrics=["acc"])
    with pytest.raises(ScorerError, match="task mc: its prompts cannot be made: KeyError") as no:
        score_task(engine, task, items(task, 1))
    assert "\n" not in str(no.value)


def test_all_that_was_generated_is_counted(folder, tmp_path):
    text = GENERATE.format(data=folder / "data")
    (tmp_path / "own.yaml").write_text(text + "repeats: 4\n")
    said = [f"w{i} " * (i + 1) for i in range(4)]
    scripted = ScriptedEngine(
        ScriptedConfig(), respond=lambda prompt, _weights: said[prompt.sample]
    )
    task = load(tmp_path, "gen")
    for one in score_task(scripted, task, items(task, 2)):
        assert one.text == said[0]
        assert one.tokens == 1 + 2 + 3 + 4


def test_its_files_are_those_of_its_folder(folder, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "__pycache__").mkdir()
    for name in ("b.yaml", "a.txt", "deep/utils.py", "__pycache__/x.py"):
        (tmp_path / name).write_text("")
    scorer = make_scorer({"lm_eval": {"metrics": ["acc"], "task": "mc", "include": tmp_path}})
    assert [file.relative_to(tmp_path).as_posix() for file in scorer.files()] == [
        "b.yaml",
        "deep/utils.py",
    ]
    assert make_scorer({"lm_eval": {"metrics": ["acc"], "task": "mc"}}).files() == ()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "'metrics' is missing"),
        ({"metrics": ["pass@1"]}, "metrics: 'pass@1' is not among acc, .*: say what it is like"),
        ({"metrics": []}, "metrics is empty: give at least one"),
        ({"metrics": {"acc": {"rnge": [0, 1]}}}, "rnge"),
        ({"metrics": {"acc": {"range": [1, 0]}}}, "least, most"),
        ({"metrics": 3}, "metrics has to be a mapping, not 3"),
    ],
)
def test_wrong_parameters_are_one_clear_line(params, message):
    with pytest.raises(ScorerError, match=message) as caught:
        make_scorer({"lm_eval": params})
    assert "\n" not in str(caught.value)


def test_without_the_harness_it_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ScorerError, match=r"pip install mergefront\[lm-eval\]"):
        make_scorer({"lm_eval": {"metrics": ["acc"]}}).check()
    with pytest.raises(TaskError, match=r"pip install mergefront\[lm-eval\]"):
        list(documents("mc", None))


def test_ways_of_generating_that_engines_lack_are_refused(folder, tmp_path, engine):
    text = GENERATE.format(data=folder / "data").replace("task: gen", "task: beams")
    (tmp_path / "beams.yaml").write_text(text.replace("do_sample: false", "num_beams: 4"))
    config = TaskConfig(
        items={"lm_eval": "beams", "include": str(tmp_path)},
        scorers=[{"lm_eval": {"metrics": ["exact_match"]}}],
        role="report",
    )
    task = Task.load("beams", config, tmp_path)
    with pytest.raises(ScorerError, match="task beams: generation_kwargs has num_beams: 4"):
        score_task(engine, task, items(task, 1))
