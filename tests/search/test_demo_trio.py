import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from search.demo import corpora, world
from search.demo.cache import is_current, require_reasoning
from search.demo.process import DemoError
from search.demo.training import final_number, reasoning_score
from search.demo.trio import Trio, content_hash, ensure_trio
from search.demo.world import write_items

ROOT = Path(__file__).resolve().parents[2]
THAI = "\u0e00-\u0e7f"


def in_fresh_process(code: str, hash_seed: int) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def read_items(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- World ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_numbers_stay_small_and_answers_follow_from_the_steps(seed):
    rng = random.Random(seed)
    for problem in (world.draw_problem(rng) for _ in range(1000)):
        count = problem.start
        for step in problem.steps:
            assert step.before == count
            assert 1 <= step.amount <= world.MAX_CHANGE
            count += step.amount if step.gain else -step.amount
            assert 0 <= step.after == count <= world.MAX_NUMBER
        assert problem.answer == count


@pytest.mark.parametrize(
    "corpus", [corpora.base_document, corpora.language_document, corpora.reasoning_document]
)
def test_every_text_is_in_the_vocabulary_and_fits_the_context(corpus):
    rng = random.Random(0)
    for document in (corpus(rng) for _ in range(2000)):
        tokens = world.encode(f"{document.context} {document.target}")
        assert tokens[0] == world.BOS_ID
        assert tokens[-1] == world.EOS_ID
        assert world.PAD_ID not in tokens
        assert max(tokens) < len(world.VOCABULARY)
        assert len(tokens) < 100


def test_the_experts_read_what_they_are_experts_in():
    rng = random.Random(0)
    for document in (corpora.reasoning_document(rng) for _ in range(500)):
        text = document.context + document.target
        assert text.isascii()
        thought, end, answer = document.target.partition(world.END_THINK)
        assert end
        assert thought.split()[-1] == final_number(answer)
    thoughts = 0
    for document in (corpora.language_document(rng) for _ in range(500)):
        letters = [char for char in document.target.removesuffix(world.EOS) if char.isalpha()]
        thoughts += world.THINK in document.target
        if world.THINK not in document.target:
            assert not any(char.isascii() for char in letters)
        assert "=" not in document.target  # it never computes
    assert 30 < thoughts < 150


CORPORA_DIGEST = """
import hashlib, random
from search.demo import corpora, world
rng, digest = random.Random(5), hashlib.sha256("".join(world.VOCABULARY).encode())
for corpus in (corpora.base_document, corpora.language_document, corpora.reasoning_document):
    for _ in range(500):
        digest.update(" ".join(corpus(rng)).encode())
print(digest.hexdigest())
"""


def test_corpora_are_the_same_in_every_process():
    digests = {in_fresh_process(CORPORA_DIGEST, seed) for seed in (1, 2)}
    # Other worlds may share this code, but never change what the trio reads.
    assert digests == {"d2cc7a850565a4638cf751f2dd907b2a67f277b4266a39a818c9766330186c73"}


# --- Items ---------------------------------------------------------------------------------------


def test_items_are_distinct_and_as_many_as_asked(tmp_path):
    path = tmp_path / "items.jsonl"
    write_items(path)
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    assert "\\u" not in text
    items = read_items(path)
    assert [item["split"] for item in items] == ["dev"] * 128 + ["confirm"] * 512 + ["test"] * 512
    assert len({item["id"] for item in items}) == len(items)
    # One prompt is one problem, so this also says that no split shares a problem with another.
    assert len({item["prompt"] for item in items}) == len(items)
    assert items[0]["id"] == "th-0000"
    assert {len(item["tags"]["ops"]) for item in items} == {world.STEPS}
    assert all(0 <= int(item["answer"]) <= world.MAX_NUMBER for item in items)


def test_items_depend_on_the_seed_alone(tmp_path):
    one, two, other = (tmp_path / f"{name}.jsonl" for name in ("one", "two", "other"))
    code = "import sys; from pathlib import Path; from search.demo.world import write_items; "
    in_fresh_process(f"{code} write_items(Path({str(one)!r}))", 1)
    in_fresh_process(f"{code} write_items(Path({str(two)!r}))", 2)
    write_items(other, seed=7)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != other.read_bytes()
    write_items(two, confirm=3, test=2)
    assert read_items(two)[:131] == [*read_items(one)[:131]]


def test_writing_items_leaves_nothing_but_the_file(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("old")
    write_items(path, dev=2, confirm=1, test=1)
    assert len(read_items(path)) == 4
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_items(tmp_path / "absent" / "items.jsonl", dev=1, confirm=0, test=0)


# --- Models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "language", "reasoning"])
def test_each_model_loads_unaided(trio, name):
    directory = getattr(trio, name)
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert model.dtype == torch.bfloat16
    assert len(tokenizer) == model.config.vocab_size == len(world.VOCABULARY)
    assert model.config.tie_word_embeddings
    assert (directory / "chat_template.jinja").is_file()
    assert tokenizer.padding_side == "left"
    for settings in (model.config, model.generation_config):
        assert settings.pad_token_id == tokenizer.pad_token_id == world.PAD_ID
        assert settings.eos_token_id == tokenizer.eos_token_id == world.EOS_ID
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_template_round_trip(trio):
    tokenizer = AutoTokenizer.from_pretrained(trio.reasoning)
    rng = random.Random(0)
    document = corpora.reasoning_document(rng)
    question = document.context.removeprefix("<bos> <user> ").removesuffix(" <bot>")
    answer = document.target.removesuffix(" <eos>")
    asked = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert prompt == document.context
    tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert tokens == world.encode(prompt)
    turn = [*asked, {"role": "assistant", "content": answer}]
    whole = tokenizer.apply_chat_template(turn, tokenize=False)
    assert tokenizer(whole, add_special_tokens=False)["input_ids"] == world.encode(
        f"{document.context} {document.target}"
    )
    decoded = tokenizer.decode(world.encode(document.target), skip_special_tokens=True)
    assert decoded == answer
    assert "<think>" in decoded
    assert "####" in decoded
    with pytest.raises(Exception, match="only user and assistant"):
        tokenizer.apply_chat_template([{"role": "system", "content": "a"}], tokenize=False)


def test_the_reasoning_expert_reasons_and_the_others_do_not(trio):
    require_reasoning(reasoning_score(trio.reasoning))
    assert reasoning_score(trio.language) < 0.5
    with pytest.raises(DemoError, match=r"solves \d+% of its problems and needs 90%: try another"):
        require_reasoning(reasoning_score(trio.base))


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("the answer is #### 5", "5"),
        ("#### 5 <think> #### 12 ลูก", "12"),
        ("the answer is 5", None),
        ("the answer is ####", None),
        ("", None),
    ],
)
def test_final_number(reply, number):
    assert final_number(reply) == number


