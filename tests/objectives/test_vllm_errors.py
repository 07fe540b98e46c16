"""What vLLM says, as ours: what another try may mend is told apart from what users must mend."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merge_core import NonFiniteError
from objectives.engines.vllm_errors import at_start, plain, revived, tells_of_death
from objectives.errors import EngineDiedError, EngineError, EngineMemoryError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ValueError(
                "Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU"
                " memory utilization (0.9, 71.3 GiB). Decrease GPU memory utilization"
            ),
            EngineMemoryError,
        ),
        (
            ValueError(
                "Available memory on node 0 (2/24 GiB) on startup is less than desired CPU memory"
                " utilization (0.4, 9 GiB)."
            ),
            EngineMemoryError,
        ),
        (ValueError("No available memory for the cache blocks. Try"), EngineMemoryError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), EngineMemoryError),
        (MemoryError(), EngineMemoryError),
        (
            RuntimeError("Engine core initialization failed. See root cause above. {'Core_0': 1}"),
            EngineDiedError,
        ),
        (Exception("WorkerProc initialization failed due to an exception"), EngineDiedError),
        (ValueError("max_model_len (9) is greater than the model's"), EngineError),
        (
            ValueError(
                "To serve at least one request with the model's max seq len (131072), 16 GiB KV"
                " cache is needed, which is larger than the available KV cache memory (2 GiB)."
            ),
            EngineError,
        ),
        (KeyError("Qwen9ForCausalLM"), EngineError),
    ],
)
def test_a_start_that_failed_is_told_by_who_can_mend_it(error, expected):
    told = at_start(Path("/models/a"), error)
    assert type(told) is expected
    assert str(told).startswith("/models/a: ")
    assert "\n" not in str(told)


def test_a_call_that_nobody_answered_is_a_death():
    failed = "Call to collective_rpc method failed: Executor failed."
    assert tells_of_death(Exception(failed))
    assert tells_of_death(Exception("Call to reset_prefix_cache method failed: cancelled"))
    assert not tells_of_death(ValueError("the prompt is empty"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), EngineMemoryError),
        (MemoryError("no room"), EngineMemoryError),
        (RuntimeError("CUDA error: out of memory"), EngineMemoryError),
        (NonFiniteError("layer 3 is not finite"), NonFiniteError),
        (OSError("the disk is gone"), OSError),
        (UnicodeDecodeError("utf-8", b"a", 0, 1, "bad"), EngineError),
    ],
)
def test_errors_of_workers_come_back_as_what_they_were(error, kind):
    told = plain(error)
    back = revived(told["kind"], told["message"])
    assert type(back) is kind
    assert told["message"] in str(back)


def test_what_torch_cannot_allocate_is_want_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**52)
    assert type(revived(**plain(caught.value))) is EngineMemoryError
