"""Batches by free memory: injected small limits on real engines."""

import logging
import random
from itertools import pairwise

import pytest
import torch

from objectives.engines import TransformersConfig, make_engine
from objectives.engines.base import Continuation, GenerationSettings
from objectives.engines.batching import (
    CPU_TOKENS,
    GROW_AFTER,
    LOGIT_CELLS,
    Batcher,
    Footprint,
    Size,
    _group_memory,
    free_bytes,
)
from objectives.engines.transformers import TransformersEngine
from objectives.errors import EngineError
from tests.objectives.engine_suite import ASKED, PROMPTS, SHORT, same, user

CPU = TransformersConfig(device="cpu")
MANY = [user(str(i), " ".join(f"w{i + j}" for j in range(2 + i % 7))) for i in range(24)]


def plan(batcher, sizes):
    batches = []
    batcher.run(range(len(sizes)), sizes, [str(i) for i in range(len(sizes))], batches.append)
    assert [i for batch in batches for i in batch] == list(range(len(sizes)))
    return batches


def batcher(config=CPU, device="cpu", free=1 << 40, footprint=None):
    footprint = footprint or Footprint(token=1000, read=500, pair=2, row=10_000)
    return Batcher(config, torch.device(device), footprint, lambda _: free)


@pytest.mark.parametrize("free", [0, 1 << 20, 1 << 23, 1 << 26])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_batches_keep_to_the_free_memory(free, device):
    draw = random.Random(0)
    sizes = sorted((Size(draw.randint(1, 300), 64) for _ in range(100)), key=lambda s: -s.width)
    maker = batcher(device=device, free=free)
    batches = plan(maker, sizes)
    share = 0.8 if device == "cuda:0" else 0.5
    for batch, after in zip(batches, [*batches[1:], []], strict=True):
        width = max(sizes[i].width for i in batch)
        assert len(batch) == 1 or maker._footprint.bytes(len(batch), width, 64) <= free * share
        if after:  # one more would not have fitted
            more = len(batch) + 1
            fits = maker._footprint.bytes(more, width, 64) <= free * share
            assert not fits or (device == "cpu" and more * (width + 64) > CPU_TOKENS)
    assert len(batches) == 100 if free == 0 else len(batches) < 100


def test_numbers_that_are_given_win_over_the_memory():
    sizes = [Size(40, 60)] * 20
    assert {len(batch) for batch in plan(batcher(CPU, free=0), sizes)} == {1}
    told = CPU.model_copy(update={"max_batch_tokens": 500})
    assert {len(batch) for batch in plan(batcher(told, free=0), sizes)} == {5}
    both = told.model_copy(update={"batch_size": 4})
    assert {len(batch) for batch in plan(batcher(both, free=0), sizes)} == {4}


def test_the_footprint_covers_the_cache(tiny):
    with make_engine(CPU, tiny) as engine:
        footprint = Footprint.of(engine._model)
        from transformers import DynamicCache

        cache = DynamicCache(config=engine._model.config)
        ids = torch.arange(40).reshape(2, 20)
        engine._model(input_ids=ids, past_key_values=cache, use_cache=True)
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 2 * 20 * 4 * 2 * 96 * 4
    assert 1 < footprint.bytes(2, 20, 0) / held < 12


def test_answers_do_not_depend_on_the_memory(tiny):
    with make_engine(CPU, tiny) as engine:
        expected = engine.generate(MANY, SHORT)
        likely = engine.loglikelihood(ASKED)
    for free in (0, 3 << 20):
        with TransformersEngine(CPU, tiny, free=lambda _, free=free: free) as engine:
            assert engine.generate(MANY, SHORT) == expected
            same(engine.loglikelihood(ASKED), likely)


def limited(engine, rows, error):
    """Make the live model run out of memory on batches of more than `rows`."""
    seen = []

    def check(module, args, kwargs):
        seen.append(len(kwargs["input_ids"]))
        if seen[-1] > rows:
            raise error

    engine._model.register_forward_pre_hook(check, with_kwargs=True)
    return seen


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_the_next_ones_start_smaller(tiny, caplog, error):
    with make_engine(CPU, tiny) as engine:
        expected = engine.generate(MANY, SHORT)
        seen = limited(engine, 5, error)
        with caplog.at_level(logging.WARNING):
            assert engine.generate(MANY, SHORT) == expected
            failed = sum(rows > 5 for rows in seen)
            assert failed == engine._batcher.out_of_memory == 3  # 24, 12, 6, then 3
            assert engine.generate(MANY, SHORT) == expected
            same(engine.loglikelihood(ASKED), engine.loglikelihood(ASKED))
        assert sum(rows > 5 for rows in seen) == failed
    (record,) = caplog.records
    assert "cpu ran out of memory on 24 prompts" in record.message


