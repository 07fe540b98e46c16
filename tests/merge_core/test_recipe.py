from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_core import Recipe, RecipeError
from merge_core.arithmetic import della_allows
from merge_core.methods import METHODS
from merge_core.yaml_io import dump_yaml, load_yaml, parse_yaml
from tests.merge_core.method_suite import cases

TEXT = """\
merge_method: ties_sv
base_model: org/base
models:
  - model: org/thai
    name: language
    parameters: {weight: 0.73, density: 0.28}
  - model: org/r1@v2
    name: reasoning
    parameters: {weight: [0.75, 0.75, 0.75, 0.125], density: 0.28, slack: 0.64}
parameters: {normalize: false, lambda: 1.0}
dtype: bfloat16
tokenizer_source: base
seed: 17
"""
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def read(text: str) -> Recipe:
    return Recipe.from_document(parse_yaml(text, Path("recipe.yaml")))


def error_of(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- identity


def test_the_documented_recipe() -> None:
    recipe = read(TEXT)
    assert recipe.names == ("language", "reasoning")
    assert recipe.settings_for("x", 1.0).weights == (0.7300000190734863, 0.125)
    assert recipe.settings_for("x", 0.0).slacks == (0.0, 0.64)


@pytest.mark.parametrize("method", METHODS)
@QUICK
@given(data=st.data())
def test_yaml_round_trip_keeps_the_fingerprint(method: str, data: st.DataObject) -> None:
    raw, _, _ = data.draw(cases(method, max_experts=3))
    recipe = Recipe.parse(raw)
    again = Recipe.parse(recipe.plain())
    assert again.fingerprint() == recipe.fingerprint()
    assert again.plain() == recipe.plain()
    text = dump_yaml(recipe.plain())
    written = Recipe.parse(parse_yaml(text, Path("x")).data)
    assert written.fingerprint() == recipe.fingerprint()
    assert written.plain() == recipe.plain()
    assert yaml.safe_load(text) == recipe.plain()  # a YAML 1.1 reader reads the same


def test_save_and_load(tmp_path: Path) -> None:
    recipe = read(TEXT)
    recipe.save(tmp_path / "out.yaml", header="# a header\n")
    assert (tmp_path / "out.yaml").read_text().startswith("# a header\nmerge_method: ties_sv\n")
    assert Recipe.load(tmp_path / "out.yaml") == Recipe.parse(recipe.plain())
    assert [file.name for file in tmp_path.iterdir()] == ["out.yaml"]


SAME = {
    "key order": "\n".join(
        [
            "seed: 17",
            "parameters: {lambda: 1.0, normalize: false}",
            "models:",
            "  - parameters: {density: 0.28, weight: 0.73}",
            "    name: language",
            "    model: org/thai",
            "  - {model: org/r1@v2, name: reasoning, parameters:",
            "     {slack: 0.64, density: 0.28, weight: [0.75, 0.75, 0.75, 0.125]}}",
            "base_model: org/base",
            "merge_method: ties_sv",
            "tokenizer_source: base",
            "dtype: bfloat16",
        ]
    ),
    "number formatting": TEXT.replace("0.73", "73e-2")
    .replace("0.28", ".28")
    .replace("lambda: 1.0", "lambda: 1"),
    "integers": TEXT.replace("lambda: 1.0", "lambda: 1e0"),
    "defaults spelled out": TEXT.replace(
        "lambda: 1.0",
        "lambda: 1, scope: tensor, slack_mode: replace, slack_rule: 1, density_step: .01, slack: 0",
    ),
    "defaults left out": TEXT.replace(", lambda: 1.0", "").replace("tokenizer_source: base\n", ""),
    "global instead of own": TEXT.replace(", density: 0.28", "").replace(
        "parameters: {normalize", "parameters: {density: 0.28, normalize"
    ),
    "names": TEXT.replace("name: language\n", "name: a\n").replace(
        "name: reasoning\n", "name: b\n"
    ),
    "no names": TEXT.replace("    name: language\n", "").replace("    name: reasoning\n", ""),
    "a seed that draws nothing": TEXT.replace("seed: 17", "seed: 18"),
}


@pytest.mark.parametrize("case", SAME)
def test_the_fingerprint_is_blind_to(case: str) -> None:
    assert SAME[case] != TEXT
    assert read(SAME[case]).fingerprint() == read(TEXT).fingerprint()


DIFFERENT = {
    "method": ("ties_sv", "dare_ties"),
    "base": ("org/base", "org/base@v2"),
    "model": ("org/thai", "org/thai2"),
    "revision": ("org/r1@v2", "org/r1@v3"),
    "weight": ("0.73", "0.74"),
    "weight's sign": ("0.73", "-0.73"),
    "weight's last bit": ("0.73", "0.7300000000000001"),
    "gradient": ("0.75, 0.125]", "0.125]"),
    "density": ("0.28, slack", "0.29, slack"),
    "slack": ("0.64", "0.65"),
    "normalize": ("false", "true"),
    "lambda": ("1.0", "1.1"),
    "dtype": ("bfloat16", "float16"),
    "tokenizer": ("tokenizer_source: base", "tokenizer_source: model:reasoning"),
    "slack_mode": ("lambda", "slack_mode: both, lambda"),
    "density_step": ("lambda", "density_step: 0, lambda"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_the_fingerprint_differs_by(case: str) -> None:
    old, new = DIFFERENT[case]
    assert TEXT.count(old)
    assert read(TEXT.replace(old, new, 1)).fingerprint() != read(TEXT).fingerprint()


def test_the_fingerprint_knows_order_seed_and_contents() -> None:
    data = parse_yaml(TEXT, Path("x")).data
    swapped = {**data, "models": data["models"][::-1]}
    assert Recipe.parse(swapped).fingerprint() != Recipe.parse(data).fingerprint()
    dare = copy.deepcopy(data) | {"merge_method": "dare_ties"}
    assert Recipe.parse(dare).fingerprint() != Recipe.parse({**dare, "seed": 18}).fingerprint()
    recipe = Recipe.parse(data)
    assert recipe.fingerprint(["a", "b", "c"]) != recipe.fingerprint(["a", "b", "d"])
    moved = Recipe.parse({**data, "base_model": "elsewhere"})
    assert recipe.fingerprint(["a", "b", "c"]) == moved.fingerprint(["a", "b", "c"])


def test_the_fingerprint_is_the_same_in_a_fresh_process(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TEXT)
    code = (
        "import sys; from pathlib import Path; from merge_core import Recipe;"
        "print(Recipe.load(Path(sys.argv[1])).fingerprint())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "r.yaml")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {read(TEXT).fingerprint()}
    # Pinned: fingerprints name merges in studies and on the hub, so they must never change.
    assert printed == {"c9e96fe5207ed193"}


# ---- names


def test_names_are_derived_from_references_and_made_unique() -> None:
    models = ["org/Qwen2.5-7B", "other/Qwen2.5-7B@main", "dir/base/", "พื้นที่", "./"]
    models += ["org/llama@v1+me/thai-lora@v2", "dir/c++"]
    data = {
        "merge_method": "linear",
        "models": [{"model": m, "parameters": {"weight": 1}} for m in models],
    }
    assert Recipe.parse(data).names == (
        "Qwen2-5-7B",
        "Qwen2-5-7B-2",
        "base-expert",
        "expert",
        "expert-2",
        "thai-lora",
        "c",
    )


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "thai").mkdir()
    text = TEXT.replace("org/thai", "thai").replace("org/r1@v2", "../thai")
    (tmp_path / "r.yaml").write_text(text)
    recipe = Recipe.load(tmp_path / "r.yaml")
    assert recipe.models[0].model == str((tmp_path / "thai").resolve())
    assert recipe.models[1].model == "../thai"  # nothing there: reported when it is opened
    assert recipe.base_model == "org/base"


def test_parts_of_an_adapter_reference_are_resolved_one_by_one(tmp_path: Path) -> None:
    for name in ("thai", "lora", "odd+name"):
        (tmp_path / name).mkdir()
    for written, expected in [
        ("thai+lora", f"{tmp_path}/thai+{tmp_path}/lora"),
        ("org/thai@v1+lora", f"org/thai@v1+{tmp_path}/lora"),
        ("thai+org/lora", f"{tmp_path}/thai+org/lora"),
        ("odd+name", f"{tmp_path}/odd+name"),
    ]:
        recipe = read(TEXT.replace("org/thai", written)).resolved(tmp_path)
        assert recipe.models[0].model == expected


@pytest.mark.parametrize("model", ["~nobody-of-this-name/x", "x" * 5000, "a/" * 3000])
def test_paths_that_cannot_be_are_left_to_opening(model: str) -> None:
    assert read(TEXT.replace("org/thai", model)).models[0].model == model


# ---- errors


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dtype:", "dtyp:", "11:1: unknown key 'dtyp'; did you mean 'dtype'?"),
        ("ties_sv", "ties_vs", "1:1: unknown merge_method 'ties_vs'; did you mean 'ties_sv'?"),
        ("ties_sv", "[ties]", "1:1: merge_method is the name of a method, not ['ties']"),
        ("ties_sv", "{choices: [ties]}", "1:1: merge_method is the name of a method"),
        ("ties_sv", "1", "1:1: merge_method is the name of a method, not 1"),
        ("merge_method: ties_sv\n", "", "1:1: merge_method is missing"),
        ("base_model: org/base\n", "", "1:1: ties_sv merges differences from base_model"),
        ("org/base", "3", "2:1: base_model is a hub id or a path, not 3"),
        ("org/base", "''", "2:1: base_model is a hub id or a path, not ''"),
        ("name: reasoning", "name: language", "8:5: two models are named 'language'"),
        ("name: reasoning", "name: base", "8:5: 'base' names the base model"),
        ("name: reasoning", "name: a.b", "8:5: name 'a.b' may hold letters"),
        ("model: org/thai", "modle: org/thai", "4:5: unknown key 'modle'; did you mean 'model'?"),
        ("weight: 0.73, ", "", "4:5: weight of 'language' is missing"),
        ("weight: 0.73", "weight: '0.73'", "6:18: '0.73' is not a number"),
        ("weight: 0.73", "weight: no", "6:18: 'no' is not a number"),
        ("weight: 0.73", "weight: true", "6:18: True is not a number"),
        ("weight: 0.73", "weight: .nan", "6:18: nan is not a finite"),
        ("weight: 0.73", "wieght: 0.73", "6:18: unknown parameter of ties_sv 'wieght'; did you"),
        ("[0.75, 0.75, 0.75", "[0.75, x, 0.75", "9:33: 'x' is not a number"),
        ("density: 0.28, slack", "density: 1.5, slack", "9:53: density 1.5 lies outside 0 to 1"),
        ("slack: 0.64", "slack: -0.1", "9:68: slack -0.1 lies outside 0 to 1"),
        ("slack: 0.64", "normalize: true", "9:68: normalize holds for the whole merge: move it"),
        ("lambda", "lamda", "10:32: unknown parameter of ties_sv 'lamda'; did you mean 'lambda'?"),
        ("normalize: false", "normalize: no", "10:14: normalize is true or false, not 'no'"),
        ("lambda: 1.0", "slack_rule: 2", "10:32: slack_rule 2 lies outside 1 to 1"),
        ("lambda: 1.0", "slack_mode: beside", "10:32: unknown slack_mode 'beside'; known: both"),
        ("lambda: 1.0", "density_step: 2", "10:32: density_step 2 lies outside 0 to 1"),
        ("bfloat16", "bf16", "11:1: unknown dtype 'bf16'"),
        ("tokenizer_source: base", "tokenizer_source: org/x", "12:1: tokenizer_source is base,"),
        ("tokenizer_source: base", "tokenizer_source: model:r", "12:1: unknown expert 'r'"),
        ("seed: 17", "seed: -1", "13:1: seed -1 is not a whole number"),
        ("seed: 17", "seed: 1.0", "13:1: seed 1.0 is not a whole number"),
        ("seed: 17", f"seed: {2**64}", "13:1: seed 18446744073709551616 is not"),
        ("parameters: {normalize: false, lambda: 1.0}", "parameters: 3", "10:1: parameters is a"),
        ("lambda: 1.0}", "lambda: 1.0, density: [{filter: a}]}", "10:55: this filter entry has no"),
    ],
)
def test_errors_name_file_line_and_column(old: str, new: str, message: str) -> None:
    assert TEXT.count(old) >= 1
    assert error_of(TEXT.replace(old, new, 1)).startswith(f"recipe.yaml:{message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe.yaml:1:1: a recipe is a mapping"),
        ("- a\n", "recipe.yaml:1:1: a recipe is a mapping"),
        (TEXT + "seed: 18\n", 'recipe.yaml:14:1: duplicate key "seed"'),
        (TEXT + "\tdtype: x\n", "recipe.yaml:14:1: not valid YAML: "),
        (TEXT + "x: [1, 2\n", "recipe.yaml:15:1: not valid YAML: "),
        (TEXT + "x: 'a\n", "recipe.yaml:15:1: not valid YAML: "),
        (TEXT + "---\na: 1\n", "recipe.yaml:14:1: not valid YAML: "),
        (TEXT + "x: 2026-13-01\n", "recipe.yaml: not valid YAML: "),
        ("[" * 2000, "recipe.yaml: not valid YAML: nested too deeply"),
        ("a: \x00\n", "recipe.yaml: not valid YAML: "),
        ("merge_method: linear\n", "recipe.yaml:1:1: models is a list of at least one"),
        ("merge_method: linear\nmodels: []\n", "recipe.yaml:2:1: models is a list"),
        ("merge_method: linear\nmodels: [a]\n", "recipe.yaml:2:10: a model is a mapping"),
        (
            "merge_method: linear\nmodels:\n" + "- {model: m, parameters: {weight: 1}}\n" * 9,
            "recipe.yaml:2:1: 9 models; linear merges at most 8",
        ),
    ],
)
def test_broken_files(text: str, message: str) -> None:
    assert error_of(text).startswith(message)


