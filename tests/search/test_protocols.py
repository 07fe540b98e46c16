"""The published protocols that we ship, as far as they can be shown without models and data."""

from __future__ import annotations

import base64
import importlib.util
import json
import pickle
import re
import shlex
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from merge_core import MergePlan, RecipeError
from merge_core.mergekit import to_mergekit
from objectives.errors import ScorerError, TaskError
from objectives.item_source import LmEvalItems
from objectives.sandbox import make_sandbox
from objectives.sandbox.base import SandboxError
from objectives.scorers import make_scorer
from objectives.task import SPLITS, Task, TaskConfig
from search import published
from search.baselines import baselines
from search.config import Search, load
from search.errors import ConfigError
from search.session import Prepared, prepare
from search.warm import enqueue_published
from search.worker import Evaluator, Job
from tests.objectives.local_server import Reply, local_server
from tests.search.stand_ins import CONFIGS, ROWS, Workplace, text_of, uncommented

ROOT = Path(__file__).parents[2]
PROTOCOLS = ("typhoon2_r1", "ties_sv")
LANGUAGES = {
    "ta": ("tam_Taml", "tam"),
    "te": ("tel_Telu", "tel"),
    "or": ("ory_Orya", "ory"),
    "bo": ("bod_Tibt", "bod"),
    "ug": ("uig_Arab", "uig"),
    "mn": ("khk_Cyrl", "mon"),
}


