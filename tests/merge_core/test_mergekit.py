from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_core import Recipe, RecipeError, Sources
from merge_core.mergekit import from_mergekit, load_mergekit, to_mergekit
from merge_core.yaml_io import dump_yaml
from tests.merge_core.conftest import CONFIG, make_model, recipe_data, write_checkpoint
from tests.merge_core.method_suite import values

NORM, HEAD = "model.norm.weight", "lm_head.weight"


def layered(path: Path, layers: int, width: int = 2) -> Path:
    """An untied model of `layers` layers with two tensors each."""
    tensors = {
        "model.embed_tokens.weight": torch.zeros(4, width),
        NORM: torch.zeros(width),
        HEAD: torch.zeros(4, width),
    }
    for layer in range(layers):
        tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] = torch.zeros(width, width)
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = torch.zeros(width, width)
    config = {**CONFIG, "num_hidden_layers": layers, "tie_word_embeddings": False}
    return write_checkpoint(path, tensors, config)


def dirs_of(folder: Path, layers: int, width: int = 2) -> dict[str, Path]:
    return {name: layered(folder / name, layers, width) for name in ("base", "thai", "r1")}


def data_of(dirs: dict, method: str, own: dict, shared: dict | None = None) -> dict:
    return {
        "merge_method": method,
        "base_model": str(dirs["base"]),
        "models": [
            {"model": str(dirs["thai"]), "name": "language", "parameters": own},
            {"model": str(dirs["r1"]), "name": "reasoning", "parameters": {"weight": 0.25}},
        ],
        "parameters": shared or {},
        "dtype": "bfloat16",
    }


def slerp_of(dirs: dict, t: Any, base: str = "thai") -> dict:
    return {
        "merge_method": "slerp",
        "base_model": str(dirs[base]),
        "models": [{"model": str(dirs[name]), "name": name} for name in ("thai", "r1")],
        "parameters": {"t": t},
        "dtype": "bfloat16",
    }


# ---- mergekit's rule, written again from its documentation


def read_setting(setting: Any, tensor: str, t: float) -> float | None:
    if isinstance(setting, list) and isinstance(setting[0], dict):
        for condition in setting:
            pattern = condition.get("filter")
            if pattern is None or pattern == "*" or pattern in tensor:
                return read_setting(condition["value"], tensor, t)
        return None
    if isinstance(setting, list):
        scaled = t * (len(setting) - 1)
        low = int(scaled)
        high = min(len(setting) - 1, low + 1)
        return (1 - (scaled - low)) * setting[low] + (scaled - low) * setting[high]
    return float(setting)


def mergekit_numbers(config: dict, tensor: str, layers: int) -> list[dict]:
    """What mergekit uses for `tensor`: of each model, before its global parameters."""
    t = 0.0
    if tensor.startswith("model.layers."):
        layer = int(tensor.split(".")[2])
        t = layer / (layers - 1) if layers > 1 else 1.0
    found = []
    for model in config["models"]:
        numbers = {}
        for name in ("weight", "density", "gamma", "lambda", "t"):
            for scope in (model.get("parameters", {}), config.get("parameters", {})):
                if name in scope and name not in numbers:
                    read = read_setting(scope[name], tensor, t)
                    if read is not None:
                        numbers[name] = read
        found.append(numbers)
    return found


def assert_mergekit_reads_ours(recipe: Recipe, sources: Sources) -> None:
    text = dump_yaml(to_mergekit(recipe, sources))
    config = yaml.safe_load(text)  # mergekit's own reader
    for tensor in sources.specs:
        ours = recipe.settings_for(tensor, sources.depths[tensor])
        theirs = mergekit_numbers(config, tensor, sources.template.layers)
        for index, numbers in enumerate(theirs):
            if "weight" in recipe.method.by_name:
                assert np.float32(numbers["weight"]) == ours.weights[index], tensor
            if "gamma" in recipe.method.by_name:
                assert numbers["gamma"] == ours.gammas[index], tensor
            if "t" in recipe.method.by_name:
                assert numbers["t"] == ours.t, tensor
            if "density" in recipe.method.by_name:
                assert numbers["density"] == ours.densities[index], tensor
            if "lambda" in recipe.method.by_name:
                assert np.float32(numbers["lambda"]) == ours.scale, tensor


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> dict[int, tuple[dict, Sources]]:
    made = {}
    for layers in (1, 2, 3, 50):  # at 50, layer 1 of 49 steps reads 0.9999999999999999 anchors on
        dirs = dirs_of(tmp_path_factory.mktemp(f"deep{layers}"), layers, width=12)
        made[layers] = dirs, Sources.open(Recipe.parse(data_of(dirs, "ties", {"weight": 1})))
    return made


