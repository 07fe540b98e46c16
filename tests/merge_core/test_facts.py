from __future__ import annotations

import json
import pickle
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core import Checkpoint, MergePlan, Recipe, Sources, facts
from merge_core.random import tie_ranks
from merge_core.selection import KEEP_ALL, KEEP_NONE
from tests.merge_core.conftest import (
    CONFIG,
    make_model,
    merged_by,
    recipe_data,
    write_checkpoint,
)
from tests.merge_core.method_suite import DTYPES, NAMES, Case, tensors
from tests.merge_core.test_lora_merges import write_adapter

EXAMPLES = settings(max_examples=30, deadline=None, derandomize=True)
UP = "model.layers.0.mlp.up_proj.weight"


def deltas(sources: Sources, expert: int, name: str) -> np.ndarray:
    """Flat float32 differences from base."""
    assert sources.base is not None
    found = sources.experts[expert].tensor(name).float() - sources.base.tensor(name).float()
    return found.reshape(-1).numpy()


def keys(sources: Sources, expert: int, name: str) -> np.ndarray:
    """Trim keys: magnitude descending, then tie rank ascending."""
    magnitudes = np.abs(deltas(sources, expert, name)).view(np.uint32)
    ties = tie_ranks(0, magnitudes.size, sources.ids[name])
    words = (np.uint32(0x7FFFFFFF) - magnitudes).astype(np.uint64)
    return (words << np.uint64(32)) | ties.astype(np.uint64)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict, dict]:
    """A base and one fine-tune of it, of heavy ties among others."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = st.sampled_from([(0,), (), (1,), (7,), (5, 1), (3, 5), (40, 16), (2, 3, 5)])
    shapes = [draw(shape) for _ in NAMES]
    return draw(tensors(dtype, shapes)), draw(tensors(dtype, shapes))


def case(base: dict, expert: dict) -> Case:
    models = [{"model": "expert-0", "parameters": {"weight": 1.0, "density": 0.5}}]
    return Case({"merge_method": "ties", "base_model": "base", "models": models}, base, [expert])


# ---- trim


@EXAMPLES
@given(pair=pairs(), data=st.data())
def test_trim_bounds_are_those_of_a_full_sort(pair: tuple, data: st.DataObject) -> None:
    with case(*pair) as made:
        sources = made.plan.sources
        for name in NAMES:
            ordered = np.sort(keys(sources, 0, name))
            counts = data.draw(st.lists(st.integers(0, ordered.size), min_size=1, max_size=4))
            for count in counts:
                (bound,) = sources.facts.trim_bounds(0, [name], count).values()
                assert np.searchsorted(ordered, np.uint64(bound)) == count
                again = sources.facts.trim_bounds(0, [name], count)
                assert again == {name: bound}


@EXAMPLES
@given(pair=pairs(), data=st.data())
def test_trim_bounds_of_a_model_are_those_of_a_full_sort(pair: tuple, data: st.DataObject) -> None:
    with case(*pair) as made:
        sources = made.plan.sources
        own = {name: keys(sources, 0, name) for name in NAMES}
        whole = np.concatenate([own[name] for name in NAMES])
        place = np.concatenate([np.full(own[name].size, i) for i, name in enumerate(NAMES)])
        count = data.draw(st.integers(0, whole.size))
        first = np.lexsort((place, whole))[:count]
        bounds = sources.facts.trim_bounds(0, list(NAMES), count)
        assert list(bounds) == list(NAMES)
        for i, name in enumerate(NAMES):
            expected = np.sort(whole[first[place[first] == i]])
            got = np.sort(own[name][own[name] < np.uint64(bounds[name])])
            np.testing.assert_array_equal(got, expected)


def test_ends_need_no_pass(trio_dirs: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Sources.open(Recipe.parse(recipe_data(trio_dirs)))

    def read(self: Checkpoint, name: str) -> None:
        raise AssertionError(f"read {name}")

    monkeypatch.setattr(Checkpoint, "tensor", read)
    size = sources.specs[UP].numel
    assert sources.facts.trim_bounds(0, [UP], 0) == {UP: KEEP_NONE}
    assert sources.facts.trim_bounds(0, [UP], size) == {UP: KEEP_ALL}
    with pytest.raises(AssertionError, match="read"):
        sources.facts.trim_bounds(0, [UP], 1)


# ---- DELLA


@EXAMPLES
@given(pair=pairs())
def test_row_ranks_are_those_of_a_sort_on_disk_and_in_memory(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple
) -> None:
    folder = tmp_path_factory.mktemp("prepared")
    with case(*pair) as made:
        kept = Sources.open(made.recipe)
        kept.facts.keep(folder, kept.digests())
        for name in NAMES:
            delta = deltas(kept, 0, name)
            shape = kept.specs[name].shape
            length = shape[-1] if shape else 1
            rows = delta.size // length if length else 0
            if not rows:
                continue
            ties = tie_ranks(0, delta.size, kept.ids[name]).reshape(rows, length)
            magnitudes = np.abs(delta).view(np.uint32).reshape(rows, length)
            order = np.lexsort((ties, magnitudes), axis=-1)
            expected = np.argsort(order, axis=-1)
            for sources in (kept, made.plan.sources):
                got = sources.facts.row_ranks(0, name, slice(0, rows))
                np.testing.assert_array_equal(got, expected)
                np.testing.assert_array_equal(
                    sources.facts.row_ranks(0, name, slice(rows // 2, rows)), expected[rows // 2 :]
                )
        assert len(list(folder.rglob("*.ranks"))) == sum(
            pair[0][name].numel() > 0 for name in NAMES
        )


# ---- on disk


def plan_of(
    dirs: dict, folder: Path | None, method: str = "ties", **parameters: float
) -> MergePlan:
    recipe = Recipe.parse(recipe_data(dirs, method, {"density": 0.37, **parameters}))
    plan = MergePlan(recipe)
    if folder is not None:
        plan.sources.facts.keep(folder, plan.sources.digests())
    return plan


def assert_same(one: dict, other: dict) -> None:
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def written(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


METHODS = {"ties": 1, "della": 1}  # with tables a tensor and expert that it keeps


@pytest.mark.parametrize("method", METHODS)
def test_others_find_what_one_has_made(method: str, trio_dirs: dict, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "prepared"
    expected = merged_by(plan_of(trio_dirs, None, method))
    first = plan_of(trio_dirs, folder, method)
    assert_same(merged_by(first), expected)
    before = written(folder)
    assert len(before) == METHODS[method] * 2 * len(expected)
    assert len({path.parent for path in before}) == 2  # one folder a pair
    second = plan_of(trio_dirs, folder, method)
    assert_same(merged_by(second), expected)
    assert written(folder) == before
    assert first.sources.facts.problem is second.sources.facts.problem is None


def test_other_weights_have_other_tables(trio_dirs: dict, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    merged_by(plan_of(trio_dirs, folder))
    before = written(folder)
    changed = make_model(7, make_model(0))
    write_checkpoint(trio_dirs["language"], changed)
    assert_same(merged_by(plan_of(trio_dirs, folder)), merged_by(plan_of(trio_dirs, None)))
    after = written(folder)
    assert {path: after[path] for path in before} == before
    assert len({path.parent for path in after}) == 3


def test_another_word_on_tying_is_another_table(trio_dirs: dict, tmp_path: Path) -> None:
    """The configuration says which tensor is the head: the weights' files stay what they are."""
    folder, head = tmp_path / "prepared", "lm_head.weight"
    for seed, path in enumerate(trio_dirs.values(), 5):
        tensors = {**make_model(seed), head: make_model(seed + 5)["model.embed_tokens.weight"]}
        write_checkpoint(path, tensors, {**CONFIG, "tie_word_embeddings": False})
    plan_of(trio_dirs, folder).tensor(head)
    (trio_dirs["language"] / "config.json").write_text(json.dumps(CONFIG))
    expected = plan_of(trio_dirs, None).tensor(head)
    assert torch.equal(plan_of(trio_dirs, folder).tensor(head), expected)


