"""Any task of lm-evaluation-harness, scored by the harness, with the live engine as its model."""

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from objectives.engines.base import ChatSettings, Engine, Generation
from objectives.errors import ScorerError, TaskError
from objectives.item import Item, ItemScore, detail
from objectives.item_source import ItemsConfig, LmEvalItems
from objectives.scorers import base
from objectives.scorers.base import Direction, EngineScorer, Measure, Sample
from objectives.tables import did_you_mean

CEILING = 1e300
"""The most that a perplexity can be; some are of whole continuations, and large for good models."""

_PERPLEXITY = (1.0, math.inf)

# By metric: how the harness makes one number of many items (its own name for that), and what an
# item's is. Metrics of a whole corpus (BLEU, chrF, TER, MCC, its own F1) have no value per item.
_KNOWN: dict[str, tuple[str, Measure]] = {
    "acc": ("mean", Measure(binary=True)),
    "acc_bytes": ("mean", Measure(binary=True)),
    "acc_mutual_info": ("mean", Measure(binary=True)),
    "acc_norm": ("mean", Measure(binary=True)),
    "bits_per_byte": ("bits_per_byte", Measure((0.0, math.inf), "minimize", weights="bytes")),
    "brier_score": ("brier_score", Measure((0.0, 2.0), "minimize")),
    "byte_perplexity": (
        "weighted_perplexity",
        Measure(_PERPLEXITY, "minimize", aggregation="geometric", weights="bytes"),
    ),
    "exact_match": ("mean", Measure(binary=True)),
    "f1": ("mean", Measure()),
    "perplexity": ("perplexity", Measure(_PERPLEXITY, "minimize", aggregation="geometric")),
    "word_perplexity": (
        "weighted_perplexity",
        Measure(_PERPLEXITY, "minimize", aggregation="geometric", weights="words"),
    ),
}
_ALIKE = {"nanmean": "mean"}
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}
"""Folders that the harness does not look into."""

_INSTALL = "needs lm-evaluation-harness; pip install mergefront[lm-eval]"


