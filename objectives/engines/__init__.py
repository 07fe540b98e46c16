"""Engines: who answers the prompts, with weights swapped in place between trials."""

from pathlib import Path

from objectives.engines.base import Engine
from objectives.engines.config import ENGINES, EngineConfig, ScriptedConfig, TransformersConfig
from objectives.tables import resolve

__all__ = ["ENGINES", "EngineConfig", "ScriptedConfig", "TransformersConfig", "make_engine"]


def make_engine(config: EngineConfig, model: str | Path) -> Engine:
    """The engine of `config`, live.

    `model` is a local directory in Hugging Face layout that gives architecture, tokenizer, chat
    template and initial weights; one without weight files has to be loaded before it answers.

    Raises:
        EngineError: the directory, device or dtype cannot be used; one line says which and why.
    """
    engine: Engine = resolve(ENGINES, config.kind)(config, model)
    return engine
