"""Ranges: what may stand in a search file where a recipe has a number.

| in the file | samples | named |
|---|---|---|
| `{low: .3, high: 1.2}` (`step`, `log`) | one number | `reasoning.weight` |
| `{choices: [...]}` | one of them | `merge_method`, `scope` |
| `{low: 0, high: 1, anchors: 4}` | a gradient with free anchors | `reasoning.weight[2]` |
| `{low: 0, high: 1, groups: 4}` | a number a group of layers | `reasoning.weight.group2` |
| `{plateau: ..., end: ..., knee: ...}` of ranges | a schedule | `reasoning.weight.knee` |
| a list with ranges in it | gradient or filters | `reasoning.weight[1]`, `...[self_attn]` |
| `{groups: [...]}` with ranges in it | a number a group of layers | `reasoning.weight.group1` |
| `{ratio: ...}` around any of them | two weights, r and 1 - r | as without ratio |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution

from merge_core.errors import RecipeError
from merge_core.legal import stepped
from merge_core.values import parse_number
from merge_core.yaml_io import at, inside, unknown

Distribution = FloatDistribution | CategoricalDistribution
Leaf = Callable[[str, Distribution, float | None], Any]
"""What stands for a named range: (name, distribution, step of its numbers) -> a value.

The step is None where numbers keep all of their digits, 0 where they are rounded to readable ones.
"""

_RANGE_KEYS = {"low", "high", "step", "log", "anchors", "groups"}
_MOST_PARTS = 64
_DIGITS = 6  # significant ones of sampled numbers: readable, and float32 tells them apart
_MOST_STEPS = 10**6
_LOG_STEPS = 5  # steps from 0 to the least density on a log scale: the next one is a fifth more


def fill(value: Any, name: str, leaf: Leaf, step: float | None) -> Any:
    """`value`, called `name`, with what `leaf` gives in place of each range.

    Raises:
        RecipeError: a range is wrong; with the place inside `value` attached.
    """
    if isinstance(value, list):
        return [_fill_entry(item, name, index, leaf, step) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    keys = set(value)
    if "choices" in keys:
        return leaf(name, choices(value), step)
    if keys & {"plateau", "end", "knee"}:
        filled = {}
        for key, inner in value.items():
            with inside(key):
                own = 0.0 if key == "knee" and step is not None else step
                filled[key] = fill(inner, f"{name}.{key}", leaf, own)
        return filled
    if "ratio" in keys:
        with inside("ratio"):
            return {**value, "ratio": fill(value["ratio"], name, leaf, step)}
    if isinstance(value.get("groups"), list):
        with inside("groups"):
            parts = []
            for index, inner in enumerate(value["groups"]):
                with inside(index):
                    parts.append(fill(inner, f"{name}.group{index}", leaf, step))
            return {**value, "groups": parts}
    distribution = _range(value)
    if step:
        _check_steps(distribution, step)
    if "groups" in keys:
        count = value["groups"]
        return {"groups": [leaf(f"{name}.group{i}", distribution, step) for i in range(count)]}
    if "anchors" in keys:
        return [leaf(f"{name}[{i}]", distribution, step) for i in range(value["anchors"])]
    return leaf(name, distribution, step)


def fixed(value: Any, name: str) -> dict[str, Any]:
    """The plain values in `value`, called `name`, by the names that ranges in their places have."""
    parts: dict[str, Any] = {}
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, Mapping) and "value" in item:
                parts[f"{name}[{_label(item)}]"] = item["value"]
            else:
                parts[f"{name}[{index}]"] = item
    elif not isinstance(value, Mapping):
        return {name: value}
    elif "ratio" in value:
        return fixed(value["ratio"], name)
    elif isinstance(value.get("groups"), list):
        parts = {f"{name}.group{i}": inner for i, inner in enumerate(value["groups"])}
    elif value.keys() & {"plateau", "end", "knee"}:
        parts = {f"{name}.{key}": inner for key, inner in value.items()}
    return {own: plain for key, inner in parts.items() for own, plain in fixed(inner, key).items()}


def _label(entry: Mapping[str, Any]) -> str:
    """What a filter entry's value is called by."""
    label = entry.get("filter")
    return "rest" if label in (None, "", "*") else str(label)


def _fill_entry(item: Any, name: str, index: int, leaf: Leaf, step: float | None) -> Any:
    """One element of a list: an anchor of a gradient, or a filter entry."""
    with inside(index):
        if not (isinstance(item, Mapping) and "value" in item):
            return fill(item, f"{name}[{index}]", leaf, step)
        with inside("value"):
            filled = fill(item["value"], f"{name}[{_label(item)}]", leaf, step)
        return {**item, "value": filled}


