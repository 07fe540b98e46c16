"""Values of a recipe: numbers that may change over the layers and with the tensor's name.

A value is read once per tensor, at depth t in [0, 1]: t = l / (L - 1) in layer l of L (t = 1 when
L = 1), t = 0 before the layers (embeddings), t = 1 after them (final norm, head).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from merge_core.errors import RecipeError
from merge_core.yaml_io import at, inside

_LARGEST = 3.4028234e38  # just below the largest float32


class Value(ABC):
    """A number for every tensor, or none where only filters are given and none matches."""

    @abstractmethod
    def at(self, name: str, depth: float) -> float | None:
        """The number for tensor `name` at `depth`; None falls to the wider scope."""

    @abstractmethod
    def numbers(self) -> Iterator[float]:
        """The given numbers: `at` stays between the smallest and largest, but for rounding."""

    @abstractmethod
    def plain(self) -> Any:
        """The value as YAML data; `parse_value` reads it back."""


@dataclass(frozen=True)
class Scalar(Value):
    """One number for all tensors."""

    value: float

    def at(self, name: str, depth: float) -> float:
        return self.value

    def numbers(self) -> Iterator[float]:
        yield self.value

    def plain(self) -> Any:
        return self.value


@dataclass(frozen=True)
class Gradient(Value):
    """Anchors spread evenly over the layers, linear between them (mergekit's gradient)."""

    anchors: tuple[float, ...]

    def at(self, name: str, depth: float) -> float:
        place = depth * (len(self.anchors) - 1)
        left = min(int(place), len(self.anchors) - 1)
        right = min(left + 1, len(self.anchors) - 1)
        return _between(self.anchors[left], self.anchors[right], place - left)

    def numbers(self) -> Iterator[float]:
        yield from self.anchors

    def plain(self) -> Any:
        return list(self.anchors)


@dataclass(frozen=True)
class Knee(Value):
    """Constant `plateau` to depth `knee`, then linear to `end` at the last layer.

    The schedule of Typhoon2-R1 (arXiv 2502.09056) is plateau .75, knee 53/79, end .125.
    """

    plateau: float
    end: float
    knee: float

    def at(self, name: str, depth: float) -> float:
        if depth <= self.knee:
            return self.plateau
        return _between(self.plateau, self.end, (depth - self.knee) / (1.0 - self.knee))

    def numbers(self) -> Iterator[float]:
        yield self.plateau
        yield self.end

    def plain(self) -> Any:
        return {"plateau": self.plateau, "end": self.end, "knee": self.knee}

    def anchors(self, layers: int) -> Gradient:
        """The same schedule as one anchor a layer, for tools that know gradients only."""
        return _by_layer(self, layers)


@dataclass(frozen=True)
class Groups(Value):
    """One number for each of several groups of neighbouring layers, of sizes as even as can be.

    What stands before the layers belongs to the first group, what stands after them to the last.
    """

    values: tuple[float, ...]

    def at(self, name: str, depth: float) -> float:
        # A little more, because a depth such as 2 / 3 falls short of where its group begins.
        return self.values[min(int(depth * len(self.values) + 1e-9), len(self.values) - 1)]

    def numbers(self) -> Iterator[float]:
        yield from self.values

    def plain(self) -> Any:
        return {"groups": list(self.values)}

    def anchors(self, layers: int) -> Gradient:
        """The same as one anchor a layer, for tools that know gradients only."""
        return _by_layer(self, layers)


@dataclass(frozen=True)
class Filtered(Value):
    """The first entry whose filter is a substring of the tensor's name; filter None is all."""

    entries: tuple[tuple[str | None, Value], ...]

    def at(self, name: str, depth: float) -> float | None:
        for substring, value in self.entries:
            if substring is None or substring in name:
                return value.at(name, depth)
        return None

    def numbers(self) -> Iterator[float]:
        for _, value in self.entries:
            yield from value.numbers()

    def plain(self) -> Any:
        return [
            {"value": value.plain()}
            if substring is None
            else {"filter": substring, "value": value.plain()}
            for substring, value in self.entries
        ]


def parse_value(data: Any) -> Value:
    """Read a value from YAML data: number, gradient, list of filters, schedule or groups.

    Raises:
        RecipeError: with the place inside `data` attached.
    """
    if isinstance(data, list):
        if not data:
            raise RecipeError("an empty list is no gradient; give at least one anchor")
        if any(isinstance(item, Mapping) for item in data):
            return _parse_filters(data)
        return Gradient(tuple(_number_at(index, item) for index, item in enumerate(data)))
    if isinstance(data, Mapping):
        return _parse_groups(data) if "groups" in data else _parse_knee(data)
    return Scalar(parse_number(data))


def parse_number(data: Any) -> float:
    """`data` as a finite float; booleans and text are refused."""
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        raise RecipeError(f"{data!r} is not a number")
    # Weights and lambda are rounded to float32 before anything else; so must fit it.
    if not abs(data) <= _LARGEST:
        raise RecipeError(f"{str(data)[:40]} is not a finite float32 number")
    return float(data)


def _parse_filters(data: list[Any]) -> Filtered:
    entries: list[tuple[str | None, Value]] = []
    for index, item in enumerate(data):
        with inside(index):
            if not isinstance(item, Mapping) or not set(item) <= {"filter", "value"}:
                raise RecipeError("an entry of a filter list has the keys filter and value only")
            if "value" not in item:
                raise RecipeError("this filter entry has no value")
            substring = item.get("filter")
            # mergekit writes "*" for the entry that matches all.
            substring = None if substring == "*" else substring
            if substring is None and index < len(data) - 1:
                raise RecipeError("an entry without filter matches all and must come last")
            if substring is not None and not (isinstance(substring, str) and substring):
                raise RecipeError(f"filter {substring!r} is not a substring of tensor names")
            if isinstance(item["value"], list) and any(
                isinstance(part, Mapping) for part in item["value"]
            ):
                raise at(RecipeError("filters cannot stand inside a filter"), ("value",))
            with inside("value"):
                entries.append((substring, parse_value(item["value"])))
    return Filtered(tuple(entries))


def _parse_groups(data: Mapping[str, Any]) -> Groups:
    groups = data["groups"]
    if len(data) > 1 or not isinstance(groups, list) or not groups:
        raise RecipeError("groups is a list of at least one number and stands alone")
    with inside("groups"):
        return Groups(tuple(_number_at(index, item) for index, item in enumerate(groups)))


def _parse_knee(data: Mapping[str, Any]) -> Knee:
    keys = {"plateau", "end", "knee"}
    if "ratio" in data:
        raise RecipeError("a ratio is the whole weight of one model: weight: {ratio: ...}")
    if set(data) != keys:
        raise RecipeError(
            f"a schedule has exactly the keys plateau, end and knee, not {list(data)}"
        )
    numbers = {key: _number_at(key, data[key]) for key in ("plateau", "end", "knee")}
    if not 0.0 <= numbers["knee"] <= 1.0:
        raise at(RecipeError(f"knee {numbers['knee']} lies outside 0 to 1"), ("knee",))
    return Knee(**numbers)


def _by_layer(value: Knee | Groups, layers: int) -> Gradient:
    depths = [layer / (layers - 1) for layer in range(layers)] if layers > 1 else [1.0]
    return Gradient(tuple(value.at("", depth) for depth in depths))


def _number_at(where: str | int, data: Any) -> float:
    with inside(where):
        return parse_number(data)


def _between(left: float, right: float, share: float) -> float:
    # Equal ends return the end itself: (1 - s) x + s x can differ from x in the last bit.
    return left if left == right else (1.0 - share) * left + share * right