def worked(maker, room, count):
    """The sizes of the batches that were tried on `count` rows where `room()` rows fit."""
    tried = []

    def work(batch):
        tried.append(len(batch))
        if len(batch) > room():
            raise torch.OutOfMemoryError

    maker.run(range(count), [Size(10, 6)] * count, [str(i) for i in range(count)], work)
    return tried


SIXTEEN = CPU.model_copy(update={"max_batch_tokens": 256})  # rows of 16 tokens


def test_batches_grow_again_after_a_passing_want_of_memory():
    maker = batcher(SIXTEEN)
    rooms = iter([3, 3, 3])
    tried = worked(maker, lambda: next(rooms, 16), 400)
    assert tried[:3] == [16, 8, 4]
    small, middle = tried.index(4, 3), tried.index(8, 3)
    assert tried[3:middle] == [2] * GROW_AFTER + [4] * GROW_AFTER
    assert small == 3 + GROW_AFTER
    assert tried[middle : middle + GROW_AFTER] == [8] * GROW_AFTER
    assert set(tried[middle + GROW_AFTER : -1]) == {16}
    assert maker.out_of_memory == 3
    worked(maker, lambda: 16, 16 * GROW_AFTER)
    assert maker._patience == GROW_AFTER


def test_lasting_want_of_memory_is_tried_ever_more_rarely():
    maker = batcher(SIXTEEN)
    tried = worked(maker, lambda: 8, 8 * 1000)
    failed = [at for at, rows in enumerate(tried) if rows > 8]
    assert [b - a - 1 for a, b in pairwise(failed)] == [
        GROW_AFTER * 2**n for n in range(len(failed) - 1)
    ]
    assert len(failed) == 6


def test_small_batches_do_not_tell_that_larger_ones_fit():
    maker = batcher(SIXTEEN)
    worked(maker, lambda: 8, 16)
    for _ in range(3 * GROW_AFTER):
        worked(maker, lambda: 8, 2)
    assert worked(maker, lambda: 8, 16) == [8, 8]


def test_one_prompt_that_does_not_fit_is_named(tiny):
    with make_engine(CPU, tiny) as engine:
        limited(engine, 0, torch.OutOfMemoryError("CUDA out of memory."))
        with pytest.raises(EngineError, match=r"'b': its 5 tokens and 8 new.*lower max_tokens"):
            engine.generate([PROMPTS[1]], SHORT)
        with pytest.raises(EngineError, match=r"'x'.*memory of cpu"):
            engine.loglikelihood([Continuation("x", (), "w1")])


def test_other_errors_pass(tiny):
    with make_engine(CPU, tiny) as engine:
        limited(engine, 0, RuntimeError("device-side assert"))
        with pytest.raises(RuntimeError, match="device-side"):
            engine.generate(PROMPTS, SHORT)


def test_memory_of_this_machine_is_known(tmp_path):
    assert 1 << 20 < free_bytes(torch.device("cpu")) < 1 << 50
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("4000\n")
    assert _group_memory(tmp_path) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert _group_memory(tmp_path) > 1 << 60


def test_logits_take_a_tenth_of_the_memory_of_batches():
    assert batcher(device="cuda:0", free=1 << 30).logit_cells() == int((1 << 30) * 0.8) // 120
    assert batcher(device="cuda:0").logit_cells() == LOGIT_CELLS["cuda"]
    assert batcher(free=0).logit_cells() == 1


def test_sampled_answers_are_of_their_item_and_sample_alone(tiny):
    warm = GenerationSettings(max_tokens=8, temperature=1.0, seed=3)
    asked = [type(p)(p.id, p.messages, sample) for p in PROMPTS for sample in range(3)]
    with make_engine(CPU, tiny) as engine:
        together = engine.generate(asked, warm)
        assert engine.generate(asked[::-1], warm)[::-1] == together
        assert [engine.generate([one], warm)[0] for one in asked] == together
        assert together[::3] == engine.generate(PROMPTS, warm)
        assert len({answer.text for answer in together[:3]}) == 3