def test_scope_model_wants_one_number() -> None:
    text = TEXT.replace("lambda: 1.0", "scope: model").replace("density: 0.28, slack", "slack")
    text = text.replace("slack: 0.64", "density: [0.2, 0.5]")
    message = "recipe.yaml:9:53: scope: model ranks the whole model at once: density is one number"
    assert error_of(text) == message


def two(method: str, first: str, second: str = "{}", shared: str = "{}", base="org/base") -> str:
    return (
        f"merge_method: {method}\nbase_model: {base}\nmodels:\n"
        f"- {{model: org/a, parameters: {first}}}\n- {{model: org/b, parameters: {second}}}\n"
        f"parameters: {shared}\n"
    )


W = "weight: 1, "


@pytest.mark.parametrize(
    ("own", "shared", "message"),
    [
        ("density: 0.1", "", "4:42: density 0.1 with epsilon 0.15 keeps entries with probability"),
        ("density: 0.85", "", "4:42: density 0.85 with epsilon 0.15"),
        ("density: 0", "", "4:42: density 0 with epsilon 0.15"),
        ("density: 0, epsilon: 0", "", "4:42: density 0 with epsilon 0 "),
        ("density: 0.004, epsilon: 0.001", "", "4:42: density 0 with epsilon 0.001"),  # in steps
        ("density: [0.3, 0.9]", "", "4:42: density 0.9 with epsilon 0.15"),
        ("density: [0.3, 1.0]", "", "4:42: density 0.99 with epsilon 0.15"),
        ("density: [1, 0.5], epsilon: 0.01", "density_step: 0, ", "4:42: density 1 with epsilon 0"),
        ("density: {plateau: 0.5, end: 0.1, knee: 0.5}", "", "4:42: density 0.1 with"),
        ("density: 0.5, epsilon: [0.1, 0.5]", "", "4:42: density 0.5 with epsilon 0.5"),
        ("epsilon: 0.3", "density: 0.2, ", "4:42: density 0.2 with epsilon 0.3"),
        ("", "density: 0.2, epsilon: 0.3, ", "6:14: density 0.2 with epsilon 0.3"),
        ("density: [{filter: mlp, value: 0.1}, {value: 0.5}]", "", "4:42: density 0.1 with"),
        (
            "density: [{filter: mlp, value: 0.1}, {value: 0.5}], "
            "epsilon: [{filter: attn, value: 0.01}, {value: 0.2}]",
            "",
            "4:42: density 0.1 with epsilon 0.2",
        ),
        ("epsilon: 0.6", "", "4:42: epsilon 0.6 lies outside 0 to 0.5"),
    ],
)
def test_keep_probabilities_lie_between_0_and_1(own: str, shared: str, message: str) -> None:
    for method in ("della", "della_linear"):
        text = two(method, f"{{{W}{own}}}", "{weight: 1}", f"{{{shared}lambda: 1}}")
        assert error_of(text).startswith(f"recipe.yaml:{message}")


