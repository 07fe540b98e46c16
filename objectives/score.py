"""From an engine and items to one set of scores per item, and from those to estimates."""

from collections.abc import Sequence
from dataclasses import dataclass

from objectives.engines.base import Engine, Generation, GenerationSettings, Prompt
from objectives.item import Item
from objectives.scorers.base import Sample
from objectives.statistics import Estimate, estimate
from objectives.task import JOINT, Task

JOINT_LANGUAGE = 0.8
"""The language score from which an answer counts as being in the language, for "joint"."""


@dataclass(frozen=True)
class ItemScore:
    """What one item got: stored per item, because paired comparisons and audits need it.

    `scores` maps each measure ("math", "language", "language.thinking", "joint", ...) to its
    value; a sub-score that the item lacks is absent.
    """

    id: str
    scores: dict[str, float]
    text: str
    tokens: int
    finish_reason: str


def score_task(
    engine: Engine,
    task: Task,
    items: Sequence[Item],
    settings: GenerationSettings | None = None,
) -> list[ItemScore]:
    """Generate once per item and score the text with every scorer of the task.

    Order follows `items`. `settings` overrides the task's own (a cheap first screen, say).

    Raises:
        EngineError: generation failed.
        ScorerError: a scorer cannot run here (an optional package is missing).
    """
    prompts = [Prompt(item.id, item.messages) for item in items]
    generations = engine.generate(prompts, settings or task.config.generate)
    assert len(generations) == len(items), f"{engine.kind} lost answers"
    return [
        score_generation(task, item, generation)
        for item, generation in zip(items, generations, strict=True)
    ]


def score_generation(task: Task, item: Item, generation: Generation) -> ItemScore:
    """All scores of one generated answer."""
    sample = Sample(item, generation)
    scores: dict[str, float] = {}
    for scorer in task.scorers:
        scores[scorer.name] = float(scorer.score(sample))
        for key, value in scorer.extras(sample).items():
            scores[f"{scorer.name}.{key}"] = float(value)
    if JOINT in task.measures:
        right = all(scores[s.name] == 1.0 for s in task.scorers if s.correctness)
        scores[JOINT] = float(right and scores["language"] >= JOINT_LANGUAGE)
    return ItemScore(item.id, scores, generation.text, generation.tokens, generation.finish_reason)


def aggregate(
    scores: Sequence[float],
    binary: bool,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimate:
    """Mean and interval of one measure's per-item scores.

    Raises:
        ValueError: no scores, or scores outside `bounds`.
    """
    return estimate(scores, binary, level, bounds)


def summarize(
    task: Task, item_scores: Sequence[ItemScore], level: float = 0.95
) -> dict[str, Estimate]:
    """An estimate for every measure of the task that at least one item has."""
    summary: dict[str, Estimate] = {}
    for key, measure in task.measures.items():
        values = [item.scores[key] for item in item_scores if key in item.scores]
        if values:
            summary[key] = aggregate(values, measure.binary, level, measure.range)
    return summary
