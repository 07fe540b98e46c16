from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from merge_core import Expert, MergePlan, Recipe
from merge_core.values import Scalar


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    bits=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_the_linear_merge_of_one_model_is_that_model_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, bits: list[int], dtype: torch.dtype
) -> None:
    """What makes baselines and `score` go through the same path as trials (decision 4)."""
    folder: Path = tmp_path_factory.mktemp("one")
    weights = torch.from_numpy(np.array(bits, np.uint16).view(np.int16)).view(dtype)
    weights = torch.where(torch.isfinite(weights), weights, torch.zeros_like(weights))
    save_file({"model.layers.0.weight": weights}, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["Toy"], "num_hidden_layers": 1})
    )
    recipe = Recipe("linear", None, (Expert(str(folder), "one", {"weight": Scalar(1.0)}),))
    merged = MergePlan(recipe).tensor("model.layers.0.weight")
    assert merged.view(torch.int16).tolist() == weights.view(torch.int16).tolist()
