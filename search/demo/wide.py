"""Keep the wide world's models: find them in the cache, or have them trained.

The trio's story with a second language: one base, a Thai and a Bengali expert, a reasoning expert,
and what merges compete with, an expert in both languages and three models that were fine-tuned for
reasoning after the continued pre-training (CT-then-SFT).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import cache
from .process import Progress, Training, follow

STAGES = (
    "base",
    *("thai", "bengali", "both", "reasoning"),
    *("thai_sft", "bengali_sft", "both_sft"),
)
# What is trained from another model comes after it; each of the two takes about half of the time.
_SIDE_BY_SIDE = (
    ("thai", "thai_sft", "bengali", "bengali_sft"),
    ("reasoning", "both", "both_sft"),
)


@dataclass(frozen=True)
class Wide:
    """Where the models lie, each a Hugging Face model directory.

    Attributes:
        root: of them all.
        base: knows three languages, computes seldom and guesses often.
        thai, bengali: the base after continued pre-training on one language.
        both: the same on both languages.
        reasoning: the base after fine-tuning on English chains of thought.
        thai_sft, bengali_sft, both_sft: that fine-tuning after the continued pre-training.
    """

    root: Path
    base: Path
    thai: Path
    bengali: Path
    both: Path
    reasoning: Path
    thai_sft: Path
    bengali_sft: Path
    both_sft: Path


def ensure_wide(
    root: Path | None = None, *, seed: int = 0, progress: Progress | None = None
) -> Wide:
    """Return the wide world's models, training them first unless they are there, whole and current.

    As `ensure_trio`, with two training processes side by side once the base is there.

    Args:
        root: Folder of the models; None is one of the user's cache.
        seed: Seed of the first weights and of every corpus.
        progress: Called in this process with stage (one of STAGES), steps done and steps in all,
            while training goes on; stages come interleaved.

    Raises:
        DemoError: Training failed, or made a reasoning expert that does not reason.
        OSError: The folder cannot be written.
    """
    content = content_hash(seed)
    root = root or cache.cached_root(content)

    def train(folder: Path) -> float | None:
        with Training("wide", ["base"], folder, seed) as base:
            follow([base], progress)
        one, two = _SIDE_BY_SIDE
        with (
            Training("wide", one, folder, seed) as first,
            Training("wide", two, folder, seed) as second,
        ):
            return follow([first, second], progress)

    cache.ensure(root, STAGES, {"content": content, "seed": seed}, train)
    return Wide(root, *(root / stage for stage in STAGES))


def content_hash(seed: int) -> str:
    """Name what the wide world's models are made of (sha256, hex)."""
    return cache.content_hash(seed, "wide.py", "wide_corpora.py")