class Metric(BaseModel):
    """What a metric is like; known ones need none of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    range: tuple[float, float] | None = Field(None, description="least and most for one item")
    direction: Direction | None = Field(None, description="what is better")
    binary: bool | None = Field(None, description="always 0 or 1")


def _as_mapping(metrics: Any) -> Any:
    if isinstance(metrics, str):
        return {metrics: {}}
    if isinstance(metrics, list | tuple) and all(isinstance(key, str) for key in metrics):
        return {key: {} for key in metrics}
    if isinstance(metrics, Mapping):
        return {key: {} if value is None else value for key, value in metrics.items()}
    return metrics


def _declared(metrics: dict[str, Metric]) -> dict[str, Metric]:
    for key, metric in metrics.items():
        if key not in _KNOWN and (metric.range is None or metric.direction is None):
            raise ValueError(
                f"{key!r} is not among {', '.join(_KNOWN)}: say what it is like, as in"
                f" {{{key}: {{range: [0, 1], direction: maximize}}}}"
            )
        if metric.range is not None and not metric.range[0] < metric.range[1]:
            raise ValueError(f"{key}: a range is [least, most]")
    return metrics


class LmEval(EngineScorer):
    """The first of `metrics` is the score, `lm_eval.<metric>` are the others.

    Numbers are the harness's own for one document; a task's number is their mean, for perplexities
    the weighted mean that the harness takes. Documents are those that it evaluates: a task's test
    split, or its validation split where it has none.

    A model that gives no numbers gets the worst score: the harness would take its first choice.
    """

    name = "lm_eval"
    params: "Params"

    class Params(base.Params):
        """What to evaluate, and how to ask."""

        metrics: Annotated[
            dict[str, Metric],
            BeforeValidator(
                _as_mapping, json_schema_input_type=str | list[str] | dict[str, Metric | None]
            ),
            AfterValidator(_declared),
        ] = Field(
            min_length=1,
            description="names, such as `[acc, acc_norm]`, the first of which is the score; or by"
            " name what they are like",
        )
        filter: str | None = Field(
            None, description="how answers are read, where a task has ways; unset: its first"
        )
        fewshot: int | None = Field(
            None, ge=0, le=64, description="solved examples; unset: the task's own number"
        )
        chat: ChatSettings = Field(
            ChatSettings(template=False),
            description="by default prompts are plain texts, the harness's own way; the task's"
            " `chat` and `generate` do not count here",
        )
        drop_thinking: bool = Field(
            False, description="score what follows the thinking, which may be as long as it is"
        )
        task: str | None = Field(None, description="the items' own, not given here")
        include: Path | None = Field(None, description="the items' own, not given here")

    def bound(self, items: ItemsConfig, root: Path) -> Self:
        """Told the task of which the items are the documents."""
        if not isinstance(items, LmEvalItems):
            raise ScorerError(
                f"scorer {self.name}: its items are documents of a task; write items:"
                " {lm_eval: NAME}"
            )
        if self.params.task is not None or self.params.include is not None:
            raise ScorerError(
                f"scorer {self.name}: task and include are the items'; write items:"
                " {lm_eval: NAME, include: FOLDER}"
            )
        include = None
        if items.include is not None:
            include = (root / Path(items.include).expanduser()).resolve()
        return self.with_params(task=items.lm_eval, include=include)

    def files(self) -> tuple[Path, ...]:
        """The task files of the folder and their Python; data are known by their documents."""
        include = self.params.include
        if include is None:
            return ()
        found = (file for kind in ("*.yaml", "*.py") for file in include.rglob(kind))
        below = ((file, file.relative_to(include).parts) for file in found if file.is_file())
        return tuple(sorted(file for file, parts in below if not _IGNORED.intersection(parts)))

    def measures(self) -> dict[str, Measure]:
        """The metrics, and the counts that some are weighted by."""
        found: dict[str, Measure] = {}
        for key, measure in self._measures().items():
            if measure.weights is not None:
                found[measure.weights] = Measure((0.0, math.inf))
            found[key] = measure
        return found

    def check(self) -> None:
        """Open the task with its data, and look the metrics up."""
        if not _installed():
            raise ScorerError(f"scorer {self.name}: {_INSTALL}")
        if self.params.task is not None:
            self._opened()

    def score(self, sample: Sample) -> float:
        """The worst: one answer's text is not what it reads."""
        return _worst(self.measures()[self.name])

    def run(self, engine: Engine, items: Sequence[Item]) -> list[ItemScore]:
        """Ask the documents that the items are, all at once, and let the task score them."""
        from objectives.scorers.lm_eval_model import EngineLM

        task = self._opened()
        lm = EngineLM(engine, self.params.chat, drop_thinking=self.params.drop_thinking)
        asked = [task.requests[self._number(item)] for item in items]
        chosen = list({id(one): one for requests in asked for one in requests}.values())
        if not chosen:
            return []
        answers = self._answered(lm, chosen)
        task.task._instances = chosen
        task.task.apply_filters()
        way = self.params.filter or task.filters[0]
        with np.errstate(all="ignore"):  # a broken model's numbers are seen to below
            return [
                self._item_score(task.task, item, requests, answers, way)
                for item, requests in zip(items, asked, strict=True)
            ]

    def _answered(self, lm: Any, requests: Sequence[Any]) -> dict[int, list[Generation]]:
        """Put the engine's responses into the requests; the generations of each, by id."""
        generated: dict[int, list[Generation]] = {}
        for request in requests:
            request.resps, request.filtered_resps = [], {}
        for kind in sorted({request.request_type for request in requests}):
            asked = [
                request
                for request in requests
                if request.request_type == kind
                for _ in range(request.repeats or 1)
            ]
            if kind == "generate_until":
                answers = lm.generations(asked)
                responses = [answer.text for answer in answers]
                for request, answer in zip(asked, answers, strict=True):
                    generated.setdefault(id(request), []).append(answer)
            else:
                responses = getattr(lm, kind)(asked)
            for request, response in zip(asked, responses, strict=True):
                request.resps.append(response)
        return generated

    def _item_score(
        self,
        task: Any,
        item: Item,
        requests: Sequence[Any],
        answers: Mapping[int, Sequence[Generation]],
        way: str,
    ) -> ItemScore:
        ordered = sorted(requests, key=lambda request: request.idx)
        try:
            said = task.process_results(
                ordered[0].doc, [request.filtered_resps[way] for request in ordered]
            )
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ScorerError(
                f"lm_eval task {self.params.task}: scoring document {item.id} failed: {what}"
            ) from error
        broken = any(not math.isfinite(x) for one in ordered for x in _logprobs(one))
        scores: dict[str, float] = {}
        for (metric, _), (key, measure) in zip(
            self.params.metrics.items(), self._measures().items(), strict=True
        ):
            if metric not in said:
                raise ScorerError(
                    f"lm_eval task {self.params.task}: document {item.id} has no {metric!r};"
                    f" {did_you_mean(metric, said)}"
                )
            value, weight = _value(metric, said[metric], measure, broken)
            scores[key] = self._checked(value, metric, measure, item)
            if measure.weights is not None:
                scores[measure.weights] = weight
        generated = [answer for one in ordered for answer in answers.get(id(one), ())]
        if generated:
            first = generated[0]
            tokens = sum(answer.tokens for answer in generated)
            read = ordered[0].filtered_resps[way]
            details = {f"{self.name}.answer": detail(read)} if isinstance(read, str) else {}
            return ItemScore(item.id, scores, first.text, tokens, first.finish_reason, (), details)
        return ItemScore(item.id, scores, _likeliest(ordered), 0, "stop")

    def _checked(self, value: float, metric: str, measure: Measure, item: Item) -> float:
        low, high = measure.range
        if not low <= value <= high or (measure.binary and value not in (0.0, 1.0)):
            declared = "0 or 1" if measure.binary else f"within [{low:g}, {high:g}]"
            raise ScorerError(
                f"lm_eval task {self.params.task}: {metric} of document {item.id} is {value:g}, not"
                f" {declared}; say so: {{metrics: {{{metric}: {{range: [least, most],"
                " direction: maximize, binary: false}}}"
            )
        return value

    def _measures(self) -> dict[str, Measure]:
        """Of each metric in its order, by key; their weights are named by key as well."""
        found: dict[str, Measure] = {}
        for metric, given in self.params.metrics.items():
            known = _KNOWN.get(metric, ("mean", Measure()))[1]
            measure = Measure(
                given.range or known.range,
                given.direction or known.direction,
                known.binary if given.binary is None else given.binary,
                aggregation=known.aggregation,
                weights=None if known.weights is None else f"{self.name}.{known.weights}",
            )
            found[f"{self.name}.{metric}" if found else self.name] = measure
        return found

    def _opened(self) -> Any:
        """The task, with metrics and filter that it has."""
        if not _installed():
            raise ScorerError(f"scorer {self.name}: {_INSTALL}")
        from objectives.scorers.lm_eval_tasks import opened

        given = self.params
        if given.task is None:
            raise ScorerError(f"scorer {self.name}: no task; write items: {{lm_eval: NAME}}")
        chat = given.chat.model_dump_json() if given.chat.template else None
        task = opened(given.task, given.include, given.fewshot, chat)
        if given.filter is not None and given.filter not in task.filters:
            raise ScorerError(
                f"lm_eval task {given.task}: no filter {given.filter!r};"
                f" {did_you_mean(given.filter, task.filters)}"
            )
        found = task.aggregations
        for metric in given.metrics:
            if metric not in found:
                raise ScorerError(
                    f"lm_eval task {given.task}: no metric {metric!r};"
                    f" {did_you_mean(metric, found)}"
                )
            how = _ALIKE.get(found[metric], found[metric])
            if how != _KNOWN.get(metric, ("mean",))[0]:
                raise ScorerError(
                    f"lm_eval task {given.task}: {metric} is one number of the whole corpus"
                    f" ({how or 'a function of its own'}), and items have none; name another"
                )
            better = task.task.higher_is_better().get(metric)
            mine = given.metrics[metric].direction
            if mine is not None and better is not None and better != (mine == "maximize"):
                raise ScorerError(
                    f"lm_eval task {given.task}: {metric} is to be"
                    f" {'maximized' if better else 'minimized'}; mend its direction"
                )
        return task

    def _number(self, item: Item) -> int:
        if not item.id.isdecimal():
            raise ScorerError(f"item {item.id!r} is no document of lm_eval task {self.params.task}")
        return int(item.id)