@pytest.mark.parametrize(
    "method", ["linear", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "slerp"]
)
@pytest.mark.parametrize("layers", [1, 2, 3, 50])
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_mergekit_reads_our_numbers_for_every_tensor(deep, method, layers, data) -> None:
    dirs, sources = deep[layers]
    if method == "slerp":
        recipe = Recipe.parse(slerp_of(dirs, data.draw(values(0, 1))))
    else:
        own = {"weight": data.draw(values(-1.5, 1.5))}
        shared = {"normalize": data.draw(st.booleans())}
        if method not in ("linear", "task_arithmetic"):
            least = 0
            if method != "ties":  # gamma and density have to come to an entry of the 12 of a norm
                least = 0.09
                own["gamma"] = data.draw(values(least, 0.3))
                shared["gamma"] = 0.25
            own["density"] = data.draw(values(least, 1))
            shared["density"] = data.draw(values(least, 1))
            shared["density_step"] = data.draw(st.sampled_from([0.01, 0, 0.03]))
            shared["lambda"] = data.draw(values(0, 2))
        recipe = Recipe.parse(data_of(dirs, method, own, shared))
    assert_mergekit_reads_ours(recipe, sources)

    # And back: the same numbers, tensor by tensor.
    exported = to_mergekit(recipe, sources)
    again, _ = from_mergekit(yaml.safe_load(dump_yaml(exported)))
    for tensor in sources.specs:
        depth = sources.depths[tensor]
        assert again.settings_for(tensor, depth) == recipe.settings_for(tensor, depth)
    assert again.normalizes == recipe.normalizes


ROUND_TRIPS = {
    "linear": ("linear", {"weight": 0.7}, {}),
    "task_arithmetic": ("task_arithmetic", {"weight": -0.7}, {"lambda": 0.5, "normalize": True}),
    "ties": ("ties", {"weight": 0.7, "density": 0.28}, {"lambda": 1.2, "density": 0.5}),
    "gradient": ("ties", {"weight": [0.75, 0.75, 0.75, 0.125], "density": 0.28}, {}),
    "filters": (
        "ties",
        {
            "weight": [{"filter": "self_attn", "value": 0.1}, {"value": 0.2}],
            "density": [{"filter": "mlp", "value": 0.3}, {"value": 0.4}],
        },
        {},
    ),
    "filtered gradient": (
        "task_arithmetic",
        {"weight": [{"filter": "self_attn", "value": [0.1, 0.5]}, {"value": [0.2, 0.3]}]},
        {},
    ),
    "breadcrumbs": ("breadcrumbs", {"weight": 0.7, "density": 0.28, "gamma": 0.1}, {}),
    "breadcrumbs_ties": (
        "breadcrumbs_ties",
        {"weight": [0.7, 0.2], "density": 0.3, "gamma": [{"filter": "mlp", "value": 0.2}]},
        {"gamma": 0.125, "density": 0.9, "normalize": True},
    ),
    "fine density": ("ties", {"weight": 1, "density": 0.333}, {"density_step": 0}),
    "constant gradient": ("ties", {"weight": [0.5, 0.5], "density": 0.5}, {}),
    "global weight filters": (
        "task_arithmetic",
        {"weight": [{"filter": "mlp", "value": 0.1}]},
        {"weight": [{"filter": "attn", "value": 0.3}, {"value": 1}]},
    ),
}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_export_and_import_keep_the_fingerprint(tmp_path: Path, case: str) -> None:
    dirs = dirs_of(tmp_path, 4, width=12)
    data = data_of(dirs, *ROUND_TRIPS[case])
    if data["merge_method"] == "linear":
        del data["base_model"]
    recipe = Recipe.parse(data)
    (tmp_path / "mk.yml").write_text(dump_yaml(to_mergekit(recipe)))
    again, _ = load_mergekit(tmp_path / "mk.yml")
    assert again.fingerprint() == recipe.fingerprint()
    # The format has no names: they come from the references again.
    assert [e.model for e in again.models] == [e.model for e in recipe.models]
    assert again.names == ("thai", "r1")


