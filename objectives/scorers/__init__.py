"""The table of scorers: a new one is one file here and one line below."""

from collections.abc import Mapping
from typing import Any

from objectives.errors import ScorerError
from objectives.scorers.base import Scorer
from objectives.tables import did_you_mean, resolve

SCORERS: dict[str, str] = {
    "all": "objectives.scorers.combine:All",
    "choice": "objectives.scorers.choice:Choice",
    "code": "objectives.scorers.code:Code",
    "exact": "objectives.scorers.exact:Exact",
    "judge": "objectives.scorers.judge:Judge",
    "language": "objectives.scorers.language:Language",
    "length_penalty": "objectives.scorers.combine:LengthPenalty",
    "lm_eval": "objectives.scorers.lm_eval:LmEval",
    "math": "objectives.scorers.math:Math",
    "mean": "objectives.scorers.combine:Mean",
    "min": "objectives.scorers.combine:Min",
    "perplexity": "objectives.scorers.perplexity:Perplexity",
    "python": "objectives.scorers.python:Python",
    "think": "objectives.scorers.think:Think",
}


def make_scorer(ref: str | Mapping[str, Mapping[str, Any] | None]) -> Scorer:
    """The scorer that a task file names: `math`, or `{language: {expect: th}}`.

    `python:package.module:function` is short for `{python: {function: package.module:function}}`.

    Raises:
        ScorerError: an unknown name (with the nearest known one), or wrong parameters.
    """
    params: Any
    if isinstance(ref, str):
        name, colon, path = ref.partition(":")
        params = {"function": path} if colon and name == "python" else None
        name = name if params else ref
    elif len(ref) == 1:
        ((name, params),) = ref.items()
    else:
        names = ", ".join(ref) or "nothing"
        raise ScorerError(f"a scorer is one name with its parameters, got {names}; list each apart")
    if name not in SCORERS:
        raise ScorerError(f"unknown scorer {name!r}; {did_you_mean(name, SCORERS)}")
    if params is not None and not isinstance(params, Mapping):
        raise ScorerError(
            f"scorer {name}: parameters are a mapping such as {{expect: th}}, got {params!r}"
        )
    scorer: Scorer = resolve(SCORERS, name)(**(params or {}))
    return scorer


def frozen_ref(ref: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """What of a reference decides the scores: its operational parameters may change in a run."""
    if isinstance(ref, str):
        return ref
    ((name, params),) = ref.items()
    operational = resolve(SCORERS, name).operational if name in SCORERS else frozenset()
    kept = {key: value for key, value in (params or {}).items() if key not in operational}
    return {name: kept}
