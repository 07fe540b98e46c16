"""Tasks of lm-evaluation-harness: found, opened and read. Imports the harness: import this at use.

Its tasks run code of their authors (metrics, templates): name only tasks that you trust.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from lm_eval.api.instance import Instance
from lm_eval.api.registry import AGGREGATION_REGISTRY
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager, _yaml_loader

from objectives.engines.base import ChatSettings
from objectives.errors import ScorerError
from objectives.hub import no_bars, quiet_hub
from objectives.scorers.lm_eval_model import PLAIN, as_context
from objectives.tables import did_you_mean


@dataclass(frozen=True)
class Opened:
    """A task with its documents, ready to be asked."""

    name: str
    task: Task
    chat: ChatSettings

    @cached_property
    def requests(self) -> dict[int, list[Instance]]:
        """The requests of each document, by its number.

        All are made at once, as the harness does in a whole run: its random few-shot examples
        depend on the documents before, and a document is to be asked the same whichever others are
        asked with it.
        """
        template = self.chat.template
        try:
            with quiet():
                self.task.build_all_requests(
                    apply_chat_template=template,
                    fewshot_as_multiturn=template,
                    chat_template=as_context if template else None,
                    tokenizer_name="engine" if template else "",
                )
        except Exception as error:
            raise ScorerError(
                f"lm_eval task {self.name}: its prompts cannot be made: {_told(error)}; mend it"
            ) from error
        found: dict[int, list[Instance]] = {}
        for request in self.task.instances:
            found.setdefault(request.doc_id, []).append(request)
        return found

    @property
    def aggregations(self) -> dict[str, str]:
        """The harness's name for how each metric becomes one number; "" where it has none."""
        names = {function: name for name, function in AGGREGATION_REGISTRY.items()}
        return {key: names.get(one, "") for key, one in self.task.aggregation().items()}

    @property
    def filters(self) -> list[str]:
        """Names of the ways in which answers are read."""
        return [one.name for one in self.task._filters]


@lru_cache(maxsize=8)
def opened(
    name: str, include: Path | None, fewshot: int | None, chat_json: str | None = None
) -> Opened:
    """A task by name: of the folder `include` where one is given, else of the harness itself.

    `chat_json` is a `ChatSettings` as JSON, which can be hashed; None is the harness's own way.

    Raises:
        ScorerError: there is no such task, its data cannot be loaded, or it cannot be run here.
    """
    chat = PLAIN if chat_json is None else ChatSettings.model_validate_json(chat_json)
    manager = _of_harness() if include is None else _of_folder(include)
    if name not in manager.all_tasks:
        raise ScorerError(_no_task(name, include, manager.all_subtasks))
    if name not in manager.all_subtasks:
        raise ScorerError(f"lm_eval task {name!r} is a group of tasks; name one of them")
    try:
        # A folder's own tasks mostly have local data: their load needs no look at the network.
        with quiet_hub(local=include is not None), quiet():
            task = manager.load([name])["tasks"][name]
            documents = len(task.eval_docs)
    except (Exception, SystemExit) as error:
        entry = manager.task_index[name]
        raise ScorerError(
            f"lm_eval task {name}: {_why_closed(error, entry.yaml_path, entry.cfg or {})}"
        ) from error
    if not documents:
        raise ScorerError(f"lm_eval task {name}: it has no documents")
    if getattr(task, "UNSAFE_CODE", False):
        raise ScorerError(
            f"lm_eval task {name}: it runs what models write; use scorer `code` and its sandbox"
        )
    if getattr(task, "MULTIMODAL", False):
        raise ScorerError(f"lm_eval task {name}: it has images or sounds; engines read text")
    _set_fewshot(name, task, fewshot)
    return Opened(name, task, chat)


