"""mergekit's YAML in and out. A file is understood whole or refused by the key we do not have.

mergekit reads a gradient at t = 0 for the final norm and the head, we read it at t = 1; so the
export puts a filter for those tensors before each gradient, and the import takes such filters
away again. Its arithmetic runs in `dtype`, so the export asks for float32 and rounds to
`out_dtype`, as we do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_core.errors import RecipeError
from merge_core.methods import Parameter, get_method
from merge_core.recipe import Expert, Recipe, Setting, expert_name, stepped
from merge_core.sources import Sources
from merge_core.values import Filtered, Gradient, Knee, Scalar, Value
from merge_core.yaml_io import at, inside, load_yaml

_OURS_TOO = ("merge_method", "base_model", "models", "parameters", "tokenizer_source")
_KEYS = (*_OURS_TOO, "dtype", "out_dtype")
_AFTER_LAYERS = ("lm_head.weight", "model.norm.weight")


def load_mergekit(path: Path) -> tuple[Recipe, list[str]]:
    """Read a mergekit configuration.

    Returns:
        The recipe, and notes for the user on what we read differently.

    Raises:
        RecipeError: a key, method or value that we do not have, with file:line:column.
    """
    document = load_yaml(path)
    try:
        recipe, notes = from_mergekit(document.data)
    except RecipeError as error:
        raise RecipeError(document.locate(error)) from None
    return recipe.resolved(path.parent), notes


def from_mergekit(data: Any) -> tuple[Recipe, list[str]]:
    """As `load_mergekit`, from plain YAML data."""
    if not isinstance(data, Mapping):
        raise RecipeError("a mergekit configuration is a mapping")
    for key in data:
        if key not in _KEYS:
            raise at(RecipeError(f"mergekit's '{key}' is not something mergefront has"), (key,))
    with inside("merge_method"):
        method = get_method(data.get("merge_method", ""))
    plain = {key: data[key] for key in _OURS_TOO if key in data and key != "tokenizer_source"}
    dtype = data.get("out_dtype", data.get("dtype"))
    if dtype is not None:
        plain["dtype"] = dtype
    models = data.get("models")
    if isinstance(models, list):
        plain["models"] = [
            model
            for model in models
            # mergekit files list the base among the models, without weight, for these methods.
            if not (
                method.on_differences
                and isinstance(model, Mapping)
                and model.get("model") == data.get("base_model")
            )
        ]
    notes = []
    if method.on_differences and models != plain.get("models"):
        notes.append("the base model listed among the models has no difference: left out")
    if "tokenizer_source" in data:
        plain["tokenizer_source"] = _tokenizer_source(data["tokenizer_source"], plain["models"])
    recipe = Recipe.parse(plain)
    if "density_step" in method.by_name and _needs_exact_density(recipe):
        # mergekit takes any density as it is; ours are rounded to .01 unless told.
        recipe = _with_parameters(recipe, {**recipe.parameters, "density_step": 0.0})
        notes.append("densities finer than .01: density_step is 0")
    if any(isinstance(v, Gradient) for v in _values(recipe)):
        notes.append(
            "gradients reach the final norm and the head at their last anchor here, "
            "at their first in mergekit"
        )
    return _map_values(recipe, _without_export_filters), notes


def to_mergekit(recipe: Recipe, sources: Sources | None = None) -> dict[str, Any]:
    """`recipe` as a mergekit configuration that gives the same merge.

    Args:
        recipe: what to write.
        sources: opened sources, for the names of the tensors after the layers and the number of
            layers (needed only for gradients and schedules); opened here if not given.

    Raises:
        RecipeError: mergekit does not have the method, or a parameter that is set.
    """
    method = recipe.method
    if not method.mergekit:
        reason = {
            "ties_sv": "mergekit has no ties_sv (slack)",
        }.get(
            method.name, f"mergekit's {method.name} has no seeds: it cannot drop the same entries"
        )
        raise RecipeError(
            f"{reason}; use `mergefront merge`, or a linear, task_arithmetic or ties recipe"
        )
    for expert in recipe.models:
        for parameter in method.parameters:
            if not parameter.mergekit and parameter.scope == "model":
                _refuse_unless_default(recipe, parameter, expert)
    for parameter in method.parameters:
        if (
            not parameter.mergekit
            and parameter.scope == "global"
            and parameter.name != "density_step"
        ):
            _refuse_unless_default(recipe, parameter, None)
    if recipe.tokenizer_source == "union":
        raise RecipeError("tokenizer_source union follows mergefront's row order; not exported")

    varies = any(not isinstance(value, Scalar) for value in _values(recipe))
    if varies and sources is None:
        sources = Sources.open(recipe)
    data: dict[str, Any] = {"merge_method": method.name}
    if recipe.base_model is not None:
        data["base_model"] = recipe.base_model
    data["models"] = [
        {
            "model": expert.model,
            "parameters": {
                parameter.name: _export_value(
                    recipe.setting(parameter, expert), parameter, recipe, sources
                )
                for parameter in method.parameters
                if parameter.scope == "model" and parameter.mergekit
            },
        }
        for expert in recipe.models
    ]
    shared = {
        parameter.name: _export_value(recipe.setting(parameter), parameter, recipe, sources)
        for parameter in method.parameters
        if parameter.scope == "global" and parameter.mergekit
    }
    data["parameters"] = shared
    data["dtype"] = "float32"
    data["out_dtype"] = recipe.dtype or _dtype_of(sources or Sources.open(recipe))
    if recipe.tokenizer_source.startswith("model:"):
        name = recipe.tokenizer_source.removeprefix("model:")
        data["tokenizer_source"] = recipe.models[recipe.names.index(name)].model
    elif recipe.base_model is not None:
        data["tokenizer_source"] = "base"
    return data


def _refuse_unless_default(recipe: Recipe, parameter: Parameter, expert: Expert | None) -> None:
    setting = recipe.setting(parameter, expert)
    default = parameter.default
    if parameter.kind == "number":
        default_setting: Setting = Scalar(float(default or 0.0))
    else:
        assert default is not None
        default_setting = float(default) if parameter.kind == "constant" else default
    if setting != default_setting:
        raise RecipeError(
            f"mergekit has no '{parameter.name}'; leave it at its default or use `mergefront merge`"
        )


def _export_value(
    setting: Setting, parameter: Parameter, recipe: Recipe, sources: Sources | None
) -> Any:
    if not isinstance(setting, Value):
        return setting
    if parameter.name == "density" and "density_step" in recipe.method.by_name:
        setting = _rounded(setting, float(recipe.flag("density_step")), sources)
    if isinstance(setting, Scalar):
        return setting.value
    assert sources is not None
    return _spelled(setting, sources).plain()


def _spelled(value: Value, sources: Sources) -> Value:
    """`value` in mergekit's terms: schedules as anchors, filters for what follows the layers."""
    if isinstance(value, Knee):
        value = value.anchors(sources.template.layers)
    if isinstance(value, Gradient) and len(set(value.anchors)) > 1:
        after = [n for n in sources.specs if n in _AFTER_LAYERS]
        last = Scalar(value.anchors[-1])
        return Filtered((*((name, last) for name in after), (None, value)))
    if isinstance(value, Filtered):
        entries: list[tuple[str | None, Value]] = []
        for substring, inner in value.entries:
            spelled = _spelled(inner, sources)
            if not isinstance(spelled, Filtered):
                entries.append((substring, spelled))
                continue
            for name, part in spelled.entries:
                if name is None:
                    entries.append((substring, part))
                elif substring is None or substring in name:
                    entries.append((name, part))
        return Filtered(tuple(entries))
    return value


