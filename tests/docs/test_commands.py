"""Every command that README, the pages and `--help` show is run, or stands here with a reason.

They name a run `thai` and files beside it: here that is a small search on the demo's models. Each
command is run there, in this process, and what it writes is taken away again. Searches get
`--dry-run`: all is read, nothing is tried. A page marks what is not run where it stands
(`examples.py` says how); docs/cli.md is made from the help texts and cannot, so those are here.
"""

import inspect
import json
import re
import shlex
import shutil
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from search.cli import options
from search.demo import write_items
from search.lease import holder_file
from search.run import LOCK
from tests.docs.conftest import CALLERS, shell
from tests.docs.examples import ROOT, fences
from tests.search.small import CommandLine

REFERENCE = ROOT / "docs" / "cli.md"
CLUSTER = "no cluster here: tests/search/test_submit.py has one"
HUB = "the hub: tests/search/test_export.py stands in for it"
WATCH = "mergefront status runs/thai --watch"
NOT_RUN = {
    "mergefront demo": "minutes; the quick start's is the same with fewer trials",
    "mergefront demo --trials 12 --workers 1": "the quick start's first, with one worker less",
    "mergefront confirm runs/thai --baseline checkpoint:models/ct-then-sft": (
        "starts workers; docs/resume.md has another baseline confirmed"
    ),
    WATCH: "only for terminals: below",
    "mergefront ui runs/thai --port 5001": "a server that runs until it is stopped",
    "mergefront export runs/thai --model merged --push my-org/thai-r1": HUB,
    "mergefront sync runs/thai --tracking-uri http://mlflow.example:5000": (
        "another machine's server: tests/search/test_sync.py starts one"
    ),
    "mergefront submit thai.yaml --runs /shared/runs --address http://head:8265": CLUSTER,
    "mergefront job status --address http://head:8265": CLUSTER,
    "mergefront job logs mergefront-thai --follow": CLUSTER,
    "mergefront job stop mergefront-thai": CLUSTER,
    "mergefront experiment ct-then-sft": "minutes: tests/experiments",
    "mergefront experiment slack --config mine/slack.yaml --out results/slack": (
        "minutes: tests/experiments"
    ),
}
"""Of the examples in `--help`: why not."""
REFUSED = {"mergefront export runs/thai --mergekit -o mergekit.yml": "ties_sv"}
"""What ends with exit code 2 on this run, and what is said then."""
HELP = [
    command for fence in fences() if fence.page == REFERENCE for command in fence.commands
] + re.findall(r"Example: (mergefront .+)", inspect.getdoc(options) or "")
SHOWN = [command for fence in fences() if fence.page != REFERENCE for command in fence.run()] + [
    command for command in HELP if command not in NOT_RUN
]
MODELS = {"models/thai": "language", "models/r1": "reasoning", "models/ct-then-sft": "language"}
MODELS |= {"meta-llama/Llama-3.1-8B": "base", "models/base": "base"}
SIZES = {"dev": 16, "confirm": 40, "test": 16}
MERGE = """\
merge_method: ties
base_model: models/base
models:
  - {model: models/thai, parameters: {weight: 0.6, density: 0.3}}
  - {model: models/r1, parameters: {weight: 0.6, density: 0.3}}
"""
SMALL = {
    r"max_tokens: 2048": "max_tokens: 40",
    r"{kind: transformers}": "{kind: transformers, device: cpu}",
    r"splits: {[^}]*}": f"splits: {json.dumps(SIZES)}",
    r"confirm: {max: 8}": "confirm: {max: 5}",
    r"baselines: \[[^]]*\]": "baselines: [uniform]",
    r"trials: 120": "trials: 26",
    r"workers: {}": "workers: {count: 1, cpus: 1}",
    r"sampler: {[^}]*}": "sampler: random",
}
"""Of the file that `init` writes: what makes a search of it one of seconds."""


@pytest.fixture(scope="session")
def thai(trio, tmp_path_factory) -> Path:
    """Where `mergefront init` and `mergefront run thai.yaml` were run, with what commands name."""
    folder = tmp_path_factory.mktemp("thai")
    for name, role in MODELS.items():
        shutil.copytree(getattr(trio, role), folder / name)
    write_items(folder / "th.jsonl", **SIZES)
    (folder / "data").mkdir()
    shutil.copy(folder / "th.jsonl", folder / "data")
    (folder / "merge.yaml").write_text(MERGE, encoding="utf-8")
    given = "--base models/base --language models/thai --reasoning models/r1 --items th.jsonl"
    done = shell(f"mergefront init thai.yaml {given}", folder)
    assert done.returncode == 0, done.stdout
    text = (folder / "thai.yaml").read_text(encoding="utf-8")
    for old, new in SMALL.items():
        text, count = re.subn(old, new, text)
        assert count == 1, old
    (folder / "thai.yaml").write_text(text, encoding="utf-8")
    done = shell("mergefront run thai.yaml --set racing=false", folder)
    assert done.returncode == 0, done.stdout
    shutil.copy(folder / "runs" / "thai" / "recipe.yaml", folder)
    for name in ("thai-70b", "narrowed", "thai2", "search"):
        shutil.copy(folder / "thai.yaml", folder / f"{name}.yaml")
    return folder


def written(words):
    """The files and folders that a command makes."""
    makes = ("-o", "--out", "--model", "--plot")
    found = [after for word, after in pairwise(words) if word in makes]
    if words[0] == "init":
        found.append(words[1] if len(words) > 1 else "search.yaml")
    if words[0] == "merge":
        found.append(words[2])
    return found


@contextmanager
def room(folder, names, aside):
    """The names are free in the folder, which is afterwards as it was."""
    before = set(folder.iterdir())
    for path in (kept := before & {folder / name for name in names}):
        path.rename(aside / path.name)
    try:
        yield
    finally:
        for path in (set(folder.iterdir()) - before) | kept:
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
        for path in kept:
            (aside / path.name).rename(path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", list(dict.fromkeys(SHOWN)))
def test_a_command_that_is_shown_does_its_work(command, thai, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(thai)
    monkeypatch.setenv("COLUMNS", "110")
    for name in CALLERS:
        monkeypatch.delenv(name, raising=False)
    words, _, file = command.partition(" > ")
    program, *words = shlex.split(words)
    assert program == "mergefront", f"not run by this test: say why above its fence: {command}"
    if words[0] == "run":
        words.append("--dry-run")
    made = written(words)
    with room(thai, made, tmp_path):
        ended = CommandLine(monkeypatch, capsys)(*words)
        missing = [name for name in made if not Path(name).exists()]
    # A command's process ends, and this one lives on: it would be taken for one at work.
    holder_file(thai / "runs" / "thai" / LOCK).unlink(missing_ok=True)
    if command in REFUSED:
        assert ended.code == 2
        assert REFUSED[command] in ended.err
        return
    assert ended.code == 0, ended.out + ended.err
    assert ended.out or ended.err
    assert missing == []
    if file:
        json.loads(ended.out)


def test_watching_a_run_ends_with_it(thai):
    done = shell(f"FORCE_COLOR=1 TERM=xterm {WATCH}", thai)
    assert done.returncode == 0, done.stdout
    assert ": finished " in done.stdout


def test_what_is_not_run_is_still_shown():
    assert sorted(NOT_RUN.keys() - set(HELP)) == []
    assert sorted(REFUSED.keys() - set(SHOWN)) == []