def documents(name: str, include: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The documents as rows of an item file; their ids are their numbers.

    A copy of an earlier one is left out: it could stand in two splits.

    Raises:
        ScorerError: as `opened`.
    """
    task = opened(name, include, None).task
    seen = set()
    for number, doc in enumerate(task.eval_docs):
        try:
            row = _row(task, doc)
        except Exception as error:
            raise ScorerError(
                f"lm_eval task {name}: document {number} cannot be read: {_told(error)}; mend"
                " doc_to_text, doc_to_target or doc_to_choice"
            ) from error
        content = repr(row)
        if content not in seen:
            seen.add(content)
            yield f"lm_eval task {name}:{number}", {"id": str(number), **row}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No loading bars or notes: the search's own display owns the terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with no_bars(), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _no_task(name: str, include: Path | None, known: Sequence[str]) -> str:
    if include is None:
        near = did_you_mean(name, known)
        hint = near if near.startswith("did") else "`lm-eval ls tasks` shows them"
        return f"unknown lm_eval task {name!r}; {hint}"
    # The harness passes over files that it cannot read.
    for file in sorted(include.rglob("*.yaml")):
        try:
            _yaml_loader.load_yaml(file, resolve_func=False)
        except (OSError, ValueError, _yaml_loader.yaml.YAMLError) as error:
            return f"no lm_eval task {name!r} in {include}: {file} cannot be read: {_told(error)}"
    hint = did_you_mean(name, known) if known else "it has none"
    return f"no lm_eval task {name!r} in {include}; {hint}"


def _why_closed(error: BaseException, file: Path | None, config: Mapping[str, Any]) -> str:
    """What an error means that came when a task was opened, and what to do about it."""
    path = str(config.get("dataset_path", ""))
    here = path in _PACKAGED_DATASETS_MODULES or Path(path).exists()
    where = f"dataset_kwargs in {file}" if here else f"{file}"
    if isinstance(error, ImportError):
        return f"{_told(error)}; install what is missing, or mend {file}"
    if isinstance(error, OSError) and not here:
        return (
            f"its data cannot be loaded: {_told(error)}; download the data set where there is a"
            " network"
        )
    if isinstance(error, OSError | datasets.exceptions.DatasetsError):
        return f"its data cannot be loaded: {_told(error)}; mend {where}, or the data"
    if isinstance(error, KeyError):
        return f"cannot be opened: there is no {error}; mend {file}"
    return f"cannot be opened: {_told(error)}; mend {file}"


def _told(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _of_folder(include: Path) -> TaskManager:
    if not include.is_dir():
        raise ScorerError(f"{include}: no such folder of lm_eval tasks; mend `include`")
    with quiet():
        return TaskManager(include_path=str(include), include_defaults=False)


@lru_cache
def _of_harness() -> TaskManager:
    """Its own tasks, whose index takes ten seconds."""
    with quiet():
        return TaskManager()


def _set_fewshot(name: str, task: Task, count: int | None) -> None:
    """As `lm_eval.simple_evaluate` does, but for refusals where that keeps quiet."""
    own = task.get_config("num_fewshot")
    if count is not None and own == 0 and count > 0:
        raise ScorerError(f"lm_eval task {name}: it says num_fewshot: 0; drop `fewshot`")
    if count is not None or own is None:
        task.set_config(key="num_fewshot", value=count or 0)
    if task.get_config("num_fewshot") > 0 and isinstance(task, ConfigurableTask):
        _check_examples(name, task, "drop `fewshot`" if own is None else "give `fewshot: 0`")
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _check_examples(name: str, task: ConfigurableTask, otherwise: str) -> None:
    """Solved examples must not be the documents that are asked: the asked one may be among them."""
    config = task.config
    evaluated = config.test_split or config.validation_split
    split = task.fewshot_cfg.split
    if split is None and not (config.fewshot_config and task.fewshot_cfg.samples is not None):
        split = config.training_split or config.validation_split or config.test_split
    examples = list(task.sampler.df) if hasattr(task, "sampler") else []
    if split == evaluated:
        asked = {repr(doc) for doc in task.eval_docs}  # parts of one split may serve both
        if any(repr(doc) in asked for doc in examples):
            raise ScorerError(
                f"lm_eval task {name}: it has no split to take examples from but the one that is"
                f" evaluated ({evaluated}); {otherwise}, or give it another fewshot_split"
            )
    count = task.get_config("num_fewshot")
    if count > len(examples):
        raise ScorerError(
            f"lm_eval task {name}: {count} examples are asked for, split {split} has"
            f" {len(examples)}; lower `fewshot`"
        )


def _row(task: Task, doc: Any) -> dict[str, Any]:
    text: Any = task.doc_to_text(doc)
    target: Any = task.doc_to_target(doc)
    choices: list[str] | None = None
    if getattr(task.config, "doc_to_choice", None) is not None:
        choices = [str(choice) for choice in task.doc_to_choice(doc)]
        if isinstance(target, int) and not isinstance(target, bool) and target < len(choices):
            target = choices[target]
        if isinstance(text, int):  # one choice after each of several contexts
            text, target, choices = "\n".join(choices), choices[text], None
    answer = target if isinstance(target, str) else str(target)
    if not str(text).strip():
        whole = answer if answer.strip() else repr(doc)
        return {"text": whole}
    row: dict[str, Any] = {"prompt": str(text)}
    if answer.strip():
        row["answer"] = answer
    if choices and len(set(choices)) == len(choices) > 1 and all(map(str.strip, choices)):
        row["choices"] = choices
    return row
