"""What SECURITY.md promises: nothing of others runs, nothing secret leaves the process."""

from __future__ import annotations

import ast
import functools
import json
import logging
import os
import pickle
import re
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import search
from merge_core import Checkpoint, Recipe, Sources
from merge_core.errors import MergeError
from merge_core.yaml_io import load_yaml, parse_yaml
from objectives import TaskError
from objectives.engines.base import EngineError
from objectives.engines.config import TransformersConfig
from objectives.item_source import read_rows
from search import study as studies
from search.config import load
from search.console import typed
from search.describe import server
from search.errors import ConfigError
from search.figures import write
from search.live import Live
from search.run import Run, freeze, locked, logging_to
from search.secrets import (
    MASK,
    Formatter,
    expanded,
    held,
    hide_in_tracebacks,
    portable,
    redacted,
    said,
    without_password,
)
from search.view import BaselineView, RunView
from tests.merge_core.conftest import CONFIG, make_model, write_checkpoint
from tests.search.small import GOOD, CommandLine, make_workplace

ROOT = Path(__file__).resolve().parents[1]
OURS = sorted(
    path
    for package in ("merge_core", "objectives", "search", "configs")
    for path in (ROOT / package).rglob("*.py")
)
SECRET = "hunter2-hunter2"


class Payload:
    """Pickled, it makes a file when it is loaded: proof that code was run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there at the end."""
    path = tmp_path / "code was run"
    yield path
    assert not path.exists()


# --- Nothing of others is run --------------------------------------------------------------------


