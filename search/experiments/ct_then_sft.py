"""Continued pre-training and then fine-tuning, against merging, over the amount of CT data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from merge_core.yaml_io import Where
from search.experiments.base import Experiment
from search.experiments.chart import chart_of
from search.experiments.file import ExperimentFile, Setting, label
from search.experiments.lab import Lab
from search.experiments.outcome import (
    Difference,
    Outcome,
    Value,
    bounded,
    change,
    difference,
    plain,
    trend,
    verdict,
)
from search.figures.chart import Axis, Chart
from search.file import Number, Strict
from search.results import Result

CT, RIVAL, SFT = "CT alone", "CT, then SFT", "SFT alone"
Scored = dict[str, dict[str, tuple[Result, str]]]
"""By amount and series: scores, and the setting that they came from."""


class Checkpoint(Strict):
    """Models after so much continued pre-training."""

    amount: Number = Field(gt=0, description="of CT data, in `unit`")
    ct: str = Field(description="after the continued pre-training (CT)")
    ct_sft: str | None = Field(None, description="the same, then fine-tuned (SFT)")


class CheckpointsFile(ExperimentFile):
    """A file that names a series of CT checkpoints and one SFT expert."""

    sft: str = Field(description="base, fine-tuned")
    unit: str = Field("documents", description="of the amounts: documents, B tokens, ...")
    checkpoints: list[Checkpoint] = Field(min_length=1)

    def models(self) -> dict[Where, str]:
        named = {**super().models(), ("sft",): self.sft}
        for index, checkpoint in enumerate(self.checkpoints):
            named["checkpoints", index, "ct"] = checkpoint.ct
            if checkpoint.ct_sft is not None:
                named["checkpoints", index, "ct_sft"] = checkpoint.ct_sft
        return named

    def names(self) -> Iterator[tuple[Where, str]]:
        for index, checkpoint in enumerate(self.checkpoints):
            yield ("checkpoints", index, "amount"), f"{label(checkpoint.amount)} {self.unit}"

    def ends(self) -> list[dict[str, object]]:
        """The first and the last checkpoint, for a first look."""
        kept = [self.checkpoints[0], *self.checkpoints[1:][-1:]]
        return [checkpoint.model_dump(exclude_none=True) for checkpoint in kept]


class CtThenSftFile(CheckpointsFile):
    """The file of this experiment."""

    experiment: Literal["ct-then-sft"] = "ct-then-sft"
    judge: str = Field(description="the objective that settings are chosen by, on dev items")
    merges: dict[str, list[Setting]] = Field(
        min_length=1, description="settings by name, of experts ct and sft; the best of each counts"
    )

    def names(self) -> Iterator[tuple[Where, str]]:
        yield from super().names()
        yield from (((), name) for name in (CT, RIVAL, SFT))
        yield from ((("merges", name), name) for name in self.merges)

    def judges(self) -> dict[Where, str]:
        return {("judge",): self.judge}

    def recipes(self) -> Iterator[tuple[Where, Callable[[], dict[str, Any]]]]:
        models = {"ct": self.checkpoints[0].ct, "sft": self.sft}
        for name, settings in self.merges.items():
            for index, setting in enumerate(settings):
                yield ("merges", name, index), partial(setting.recipe, self, models)

    def quick(self) -> dict[str, object]:
        first = {name: [tried[0].model_dump()] for name, tried in self.merges.items()}
        return {"checkpoints": self.ends(), "merges": first}


class CtThenSft(Experiment[CtThenSftFile]):
    """At which amounts of CT data merging is ahead of CT-then-SFT."""

    name: ClassVar[str] = "ct-then-sft"
    summary: ClassVar[str] = "CT-then-SFT against merging, over the amount of CT data"
    question: ClassVar[str] = (
        "Continued pre-training (CT) teaches a model a language; fine-tuning (SFT) in English "
        "teaches it a skill. Is it better to fine-tune after the CT, or to merge the CT model with "
        "a model that was fine-tuned apart? And does that depend on how much CT data there was?"
    )
    paper: ClassVar[str] = (
        "Merging beats CT-then-SFT by up to 4.69% on average while there are less than 10B tokens "
        "of CT data, and the gain shrinks as CT data grows (arXiv 2407.03994, Llama-2-7B)."
    )
    limits: ClassVar[str] = (
        "Intervals are over items, not over training runs: try other seeds. Settings of merges "
        "are chosen on dev items, which CT-then-SFT has no part in."
    )
    miniature: ClassVar[str] = (
        "One training run of one model of 442,560 parameters; the amounts stand to a 7B model's "
        "tokens in no known ratio. Here fine-tuning teaches English so firmly that what is "
        "fine-tuned last answers in English alone, which real models do less."
    )
    kind = CtThenSftFile
    continued: ClassVar[bool] = True

    def run(self, lab: Lab, file: CtThenSftFile) -> Outcome:
        """Score CT alone, CT-then-SFT and the merges at every checkpoint."""
        found: Scored = {}
        sft = lab.score(SFT, lab.alone(file.sft))
        for checkpoint in file.checkpoints:
            at = f"{label(checkpoint.amount)} {file.unit}"
            here = found.setdefault(label(checkpoint.amount), {})
            here[CT] = (lab.score(f"{CT}, {at}", lab.alone(checkpoint.ct)), "")
            if checkpoint.ct_sft is not None:
                here[RIVAL] = (lab.score(f"{RIVAL}, {at}", lab.alone(checkpoint.ct_sft)), "")
            for name, settings in file.merges.items():
                experts = {"ct": checkpoint.ct, "sft": file.sft}
                setting, recipe = lab.best(f"{name}, {at}", settings, experts, file.judge)
                here[name] = (lab.score(f"{name}, {at}", recipe), str(setting))
            here[SFT] = (sft, "")
        return self._outcome(lab, file, found)

    def _outcome(self, lab: Lab, file: CtThenSftFile, found: Scored) -> Outcome:
        objectives = lab.asked.search.objectives
        values = [
            Value(series, at, objective.name, result.estimate(objective), how)
            for objective in objectives
            for at, here in found.items()
            for series, (result, how) in here.items()
        ]
        pairs = {at: here for at, here in found.items() if RIVAL in here}
        differences = [
            Difference(
                name,
                RIVAL,
                at,
                objective.name,
                difference(objective, [here[name][0]], [here[RIVAL][0]], len(pairs)),
            )
            for objective in objectives
            if bounded(objective)
            for name in file.merges
            for at, here in pairs.items()
        ]
        findings = []
        judge = lab.asked.objective(file.judge)
        for objective in [judge, *(o for o in objectives if o.name != file.judge)]:
            for name in file.merges:
                own = [d for d in differences if (d.a, d.score) == (name, objective.name)]
                if own:
                    findings.append(
                        verdict(f"By {objective.name}, {name} against {RIVAL}", own, "amounts")
                    )
                if len(own) > 1 and objective is judge:
                    ends = next(iter(pairs)), next(reversed(pairs))
                    sides = [([pairs[e][name][0]], [pairs[e][RIVAL][0]]) for e in ends]
                    gain = change(objective, sides[0], sides[1])
                    findings.append(
                        trend(
                            f"By {objective.name}, the gain of {name} over {RIVAL}",
                            gain,
                            ends[0],
                            f"{ends[1]} {file.unit}",
                        )
                    )
        told = [f"{o.name} {plain(self._alone(found).estimate(o))}" for o in objectives]
        note = f"{SFT}: {', '.join(told)}."
        return Outcome(findings, values, differences, self._chart(values, lab, file), (note,))

    def _alone(self, found: Scored) -> Result:
        return next(iter(found.values()))[SFT][0]

    def _chart(self, values: list[Value], lab: Lab, file: CtThenSftFile) -> Chart:
        names = [objective.name for objective in lab.asked.search.objectives]
        x = Axis(f"CT data ({file.unit})", log=True)
        order = [*file.merges, RIVAL, CT, SFT]
        return chart_of(values, names, x, order, references=(CT, SFT))
