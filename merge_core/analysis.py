"""What becomes of each expert's parameters in a merge, counted in the pass that merges.

Of the entries that take part in the arithmetic each expert's are
    trimmed   sparsified away (trim, drop, band), or
    zero      left in, but nothing: the difference or its weight is zero, or
    lost      outvoted: not in the merge because of the sign that was elected there, or because
              slack gave the place to another expert, or
    retained  in the merge; those that slack gave back are `restored` too.
Methods that merge the models themselves (linear, slerp) have entries of the experts where the
others have differences from base.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from merge_core.plan import MergePlan
from merge_core.vocabulary import HEADS

By = Literal["model", "layer", "module", "tensor"]
BY: tuple[By, ...] = get_args(By)
SHARES = ("retained", "restored", "lost", "trimmed", "zero")
"""What is told of each expert; all but `restored`, a part of `retained`, add up to all entries."""
KINDS = ("embedding", "self_attn", "mlp", "norm", "head", "other")
"""Module kinds, in the order of tables."""

# By the end of a name, or by a part of it between dots; the first that fits. A norm inside
# attention is a norm, experts and routers of a mixture are its mlp.
_NORM = re.compile(r"norm|^ln(_|\d|$)", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|feed_forward|ffn|moe|expert|^fc\d|dense_(h|4h)", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$", re.IGNORECASE)


@dataclass(frozen=True)
class Counts:
    """What became of one expert's entries: numbers of entries.

    Attributes:
        entries: those that take part in the arithmetic.
        retained: in the merge.
        restored: of these, given back by slack.
        lost: outvoted.
        trimmed: sparsified away.
    """

    entries: int = 0
    retained: int = 0
    restored: int = 0
    lost: int = 0
    trimmed: int = 0

    @property
    def zero(self) -> int:
        """Left in, but nothing."""
        return self.entries - self.retained - self.lost - self.trimmed

    def share(self, what: str) -> float:
        """One of SHARES as a share of the entries; 0 where there are none."""
        count: int = getattr(self, what)
        return count / self.entries if self.entries else 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.entries + other.entries,
            self.retained + other.retained,
            self.restored + other.restored,
            self.lost + other.lost,
            self.trimmed + other.trimmed,
        )


@dataclass(frozen=True)
class Row:
    """A tensor, or several together.

    Attributes:
        name: of the tensor, the layer or the module kind; "model" for all.
        experts: in recipe order.
        conflict: entries where the experts' sparse differences disagree in sign; None where the
            counts do not tell: more than two experts, or a method without election.
    """

    name: str
    experts: tuple[Counts, ...]
    conflict: int | None

    @property
    def entries(self) -> int:
        """Entries that take part in the arithmetic."""
        return self.experts[0].entries

    @property
    def conflict_share(self) -> float | None:
        """Conflicting entries as a share of all."""
        if self.conflict is None:
            return None
        return self.conflict / self.entries if self.entries else 0.0

    def plain(self, names: Iterable[str]) -> dict[str, Any]:
        """As JSON data: numbers of entries, and shares of them."""
        data: dict[str, Any] = {"name": self.name, "entries": self.entries}
        if self.conflict is not None:
            data["conflict"] = {"entries": self.conflict, "share": self.conflict_share}
        data["experts"] = {
            name: {
                what: {"entries": getattr(counts, what), "share": counts.share(what)}
                for what in SHARES
            }
            for name, counts in zip(names, self.experts, strict=True)
        }
        return data


@dataclass(frozen=True)
class Analysis:
    """What became of each expert's parameters.

    Attributes:
        merge_method: of the recipe.
        names: of the experts, in recipe order.
        model: all tensors together.
        layers: before the layers, each layer, after them; those that hold any entries.
        modules: by kind, in the order of KINDS.
        tensors: in name order; those that are merged by arithmetic.
    """

    merge_method: str
    names: tuple[str, ...]
    model: Row
    layers: tuple[Row, ...]
    modules: tuple[Row, ...]
    tensors: tuple[Row, ...]

    def rows(self, by: By) -> tuple[Row, ...]:
        """The rows of a table or plot."""
        return {
            "model": (self.model,),
            "layer": self.layers,
            "module": self.modules,
            "tensor": self.tensors,
        }[by]

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "merge_method": self.merge_method,
            "experts": list(self.names),
            "model": self.model.plain(self.names),
            "layers": [row.plain(self.names) for row in self.layers],
            "modules": [row.plain(self.names) for row in self.modules],
            "tensors": [row.plain(self.names) for row in self.tensors],
        }


def analyze(plan: MergePlan, progress: Callable[[int, int], None] | None = None) -> Analysis:
    """Merge everything once, throw the merge away, and say what became of the entries.

    Args:
        plan: with `tally`.
        progress: called with (bytes merged, all bytes) after each tensor.

    Raises:
        NonFiniteError: a merged weight overflowed.
        CheckpointError: integer tensors differ between the sources.
    """
    done, total = 0, sum(spec.nbytes for spec in plan.specs().values())
    for name, _ in plan.tensors():
        done += plan.specs()[name].nbytes
        if progress is not None:
            progress(done, total)
    return tallied(plan)


def tallied(plan: MergePlan) -> Analysis:
    """What a plan has counted while it merged every tensor once, for an engine or a file."""
    rows = tuple(
        _row(plan, name)
        for name in plan.specs()
        if plan.sources.mergeable(name) and _entries(plan, name)
    )
    layers = [*_BEFORE, *map(str, range(plan.sources.template.layers)), *_AFTER]
    recipe = plan.recipe
    model = _together("model", rows, len(recipe.models))
    return Analysis(
        merge_method=recipe.merge_method,
        names=recipe.names,
        model=model,
        layers=_grouped(rows, {row.name: _layer(plan, row.name) for row in rows}, layers),
        modules=_grouped(rows, {row.name: kind(row.name) for row in rows}, KINDS),
        tensors=rows,
    )


def kind(name: str) -> str:
    """The kind of module that a tensor belongs to, from its name: one of KINDS."""
    parts = name.split(".")
    owner = parts[-2] if len(parts) > 1 else parts[-1]  # the last part is "weight" or "bias"
    if name.endswith(HEADS):
        return "head"
    if _NORM.search(owner):
        return "norm"
    for found, pattern in (("self_attn", _ATTENTION), ("mlp", _MLP), ("embedding", _EMBEDDING)):
        if any(pattern.search(part) for part in parts):
            return found
    return "other"


_BEFORE, _AFTER = ("before",), ("after",)


def _layer(plan: MergePlan, name: str) -> str:
    layer = plan.sources.layers.get(name)
    if layer is not None:
        return str(layer)
    return (_BEFORE if plan.sources.depths[name] == 0.0 else _AFTER)[0]


def _entries(plan: MergePlan, name: str) -> int:
    """Elements of the merge that come of arithmetic: rows that are copied are none of them."""
    alignment, spec = plan.sources.alignment, plan.specs()[name]
    if alignment is None or name not in plan.sources.vocabulary_tensors:
        return spec.numel
    rows = len(alignment.output)
    return spec.numel // rows * int(np.count_nonzero(alignment.output >= 0)) if rows else 0


def _row(plan: MergePlan, name: str) -> Row:
    assert name in plan.tallies, "no plan that counts: MergePlan(recipe, tally=True)"
    entries = _entries(plan, name)
    experts = tuple(
        Counts(entries, int(retained), int(restored), int(lost), entries - int(stayed))
        for stayed, retained, lost, restored in plan.tallies[name]
    )
    return Row(name, experts, _conflict(plan, experts))


def _conflict(plan: MergePlan, experts: tuple[Counts, ...]) -> int | None:
    recipe = plan.recipe
    if not recipe.method.elects or len(experts) > 2:
        return None
    # Of two experts that disagree one loses; restored alone it makes the other lose instead.
    lost = sum(counts.lost for counts in experts)
    if recipe.flag("slack_mode") == "both":
        lost += sum(counts.restored for counts in experts)
    return lost


def _grouped(
    rows: Iterable[Row], place: Mapping[str, str], order: Iterable[str]
) -> tuple[Row, ...]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(place[row.name], []).append(row)
    return tuple(
        _together(name, groups[name], len(groups[name][0].experts))
        for name in order
        if name in groups
    )


def _together(name: str, rows: Iterable[Row], experts: int) -> Row:
    members = list(rows)
    told = [row.conflict for row in members if row.conflict is not None]
    return Row(
        name,
        tuple(sum((row.experts[i] for row in members), Counts()) for i in range(experts)),
        sum(told) if len(told) == len(members) else None,
    )