@functools.cache
def parsed(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Each call in a source file, by its dotted name."""
    for node in parsed(path):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


EXECUTES = {
    "merge_core/kernels/unroll.py",  # our own templates
    "objectives/sandbox/inside/start.py",  # the rest run inside a sandbox, which they say
    "objectives/scorers/code_answer.py",
    "objectives/scorers/code_checker.py",
    "objectives/scorers/code.py",
}


def test_our_sources_read_no_pickle_and_evaluate_no_text() -> None:
    found = []
    for path in OURS:
        place = path.relative_to(ROOT).as_posix()
        for node in parsed(path):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            names.append(getattr(node, "module", None) or "")
            if isinstance(node, ast.Import | ast.ImportFrom):
                bad = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "yaml"}
                found += [f"{place}: imports {n}" for n in names if n.split(".")[0] in bad]
        for name, call in calls(path):
            last = name.split(".")[-1]
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if name in ("torch.load", "pickle.loads", "pickle.load", "np.load", "numpy.load"):
                found.append(f"{place}: {name}")
            if name in ("eval", "exec") and place not in EXECUTES:
                found.append(f"{place}: {name}")
            if keywords.get("allow_pickle", "False") != "False":
                found.append(f"{place}: {name} allows pickles")
            if keywords.get("shell", "False") != "False" or name == "os.system":
                found.append(f"{place}: {name} starts a shell")
            if last == "YAML" and keywords.get("typ") == "'unsafe'":
                found.append(f"{place}: unsafe YAML")
    assert not found, "\n".join(found)


def test_no_code_that_comes_with_a_model_is_trusted() -> None:
    asked = {"AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "AutoProcessor", "AutoModel"}
    found = []
    for path in OURS:
        place = path.relative_to(ROOT).as_posix()
        for name, call in calls(path):
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
            trusted = keywords.get("trust_remote_code")
            if trusted not in (None, "False"):
                found.append(f"{place}: {name} trusts {trusted}")
            # Of what a search opens; the demo's own models are made on the spot.
            opens = name.split(".")[0] in asked and not place.startswith("search/demo/")
            if opens and "from_config" not in name and trusted is None:
                found.append(f"{place}: {name} leaves it to transformers")
            if name.startswith("AutoModel") and "from_pretrained" in name and opens:
                assert keywords.get("use_safetensors") == "True", place
    assert not found, "\n".join(found)


def test_no_server_of_ours_binds_to_more_than_this_machine() -> None:
    for path in OURS:
        text = path.read_text(encoding="utf-8")
        assert "0.0.0.0" not in text, path
        for name, call in calls(path):
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if name.endswith("ray.init"):
                assert keywords.get("include_dashboard", "False") == "False", path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_pickled_checkpoint_is_refused(name: str, tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / name).write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(MergeError, match="is a pickle, which can run code") as caught:
        Checkpoint.open(str(folder))
    assert "\n" not in str(caught.value)


def test_a_pickle_by_the_name_of_weights_is_refused(tmp_path: Path, mark: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", make_model(0))
    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(MergeError, match="damaged or cut short"):
        Checkpoint.open(str(folder))


def test_a_pickled_adapter_is_refused(tmp_path: Path, mark: Path) -> None:
    base = write_checkpoint(tmp_path / "base", make_model(0))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1})
    )
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(MergeError, match="is a pickle"):
        Checkpoint.open(f"{base}+{adapter}")


def test_a_prepared_table_that_is_a_pickle_is_made_anew(tmp_path: Path, mark: Path) -> None:
    paths = {
        n: str(write_checkpoint(tmp_path / n, make_model(s)))
        for n, s in zip("abc", range(3), strict=True)
    }
    data = {
        "merge_method": "della",
        "base_model": paths["a"],
        "models": [
            {"model": paths[n], "parameters": {"weight": 0.5, "density": 0.5}} for n in "bc"
        ],
    }
    recipe = Recipe.parse(data)

    def merged() -> dict[str, torch.Tensor]:
        from merge_core import MergePlan

        sources = Sources.open(recipe)
        sources.facts.keep(tmp_path / "prepared", ["0" * 64, "1" * 64, "2" * 64])
        return {name: t.clone() for name, t in MergePlan(recipe, sources).tensors()}

    before = merged()
    kept = [path for path in (tmp_path / "prepared").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        path.write_bytes(pickle.dumps(Payload(mark)))
    after = merged()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_items_are_text(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "items.jsonl").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(TaskError, match=r"not UTF-8|not JSON"):
        list(read_rows("items.jsonl", tmp_path))


def test_code_beside_a_model_is_not_run(tmp_path: Path, mark: Path) -> None:
    from objectives.engines.transformers import TransformersEngine

    folder = write_checkpoint(tmp_path / "model", make_model(0))
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(
        json.dumps({**CONFIG, "model_type": "own", "architectures": ["Own"], "auto_map": own})
    )
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    with pytest.raises(EngineError) as caught:
        TransformersEngine(TransformersConfig(device="cpu"), folder)
    assert "\n" not in str(caught.value)


# --- Paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        *("../secret.safetensors", "/etc/secret.safetensors", "sub/part.safetensors"),
        *("part.bin", "..", "", 7, None, ["part.safetensors"]),
    ],
)
def test_an_index_cannot_point_outside_its_folder(file: object, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({"x": torch.zeros(1)}, tmp_path / "secret.safetensors")
    index = {"weight_map": {"x": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MergeError, match=r"only .safetensors files in the same folder are read"):
        Checkpoint.open(str(folder))


def test_links_into_the_hubs_cache_and_to_other_models_are_read(tmp_path: Path) -> None:
    plain = write_checkpoint(tmp_path / "plain", make_model(0))
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(plain.iterdir()):
        blob = repository / "blobs" / f"{number:040x}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in plain.iterdir():
        (linked / file.name).symlink_to(file)
    expected = Checkpoint.open(str(plain)).specs
    assert Checkpoint.open(str(snapshot)).specs == expected
    assert Checkpoint.open(str(linked)).specs == expected


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja", "config.json"])
def test_a_link_to_a_file_of_no_model_is_refused(name: str, tmp_path: Path) -> None:
    """It would be copied into merges, and published with them."""
    folder = write_checkpoint(tmp_path / "model", make_model(0))
    private = tmp_path / "home" / ".docker"
    private.mkdir(parents=True)
    (private / "config.json").write_text('{"auths": "secret"}')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(private / "config.json")
    with pytest.raises(MergeError, match=f"{name}: is a link to .* which is no file of a model"):
        Checkpoint.open(str(folder))


def test_a_pipe_in_place_of_a_file_does_not_wait(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", make_model(0))
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(MergeError, match="no such file"):
        Checkpoint.open(str(folder))


def test_an_adapters_base_is_what_the_user_named(tmp_path: Path) -> None:
    """The path in adapter_config.json is its author's, and never opened."""
    base = write_checkpoint(tmp_path / "base", make_model(0))
    name = next(n for n, t in make_model(0).items() if t.ndim == 2 and "q_proj" in n)
    rows, columns = make_model(0)[name].shape
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    factors = {
        f"{stem}.lora_A.weight": torch.ones(1, columns),
        f"{stem}.lora_B.weight": torch.ones(rows, 1),
    }
    save_file(factors, adapter / "adapter_model.safetensors")
    plain = {
        "peft_type": "LORA",
        "r": 1,
        "lora_alpha": 1,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "../../../etc",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(plain))
    assert Checkpoint.open(f"{base}+{adapter}").specs == Checkpoint.open(str(base)).specs
    # Python's own matcher takes ages for these, and cannot be told to give up.
    slow = {**plain, "rank_pattern": {"([a-z0-9._]+)+!": 1, "(([a-z]|[.])+)+[?]": 1}}
    (adapter / "adapter_config.json").write_text(json.dumps(slow))
    began = time.monotonic()
    assert Checkpoint.open(f"{base}+{adapter}").adapter_config.rank_of(name * 3) == 1
    assert time.monotonic() - began < 60


def test_a_header_that_lies_about_its_length_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", make_model(0))
    for length in (1 << 62, 1 << 27, 0):
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(MergeError, match="damaged or cut short"):
            Checkpoint.open(str(folder))


# --- YAML ----------------------------------------------------------------------------------------


def bomb(width: int = 10, depth: int = 12) -> str:
    lines = ["a0: &a0 [" + ", ".join(["x"] * width) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * width) + "]" for i in range(1, depth)]
    return "\n".join(lines) + "\n"


