"""How the share of the reasoning expert runs over the layers: constant, or Typhoon2-R1's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, cycle
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from merge_core import MergePlan
from merge_core.yaml_io import Where
from search.experiments.base import Experiment
from search.experiments.chart import chart_of
from search.experiments.file import ExperimentFile, Setting
from search.experiments.lab import Lab
from search.experiments.outcome import Difference, Outcome, Value, bounded, difference
from search.figures.chart import GREEN, PURPLE, Axis, Line, Panel
from search.file import Number
from search.results import Result

Share = Number | list[Number]
_COLORS = (PURPLE, "#7a6a00", GREEN, "#56707f")


class LayerSchedulesFile(ExperimentFile):
    """The file of this experiment."""

    experiment: Literal["layer-schedules"] = "layer-schedules"
    language: str = Field(description="the language expert: it has the rest of the weight")
    reasoning: str = Field(description="the reasoning expert, whose share is scheduled")
    schedules: dict[str, Share] = Field(
        min_length=1, description="reasoning's share by name: a number, or anchors over the depth"
    )
    methods: dict[str, Setting] = Field(
        min_length=1, description="by name; what they say besides the weights"
    )

    @field_validator("schedules")
    @classmethod
    def _shares(cls, given: dict[str, Share]) -> dict[str, Share]:
        for name, share in given.items():
            anchors = share if isinstance(share, list) else [share]
            if not anchors or not all(0.0 <= one <= 1.0 for one in anchors):
                raise ValueError(f"schedules: {name} is a share from 0 to 1, or a list of them")
        return given

    def models(self) -> dict[Where, str]:
        own: dict[Where, str] = {("language",): self.language, ("reasoning",): self.reasoning}
        return {**super().models(), **own}

    def names(self) -> Iterator[tuple[Where, str]]:
        yield from (((role,), f"{role} expert") for role in ("language", "reasoning"))
        yield from ((("methods", name), name) for name in self.methods)

    def recipes(self) -> Iterator[tuple[Where, Callable[[], dict[str, Any]]]]:
        experts = {"language": self.language, "reasoning": self.reasoning}
        for name, method in self.methods.items():
            for share in self.schedules.values():
                setting = self.weighted(method, share)
                yield ("methods", name), partial(setting.recipe, self, experts)

    def quick(self) -> dict[str, Any]:
        name, method = next(iter(self.methods.items()))
        return {"methods": {name: method.model_dump()}}

    def weighted(self, method: Setting, share: Share) -> Setting:
        """A method with a schedule: what reasoning has not, language has."""
        rest = [1.0 - one for one in share] if isinstance(share, list) else 1.0 - share
        experts = {
            role: {**method.experts.get(role, {}), "weight": weight}
            for role, weight in (("language", rest), ("reasoning", share))
        }
        return method.model_copy(update={"experts": experts})


class LayerSchedules(Experiment[LayerSchedulesFile]):
    """Which schedule keeps both the language and the reasoning."""

    name: ClassVar[str] = "layer-schedules"
    summary: ClassVar[str] = "schedules of the weights over the layers: constant, and Typhoon2-R1's"
    question: ClassVar[str] = (
        "A language expert and a reasoning expert share the weight of a merge. Does it matter "
        "that reasoning has more of it in the early layers and less in the late ones, which write "
        "the language; and is it that shape, or the amount alone?"
    )
    paper: ClassVar[str] = (
        "25% reasoning throughout keeps the language and loses reasoning (M1), 75% throughout the "
        "other way round (M2); 75% to layer 53 of 80 and then linearly down to 12.5% (M3) has 87.6 "
        "of language against M2's 59.8 at about M2's accuracy (Typhoon2-R1-70B, arXiv 2502.09056)."
    )
    limits: ClassVar[str] = (
        "The paper does not state its density. Random drops are one draw of the file's seed. "
        "Intervals are over items of one set of models: try other seeds."
    )
    miniature: ClassVar[str] = (
        "Four layers: the falling end is the last one alone. The reasoning expert's English is "
        "everywhere, so a falling end has little to do."
    )
    kind = LayerSchedulesFile

    def run(self, lab: Lab, file: LayerSchedulesFile) -> Outcome:
        """Score every schedule by every method."""
        experts = {"language": file.language, "reasoning": file.reasoning}
        objectives = lab.asked.search.objectives
        ends = {
            name: lab.score(f"{name} expert", lab.alone(model)) for name, model in experts.items()
        }
        found: dict[str, dict[str, Result]] = {}
        shapes: dict[str, list[float]] = {}
        for name, method in file.methods.items():
            for schedule, share in file.schedules.items():
                recipe = lab.recipe(file.weighted(method, share), experts)
                shapes[schedule] = _over_layers(MergePlan(recipe))
                found.setdefault(name, {})[schedule] = lab.score(f"{name}, {schedule}", recipe)
        places = [*file.schedules]
        values = [
            Value(method, schedule, o.name, result.estimate(o))
            for o in objectives
            for method, here in found.items()
            for schedule, result in here.items()
        ] + [
            Value(f"{name} expert", schedule, o.name, result.estimate(o))
            for o in objectives
            for name, result in ends.items()
            for schedule in places
        ]
        pairs = list(combinations(places, 2))
        differences = [
            Difference(b, a, method, o.name, difference(o, [here[b]], [here[a]], len(pairs)))
            for o in filter(bounded, objectives)
            for method, here in found.items()
            for a, b in pairs
        ]
        findings = []
        for at in found:
            for o in filter(bounded, objectives):
                own = [d for d in differences if d.score == o.name and d.at == at]
                findings.append(f"By {o.name}, {at}: {_ranking(own)}.")
        lines = [
            Line(f"schedule {name}", [*range(len(shape))], shape, color=color, dash="dot")
            for (name, shape), color in zip(shapes.items(), cycle(_COLORS), strict=False)
        ]
        y = Axis("reasoning's share of the weight", span=(-0.03, 1.03))
        weights = Panel(_layer_axis(len(lines[0].x)), y, lines, title="schedules")
        chart = chart_of(
            values,
            [o.name for o in objectives],
            Axis(names=tuple(places)),
            [*file.methods, *(f"{name} expert" for name in experts)],
            references=[f"{name} expert" for name in experts],
            more=[weights],
        )
        return Outcome(findings, values, differences, chart)


def _layer_axis(layers: int) -> Axis:
    """Each layer by its number, where there is room for it."""
    return Axis("layer", names=tuple(map(str, range(layers))) if layers <= 16 else ())


def _over_layers(plan: MergePlan) -> list[float]:
    """Reasoning's share of the weight in each layer."""
    layers: dict[int, float] = {}
    for name, layer in plan.sources.layers.items():
        if plan.sources.mergeable(name):
            language, reasoning = plan.recipe.settings_for(name, plan.sources.depths[name]).weights
            total = language + reasoning
            layers[layer] = reasoning / total if total else 0.0
    return [layers[layer] for layer in sorted(layers)]


def _ranking(differences: list[Difference]) -> str:
    """Which schedules are ahead of which, by their intervals."""
    ahead: dict[str, list[str]] = {}
    for one in differences:
        if one.sign != "not told apart":
            pair = (one.a, one.b) if one.sign == "ahead" else (one.b, one.a)
            ahead.setdefault(pair[1], []).append(pair[0])
    told = [f"ahead of {loser}: {', '.join(winners)}" for loser, winners in ahead.items()]
    equal = [f"{one.b} from {one.a}" for one in differences if one.sign == "not told apart"]
    return "; ".join([*told, *([f"not told apart: {', '.join(equal)}"] if equal else [])])
