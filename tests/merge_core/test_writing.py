from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from merge_core import (
    Checkpoint,
    CheckpointError,
    MergePlan,
    NonFiniteError,
    Recipe,
    write_merge,
)
from merge_core.checkpoint import DTYPES, INDEX_FILE, TensorSpec
from merge_core.mergekit import load_mergekit
from merge_core.writing import safetensors_header, shard, write_skeleton
from tests.merge_core.conftest import CONFIG, make_model, merged_by, recipe_data, write_checkpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def plan_of(dirs: dict, *args, dtype: str | None = None, **kwargs) -> MergePlan:
    data = recipe_data(dirs, *args, **kwargs) | ({"dtype": dtype} if dtype else {})
    return MergePlan(Recipe.parse(data))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---- bytes


def test_the_file_is_what_save_file_writes(trio_dirs: dict, tmp_path: Path) -> None:
    plan = plan_of(trio_dirs, parameters={"density": 0.5})
    write_merge(plan, tmp_path / "out")
    save_file(merged_by(plan), tmp_path / "golden", metadata={"format": "pt"})
    written = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert written == (tmp_path / "golden").read_bytes()


def test_all_dtypes_are_laid_out_as_save_file_does(trio_dirs: dict, tmp_path: Path) -> None:
    extra = {
        f"model.{prefix}.{dtype}".replace("torch.", ""): torch.ones(3, dtype=dtype)
        for prefix in ("z", 'a"\\\u0e20\x7f')  # names that JSON escapes, or must not
        for dtype in DTYPES.values()
    }
    extra |= {"model.none": torch.zeros(0, 3), "model.scalar": torch.tensor(1.0)}
    for path in trio_dirs.values():
        write_checkpoint(path, {**load_file(path / "model.safetensors"), **extra})
    plan = plan_of(trio_dirs)
    assert {spec.dtype for spec in plan.specs().values()} == set(DTYPES.values())
    write_merge(plan, tmp_path / "out")
    save_file(merged_by(plan), tmp_path / "golden", metadata={"format": "pt"})
    written = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert written == (tmp_path / "golden").read_bytes()


def test_shards_are_filled_in_name_order() -> None:
    specs = {
        name: TensorSpec((size,), torch.int8)
        for name, size in zip("abcd", (5, 5, 20, 1), strict=True)
    }
    assert shard(specs, 10) == [["a", "b"], ["c"], ["d"]]
    assert shard(specs, 1) == [["a"], ["b"], ["c"], ["d"]]
    assert shard(specs, 100) == [["a", "b", "c", "d"]]
    assert len(safetensors_header(specs)) % 8 == 0


def test_sharded_output(trio_dirs: dict, tmp_path: Path) -> None:
    plan = plan_of(trio_dirs, parameters={"density": 0.5})
    seen: list[tuple[int, int]] = []
    write_merge(
        plan, tmp_path / "out", max_shard_bytes=600, progress=lambda *pair: seen.append(pair)
    )
    index = json.loads((tmp_path / "out" / INDEX_FILE).read_text())
    total = sum(spec.nbytes for spec in plan.specs().values())
    assert index["metadata"]["total_size"] == total
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, 5)]
    for file in files:
        with safe_open(tmp_path / "out" / file, "pt") as part:
            assert part.metadata() == {"format": "pt"}
            assert set(part.keys()) == {n for n, f in index["weight_map"].items() if f == file}
    again = Checkpoint.open(str(tmp_path / "out"))
    for name, tensor in plan.tensors():
        assert torch.equal(again.tensor(name), tensor)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


