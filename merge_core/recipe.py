"""The recipe: what is merged, by which method, with which numbers. The unit of everything else.

YAML in mergekit's shape plus `name` (of an expert), `slack` and `seed`. A search file is a recipe
with ranges where numbers would stand; an exported result is the same file with numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as field_
from pathlib import Path
from typing import Any

import numpy as np

from merge_core.errors import RecipeError
from merge_core.legal import check, stepped
from merge_core.methods import Method, Parameter, get_method
from merge_core.ratio import weighed
from merge_core.references import resolve_reference
from merge_core.values import Filtered, Scalar, Value, parse_value
from merge_core.yaml_io import Document, at, dump_yaml, inside, load_yaml, unknown, write_atomic

DTYPES = ("bfloat16", "float16", "float32")
RECIPE_KEYS = (
    "merge_method",
    "base_model",
    "models",
    "parameters",
    "dtype",
    "tokenizer_source",
    "seed",
)
NAME = re.compile(r"[A-Za-z0-9_-]+")

Setting = Value | bool | str | float


@dataclass(frozen=True)
class Expert:
    """One of the models that are merged.

    Attributes:
        model: hub id, id@revision, or local path; of a LoRA expert base+adapter.
        name: used in parameter names, tables and plots; unique in its recipe.
        parameters: what the recipe gives for this expert alone, by parameter name.
    """

    model: str
    name: str
    parameters: Mapping[str, Value] = field_(default_factory=dict)


@dataclass(frozen=True)
class TensorSettings:
    """A recipe's numbers for one tensor, already rounded as the arithmetic wants them.

    Attributes:
        name: the tensor's name.
        weights: per expert, values of float32.
        densities: per expert, multiples of the density step.
        slacks: per expert, in [0, 1].
        gammas: per expert, in [0, 1]; 0 where the method has none.
        epsilons: per expert, in [0, .5]; 0 where the method has none.
        scale: lambda, a value of float32.
        t: SLERP's, in [0, 1]; 0 where the method has none.
    """

    name: str
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    slacks: tuple[float, ...]
    gammas: tuple[float, ...]
    epsilons: tuple[float, ...]
    scale: float
    t: float


@dataclass(frozen=True)
class Recipe:
    """A merge, fully determined but for the bytes of its sources.

    Attributes:
        merge_method: a name of `merge_core.methods.METHODS`.
        base_model: what the experts are fine-tuned from; None only for methods without base.
        models: the experts; their order is part of the recipe (sums run in it).
        parameters: what the recipe gives for all experts or the whole merge.
        dtype: of the merged checkpoint; None takes the base's.
        tokenizer_source: "base", "union" or "model:<name>".
        seed: of the random drop masks, 0 to 2^64 - 1.
    """

    merge_method: str
    base_model: str | None
    models: tuple[Expert, ...]
    parameters: Mapping[str, Setting] = field_(default_factory=dict)
    dtype: str | None = None
    tokenizer_source: str = "base"
    seed: int = 0

    @property
    def method(self) -> Method:
        """The declaration of `merge_method`."""
        return get_method(self.merge_method)

    @property
    def names(self) -> tuple[str, ...]:
        """The experts' names, in order."""
        return tuple(expert.name for expert in self.models)

    # ---- reading and writing

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe file; relative model paths are relative to the file's folder.

        Raises:
            RecipeError: one line that begins with file:line:column.
        """
        document = load_yaml(path)
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Document) -> Recipe:
        """As `load`, from a document already parsed."""
        try:
            recipe = cls.parse(document.data)
        except RecipeError as error:
            raise RecipeError(document.locate(error)) from None
        return recipe.resolved(document.path.parent)

    @classmethod
    def parse(cls, data: Any) -> Recipe:
        """Build a recipe from plain YAML data.

        Raises:
            RecipeError: with the place in `data` attached.
        """
        if not isinstance(data, Mapping):
            raise RecipeError("a recipe is a mapping with merge_method, base_model and models")
        for key in data:
            if key not in RECIPE_KEYS:
                raise at(RecipeError(unknown("key", key, RECIPE_KEYS)), (key,))
        if "merge_method" not in data:
            raise RecipeError("merge_method is missing")
        data = weighed(data)
        with inside("merge_method"):
            method = get_method(_method_name(data["merge_method"]))
        base = data.get("base_model")
        if base is None and method.needs_base:
            what = "merges differences from" if method.on_differences else "needs"
            raise RecipeError(f"{method.name} {what} base_model, which is missing")
        if base is not None:
            with inside("base_model"):
                base = _text(base, "base_model")
        with inside("models"):
            models = _parse_models(data.get("models"), method)
        with inside("parameters"):
            parameters = _parse_parameters(data.get("parameters"), method, ("global", "model"))
        recipe = cls(
            merge_method=method.name,
            base_model=base,
            models=models,
            parameters=parameters,
            dtype=_parse_dtype(data.get("dtype")),
            tokenizer_source=_parse_tokenizer_source(data.get("tokenizer_source", "base"), models),
            seed=_parse_seed(data.get("seed", 0)),
        )
        check(recipe)
        return recipe

    def plain(self) -> dict[str, Any]:
        """The recipe as YAML data in the order that people write it; `parse` reads it back."""
        data: dict[str, Any] = {"merge_method": self.merge_method}
        if self.base_model is not None:
            data["base_model"] = self.base_model
        data["models"] = [
            {"model": expert.model, "name": expert.name}
            | ({"parameters": _plain_settings(expert.parameters)} if expert.parameters else {})
            for expert in self.models
        ]
        if self.parameters:
            data["parameters"] = _plain_settings(self.parameters)
        if self.dtype is not None:
            data["dtype"] = self.dtype
        data["tokenizer_source"] = self.tokenizer_source
        if self.method.random:
            data["seed"] = self.seed
        return data

    def save(self, path: Path, *, header: str = "") -> None:
        """Write the recipe as YAML, atomically. `header` stands before it (comment lines)."""
        write_atomic(path, dump_yaml(self.plain(), header=header))

    def resolved(self, folder: Path) -> Recipe:
        """The same recipe with relative local paths made absolute from `folder`.

        A reference that names nothing on this disk is left alone: it is a hub id, or an error
        that opening it reports. The parts of base+adapter are resolved one by one.

        Raises:
            CheckpointError: base+adapter can be read in more than one way.
        """

        def resolve(model: str) -> str:
            return resolve_reference(model, folder)

        return Recipe(
            **{
                **self.__dict__,
                "base_model": None if self.base_model is None else resolve(self.base_model),
                "models": tuple(
                    Expert(resolve(expert.model), expert.name, expert.parameters)
                    for expert in self.models
                ),
            }
        )

    # ---- reading its numbers

    def setting(self, parameter: Parameter, expert: Expert | None = None) -> Setting:
        """What holds for `parameter`: the expert's own, else the global one, else the default.

        Filters that match nothing fall through to the wider scope, so that the result has a
        number for every tensor.
        """
        scopes: list[Setting] = []
        if expert is not None and parameter.name in expert.parameters:
            scopes.append(expert.parameters[parameter.name])
        if parameter.name in self.parameters:
            scopes.append(self.parameters[parameter.name])
        if parameter.default is not None:
            default = parameter.default
            if parameter.kind == "number":
                scopes.append(Scalar(float(default)))
            else:
                # As `parse_setting` reads it: a default spelled out is the same recipe.
                scopes.append(float(default) if parameter.kind == "constant" else default)
        entries: list[tuple[str | None, Value]] = []
        for setting in scopes:
            if not isinstance(setting, Filtered):
                if not entries:
                    return setting
                assert isinstance(setting, Value)
                return Filtered((*entries, (None, setting)))
            entries.extend(setting.entries)
            if setting.entries[-1][0] is None:
                return Filtered(tuple(entries))
        whose = f" of '{expert.name}'" if expert else ""
        raise RecipeError(
            f"{parameter.name}{whose} is missing"
            if not entries
            else f"{parameter.name}{whose}: the last filter entry needs to match all tensors"
        )

    def flag(self, name: str) -> bool | str | float:
        """The value of a global flag, choice or constant."""
        value = self.setting(self.method.parameter(name))
        assert not isinstance(value, Value), f"{name} is a number per tensor"
        return value

    @property
    def normalizes(self) -> bool:
        """Whether sums are divided by the weights of what is kept."""
        return "normalize" in self.method.by_name and bool(self.flag("normalize"))

    @property
    def pair(self) -> tuple[int, int]:
        """Where base and the other model stand among the models of an interpolating method."""
        assert self.method.interpolates, f"{self.merge_method} has no pair"
        first = 0 if self.models[0].model == self.base_model else 1
        return first, 1 - first

    def settings_for(self, tensor: str, depth: float) -> TensorSettings:
        """The numbers for one tensor at `depth` (0 first layer, 1 last; see merge_core.values)."""

        def number(name: str, expert: Expert | None, absent: float) -> float:
            parameter = self.method.by_name.get(name)
            if parameter is None:
                return absent
            value = self.setting(parameter, expert)
            assert isinstance(value, Value)
            result = value.at(tensor, depth)
            assert result is not None, "setting() leaves no gap"
            return result

        step = float(self.flag("density_step")) if "density_step" in self.method.by_name else 0.0
        return TensorSettings(
            name=tensor,
            weights=tuple(float(np.float32(number("weight", e, 1.0))) for e in self.models),
            densities=tuple(stepped(number("density", e, 1.0), step) for e in self.models),
            slacks=tuple(number("slack", e, 0.0) for e in self.models),
            gammas=tuple(number("gamma", e, 0.0) for e in self.models),
            epsilons=tuple(number("epsilon", e, 0.0) for e in self.models),
            scale=float(np.float32(number("lambda", None, 1.0))),
            t=number("t", None, 0.0),
        )

    # ---- identity

    def fingerprint(self, sources: Sequence[str] | None = None) -> str:
        """16 hex digits that name this merge, whatever its key order, spelling or defaults.

        Args:
            sources: what identifies base (if any) and each expert, in order: digests of their
                contents. Without it the references stand for them.
        """
        references = [self.base_model] if self.base_model is not None else []
        references += [expert.model for expert in self.models]
        identities = list(sources) if sources is not None else references
        assert len(identities) == len(references), "one identity a source"
        method = self.method
        tokenizer: str | int = self.tokenizer_source
        if self.tokenizer_source.startswith("model:"):
            tokenizer = self.names.index(self.tokenizer_source.removeprefix("model:"))
        canonical = {
            "method": method.name,
            "sources": identities,
            "base": self.base_model is not None,
            "models": [
                {
                    parameter.name: _canonical(self.setting(parameter, expert))
                    for parameter in method.parameters
                    if parameter.scope == "model"
                }
                for expert in self.models
            ],
            "global": {
                parameter.name: _canonical(self.setting(parameter))
                for parameter in method.parameters
                if parameter.scope == "global"
            },
            "dtype": self.dtype,
            "tokenizer": tokenizer,
            "seed": self.seed if method.random else None,
        }
        text = json.dumps(canonical, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _parse_models(data: Any, method: Method) -> tuple[Expert, ...]:
    if not isinstance(data, list) or not data:
        raise RecipeError("models is a list of at least one {model, name, parameters}")
    if len(data) > method.max_models:
        raise RecipeError(f"{len(data)} models; {method.name} merges at most {method.max_models}")
    experts: list[Expert] = []
    for index, item in enumerate(data):
        with inside(index):
            if not isinstance(item, Mapping):
                raise RecipeError("a model is a mapping with the key model")
            for key in item:
                if key not in ("model", "name", "parameters"):
                    raise at(
                        RecipeError(unknown("key", key, ("model", "name", "parameters"))), (key,)
                    )
            with inside("model"):
                model = _text(item.get("model"), "model")
            with inside("name"):
                name = expert_name(item.get("name"), model, [e.name for e in experts])
            with inside("parameters"):
                parameters = _parse_parameters(item.get("parameters"), method, ("model",))
            own = {key: value for key, value in parameters.items() if isinstance(value, Value)}
            assert len(own) == len(parameters), "parameters of experts are numbers"
            experts.append(Expert(model, name, own))
    if len(experts) < method.min_models:
        raise RecipeError(f"{method.name} merges at least {method.min_models} models")
    return tuple(experts)


def expert_name(given: Any, model: str, taken: Sequence[str]) -> str:
    """The given name if legal and free; without one, the last part of the model's reference.

    Of base+adapter it is the adapter's.
    """
    if given is not None:
        if not isinstance(given, str) or not NAME.fullmatch(given):
            raise RecipeError(f"name {given!r} may hold letters, digits, - and _ only")
        if given in taken:
            raise RecipeError(f"two models are named '{given}'")
        if given == "base":
            raise RecipeError("'base' names the base model; call the expert something else")
        return given
    own = model.rstrip("+").rsplit("+", 1)[-1]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", own.split("@")[0].rstrip("/").split("/")[-1])
    stem = stem.strip("-") or "expert"
    stem = f"{stem}-expert" if stem == "base" else stem
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name


def _parse_parameters(data: Any, method: Method, scopes: tuple[str, ...]) -> dict[str, Setting]:
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise RecipeError("parameters is a mapping from names to values")
    settings: dict[str, Setting] = {}
    for name, raw in data.items():
        with inside(name):
            parameter = method.parameter(name)
            if parameter.scope not in scopes:
                raise RecipeError(
                    f"{name} holds for the whole merge: move it to the top parameters"
                )
            settings[name] = parse_setting(parameter, raw)
    return settings


def parse_setting(parameter: Parameter, raw: Any) -> Setting:
    """Read the YAML data of one parameter, checked against its declaration."""
    if parameter.kind != "number":
        parameter.check(raw)
        return float(raw) if parameter.kind == "constant" else raw
    value = parse_value(raw)
    for number in value.numbers():
        parameter.check(number)
    return value


def _parse_dtype(dtype: Any) -> str | None:
    if dtype is not None and dtype not in DTYPES:
        raise at(RecipeError(unknown("dtype", dtype, DTYPES)), ("dtype",))
    return None if dtype is None else str(dtype)


def _parse_tokenizer_source(source: Any, models: Sequence[Expert]) -> str:
    with inside("tokenizer_source"):
        if source in ("base", "union"):
            return str(source)
        names = [expert.name for expert in models]
        if isinstance(source, str) and source.startswith("model:"):
            if source.removeprefix("model:") not in names:
                raise RecipeError(unknown("expert", source.removeprefix("model:"), names))
            return source
        raise RecipeError(f"tokenizer_source is base, union or model:<name>, not {source!r}")


def _parse_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise at(RecipeError(f"seed {seed!r} is not a whole number from 0 to 2^64 - 1"), ("seed",))
    return seed


def _method_name(data: Any) -> str:
    if not isinstance(data, str):
        raise RecipeError(f"merge_method is the name of a method, not {data!r}")
    return data


def _text(data: Any, what: str) -> str:
    if not isinstance(data, str) or not data.strip():
        raise RecipeError(f"{what} is a hub id or a path, not {data!r}")
    return data


def _plain_settings(settings: Mapping[str, Setting]) -> dict[str, Any]:
    return {
        name: setting.plain() if isinstance(setting, Value) else setting
        for name, setting in settings.items()
    }


def _canonical(setting: Setting) -> Any:
    return setting.plain() if isinstance(setting, Value) else setting