@pytest.mark.parametrize("base", ["thai", "r1"])
@pytest.mark.parametrize("t", [0.3, [0.1, 0.9], [{"filter": "mlp", "value": 0.2}, {"value": 1}]])
def test_slerp_keeps_its_base_among_the_models(tmp_path: Path, base: str, t: Any) -> None:
    dirs = dirs_of(tmp_path, 3)
    recipe = Recipe.parse(slerp_of(dirs, t, base))
    exported = to_mergekit(recipe)
    assert exported["base_model"] == str(dirs[base])
    assert exported["models"] == [{"model": str(dirs["thai"])}, {"model": str(dirs["r1"])}]
    assert set(exported["parameters"]) == {"t"}
    again, notes = from_mergekit(exported)
    assert again.fingerprint() == recipe.fingerprint()
    assert not notes
    # mergekit adds a base that is not listed, behind the others; either order is the same merge.
    exported["models"] = [m for m in exported["models"] if m["model"] != str(dirs[base])]
    added, _ = from_mergekit(exported)
    assert [e.model for e in added.models][1] == str(dirs[base])
    assert added.pair == (1, 0)


def test_a_knee_comes_back_as_anchors_with_the_same_numbers(tmp_path: Path) -> None:
    dirs = dirs_of(tmp_path, 8)
    knee = {"plateau": 0.75, "end": 0.125, "knee": 0.5}
    recipe = Recipe.parse(data_of(dirs, "ties", {"weight": knee, "density": 0.5}))
    sources = Sources.open(recipe)
    again, notes = from_mergekit(to_mergekit(recipe, sources))
    weight = again.models[0].parameters["weight"].plain()
    assert len(weight) == 8
    assert (weight[0], weight[-1]) == (0.75, 0.125)
    assert not notes  # the export wrote down what we do after the layers
    assert_mergekit_reads_ours(again, sources)


@pytest.mark.parametrize("layers", [7, 8])
def test_groups_of_layers_come_back_as_numbers_of_the_layers(tmp_path: Path, layers: int) -> None:
    dirs = dirs_of(tmp_path, layers)
    weight = [{"filter": "mlp", "value": {"groups": [0.3, 0.9, 0.3]}}, {"value": {"groups": [1]}}]
    own = {"weight": weight, "density": {"groups": [0.2, 0.55]}}
    recipe = Recipe.parse(data_of(dirs, "ties", own))
    sources = Sources.open(recipe)
    assert "{'groups'" not in str(to_mergekit(recipe, sources))
    assert_mergekit_reads_ours(recipe, sources)


def test_tokenizer_source_and_dtype_round_trip(tmp_path: Path) -> None:
    dirs = dirs_of(tmp_path, 2)
    data = data_of(dirs, "ties", {"weight": 1}) | {"tokenizer_source": "model:reasoning"}
    recipe = Recipe.parse(data)
    exported = to_mergekit(recipe)
    assert exported["tokenizer_source"] == str(dirs["r1"])
    assert (exported["dtype"], exported["out_dtype"]) == ("float32", "bfloat16")
    again, _ = from_mergekit(exported)
    assert again.tokenizer_source == "model:r1"
    assert again.fingerprint() == recipe.fingerprint()
    # Without a dtype the base's is written.
    del data["dtype"]
    assert to_mergekit(Recipe.parse(data))["out_dtype"] == "float32"


def test_after_the_layers_any_name_reads_the_last_anchor(tmp_path: Path) -> None:
    """Also where no usual name stands there, and where it is part of other names."""
    for final in ("model.final_layernorm.weight", "norm.weight"):
        dirs = {}
        for name in ("base", "thai", "r1"):
            tensors = make_model(0)
            tensors[final] = tensors.pop(NORM)
            tensors["model.layers.0.input_norm.weight"] = torch.zeros(2)
            dirs[name] = write_checkpoint(tmp_path / final / name, tensors)
        own = {"weight": [0.1, 0.5, 0.2], "density": [0.3, 0.9]}
        recipe = Recipe.parse(data_of(dirs, "ties", own))
        assert_mergekit_reads_ours(recipe, Sources.open(recipe))


# ---- import


PASTED = """\
models:
  - model: mistralai/Mistral-7B-v0.1
    # no parameters necessary for base model
  - model: OpenPipe/mistral-ft-optimized-1218
    parameters:
      density: .333
      weight:
        - filter: mlp
          value: [0, 0.5]
        - value: 0.5
  - model: mlabonne/NeuralHermes-2.5-Mistral-7B
    parameters:
      density: 0.5
      weight: 3e-1
merge_method: ties
base_model: mistralai/Mistral-7B-v0.1
parameters:
  normalize: true
dtype: float16
"""


def load(tmp_path: Path, text: str) -> tuple[Recipe, list[str]]:
    (tmp_path / "mk.yml").write_text(text)
    return load_mergekit(tmp_path / "mk.yml")


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "mk.yml") + ":")
    return message.removeprefix(str(tmp_path / "mk.yml") + ":")