@pytest.mark.parametrize(
    "own",
    [
        "density: 1, epsilon: 0.5",
        "density: 0.5, epsilon: 0.49",
        "density: [1, 1], epsilon: 0.3",
        "density: [0.4, 1], epsilon: 0.005",  # in steps the largest below 1 is .99
        "density: 0.999, epsilon: 0.3",  # in steps it is 1
        "density: [{filter: mlp, value: 0.1}, {value: 0.5}], "
        "epsilon: [{filter: mlp, value: 0.05}, {value: 0.3}]",
        "density: [{filter: mlp, value: 1}, {value: 0.5}], "
        "epsilon: [{filter: up.mlp, value: 0.5}, {filter: mlp, value: 0.4}, {value: 0.3}]",
    ],
)
def test_legal_keep_probabilities(own: str) -> None:
    read(two("della", f"{{{W}{own}}}", "{weight: 1}"))


ANY = st.sampled_from([0.0, 0.01, 0.1, 0.15, 0.3, 0.5, 0.7, 0.85, 0.9, 0.99, 0.999, 1.0])


@QUICK
@given(
    density=st.one_of(ANY, st.lists(ANY, min_size=1, max_size=3)),
    epsilon=st.one_of(ANY, st.lists(ANY, min_size=1, max_size=3)),
    step=st.sampled_from([0.0, 0.01, 0.3]),
    depths=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_a_recipe_that_is_read_has_keep_probabilities_everywhere(
    density: Any, epsilon: Any, step: float, depths: list[float]
) -> None:
    data = parse_yaml(two("della", "{weight: 1}", "{weight: 1}"), Path("x")).data
    data["parameters"] = {"density": density, "epsilon": epsilon, "density_step": step}
    with contextlib.suppress(RecipeError):
        recipe = Recipe.parse(data)
        for depth in (0.0, *depths, 1.0):
            s = recipe.settings_for("x", depth)
            assert della_allows(s.densities[0], s.epsilons[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (two("slerp", "{}", shared="{t: .5}"), "3:1: slerp merges base_model and one other model"),
        (
            two("slerp", "{}", shared="{t: .5}", base="org/a").replace("org/b", "org/a"),
            "3:1: slerp",
        ),
        (two("slerp", "{}", base="org/a"), "6:1: t is missing"),
        (two("slerp", "{}", shared="{t: 1.5}", base="org/a"), "6:14: t 1.5 lies outside 0 to 1"),
        (two("slerp", "{t: .5}", base="org/a"), "4:31: t holds for the whole merge: move it to"),
        (two("slerp", "{weight: 1}", base="org/a"), "4:31: unknown parameter of slerp 'weight'"),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: a}]\nparameters: {t: 1}\n",
            "3:1: slerp merges at least 2 models",
        ),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}, {model: c}]\n",
            "3:1: 3 models; slerp merges at most 2",
        ),
        ("merge_method: slerp\nmodels: [{model: a}, {model: b}]\n", "1:1: slerp needs base_model"),
        (two("breadcrumbs", "{weight: 1, gamma: 2}", "{weight: 1}"), "4:42: gamma 2 lies outside"),
        (two("breadcrumbs", "{weight: 1, slack: 1}"), "4:42: unknown parameter of breadcrumbs"),
        (
            two("breadcrumbs", "{weight: 1, gamma: [0, 1]}", "{weight: 1}", "{scope: model}"),
            "4:42: scope: model ranks the whole model at once: gamma is one number",
        ),
    ],
)
def test_what_a_method_wants_of_its_recipes(text: str, message: str) -> None:
    assert error_of(text).startswith(f"recipe.yaml:{message}")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", "folder"])
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "r.yaml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"r\.yaml: (no such file|cannot be read)") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)


@QUICK
@given(st.text(alphabet="abc:-[]{}&*!|>'\"#%@,?\n\t 01.e", max_size=40))
def test_any_text_is_yaml_or_one_error_line(text: str) -> None:
    with contextlib.suppress(RecipeError):
        parse_yaml(text, Path("x"))


def test_yaml_is_version_1_2() -> None:
    data = parse_yaml("a: 1e-5\nb: no\nc: .333\nd: on\ne: 0o17\nf: 1:30\ng: 010\n", Path("x")).data
    assert data == {"a": 1e-5, "b": "no", "c": 0.333, "d": "on", "e": 15, "f": "1:30", "g": 10}


def test_written_numbers_are_numbers_to_yaml_1_1_too() -> None:
    numbers = {"a": 1e-5, "b": -2.5e17, "c": 5e-324, "d": [1e22, 0.1, 3.0], "e": 7}
    text = dump_yaml(numbers)
    assert yaml.safe_load(text) == numbers
    assert parse_yaml(text, Path("x")).data == numbers
