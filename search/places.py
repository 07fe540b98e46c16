"""Where the models of a trial's recipe are today: a project may have been moved since.

Run folders keep recipes with the absolute places that their models had then. A trial's recipe has
the search's own base and its experts by their names, so that the search file tells where they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from merge_core import Recipe
from merge_core.references import split_reference
from search.config import Search
from search.errors import ExportError
from search.run import Run


def placed(search: Search, recipe: Recipe) -> Recipe:
    """A trial's recipe with its models where the search finds them now.

    What the search file names and is not on this disk keeps the place it had.

    Raises:
        CheckpointError: see `merge_core.references.split_reference`.
    """
    example = search.example()
    today = {expert.name: expert.model for expert in example.models}
    base = recipe.base_model
    if base is not None and example.base_model is not None:
        base = _nearest(base, example.base_model)
    models = tuple(
        replace(expert, model=_nearest(expert.model, today.get(expert.name, expert.model)))
        for expert in recipe.models
    )
    return replace(recipe, base_model=base, models=models)


def gone(run: Run, recipe: Recipe) -> str | None:
    """A model of the recipe that was in a folder which is not there; None if all can be opened.

    Args:
        run: that scored it: it knows what was a hub id.
        recipe: with absolute places.
    """
    known = {part for reference in run.digests for part in reference.split("+")}
    for reference in references(recipe):
        for part in _parts(reference):
            path = Path(part)
            if not path.exists() and (path.is_absolute() or part not in known):
                return part
    return None


def refuse_gone(run: Run, recipe: Recipe, label: str) -> None:
    """ExportError if a model of a member's recipe is `gone`."""
    if (part := gone(run, recipe)) is not None:
        raise ExportError(
            f"{label} of run {run.name} is a merge of {part}, which is gone: put it back, or name "
            "its new place in the search file and `mergefront run` that"
        )


def references(recipe: Recipe) -> list[str]:
    """The models that a recipe names, base first."""
    base = [] if recipe.base_model is None else [recipe.base_model]
    return [*base, *(expert.model for expert in recipe.models)]


def _nearest(then: str, now: str) -> str:
    """Today's reference, if each part of it is on this disk or is what it was: a hub id."""
    same = _parts(then)
    return now if all(part in same or Path(part).exists() for part in _parts(now)) else then


def _parts(reference: str) -> tuple[str, ...]:
    """Base and adapter, even where a folder is gone; else the reference alone."""
    if Path(reference).exists():
        return (reference,)
    return split_reference(reference) or tuple(reference.split("+"))