@pytest.fixture(scope="module")
def typhoon(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    made = Workplace(tmp_path_factory.mktemp("typhoon"), text_of("typhoon2_r1"))
    made.settings.append("splits.by=id")  # the stand-in's small splits take the place of the file's
    return made


@pytest.fixture(scope="module")
def slack(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """All of the file: response selection, a second language and CT-then-SFT uncommented."""
    text = text_of("ties_sv")
    for first in ("- model: pkupie/Llama-2-7b-tel", "selection:", "- checkpoint:"):
        text = uncommented(text, first)
    text = text.replace(
        "[classification/choice, reading/choice]", "[reading/choice, selection/choice]"
    )
    return Workplace(tmp_path_factory.mktemp("slack"), text)


def sandbox() -> str | None:
    for name in ("landlock", "unshare", "bubblewrap"):
        try:
            make_sandbox(name).check()
        except SandboxError:
            continue
        return name
    return None


# --- The files as they stand ---------------------------------------------------------------------


@pytest.mark.parametrize("name", PROTOCOLS)
def test_nothing_that_is_searched_is_published(name: str) -> None:
    search = load(CONFIGS / f"{name}.yaml")
    searched = {n for n, task in search.file.tasks.items() if task.role == "search"}
    assert {part[0] for o in search.objectives for part in o.parts} == searched
    for config in search.file.tasks.values():
        hub = not isinstance(config.items, str)
        harness = isinstance(config.items, LmEvalItems)
        if hub and not harness and config.role == "report":
            data = config.model_dump() | {"role": "search"}
            with pytest.raises(ValueError, match="is a published test set"):
                TaskConfig(**data)


def test_the_papers_columns_are_all_there() -> None:
    tasks = load(CONFIGS / "typhoon2_r1.yaml").file.tasks
    both = {
        f"{name}_{code}" for name in ("aime", "math500", "lcb", "mt_bench") for code in ("en", "th")
    }
    assert {n for n, t in tasks.items() if t.role == "report"} == both | {
        "ifeval_en",
        "language_th",
    }
    assert tasks["aime_en"].samples >= 8
    with_thai = load_text(uncommented(text_of("typhoon2_r1"), "ifeval_th:"))
    assert "ifeval_th" in with_thai.file.tasks


def load_text(text: str) -> Search:
    from merge_core.yaml_io import parse_yaml
    from search.config import parse

    return parse(parse_yaml(text, Path("protocol.yaml")))


def test_the_smaller_pair_is_given_by_settings() -> None:
    """Those that the file's head names, as a shell reads them."""
    head = text_of("typhoon2_r1").partition("merge_method:")[0].replace("\n#", " ")
    words = shlex.split(head[head.index("--set") :])
    settings = [value for word, value in pairwise(words) if word == "--set"]
    search = load(CONFIGS / "typhoon2_r1.yaml", settings)
    assert len(settings) == 4
    assert "70" not in f"{search.file.base_model} {search.file.models} {search.file.baselines}"


@pytest.mark.parametrize("code", LANGUAGES)
def test_another_language_is_three_codes(code: str) -> None:
    """The replacements that the file itself names; nothing of Bengali is left."""
    text = text_of("ties_sv")
    body = text[text.index("merge_method:") :]
    subset, model = LANGUAGES[code]
    for old, new in (
        ("data/bn/", f"data/{code}/"),
        ("ben_Beng", subset),
        ("2-7b-ben", f"2-7b-{model}"),
    ):
        assert old in body
        body = body.replace(old, new)
    search = load_text(body)
    kept = re.sub(r"#.*", "", search.text)
    assert "bn/" not in kept
    assert "ben" not in kept
    head = text[: text.index("merge_method:")]
    assert re.search(rf"^#   \w+ +{code} +{subset} ", head, re.MULTILINE)


def test_the_table_names_its_own_language() -> None:
    text = text_of("ties_sv")
    assert re.search(r"^#   Bengali +bn +ben_Beng +pkupie/Llama-2-7b-ben$", text, re.MULTILINE)
    (command,) = re.findall(r"^#   sed '(.*)' ties_sv.yaml > (?:\S+)$", text, re.MULTILINE)
    assert [part.split("#")[1] for part in command.split("; ")] == [
        "data/bn/",
        "ben_Beng",
        "2-7b-ben",
    ]


# --- Items ---------------------------------------------------------------------------------------


def tasks_of(workplace: Workplace) -> dict[str, Task]:
    search = workplace.load()
    return {
        name: Task.load(name, config, search.root, search.file.splits)
        for name, config in search.file.tasks.items()
        if not isinstance(config.items, LmEvalItems)
    }


def test_the_typhoon_tasks_ask_as_their_files_say(typhoon: Workplace) -> None:
    tasks = tasks_of(typhoon)
    assert len(tasks["aime_en"].items("test")) == ROWS
    assert len(tasks["math_th"].items("dev")) == 4
    for name in ("math_en", "aime_en", "math500_en"):
        assert tasks[name].items("test")[0].messages[-1]["content"].endswith("within \\boxed{}.")
    for name in ("math_th", "aime_th", "math500_th"):
        assert tasks[name].items("test")[0].messages[-1]["content"].endswith("ไว้ใน \\boxed{}")
        assert "joint" in tasks[name].measures
    assert all(len(i.messages) == 1 for task in tasks.values() for i in task.items("test"))
    turn = {item.id: item for item in tasks["mt_bench_th"].items("test")}["4"]
    assert (turn.messages[0]["content"], turn.fields["reference"]) == ("เขียน 4 บรรทัด", "หนึ่ง")
    assert not {i.id: i for i in tasks["mt_bench_en"].items("test")}["10000001"].fields["reference"]


def test_a_problem_and_its_translation_serve_one_purpose(typhoon: Workplace) -> None:
    assert load(CONFIGS / "typhoon2_r1.yaml").file.splits.by == "id"
    tasks = tasks_of(typhoon)
    for split in SPLITS:
        en, th = (tasks[name].items(split) for name in ("math_en", "math_th"))
        assert [item.id for item in en] == [item.id for item in th]
        assert not {i.messages[0]["content"] for i in en} & {i.messages[0]["content"] for i in th}


def test_the_slack_tasks_ask_as_their_files_say(slack: Workplace) -> None:
    tasks = tasks_of(slack)
    topic = tasks["classification"].items("dev")[0]
    assert topic.answer in topic.fields["choices"]
    assert len(topic.fields["choices"]) == 7
    for item in tasks["reading_test"].items("test"):
        # The answer is the choice's text: "2" is the first of "2", "3", "4" and "5".
        assert item.fields["choices"].index(item.answer) == int(item.id) % 4
    math = tasks["math"].items("dev")[0]
    assert [m["role"] for m in math.messages] == ["user", "assistant"] * 4 + ["user"]
    assert math.messages[1]["content"].startswith("1 + ")
    assert set(tasks["selection"].measures) == {"choice", "choice.probability"}


@pytest.mark.timeout(120)
def test_data_of_the_hub_is_one_line_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in PROTOCOLS:
        for task, config in load(CONFIGS / f"{name}.yaml").file.tasks.items():
            if isinstance(config.items, LmEvalItems):
                continue
            told = "such item file" if isinstance(config.items, str) else "cannot be loaded: "
            with pytest.raises(TaskError, match=told) as caught:
                Task.load(task, config, tmp_path)
            assert "\n" not in str(caught.value)


# --- What else a search needs --------------------------------------------------------------------


def test_a_missing_sandbox_key_or_package_is_one_line(
    typhoon: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    tasks = load(typhoon.file).file.tasks
    with pytest.raises(ScorerError, match=r"judge: .*OPENAI_API_KEY.* not set") as caught:
        make_scorer(tasks["mt_bench_en"].scorers[0]).check()
    assert "\n" not in str(caught.value)
    with pytest.raises(ScorerError, match=r"code: no sandbox .*docs/sandbox\.md"):
        make_scorer("code").check()
    make_scorer(tasks["lcb_en"].scorers[0])  # the sandbox's name is right, wherever it works


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm_eval")
def test_ifeval_without_data_or_checkers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = load(CONFIGS / "typhoon2_r1.yaml").file.tasks["ifeval_en"]
    with pytest.raises(
        TaskError, match=r"lm_eval task ifeval_long: (its data cannot be loaded|ImportError)"
    ) as caught:
        Task.load("ifeval_en", config, CONFIGS)
    assert "\n" not in str(caught.value)


def test_a_pickle_of_livecodebench_is_read_and_a_program_in_one_is_not_run() -> None:
    """The page's script as it stands."""
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    made: dict[str, Any] = {}
    exec(compile(script, "protocols.md", "exec"), made)
    case = {"input": "1\n", "output": "2\n", "testtype": "stdin"}

    def row(hidden: Any, **more: str) -> dict[str, str]:
        packed = base64.b64encode(zlib.compress(pickle.dumps(hidden))).decode()
        return {
            "question_id": "abc",
            "question_content": "Add one.",
            "public_test_cases": json.dumps([case]),
            "private_test_cases": packed,
            "metadata": "{}",
            "starter_code": "",
        } | more

    plain = made["item"](row(json.dumps([case, case])))
    assert plain["tests"] == [{"input": "1\n", "output": "2\n"}] * 3
    given = {"metadata": '{"func_name": "f"}', "starter_code": "class Solution:"}
    called = made["item"](row("[]", **given) | {"private_test_cases": json.dumps([case])})
    assert called["entry_point"] == "Solution().f"
    assert called["prompt"].endswith("class Solution:")

    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("run",))

    with pytest.raises(pickle.UnpicklingError, match="not a text"):
        made["item"](row(Bad()))


# --- Merges --------------------------------------------------------------------------------------


def test_the_published_schedules_lie_in_the_space(typhoon: Workplace) -> None:
    search = typhoon.load()
    schedules = {
        "recipe:recipes/typhoon2_r1_m1.yaml": (0.25, 0.25, published.KNEE),
        "recipe:recipes/typhoon2_r1_m2.yaml": (0.75, 0.75, published.KNEE),
        "typhoon2_r1:reasoning": (published.PLATEAU, published.END, published.KNEE),
    }
    named = baselines(search)
    for label, (plateau, end, knee) in schedules.items():
        params = {"language.density": 1.0, "reasoning.density": 1.0}
        for name, (first, last) in {
            "language": (1 - plateau, 1 - end),
            "reasoning": (plateau, end),
        }.items():
            given = {"plateau": first, "end": last, "knee": knee}
            params |= {f"{name}.weight.{key}": value for key, value in given.items()}
        for name, distribution in search.space.distributions().items():
            assert distribution._contains(params[name]), name
        inside = MergePlan(search.space.from_params(params).resolved(search.root))
        outside = MergePlan(named[label])
        assert inside.specs() == outside.specs()
        for tensor in inside.specs():
            a, b = inside.tensor(tensor), outside.tensor(tensor)
            # The space's numbers have six digits.
            assert torch.allclose(a.float(), b.float(), atol=2e-3), (label, tensor)


def test_the_released_schedule_is_tried_first(typhoon: Workplace) -> None:
    search = typhoon.load()
    study = optuna.create_study(directions=["maximize", "maximize"])
    enqueue_published(study, search)
    first = search.space.sample(study.ask()).plain()["models"][1]["parameters"]["weight"]
    assert first == {"plateau": 0.75, "end": 0.125, "knee": pytest.approx(published.KNEE, rel=1e-5)}


@pytest.mark.parametrize("name", ["typhoon", "slack"])
def test_recipes_of_the_space_merge(name: str, request: pytest.FixtureRequest) -> None:
    search = request.getfixturevalue(name).load()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    prints = set()
    for _ in range(4):
        recipe = search.space.sample(study.ask()).resolved(search.root)
        plan = MergePlan(recipe)
        prints.add(plan.fingerprint())
        for tensor in plan.specs():
            assert torch.isfinite(plan.tensor(tensor).float()).all()
    assert len(prints) == 4


def test_what_mergekit_has_is_exported(typhoon: Workplace, slack: Workplace) -> None:
    for workplace, method, why in (
        (typhoon, "dare_linear", "has no seeds"),
        (slack, "ties_sv", "has no ties_sv"),
    ):
        with pytest.raises(RecipeError, match=why):
            to_mergekit(workplace.load().example())
        for label in ("uniform", "task_arithmetic"):
            recipe = baselines(workplace.load())[label]
            assert to_mergekit(recipe)["merge_method"] == recipe.merge_method
        assert workplace.load().example().merge_method == method
    # The choice that the file names in a comment, with the parameters that it leaves.
    chosen = typhoon.load("merge_method={choices: [task_arithmetic, dare_linear]}").example()
    assert to_mergekit(chosen)["merge_method"] == "task_arithmetic"
    chosen = slack.load("merge_method={choices: [ties, ties_sv]}").example()
    exported = to_mergekit(chosen)
    assert exported["merge_method"] == "ties"
    assert exported["parameters"]["normalize"] is True


def test_a_missing_model_is_one_line(tmp_path: Path, typhoon: Workplace) -> None:
    file = tmp_path / "rival.yaml"
    file.write_text(typhoon.file.read_text().replace("checkpoint:scb10x/", "checkpoint:/scb10x/"))
    settings = [setting for setting in typhoon.settings if not setting.startswith("baselines.")]
    with pytest.raises(ConfigError, match=r"rival\.yaml:\d+:\d+: /scb10x/.*: no such folder"):
        baselines(load(file, [*settings, "baselines.5=base", "baselines.6=base"]))


# --- A whole check, and a trial ------------------------------------------------------------------


def scored(prepared: Prepared) -> dict[str, dict[str, float]]:
    """Means by task and measure of one recipe of the space, on dev (searched) and test (all)."""
    evaluator = Evaluator(prepared.setup())
    try:
        recipe = prepared.plan.recipe
        found: dict[str, dict[str, float]] = {}
        for split in ("dev", "test"):
            result = evaluator.evaluate(Job("t", recipe, prepared.plan.fingerprint(), split))
            assert result.fault is None
            searched = {n for n, t in prepared.tasks.items() if t.config.role == "search"}
            assert set(result.items) == (searched if split == "dev" else set(prepared.tasks))
            for name, items in result.items.items():
                for key in items[0].scores:
                    mean = sum(item.scores[key] for item in items) / len(items)
                    found.setdefault(f"{split}:{name}", {})[key] = mean
        return found
    finally:
        evaluator.close()


@pytest.mark.timeout(120)
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm_eval")
def test_typhoon_is_checked_and_scored(typhoon: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    box = sandbox()
    if box is None:
        pytest.skip("no sandbox works here")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with local_server() as server:
        server.answer = lambda body: Reply({"choices": [{"message": {"content": "[[4]]"}}]})
        judge = {"url": server.url, "model": "m", "key_env": "OPENAI_API_KEY", "cache": False}
        settings = [f"tasks.mt_bench_{c}.scorers.0.judge={json.dumps(judge)}" for c in ("en", "th")]
        settings += [f"tasks.lcb_{code}.scorers.0.code.sandbox={box}" for code in ("en", "th")]
        prepared = prepare(typhoon.load(*settings))
        means = scored(prepared)
        asked = [one.body["messages"][0]["content"] for one in server.asked]
    assert set(prepared.baselines) == {
        *("base", "expert:language", "expert:reasoning", "uniform", "task_arithmetic"),
        *("typhoon2_r1:reasoning", "recipe:recipes/typhoon2_r1_m1.yaml"),
        *(label for label in prepared.baselines if label.startswith("checkpoint:")),
        "recipe:recipes/typhoon2_r1_m2.yaml",
    }
    assert means["dev:general_th"]["language"] == pytest.approx(1.0, abs=0.1)
    assert means["dev:general_th"]["think"] == 1.0
    assert means["test:math_th"]["joint"] == means["test:math_th"]["math"]
    assert means["test:aime_en"]["math"] == pytest.approx(1 / ROWS)
    assert means["test:lcb_en"] == {"code": 0.0, "code.passed": 0.0, "think": 1.0}
    assert means["test:mt_bench_th"]["judge"] == pytest.approx(3 / 9)
    assert means["test:ifeval_en"]["lm_eval"] == 1.0  # the thinking was dropped before it was read
    assert not any("คิดก่อน" in text for text in asked)


@pytest.mark.timeout(120)
def test_slack_is_checked_and_scored(slack: Workplace) -> None:
    prepared = prepare(slack.load())
    assert prepared.plan.recipe.names == ("language", "language2", "sft")
    assert [name for name in prepared.baselines if name.startswith("checkpoint:")]
    means = scored(prepared)
    assert set(means["dev:selection"]) == {"choice", "choice.probability"}
    assert 0.0 < means["test:reading_test"]["choice.probability"] < 1.0
    assert 0.0 <= means["test:math_test"]["math"] < 1.0
