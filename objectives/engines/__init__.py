"""Engines: who answers the prompts, with weights swapped in place between trials."""

from pathlib import Path

from objectives.engines.base import Engine, PromptCheck
from objectives.engines.config import (
    ENGINES,
    PROMPT_CHECKS,
    EngineConfig,
    ScriptedConfig,
    TransformersConfig,
    VllmConfig,
)
from objectives.tables import resolve

__all__ = [
    "ENGINES",
    "PROMPT_CHECKS",
    "EngineConfig",
    "ScriptedConfig",
    "TransformersConfig",
    "VllmConfig",
    "make_engine",
    "prompt_check",
]


def make_engine(config: EngineConfig, model: str | Path) -> Engine:
    """The engine of `config`, live.

    `model` is a local directory in Hugging Face layout that gives architecture, tokenizer, chat
    template and initial weights; one without weight files has to be loaded before it answers.

    Raises:
        EngineError: the directory, device or dtype cannot be used; one line says which and why.
    """
    engine: Engine = resolve(ENGINES, config.kind)(config, model)
    return engine


def prompt_check(config: EngineConfig, model: str | Path) -> PromptCheck:
    """What the engine of `config`, one of `PROMPT_CHECKS`, knows of prompts; needs no device.

    `model` is a directory as `make_engine` takes, of which only tokenizer, chat template and
    configuration are read.

    Raises:
        EngineError: they cannot be read; one line says why.
    """
    check: PromptCheck = resolve(PROMPT_CHECKS, config.kind)(config, model)
    return check
