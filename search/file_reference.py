"""`docs/search_file.md`, from the models of a search file.

`python -m search.file_reference > docs/search_file.md` writes it.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from merge_core.recipe import RECIPE_KEYS
from objectives import SplitConfig, TaskConfig
from objectives.engines.base import ChatSettings, GenerationSettings
from objectives.engines.config import ScriptedConfig, TransformersConfig, VllmConfig
from objectives.fewshot import FewShot
from objectives.item_source import DatasetItems, LmEvalItems
from objectives.scorers import SCORERS
from objectives.scorers.base import EngineScorer, Params, Scorer
from objectives.scorers.lm_eval import Metric
from objectives.tables import resolve
from search.baselines import KINDS
from search.file import (
    FROZEN,
    BudgetEntry,
    ConfirmEntry,
    ModelEntry,
    ObjectiveEntry,
    RacingEntry,
    SamplerEntry,
    SearchFile,
    TrackingEntry,
    WorkersEntry,
)
from search.file_texts import BOUND_PATTERN, DURATION_PATTERN

_HEAD = """\
# The search file

<!-- Made by `python -m search.file_reference > docs/search_file.md`; a test compares them. -->

Every key of a search file: what it takes, its default, and what it is. A file is YAML; a short one:

```yaml
merge_method: ties
base_model: path/of/base
models:
  - {model: path/of/language, parameters: {weight: {low: 0, high: 1}}}
  - {model: path/of/reasoning, parameters: {weight: {low: 0, high: 1}}}
parameters: {density: {low: 0.1, high: 1}, normalize: false}
tasks:
  math_th:
    items: mgsm_th.jsonl
    generate: {max_tokens: 2048}
    scorers: [math, {language: {expect: th}}]
objectives: {reasoning: math_th/math, language: math_th/language}
splits: {dev: 128, confirm: 512, test: 512}
engine: {dtype: bfloat16}
budget: {trials: 120, timeout: 8h}
```

Why one would set them is told elsewhere: [ranges](spaces.md), [methods and their
parameters](methods.md), [tasks, scorers and objectives](objectives.md), [budgets](budgets.md),
[racing](racing.md), [samplers](samplers.md), [workers](cluster.md), [storage](storage.md),
[MLflow](mlflow.md), [vLLM](vllm.md). `mergefront init` writes a commented file, `mergefront check
FILE` reads one and says what is wrong with line and column, `--set racing.level=0.8` changes a key
for one command, and `mergefront schema` prints what is here as JSON Schema, for editors.

- **required**: there is no default. **unset**: nothing, as is `null`; what is done then stands
  beside it. A block whose default is `{}` has the defaults of its table. Unknown keys are errors.
- Durations have days, hours, minutes and seconds: `2d`, `1h30m`, `45m`, `90s`. Bounds have `>=` or
  `<=`.