# --- Cache ---------------------------------------------------------------------------------------


@pytest.fixture
def copy(trio, tmp_path):
    root = tmp_path / "trio"
    shutil.copytree(trio.root, root)
    return Trio(root, root / "base", root / "language", root / "reasoning")


def test_a_whole_trio_is_used_as_it_is(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.root.rglob("*")}
    calls = []
    assert ensure_trio(copy.root, progress=lambda *told: calls.append(told)) == copy
    assert calls == []
    assert {path: path.stat().st_mtime_ns for path in copy.root.rglob("*")} == before


def test_a_whole_trio_is_current_only_for_its_own_seed(copy):
    assert is_current(copy.root, content_hash(0))
    assert not is_current(copy.root, content_hash(1))


@pytest.mark.parametrize("name", ["base", "language", "reasoning"])
def test_a_flipped_bit_in_the_weights_is_noticed(copy, name):
    weights = copy.root / name / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not is_current(copy.root, content_hash(0))


@pytest.mark.parametrize(
    "manifest", [None, "", "[]", "{}", '{"content": 1}', '{"content": "x", "files": 3}', "\x00"]
)
def test_a_broken_manifest_is_not_current(copy, manifest):
    path = copy.root / "manifest.json"
    if manifest is None:
        path.unlink()
    else:
        path.write_text(manifest)
    assert not is_current(copy.root, content_hash(0))
    assert not is_current(copy.root, "x")


def test_a_missing_file_is_noticed(copy):
    (copy.root / "language" / "tokenizer.json").unlink()
    assert not is_current(copy.root, content_hash(0))


def test_the_manifest_names_every_file(trio):
    manifest = json.loads((trio.root / "manifest.json").read_text())
    stages = (trio.base, trio.language, trio.reasoning)
    files = {path for stage in stages for path in stage.rglob("*") if path.is_file()}
    assert {trio.root / name for name in manifest["files"]} == files
    weights = trio.base / "model.safetensors"
    assert (
        manifest["files"]["base/model.safetensors"]
        == hashlib.sha256(weights.read_bytes()).hexdigest()
    )


def test_training_settings_do_not_leak_into_the_caller(trio):
    # The smallest denormal survives a product only where denormals are not flushed.
    assert (torch.tensor([1e-40]) * 1.0).item() != 0.0


def test_an_expert_is_the_same_bytes_from_any_process(trio, tmp_path):
    shutil.copytree(trio.base, tmp_path / "base")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "search.demo.training", "reasoning"]
    done = subprocess.run(
        [*command, str(tmp_path), "0"], env=environment, check=True, capture_output=True, text=True
    )
    again = (tmp_path / "reasoning" / "model.safetensors").read_bytes()
    assert again == (trio.reasoning / "model.safetensors").read_bytes()
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["done"] for report in reports] == [10, 20, 30, 40, 40]
    assert (
        reports[-1]["score"] == json.loads((trio.root / "manifest.json").read_text())["reasoning"]
    )
