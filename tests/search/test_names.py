"""MLflow's names: legal there, readable, and one to one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_param_name

from search.names import to_mlflow

KNOWN = {
    "merge_method": "merge_method",
    "normalize": "normalize",
    "reasoning.weight": "reasoning/weight",
    "reasoning.weight[2]": "reasoning/weight/2",
    "reasoning.weight.knee": "reasoning/weight/knee",
    "reasoning.weight[self_attn]": "reasoning/weight/self_attn",
    "reasoning.weight[self_attn][0]": "reasoning/weight/self_attn/0",
    "reasoning.weight[mlp].plateau": "reasoning/weight/mlp/plateau",
    "reasoning.weight[layers.1.mlp]": "reasoning/weight/layers:1:mlp",
    "reasoning.weight[a/b]": "reasoning/weight/a 2f b",
    "reasoning.weight[q*]": "reasoning/weight/q 2a ",
}


@pytest.mark.parametrize(("study", "mlflow"), KNOWN.items())
def test_examples(study: str, mlflow: str) -> None:
    assert to_mlflow(study) == mlflow


LABELS = st.text(min_size=1, max_size=8).filter(lambda text: "[" not in text and "]" not in text)


@given(st.lists(LABELS, unique=True, min_size=2, max_size=6))
def test_filters_never_share_a_name_and_mlflow_takes_each(labels: list[str]) -> None:
    names = [f"e.weight[{label}]" for label in labels]
    names += [f"{name}{rest}" for name in names for rest in ("[0]", "[1]", ".plateau", ".knee")]
    there = [to_mlflow(name) for name in names]
    assert len(set(there)) == len(names)
    for mlflow in there:
        _validate_param_name(mlflow)


@given(st.text(max_size=20))
def test_any_text_has_a_name(text: str) -> None:
    assert "[" not in to_mlflow(text)
