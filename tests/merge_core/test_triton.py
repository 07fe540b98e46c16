"""The GPU's kernels, run by Triton's interpreter on the CPU and compiled (not run) for a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import merge_core.kernels
from merge_core import NonFiniteError
from merge_core.arithmetic import coefficients, della_table
from merge_core.errors import MergeError
from merge_core.kernels import backend, fused
from merge_core.kernels.job import Table, TensorJob, Tile, elements
from merge_core.methods import METHODS, get_method
from merge_core.selection import KEEP_ALL, KEEP_NONE
from tests.merge_core.method_suite import DTYPES, NAMES, Case, bits

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
CPU = torch.device("cpu")
BLOCK = 128  # elements of a program; no bit depends on it, and tests have more than one of them
MERGED = ["linear", "ties_sv", "dare_ties", "della", "breadcrumbs_ties"]
"""Methods that are held against numba's kernels, with every flag among them; all of them are held
against the reference, which compiles nothing."""


@pytest.fixture(scope="module", autouse=True)
def triton() -> Iterator:
    """`merge_core.kernels.triton`, interpreted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        from triton.runtime.interpreter import InterpretedFunction

        from merge_core.kernels import triton, triton_pieces

        assert isinstance(triton_pieces.load, InterpretedFunction), "imported before this module"
        patch.setattr(triton, "BLOCK", BLOCK)
        yield triton


def draw(rng: np.random.Generator, size: int) -> np.ndarray:
    """Values that collide: ties, zeros of both signs, subnormals of every dtype, noise."""
    kinds = [
        rng.integers(-2, 3, size) * 0.25,
        rng.normal(0, 0.02, size),
        rng.integers(-3, 4, size) * 1e-40,
        rng.integers(-3, 4, size) * 6e-8,
        np.where(rng.random(size) < 0.5, -0.0, 0.0),
    ]
    return np.choose(rng.integers(0, len(kinds), size), kinds).astype(np.float32)


def problem(
    method_name: str,
    experts: int,
    dtype: torch.dtype = torch.bfloat16,
    *,
    width: int = 3 * BLOCK + 5,
    starts: tuple[int, ...] = (0,),
    stride: int | None = None,
    given: tuple[int, ...] = (),
    beside: bool = False,
    scale: float = 1.0,  # of the weights
) -> tuple[TensorJob, Tile]:
    """A job of numbers at random, and rows for it."""
    method = get_method(method_name)
    rng = np.random.default_rng([experts, width, len(starts)])
    stride = stride or width
    size = (len(starts) - 1) * stride + width
    base = torch.from_numpy(draw(rng, size)).to(dtype)
    models = []
    for expert in range(experts):
        noise = torch.from_numpy(draw(rng, size))
        models.append(noise if expert in given else (base.float() + 0.1 * noise).to(dtype))
    weights = [float(np.float32(w)) for w in rng.uniform(-0.3, 1.5, experts)]

    def word(largest: float) -> int:
        return int(np.float32(largest).view(np.uint32))

    bounds, outliers = [], []
    for expert, model in enumerate(models):
        delta = model.float() - (0.0 if expert in given else base.float())
        rank = int(rng.integers(0, 2**32))
        bounds.append(((0x7FFFFFFF - word(float(delta.abs().median()))) << 32 | rank) + 1)
        outliers.append(((0x7FFFFFFF - word(0.2)) << 32 | rank) + 1)
    if experts > 2:
        bounds[-1], outliers[-1] = KEEP_ALL, KEEP_NONE
    slack = ((0, (word(0.05) << 32 | 2**31) + 1), (experts - 1, (word(0.02) << 32) + 1))
    length = 16
    job = TensorJob(
        method,
        tensor_id=0xDEADBEEF,
        seed=2**63 + 17,
        factors=tuple(w * scale for w in weights),
        coefficients=coefficients(weights, 0.7 * min(scale, 1e3), normalize=True),
        trim=tuple(bounds) if method.ranked else (),
        outliers=tuple(outliers) if method.sparsify == "band" else (),
        drop=tuple(int(x) for x in rng.integers(40000, 65537, experts)),
        tables=tuple(Table(*della_table(0.5, 0.2, length, w)) for w in weights),
        restore=slack[: min(2, experts)] if method.elects else (),
        replace=not beside,
    )
    ranks = [rng.integers(0, length, size).astype(np.uint16) for _ in range(experts)]
    tile = Tile(
        elements(base) if method.on_differences else None,
        [elements(model) for model in models],
        np.array(starts, np.int64),
        width,
        stride,
        given if method.on_differences else (),
        ranks if method.sparsify == "rank_drop" else (),
    )
    return job, tile


