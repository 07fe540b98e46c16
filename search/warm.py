"""What a search tries first: recipes that are known to be good."""

from __future__ import annotations

import math
from collections.abc import Mapping

import optuna
from optuna.distributions import FloatDistribution

from search import published
from search.config import Search


def enqueue_published(study: optuna.Study, search: Search) -> None:
    """Put the published schedule, where it lies inside the space, before the sampler's proposals.

    What the space leaves open besides is the paper's too where that can be: the language expert's
    share of the weight, and densities that drop nothing.
    """
    inside = search.space.distributions()

    def fits(params: Mapping[str, float]) -> bool:
        return all(
            isinstance(d := inside.get(name), FloatDistribution)
            and d.low <= value <= d.high
            and (d.step is None or _whole((value - d.low) / d.step))
            for name, value in params.items()
        )

    ours, theirs = "reasoning.weight", "language.weight"
    shares = published.reasoning_share().plain(), published.language_share(1).plain()
    schedules = [
        tuple(
            {f"{weight}.{key}": value for key, value in share.items()}
            for weight, share in zip((ours, theirs), shares, strict=True)
        )
    ]
    anchors = list(enumerate(published.ANCHORS))
    if f"{ours}[{len(anchors)}]" not in inside:
        schedules.append(
            (
                {f"{ours}[{i}]": share for i, share in anchors},
                {f"{theirs}[{i}]": 1.0 - share for i, share in anchors},
            )
        )
    for own, others in schedules:
        if not fits(own):
            continue
        params = own | (others if fits(others) else {})
        if search.file.merge_method == "dare_linear":
            dropping = {f"{name}.density": 1.0 for name in ("language", "reasoning")}
            params |= {key: value for key, value in dropping.items() if fits({key: value})}
        study.enqueue_trial(params, skip_if_exists=True)


def _whole(number: float) -> bool:
    return math.isclose(number, round(number), abs_tol=1e-9)
