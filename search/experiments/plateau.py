"""What becomes of the SFT expert's parameters in a merge while continued pre-training goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from merge_core.checkpoint import Checkpoint
from merge_core.yaml_io import Where
from objectives import Estimate
from search.comparison import signed
from search.experiments.base import Experiment
from search.experiments.chart import chart_of, panel_of
from search.experiments.ct_then_sft import RIVAL, CheckpointsFile
from search.experiments.file import Setting, label
from search.experiments.lab import Lab
from search.experiments.outcome import (
    Difference,
    Outcome,
    Value,
    bounded,
    counted,
    difference,
    verdict,
)
from search.figures.chart import Axis, Chart
from search.results import Result

TRIMMED, LOST, GONE = "trimmed", "lost in the sign election", "discarded in all"
LENGTHS = "length, CT to SFT"
OF_KEPT = "lost, of those left by the trim"
SHARES, LENGTH, MERGE = "share of the SFT parameters", "task vectors", "merge"


class PlateauFile(CheckpointsFile):
    """The file of this experiment."""

    experiment: Literal["plateau"] = "plateau"
    setting: Setting = Field(description="the one merge at all checkpoints, of experts ct and sft")

    def recipes(self) -> Iterator[tuple[Where, Callable[[], dict[str, Any]]]]:
        models = {"ct": self.checkpoints[0].ct, "sft": self.sft}
        yield ("setting",), partial(self.setting.recipe, self, models)

    def quick(self) -> dict[str, object]:
        return {"checkpoints": self.ends()}


class Plateau(Experiment[PlateauFile]):
    """How the share of discarded SFT parameters grows with CT, and what the scores do."""

    name: ClassVar[str] = "plateau"
    summary: ClassVar[str] = "share of discarded SFT parameters over CT checkpoints"
    question: ClassVar[str] = (
        "A merge with sign election throws parameters of the SFT expert away: the trim takes the "
        "smallest, the election those whose sign loses. Do more of them lose as continued "
        "pre-training (CT) goes on, and do the merge's scores stop growing as they do?"
    )
    paper: ClassVar[str] = (
        "The task vector of the CT model grows with CT, so more parameters of the trimmed SFT "
        "model lose the election (4% more are removed), and the gain of merging over CT-then-SFT "
        "shrinks: the plateau (arXiv 2407.03994, Llama-2-7B)."
    )
    limits: ClassVar[str] = (
        "Shares are counted over all parameters of one series of checkpoints: exact for these "
        "models, and without any error that would tell how another training run turns out; try "
        "other seeds. One setting is held for all checkpoints, so the scores are not the best "
        "that a merge can have at each. Two curves that move together are no proof that one is "
        "the cause."
    )
    kind = PlateauFile
    continued: ClassVar[bool] = True

    def run(self, lab: Lab, file: PlateauFile) -> Outcome:
        """Count and score one merge at every checkpoint."""
        values: list[Value] = []
        merged: dict[str, Result] = {}
        objectives = lab.asked.search.objectives
        sft_length = _length(lab, file.sft)
        for checkpoint in file.checkpoints:
            at = label(checkpoint.amount)
            recipe = lab.recipe(file.setting, {"ct": checkpoint.ct, "sft": file.sft})
            what = f"merge at {at} {file.unit}"
            counts = lab.counts(f"{what}: counting", recipe)["sft"]
            shares = {
                GONE: counts.share("trimmed") + counts.share("lost"),
                TRIMMED: counts.share("trimmed"),
                LOST: counts.share("lost"),
                OF_KEPT: counts.lost / max(1, counts.lost + counts.retained),
            }
            for series, share in shares.items():
                values.append(Value(series, at, SHARES, counted(share, counts.entries)))
            ratio = _length(lab, checkpoint.ct) / sft_length
            values.append(Value(LENGTHS, at, LENGTH, Estimate(ratio, ratio, ratio, 1)))
            merged[at] = lab.score(what, recipe)
            scored = {MERGE: merged[at]}
            if checkpoint.ct_sft is not None:
                rival = lab.alone(checkpoint.ct_sft)
                scored[RIVAL] = lab.score(f"{RIVAL}, {at} {file.unit}", rival)
            for series, result in scored.items():
                for o in objectives:
                    values.append(Value(series, at, o.name, result.estimate(o)))
        places = list(merged)
        differences = [
            Difference(
                f"{MERGE} at {b}",
                f"{MERGE} at {a}",
                f"{a} to {b}",
                o.name,
                difference(o, [merged[b]], [merged[a]], len(places) - 1),
            )
            for o in objectives
            if bounded(o)
            for a, b in pairwise(places)
        ]
        findings = [*_counted(values, places, file.unit), *_scored(differences)]
        note = f"The merge at all checkpoints: {file.setting}."
        return Outcome(findings, values, differences, _chart(lab, file, values), (note,))


def _length(lab: Lab, model: str) -> float:
    """The Euclidean length of a model's difference from base, over the tensors that both have."""
    reference = lab.asked.recipe(lab.asked.file.alone(model))
    assert reference.base_model is not None
    base = Checkpoint.open(reference.base_model)
    other = Checkpoint.open(reference.models[0].model)
    squares = []
    for name, spec in base.specs.items():
        if spec.floating and name in other.specs and other.specs[name].shape == spec.shape:
            delta = other.tensor(name).to(torch.float32) - base.tensor(name).to(torch.float32)
            squares.append(float(delta.to(torch.float64).square().sum()))
    return math.sqrt(math.fsum(squares))


