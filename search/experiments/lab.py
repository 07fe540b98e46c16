"""Merges of an experiment, scored by the product's own parts; what was scored once is kept.

Results lie in the experiment's folder by what they are of: the recipe's numbers, the contents of
its models, the items and how they are asked. So an experiment goes on where it was stopped, and
never takes a result for another's.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from merge_core import MergePlan, Recipe
from merge_core.analysis import Counts, analyze
from merge_core.checkpoint import Checkpoint
from merge_core.sources import digest_of
from merge_core.yaml_io import write_atomic
from objectives.task import Split
from search.errors import ConfigError
from search.experiments.file import QUICK, Asked, Setting
from search.results import Result
from search.run import freeze, item_digests
from search.worker import Evaluator, Job, Setup

_COUNTED = ("entries", "retained", "restored", "lost", "trimmed")

Told = Callable[[str], None]
"""Called with a line on what is being done."""


class Lab:
    """What an experiment scores merges with.

    Args:
        asked: the experiment's file.
        folder: where results are kept.
        told: hears what is scored.
    """

    def __init__(self, asked: Asked, folder: Path, told: Told) -> None:
        self.asked = asked
        self.folder = folder
        self.told = told
        self._evaluator: Evaluator | None = None
        self._digests: dict[str, str] = {}
        asking: dict[str, Any] = {
            "search": freeze(asked.search),
            "items": item_digests(asked.search),
        }
        # The recipe is each result's own, and what is made of its scores changes none.
        for part in ("merge_method", "models", "objectives", "constraints"):
            asking["search"].pop(part)
        if asked.quick:  # the splits are the file's, of which only the first items are asked
            asking["first"] = QUICK
        text = json.dumps(asking, sort_keys=True, default=str)
        self._asking = hashlib.sha256(text.encode()).hexdigest()

    def recipe(self, setting: Setting, models: Mapping[str, str]) -> Recipe:
        """A setting on models by role."""
        return self.asked.recipe(setting.recipe(self.asked.file, models))

    def alone(self, model: str) -> Recipe:
        """One model as it is."""
        return self.asked.recipe(self.asked.file.alone(model))

    def score(self, what: str, recipe: Recipe, split: Split = "confirm") -> Result:
        """The scores of a recipe's merge.

        Raises:
            ConfigError: the merge cannot be scored.
            MergeError, ObjectiveError: the set-up is wrong.
        """
        return self.kept(what, self.fingerprint(recipe), split, lambda: recipe)

    def best(
        self, what: str, settings: Sequence[Setting], models: Mapping[str, str], judge: str
    ) -> tuple[Setting, Recipe]:
        """Of several settings the best on dev items by an objective; the first of equals.

        Nothing is scored where there is no choice.
        """
        recipes = [(setting, self.recipe(setting, models)) for setting in settings]
        if len(recipes) == 1:
            return recipes[0]
        objective = self.asked.objective(judge)

        def value(pair: tuple[Setting, Recipe]) -> float:
            found = self.score(f"{what}, dev items: {pair[0]}", pair[1], "dev")
            return objective.sign * found.estimate(objective).value

        return max(recipes, key=value)

    def kept(self, what: str, fingerprint: str, split: Split, make: Callable[[], Recipe]) -> Result:
        """The result kept under a fingerprint; otherwise that of the recipe that `make` gives."""
        name = hashlib.sha256(f"{fingerprint} {split} {self._asking}".encode()).hexdigest()[:24]
        path = self.folder / "points" / f"{name}.json"
        if path.is_file():
            return Result.load(path)
        self.told(what)
        result = self._worker().evaluate(Job(what, make(), fingerprint, split))
        if result.fault is not None:
            raise ConfigError(f"{what}: its merge cannot be scored: {result.fault}")
        result.save(path)
        return result

    def counts(self, what: str, recipe: Recipe) -> dict[str, Counts]:
        """What becomes of each expert's entries in a recipe's merge, by role; see `analysis`."""
        path = self.folder / "points" / f"counts-{self.fingerprint(recipe)[:24]}.json"
        if not path.is_file():
            self.told(what)
            model = analyze(MergePlan(recipe, tally=True)).model
            held = {
                name: {key: getattr(counts, key) for key in _COUNTED}
                for name, counts in zip(recipe.names, model.experts, strict=True)
            }
            write_atomic(path, json.dumps(held) + "\n")
        data = json.loads(path.read_text(encoding="utf-8"))
        return {name: Counts(**held) for name, held in data.items()}

    def fingerprint(self, recipe: Recipe) -> str:
        """The name of a recipe's merge, by its numbers and the contents of its models."""
        base = [] if recipe.base_model is None else [recipe.base_model]
        models = [*base, *(expert.model for expert in recipe.models)]
        return recipe.fingerprint([self.digest(model) for model in models])

    def digest(self, model: str) -> str:
        """The content hash of a model; its weights are searched for NaN, too."""
        if model not in self._digests:
            checkpoint = Checkpoint.open(model)
            checkpoint.check_finite()
            self._digests[model] = digest_of(checkpoint)
        return self._digests[model]

    def close(self) -> None:
        """Free the engine."""
        if self._evaluator is not None:
            self._evaluator.close()
            self._evaluator = None

    def _worker(self) -> Evaluator:
        """The engine, once something has to be scored."""
        if self._evaluator is None:
            search, tasks = self.asked.search, self.asked.tasks
            start, threads = search.example(), self.asked.file.threads
            self._evaluator = Evaluator(Setup(search.engine, start, tasks, threads))
        return self._evaluator


@contextmanager
def opened(asked: Asked, folder: Path, told: Told) -> Iterator[Lab]:
    """A lab, closed in the end."""
    lab = Lab(asked, folder, told)
    try:
        yield lab
    finally:
        lab.close()


def scratch(lab: Lab) -> tempfile.TemporaryDirectory[str]:
    """A folder beside the results for a merge that is scored and thrown away."""
    lab.folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=lab.folder, prefix=".merge-")