SCRIPT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(int(sys.argv[1]))
from merge_core import MergePlan, Recipe, write_merge
write_merge(MergePlan(Recipe.load(Path(sys.argv[2]))), Path(sys.argv[3]))
"""


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


def test_fresh_processes_give_the_same_bytes(trio_dirs: dict, tmp_path: Path) -> None:
    """Whatever the hash seed and the number of threads."""
    for path in trio_dirs.values():  # large enough for torch to share work among threads
        tensors = load_file(path / "model.safetensors")
        big = tensors[EMBEDDING].repeat(1, 512).float() * torch.linspace(0.5, 1.5, 4096)
        write_checkpoint(path, {**tensors, EMBEDDING: big.bfloat16()})
    data = recipe_data(trio_dirs, "dare_ties", {"density": 0.5, "slack": 0.3}) | {"seed": 9}
    Recipe.parse(data).save(tmp_path / "r.yaml")
    made = []
    for seed, threads in (("1", "1"), ("2", "2")):
        out = tmp_path / f"out{seed}"
        env = {**os.environ, "PYTHONHASHSEED": seed}
        arguments = [sys.executable, "-c", SCRIPT, threads, str(tmp_path / "r.yaml"), str(out)]
        subprocess.run(arguments, env=env, check=True, timeout=100)
        made.append(digests(out))
    assert made[0] == made[1]


# ---- all or nothing


def test_an_existing_folder_is_refused(trio_dirs: dict, tmp_path: Path) -> None:
    for out in (tmp_path / "file", tmp_path / "folder"):
        if out.name == "file":
            out.write_text("mine")
        else:
            out.mkdir()
        with pytest.raises(CheckpointError, match="exists already; name a new folder"):
            write_merge(plan_of(trio_dirs), out)
    assert (tmp_path / "file").read_text() == "mine"
    assert not names_in(tmp_path / "folder")


def test_a_place_that_cannot_be_written(trio_dirs: dict, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written: ") as caught:
        write_merge(plan_of(trio_dirs), tmp_path / "file" / "out")
    assert "\n" not in str(caught.value)


def test_a_failing_merge_leaves_nothing_behind(trio_dirs: dict, tmp_path: Path) -> None:
    before = names_in(tmp_path)
    plan = plan_of(trio_dirs, "task_arithmetic", {"lambda": 1e30}, language={"weight": 3e38})
    with pytest.raises(NonFiniteError):
        write_merge(plan, tmp_path / "out", max_shard_bytes=100)
    assert names_in(tmp_path) == before

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_merge(plan_of(trio_dirs), tmp_path / "out", progress=interrupt)
    assert names_in(tmp_path) == before


def test_a_full_disk_is_one_line(trio_dirs: dict, tmp_path: Path) -> None:
    def full(done: int, total: int) -> None:
        raise OSError(28, "No space left on device")

    before = names_in(tmp_path)
    with pytest.raises(CheckpointError, match="out: cannot be written: No space left on device"):
        write_merge(plan_of(trio_dirs), tmp_path / "out", progress=full)
    assert names_in(tmp_path) == before


def test_sources_with_nan_are_not_merged(trio_dirs: dict, tmp_path: Path) -> None:
    """An election would hide the NaN: it is never kept."""
    tensors = load_file(trio_dirs["language"] / "model.safetensors")
    tensors[EMBEDDING][0, 0] = float("nan")
    write_checkpoint(trio_dirs["language"], tensors)
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        write_merge(plan_of(trio_dirs), tmp_path / "out")
    assert "out" not in names_in(tmp_path)


# ---- what stands beside the weights


def test_the_files_beside_the_weights(trio_dirs: dict, tmp_path: Path) -> None:
    write_merge(plan_of(trio_dirs, parameters={"density": 0.5}), tmp_path / "out")
    assert names_in(tmp_path / "out") == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "recipe.yaml",
        "mergekit_config.yml",
        "README.md",
    }
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    written = Recipe.load(tmp_path / "out" / "recipe.yaml")
    assert (
        written.fingerprint()
        == plan_of(trio_dirs, parameters={"density": 0.5}).recipe.fingerprint()
    )
    again, _ = load_mergekit(tmp_path / "out" / "mergekit_config.yml")
    assert [e.model for e in again.models] == [e.model for e in written.models]


def test_no_file_tells_where_a_source_was_saved(trio_dirs: dict, tmp_path: Path) -> None:
    place = "/home/someone/secret/base"
    told = {"_name_or_path": place, "name_or_path": place, "tokenizer_file": place}
    for name, file in (("base", "config.json"), ("base", "tokenizer_config.json")):
        path = trio_dirs[name] / file
        had = json.loads(path.read_text()) if path.is_file() else {"model_max_length": 8}
        path.write_text(json.dumps({**had, **told, "text": {**told, "kept": 1}}))
    write_merge(plan_of(trio_dirs), tmp_path / "out")
    for file in ("config.json", "tokenizer_config.json"):
        written = json.loads((tmp_path / "out" / file).read_text())
        assert not written.keys() & told.keys()
        assert written["text"] == {"kept": 1}
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 8
    # A vocabulary may hold any word.
    (trio_dirs["base"] / "vocab.json").write_text('{"name_or_path": 1}')
    write_merge(plan_of(trio_dirs), tmp_path / "again")
    assert (tmp_path / "again" / "vocab.json").read_text() == '{"name_or_path": 1}'


def test_the_recipe_beside_the_weights_makes_the_same_bytes(trio_dirs, tmp_path) -> None:
    write_merge(plan_of(trio_dirs, "dare_ties", {"density": 0.5}), tmp_path / "one")
    recipe = Recipe.load(tmp_path / "one" / "recipe.yaml")
    write_merge(MergePlan(recipe), tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize("method", ["ties_sv", "dare_ties"])
def test_what_mergekit_lacks_has_no_mergekit_config(trio_dirs, tmp_path, method) -> None:
    write_merge(plan_of(trio_dirs, method), tmp_path / "out")
    assert "mergekit_config.yml" not in names_in(tmp_path / "out")
    assert "recipe.yaml" in names_in(tmp_path / "out")


def test_the_card(trio_dirs: dict, tmp_path: Path) -> None:
    write_merge(plan_of(trio_dirs), tmp_path / "out")
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    data = yaml.safe_load(front)
    assert "base_model" not in data  # folders of this machine are none of the hub's
    assert data["tags"] == ["merge", "mergekit", "mergefront", "ties"]
    assert str(tmp_path) not in text + front
    write_merge(plan_of(trio_dirs), tmp_path / "own", card="mine\n")
    assert (tmp_path / "own" / "README.md").read_text() == "mine\n"


@pytest.mark.parametrize("keys", [("dtype",), ("torch_dtype",), ("dtype", "torch_dtype"), ()])
def test_the_config_tells_the_dtype(trio_dirs: dict, tmp_path: Path, keys: tuple) -> None:
    config = {k: v for k, v in CONFIG.items() if k != "dtype"} | dict.fromkeys(keys, "bfloat16")
    (trio_dirs["base"] / "config.json").write_text(json.dumps(config))
    write_merge(plan_of(trio_dirs, dtype="float16"), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == config | dict.fromkeys(keys or ("dtype",), "float16")
    write_merge(plan_of(trio_dirs), tmp_path / "same")
    assert json.loads((tmp_path / "same" / "config.json").read_text()) == config


def test_the_tokenizer_comes_whole_from_its_source(trio_dirs: dict, tmp_path: Path) -> None:
    (trio_dirs["reasoning"] / "chat_template.jinja").write_text("reasoning's")
    (trio_dirs["reasoning"] / "generation_config.json").write_text('{"top_p": 0.95}')
    extra = trio_dirs["reasoning"] / "additional_chat_templates"
    extra.mkdir()
    (extra / "tool.jinja").write_text("tool")
    data = recipe_data(trio_dirs) | {"tokenizer_source": "model:reasoning"}
    write_merge(MergePlan(Recipe.parse(data)), tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "reasoning's"
    assert (tmp_path / "out" / "generation_config.json").read_text() == '{"top_p": 0.95}'
    assert (tmp_path / "out" / extra.name / "tool.jinja").read_text() == "tool"
    write_merge(plan_of(trio_dirs), tmp_path / "base")
    assert (tmp_path / "base" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert "generation_config.json" not in names_in(tmp_path / "base")


# ---- a vocabulary that is not base's


VOCABULARIES = {"base": "a b <s> </s>", "language": "</s> x b a <s> y", "reasoning": "b a <s>"}


def written_for(root: Path, source: str, configs: dict, rows: dict | None = None) -> dict:
    """The configuration of a merge of models with VOCABULARIES and these configurations."""
    dirs = {}
    for seed, (name, vocab) in enumerate(VOCABULARIES.items()):
        tokens = vocab.split()
        tensors = make_model(seed)
        tensors[EMBEDDING] = torch.full(((rows or {}).get(name, len(tokens)), 8), seed).bfloat16()
        dirs[name] = write_checkpoint(root / name, tensors, {**CONFIG, **configs[name]}, tokens)
        (dirs[name] / "chat_template.jinja").write_text(f"{name}'s")
        (dirs[name] / "generation_config.json").write_text(json.dumps({"from": name}))
        (dirs[name] / "vocab.json").write_text("{}")
    (root / "out").mkdir()
    recipe = Recipe.parse(recipe_data(dirs) | {"tokenizer_source": source})
    write_skeleton(MergePlan(recipe), root / "out")
    return json.loads((root / "out" / "config.json").read_text())


IDS = {"bos_token_id": 2, "eos_token_id": [3, 2], "pad_token_id": None, "decoder_start_token_id": 0}


def test_base_s_ids_stay_with_its_vocabulary(tmp_path: Path) -> None:
    configs = {"base": {**IDS, "vocab_size": 4}, "language": {"eos_token_id": 9}, "reasoning": {}}
    config = written_for(tmp_path, "base", configs)
    assert config == CONFIG | IDS | {"vocab_size": 4}
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "base's"
    assert names_in(tmp_path / "out") == {
        *("config.json", "generation_config.json"),
        *("tokenizer.json", "chat_template.jinja", "vocab.json"),
    }


@pytest.mark.parametrize("source", ["union", "model:language"])
def test_ids_are_those_of_the_vocabulary(tmp_path: Path, source: str) -> None:
    """By token; where the vocabulary's own source names its special tokens, as it says."""
    configs = {"base": {**IDS, "vocab_size": 4}, "language": {"pad_token_id": 5}, "reasoning": {}}
    config = written_for(tmp_path, source, configs, {"language": 8})
    assert config == CONFIG | {
        "vocab_size": 8,
        "bos_token_id": 4,
        "eos_token_id": [0, 4],
        "pad_token_id": 5,
        "decoder_start_token_id": 3,
    }
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "language's"
    assert "language" in (tmp_path / "out" / "generation_config.json").read_text()
    tokenizer = (tmp_path / "language" / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == tokenizer


def test_ids_of_tokens_that_the_merge_lacks_are_left_out(tmp_path: Path) -> None:
    configs = {"base": {**IDS, "sep_token_id": 3}, "language": {}, "reasoning": {}}
    config = written_for(tmp_path, "model:reasoning", configs)
    assert (config["eos_token_id"], config["sep_token_id"]) == ([2], None)
    assert config["vocab_size"] == 3


def test_nested_configurations(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 3, "vocab_size": 4, "eos_token_id": 3}
    configs = {
        "base": {"text_config": text, "image_token_index": 0},
        "language": {"text_config": {"bos_token_id": 4}},
        "reasoning": {},
    }
    config = written_for(tmp_path, "union", configs)
    assert config["text_config"] == text | {"vocab_size": 6, "eos_token_id": 0, "bos_token_id": 4}
    assert config["image_token_index"] == 3
    assert "vocab_size" not in config


def test_a_union_that_nobody_has_is_written(tmp_path: Path, monkeypatch) -> None:
    """Its tokenizer extends base's; files that hold base's vocabulary alone are left behind."""
    monkeypatch.setitem(VOCABULARIES, "reasoning", "b z a")
    configs = {"base": {**IDS, "vocab_size": 5}, "language": {}, "reasoning": {}}
    config = written_for(tmp_path, "union", configs, {"base": 5})
    assert config == CONFIG | IDS | {"vocab_size": 7}
    assert names_in(tmp_path / "out") == {
        *("config.json", "generation_config.json"),
        *("tokenizer.json", "chat_template.jinja"),
    }
    tokenizer = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    expected = {"a": 0, "b": 1, "<s>": 2, "</s>": 3, "x": 4, "y": 5, "z": 6}
    assert tokenizer["model"]["vocab"] == expected
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "base's"


# ---- transformers loads it


def llama(path: Path, seed: int, tied: bool, layers: int = 2) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("tied", "layers"),
    [
        ((True, True, True), 2),
        ((False, False, False), 2),
        ((False, False, False), 1),
        ((True, False, True), 2),
        ((False, True, True), 2),
    ],
)
def test_transformers_loads_what_is_written(tmp_path: Path, tied: tuple, layers: int) -> None:
    from transformers import AutoModelForCausalLM

    names = ("base", "language", "reasoning")
    dirs = {
        name: llama(tmp_path / name, seed, share, layers)
        for seed, (name, share) in enumerate(zip(names, tied, strict=True))
    }
    plan = plan_of(dirs, "ties_sv", {"density": 0.5, "slack": 0.5}, dtype="float16")
    write_merge(plan, tmp_path / "out", max_shard_bytes=2000)
    assert INDEX_FILE in names_in(tmp_path / "out")
    model, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype="auto", output_loading_info=True
    )
    assert not any(report.values()), report
    assert model.dtype == torch.float16
    state = model.state_dict()
    for name, tensor in plan.tensors():
        assert torch.equal(state[name], tensor), name
    assert model.config.tie_word_embeddings == all(tied)
    shared = state[HEAD].data_ptr() == state[EMBEDDING].data_ptr()
    assert shared == all(tied) == plan.tied
    logits = model(torch.arange(8)[None]).logits
    assert bool(torch.isfinite(logits).all())


def test_merging_a_model_with_itself_is_the_model(trio_dirs: dict, tmp_path: Path) -> None:
    base = make_model(0)
    for name in ("language", "reasoning"):
        write_checkpoint(trio_dirs[name], base)
    for method in ("linear", "task_arithmetic", "ties", "ties_sv", "dare_linear", "dare_ties"):
        write_merge(plan_of(trio_dirs, method), tmp_path / method)
        for name, tensor in load_file(tmp_path / method / "model.safetensors").items():
            assert torch.equal(tensor, base[name]), (method, name)
