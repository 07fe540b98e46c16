"""Items of the wide world: story problems, and the choice tasks of arXiv 2407.03994 in small.

Every task has a file a language, `math_th.jsonl` or `selection_bn.jsonl`. The problems of all
languages are the same, in the same splits, as translations of one test set are, so a search on
one file spoils no other's held-out items; `math_mixed.jsonl` tells them in turn in each language.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .tongues import Language
from .wide_corpora import LANGUAGES, Question, count_question, reply_question, topic_question
from .world import draw_problems, write_lines

CHOICE_TASKS: Mapping[str, Callable[[random.Random, Language], Question]] = {
    "classification": topic_question,
    "comprehension": count_question,
    "selection": reply_question,
}
CHOICE_LANGUAGES: tuple[Language, ...] = ("th", "bn")


def write_wide_items(
    folder: Path, *, dev: int = 128, confirm: int = 256, test: int = 256, seed: int = 1234
) -> None:
    """Write all item files into `folder`, each in one step.

    A line holds `id`, `prompt`, `answer` (digits, or the text of the right choice), `choices`
    (four texts, in choice tasks alone), `split` (`dev`, `confirm` or `test`) and `tags`: `lang`,
    and `ops` (the signs of a problem's steps). No two lines of a file hold the same prompt.

    Args:
        folder: It must exist.
        dev: Items of each file to search on.
        confirm: Items to confirm a front on.
        test: Items to score the exported recipe on.
        seed: Seed of problems and questions.

    Raises:
        OSError: A file cannot be written.
    """
    splits = ["dev"] * dev + ["confirm"] * confirm + ["test"] * test
    problems = list(zip(splits, draw_problems(len(splits), seed), strict=True))

    def told(index: int, language: Language) -> dict[str, Any]:
        split, problem = problems[index]
        return {
            "id": f"{language}-{index:04d}",
            "prompt": problem.question(language),
            "answer": str(problem.answer),
            "split": split,
            "tags": {"lang": language, "ops": problem.operations},
        }

    for language in LANGUAGES:
        rows = [told(index, language) for index in range(len(problems))]
        write_lines(folder / f"math_{language}.jsonl", rows)
    rows = [told(index, LANGUAGES[index % len(LANGUAGES)]) for index in range(len(problems))]
    write_lines(folder / "math_mixed.jsonl", rows)
    for number, (task, draw) in enumerate(CHOICE_TASKS.items()):
        for language in CHOICE_LANGUAGES:
            rng = random.Random(10 * seed + number)
            rows = _chosen(rng, draw, language, splits)
            write_lines(folder / f"{task}_{language}.jsonl", rows)


def _chosen(
    rng: random.Random,
    draw: Callable[[random.Random, Language], Question],
    language: Language,
    splits: list[str],
) -> list[dict[str, Any]]:
    """As many questions as `splits`, no two with one prompt."""
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < len(splits):
        prompt, right, wrong = draw(rng, language)
        choices = rng.sample([right, *wrong], 1 + len(wrong))
        if prompt not in rows:
            rows[prompt] = {
                "id": f"{language}-{len(rows):04d}",
                "prompt": prompt,
                "choices": choices,
                "answer": right,
                "split": splits[len(rows)],
                "tags": {"lang": language},
            }
    return list(rows.values())