def test_an_adapter_on_a_copy_of_the_base_has_the_same_tables(tmp_path: Path) -> None:
    """Tables are of contents, and so are differences: where the copy lies changes neither."""
    write_checkpoint(tmp_path / "m0", make_model(0))
    shutil.copytree(tmp_path / "m0", tmp_path / "copy")
    write_adapter(tmp_path / "adapter", 1)

    def adapted(base: str, folder: Path | None) -> MergePlan:
        own = {"model": f"{tmp_path / base}+{tmp_path / 'adapter'}", "parameters": {"weight": 1.0}}
        shared = {"density": 0.3, "density_step": 0.0}
        data = {"merge_method": "ties", "base_model": str(tmp_path / "m0"), "models": [own]}
        plan = MergePlan(Recipe.parse({**data, "parameters": shared, "dtype": "float32"}))
        if folder is not None:
            plan.sources.facts.keep(folder, plan.sources.digests())
        return plan

    folder = tmp_path / "prepared"
    merged_by(adapted("m0", folder))
    assert_same(merged_by(adapted("copy", folder)), merged_by(adapted("copy", None)))
    assert len({path.parent for path in written(folder)}) == 1


def test_an_expert_of_two_recipes_has_its_tables_once(trio_dirs: dict, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    merged_by(plan_of(trio_dirs, folder))
    before = written(folder)
    data = recipe_data(trio_dirs, "ties", {"density": 0.2})
    data["models"] = data["models"][::-1]
    plan = MergePlan(Recipe.parse(data))
    plan.sources.facts.keep(folder, plan.sources.digests())
    merged_by(plan)
    assert written(folder) == before


@pytest.mark.parametrize("method", METHODS)
def test_damaged_tables_are_made_anew(method: str, trio_dirs: dict, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    expected = merged_by(plan_of(trio_dirs, folder, method))
    sound = {path: data for path, (_, data) in written(folder).items()}

    def damages(data: bytes) -> Iterator[bytes]:
        rng = np.random.default_rng(0)
        for place in rng.integers(0, 8 * len(data), 3):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << (place % 8)
            yield bytes(flipped)
        yield data[: len(data) // 2]
        yield data[:-1]
        yield data + b"\0"
        yield b""

    kinds = len(list(damages(b"0" * 100)))
    for kind in range(kinds):
        for path, data in sound.items():
            path.write_bytes(list(damages(data))[kind])
        assert_same(merged_by(plan_of(trio_dirs, folder, method)), expected)
        assert {path: data for path, (_, data) in written(folder).items()} == sound


def test_no_flipped_bit_of_a_table_is_believed(trio_dirs: dict, tmp_path: Path) -> None:
    merged_by(plan_of(trio_dirs, tmp_path / "prepared"))
    path, (_, data) = min(written(tmp_path / "prepared").items())
    kind = (2, -1), np.dtype(np.int64)
    assert facts._load(path, *kind) is not None
    for place in range(0, 8 * 128, 3):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        assert facts._load(path, *kind) is None


@pytest.mark.parametrize("method", METHODS)
def test_several_may_make_the_same_tables_at_once(
    method: str, trio_dirs: dict, tmp_path: Path
) -> None:
    folder = tmp_path / "prepared"
    expected = merged_by(plan_of(trio_dirs, None, method))
    plans = [plan_of(trio_dirs, folder, method) for _ in range(6)]
    with ThreadPoolExecutor(len(plans)) as pool:
        for merged in pool.map(merged_by, plans):
            assert_same(merged, expected)
    assert all(plan.sources.facts.problem is None for plan in plans)
    assert len(written(folder)) == METHODS[method] * 2 * len(expected)  # and no temporary files


def test_sources_without_a_base_keep_nothing(trio_dirs: dict, tmp_path: Path) -> None:
    data = recipe_data(trio_dirs, "linear")
    del data["base_model"]
    plan = MergePlan(Recipe.parse(data))
    plan.sources.facts.keep(tmp_path / "prepared", plan.sources.digests())
    merged_by(plan)
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", ["full", "no room", "no folder"])
def test_a_folder_that_takes_nothing_is_told_and_changes_no_merge(
    method: str,
    fault: str,
    trio_dirs: dict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = merged_by(plan_of(trio_dirs, None, method))
    folder = tmp_path / "prepared"
    reason = "No space left on device"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if fault == "full":  # the system refuses to write more than this into a file
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
            reason = "File too large"
        elif fault == "no room":
            monkeypatch.setattr(facts, "_SPARE", 1 << 62)
        else:
            folder.write_text("a file")
            reason = "Not a directory"
        plan = plan_of(trio_dirs, folder, method)
        merged = merged_by(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_same(merged, expected)
    problem = plan.sources.facts.problem
    assert problem is not None
    assert "\n" not in problem
    assert problem.startswith(f"{folder}: cannot be written ({reason})")
    assert not folder.is_dir() or written(folder) == {}


def test_tables_do_not_travel(trio_dirs: dict, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    for method in METHODS:
        plan = plan_of(trio_dirs, folder, method)
        fresh = len(pickle.dumps(plan))
        expected = merged_by(plan)
        packed = pickle.dumps(plan)
        assert len(packed) < fresh + 10_000
        before = written(folder)
        assert_same(merged_by(pickle.loads(packed)), expected)
        assert written(folder) == before


def test_no_tensor_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    odd = "../../../out/of.here"
    base = {**make_model(0), odd: torch.ones(4, 4, dtype=torch.bfloat16)}
    dirs = {"base": write_checkpoint(tmp_path / "models" / "base", base)}
    for seed, name in enumerate(("language", "reasoning"), 1):
        expert = {**make_model(seed, base), odd: torch.rand(4, 4).to(torch.bfloat16)}
        dirs[name] = write_checkpoint(tmp_path / "models" / name, expert)
    before = written(tmp_path)
    merged_by(plan_of(dirs, tmp_path / "kept" / "in" / "prepared"))
    new = set(written(tmp_path)) - set(before)
    assert len(new) == 2 * len(base)
    assert {path.parents[1] for path in new} == {tmp_path / "kept" / "in" / "prepared"}