def assert_equal(job: TensorJob, tile: Tile, dtype: torch.dtype) -> np.ndarray:
    """Both backends merge `tile` to the same bits and count the same."""
    outs = [torch.full((tile.size,), 7.0, dtype=dtype) for _ in range(2)]
    tallies = [np.ones((len(tile.experts), 4), np.int64) for _ in range(2)]
    bad = [
        merger.merge(job, tile, out, tally)
        for merger, out, tally in zip((backend.Cpu(), backend.Gpu(CPU)), outs, tallies, strict=True)
    ]
    np.testing.assert_array_equal(bits(outs[1]), bits(outs[0]))
    np.testing.assert_array_equal(tallies[1], tallies[0])
    assert bad == [0, 0]
    # Without a tally it is another kernel.
    assert backend.Gpu(CPU).merge(job, tile, outs[1]) == 0
    np.testing.assert_array_equal(bits(outs[1]), bits(outs[0]))
    return tallies[0] - 1


@pytest.mark.parametrize("method", MERGED)
def test_merges_and_counts_as_the_cpu(method: str) -> None:
    job, tile = problem(method, 2)
    tally = assert_equal(job, tile, torch.bfloat16)
    assert tally[:, 1].all()
    if job.method.elects:
        assert tally[:, 2:].any(axis=0).all()  # some lost the election, some were restored


@pytest.mark.parametrize("size", [1, 7, BLOCK])
@pytest.mark.parametrize("method", MERGED)
def test_any_size(method: str, size: int) -> None:
    assert_equal(*problem(method, 2, width=size), torch.bfloat16)


@pytest.mark.parametrize("method", ["linear", "ties_sv", "dare_ties"])
def test_half_precision_is_read_as_it_is(triton, method: str) -> None:
    job, tile = problem(method, 2, torch.float16)
    widened = triton.to_device(tile, CPU)
    stored = replace(
        widened,
        base=None if widened.base is None else widened.base.half(),
        experts=[expert.half() for expert in widened.experts],
    )
    outs = torch.empty(2, tile.size, dtype=torch.float16)
    triton.merge_into(job, widened, outs[0])
    triton.merge_into(job, stored, outs[1])
    np.testing.assert_array_equal(bits(outs[0]), bits(outs[1]))


@pytest.mark.parametrize("method", MERGED)
def test_rows_that_lie_apart_and_begin_anywhere(triton, method: str) -> None:
    # Beyond 2^35 the high word of Philox's counter is in use.
    job, tile = problem(method, 2, width=150, stride=190, starts=(3, 10**6 + 1, 2**36 + 6))
    assert_equal(job, tile, torch.bfloat16)
    # On the device rows may lie apart too.
    together = triton.to_device(tile, CPU)
    one_row = replace(tile, starts=tile.starts[:1], width=tile.experts[0].size)
    apart = replace(
        triton.to_device(one_row, CPU), starts=together.starts, width=150, stride=tile.stride
    )
    outs = torch.empty(2, tile.size)
    triton.merge_into(job, together, outs[0])
    triton.merge_into(job, apart, outs[1])
    np.testing.assert_array_equal(bits(outs[0]), bits(outs[1]))


def test_experts_given_as_differences() -> None:
    assert_equal(*problem("ties_sv", 2, given=(1,)), torch.bfloat16)


def test_restored_entries_beside_others() -> None:
    assert_equal(*problem("ties_sv", 2, beside=True), torch.bfloat16)


def test_parts_on_the_device_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "LONGEST", 100)
    assert_equal(*problem("dare_ties", 2), torch.bfloat16)
    assert_equal(*problem("della", 2, width=40, stride=50, starts=(0, 50, 100)), torch.bfloat16)


def test_the_real_block(triton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "BLOCK", 1024)
    assert_equal(*problem("dare_ties", 2, width=1500), torch.bfloat16)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("out", DTYPES)
def test_counts_what_is_not_finite(out: str) -> None:
    job, tile = problem("linear", 2, scale=2e38)
    outs = [torch.empty(tile.size, dtype=DTYPES[out]) for _ in range(2)]
    bad = [
        m.merge(job, tile, o) for m, o in zip((backend.Cpu(), backend.Gpu(CPU)), outs, strict=True)
    ]
    assert bad[0] == bad[1] == int((~outs[0].isfinite()).sum()) > 0
    assert torch.equal(outs[0].nan_to_num(nan=1.5), outs[1].nan_to_num(nan=1.5))


