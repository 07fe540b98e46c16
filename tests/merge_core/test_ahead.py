"""Tensors that threads merge ahead of the one that is taken: memory, order, errors, early ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import merge_core.plan
from merge_core import MergePlan, NonFiniteError, Recipe
from merge_core.kernels.threads import spread
from merge_core.methods import METHODS
from merge_core.pages import BUFFERS, Ring
from tests.merge_core.conftest import CONFIG, merged_by, write_checkpoint
from tests.merge_core.method_suite import bits
from tests.merge_core.test_parts import recipe_of

SIZES = (16, 3, 40, 0, 16, 16, 0, 0, 16, 16, 1, 700, 16, 5, 0, 12, 16)
NAMES = [f"model.layers.0.t{index:02}.weight" for index in range(len(SIZES))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m0 to m2: of many tensors, empty ones between them, some larger than all that may wait."""
    path = tmp_path_factory.mktemp("ahead")
    generator = torch.Generator().manual_seed(0)
    config = {**CONFIG, "num_hidden_layers": 1}
    for index in range(3):
        tensors = {
            name: torch.randn(rows, 8, generator=generator).bfloat16()
            for name, rows in zip(NAMES, SIZES, strict=True)
        }
        write_checkpoint(path / f"m{index}", tensors, config)
    return path


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four threads, and room ahead for four tensors of 16 rows: the ring runs full and round."""
    monkeypatch.setattr(merge_core.plan, "AT_ONCE", 4 * 16 * 8 * 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(threads)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 60), max_size=40), data=st.data())
def test_no_two_pieces_of_a_ring_overlap(sizes: list[int], data: st.DataObject) -> None:
    buffer = torch.zeros(100, dtype=torch.uint8)
    ring, held = Ring(buffer), []
    for size in sizes:
        while (piece := ring.take(size)) is None:
            assert held, "an empty ring has room"
            ring.give_back()
            held.pop(0)
        held.append((piece.storage_offset(), piece.storage_offset() + piece.numel()))
        assert piece.numel() == size
        assert all(a[1] <= b[0] or b[1] <= a[0] for a in held for b in held if a is not b)
        if held and data.draw(st.booleans()):
            ring.give_back()
            held.pop(0)


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("method", METHODS)
def test_what_is_merged_ahead_has_the_bits_of_what_is_merged_alone(
    folder: Path, method: str
) -> None:
    plan = MergePlan(recipe_of(folder, method), tally=True)
    expected = {name: plan.tensor(name) for name in plan.specs()}
    counted = plan.tallies
    for _ in range(3):
        seen = []
        for name, tensor in plan.tensors():
            time.sleep(0.001)  # the threads are ahead by now
            np.testing.assert_array_equal(bits(tensor), bits(expected[name]), err_msg=name)
            assert tensor.shape == expected[name].shape
            seen.append(name)
        assert seen == NAMES
        assert plan.tallies.keys() == counted.keys()
        assert all(np.array_equal(plan.tallies[name], counted[name]) for name in counted)


@pytest.mark.usefixtures("crowded")
def test_a_reader_that_stops_leaves_the_memory_to_the_next(folder: Path) -> None:
    plan = MergePlan(recipe_of(folder, "ties"))
    expected = merged_by(plan)
    for stop in (1, 5, len(NAMES) - 1):
        tensors = plan.tensors()
        for _ in range(stop):
            next(tensors)
        tensors.close()
        with BUFFERS.lent(1) as buffer:
            assert buffer.numel() > 1  # it was given back
        again = merged_by(plan)
        assert all(torch.equal(again[name], expected[name]) for name in NAMES)


@pytest.mark.usefixtures("crowded")
def test_an_error_in_a_thread_comes_in_its_turn(folder: Path) -> None:
    recipe = recipe_of(folder, "task_arithmetic").plain()
    bad = NAMES[9]
    for expert in recipe["models"]:
        expert["parameters"]["weight"] = [{"filter": bad, "value": 3e38}, {"value": 0.5}]
    plan = MergePlan(Recipe.parse({**recipe, "parameters": {"lambda": 1e30}}))
    seen: list[str] = []
    with pytest.raises(NonFiniteError, match=bad):
        seen.extend(name for name, _ in plan.tensors())
    # Those that a thread merges together come together.
    assert NAMES[: len(seen)] == seen
    assert 0 < len(seen) <= 9


def test_an_error_in_one_span_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    running, done = threading.Event(), []

    def run(first: int, last: int) -> None:
        if first == 0:
            running.wait(10)
            raise KeyboardInterrupt
        running.set()
        time.sleep(0.1)
        done.append(last)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        spread(run, 2, 1, 1)
    assert done == [2]


def test_a_forked_process_has_threads_of_its_own() -> None:
    script = (
        "import os, signal, torch\n"
        "from merge_core.kernels.threads import spread\n"
        "torch.set_num_threads(2)\n"
        "work = lambda: spread(lambda first, last: last - first, 100, 1, 10)\n"
        "assert sum(work()) == 100\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(20)\n"
        "    os._exit(0 if sum(work()) == 100 else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    subprocess.run([sys.executable, "-c", script], env=os.environ, check=True, timeout=100)