def merging_bomb(depth: int = 40) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: 1}}" for i in range(1, depth)]
    return "\n".join(lines) + "\n"


def test_aliases_cannot_make_a_document_endless() -> None:
    began = time.monotonic()
    with pytest.raises(MergeError, match="more than 300,000 values"):
        parse_yaml(bomb(), Path("bomb.yaml"))
    parse_yaml(merging_bomb(), Path("merging.yaml"))  # keys that merge stay few
    assert time.monotonic() - began < 60


def test_yaml_makes_no_objects(mark: Path) -> None:
    text = (
        f"a: !!python/object/apply:pathlib.Path.touch [{str(mark)!r}]\nb: !!python/name:os.system\n"
    )
    data = parse_yaml(text, Path("x.yaml")).data
    assert all(type(value) in (list, str, type(None)) for value in data.values())


def test_a_file_too_large_for_yaml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as stream:
        stream.truncate(1 << 31)  # sparse: reading it would take all memory
    with pytest.raises(MergeError, match="too large"):
        load_yaml(file)


# --- Secrets -------------------------------------------------------------------------------------

LEAKS = [
    f"postgresql://bob:{SECRET}@db.host:5432/search",
    f"postgresql://bob@host/db?sslmode=require&sslpassword={SECRET}",
    f"host=db sslkey=/k sslpassword={SECRET}",
    f"postgresql+psycopg://bob:hu/nt:er@{SECRET}@host/db?sslmode=require",
    f"could not connect: (psycopg.OperationalError) 'postgresql://bob:{SECRET}@host/db' refused",
    f"mysql://:{SECRET}@host/db",
    f"http://user:{SECRET}@mlflow.host:5000/api",
    f"https://{SECRET}@host/path",
    f"https://host/path?api_key={SECRET}&x=1",
    f"https://host/path?x=1&token={SECRET}#part",
    f"https://bucket.host/k?X-Amz-Signature={SECRET}",
    f"host=db user=bob password={SECRET} dbname=x",
    f"Authorization: Bearer {SECRET}{SECRET}",
    f"authorization: Basic {SECRET}",
    f"MLFLOW_TRACKING_PASSWORD={SECRET}",
    f"{{'hf_token': '{SECRET}', 'x': 1}}",
    f'{{"api_key": "{SECRET}"}}',
    f"password: {SECRET}",
    "hf_abcdefghijklmnopqrstuvwxyz",
    "key sk-proj-abcdefghijklmnop1234",
]


@pytest.mark.parametrize("text", LEAKS)
def test_what_is_secret_is_not_written(text: str) -> None:
    told = redacted(text)
    assert SECRET not in told
    assert "abcdefghijklmnop" not in told
    assert MASK in told
    assert redacted(told) == told


@pytest.mark.parametrize(
    "text",
    [
        "generate: {max_tokens: 16384, temperature: 0.6}",
        "eos_token: </s>",
        "tokenizer_source: model:reasoning",
        "key_env: OPENAI_API_KEY",
        "http://127.0.0.1:5000/#/experiments/1?search=a@b",
        "sqlite:////home/me/runs/x/study.db",
        "postgresql://search@db/search",
        "postgresql://search:${PGPASSWORD}@db/search",
        "http://127.0.0.1:5000/experiments/1/runs/abc",
        "trial 3: TypeError: unexpected token: expected ','",
        "language.weight[2]: 0.75, 12 secrets of the trade",
        "scb10x/llama3.1-typhoon2-70b-instruct@main",
    ],
)
def test_what_is_not_secret_is_left_alone(text: str) -> None:
    assert redacted(text) == text


