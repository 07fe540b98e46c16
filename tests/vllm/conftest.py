"""The vLLM engine with vLLM itself (its CPU build): `make test-vllm`; nothing is collected without.

`MERGEFRONT_VLLM_FULL=1` runs all combinations in full; see `kit.RECIPES`.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    # Before vLLM is imported. In one process where that can be: an engine then starts in 3 seconds
    # of a core instead of 30. Two ranks, and workers of a search, are processes of their own.
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two ranks on one node
        "TORCH_COMPILE_DISABLE": "1",  # two ranks would compile one file at once
    }


@pytest.fixture(scope="session")
def untied(trio, tmp_path_factory):
    """The trio with heads of their own."""
    from tests.vllm.kit import untie

    return untie(trio, tmp_path_factory.mktemp("untied"))


@pytest.fixture(scope="session")
def answers(tmp_path_factory):
    """What fresh engines, started on saved merges, answer: by recipe, each made once."""
    from tests.vllm.kit import FreshAnswers

    return FreshAnswers(tmp_path_factory.mktemp("saved"))
