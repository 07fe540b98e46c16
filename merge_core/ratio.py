"""`weight: {ratio: r}` of one of two models: its weight is r and the other's is 1 - r."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from merge_core.errors import RecipeError
from merge_core.values import Filtered, Gradient, Groups, Knee, Scalar, Value, parse_value
from merge_core.yaml_io import Where, at, inside


def is_ratio(value: Any) -> bool:
    """Whether `value`, of a weight, is a ratio."""
    return isinstance(value, Mapping) and "ratio" in value


def weighed(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Recipe data with a plain weight for each of the two models in place of a ratio.

    Whatever else may be wrong with the data is left as it is.

    Raises:
        RecipeError: the ratio does not say two weights; with the place in `data` attached.
    """
    shared, models = data.get("parameters"), data.get("models")
    if isinstance(shared, Mapping) and is_ratio(shared.get("weight")):
        raise at(
            RecipeError("ratio stands under one of the two models: it is that model's weight"),
            ("parameters", "weight"),
        )
    if not isinstance(models, list):
        return data
    weights = [_weight(model) for model in models]
    which = next((index for index, weight in enumerate(weights) if is_ratio(weight)), None)
    if which is None:
        return data
    place: Where = ("models", which, "parameters", "weight")
    if len(models) != 2:
        error = RecipeError(f"ratio weighs two models; of {len(models)} give each its own weight")
        raise at(error, place)
    if weights[1 - which] is not None:
        raise at(
            RecipeError("this weight is 1 - the other model's ratio: leave it out"),
            ("models", 1 - which, "parameters", "weight"),
        )
    if isinstance(shared, Mapping) and "weight" in shared:
        error = RecipeError("the weights are given by a model's ratio: leave this out")
        raise at(error, ("parameters", "weight"))
    with inside(*place):
        if len(weights[which]) > 1:
            raise RecipeError("ratio stands alone: weight: {ratio: ...}")
        with inside("ratio"):
            own = parse_value(weights[which]["ratio"])
            for number in own.numbers():
                if not 0.0 <= number <= 1.0:
                    raise RecipeError(f"ratio {number:g} lies outside 0 to 1")
    values = [own, _rest(own)] if which == 0 else [_rest(own), own]
    return {**data, "models": [_with_weight(*pair) for pair in zip(models, values, strict=True)]}


def _weight(model: Any) -> Any:
    parameters = model.get("parameters") if isinstance(model, Mapping) else None
    return parameters.get("weight") if isinstance(parameters, Mapping) else None


def _with_weight(model: Any, value: Value) -> Any:
    parameters = model.get("parameters") or {} if isinstance(model, Mapping) else None
    if not isinstance(parameters, Mapping):
        return model
    return {**model, "parameters": {**parameters, "weight": value.plain()}}


def _rest(value: Value) -> Value:
    """1 - value, at any tensor and depth."""
    if isinstance(value, Gradient):
        return Gradient(tuple(map(_one_minus, value.anchors)))
    if isinstance(value, Knee):
        return Knee(_one_minus(value.plateau), _one_minus(value.end), value.knee)
    if isinstance(value, Groups):
        return Groups(tuple(map(_one_minus, value.values)))
    if isinstance(value, Filtered):
        return Filtered(tuple((name, _rest(inner)) for name, inner in value.entries))
    assert isinstance(value, Scalar)
    return Scalar(_one_minus(value.value))


def _one_minus(number: float) -> float:
    # As people subtract: .3 and not .30000000000000004 beside .7, so that either spelling of a
    # merge has the same fingerprint.
    return float(1 - Decimal(str(number)))
