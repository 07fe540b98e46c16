"""Whether a search's model can be asked what its tasks ask, known before any trial.

Items are frozen once a run has begun: one of the last split that cannot be asked would make the
whole search worthless on its last day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from merge_core import MergePlan
from objectives import EngineError, Prompt, Task
from objectives.engines import PROMPT_CHECKS, prompt_check
from objectives.splits import SPLITS, Split
from search.config import Search
from search.worker import skeleton


def check_prompts(
    search: Search, plan: MergePlan, tasks: Mapping[str, Task], splits: Iterable[Split] = SPLITS
) -> tuple[str, ...]:
    """Encode every prompt and continuation that will be asked, as the engine will.

    What a scorer asks the engine in its own way (lm_eval) is not known here.

    Args:
        search: the file.
        plan: of a merge that has the tokenizer and chat template of all.
        tasks: with their items.
        splits: those that will be asked.

    Returns:
        What may surprise but stops nothing, in lines.

    Raises:
        ConfigError: an item cannot be asked; begins with the task's place in the file.
        EngineError: the tokenizer cannot be opened.
    """
    if search.engine.kind not in PROMPT_CHECKS:
        return ()
    notes = []
    asked = list(splits)
    with skeleton(plan) as folder:
        check = prompt_check(search.engine, folder)
        for name, task in tasks.items():
            items = [i for split in asked if task.asked(split) for i in task.items(split)]
            chat, settings = task.config.chat, task.config.generate
            # However many samples: they have one prompt.
            prompts = [Prompt(i.id, i.messages, 0, chat) for i in items if task.generates]
            try:
                short = check.prompts(prompts, settings)
                for scorer in task.scorers:
                    if scorer.reads == "likelihoods":
                        check.continuations(
                            [c for i in items for c in scorer.continuations(i, chat)]
                        )
            except EngineError as error:
                raise search.fault(("tasks", name), f"task {name}: {error}") from None
            if short:
                notes.append(
                    f"task {name}: {short} of {len(prompts)} prompts leave less than max_tokens"
                    f" {settings.max_tokens} of the model's positions: long answers to them are cut"
                )
    return tuple(notes)
