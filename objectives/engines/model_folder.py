"""What engines read of a model folder besides weights: without network, remote code or pickles."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from objectives.errors import EngineError

_WEIGHTS = ("*.safetensors*", "*.bin*", "*.pt", "*.pth", "*.h5", "*.msgpack")
"""Names of files that hold weights, those that are refused included."""


def has_weights(path: Path) -> bool:
    """Whether any file there holds weights; otherwise it is the skeleton of a model."""
    return any(file for pattern in _WEIGHTS for file in path.glob(pattern))


def read_folder(path: Path) -> tuple[Any, int | None]:
    """Tokenizer of a model folder, and the most tokens that its model takes.

    Raises:
        EngineError: they cannot be read.
    """
    from transformers import AutoConfig

    with opening(path):
        tokenizer = read_tokenizer(path)
        own = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    return tokenizer, limit(own)


@contextlib.contextmanager
def opening(path: Path) -> Iterator[None]:
    """Whatever a model directory does not allow, in one line; nothing is shown meanwhile."""
    from safetensors import SafetensorError

    if not (path / "config.json").is_file():
        raise EngineError(f"{path}: no config.json there; give a local model directory")
    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        what = " ".join(str(error).split())
        raise EngineError(f"{path}: the model cannot be opened: {what[:300]}") from error


def read_tokenizer(path: Path) -> Any:
    """The tokenizer of a model folder.

    Raises:
        EngineError: it cannot be opened.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library has no class of its own for a broken file
        what = " ".join(str(error).split())
        raise EngineError(f"{path}: the tokenizer cannot be opened: {what[:300]}") from error


def limit(config: Any) -> int | None:
    """The most tokens that a model takes, answer included; None where nothing says."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No loading bars: a search starts many engines, and its own display owns the terminal."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def end_ids(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer: of the generation config; where it has none, the tokenizer's."""
    ids = generation_config.eos_token_id if generation_config else None
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset(int(i) for i in (ids if isinstance(ids, list | tuple) else [ids]))
