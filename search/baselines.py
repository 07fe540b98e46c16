"""Baselines: what a merge has to beat, each of them a recipe like any other.

| in the file | is |
|---|---|
| `base` | the base model |
| `expert:NAME`; `experts` for all | an expert alone |
| `uniform` | the plain average of the experts |
| `recipe:FILE` | any recipe file |
| `checkpoint:PATH` | any checkpoint of the same architecture, for example CT-then-SFT |

A single model is the linear merge of itself with weight 1: the same bits, through the same path.
"""

from __future__ import annotations

from pathlib import Path

from merge_core import Expert, Recipe
from merge_core.checkpoint import locate
from merge_core.values import Scalar
from merge_core.yaml_io import unknown
from search.config import Search
from search.errors import ConfigError

KINDS = ("base", "experts", "expert:NAME", "uniform", "recipe:FILE", "checkpoint:PATH")


def baselines(search: Search) -> dict[str, Recipe]:
    """The recipes of the file's baselines, by label.

    Raises:
        ConfigError: an unknown baseline or expert, or a base where the file names none.
        MergeError: a recipe file or checkpoint cannot be read.
    """
    template = search.example()
    found: dict[str, Recipe] = {}
    for entry in search.file.baselines:
        kind, _, argument = entry.partition(":")
        if kind == "base" and not argument:
            if template.base_model is None:
                raise ConfigError(f"{search.path}: baseline base: the file names no base_model")
            found["base"] = _alone(template, template.base_model)
        elif kind == "experts" and not argument:
            found |= {f"expert:{e.name}": _alone(template, e.model) for e in template.models}
        elif kind == "expert":
            models = {expert.name: expert.model for expert in template.models}
            if argument not in models:
                raise ConfigError(f"{search.path}: baseline: {unknown('expert', argument, models)}")
            found[entry] = _alone(template, models[argument])
        elif kind == "uniform" and not argument:
            found["uniform"] = _average(template, [expert.model for expert in template.models])
        elif kind == "recipe" and argument:
            found[entry] = Recipe.load(search.root / argument)
        elif kind == "checkpoint" and argument:
            path = search.root / argument
            model = str(path.resolve()) if path.exists() else argument
            locate(model)
            found[entry] = _alone(template, model)
        else:
            raise ConfigError(f"{search.path}: {unknown('baseline', entry, KINDS)}")
    return found


def _alone(template: Recipe, model: str) -> Recipe:
    return _average(template, [model])


def _average(template: Recipe, models: list[str]) -> Recipe:
    return Recipe(
        merge_method="linear",
        base_model=template.base_model,
        models=tuple(
            Expert(model, f"m{index}" if len(models) > 1 else "model", {"weight": Scalar(1.0)})
            for index, model in enumerate(models)
        ),
        dtype=template.dtype,
        seed=template.seed,
    )


def model_folder(search: Search) -> Path:
    """The folder that gives the engines their architecture, tokenizer and chat template."""
    recipe = search.example()
    reference = recipe.base_model or recipe.models[0].model
    if recipe.tokenizer_source.startswith("model:"):
        name = recipe.tokenizer_source.removeprefix("model:")
        reference = recipe.models[recipe.names.index(name)].model
    return locate(reference)
