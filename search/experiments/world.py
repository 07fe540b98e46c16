"""The folder in which an experiment runs on the demo's wide world: models, items and its file."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

from merge_core.writing import new_folder
from merge_core.yaml_io import write_atomic
from search.demo import series, wide
from search.demo.process import DemoError, Progress
from search.demo.wide_items import write_wide_items
from search.errors import ConfigError, SearchError

_MADE = ".made-of"


def write_world(
    name: str, folder: Path, *, continued: bool, seed: int, progress: Progress | None = None
) -> Path:
    """Put models, items and the file of the experiment `name` into `folder`; the file's path.

    Models that are there already stay, unless they are of another seed or another making.

    Args:
        name: of the experiment.
        folder: made if it is not there.
        continued: whether the checkpoints of the series are needed.
        seed: of the models.
        progress: told of training, as `ensure_wide` tells it.

    Raises:
        SearchError: the models could not be trained.
        ConfigError: the folder holds models that this did not put there.
    """
    try:
        roots: dict[Path, tuple[str, ...]] = {}
        roots[wide.ensure_wide(seed=seed, progress=progress).root] = wide.STAGES
        if continued:
            roots[series.ensure_series(seed=seed, progress=progress).root] = series.STAGES
    except (DemoError, OSError) as error:
        raise SearchError(str(error)) from error
    made = "\n".join(root.name for root in roots)
    models = folder / "models"
    clear(models, made)
    if not models.exists():
        with new_folder(models) as target:
            for root, stages in roots.items():
                for stage in stages:
                    shutil.copytree(root / stage, target / stage)
            (target / _MADE).write_text(made, encoding="utf-8")
    # Made anew each time, in no time: results are kept by what the items hold.
    shutil.rmtree(folder / "items", ignore_errors=True)
    with new_folder(folder / "items") as target:
        write_wide_items(target)
    file = folder / f"{name}.yaml"
    text = files("configs").joinpath("experiments", f"{name}.yaml").read_text(encoding="utf-8")
    write_atomic(file, text)
    return file


def clear(models: Path, made: str) -> None:
    """Remove models that an earlier start put into `models`, unless they are those of `made`.

    Raises:
        ConfigError: the folder holds models that this did not put there.
    """
    # Aside first, as one step: a removal that is interrupted leaves no half of a folder, which
    # would not be known for our own.
    aside = models.with_name(f".{models.name}-removed")
    shutil.rmtree(aside, ignore_errors=True)
    if not models.exists():
        return
    mark = models / _MADE
    if not mark.is_file():
        raise ConfigError(f"{models}: was not put there by this command; name another --out")
    if mark.read_text(encoding="utf-8") != made:
        models.rename(aside)
        shutil.rmtree(aside)