def spelled(distribution: Distribution) -> str:
    """A distribution in words: `0.3 to 1.2 log`, `ties | linear`."""
    if isinstance(distribution, CategoricalDistribution):
        return " | ".join(map(str, distribution.choices))
    extra = f" step {distribution.step:g}" if distribution.step else ""
    extra += " log" if distribution.log else ""
    return f"{distribution.low:g} to {distribution.high:g}{extra}"


def _range(value: Mapping[str, Any]) -> FloatDistribution:
    for key in value:
        if key not in _RANGE_KEYS:
            raise at(RecipeError(unknown("key of a range", key, _RANGE_KEYS)), (key,))
    for key in ("low", "high"):
        if key not in value:
            raise RecipeError(f"a range has low and high; {key} is missing")
    with inside("low"):
        low = parse_number(value["low"])
    with inside("high"):
        high = parse_number(value["high"])
    if low > high:
        raise at(RecipeError(f"low {low:g} is above high {high:g}"), ("low",))
    step, log = value.get("step"), value.get("log", False)
    if step is not None and (isinstance(step, bool) or not isinstance(step, (int, float))):
        raise at(RecipeError(f"step {step!r} is not a number"), ("step",))
    # .009 - .008 is a little less than .001: a range of one step has to hold its step.
    if step is not None and not (
        step > 0 and (low == high or step * (1 - 1e-9) <= high - low <= step * _MOST_STEPS)
    ):
        raise at(RecipeError(f"step {step:g} does not fit between {low:g} and {high:g}"), ("step",))
    if not isinstance(log, bool):
        raise at(RecipeError(f"log is true or false, not {log!r}"), ("log",))
    if log and low <= 0:
        raise at(RecipeError(f"a log range starts above 0, not at {low:g}"), ("low",))
    if log and step is not None:
        raise at(RecipeError("a range has step or log, not both"), ("step",))
    if {"anchors", "groups"} <= value.keys():
        raise at(RecipeError("a range has anchors or groups, not both"), ("groups",))
    for key in ("anchors", "groups"):
        count = value.get(key, 1)
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST_PARTS:
            what = f"{key} {count!r} is not a whole number from 1 to {_MOST_PARTS}"
            raise at(RecipeError(what), (key,))
    if step is not None:
        high = _last_value(low, high, step)
    return FloatDistribution(low, high, log=log, step=step)


def _last_value(low: float, high: float, step: float) -> float:
    """The end of a range that is a whole number of steps, by Optuna's own decimal arithmetic."""
    first, width = Decimal(str(low)), Decimal(str(step))
    last = float(first + (Decimal(str(high)) - first) // width * width)
    if (Decimal(str(last)) - first) % width:
        # Optuna would end the range a step earlier each time that it reads it.
        raise at(
            RecipeError(f"low {low} and step {step} have too many digits: round them"), ("step",)
        )
    return last


def choices(value: Mapping[str, Any]) -> CategoricalDistribution:
    """The distribution of `{choices: [...]}`; RecipeError if it is none."""
    given = value["choices"]
    if set(value) != {"choices"} or not isinstance(given, list) or not given:
        raise RecipeError("choices is a list of at least one value and stands alone")
    for index, choice in enumerate(given):
        if not isinstance(choice, (bool, int, float, str)):
            raise at(RecipeError(f"{choice!r} is no single value"), ("choices", index))
        if choice in given[:index]:
            raise at(RecipeError(f"{choice!r} is listed twice"), ("choices", index))
    return CategoricalDistribution(given)


def _check_steps(distribution: FloatDistribution, step: float) -> None:
    low, high = distribution.low, distribution.high
    if low < high and _first_step(low, step) > _last_step(high, step):
        raise RecipeError(
            f"no multiple of density_step {step:g} lies between {low:g} and {high:g}; "
            "widen the range or lower density_step"
        )
    if distribution.log and low < high and low < _LOG_STEPS * step * (1 - 1e-9):
        raise at(
            RecipeError(
                f"near {low:g} a log range proposes densities that density_step {step:g} cannot "
                f"tell apart: set density_step: {_below(low / _LOG_STEPS):g} in the top parameters"
            ),
            ("low",),
        )


def _below(number: float) -> float:
    """The largest power of ten that is no larger."""
    return float(10.0 ** math.floor(math.log10(number) + 1e-9))


def number(value: float, distribution: FloatDistribution, step: float | None) -> float:
    """`value` as recipes write it; never outside the range. Without step, as it is."""
    low, high = distribution.low, distribution.high
    if step is None or low == high:
        return float(value)
    if step:
        count = round(value / step)
        return stepped(min(max(count, _first_step(low, step)), _last_step(high, step)) * step, step)
    return min(max(float(f"{value:.{_DIGITS}g}"), low), high)


def _first_step(low: float, step: float) -> int:
    return math.ceil(low / step - 1e-9)


def _last_step(high: float, step: float) -> int:
    return math.floor(high / step + 1e-9)
