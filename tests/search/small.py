"""One good search on tiny real checkpoints, and the command line in this process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.merge_core.conftest import make_model, write_checkpoint

GOOD = """\
merge_method: ties_sv
base_model: models/base
models:
  - model: models/thai
    name: language
    parameters:
      weight: {low: 0.3, high: 1.2}
      density: {low: 0.1, high: 1.0}
  - model: models/r1
    name: reasoning
    parameters:
      weight: {plateau: {low: 0.3, high: 1.2}, end: 0.5, knee: {low: 0.2, high: 1.0}}
      density: 0.5
      slack: {low: 0.0, high: 1.0}
parameters: {normalize: false}
tokenizer_source: base

tasks:
  sums:
    items: items.jsonl
    generate: {max_tokens: 16}
    scorers: [math, {language: {expect: en}}]
objectives:
  right: sums/math
  english: sums/language
constraints: {english: ">= 0.1"}
splits: {dev: 4, confirm: 4, test: 4}
baselines: [base, experts, uniform]

engine: {kind: scripted, default: "The answer is 7."}
budget: {trials: 3}
workers: {count: 1}
sampler: random
"""


def make_workplace(folder: Path) -> Path:
    """A folder with base and experts, items, and `search.yaml`."""
    base = make_model(0)
    write_checkpoint(folder / "models" / "base", base)
    write_checkpoint(folder / "models" / "thai", make_model(1, base))
    write_checkpoint(folder / "models" / "r1", make_model(2, base))
    items = [{"id": f"i{n}", "prompt": f"What is 0 + {n}?", "answer": str(n)} for n in range(12)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "search.yaml").write_text(GOOD)
    return folder


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class CommandLine:
    """Calls `mergefront` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Ended:
        from search.cli import main

        self._monkeypatch.setattr(sys, "argv", ["mergefront", *map(str, arguments)])
        self._capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        out, err = self._capsys.readouterr()
        return Ended(code, out, err)
