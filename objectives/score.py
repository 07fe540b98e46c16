"""From an engine and items to one set of scores per item, and from those to estimates."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from objectives.engines.base import (
    Engine,
    Generation,
    GenerationSettings,
    Likelihood,
    Prompt,
)
from objectives.item import Item, ItemScore, SampleScore
from objectives.scorers.base import Combination, EngineScorer, Measure, Rated, Sample, Scorer
from objectives.statistics import Estimate, Side, estimate
from objectives.task import JOINT, Task

JOINT_LANGUAGE = 0.8
"""The language score from which an answer counts as being in the language, for "joint"."""

NOTHING = Generation("", 0, "stop")
"""Stands for the answer where a task generates none."""


def score_task(
    engine: Engine,
    task: Task,
    items: Sequence[Item],
    settings: GenerationSettings | None = None,
) -> list[ItemScore]:
    """Answer each item as often as the task says and score every answer with every scorer.

    Order follows `items`. `settings` overrides the task's own (a cheap first screen, say).

    Raises:
        EngineError: generation failed.
        ScorerError: a scorer cannot run here, or what it depends on failed.
    """
    for scorer in task.scorers:
        if isinstance(scorer, EngineScorer):  # it stands alone: see Task
            return scorer.run(engine, items)
    settings = settings or task.config.generate
    count = task.config.samples if task.generates else 1
    owners = [item for item in items for _ in range(count)]
    answers = _generated(engine, task, items, count, settings)
    samples = [Sample(*pair) for pair in zip(owners, answers, strict=True)]
    known = [Rated({}, {}) for _ in owners]
    for scorer in task.scorers:
        if scorer.reads == "likelihoods":
            likelihoods = _likelihoods(engine, task, scorer, items)
            per_item = _rate(scorer, [Sample(i, NOTHING, given) for i, given in likelihoods])
            rated = [given for given in per_item for _ in range(count)]
        elif isinstance(scorer, Combination):
            rated = [
                Rated({scorer.name: scorer.combine(sample, had.scores)}, {})
                for sample, had in zip(samples, known, strict=True)
            ]
        else:
            rated = _rate(scorer, samples)
        for had, given in zip(known, rated, strict=True):
            had.scores.update(given.scores)
            had.details.update(given.details)
    rows = [
        SampleScore(
            _with_joint(task, had.scores),
            answer.text,
            answer.tokens,
            answer.finish_reason,
            had.details,
        )
        for had, answer in zip(known, answers, strict=True)
    ]
    return [
        _of_item(item, rows[at * count : (at + 1) * count], task) for at, item in enumerate(items)
    ]


def _generated(
    engine: Engine, task: Task, items: Sequence[Item], count: int, settings: GenerationSettings
) -> list[Generation]:
    """`count` answers to each item, those of one item side by side."""
    if not task.generates:
        return [NOTHING] * len(items)
    prompts = [
        Prompt(item.id, item.messages, sample, task.config.chat)
        for item in items
        for sample in range(count)
    ]
    answers = engine.generate(prompts, settings)
    assert len(answers) == len(prompts), f"{engine.kind} lost answers"
    return answers


def _likelihoods(
    engine: Engine, task: Task, scorer: Scorer, items: Sequence[Item]
) -> list[tuple[Item, tuple[Likelihood, ...]]]:
    """Each item with what the engine says to the scorer's continuations, all asked at once."""
    asked = [scorer.continuations(item, task.config.chat) for item in items]
    given = iter(engine.loglikelihood([one for many in asked for one in many]))
    return [
        (item, tuple(next(given) for _ in many)) for item, many in zip(items, asked, strict=True)
    ]


def _rate(scorer: Scorer, samples: Sequence[Sample]) -> list[Rated]:
    """What one scorer says of each sample."""
    if scorer.parallel > 1 and len(samples) > 1:
        threads = ThreadPoolExecutor(scorer.parallel)
        try:
            return list(threads.map(scorer.rated, samples))
        finally:  # after an error or Ctrl-C nobody wants the rest
            threads.shutdown(wait=False, cancel_futures=True)
    return [scorer.rated(sample) for sample in samples]


def _with_joint(task: Task, scores: dict[str, float]) -> dict[str, float]:
    if JOINT not in task.measures or JOINT in scores:
        return scores
    right = all(scores[s.name] == 1.0 for s in task.scorers if s.correctness)
    spoken = all(scores[s.name] >= JOINT_LANGUAGE for s in task.scorers if s.speech)
    return scores | {JOINT: float(right and spoken)}


def _of_item(item: Item, rows: Sequence[SampleScore], task: Task) -> ItemScore:
    """The item's scores: means over its answers; a sub-score over those that have it."""
    first = rows[0]
    if len(rows) == 1:
        return ItemScore(
            item.id, first.scores, first.text, first.tokens, first.finish_reason, (), first.details
        )
    means = {}
    for key in task.measures:
        values = [row.scores[key] for row in rows if key in row.scores]
        if values:
            low, high = task.measures[key].range  # which rounding must not leave
            means[key] = min(high, max(low, math.fsum(values) / len(values)))
    tokens = sum(row.tokens for row in rows)
    return ItemScore(
        item.id, means, first.text, tokens, first.finish_reason, tuple(rows), first.details
    )


def aggregate(
    items: Sequence[ItemScore],
    key: str,
    measure: Measure,
    level: float = 0.95,
    side: Side = "both",
    *,
    exact: bool = False,
) -> Estimate:
    """Estimate of one measure over the items that have it; arguments as `statistics.estimate`.

    Raises:
        ValueError: no item has it, or a score lies outside the measure's range.
    """
    having = [item.scores for item in items if key in item.scores]
    weights = None if measure.weights is None else [scores[measure.weights] for scores in having]
    return estimate(
        [scores[key] for scores in having],
        measure.binary,
        level,
        measure.range,
        side=side,
        exact=exact,
        weights=weights,
        geometric=measure.aggregation == "geometric",
    )


def summarize(
    task: Task, item_scores: Sequence[ItemScore], level: float = 0.95
) -> dict[str, Estimate]:
    """An estimate for every measure of the task that at least one item has."""
    return {
        key: aggregate(item_scores, key, measure, level)
        for key, measure in task.measures.items()
        if any(key in item.scores for item in item_scores)
    }