@pytest.mark.parametrize("expert", [0, 1])
@pytest.mark.parametrize("method", ["ties_sv", "della"])
def test_slack_keys(method: str, expert: int) -> None:
    job, tile = problem(method, 2, width=150, stride=160, starts=(5, 165, 2**33))
    job = replace(job, restore=job.restore[:expert])
    middle = int(np.float32(0.05).view(np.uint32))
    for low, high in ((0, fused.HIGHEST_WORD), (middle // 2, middle)):
        ours = backend.Gpu(CPU).slack_keys(job, tile, expert, low, high)
        theirs = fused.slack_keys(job, tile, expert, low, high)
        assert (ours.candidates, ours.below) == (theirs.candidates, theirs.below)
        assert ours.keys.dtype == np.uint64
        np.testing.assert_array_equal(np.sort(ours.keys), np.sort(theirs.keys))
    assert ours.candidates > 0


def test_slack_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_SAMPLE", 128)
    for job, tile in (
        problem("ties_sv", 2, width=900),
        problem("ties_sv", 2, width=60, stride=64, starts=tuple(range(0, 64 * 9, 64))),
        problem("ties_sv", 2, width=5),
    ):
        job = replace(job, restore=())
        ours = backend.Gpu(CPU).slack_sample(job, tile, 0)
        np.testing.assert_array_equal(np.sort(ours), np.sort(fused.slack_sample(job, tile, 0)))
        assert ours.size < tile.size // 2


@pytest.mark.parametrize("given", [(), (0,)])
def test_trim_keys_and_histogram(triton, given: tuple[int, ...]) -> None:
    _, tile = problem("ties", 1, width=300, given=given)
    moved = triton.to_device(tile, CPU)
    np.testing.assert_array_equal(triton.trim_histogram(moved), fused.trim_histogram(tile))
    bucket = int(np.argmax(fused.trim_histogram(tile)))
    for span in ((0, fused.HIGHEST_WORD), fused.span_of(bucket)):
        ours, theirs = (
            f(t, 99, *span) for f, t in ((triton.trim_keys, moved), (fused.trim_keys, tile))
        )
        assert (ours.candidates, ours.below) == (theirs.candidates, theirs.below)
        np.testing.assert_array_equal(ours.keys, theirs.keys)  # in order: ranks are made from them


# ---- plans


@pytest.mark.parametrize("experts", [1, 2, 3, 5, 8])  # beyond 4 coefficients are looked up
@pytest.mark.parametrize("method_name", METHODS)
def test_a_plan_merges_to_the_bits_of_the_reference(
    monkeypatch: pytest.MonkeyPatch, method_name: str, experts: int
) -> None:
    method = get_method(method_name)
    if not method.min_models <= experts <= method.max_models:
        pytest.skip("no such merge")
    rng = np.random.default_rng(experts)
    stored = list(DTYPES.values())[experts % 3]
    shapes = dict(zip(NAMES, [(0,), (3, 51), (7,), ()], strict=True))

    def model() -> dict[str, torch.Tensor]:
        made = {n: torch.from_numpy(draw(rng, int(np.prod(s)))) for n, s in shapes.items()}
        return {name: made[name].reshape(shape).to(stored) for name, shape in shapes.items()}

    own = {"weight": 0.6, "density": 0.5, "epsilon": 0.2, "gamma": 0.05, "slack": 0.5}
    own = {name: value for name, value in own.items() if name in method.by_name}
    raw = {
        "merge_method": method_name,
        "base_model": "base",
        "models": [
            {"model": f"expert-{i}", "name": f"e{i}", "parameters": dict(own)}
            for i in range(experts)
        ],
        "parameters": {"t": 0.3} if method.interpolates else {},
        "seed": 5,
        "dtype": list(DTYPES)[experts // 2 % 3],
    }
    for place, entry in enumerate(raw["models"][1:-1]):
        entry["parameters"] |= {"weight": -0.2 * place}
        entry["parameters"].pop("slack", None)
    base, tensors = model(), [model() for _ in range(experts)]
    if method.interpolates:
        raw["models"][0]["model"], tensors[0] = "base", base
    # Tensors of the CPU go where those of a GPU would.
    monkeypatch.setitem(backend.BACKENDS, "cpu", backend.Gpu)
    with Case(raw, base, tensors) as case:
        expected = case.expected()
        for name in NAMES:
            np.testing.assert_array_equal(
                bits(case.plan.tensor(name)), bits(expected[name]), err_msg=name
            )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_overflow_is_the_recipes_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    base = {name: torch.zeros(3, dtype=torch.float16) for name in NAMES}
    expert = {name: torch.full((3,), 60000.0, dtype=torch.float16) for name in NAMES}
    raw = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "expert-0", "parameters": {"weight": 2.0}}],
    }
    monkeypatch.setitem(backend.BACKENDS, "cpu", backend.Gpu)
    with Case(raw, base, [expert]) as case, pytest.raises(NonFiniteError, match="3 of 3"):
        case.plan.tensor(NAMES[0])


# ---- without a GPU


def test_without_triton_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "merge_core.kernels.triton")
    monkeypatch.delattr(merge_core.kernels, "triton")
    with pytest.raises(MergeError, match="cuda:1 needs Triton, which is not installed: pip"):
        backend.backend_of(torch.device("cuda", 1))


def test_other_devices_are_refused() -> None:
    with pytest.raises(MergeError, match="no kernels merge on meta"):
        backend.backend_of(torch.device("meta"))


def test_the_compiler_takes_the_kernels_and_fuses_nothing() -> None:
    """As far as a machine without a GPU can tell: the code for one rounds after each operation."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.merge_core.triton_code"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 12
    for name, counts in found.items():
        assert counts["fused"] == counts["flushed"] == counts["unrounded"] == 0, name
        assert counts["wide"] >= 2, name


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_the_benchmark_says_that_nothing_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "no GPU here: not measured\n"), done.stderr
