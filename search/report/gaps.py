"""Parts of the page that stand empty, and why: nothing is missing without a word."""

from __future__ import annotations

from collections.abc import Collection

from search.amounts import many
from search.importance import FEWEST
from search.view import RunView

_LOST = "It could not be drawn: see what failed."


def gaps(view: RunView, drawn: Collection[str], *, answers: bool) -> dict[str, str]:
    """A sentence for each part that a run with scored trials has not, by the part's name.

    Args:
        view: of the run.
        drawn: names of the figures that there are.
        answers: whether answers are shown.
    """
    if not view.scored:  # which the page begins with
        return {}
    found = {}
    if "importance" not in drawn:
        found["importance"] = _importance(view)
    if "slices" not in drawn:
        found["slices"] = _LOST if _varied(view) else "No parameter was varied over the trials."
    if "retained" not in drawn:
        found["retained"] = _retained(view)
    if not answers and (view.front or view.chosen is not None):
        found["answers"] = "None are shown: their results are gone from the run folder."
    return found


def _importance(view: RunView) -> str:
    # Those that came out broken are told to the sampler, and say something, too.
    told = sum(trial.scored or trial.state == "fault" for trial in view.trials.values())
    if told < FEWEST:
        return f"{many(told, 'trial')}: importances need {FEWEST}."
    return f"Importances: {_LOST}"


def _varied(view: RunView) -> bool:
    frozen, known = view.search.file.sampler.freeze, view.search.space.distributions()
    tried = [trial.params for trial in view.scored.values()]
    return any(
        sum(name in params for params in tried) > 1
        for name, one in known.items()
        if name not in frozen and not one.single()
    )


def _retained(view: RunView) -> str:
    if not view.search.file.tracking.retained:
        return "Not counted: the search file says tracking.retained: false."
    names = [m.name for m in view.search.space.methods if not m.on_differences]
    if len(names) == len(view.search.space.methods):
        return (
            f"Nothing to be counted: {' and '.join(names)} merges models and not differences from"
            " the base."
        )
    if any(trial.retained for trial in view.scored.values()):
        return _LOST
    elsewhere = {
        "vllm": "vLLM merges in its own processes, where nothing counts",
        "scripted": "the scripted engine merges nothing",
    }
    kind = view.search.engine.kind
    return f"Not counted: {elsewhere.get(kind, 'these trials are of an older version')}."