def test_a_pasted_file(tmp_path: Path) -> None:
    recipe, notes = load(tmp_path, PASTED)
    assert recipe.base_model == "mistralai/Mistral-7B-v0.1"
    assert recipe.names == ("mistral-ft-optimized-1218", "NeuralHermes-2-5-Mistral-7B")
    assert recipe.dtype == "float16"
    assert recipe.settings_for("mlp", 0.5).weights[0] == 0.25
    assert recipe.settings_for("x", 0.5).densities == (0.333, 0.5)
    assert len(notes) == 3  # the base, the exact densities, the gradient


def test_out_dtype_is_the_one_that_counts(tmp_path: Path) -> None:
    assert load(tmp_path, PASTED + "out_dtype: bfloat16\n")[0].dtype == "bfloat16"
    assert load(tmp_path, PASTED.replace("dtype: float16\n", ""))[0].dtype is None


def test_gradients_of_densities_are_not_rounded(tmp_path: Path) -> None:
    """mergekit does not round 0.25 + 0.25 / 31 either."""
    recipe, _ = load(tmp_path, PASTED.replace(".333", "[0.25, 0.5]"))
    assert recipe.settings_for("x", 1 / 31).densities[0] == (1 - 1 / 31) * 0.25 + 1 / 31 * 0.5
    coarse, _ = load(tmp_path, PASTED.replace(".333", "0.33"))
    assert "density_step" not in coarse.parameters


def test_the_base_counts_for_linear(tmp_path: Path) -> None:
    text = PASTED.replace("ties", "linear").replace("# no", "parameters: {weight: 1} # no")
    text = text.replace("      density: .333\n", "").replace("      density: 0.5\n", "")
    recipe, notes = load(tmp_path, text)
    assert len(recipe.models) == 3
    assert not any("left out" in note for note in notes)


def test_dare_is_imported_with_a_note(tmp_path: Path) -> None:
    recipe, notes = load(tmp_path, PASTED.replace("ties", "dare_ties"))
    assert recipe.merge_method == "dare_ties"
    assert any("drops follow the seed" in note for note in notes)


def test_della_is_imported_where_its_exact_densities_are_legal(tmp_path: Path) -> None:
    text = PASTED.replace("ties", "della")
    recipe, notes = load(tmp_path, text.replace("density: .333", "density: .154"))
    assert recipe.settings_for("x", 0.5).epsilons == (0.15, 0.15)
    assert recipe.settings_for("x", 0.5).densities[0] == 0.154  # .15 in steps: not legal
    assert any("della drops follow the seed" in note for note in notes)
    message = refusal(tmp_path, text.replace("density: .333", "density: 0.1"))
    assert message.startswith("6:7: density 0.1 with epsilon 0.15")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("base", "base"),
        ("union", "union"),
        ("mistralai/Mistral-7B-v0.1", "base"),
        ("OpenPipe/mistral-ft-optimized-1218", "model:mistral-ft-optimized-1218"),
    ],
)
def test_tokenizer_sources(tmp_path: Path, source: str, expected: str) -> None:
    recipe, _ = load(tmp_path, PASTED + f"tokenizer_source: {source}\n")
    assert recipe.tokenizer_source == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dtype: float16", "slices: []", "19:1: mergekit's 'slices' is not something mergefront"),
        ("dtype: float16", "tokenizer: {source: base}", "19:1: mergekit's 'tokenizer' is not"),
        ("dtype: float16", "chat_template: auto", "19:1: mergekit's 'chat_template' is not"),
        ("dtype: float16", "modules: {}", "19:1: mergekit's 'modules' is not"),
        ("method: ties", "method: model_stock", "15:1: unknown merge_method 'model_stock'"),
        ("method: ties", "method: nuslerp", "15:1: unknown merge_method 'nuslerp'"),
        ("method: ties", "method: slerp", "1:1: 3 models; slerp merges at most 2"),
        ("method: ties", "method: [ties]", "15:1: merge_method is the name of a method"),
        ("merge_method: ties\n", "", "1:1: merge_method is missing"),
        ("normalize: true", "rescale: true", "18:3: unknown parameter of ties 'rescale'"),
        ("dtype: float16", "dtype: float64", "19:1: unknown dtype 'float64'"),
        ("dtype: float16", "out_dtype: auto", "19:1: unknown dtype 'auto'"),
        # Positions hold although the base before them was left out.
        ("weight: 3e-1", "weight: x", "14:7: 'x' is not a number"),
        ("density: 0.5", "density: 1.5", "13:7: density 1.5 lies outside 0 to 1"),
        ("density: 0.5\n      weight: 3e-1", "density: 0.5", "11:5: weight of 'Neural"),
        ("dtype: float16", "tokenizer_source: org/x", "19:1: tokenizer_source 'org/x' is none of"),
        ("dtype: float16", "tokenizer_source: [a]", "19:1: tokenizer_source ['a'] is none of"),
        ("value: [0, 0.5]", "value: [0, x]", "9:22: 'x' is not a number"),
    ],
)
def test_what_we_do_not_have_is_refused_with_its_place(tmp_path, old, new, message) -> None:
    assert PASTED.count(old) == 1
    assert refusal(tmp_path, PASTED.replace(old, new)).startswith(message)


