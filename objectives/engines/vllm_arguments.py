"""What may be said to vLLM, known without importing it: its import takes ten seconds."""

import ast
import functools
import importlib.util
from pathlib import Path

from objectives.tables import did_you_mean

OURS = {
    "tensor_parallel_size": "write tensor_parallel",
    "pipeline_parallel_size": "write pipeline_parallel",
    "trust_remote_code": "code that comes with a model is never run",
    "model": "the search file's models are served",
    "model_weights": "the search file's models are served",
    "served_model_name": "no server is started",
    "tokenizer": "the merge's own is used",
    "tokenizer_mode": "the merge's own is used",
    "tokenizer_revision": "the merge's own is used",
    "skip_tokenizer_init": "prompts are encoded before they come to vLLM",
    "tokens_only": "prompts are encoded before they come to vLLM",
    "generation_config": "a task's `generate` says how answers are generated",
    "override_generation_config": "a task's `generate` says how answers are generated",
    "runner": "models generate here",
    "convert": "models generate here",
    "load_format": "weights come from merges",
    "hf_config_path": "the merge's own configuration is used",
    "config_format": "the merge's own configuration is used",
    "revision": "write it behind the model: org/name@revision",
    "code_revision": "code that comes with a model is never run",
    "hf_token": "set HF_TOKEN in the environment",
    "worker_cls": "merges are made in vLLM's workers by a class of our own",
    "worker_extension_cls": "merges are made in vLLM's workers by a class of our own",
    "disable_log_stats": "no statistics are logged",
    "scheduler_cls": "code of others is not run by its name",
    "logits_processors": "code of others is not run by its name",
    "reasoning_parser_plugin": "code of others is not run by its name",
    "io_processor_plugin": "code of others is not run by its name",
    "model_class_overrides": "code of others is not run by its name",
    "weight_transfer_config": "weights come from merges",
    "enable_lora": "adapters are merged: write BASE+ADAPTER as a model",
    "enable_sleep_mode": "an engine lives as long as its worker",
}
"""Engine arguments that cannot be given, and why, or what to write instead."""

_MANY = "one engine is one copy of the model; set workers.count for more"


@functools.cache
def known_arguments() -> frozenset[str]:
    """The names of vLLM's engine arguments, read from its source; empty if it is not installed."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return frozenset()
    file = Path(found.submodule_search_locations[0]) / "engine" / "arg_utils.py"
    if not file.is_file():
        return frozenset()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            named = [n.target for n in node.body if isinstance(n, ast.AnnAssign)]
            return frozenset(target.id for target in named if isinstance(target, ast.Name))
    return frozenset()


def refusal(name: str, fields: frozenset[str]) -> str | None:
    """Why an engine argument is not taken, in one line; None if it is.

    Args:
        name: of the argument.
        fields: what a search file may say besides.
    """
    if name in OURS:
        return f"{name} cannot be set: {OURS[name]}"
    if name.startswith("data_parallel_"):
        return f"{name} cannot be set: {_MANY}"
    known = known_arguments()
    if known and name not in known:
        open_to_all = {k for k in known if k not in OURS and not k.startswith(("data_p", "_"))}
        return f"vLLM has no engine argument {name!r}; {did_you_mean(name, open_to_all | fields)}"
    return None