def documents(task: str, include: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The documents of a task as rows of an item file, each with where it stands.

    Raises:
        TaskError: the harness is not installed, or the task cannot be opened.
    """
    if not _installed():
        raise TaskError(f"lm_eval task {task}: {_INSTALL}")
    from objectives.scorers.lm_eval_tasks import documents as of_task

    try:
        yield from of_task(task, None if include is None else include.resolve())
    except ScorerError as error:
        raise TaskError(str(error)) from None


def _installed() -> bool:
    return importlib.util.find_spec("lm_eval") is not None


def _value(metric: str, said: Any, measure: Measure, broken: bool) -> tuple[float, float]:
    """What one document's metric says as a number, and its weight (1 where it has none)."""
    how = _KNOWN.get(metric, ("mean",))[0]
    if how in ("weighted_perplexity", "bits_per_byte"):
        logprob, count = said
        nats = _nats(-logprob / count)
        value = nats / math.log(2) if how == "bits_per_byte" else math.exp(nats)
        return value, float(count)
    if how == "perplexity":
        return math.exp(_nats(-said)), 1.0
    if broken:
        return _worst(measure), 1.0
    if how == "brier_score":
        gold, shares = said
        return math.fsum((p - (at == gold)) ** 2 for at, p in enumerate(shares)), 1.0
    return float(said), 1.0


def _nats(value: float) -> float:
    most = math.log(CEILING)
    return most if math.isnan(value) else min(most, max(0.0, value))


def _worst(measure: Measure) -> float:
    low, high = measure.range
    return low if measure.direction == "maximize" else min(high, CEILING)


def _logprobs(request: Any) -> list[float]:
    if request.request_type == "generate_until":
        return []
    return [one[0] if isinstance(one, tuple) else one for one in request.resps]


def _likeliest(requests: Sequence[Any]) -> str:
    """The continuation that the model chose, of several."""
    if len(requests) < 2:
        return ""
    return str(max(requests, key=lambda request: _logprobs(request)[0]).args[1])
