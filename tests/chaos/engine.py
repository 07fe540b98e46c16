"""An engine whose answers are a fact of the merged weights, given by a process of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch

from objectives.engines.base import Engine, Generation, GenerationSettings, Prompt
from objectives.engines.config import ScriptedConfig
from objectives.errors import EngineDiedError, EngineError
from objectives.weights import WeightSource

CHILD = Path(__file__).with_name("child.py")


class AskingEngine(Engine):
    """Asks its child, as an engine with a core process of its own does.

    A child that dies takes the answers with it; the engine then says that it is dead.
    """

    kind: ClassVar[str] = "scripted"

    def __init__(self, config: ScriptedConfig, model: str | Path = "") -> None:
        del model
        self._delay = config.delay
        self._weights = ""
        self._child = subprocess.Popen(
            [sys.executable, "-S", "-E", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def load(self, source: WeightSource) -> None:
        """Read all tensors; what is kept of them is a digest."""
        digest = hashlib.sha256()
        specs = source.specs()
        for name, tensor in sorted(source.tensors(), key=lambda pair: pair[0]):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
            del specs[name]
        if specs:
            raise EngineError(f"the source left out {sorted(specs)[0]!r}")
        self._weights = digest.hexdigest()

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """One question to the child for all prompts."""
        del settings
        job = {
            "weights": self._weights,
            "prompts": [prompt.id for prompt in prompts],
            "delay": self._delay,
        }
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(job) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except OSError:
            line = ""
        if not line.endswith("\n"):
            raise EngineDiedError("the engine's core process is dead")
        return [Generation(text, len(text.split()), "stop") for text in json.loads(line)]

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.communicate()