def _counted(values: list[Value], places: list[str], unit: str) -> list[str]:
    """What the counts say, from the first checkpoint to the last."""
    if len(places) < 2:
        return []
    first, last = places[0], places[-1]
    held = {(value.series, value.at): value.estimate.value for value in values}
    said = []
    for series in (GONE, OF_KEPT):
        start, end = held[series, first], held[series, last]
        steps = [100 * (held[series, b] - held[series, a]) for a, b in pairwise(places)]
        said.append(
            f"SFT parameters {series}: {start:.1%} at {first} {unit}, {end:.1%} at {last} "
            f"({100 * (end - start):+.1f} points; from checkpoint to checkpoint "
            f"{', '.join(f'{step:+.1f}' for step in steps)})."
        )
    start, end = (held[LENGTHS, at] for at in (first, last))
    grown = "grows" if end > start else "does not grow"
    said.append(
        f"The CT task vector {grown}: {start:.2f} of the SFT task vector's length at {first} "
        f"{unit}, {end:.2f} at {last}."
    )
    return said


def _scored(differences: list[Difference]) -> list[str]:
    """What the merge's scores do from checkpoint to checkpoint."""
    said = []
    for score in dict.fromkeys(one.score for one in differences):
        own = [one for one in differences if one.score == score]
        said.append(verdict(f"By {score}, the merge against the one before", own, "steps"))
        if own[-1].sign != "ahead":
            said.append(
                f"By {score}, the last step of CT brings the merge nothing that could be told: "
                f"{signed(own[-1].estimate)}."
                if own[-1].sign == "not told apart"
                else f"By {score}, the last step of CT costs the merge: {signed(own[-1].estimate)}."
            )
    return said


def _chart(lab: Lab, file: PlateauFile, values: list[Value]) -> Chart:
    x = Axis(f"CT data ({file.unit})", log=True)
    scores = [objective.name for objective in lab.asked.search.objectives]
    shares = [value for value in values if value.score == SHARES]
    lengths = [value for value in values if value.score == LENGTH]
    order = [MERGE, LENGTHS, LOST, OF_KEPT, GONE, TRIMMED, RIVAL]
    references = (TRIMMED, RIVAL)
    panels = [
        panel_of(shares, SHARES, x, order, references, "share"),
        panel_of(lengths, "length of the task vectors, CT to SFT", x, order, references, "ratio"),
    ]
    return chart_of(values, scores, x, order, references=references, more=panels)
