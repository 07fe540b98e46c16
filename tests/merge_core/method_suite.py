"""The conformance suite of merge methods: every entry of METHODS inherits all of it.

The executor is compared bit for bit with `merge_core.reference` on the cases where merges go
wrong: empty tensors, tensors of one element and of no axis, rows of one, heavy ties, zeros,
negative zeros, subnormals, density 0 and 1, negative and zero weights, gradients, filters, and one
to eight experts.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from merge_core import MergePlan, Recipe, Sources, reference
from merge_core.methods import Method, get_method

NAMES = (
    "model.embed_tokens.weight",
    "model.layers.0.mlp.weight",
    "model.layers.1.mlp.weight",
    "model.norm.weight",
)
DEPTHS = {NAMES[0]: 0.0, NAMES[1]: 0.0, NAMES[2]: 1.0, NAMES[3]: 1.0}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def bits(tensor: torch.Tensor) -> np.ndarray:
    # A fresh one-dimensional copy: safetensors' empty tensors have strides that cannot be viewed.
    return (
        tensor.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy()
        if tensor.numel()
        else np.zeros(0, np.uint8)
    )


@st.composite
def tensors(draw: st.DrawFn, dtype: torch.dtype, shapes: list[tuple[int, ...]]):
    """Values that collide: few distinct magnitudes, zeros of both signs, subnormals."""
    seed = draw(st.integers(0, 2**31))
    kind = draw(st.sampled_from(["ties", "gauss", "subnormal", "mixed"]))
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in zip(NAMES, shapes, strict=True):
        size = int(np.prod(shape))
        values = {
            "ties": rng.integers(-2, 3, size) * 0.25,
            "gauss": rng.normal(0, 0.02, size),
            "subnormal": rng.integers(-3, 4, size) * 1e-40,
            "mixed": np.where(rng.random(size) < 0.3, -0.0, rng.normal(0, 1, size).round(1)),
        }[kind]
        made[name] = torch.from_numpy(values.astype(np.float32)).reshape(shape).to(dtype)
    return made


@st.composite
def values(draw: st.DrawFn, low: float, high: float):
    """A number, a gradient, a schedule or filters."""
    number = st.floats(low, high, allow_nan=False).map(lambda x: round(x, 3))
    kind = draw(st.sampled_from(["number", "gradient", "schedule", "filters"]))
    if kind == "number":
        return draw(number)
    if kind == "gradient":
        return draw(st.lists(number, min_size=1, max_size=4))
    if kind == "schedule":
        return {"plateau": draw(number), "end": draw(number), "knee": draw(st.floats(0, 1))}
    return [{"filter": "mlp", "value": draw(number)}, {"value": draw(number)}]


@st.composite
def cases(draw: st.DrawFn, method_name: str, max_experts: int = 4):
    """(recipe data without paths, base tensors, expert tensors)."""
    method = get_method(method_name)
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = st.sampled_from([(0,), (), (1,), (7,), (5, 1), (3, 5), (4, 16), (2, 3, 5)])
    shapes = [draw(shape) for _ in NAMES]
    base = draw(tensors(dtype, shapes))
    experts = []
    fewest, most = method.min_models, min(max_experts, method.max_models)
    counts = sorted({n for n in (1, 2, most) if fewest <= n <= most})
    for _ in range(draw(st.sampled_from(counts))):
        expert = draw(tensors(dtype, shapes))
        if draw(st.booleans()):  # a fine-tune: near base, with exact zeros in the difference
            expert = {n: (base[n].float() + 0.05 * expert[n].float()).to(dtype) for n in NAMES}
        experts.append(expert)
    shared = {}
    if "scope" in method.by_name and draw(st.booleans()):
        shared["scope"] = "model"
    models = [
        {"model": f"expert-{i}", "name": f"e{i}", "parameters": draw(_own(method, bool(shared)))}
        for i in range(len(experts))
    ]
    for model in models[1:-1]:  # each set of experts with slack is a kernel to compile
        model["parameters"].pop("slack", None)
    if method.interpolates:  # one of the models is base
        index = draw(st.integers(0, len(experts) - 1))
        models[index]["model"], experts[index] = "base", base
        shared["t"] = draw(st.one_of(st.sampled_from([0.0, 1.0]), values(0.0, 1.0)))
    if "normalize" in method.by_name:
        shared["normalize"] = draw(st.booleans())
    if "lambda" in method.by_name:
        shared["lambda"] = draw(st.sampled_from([1.0, 0.7, -0.5]))
    if "slack_mode" in method.by_name:
        modes = ["replace", "both"]
        if len(experts) > 2:  # of many experts each dtype has one mode: kernels to compile
            modes = ["replace"] if dtype == torch.bfloat16 else ["both"]
        shared["slack_mode"] = draw(st.sampled_from(modes))
    data = {"merge_method": method_name, "models": models, "parameters": shared}
    data |= {"base_model": "base", "seed": draw(st.integers(0, 2**64 - 1))}
    if len(experts) <= 2 and draw(st.booleans()):
        data["dtype"] = draw(st.sampled_from(sorted(DTYPES)))
    return data, base, experts


@st.composite
def _own(draw: st.DrawFn, method: Method, whole: bool):
    """Parameters of one expert; `whole`: ranks run over the model, which wants single numbers."""
    own = {}
    if "weight" in method.by_name:
        own["weight"] = draw(values(-1.5, 1.5))
    if "epsilon" in method.by_name:
        # Densities of DELLA leave room for epsilon on both sides, or are 1.
        most = draw(st.sampled_from([0.0, 0.001, 0.15, 0.49]))
        own["epsilon"] = draw(values(0.0, most))
        own["density"] = draw(st.one_of(st.just(1.0), values(most + 0.01, 1.0 - most - 0.01)))
    elif "density" in method.by_name:
        own["density"] = draw(_share(whole))
    for name in ("gamma", "slack"):
        if name in method.by_name:
            own[name] = draw(_share(whole))
    return own


def _share(whole: bool) -> st.SearchStrategy:
    special = st.sampled_from([0.0, 1.0, 0.5, 0.1])
    return special if whole else st.one_of(special, values(0.0, 1.0))


def referenced(data: dict, base: dict, experts: list[dict]) -> dict[str, torch.Tensor]:
    """What the reference makes of a case, without files."""
    recipe = Recipe.parse(data)
    dtype = DTYPES.get(recipe.dtype or "", base[NAMES[0]].dtype)
    return reference.merge(recipe, base, experts, DEPTHS, dtype)


def write(folder: Path, base: dict, experts: list[dict]) -> None:
    config = {"architectures": ["Toy"], "num_hidden_layers": 2, "tie_word_embeddings": True}
    for name, model in [("base", base), *((f"expert-{i}", e) for i, e in enumerate(experts))]:
        (folder / name).mkdir()
        save_file(model, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(config))


class Case:
    """One recipe with its checkpoints on disk."""

    def __init__(self, data: dict, base: dict, experts: list[dict]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name)
        write(path, base, experts)
        self.data, self.base, self.experts = data, base, experts
        self.recipe = Recipe.parse(data).resolved(path)
        self.plan = MergePlan(self.recipe, Sources.open(self.recipe))

    def expected(self) -> dict[str, torch.Tensor]:
        return referenced(self.data, self.base, self.experts)

    def __enter__(self) -> Case:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()
