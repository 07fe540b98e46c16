"""What a run keeps of the files that users' own scorers are made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merge_core.yaml_io import load_yaml
from search.config import parse
from search.run import item_digests
from tests.search.small import GOOD

OURS = """
  ours:
    items: items.jsonl
    scorers: ["python:ours:short"]
  harness:
    items: {lm_eval: last, include: lm_tasks}
    scorers: [{lm_eval: {metrics: [acc]}}]
"""
LAST = """\
task: last
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{prompt}}}}"
doc_to_target: !function utils.answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    items = [{"id": str(n), "prompt": f"0 + {n} = ", "answer": str(n)} for n in range(12)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "ours.py").write_text("import helper\n\ndef short(sample):\n    return 1.0\n")
    (tmp_path / "helper.py").write_text("LIMIT = 3\n")
    deep = tmp_path / "lm_tasks" / "deep"
    deep.mkdir(parents=True)
    (deep.parent / "last.yaml").write_text(LAST.format(data=tmp_path / "items.jsonl"))
    (deep.parent / "utils.py").write_text("def answer(doc):\n    return doc['answer']\n")
    (deep / "utils.py").write_text("")
    assert "\ntasks:\n" in GOOD
    (tmp_path / "search.yaml").write_text(GOOD.replace("\ntasks:\n", f"\ntasks:{OURS}"))
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    return item_digests(parse(load_yaml(folder / "search.yaml")))


def test_a_change_of_any_file_of_a_scorer_is_a_change_of_the_run(folder: Path) -> None:
    before = digests(folder)
    files = {
        "ours.scorer.short.ours.py": "ours.py",
        "ours.scorer.short.helper.py": "helper.py",
        "harness.scorer.lm_eval.last.yaml": "lm_tasks/last.yaml",
        "harness.scorer.lm_eval.utils.py": "lm_tasks/utils.py",
        "harness.scorer.lm_eval.deep/utils.py": "lm_tasks/deep/utils.py",
    }
    assert {key for key in before if ".scorer." in key} == files.keys()
    for key, name in files.items():
        text = (folder / name).read_text()
        (folder / name).write_text(f"{text}# changed\n")
        now = digests(folder)
        assert {other for other in now if now[other] != before[other]} == {key}
        (folder / name).write_text(text)
    moved = folder.rename(folder.with_name("elsewhere"))
    task = moved / "lm_tasks" / "last.yaml"
    task.write_text(LAST.format(data=moved / "items.jsonl"))
    now = digests(moved)
    assert now.keys() == before.keys()
    assert {key for key in now if now[key] != before[key]} == {"harness.scorer.lm_eval.last.yaml"}
