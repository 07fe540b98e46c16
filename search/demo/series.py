"""Keep one continued pre-training of the wide world in checkpoints: cached, or trained.

From the wide world's base a Thai expert is trained on and on, and kept after each number of steps
in CHECKPOINTS; from each of these a rival is fine-tuned for reasoning (CT-then-SFT).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import cache
from .process import Progress, Training, follow
from .wide import ensure_wide
from .wide_corpora import CHECKPOINTS

CONTINUED = tuple(f"ct_{steps}" for steps in CHECKPOINTS)
STAGES = (*CONTINUED, *(f"{stage}_sft" for stage in CONTINUED))


@dataclass(frozen=True)
class Series:
    """Where the checkpoints lie, `ct_10`, `ct_10_sft` and on, each a Hugging Face directory."""

    root: Path


def ensure_series(
    root: Path | None = None, *, seed: int = 0, progress: Progress | None = None
) -> Series:
    """Return the series, training it (and the wide world) first unless it is there and current.

    As `ensure_wide`; all in one process, for each checkpoint goes on from the one before.

    Raises:
        DemoError: training failed.
        OSError: the folder cannot be written.
    """
    wide = ensure_wide(seed=seed, progress=progress)
    content = cache.content_hash(seed, "wide.py", "wide_corpora.py", "series.py")
    root = root or cache.cached_root(content)

    def train(folder: Path) -> float | None:
        shutil.copytree(wide.base, folder / "base")
        with Training("wide", STAGES, folder, seed) as training:
            follow([training], progress)
        # What the fine-tuning teaches is told by the wide world's reasoning expert.
        manifest = json.loads((wide.root / "manifest.json").read_text(encoding="utf-8"))
        return float(manifest["reasoning"])

    cache.ensure(root, STAGES, {"content": content, "seed": seed}, train)
    return Series(root)