def _rounded(value: Value, step: float, sources: Sources | None) -> Value:
    """Densities as they are evaluated. A gradient becomes one anchor a layer: its steps count."""
    if step == 0.0:
        return value
    if isinstance(value, Scalar):
        return Scalar(stepped(value.value, step))
    if isinstance(value, Filtered):
        return Filtered(tuple((name, _rounded(v, step, sources)) for name, v in value.entries))
    assert sources is not None
    layers = sources.template.layers
    depths = [layer / (layers - 1) for layer in range(layers)] if layers > 1 else [1.0]
    anchors = []
    for depth in depths:
        number = value.at("", depth)
        assert number is not None
        anchors.append(stepped(number, step))
    return Gradient(tuple(anchors))


def _without_export_filters(value: Value) -> Value:
    """Take away the filters that `_spelled` put before a gradient: they say what we do anyway."""
    if not isinstance(value, Filtered):
        return value
    entries = list(value.entries)
    for index in range(len(entries) - 1, -1, -1):
        name, inner = entries[index]
        if not (name in _AFTER_LAYERS and isinstance(inner, Scalar)):
            continue
        # The entry that would match this tensor if the filter were not there.
        following = next((v for n, v in entries[index + 1 :] if n is None or n in str(name)), None)
        if isinstance(following, Gradient) and following.anchors[-1] == inner.value:
            del entries[index]
    return (
        entries[0][1] if len(entries) == 1 and entries[0][0] is None else Filtered(tuple(entries))
    )


def _needs_exact_density(recipe: Recipe) -> bool:
    parameter = recipe.method.parameter("density")
    values = [recipe.setting(parameter, expert) for expert in recipe.models]
    return any(
        isinstance(value, Value) and any(round(x, 2) != x for x in value.numbers())
        for value in values
    )


def _values(recipe: Recipe) -> list[Value]:
    settings: list[Setting] = list(recipe.parameters.values())
    for expert in recipe.models:
        settings.extend(expert.parameters.values())
    return [setting for setting in settings if isinstance(setting, Value)]


def _map_values(recipe: Recipe, change: Any) -> Recipe:
    def each(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: change(setting) if isinstance(setting, Value) else setting
            for name, setting in settings.items()
        }

    models = tuple(Expert(e.model, e.name, each(e.parameters)) for e in recipe.models)
    return Recipe(**{**recipe.__dict__, "models": models, "parameters": each(recipe.parameters)})


def _with_parameters(recipe: Recipe, parameters: Mapping[str, Setting]) -> Recipe:
    return Recipe(**{**recipe.__dict__, "parameters": parameters})


def _tokenizer_source(source: Any, models: Any) -> str:
    if source in ("base", "union"):
        return str(source)
    names: list[str] = []
    for model in models:
        names.append(expert_name(model.get("name"), str(model.get("model")), names))
        if model.get("model") == source:
            return f"model:{names[-1]}"
    raise at(
        RecipeError(f"tokenizer_source {source!r} is none of the models"), ("tokenizer_source",)
    )


def _dtype_of(sources: Sources) -> str:
    dtypes = {str(s.dtype).removeprefix("torch.") for s in sources.specs.values() if s.floating}
    if len(dtypes) > 1:
        raise RecipeError(f"base mixes {', '.join(sorted(dtypes))}: give the recipe a dtype")
    return dtypes.pop()
