"""mergekit's YAML in and out. A file is understood whole or refused by the key we do not have.

mergekit reads a gradient at t = 0 for the final norm and the head, we read it at t = 1; so the
export puts a filter for those tensors before each gradient, and the import takes such filters
away again. Each exported value is read back by mergekit's rule for every tensor, so that it is
ours exactly or written in plainer words (a filter a layer, a filter a tensor). mergekit's
arithmetic runs in `dtype`, so the export asks for float32 and rounds to `out_dtype`, as we do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from merge_core.arithmetic import band
from merge_core.errors import RecipeError
from merge_core.legal import stepped
from merge_core.methods import METHODS, Method, Parameter, get_method
from merge_core.recipe import Expert, Recipe, Setting, expert_name
from merge_core.sources import Sources
from merge_core.values import Filtered, Gradient, Groups, Knee, Scalar, Value
from merge_core.yaml_io import Where, at, load_yaml

_OURS_TOO = ("merge_method", "base_model", "models", "parameters", "tokenizer_source")
_KEYS = (*_OURS_TOO, "dtype", "out_dtype")
_WITHOUT_EFFECT = {"int8_mask": "saves mergekit memory and changes no merge"}
"""Parameters of mergekit that stand in many files and that we do not need."""
_INSTEAD = {
    "slices": "write the models under `models`, with gradients or filters where layers differ",
    "tokenizer": "write `tokenizer_source: base`, `union` or `model:NAME`",
    "chat_template": "the template comes with the tokenizer",
}
_AFTER_LAYERS = (
    "lm_head.weight",
    "lm_head.bias",
    "model.norm.weight",
    "model.norm.bias",
    "model.final_layernorm.weight",
    "model.final_layernorm.bias",
    "transformer.ln_f.weight",
    "transformer.ln_f.bias",
)
"""Usual names after the layers, whose filters the import knows as the export's own."""


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
            instead = f"; {_INSTEAD[key]}" if key in _INSTEAD else ""
            told = f"mergekit's '{key}' is not something mergefront has{instead}"
            raise at(RecipeError(told), (key,))
    if "merge_method" not in data:
        raise RecipeError("merge_method is missing")
    notes = []
    plain = {key: data[key] for key in _OURS_TOO if key in data}
    shared = plain.get("parameters")
    if isinstance(shared, Mapping) and shared.keys() & _WITHOUT_EFFECT.keys():
        for key in _WITHOUT_EFFECT:
            if key in shared:
                notes.append(f"{key} {_WITHOUT_EFFECT[key]}: left out")
        plain["parameters"] = {k: v for k, v in shared.items() if k not in _WITHOUT_EFFECT}
    dtype_key = "out_dtype" if data.get("out_dtype") is not None else "dtype"
    if data.get(dtype_key) is not None:
        plain["dtype"] = data[dtype_key]
    kept = _without_base(data)
    if kept is not None:
        plain["models"] = [data["models"][index] for index in kept]
        if len(kept) < len(data["models"]):
            notes.append("the base model listed among the models has no difference: left out")
        if "tokenizer_source" in data:
            plain["tokenizer_source"] = _tokenizer_source(data, plain["models"])
        if _wants_base_added(data):
            plain["models"].append({"model": data["base_model"]})
    # mergekit takes any density as it is; ours are rounded to .01 unless told.
    exact = _with_exact_densities(plain)
    try:
        recipe = Recipe.parse(exact)
    except RecipeError as error:
        error.where = _place_in_file(error.where, kept, dtype_key)
        raise
    if exact is not plain:
        if _needs_exact_density(recipe):
            notes.append("densities are taken as they are, as mergekit does: density_step is 0")
        else:
            own = {k: v for k, v in recipe.parameters.items() if k != "density_step"}
            recipe = replace(recipe, parameters=own)
    if recipe.method.random:
        notes.append(
            f"the entries that {recipe.merge_method} drops follow the seed here: "
            "not mergekit's own choice"
        )
    # The export's own filters, which are taken away below, already say what we do.
    if any(_varies(v) and _without_export_filters(v) == v for v in _values(recipe)):
        notes.append(
            "gradients reach the final norm and the head at their last anchor here, "
            "at their first in mergekit"
        )
    return _map_values(recipe, _without_export_filters), notes


def _without_base(data: Mapping[str, Any]) -> list[int] | None:
    """Which models are experts: of differences from base, base itself has none to merge."""
    models, method = data.get("models"), _method_of(data)
    if not isinstance(models, list):
        return None
    if method is None or not method.on_differences:
        return list(range(len(models)))
    return [
        index
        for index, model in enumerate(models)
        if not isinstance(model, Mapping) or model.get("model") != data.get("base_model")
    ]


def _wants_base_added(data: Mapping[str, Any]) -> bool:
    """Whether mergekit would add the base to the models itself, and could then merge them."""
    method, base = _method_of(data), data.get("base_model")
    if method is None or not method.interpolates or not isinstance(base, str):
        return False
    return all(isinstance(m, Mapping) and m.get("model") != base for m in data["models"])