def test_what_changes_no_merge_is_left_out_with_a_note(tmp_path: Path) -> None:
    plain, _ = load(tmp_path, PASTED)
    recipe, notes = load(tmp_path, PASTED.replace("normalize: true", "int8_mask: true"))
    assert recipe.fingerprint(["a"] * 3) == plain.fingerprint(["a"] * 3)
    assert [note for note in notes if note.startswith("int8_mask ")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "merge_method: ties\n",
        "merge_method: ties\ntokenizer_source: base\n",
        "merge_method: ties\nbase_model: b\nmodels: 3\ntokenizer_source: a/b\n",
        "merge_method: ties\nbase_model: b\nmodels: [3]\ntokenizer_source: a/b\n",
        "merge_method: ties\nbase_model: b\nmodels: [{model: b}]\n",
        "merge_method: {a: b}\nmodels: [{model: b}]\n",
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str) -> None:
    refusal(tmp_path, text)


# ---- export refusals


@pytest.mark.parametrize(
    ("method", "shared", "message"),
    [
        ("ties_sv", {}, "mergekit has no ties_sv"),
        ("ties", {"slack": 0.5}, "mergekit has no 'slack'"),
        ("ties", {"scope": "model"}, "mergekit has no 'scope'"),
        ("dare_ties", {}, "mergekit's dare_ties has no seeds"),
        ("dare_linear", {}, "mergekit's dare_linear has no seeds"),
        ("della", {}, "mergekit's della has no seeds"),
        ("della_linear", {}, "mergekit's della_linear has no seeds"),
        ("breadcrumbs", {"scope": "model"}, "mergekit has no 'scope'"),
        ("breadcrumbs_ties", {"slack": 0.5}, "mergekit has no 'slack'"),
        ("breadcrumbs", {"density": 0.5}, r"keeps nothing of .* gamma 0.01 or density 0.5 comes"),
        ("breadcrumbs", {"density": 0.5, "gamma": 0}, "keeps nothing of"),
        ("breadcrumbs", {"density": 0.1, "gamma": 0.2}, "keeps nothing of model.norm.weight [(]8"),
    ],
)
def test_export_refuses_what_mergekit_lacks(trio_dirs, method, shared, message) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        to_mergekit(Recipe.parse(recipe_data(trio_dirs, method, shared)))
    assert "\n" not in str(caught.value)
    assert "mergefront merge" in str(caught.value)


def test_export_refuses_models_that_mergekit_would_drop(trio_dirs: dict) -> None:
    data = recipe_data(trio_dirs)
    data["models"][1]["model"] = data["models"][0]["model"]
    with pytest.raises(RecipeError, match=r"cannot merge .* twice"):
        to_mergekit(Recipe.parse(data))
    data["models"][1]["model"] = data["base_model"]
    with pytest.raises(RecipeError, match="leaves out 'reasoning', which is the base"):
        to_mergekit(Recipe.parse(data))


def test_export_of_linear_names_a_base_only_where_it_is_merged(trio_dirs: dict) -> None:
    """mergekit adds a base to linear's models and then misses its weight."""
    data = recipe_data(trio_dirs, "linear")
    exported = to_mergekit(Recipe.parse(data))
    assert "base_model" not in exported
    assert "tokenizer_source" not in exported
    data["models"][1]["model"] = data["base_model"]
    assert to_mergekit(Recipe.parse(data))["base_model"] == data["base_model"]


def test_numbers_need_no_checkpoints(tmp_path: Path) -> None:
    """A recipe of plain numbers with a dtype is exported without opening anything."""
    dirs = {name: tmp_path / name for name in ("base", "thai", "r1")}
    exported = to_mergekit(Recipe.parse(data_of(dirs, "ties", {"weight": 1, "density": 0.5})))
    assert json.loads(json.dumps(exported)) == exported
    assert exported["models"][0]["parameters"] == {"weight": 1.0, "density": 0.5}
