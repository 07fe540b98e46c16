"""Recipe files as users have them: ours, or mergekit's.

Apart from `search.describe`, because `mergefront merge` needs neither Ray nor a study.
"""

from __future__ import annotations

from pathlib import Path

from merge_core import Recipe, RecipeError
from merge_core.mergekit import load_mergekit
from merge_core.yaml_io import load_yaml
from search.errors import ConfigError

_MERGEKIT_ONLY = {"out_dtype", "slices", "modules", "tokenizer", "chat_template"}


def load_recipe(path: Path) -> tuple[Recipe, list[str]]:
    """A recipe file, ours or mergekit's, with notes on what is read differently.

    A file that both can read is ours. What neither can read is reported by the one it was written
    for: mergekit's if it has a key that only mergekit knows.
    """
    try:
        document = load_yaml(path)
    except RecipeError as error:
        raise ConfigError(str(error)) from None
    keys = set(document.data) if isinstance(document.data, dict) else set()
    if keys & {"tasks", "objectives"}:
        raise ConfigError(
            f"{path}: is a search file; `mergefront run` it, and merge the recipe.yaml of its run"
        )
    try:
        return Recipe.from_document(document), []
    except RecipeError as ours:
        try:
            return load_mergekit(path)
        except RecipeError as theirs:
            raise (theirs if keys & _MERGEKIT_ONLY else ours) from None