def _with_exact_densities(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with density_step 0, where the method has it and the file does not give it."""
    method, shared = _method_of(data), data.get("parameters")
    if method is None or "density_step" not in method.by_name:
        return data
    if not isinstance(shared, Mapping | None) or "density_step" in (shared or {}):
        return data  # no mapping is refused, with its place, when it is parsed
    return {**data, "parameters": {**(shared or {}), "density_step": 0.0}}


def _method_of(data: Mapping[str, Any]) -> Method | None:
    """The method that a file names; None where there is none by that name."""
    name = data["merge_method"]
    return get_method(name) if isinstance(name, str) and name in METHODS else None


def _place_in_file(where: Where, kept: list[int] | None, dtype_key: str) -> Where:
    """`where` in the recipe that was parsed, as a place in the file that it came from."""
    if where[:1] == ("dtype",):
        return (dtype_key,)
    if kept is not None and len(where) > 1 and where[0] == "models" and isinstance(where[1], int):
        return ("models", kept[where[1]], *where[2:])
    return where


def to_mergekit(recipe: Recipe, sources: Sources | None = None) -> dict[str, Any]:
    """`recipe` as a mergekit configuration that gives the same merge.

    Args:
        recipe: what to write.
        sources: opened sources, for the names of the tensors after the layers and the number of
            layers (needed only for gradients and schedules); opened here if not given.

    Raises:
        RecipeError: mergekit does not have the method, a parameter that is set, or such models.
    """
    method = recipe.method
    if not method.mergekit:
        reason = {
            "ties_sv": "mergekit has no ties_sv (slack)",
        }.get(
            method.name, f"mergekit's {method.name} has no seeds: it cannot drop the same entries"
        )
        known = ", ".join(name for name in METHODS if get_method(name).mergekit)
        raise RecipeError(f"{reason}; use `mergefront merge`, or a recipe of one of {known}")
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
    _refuse_models(recipe)
    if recipe.tokenizer_source == "union":
        raise RecipeError("tokenizer_source union follows mergefront's row order; not exported")

    varies = any(not isinstance(value, Scalar) for value in _values(recipe))
    if sources is None and (varies or method.sparsify == "band"):
        sources = Sources.open(recipe)
    if method.sparsify == "band":
        assert sources is not None
        _refuse_empty_bands(recipe, sources)
    data: dict[str, Any] = {"merge_method": method.name}
    # mergekit adds a base that is not among the models to them, and linear then wants its weight.
    references = [expert.model for expert in recipe.models]
    base = recipe.base_model if method.needs_base or recipe.base_model in references else None
    if base is not None:
        data["base_model"] = base
    data["models"] = []
    for expert in recipe.models:
        own = {
            parameter.name: _export_value(
                recipe.setting(parameter, expert), parameter, recipe, sources
            )
            for parameter in method.parameters
            if parameter.scope == "model" and parameter.mergekit
        }
        data["models"].append({"model": expert.model, **({"parameters": own} if own else {})})
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
    elif base is not None:
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


def _refuse_models(recipe: Recipe) -> None:
    """Refuse what mergekit would drop: a second mention of a model, and base as an expert."""
    references = [expert.model for expert in recipe.models]
    for expert in recipe.models:
        if references.count(expert.model) > 1:
            raise RecipeError(f"mergekit cannot merge {expert.model} twice: use `mergefront merge`")
        if recipe.method.on_differences and expert.model == recipe.base_model:
            raise RecipeError(
                f"mergekit leaves out '{expert.name}', which is the base itself: leave it out too"
            )


def _refuse_empty_bands(recipe: Recipe, sources: Sources) -> None:
    """Refuse tensors too small for mergekit's breadcrumbs, which keep nothing where ours keep k.

    mergekit cuts its ranking with the negative index -floor(gamma n): 0 leaves an empty list.
    """
    for name in filter(sources.mergeable, sources.specs):
        n, settings = sources.specs[name].numel, recipe.settings_for(name, sources.depths[name])
        for density, gamma in zip(settings.densities, settings.gammas, strict=True):
            outliers, _ = band(density, gamma, n)
            if n and 0.0 < density < 1.0 and (outliers == 0 or math.floor(density * n) == 0):
                raise RecipeError(
                    f"mergekit's {recipe.merge_method} keeps nothing of {name} ({n} entries): "
                    f"gamma {gamma:g} or density {density:g} comes to less than one entry; raise "
                    "it, give that tensor density 1 by a filter, or use `mergefront merge`"
                )


def _export_value(
    setting: Setting, parameter: Parameter, recipe: Recipe, sources: Sources | None
) -> Any:
    if not isinstance(setting, Value):
        return setting
    step = 0.0
    if parameter.name == "density" and "density_step" in recipe.method.by_name:
        step = float(recipe.flag("density_step"))
    if isinstance(setting, Scalar):
        return stepped(setting.value, step)
    assert sources is not None

    def exact(number: float) -> float:
        # Shares count entries, so that every bit of theirs matters.
        return float(np.float32(number)) if parameter.name in ("weight", "lambda") else number

    wanted = {}
    for name in sources.specs:
        if sources.mergeable(name):
            number = setting.at(name, sources.depths[name])
            assert number is not None, "setting() leaves no gap"
            wanted[name] = stepped(number, step)
    for value in (setting, _rounded(setting, step, sources)):
        spelled = _spelled(value, sources).plain()
        if _reads_as(spelled, wanted, sources, exact):
            return spelled
    spelled = _one_by_one(wanted, sources).plain()
    if not _reads_as(spelled, wanted, sources, exact):
        raise RecipeError(f"mergekit's filters cannot tell the tensors of {parameter.name} apart")
    return spelled


def _reads_as(
    data: Any, wanted: Mapping[str, float], sources: Sources, exact: Callable[[float], float]
) -> bool:
    """Whether mergekit reads `data` as `wanted` for every tensor."""
    for name, number in wanted.items():
        # Outside the layers mergekit's t is 0; older versions had 1 after them.
        outside = {0.0, sources.depths[name]}
        for t in (sources.depths[name],) if name in sources.layers else outside:
            read = _mergekit_reads(data, name, t)
            if read is None or exact(read) != exact(number):
                return False
    return True


def _mergekit_reads(data: Any, name: str, t: float) -> float | None:
    """What mergekit's `evaluate_setting` gives."""
    if not isinstance(data, list):
        return float(data)
    if isinstance(data[0], Mapping):
        for entry in data:
            if "filter" not in entry or entry["filter"] in name:
                return _mergekit_reads(entry["value"], name, t)
        return None
    scaled = t * (len(data) - 1)
    left = int(scaled)
    right = min(len(data) - 1, left + 1)
    share = scaled - left
    return float((1 - share) * data[left] + share * data[right])


def _one_by_one(wanted: Mapping[str, float], sources: Sources) -> Filtered:
    """A filter a layer where the layer has one number, otherwise a filter a tensor."""
    entries: dict[str, Value] = {}
    for name, number in wanted.items():
        layer = sources.layers.get(name)
        peers = [n for n in wanted if layer is not None and sources.layers.get(n) == layer]
        prefix = name if layer is None else name[: name.index(f".{layer}.") + len(f".{layer}.")]
        uniform = all(n.startswith(prefix) and wanted[n] == number for n in peers)
        entries[prefix if uniform else name] = Scalar(number)
    last = Scalar(next(iter(wanted.values())))
    return Filtered((*entries.items(), (None, last)))


def _spelled(value: Value, sources: Sources) -> Value:
    """`value` in mergekit's terms: schedules as anchors, filters for what follows the layers."""
    if isinstance(value, Knee | Groups):
        value = value.anchors(sources.template.layers)
    if isinstance(value, Gradient) and len(set(value.anchors)) > 1:
        last = Scalar(value.anchors[-1])
        after = [n for n, t in sources.depths.items() if n not in sources.layers and t == 1.0]
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
    """Whether rounding to the default step would change a density somewhere in the layers."""
    parameter = recipe.method.parameter("density")

    def fine(value: Value) -> bool:
        return _varies(value) or any(round(number, 2) != number for number in value.numbers())

    settings = [recipe.setting(parameter, expert) for expert in recipe.models]
    return any(isinstance(setting, Value) and fine(setting) for setting in settings)


def _varies(value: Value) -> bool:
    """Whether some tensors' number depends on their depth."""
    if isinstance(value, Filtered):
        return any(_varies(inner) for _, inner in value.entries)
    return len(set(value.numbers())) > 1


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
    return replace(recipe, models=models, parameters=each(recipe.parameters))


def _tokenizer_source(data: Mapping[str, Any], models: list[Any]) -> Any:
    """A model is named by its reference in mergekit, by its name here."""
    source = data["tokenizer_source"]
    if source in ("base", "union"):
        return source
    if isinstance(source, str):
        names: list[str] = []
        for model in models:
            if not isinstance(model, Mapping):
                break  # refused, with its place, when the models are parsed
            names.append(expert_name(model.get("name"), str(model.get("model")), names))
            if model.get("model") == source:
                return f"model:{names[-1]}"
        if source == data.get("base_model"):
            return "base"
    raise at(
        RecipeError(f"tokenizer_source {source!r} is none of the models"), ("tokenizer_source",)
    )


def _dtype_of(sources: Sources) -> str:
    dtypes = {str(s.dtype).removeprefix("torch.") for s in sources.specs.values() if s.floating}
    if len(dtypes) > 1:
        raise RecipeError(f"base mixes {', '.join(sorted(dtypes))}: give the recipe a dtype")
    return dtypes.pop()
