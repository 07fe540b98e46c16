"""A shipped search file in a folder where all its names lead to tiny stand-ins.

Checkpoints of a few kilobytes for its models; for every task, items in the columns that the file
reads: made from the file itself, or in the own columns of a data set of the hub.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, meta

from objectives.item_source import DatasetItems, LmEvalItems
from objectives.scorers import make_scorer
from objectives.task import TaskConfig
from search.config import Search, load
from tests.merge_core.conftest import make_model, write_checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"
ROWS = 20
SMALL = ["splits={dev: 4, confirm: 4, test: 4}", "workers={count: 1}"]
THOUGHT = "คิดก่อน</think>คำตอบคือ 3 เพราะว่าหนึ่งบวกสองเท่ากับสาม"
ENGINE = f"engine={json.dumps({'kind': 'scripted', 'default': THOUGHT, 'thinking_open': True})}"


def text_of(name: str) -> str:
    return (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")


def uncommented(text: str, first: str) -> str:
    """`text` with the commented block that begins with `first` made part of the file."""
    lines, inside = text.splitlines(), False
    assert sum(line.strip().startswith(f"# {first}") for line in lines) == 1, first
    for at, line in enumerate(lines):
        begins = line.strip().startswith(f"# {first}")
        indent = len(line) - len(line.lstrip())
        inside = begins or (inside and line[indent:].startswith("#   "))
        if inside:
            lines[at] = line[:indent] + line[indent + 2 :]
    return "\n".join(lines) + "\n"


def hub_row(items: DatasetItems, i: int) -> dict[str, Any]:
    """A row in the columns of a data set of the hub, as its card or the harness lists them."""
    return {
        "HuggingFaceH4/aime_2024": {
            "id": 60 + i,
            "problem": f"Find {i} + 1.",
            "solution": f"It is {i + 1}.",
            "answer": f"{i + 1:03}",
            "url": "",
            "year": "2024",
        },
        "HuggingFaceH4/MATH-500": {
            "id": str(i),  # the reader's, where a data set has none
            "problem": f"Simplify $\\frac{{{i}}}{{1}}$.",
            "solution": "",
            "answer": f"\\frac{{{i}}}{{7}}",
            "subject": "Algebra",
            "level": 3,
            "unique_id": f"test/{i}.json",
        },
        "HuggingFaceH4/mt_bench_prompts": {
            "prompt_id": 10**7 + i,
            "prompt": [f"Write {i} lines.", "Now one more."],
            "category": "writing",
            "reference": [] if i % 2 else [f"{i} lines", "one more"],
        },
        "ThaiLLM-Leaderboard/mt-bench-thai": {
            "question_id": i,
            "turns": [f"เขียน {i} บรรทัด", "อีกหนึ่ง"],
            "reference": None if i % 2 else ["หนึ่ง", "สอง"],
            "generation_kwargs": {},
            "category": "Writing",
        },
        "facebook/belebele": {
            "id": str(i),
            "link": "",
            "question_number": 1,
            "flores_passage": f"অনুচ্ছেদ {i}",
            "question": "কোনটি?",
            **{f"mc_answer{n}": str(n + 1) for n in range(1, 5)},  # whose texts are numbers, too
            "correct_answer_num": str(1 + i % 4),
            "dialect": "ben_Beng",
            "ds": "2023-05-03",
        },
    }[items.dataset]


def file_row(config: TaskConfig, i: int, salt: str) -> dict[str, Any]:
    """A row with the columns that a task's `fields` and scorers read, and no others."""
    row: dict[str, Any] = {"id": f"q{i}"}
    given = set()
    for key, value in config.fields.items():
        given.add(key)
        for text in value if isinstance(value, list) else [value]:
            named = meta.find_undeclared_variables(Environment().parse(text))
            for column in named if "{{" in text else [text]:
                row[column] = f"{column} {i} {salt} ถามว่าอะไร"
    if "category" in row:
        row["category"] = ("science/technology", "travel", "politics", "sports")[i % 4]
    if "prompt" not in given:
        row["prompt"] = f"โจทย์ {i} {salt}"
    for ref in config.scorers:
        scorer = make_scorer(ref)
        if type(scorer).name == "choice" and "choices" not in given:
            row |= {"choices": [f"a{i}", f"b{i}", "c"], "answer": "B"}
        if type(scorer).name == "math":
            row |= {"answer": i, "solution": f"1 + {i - 1} = {i}"}
        if type(scorer).name == "code":
            row["tests"] = [{"input": f"{i}\n", "output": f"{i}\n"}]
            if i % 2:
                row |= {
                    "tests": [{"input": f"[{i}]", "output": "1"}],
                    "entry_point": "Solution().f",
                }
    return row