- **frozen** keys hold for the life of a run; the others may change between two sessions of it
  ([resuming](resume.md#what-may-change)). Models and items are frozen by their contents: their
  folders may move.
"""

SHORT: Mapping[str, tuple[str, str]] = {
    "objectives": (
        "objectives: {right: math_th/math}",
        "objectives: {right: {score: math_th/math}}",
    ),
    "engine": ("engine: {device: cpu}", "engine: {kind: transformers, device: cpu}"),
    "workers": ("workers: [{gpus: 4}, {gpus: 1}]", "workers: {kinds: [{gpus: 4}, {gpus: 1}]}"),
    "sampler": ("sampler: tpe", "sampler: {name: tpe}"),
    "racing": ("racing: false", "racing: {enabled: false}"),
    "scorers": ("scorers: [math]", "scorers: [{math: {}}]"),
    "python": ("scorers: ['python:mine:count']", "scorers: [{python: {function: 'mine:count'}}]"),
    "lm_eval": (
        "scorers: [{lm_eval: {metrics: acc}}]",
        "scorers: [{lm_eval: {metrics: {acc: {}}}}]",
    ),
}
"""Short spellings by section, each with what it is short for."""

_PLACES = {
    **{"ModelEntry": "models", "TaskConfig": "tasks", "ObjectiveEntry": "objectives"},
    **{"SplitConfig": "splits", "ConfirmEntry": "confirm", "BudgetEntry": "budget"},
    **{"TransformersConfig": "engine", "ScriptedConfig": "engine", "VllmConfig": "engine"},
    **{"WorkersEntry": "workers", "SamplerEntry": "sampler", "RacingEntry": "racing"},
    **{"TrackingEntry": "tracking", "FewShot": "fewshot", "ChatSettings": "chat"},
    **{"GenerationSettings": "generate", "DatasetItems": "items", "LmEvalItems": "items"},
}
"""Headings by the names of the models that have a section."""

_BOOLEAN = "`true` or `false`"


def reference() -> str:
    """The page, as Markdown."""
    parts = [
        _HEAD,
        "## All keys\n",
        f"Down to `{RECIPE_KEYS[-1]}` it is the recipe: what is merged, and how.\n",
        _table(SearchFile, run=True),
        *_section(ModelEntry, "models", "spaces.md"),
        *_section(TaskConfig, "tasks", "objectives.md#tasks"),
        *_heading("items", 3, "objectives.md#items"),
        "A path of a JSONL file, or one of two mappings.\n",
        *(part for model in (DatasetItems, LmEvalItems) for part in (_told(model), _table(model))),
        *_section(FewShot, "fewshot", "objectives.md#how-items-are-asked", 3),
        *_section(ChatSettings, "chat", "objectives.md#how-items-are-asked", 3),
        *_section(GenerationSettings, "generate", "objectives.md#how-items-are-asked", 3),
        *_scorers(),
        *_section(ObjectiveEntry, "objectives", "objectives.md#objectives-and-constraints"),
        *_section(SplitConfig, "splits", "objectives.md#splits"),
        *_section(ConfirmEntry, "confirm", "objectives.md#confirmation-and-baselines"),
        *_heading("baselines", 2, "objectives.md#confirmation-and-baselines"),
        f"Any of {_listed(KINDS)}.\n",
        _run("baselines"),
        *_heading("engine", 2),
        _short("engine"),
        *_engine(TransformersConfig),
        *_engine(VllmConfig, "vllm.md"),
        *_heading("scripted", 3),
        _told(ScriptedConfig),
        f"It takes {_listed(set(ScriptedConfig.model_fields) - {'kind'})}.\n",
        _may_change(ScriptedConfig.incidental),
        *_section(BudgetEntry, "budget", "budgets.md"),
        *_section(WorkersEntry, "workers", "cluster.md#workers"),
        *_section(SamplerEntry, "sampler", "samplers.md"),
        *_section(RacingEntry, "racing", "racing.md"),
        *_section(TrackingEntry, "tracking", "mlflow.md"),
    ]
    return "\n".join(part for part in parts if part)


# --- Sections ------------------------------------------------------------------------------------


def _section(model: type[BaseModel], key: str, page: str, level: int = 2) -> Iterator[str]:
    yield from _heading(key, level, page)
    yield _told(model)
    yield _short(key)
    if level == 2:
        yield _run(key)
    yield _table(model)


def _heading(title: str, level: int, page: str = "") -> Iterator[str]:
    yield f"{'#' * level} {title}\n"
    if page:
        yield f"Explained in [{page.partition('#')[0]}]({page}).\n"


def _scorers() -> Iterator[str]:
    yield from _heading("scorers", 2, "objectives.md#scorers")
    yield _short("scorers")
    yield "Of each of them:\n"
    yield _table(Params)
    for name in SCORERS:
        kind: type[Scorer] = resolve(SCORERS, name)
        yield from _heading(name, 3, f"objectives.md#{name}")
        yield _told(kind, whole=False)
        yield _short(name)
        # What the items say, the scorer is told.
        given = {"task", "include"} if issubclass(kind, EngineScorer) else set()
        keys = kind.Params.model_fields.keys() - {"name"} - given
        yield _may_change(kind.operational) if keys else "It takes nothing else.\n"
        yield _table(kind.Params, keys) if keys else ""
        if name == "lm_eval":
            yield _told(Metric)
            yield _table(Metric)


def _engine(model: Any, page: str = "") -> Iterator[str]:
    yield from _heading(model.model_fields["kind"].default, 3, page)
    yield _told(model)
    yield _may_change(model.incidental)
    yield _table(model)


def _told(thing: type[Any], *, whole: bool = True) -> str:
    """What a class says of itself, or its first paragraph."""
    text = inspect.getdoc(thing) or ""
    paragraphs = [" ".join(one.split()) for one in text.split("\n\n")]
    return "\n\n".join(paragraphs if whole else paragraphs[:1]) + "\n"


def _short(key: str) -> str:
    if key not in SHORT:
        return ""
    short, full = SHORT[key]
    return f"`{short}` is short for `{full}`.\n"


def _run(key: str) -> str:
    return f"In a run: {_frozen(key)}.\n"


def _frozen(key: str) -> str:
    if key in FROZEN:
        parts = {"engine": "#engine", "tasks": "#scorers"}
        return f"frozen, but for [some settings]({parts[key]})" if key in parts else "frozen"
    inner = [one.removeprefix(f"{key}.") for one in FROZEN if one.startswith(f"{key}.")]
    return f"may change, but for {_listed(inner)}" if inner else "may change"


def _may_change(keys: Collection[str]) -> str:
    return f"Frozen in a run, but for {_listed(keys)}.\n" if keys else ""


def _listed(names: Collection[str]) -> str:
    names = sorted(names) if isinstance(names, set | frozenset) else names
    return ", ".join(f"`{name}`" for name in names)


# --- Tables --------------------------------------------------------------------------------------


def _table(
    model: type[BaseModel], keys: Collection[str] | None = None, *, run: bool = False
) -> str:
    """One row a key; with `run` also whether a run may change it."""
    types = model.model_json_schema()["properties"]
    head = ["key", "takes", "default", *(["in a run"] if run else []), "is"]
    rows = [head, ["---"] * len(head)]
    for key, field in model.model_fields.items():
        if keys is None or key in keys:
            rows.append([f"`{key}`", _takes(types[key]), _default(field)])
            rows[-1] += [*([_frozen(key)] if run else []), field.description or ""]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], lines[1].replace(" ", ""), *lines[2:]]) + "\n"


def _takes(schema: Mapping[str, Any], s: str = "") -> str:
    """A type of JSON Schema as users say it; `s` where there are many of it."""
    if "$ref" in schema:
        place = _PLACES.get(schema["$ref"].rpartition("/")[2])
        return f"[mapping{s}](#{place})" if place else f"mapping{s}"
    if members := schema.get("anyOf") or schema.get("oneOf"):
        told = [_takes(one, s) for one in members if one.get("type") != "null"]
        return _any(list(dict.fromkeys(told)))
    if "enum" in schema:
        return f"one of {_listed(schema['enum'])}"
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "boolean":
        return _BOOLEAN
    if kind in ("integer", "number"):
        return f"{'whole ' * (kind == 'integer')}number{s}{_within(schema)}"
    if kind == "array":
        inner = schema.get("prefixItems")
        count = f"{len(inner)} " if inner else ""
        return f"list{s} of {count}{_takes(inner[0] if inner else schema['items'], 's')}"
    if kind == "object":
        values = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
        typed = isinstance(values[0], dict)
        return f"mapping{s} of names to {_takes(values[0], 's')}" if typed else f"mapping{s}"
    if kind == "string":
        texts = {
            DURATION_PATTERN: f"duration{s} such as `8h`",
            BOUND_PATTERN: f"bound{s} such as `'>= 0.9'`",
        }
        return texts.get(
            schema.get("pattern", ""), f"{'path' if schema.get('format') == 'path' else 'text'}{s}"
        )
    raise ValueError(f"no words for {schema}")


def _any(told: list[str]) -> str:
    """Alternatives as a list: a, b or c."""
    if told[0] == _BOOLEAN and len(told) > 1:
        told = ["`true`", "`false`", *told[1:]]
    if any("," in one for one in told):
        return "; or ".join(told)
    return " or ".join(filter(None, [", ".join(told[:-1]), told[-1]]))


def _within(schema: Mapping[str, Any]) -> str:
    """The bounds of a number, in the words of our messages."""
    words = {
        **{"minimum": "at least", "exclusiveMinimum": "more than"},
        **{"maximum": "at most", "exclusiveMaximum": "less than"},
    }
    told = [f"{word} {schema[key]:.12g}" for key, word in words.items() if key in schema]
    return f", {' and '.join(told)}" if told else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "unset" if value is None else f"`{yaml_of(value)}`"


def yaml_of(value: Any) -> str:
    """A default as one would write it, on one line; of a model what it sets."""
    if isinstance(value, BaseModel):
        value = {key: getattr(value, key) for key in sorted(value.model_fields_set)}
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {yaml_of(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_of, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_/]+|[0-9]+[smhd]", value)
    return str(value) if plain else json.dumps(value)


if __name__ == "__main__":
    sys.stdout.write(reference())
