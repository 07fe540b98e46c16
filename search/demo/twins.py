"""Published protocols in miniature: their search files with models and items of the wide world.

A twin is a file of `configs/twins`; its folder holds the file, `models`, `items` and `recipes`, so
that `mergefront check` and `mergefront run` work on it as on any search file.
"""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from merge_core.writing import new_folder
from merge_core.yaml_io import write_atomic

from .process import Progress
from .wide import STAGES, ensure_wide
from .wide_items import write_wide_items

Twin = Literal["typhoon2_r1", "ties_sv"]
TWINS: tuple[Twin, ...] = get_args(Twin)


def write_twin(
    name: Twin, folder: Path, *, seed: int = 0, progress: Progress | None = None
) -> Path:
    """Put a twin's models, items, recipes and search file into `folder`; the search file's path.

    Models and items that are there already stay; the files of `configs` are written anew.

    Args:
        name: of the twin.
        folder: made if it is not there.
        seed: of the models.
        progress: told of training, as `ensure_wide` tells it.

    Raises:
        DemoError: the models could not be trained.
        CheckpointError, OSError: the folder cannot be written.
    """
    wide = ensure_wide(seed=seed, progress=progress)
    for stage in STAGES:
        if not (folder / "models" / stage).exists():
            with new_folder(folder / "models" / stage) as target:
                shutil.copytree(wide.root / stage, target, dirs_exist_ok=True)
    if not (folder / "items").exists():
        with new_folder(folder / "items") as target:
            write_wide_items(target)
    twins = files("configs").joinpath("twins")
    (folder / "recipes").mkdir(exist_ok=True)
    for recipe in sorted(twins.joinpath("recipes").iterdir(), key=lambda path: path.name):
        if recipe.name.startswith(f"{name}_"):
            write_atomic(folder / "recipes" / recipe.name, recipe.read_text(encoding="utf-8"))
    file = folder / f"{name}.yaml"
    write_atomic(file, twins.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    return file
