"""What slack should give back: the paper's criterion against others, chance among them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from merge_core import Recipe
from merge_core.errors import CheckpointError
from merge_core.reference import Criterion
from merge_core.references import locate
from objectives.engines.base import Prompt
from search.errors import ConfigError
from search.experiments.base import Experiment
from search.experiments.chart import chart_of
from search.experiments.file import label
from search.experiments.lab import Lab, scratch
from search.experiments.outcome import (
    Difference,
    Outcome,
    Value,
    bounded,
    difference,
    mean,
    spread,
)
from search.experiments.restoring import (
    Kind,
    criterion_of,
    fingerprint_of,
    write_restored,
)
from search.experiments.slack import SlackFile
from search.figures.chart import Axis
from search.file import Strict, Whole
from search.results import Result


class FisherEntry(Strict):
    """Where Fisher information comes from."""

    file: str | None = Field(
        None, description="safetensors with a tensor for each of the model's; else it is made"
    )
    task: str | None = Field(None, description="whose dev items it is made from; default the first")
    items: Whole = Field(64, ge=1, description="of them")


class CriteriaFile(SlackFile):
    """The file of this experiment."""

    experiment: Literal["criteria"] = "criteria"
    criteria: list[Kind] = Field(min_length=1, description="what is compared")
    draws: Whole = Field(3, ge=1, description="of random, averaged item by item")
    fisher: FisherEntry = FisherEntry()

    @field_validator("criteria")
    @classmethod
    def _once(cls, given: list[Kind]) -> list[Kind]:
        if len(set(given)) < len(given):
            raise ValueError("criteria names one twice")
        return given

    def quick(self) -> dict[str, object]:
        return {
            "slacks": self.slacks[:1],
            "settings": [self.settings[0].model_dump()],
            "draws": 1,
            "fisher": {**self.fisher.model_dump(), "items": min(8, self.fisher.items)},
        }


class Criteria(Experiment[CriteriaFile]):
    """Whether magnitude, Fisher information or chance picks better what to restore."""

    name: ClassVar[str] = "criteria"
    summary: ClassVar[str] = "what TIES-SV should restore: magnitude, Fisher information or chance"
    question: ClassVar[str] = (
        "TIES-SV gives an expert a share of its lost parameters back, first those whose magnitude "
        "is nearest to the winner's. Is that a better choice than drawing lots, than those that "
        "the expert's answers depend on most (diagonal Fisher information), or than the opposite?"
    )
    paper: ClassVar[str] = (
        "An open question of arXiv 2407.03994: it ranks by the difference in magnitude and names "
        "other criteria as future work. It reports no comparison with chance."
    )
    limits: ClassVar[str] = (
        "Only the paper's criterion is part of recipes and of the fast kernels; the others are "
        "merged by the readable reference, for this experiment. Fisher information is diagonal "
        "and empirical, from the expert's own greedy answers to dev items, and so from the same "
        "kind of item as is scored. Density and weights were chosen for TIES on dev items. "
        "Intervals are over items of one set of models: try other seeds."
    )
    kind = CriteriaFile
    continued: ClassVar[bool] = True

    def run(self, lab: Lab, file: CriteriaFile) -> Outcome:
        """Score every criterion at every slack."""
        for slack in file.slacks:
            if not 0.0 < slack <= 1.0:
                raise lab.asked.search.fault(("slacks",), "a slack here is over 0, and at most 1")
        settings = [file.with_slack(one, 0.0) for one in file.settings]
        plain, recipe = lab.best("TIES", settings, file.experts, file.judge)
        ties = [lab.score("TIES", recipe)]
        fisher = self._fisher(lab, file) if "fisher" in file.criteria else None
        found: dict[str, dict[str, list[Result]]] = {}
        for slack in sorted(file.slacks):
            at = label(slack)
            recipe = lab.recipe(file.with_slack(plain, slack), file.experts)
            found[at] = {
                kind: self._scored(lab, file, recipe, kind, f"{kind}, slack {at}", fisher)
                for kind in file.criteria
            }
            found[at]["TIES"] = ties
        values = [
            Value(kind, at, o.name, mean(results, o))
            for o in lab.asked.search.objectives
            for at, here in found.items()
            for kind, results in here.items()
        ]
        differences: list[Difference] = []
        findings = []
        for o in filter(bounded, lab.asked.search.objectives):
            for rival in ("random", "magnitude", "TIES"):
                if rival != "TIES" and rival not in file.criteria:
                    continue
                told: dict[str, list[str]] = {}
                others = [kind for kind in file.criteria if kind != rival]
                family = len(found) * len(others)  # one sentence tells of all of them
                for kind in others:
                    own = [
                        Difference(
                            kind, rival, at, o.name, difference(o, here[kind], here[rival], family)
                        )
                        for at, here in found.items()
                    ]
                    differences += own
                    told.setdefault(spread(own, "slacks"), []).append(kind)
                if told:
                    said = "; ".join(f"{', '.join(kinds)}: {what}" for what, kinds in told.items())
                    findings.append(f"By {o.name}, against {rival} - {said}.")
        scores = [o.name for o in lab.asked.search.objectives]
        order = [*file.criteria, "TIES"]
        chart = chart_of(values, scores, Axis("slack"), order, references=("TIES",))
        notes = [f"TIES, to which slack for '{file.restored}' is added: {plain}."]
        if "random" in file.criteria:
            notes.append(f"random is the mean over {file.draws} draws, item by item.")
        return Outcome(findings, values, differences, chart, notes)

    def _scored(
        self,
        lab: Lab,
        file: CriteriaFile,
        recipe: Recipe,
        kind: Kind,
        what: str,
        fisher: Path | None,
    ) -> list[Result]:
        """A criterion's scores; of random, those of each draw."""
        plain = lab.fingerprint(recipe)
        results = []
        for draw in range(file.draws if kind == "random" else 1):
            seed = file.seed + draw
            name = fingerprint_of(plain, kind, seed=seed, fisher=fisher)
            if kind == "magnitude":
                results.append(lab.score(what, recipe))
                continue
            criterion = criterion_of(kind, seed=seed, fisher=fisher)
            with scratch(lab) as folder:
                merged = Path(folder).resolve() / "merged"

                def make(merged: Path = merged, by: Criterion = criterion) -> Recipe:
                    write_restored(recipe, by, merged)
                    return lab.alone(str(merged))

                results.append(lab.kept(f"{what}, draw {draw + 1}", name, "confirm", make))
        return results

    def _fisher(self, lab: Lab, file: CriteriaFile) -> Path:
        """The file of Fisher information: given, kept, or made from dev items."""
        root = lab.asked.search.root
        if file.fisher.file is not None:
            path = root / Path(file.fisher.file).expanduser()
            if not path.is_file():
                raise lab.asked.search.fault(("fisher", "file"), f"{path}: no such file")
            return path
        tasks = {name: task for name, task in lab.asked.tasks.items() if task.generates}
        name = file.fisher.task or next(iter(tasks), "")
        if name not in tasks:
            raise lab.asked.search.fault(
                ("fisher",), "Fisher information is made from a task that generates answers"
            )
        items = tasks[name].items("dev")[: file.fisher.items]
        model = lab.alone(file.experts[file.restored]).models[0].model
        config = tasks[name].config
        tokens = config.generate.max_tokens
        # What it is made from is its name: of other items, or asked otherwise, it is another.
        asked = [[item.messages for item in items], config.chat.model_dump(), tokens]
        made_from = hashlib.sha256(json.dumps([lab.digest(model), asked]).encode()).hexdigest()
        path = lab.folder / f"fisher-{name}-{made_from[:24]}.safetensors"
        if not path.is_file():
            from search.experiments.fisher import write_fisher

            lab.told(f"Fisher information of {file.restored}, {len(items)} dev items of {name}")
            prompts = [Prompt(item.id, item.messages, chat=config.chat) for item in items]
            try:
                place = locate(model)
            except CheckpointError as error:
                raise ConfigError(str(error)) from None
            write_fisher(place, prompts, path, tokens=tokens)
        return path