@settings(max_examples=30)
@given(
    st.text(
        st.characters(codec="ascii", exclude_characters="@ '\"\n\r\t$\x0b\x0c\x1c\x1d\x1e\x1f"),
        min_size=9,
        max_size=24,
    ).filter(str.isprintable)
)
def test_no_password_of_a_storage_is_written(password: str) -> None:
    url = f"postgresql://bob:{password}@host/db"
    assert f":{password}@" not in redacted(f"x {url} y")
    assert f":{password}@" not in without_password(url)
    assert f":{password}@" not in portable({"storage": url})["storage"]


VARIABLE = "${MERGEFRONT_STORAGE_PASSWORD}"


@pytest.mark.parametrize(
    ("url", "kept", "bare"),
    [
        (  # an @ behind the host
            f"postgresql://bob:{SECRET}@host:5432/db?options=a@b",
            f"postgresql://bob:{VARIABLE}@host:5432/db?options=a@b",
            "postgresql://bob@host:5432/db?options=a@b",
        ),
        (
            f"http://bob:{SECRET}@host/x?to=a@b",
            f"http://bob:{VARIABLE}@host/x?to=a@b",
            "http://host/x?to=a@b",
        ),
        (f"https://{SECRET}@host/x", f"https://{VARIABLE}@host/x", "https://host/x"),
        (
            f"postgresql://bob:{SECRET}@host/db?sslmode=require&sslpassword=other&x=1",
            f"postgresql://bob:{VARIABLE}@host/db?sslmode=require"
            "&sslpassword=${MERGEFRONT_STORAGE_SSLPASSWORD}&x=1",
            "postgresql://bob@host/db?sslmode=require&x=1",
        ),
        (
            f"postgresql:///db?host=/run&password={SECRET}",
            f"postgresql:///db?host=/run&password={VARIABLE}",
            "postgresql:///db?host=/run",
        ),
        (f"postgresql://bob:12/34{SECRET}@h/db", f"postgresql://bob:{VARIABLE}@h/db", None),
        ("postgresql://bob@host:5432/db?options=a@b", None, None),
        ("postgresql://bob:${OWN}@host/db", None, "postgresql://bob@host/db"),
        ("https://host:5000/x@y", None, None),
        ("sqlite:////data/a@b:c@d.db", None, None),
    ],
)
def test_what_a_run_keeps_of_a_url(url: str, kept: str | None, bare: str | None) -> None:
    assert portable({"storage": url})["storage"] == (url if kept is None else kept)
    assert bare is None or without_password(url) == bare
    assert SECRET not in without_password(url)
    names = re.findall(r"\$\{(MERGEFRONT_\w+)\}", kept or "")
    assert held({"storage": url}) == names


def test_values_of_the_environment_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "correct horse battery")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:staple%2Fstaple@host")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    assert redacted("it said 'correct horse battery' twice") == f"it said '{MASK}' twice"
    assert "staple" not in redacted("with staple%2Fstaple and staple/staple")
    assert redacted("abc") == "abc"


def test_a_variable_that_a_file_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PART", "a word of mine")
    assert expanded("postgresql://u:${DB_PART}@h/d", "storage").endswith(":a word of mine@h/d")
    assert "a word of mine" not in redacted("boom: a word of mine")
    monkeypatch.delenv("DB_PART")
    with pytest.raises(ConfigError, match="storage: the environment variable DB_PART is not set"):
        expanded("postgresql://u:${DB_PART}@h/d", "storage")


def test_logs_and_tracebacks_are_redacted(capsys: pytest.CaptureFixture) -> None:
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "at %s", (LEAKS[0],), None)
    assert SECRET not in Formatter().format(record)
    assert SECRET not in said(ValueError(LEAKS[0]))
    try:
        raise ValueError(LEAKS[0])
    except ValueError as error:
        record.exc_info = sys.exc_info()
        assert "ValueError" in Formatter().format(record)
        assert SECRET not in Formatter().format(record)
        before = sys.excepthook, threading.excepthook
        try:
            hide_in_tracebacks()
            sys.excepthook(ValueError, error, error.__traceback__)
            thread = threading.Thread(target=exec, args=(f"raise ValueError({LEAKS[0]!r})",))
            thread.start()
            thread.join()
        finally:
            sys.excepthook, threading.excepthook = before
    told = capsys.readouterr().err
    assert told.count("ValueError") >= 2
    assert SECRET not in told


