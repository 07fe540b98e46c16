"""What a search file may say of vLLM; needs neither vLLM nor a device."""

import importlib.util

import pytest
from pydantic import TypeAdapter, ValidationError

from objectives.engines import EngineConfig, VllmConfig, make_engine, prompt_check
from objectives.engines.base import GenerationSettings
from objectives.errors import EngineError
from tests.objectives.engine_suite import user
from tests.objectives.tiny_model import save_model

READ = TypeAdapter(EngineConfig).validate_python


def test_arguments_are_passed_on_as_they_are():
    config = READ(
        {
            "kind": "vllm",
            "tensor_parallel": 4,
            "pipeline_parallel": 2,
            "max_model_len": 8192,
            "gpu_memory_utilization": 0.9,
            "enable_prefix_caching": False,
            "compilation_config": {"mode": 0},
        }
    )
    assert isinstance(config, VllmConfig)
    assert config.devices == 8
    assert config.arguments == {
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 2,
        "dtype": "auto",
        "max_model_len": 8192,
        "gpu_memory_utilization": 0.9,
        "enable_prefix_caching": False,
        "compilation_config": {"mode": 0},
    }
    filled = config.model_copy(update={"dtype": "bfloat16"})  # as a worker does
    assert filled.arguments["dtype"] == "bfloat16"
    assert filled.arguments["enable_prefix_caching"] is False


def test_every_engine_says_how_many_devices_it_needs():
    for kind in ({"kind": "transformers"}, {"kind": "scripted", "default": "a"}, {"kind": "vllm"}):
        assert READ(kind).devices == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trust_remote_code": True}, "trust_remote_code cannot be set: code that comes with a mo"),
        ({"trust_remote_code": False}, "trust_remote_code cannot be set"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size cannot be set: write tensor_parallel"),
        ({"worker_extension_cls": "a.B"}, "a class of our own"),
        ({"data_parallel_size": 2}, "set workers.count for more"),
        ({"hf_token": "secret"}, "set HF_TOKEN in the environment"),
        ({"tensor_parallel": 0}, "greater than or equal to 1"),
        ({"swap": "disk"}, "in_place"),
    ],
)
def test_refuses_what_cannot_be_set(given, message):
    with pytest.raises(ValidationError, match=message):
        READ({"kind": "vllm", **given})


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_it_says_what_to_install(tmp_path):
    with pytest.raises(EngineError, match=r"pip install 'mergefront\[vllm\]'") as told:
        make_engine(VllmConfig(), tmp_path)
    assert "\n" not in str(told.value)


def test_prompts_are_checked_without_vllm(tmp_path):
    model = save_model(tmp_path)
    check = prompt_check(VllmConfig(max_model_len=64), model)
    long = [user("a", " ".join(["w1"] * 40)), user("b", "w1")]
    assert check.prompts(long, GenerationSettings(max_tokens=30)) == 1