def write_items(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def write_harness_task(folder: Path) -> None:
    """The shipped task file, its data and its checker replaced by ones of three lines."""
    path = folder / "protocols" / "ifeval" / "ifeval_long.yaml"
    text = path.read_text(encoding="utf-8")
    for old, new in (
        (
            "dataset_path: google/IFEval",
            f"dataset_path: json\ndataset_kwargs: {{data_files: {{train: {folder}/if.jsonl}}}}",
        ),
        ("lm_eval.tasks.ifeval.utils.process_results", "checks.process_results"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text)
    write_items(folder / "if.jsonl", [{"key": i, "prompt": f"Use {i} words."} for i in range(4)])
    (path.parent / "checks.py").write_text(
        "def process_results(doc, results):\n"
        "    said = 'think' not in results[0]\n"
        "    return {'prompt_level_strict_acc': said, 'prompt_level_loose_acc': True,\n"
        "            'inst_level_strict_acc': [True]}\n"
    )


def models_of(text: str) -> list[str]:
    """The model ids of a search file or recipe; the base first."""
    return re.findall(r"^base_model: (\S+)|^ +- model: (\S+)", text, re.MULTILINE)


class Workplace:
    """A folder with a shipped search file whose names all lead to stand-ins."""

    def __init__(self, folder: Path, text: str, name: str = "protocol") -> None:
        self.folder, self.file = folder, folder / f"{name}.yaml"
        shutil.copytree(CONFIGS / "recipes", folder / "recipes")
        shutil.copytree(CONFIGS / "protocols", folder / "protocols")
        base = make_model(0)
        ids = ["".join(pair) for pair in models_of(text)]
        rivals = re.findall(r"^ +- checkpoint:(\S+)", text, re.MULTILINE)
        self.models = dict.fromkeys([*ids, *rivals])
        for at, reference in enumerate(self.models):
            # R1 has tokens of its own; the others share the base's.
            own = "R1" in reference and "preview" not in reference
            vocab = ("a", "b", "<think>") if own else ("a", "b", "c")
            tensors = base if at == 0 else make_model(at, base)
            self.models[reference] = write_checkpoint(folder / f"m{at}", tensors, vocab=vocab)
        for path in (folder / "recipes").glob("typhoon2_r1_*.yaml"):
            path.write_text(self.local(path.read_text()))
        self.file.write_text(text, encoding="utf-8")
        self.settings = [*SMALL, ENGINE]
        parsed = load(self.file)
        for name_, config in parsed.file.tasks.items():
            self._stand_in(name_, config)
        self.settings += self._models(parsed)

    def local(self, text: str) -> str:
        for reference, path in self.models.items():
            text = text.replace(f"{reference}\n", f"{path}\n")
        return text

    def load(self, *more: str) -> Search:
        return load(self.file, [*self.settings, *more])

    def _stand_in(self, name: str, config: TaskConfig) -> None:
        if isinstance(config.items, LmEvalItems):
            write_harness_task(self.folder)
            return
        if isinstance(config.items, DatasetItems):
            rows = [hub_row(config.items, i) for i in range(ROWS)]
            write_items(self.folder / "hub" / f"{name}.jsonl", rows)
            self.settings.append(f"tasks.{name}.items=hub/{name}.jsonl")
            return
        path = self.folder / config.items
        if not path.exists():
            write_items(path, [file_row(config, i, path.stem) for i in range(ROWS)])

    def _models(self, parsed: Search) -> list[str]:
        given = [f"base_model={self.models[str(parsed.file.base_model)]}"]
        for at, entry in enumerate(parsed.file.models):
            given.append(f"models.{at}.model={self.models[entry.model]}")
        for at, entry in enumerate(parsed.file.baselines):
            kind, _, rest = entry.partition(":")
            if kind == "checkpoint":
                given.append(f"baselines.{at}={kind}:{self.models[rest]}")
        return given