def with_passwords(folder: Path) -> Path:
    """A search file whose URLs hold passwords."""
    make_workplace(folder)
    uri = f"http://bob:{SECRET}@127.0.0.1:9/"
    text = f"{GOOD}tracking: {{uri: '{uri}'}}\nstorage: postgresql://bob:{SECRET}@127.0.0.1:9/db\n"
    (folder / "search.yaml").write_text(text)
    return folder / "search.yaml"


def contents(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "\n".join(path.read_bytes().decode("latin-1") for path in files)


def test_a_run_keeps_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = with_passwords(tmp_path)
    opened = load(file)
    assert SECRET in opened.file.storage
    assert SECRET not in opened.text
    folder = tmp_path / "runs" / "search"
    references = [str(tmp_path / "models" / name) for name in ("base", "thai", "r1")]
    with locked(folder):
        run = Run.start(opened, folder, references, {"base": references[0]})
        with logging_to(run):
            logging.getLogger("mergefront").error("lost %s", run.storage)
    assert SECRET not in contents(folder)
    # Its copy is a search file: with the variable set it opens what the file opened.
    for name in ("STORAGE", "TRACKING"):
        monkeypatch.setenv(f"MERGEFRONT_{name}_PASSWORD", SECRET)
    again = Run.open(folder)
    assert again.storage == opened.file.storage
    assert again.tracking == opened.file.tracking.uri
    assert freeze(again.search) == freeze(opened)
    assert SECRET not in json.dumps(freeze(opened))
    monkeypatch.delenv("MERGEFRONT_STORAGE_PASSWORD")
    with pytest.raises(ConfigError, match="MERGEFRONT_STORAGE_PASSWORD is not set"):
        _ = Run.open(folder).storage
    monkeypatch.chdir(tmp_path)
    ended = CommandLine(monkeypatch, capsys)("status", "runs/search")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert SECRET not in ended.err + ended.out


def test_a_running_search_tells_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    set_ = f"storage=postgresql://bob:{SECRET}@host/db"
    monkeypatch.setattr(sys, "argv", ["mergefront", "run", "a.yaml", "--new", "--set", set_])
    assert typed(but="--new", more=["--name", "a 2"]) == (
        f"mergefront run a.yaml --set storage=postgresql://bob:{MASK}@host/db --name 'a 2'"
    )
    # Nor does what an earlier version has kept in clear.
    make_workplace(tmp_path)
    folder = tmp_path / "runs" / "search"
    with locked(folder):
        references = [str(tmp_path / "models" / name) for name in ("base", "thai", "r1")]
        opened = load(tmp_path / "search.yaml")
        run = Run.start(opened, folder, references, {"base": references[0]})
        studies.open_study(run).ask()
        studies.release(run)
    (folder / ".lock.holder").unlink()
    command = f"mergefront run --set {set_}"
    Live(at=2.0, began=1.0, phase="stopped", command=command).save(folder)
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--json"]):
        ended = CommandLine(monkeypatch, capsys)("status", "runs/search", *options)
        assert ended.code == 0, ended.err
        assert "postgresql://bob:" in ended.out
        assert SECRET not in ended.out


def test_the_tracking_servers_command_tells_nothing() -> None:
    command, environment = server(f"postgresql://bob:{SECRET}@host/db", "127.0.0.1", 5000)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert SECRET not in " ".join(command)
    assert SECRET in environment["MLFLOW_BACKEND_STORE_URI"]


# --- What is shown -------------------------------------------------------------------------------


def test_names_are_no_markup_in_a_plot(tmp_path: Path) -> None:
    make_workplace(tmp_path)
    evil = "</script><script>alert(1)</script><a href='javascript:alert(2)'>x</a>"
    run = Run(tmp_path / "runs" / "r", load(tmp_path / "search.yaml"), {"sources": {}})
    run.folder.mkdir(parents=True)
    study = optuna.create_study(directions=["maximize", "maximize"])
    held = BaselineView(evil, (0.3, 0.4), {}, {}, "", 0.0, 1.0, evil, 0, {}, {}, None, "", True)
    view = replace(RunView.of(run, study), baselines={f"recipe:{evil}": held})
    page = write(view, tmp_path)[-1].read_text(encoding="utf-8")
    assert evil not in page
    assert "<script>alert" not in page
    assert "\\u003ca href" not in page  # which plotly would read as markup
    assert "&lt;a href" in page.replace("\\u0026", "&") or "&amp;lt;a href" in page


def test_every_module_of_ours_was_looked_at() -> None:
    assert len(OURS) > 100
    assert Path(search.__file__) in OURS
