"""Same recipe, fresh processes, other hash seeds: same fingerprint, bytes and scores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from search.demo import Trio
from tests.search.kit import environment, write_search

PROGRAM = """
import hashlib, sys
from pathlib import Path
from search.config import load
from search.session import prepare
from search.worker import Evaluator, Job
from merge_core import MergePlan

search = load(Path(sys.argv[1]))
prepared = prepare(search)
plan = prepared.plan
print(plan.fingerprint())
digest = hashlib.sha256()
for name, tensor in plan.tensors():
    digest.update(name.encode() + tensor.float().numpy().tobytes())
print(digest.hexdigest())
evaluator = Evaluator(prepared.setup(), "w")
result = evaluator.evaluate(Job("job", plan.recipe, "f", "dev"))
print([(i.id, i.scores, i.text) for i in result.items["math_th"]])
evaluator.close()
"""


@pytest.mark.parametrize("method", ["ties_sv", "dare_ties"])
def test_fresh_processes_agree(method: str, trio: Trio, tmp_path: Path) -> None:
    file = write_search(tmp_path, trio, merge_method=method)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(file)],
            env=environment(PYTHONHASHSEED=seed),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("\n") == 3
