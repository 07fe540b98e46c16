from __future__ import annotations

import json
import multiprocessing
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from merge_core import Checkpoint, CheckpointError, Recipe, Sources
from merge_core.checkpoint import INDEX_FILE, SINGLE_FILE, TensorSpec
from merge_core.references import locate, resolve_reference, split_reference
from tests.merge_core.conftest import CONFIG, SHAPES, make_model, recipe_data, write_checkpoint

NAME = "model.layers.0.mlp.up_proj.weight"


def sharded(path: Path, tensors: dict) -> Path:
    """The same checkpoint in two files with an index."""
    write_checkpoint(path, tensors)
    (path / SINGLE_FILE).unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, path / file)
    write_index(path, {name: file for file, part in files.items() for name in part})
    return path


def write_index(path: Path, weight_map: object) -> None:
    (path / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def edit_index(path: Path, **entries: object) -> None:
    index = json.loads((path / INDEX_FILE).read_text())["weight_map"]
    write_index(path, {**index, **entries})


def raw_file(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> None:
    size = len(header) if length is None else length
    (path / SINGLE_FILE).write_bytes(struct.pack("<Q", size) + header + data)


def error_of(make: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- reading


def test_sharded_equals_single(tmp_path: Path) -> None:
    tensors = make_model(0)
    single = Checkpoint.open(str(write_checkpoint(tmp_path / "one", tensors)))
    parts = Checkpoint.open(str(sharded(tmp_path / "two", tensors)))
    assert single.specs == parts.specs
    assert list(single.specs) == sorted(SHAPES)
    for name, tensor in tensors.items():
        assert single.specs[name] == TensorSpec(tuple(tensor.shape), tensor.dtype)
        assert torch.equal(single.tensor(name), tensor)
        assert torch.equal(parts.tensor(name), tensor)
    assert [file.name for file in parts.files] == ["a.safetensors", "b.safetensors"]
    assert set(parts.sha256()) == {"a.safetensors", "b.safetensors"}


def fingerprint_of(checkpoint: Checkpoint) -> float:
    return float(sum(checkpoint.tensor(name).double().sum() for name in checkpoint.specs))


def test_a_copy_works_in_a_spawned_process(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(str(sharded(tmp_path / "two", make_model(0))))
    expected = fingerprint_of(checkpoint)  # maps are open when it is pickled
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(fingerprint_of, (checkpoint,)) == expected


@pytest.mark.parametrize(
    ("config", "architecture", "layers"),
    [
        ({"architectures": ["A"], "num_hidden_layers": 3}, "A", 3),
        ({"model_type": "m", "n_layer": 4}, "m", 4),
        ({"architectures": [], "model_type": "m", "text_config": {"num_layers": 5}}, "m", 5),
        ({"architectures": None, "num_hidden_layers": 1}, "unknown", 1),
    ],
)
def test_configurations(tmp_path: Path, config: dict, architecture: str, layers: int) -> None:
    checkpoint = Checkpoint.open(str(write_checkpoint(tmp_path / "m", make_model(0), config)))
    assert (checkpoint.architecture, checkpoint.layers) == (architecture, layers)


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": 0}, {"text_config": None}])
def test_configurations_without_layers(tmp_path: Path, config: dict) -> None:
    checkpoint = Checkpoint.open(str(write_checkpoint(tmp_path / "m", make_model(0), config)))
    assert "has no num_hidden_layers" in error_of(lambda: checkpoint.layers)


# ---- bad folders


def no_folder(path: Path) -> None:
    shutil.rmtree(path)


def no_config(path: Path) -> None:
    (path / "config.json").unlink()


def broken_config(path: Path) -> None:
    (path / "config.json").write_text('{"a": ')


def binary_config(path: Path) -> None:
    (path / "config.json").write_bytes(b"\xff\xfe\x00")


def nested_config(path: Path) -> None:
    (path / "config.json").write_text("[" * 100_000)


def list_config(path: Path) -> None:
    (path / "config.json").write_text("[]")


def no_weights(path: Path) -> None:
    (path / SINGLE_FILE).unlink()


def only_pickle(path: Path) -> None:
    (path / SINGLE_FILE).rename(path / "pytorch_model.bin")


def cut_header(path: Path) -> None:
    file = path / SINGLE_FILE
    file.write_bytes(file.read_bytes()[:100])


def cut_data(path: Path) -> None:
    file = path / SINGLE_FILE
    file.write_bytes(file.read_bytes()[:-2])


def empty_file(path: Path) -> None:
    (path / SINGLE_FILE).write_bytes(b"")


def huge_header(path: Path) -> None:
    raw_file(path, b"{}", length=2**60)


def header_is_no_object(path: Path) -> None:
    raw_file(path, b"[1, 2]  ")


def header_is_no_json(path: Path) -> None:
    raw_file(path, b"\xff" * 16)


def one_tensor(offsets: list[int], shape: list[int] | None = None, dtype: str = "F32") -> bytes:
    entry = {"dtype": dtype, "shape": shape or [1], "data_offsets": offsets}
    return json.dumps({"x": entry}).encode()


def offsets_beyond(path: Path) -> None:
    raw_file(path, one_tensor([0, 4]), b"\0\0")


def offsets_backward(path: Path) -> None:
    raw_file(path, one_tensor([4, 0]), b"\0" * 4)


def offsets_overflow(path: Path) -> None:
    raw_file(path, one_tensor([2**64 - 4, 2**64]), b"\0" * 4)


def shape_overflow(path: Path) -> None:
    raw_file(path, one_tensor([0, 4], [2**32, 2**32]), b"\0" * 4)


def shape_disagrees(path: Path) -> None:
    raw_file(path, one_tensor([0, 4], [2]), b"\0" * 4)


def unknown_dtype(path: Path) -> None:
    raw_file(path, one_tensor([0, 4], [1], "X99"), b"\0" * 4)


def is_folder(path: Path) -> None:
    (path / SINGLE_FILE).unlink()
    (path / SINGLE_FILE).mkdir()


BROKEN = {
    no_folder: "no such folder",
    no_config: "config.json: no such file",
    broken_config: "config.json: cannot be read",
    binary_config: "config.json: cannot be read",
    nested_config: "config.json: cannot be read",
    list_config: "config.json: is not a JSON object",
    no_weights: "has neither model.safetensors nor",
    only_pickle: "pytorch_model.bin: is a pickle",
    cut_header: "model.safetensors: damaged or cut short",
    cut_data: "model.safetensors: damaged or cut short",
    empty_file: "model.safetensors: damaged or cut short",
    huge_header: "model.safetensors: damaged or cut short",
    header_is_no_object: "model.safetensors: damaged or cut short",
    header_is_no_json: "model.safetensors: damaged or cut short",
    offsets_beyond: "model.safetensors: damaged or cut short",
    offsets_backward: "model.safetensors: damaged or cut short",
    offsets_overflow: "model.safetensors: damaged or cut short",
    shape_overflow: "model.safetensors: damaged or cut short",
    shape_disagrees: "model.safetensors: damaged or cut short",
    unknown_dtype: "model.safetensors: damaged or cut short",
    is_folder: "has neither model.safetensors nor",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_bad_checkpoint_is_one_line_that_names_the_file(tmp_path: Path, damage) -> None:
    path = write_checkpoint(tmp_path / "model", make_model(0))
    damage(path)
    message = error_of(lambda: Checkpoint.open(str(path)))
    assert message.startswith(str(path))
    assert BROKEN[damage] in message


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("../x.safetensors", "only .safetensors files in the same folder"),
        ("/etc/x.safetensors", "only .safetensors files in the same folder"),
        ("sub/x.safetensors", "only .safetensors files in the same folder"),
        ("..", "only .safetensors files in the same folder"),
        ("", "only .safetensors files in the same folder"),
        ("pytorch_model.bin", "only .safetensors files in the same folder"),
        (3, "only .safetensors files in the same folder"),
        (None, "only .safetensors files in the same folder"),
        ("c.safetensors", "c.safetensors is missing from its folder"),
    ],
)
def test_an_index_reads_its_own_folder_only(tmp_path: Path, file: object, message: str) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    path = sharded(tmp_path / "model", make_model(0))
    edit_index(path, **{NAME: file})
    got = error_of(lambda: Checkpoint.open(str(path)))
    assert got.startswith(str(path / INDEX_FILE))
    assert message in got


def test_an_index_that_names_what_its_file_lacks(tmp_path: Path) -> None:
    path = sharded(tmp_path / "model", make_model(0))
    edit_index(path, nothing="a.safetensors")
    message = error_of(lambda: Checkpoint.open(str(path)))
    assert "a.safetensors: tensor nothing of the index is not in it" in message


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_an_index_without_a_map(tmp_path: Path, weight_map: object) -> None:
    path = sharded(tmp_path / "model", make_model(0))
    write_index(path, weight_map)
    assert "has no weight_map" in error_of(lambda: Checkpoint.open(str(path)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_that_are_not_mergeable(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = make_model(0)
    tensors[NAME] = tensors[NAME].to(dtype)
    path = write_checkpoint(tmp_path / "model", tensors)
    message = error_of(lambda: Checkpoint.open(str(path)))
    assert message.startswith(f"{path / SINGLE_FILE}: tensor {NAME} is F")
    assert "convert or dequantize" in message


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", make_model(0)) / SINGLE_FILE
    assert "is a file; name the model's folder" in error_of(lambda: Checkpoint.open(str(path)))


@pytest.mark.parametrize("reference", ["~nobody-of-this-name/x", "x" * 5000, "a/b/c/d", "a b"])
def test_references_that_cannot_be(reference: str) -> None:
    error_of(lambda: Checkpoint.open(reference))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "lora", "c++", "base+c"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("base+lora", ("base", "lora")),
        ("./base+~/lora", ("./base", "~/lora")),
        ("org/base@main+org/lora", ("org/base@main", "org/lora")),
        ("c+++lora", ("c++", "lora")),
        ("lora+c++", ("lora", "c++")),
        ("base", None),
        ("c++", None),
        ("base+c", None),
        ("base+", None),
        ("+lora", None),
        ("base+no/such/folder", None),
        ("base+lora+lora", None),
        ("base+~nobody-of-this-name", None),
        ("base+" + "x/" * 5000, None),
    ],
)
def test_a_reference_of_two_parts(folders: Path, reference: str, parts: tuple | None) -> None:
    assert split_reference(reference, folders) == parts


def test_references_resolve_part_by_part(folders: Path) -> None:
    def resolved(reference: str) -> str:
        return resolve_reference(reference, folders)

    assert resolved("base+lora") == f"{folders}/base+{folders}/lora"
    assert resolved("org/base+~/lora") == f"org/base+{folders}/lora"
    assert resolved("./base/../base+org/lora") == f"{folders}/base+org/lora"
    assert resolved("base+c") == f"{folders}/base+c"
    assert resolved(resolved("base+lora")) == resolved("base+lora")
    for unknown in ("org/base", "no/such/folder", "base+no/such/folder", "~nobody-of-this-name"):
        assert resolved(unknown) == unknown


def test_a_reference_that_reads_two_ways(folders: Path) -> None:
    (folders / "c+lora").mkdir()
    with pytest.raises(CheckpointError, match=r"base with c\+lora or base\+c with lora"):
        split_reference("base+c+lora", folders)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{}/base+{}/lora+{}/lora", "a base takes one adapter"),
        ("{}/base+no/such/folder", "no such folder: 'no/such/folder'"),
        ("{}/base+", "no such folder: ''"),
    ],
)
def test_references_of_parts_that_cannot_be(folders: Path, reference: str, message: str) -> None:
    reference = reference.replace("{}", str(folders))
    got = error_of(lambda: Checkpoint.open(reference))
    assert got.startswith(reference)
    assert message in got


def test_a_base_with_an_adapter_has_no_folder(folders: Path) -> None:
    message = error_of(lambda: locate(f"{folders}/base+{folders}/lora"))
    assert "a model with a folder of its own is needed here" in message


def test_a_hub_id_offline_fails_at_once(tmp_path: Path) -> None:
    code = (
        "from merge_core import Checkpoint, CheckpointError\n"
        "try: Checkpoint.open('org/no-such-model@main')\n"
        "except CheckpointError as error: print(error)\n"
    )
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("org/no-such-model@main: no such folder, and the hub does not")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_check_finite(tmp_path: Path, bad: float) -> None:
    tensors = make_model(0)
    checkpoint = Checkpoint.open(str(write_checkpoint(tmp_path / "good", tensors)))
    checkpoint.check_finite()
    tensors[NAME][16, 7] = bad
    checkpoint = Checkpoint.open(str(write_checkpoint(tmp_path / "bad", tensors)))
    message = error_of(checkpoint.check_finite)
    assert message.startswith(f"{tmp_path / 'bad' / SINGLE_FILE}: tensor {NAME} holds NaN")


# ---- sources that do not fit each other


def rewrite(path: Path, config: dict | None = None, vocab=("a", "b"), **changes) -> None:
    tensors = {**make_model(1), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    write_checkpoint(path, kept, config or CONFIG, vocab)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {**CONFIG, "architectures": ["Other"]}}, "is Other, but"),
        ({NAME: None}, f"lacks tensor {NAME}"),
        ({"extra.weight": torch.zeros(2)}, "has tensor extra.weight that"),
        ({NAME: torch.zeros(8, 17)}, f"tensor {NAME} has shape [8, 17], in"),
        ({NAME: torch.zeros(17, 8, dtype=torch.int32)}, f"tensor {NAME} is torch.int32, in"),
    ],
)
def test_mismatched_sources(trio_dirs: dict, changes: dict, message: str) -> None:
    rewrite(trio_dirs["language"], **changes)
    recipe = Recipe.parse(recipe_data(trio_dirs))
    got = error_of(lambda: Sources.open(recipe))
    assert got.startswith(str(trio_dirs["language"]))
    assert message in got


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": []}', '{"model": {"vocab": 3}}', "[[" * 99999]
)
def test_broken_tokenizers(trio_dirs: dict, text: str) -> None:
    (trio_dirs["language"] / "tokenizer.json").write_text(text)
    message = error_of(lambda: Sources.open(Recipe.parse(recipe_data(trio_dirs))))
    assert "tokenizer.json: is no tokenizer file" in message


def test_a_configuration_with_other_layers_than_the_weights(trio_dirs: dict) -> None:
    for path in trio_dirs.values():
        (path / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 5}))
    message = error_of(lambda: Sources.open(Recipe.parse(recipe_data(trio_dirs))))
    assert "speaks of 5 layers, but the weights hold 3 in model.layers" in message


def test_depths(trio_dirs: dict) -> None:
    sources = Sources.open(Recipe.parse(recipe_data(trio_dirs)))
    assert sources.depths == {
        name: 0.0 if "embed" in name else 1.0 if "norm" in name else int(name.split(".")[2]) / 2
        for name in SHAPES
    }
    assert set(sources.layers) == {name for name in SHAPES if "layers" in name}


def test_depth_of_a_single_layer_is_one(tmp_path: Path) -> None:
    tensors = {n: t for n, t in make_model(0).items() if ".1." not in n and ".2." not in n}
    tensors["lm_head.weight"] = torch.zeros(23, 8)
    config = {**CONFIG, "num_hidden_layers": 1, "tie_word_embeddings": False}
    path = write_checkpoint(tmp_path / "m", tensors, config)
    sources = Sources(None, [Checkpoint.open(str(path))])
    assert {n: t for n, t in sources.depths.items() if t == 0} == {"model.embed_tokens.weight": 0}
