"""Baselines: what a merge has to beat, each of them a recipe like any other.

| in the file | is |
|---|---|
| `base` | the base model |
| `expert:NAME`; `experts` for all | an expert alone |
| `uniform` | the plain average of the experts |
| `task_arithmetic` | base plus the whole difference of every expert (weight 1) |
| `ties`, `dare_ties` | the methods with their papers' defaults: see `search.published` |
| `typhoon2_r1:NAME` | the schedule of 2502.09056; expert NAME is the one that reasons |
| `recipe:FILE` | any recipe file |
| `checkpoint:PATH` | any checkpoint of the same architecture, for example CT-then-SFT |

A single model is the linear merge of itself with weight 1: the same bits, through the same path.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from merge_core import Expert, Recipe
from merge_core.errors import MergeError
from merge_core.references import locate, resolve_reference, split_reference
from merge_core.values import Scalar
from merge_core.yaml_io import unknown
from search import published
from search.config import Search
from search.errors import ConfigError

METHODS = ("task_arithmetic", "ties", "dare_ties")
KINDS = (
    *("base", "experts", "expert:NAME", "uniform", *METHODS),
    *("typhoon2_r1:NAME", "recipe:FILE", "checkpoint:PATH"),
)


def baselines(search: Search) -> dict[str, Recipe]:
    """The recipes of the file's baselines, by label.

    Raises:
        ConfigError: an unknown baseline or expert, a base where the file names none, or a recipe
            file or checkpoint that cannot be read.
    """
    template = search.example()
    models = {expert.name: expert.model for expert in template.models}
    found: dict[str, Recipe] = {}
    for index, entry in enumerate(search.file.baselines):
        kind, _, argument = entry.partition(":")
        try:
            if kind == "base" and not argument:
                if template.base_model is None:
                    raise ConfigError("baseline base: the file names no base_model")
                found["base"] = _alone(template, template.base_model)
            elif kind == "experts" and not argument:
                found |= {f"expert:{name}": _alone(template, m) for name, m in models.items()}
            elif kind == "expert":
                if argument not in models:
                    raise ConfigError(f"baseline: {unknown('expert', argument, models)}")
                found[entry] = _alone(template, models[argument])
            elif kind == "uniform" and not argument:
                found["uniform"] = _average(template, list(models.values()))
            elif kind in METHODS and not argument:
                found[kind] = _by_method(template, kind)
            elif kind == "typhoon2_r1":
                if argument not in models:
                    raise ConfigError(f"baseline: {unknown('expert', argument, models)}")
                found[entry] = _typhoon(template, argument)
            elif kind == "recipe" and argument:
                given = Recipe.load(search.root / Path(argument).expanduser())
                # The live model has one dtype: the search's, unless the recipe says its own.
                found[entry] = given if given.dtype else replace(given, dtype=template.dtype)
            elif kind == "checkpoint" and argument:
                found[entry] = _alone(template, _checkpoint(search, argument))
            else:
                raise ConfigError(unknown("baseline", entry, KINDS))
        except (ConfigError, MergeError) as error:
            raise search.fault(("baselines", index), error) from None
    return found


def seen_from(root: Path, entry: str) -> str:
    """A baseline as typed in this folder, as a search file in `root` would name it."""
    kind, colon, argument = entry.partition(":")
    path = Path(argument).expanduser()
    if kind in ("recipe", "checkpoint") and argument and path.exists():
        return f"{kind}{colon}{os.path.relpath(path, root)}"
    return entry


def _checkpoint(search: Search, reference: str) -> str:
    model = resolve_reference(reference, search.root)
    for part in split_reference(model) or (model,):
        locate(part)
    return model


def _alone(template: Recipe, model: str) -> Recipe:
    if _has_base_vocabulary(template):
        return _linear(template, [_expert(model, "model")])
    experts = [_expert(e.model, e.name, float(e.model == model)) for e in template.models]
    if model not in (expert.model for expert in experts):
        name = next(n for i in range(9) if (n := f"m{i}") not in template.names)
        experts.append(_expert(model, name))
    return _linear(template, experts)


def _average(template: Recipe, models: list[str]) -> Recipe:
    if not _has_base_vocabulary(template):
        return _linear(template, [_expert(e.model, e.name) for e in template.models])
    return _linear(template, [_expert(model, f"m{i}") for i, model in enumerate(models)])


def _by_method(template: Recipe, method: str) -> Recipe:
    """A method with weight 1 for every expert, and the rest as its paper has it."""
    parameters = {"weight": Scalar(1.0)}
    if method in published.DENSITY:
        parameters["density"] = Scalar(published.DENSITY[method])
    experts = tuple(Expert(e.model, e.name, parameters) for e in template.models)
    return _on_base(template, method, experts, normalize=method != "task_arithmetic")


def _typhoon(template: Recipe, reasoning: str) -> Recipe:
    rest = len(template.models) - 1
    if rest == 0:
        raise ConfigError("baseline typhoon2_r1: needs a language expert besides the one it names")
    experts = tuple(
        Expert(
            e.model,
            e.name,
            {
                "weight": published.reasoning_share()
                if e.name == reasoning
                else published.language_share(rest),
                "density": Scalar(1.0),
            },
        )
        for e in template.models
    )
    return _on_base(template, "dare_linear", experts, normalize=False)


def _on_base(
    template: Recipe, method: str, experts: tuple[Expert, ...], *, normalize: bool
) -> Recipe:
    if template.base_model is None:
        raise ConfigError(f"baseline: {method} needs a base_model, and the file names none")
    return Recipe(
        merge_method=method,
        base_model=template.base_model,
        models=experts,
        parameters={"normalize": normalize},
        dtype=template.dtype,
        tokenizer_source=template.tokenizer_source,
        seed=template.seed,
    )


def _has_base_vocabulary(template: Recipe) -> bool:
    """Whether base alone settles the merges' vocabulary.

    Otherwise all experts do, and a baseline names them all: those of weight 0 add nothing.
    """
    return template.base_model is not None and template.tokenizer_source == "base"


def _expert(model: str, name: str, weight: float = 1.0) -> Expert:
    return Expert(model, name, {"weight": Scalar(weight)})


def _linear(template: Recipe, experts: list[Expert]) -> Recipe:
    return Recipe(
        merge_method="linear",
        base_model=template.base_model,
        models=tuple(experts),
        dtype=template.dtype,
        tokenizer_source=template.tokenizer_source,
        seed=template.seed,
    )
