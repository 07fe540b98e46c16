"""The size plan: by hand for 70B, from real headers as from packaged ones, as printed."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import LlamaConfig

from benchmarks.headers import MODELS, SHARED, SOURCE, facts, write
from merge_core import TensorSpec
from merge_core.errors import CheckpointError
from merge_core.writing import safetensors_header
from search.config import load
from search.errors import ConfigError
from search.headers import HeaderReader, spread
from search.size_plan import GB, PLACES, Rates, best, model_of, numbers, planned
from tests.search.small import CommandLine

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "configs" / "typhoon2_r1_70b.yaml"
LAYERS, HIDDEN, INNER, VOCABULARY, KEYS = 80, 8192, 28672, 128256, 1024
SMALL = LlamaConfig(
    vocab_size=320,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=False,
)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


# --- 70B, by hand --------------------------------------------------------------------------------


def test_70b_has_the_published_size() -> None:
    matrices = 2 * VOCABULARY * HIDDEN
    matrices += LAYERS * HIDDEN * (2 * HIDDEN + 2 * KEYS + 3 * INNER)
    norms = (2 * LAYERS + 1) * HIDDEN
    found = HeaderReader().read("meta-llama/Llama-3.1-70B")
    assert matrices + norms == 70_553_706_496
    assert sum(spec.numel for spec in found.specs.values()) == 70_553_706_496
    assert (found.nbytes, len(found.specs)) == (141_107_412_992, 723)
    assert found.origin == "packaged"


def test_70b_by_hand() -> None:
    model, headers = model_of(load(FILE), HeaderReader())
    norms = 2 * (2 * LAYERS + 1) * HIDDEN  # bytes, on every GPU
    matrices = 141_107_412_992 - norms
    assert model.on(8) == matrices // 8 + norms == 17_640_734_720
    assert model.on(4) == matrices // 4 + norms
    assert model.sources_on(8) == 3 * model.on(8)
    assert model.kv == 2 * LAYERS * KEYS * 2 == 327_680
    assert model.answers == ((128, 16384),) * 3
    assert [h.origin for h in headers] == ["packaged"] * 3

    eight = planned(model, 8, 141 * GB, 8, "device", Rates.of(141 * GB))
    assert eight.fits
    assert eight.live + eight.resident == 4 * 17_640_734_720  # 70.6 GB, as DESIGN says
    assert eight.room == pytest.approx(0.9 * 141e9 - 4e9 - 4 * 17_640_734_720)
    assert eight.merge == pytest.approx(4 * 17_640_734_720 / 4.3e12)  # 16 ms
    assert (eight.streamed, eight.host, eight.workers) == (0, 0, 1)

    four = planned(model, 4, 141 * GB, 4, "pinned", Rates.of(141 * GB))
    assert four.fits
    assert four.streamed == 3 * model.on(4)
    assert four.merge == pytest.approx(3 * model.on(4) / 50e9)  # 2.1 s
    assert four.host == 3 * 141_107_412_992

    # A trial: 384 answers of 4,096 tokens. 256 at once have room: 256 x (512 + 2048) tokens of
    # context, each 327,680 / 8 bytes on a GPU, are read with the live model at .6 x 4.3 TB/s;
    # computing 2 x 70.6e9 x 256 / 8 takes .0113 s.
    context = 256 * (512 + 2048) * 327_680 / 8
    reads = (17_640_734_720 + context) / (0.6 * 4.3e12)
    step = max(reads, 2 * 70_553_706_496 * 256 / 8 / 4e14) + 0.005
    assert eight.rate == pytest.approx(256 / step)
    prompts = 2 * 70_553_706_496 * 384 * 512 / 8 / 4.95e14  # 7.0 s to read all prompts
    assert eight.trial == pytest.approx(eight.merge + prompts + 384 * 4096 * step / 256)
    assert eight.trials == int(36_000 / eight.trial)


def test_what_fits_where() -> None:
    model, _ = model_of(load(FILE), HeaderReader())
    fits = {
        (gpus, memory, where): best(model, gpus, memory * GB, where, Rates.of(memory * GB)).fits
        for gpus in (4, 8)
        for memory in (80, 141)
        for where in PLACES
    }
    assert [key for key, fit in fits.items() if not fit] == [
        (4, 80, "device"),
        (4, 141, "device"),
        (8, 80, "device"),
    ]
    one = planned(model, 1, 141 * GB, 1, "mapped", Rates.of(141 * GB))
    assert not one.fits


def test_trimming_and_slack_read_the_sources_again() -> None:
    once, _ = model_of(load(FILE), HeaderReader())
    settings = ["merge_method=ties_sv", "models.1.parameters.slack={low: 0.0, high: 1.0}"]
    settings.append("baselines=[base]")
    model, _ = model_of(load(FILE, settings), HeaderReader())
    assert (once.passes, model.passes) == (1, 3)
    plan = planned(model, 4, 141 * GB, 4, "pinned", Rates.of(141 * GB))
    assert plan.streamed == 3 * 3 * model.on(4)
    assert plan.merge == pytest.approx(9 * model.on(4) / 50e9)


def test_keys_are_on_no_more_gpus_than_they_have_heads() -> None:
    model, _ = model_of(load(FILE), HeaderReader())
    keys = 2 * LAYERS * KEYS * HIDDEN * 2  # bytes of k_proj and v_proj
    norms = 2 * (2 * LAYERS + 1) * HIDDEN
    assert model.on(16) == (141_107_412_992 - norms - keys) // 16 + keys // 8 + norms


# --- Headers -------------------------------------------------------------------------------------


def sparse(folder: Path, specs: dict[str, TensorSpec], shards: int = 2) -> Path:
    """A checkpoint whose files have headers and no bytes on disk behind them."""
    folder.mkdir(parents=True)
    names = sorted(specs)
    weight_map = {}
    for shard in range(shards):
        held = {name: specs[name] for name in names[shard::shards]}
        file = folder / f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header = safetensors_header(held)
        with file.open("wb") as stream:
            stream.write(header)
            stream.truncate(len(header) + sum(spec.nbytes for spec in held.values()))
        weight_map |= dict.fromkeys(held, file.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(SMALL.to_dict() | {"architectures": ["Llama"]}))
    return folder


def test_packaged_facts_equal_the_headers_of_files(tmp_path: Path) -> None:
    data = facts(SMALL, ["org/small"], "a test")
    write(tmp_path / "small.json", data)
    packaged = spread(json.loads((tmp_path / "small.json").read_text()))
    read = HeaderReader().read(str(sparse(tmp_path / "model", packaged)))
    assert read.origin == "folder"
    assert read.specs == packaged
    assert sum(1 for name in packaged if ".q_proj." in name) == 3


@pytest.mark.parametrize("name", MODELS)
def test_what_is_packaged_is_what_the_class_has(name: str) -> None:
    data = json.loads((ROOT / "configs" / "headers" / f"{name}.json").read_text())
    numbers, models = MODELS[name]
    assert facts(LlamaConfig(**numbers, **SHARED), models, SOURCE) == data


class Hub(BaseHTTPRequestHandler):
    """What the hub answers: files by range."""

    folder: Path
    sent: list[int]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        parts = self.path.split("?")[0].split("/")  # /org/name/resolve/revision/file
        file = self.folder / parts[-1]
        if parts[1:4] != ["org", "small", "resolve"] or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = file.stat().st_size
        first, last = 0, size - 1
        asked = self.headers.get("Range")
        if asked:
            start, _, stop = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(stop or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha1(file.name.encode()).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(last - first + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if body:
            with file.open("rb") as stream:
                stream.seek(first)
                self.wfile.write(stream.read(last - first + 1))
            self.sent.append(last - first + 1)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    specs = spread(facts(SMALL, [], "a test"))
    # One tensor is large, so that what is fetched shows that it was not.
    specs["model.embed_tokens.weight"] = TensorSpec((2_000_000, 64), specs["lm_head.weight"].dtype)
    handler = type("Own", (Hub,), {"folder": sparse(tmp_path / "hub", specs), "sent": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.sent
    server.shutdown()
    server.server_close()


def test_headers_come_from_the_hub_by_ranges(
    hub: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    url, sent = hub
    found = HeaderReader(url).read("org/small@main")
    assert found.origin == "hub"
    assert found.specs == HeaderReader().read(str(tmp_path / "hub")).specs
    assert found.nbytes > 250_000_000
    assert sum(sent) < 300_000
    assert found.config["num_hidden_layers"] == 3
    with pytest.raises(CheckpointError, match="no such folder, and the hub does not give it"):
        HeaderReader(url).read("org/other")


def test_half_a_model_in_the_cache_is_not_the_model(
    hub: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, _ = hub
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    cached = tmp_path / "cache" / "models--org--small"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    snapshot = cached / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    specs = HeaderReader().read(str(tmp_path / "hub")).specs
    index = tmp_path / "hub" / "model.safetensors.index.json"
    first, second = sorted((tmp_path / "hub").glob("*.safetensors"))
    for file, origin in ((first, "hub"), (index, "hub"), (second, "folder")):
        link = snapshot / file.name
        link.unlink(missing_ok=True)  # the hub's reader keeps the index itself
        link.symlink_to(file)
        found = HeaderReader(url).read("org/small")
        assert (found.origin, found.specs) == (origin, specs)


def test_a_hub_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    reader = HeaderReader("http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="org/none: no such folder, and the hub cannot be"):
        reader.read("org/none")
    packaged = reader.read("scb10x/llama3.1-typhoon2-70b-instruct@main")
    assert packaged.origin == "packaged"
    assert "the hub cannot be reached" in packaged.why


def test_a_header_that_is_cut_short_is_one_line(tmp_path: Path) -> None:
    folder = sparse(tmp_path / "model", spread(facts(SMALL, [], "a test")))
    file = next(folder.glob("*.safetensors"))
    length = struct.unpack("<Q", file.read_bytes()[:8])[0]
    with file.open("r+b") as stream:
        stream.truncate(8 + length + 10)
    with pytest.raises(CheckpointError, match="cut short"):
        HeaderReader().read(str(folder))


# --- As it is printed ----------------------------------------------------------------------------


def test_check_prints_the_plan_of_70b_from_headers_alone(mergefront: CommandLine) -> None:
    ended = mergefront("check", FILE)
    for gpus in (4, 8):
        for memory in (80, 141):
            assert ended.out.count(f"{gpus} x {memory} GB ") == 3
    for words in (
        "computed from headers, not measured",
        "architecture's published numbers",
        "HF_HUB_OFFLINE",
        "70.6B parameters",
        "does not fit",
        "trials in 10 h",
        "assumed:",
    ):
        assert words in ended.out
    # What needs items and tokenizers comes after it, and they are not here.
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "data/math_train_en.jsonl: no such item file" in ended.err


def test_check_plans_for_what_it_is_asked(mergefront: CommandLine) -> None:
    ended = mergefront("check", FILE, "--gpus", "16", "--gpu-memory", "192")
    assert ended.out.count("16 x 192 GB ") == 3
    assert "8 x 80 GB" not in ended.out
    ended = mergefront("check", FILE, "--gpus", "4,x")
    assert (ended.code, ended.out) == (2, "")
    assert "--gpus 4,x: write numbers with commas between" in ended.err


@pytest.mark.parametrize("text", ["", "0", "-1", "1,", "nan", "inf", "2.5"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="write numbers with commas"):
        numbers("--gpus", text)


def test_a_small_model_is_planned_for_only_when_asked(
    mergefront: CommandLine, tmp_path: Path
) -> None:
    from tests.search.small import make_workplace

    file = make_workplace(tmp_path) / "search.yaml"
    assert "size plan" not in mergefront("check", file).out
