from __future__ import annotations

import json
import re
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_core import MergePlan, Recipe, RecipeError
from merge_core.card import Found, Making, Score, block, code, md, model_card, table
from merge_core.licences import MIXED, UNKNOWN, Licence, begins, together
from merge_core.mergekit import to_mergekit
from merge_core.parents import concerns, front_matter, hashes_by_parent, parents, public_recipe
from merge_core.sources import digest_of, digest_of_files, file_hashes
from tests.merge_core.conftest import recipe_data
from tests.merge_core.test_adapters import write_adapter

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def plan_of(dirs: dict, method: str = "ties", **experts: Any) -> MergePlan:
    return MergePlan(Recipe.parse(recipe_data(dirs, method, **experts)))


def front(folder: Path, **data: Any) -> None:
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(data)}---\n# It\n", encoding="utf-8")


def cached(folder: Path, root: Path, hub_id: str) -> Path:
    """A model as the hub's cache holds it: a snapshot of links to blobs."""
    home = root / f"models--{hub_id.replace('/', '--')}"
    snapshot, blobs = home / "snapshots" / COMMIT, home / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for place, file in enumerate(sorted(folder.iterdir())):
        blob = blobs / f"{place:040x}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def metadata(text: str) -> dict:
    card = ModelCard(text)
    return card.data.to_dict()


# ---- who the parents are to others


def test_a_folder_of_the_hubs_cache_is_known_by_its_id_and_commit(trio_dirs, tmp_path):
    trio_dirs["base"] = cached(trio_dirs["base"], tmp_path / "hub", "meta-llama/Llama-3.1-8B")
    plan = plan_of(trio_dirs)
    base, language, _ = known = parents(plan)
    assert (base.hub_id, base.revision) == ("meta-llama/Llama-3.1-8B", COMMIT)
    assert (language.name, language.hub_id, language.ids) == ("thai", None, ())
    assert public_recipe(plan, known).base_model == f"meta-llama/Llama-3.1-8B@{COMMIT}"
    assert metadata(model_card(plan))["base_model"] == ["meta-llama/Llama-3.1-8B"]


def test_a_clone_is_known_by_its_remote_and_not_by_the_token_in_it(trio_dirs):
    git = trio_dirs["language"] / ".git"
    git.mkdir()
    url = "https://user:hf_secretsecretsecret@huggingface.co/scb10x/typhoon2-8b.git"
    (git / "config").write_text(f'[remote "origin"]\n\turl = {url}\n\tfetch = x\n')
    assert parents(plan_of(trio_dirs))[1].hub_id == "scb10x/typhoon2-8b"
    assert "hf_secret" not in model_card(plan_of(trio_dirs))


def test_what_was_downloaded_into_a_folder_has_its_commit(trio_dirs):
    notes = trio_dirs["reasoning"] / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (notes / f"{name}.metadata").write_text(f"{COMMIT}\netag\n1700000000.0\n")
    parent = parents(plan_of(trio_dirs), {"reasoning": "deepseek-ai/R1"})[2]
    assert (parent.hub_id, parent.revision) == ("deepseek-ai/R1", COMMIT)


def test_ids_in_a_local_models_files_are_told_as_no_more_than_that(trio_dirs):
    front(trio_dirs["language"], base_model="org/older", license="mit")
    config = json.loads((trio_dirs["reasoning"] / "config.json").read_text())
    for name, told in (("reasoning", "org/r1"), ("base", "/home/me/base")):
        (trio_dirs[name] / "config.json").write_text(json.dumps({**config, "_name_or_path": told}))
    text = model_card(plan_of(trio_dirs))
    assert metadata(text)["base_model"] == ["org/older", "org/r1"]
    assert "`thai` was merged from a local folder; its files name `org/older`." in text
    assert "/home/me" not in text
    assert parents(plan_of(trio_dirs))[1].hub_id is None


def test_the_user_says_where_a_local_model_is(trio_dirs):
    ids = {"base": "org/base@v2", "reasoning": "org/r1"}
    plan = plan_of(trio_dirs)
    known = parents(plan, ids)
    assert [p.ids for p in known] == [("org/base",), (), ("org/r1",)]
    assert public_recipe(plan, known).plain()["base_model"] == "org/base@v2"
    assert [e.model for e in public_recipe(plan, known).models] == ["thai", "org/r1"]
    with pytest.raises(RecipeError, match="unknown model 'thai'"):
        parents(plan, {"thai": "org/x"})
    with pytest.raises(RecipeError, match="is no hub id; write base=ORG/NAME"):
        parents(plan, {"base": "/home/me/x"})


def test_folders_of_the_same_name_are_told_apart(trio_dirs, tmp_path):
    for name, folder in trio_dirs.items():
        trio_dirs[name] = Path(shutil.copytree(folder, tmp_path / "runs" / name / "final"))
    plan = plan_of(trio_dirs)
    known = parents(plan)
    assert [p.name for p in known] == ["final-base", "final-language", "final-reasoning"]
    public = to_mergekit(public_recipe(plan, known), plan.sources)
    assert public["base_model"] == "final-base"
    assert [p.name for p in parents(plan, {"base": "org/base"})][1:] == [p.name for p in known][1:]


def test_an_adapter_and_its_base_are_parents_both(trio_dirs, tmp_path):
    lora = write_adapter(tmp_path / "lora", {"base_model_name_or_path": "org/base"})
    front(lora, license="mit")
    data = recipe_data(trio_dirs)
    data["models"][0]["model"] = f"{trio_dirs['base']}+{lora}"
    plan = MergePlan(Recipe.parse(data))
    known = parents(plan, {"language": "org/lora", "base": "org/base"})
    assert [parent.roles for parent in known] == [
        ("base", "base of language"),
        ("language",),
        ("reasoning",),
    ]
    assert [parent.ids for parent in known] == [("org/base",), ("org/lora",), ()]
    assert known[1].licence.id == "mit"
    assert public_recipe(plan, known).models[0].model == "org/base+org/lora"
    found = hashes_by_parent(plan, [file_hashes(source) for source in plan.sources.all], known)
    assert [set(files) for _, files in found] == [
        {"model.safetensors", "tokenizer.json"},
        {"adapter_config.json", "adapter_model.safetensors"},
        {"model.safetensors", "tokenizer.json"},
    ]
    shutil.copytree(lora, tmp_path / "other")
    data["models"][1]["model"] = f"{trio_dirs['base']}+{tmp_path / 'other'}"
    both = model_card(MergePlan(Recipe.parse(data)))
    assert "Weights of lora (language), other (reasoning) merged by" in both


def test_a_model_that_has_two_roles_is_one_parent(trio_dirs):
    data = recipe_data(trio_dirs, "linear")
    data["models"].append({"model": str(trio_dirs["base"]), "parameters": {"weight": 1.0}})
    known = parents(MergePlan(Recipe.parse(data)))
    assert known[0].roles[0] == "base"
    assert len(known) == 3


@pytest.mark.parametrize(
    "text", ["", "no front", "---\n[1, 2\n---\n", "---\n- a\n---\n", "---\na: 1\na: 2\n---\n"]
)
def test_a_broken_card_of_a_parent_stops_nothing(trio_dirs, text):
    (trio_dirs["base"] / "README.md").write_text(text)
    assert front_matter(trio_dirs["base"] / "README.md") == {}
    assert parents(plan_of(trio_dirs))[0].licence.id is None


def test_the_hashes_are_those_of_the_files(trio_dirs):
    plan = plan_of(trio_dirs)
    hashes = [file_hashes(source) for source in plan.sources.all]
    assert [digest_of_files(h) for h in hashes] == [digest_of(s) for s in plan.sources.all]
    found = hashes_by_parent(plan, hashes, parents(plan))
    assert [set(files) for _, files in found] == [{"model.safetensors", "tokenizer.json"}] * 3


# ---- licences


def test_one_licence_stays_and_several_are_a_warning(trio_dirs):
    for name in trio_dirs:
        front(trio_dirs[name], license="apache-2.0")
    text = model_card(plan_of(trio_dirs))
    assert metadata(text)["license"] == "apache-2.0"
    assert "**Warning:**" not in text
    front(trio_dirs["language"], license="llama3.1")
    front(trio_dirs["reasoning"], title="none")
    text = model_card(plan_of(trio_dirs))
    data = metadata(text)
    assert (data["license"], data["license_name"]) == ("other", MIXED)
    assert "- `thai`: llama3.1" in text
    assert "begin the model's name with “Llama”" in text
    assert "Of `r1` no licence is known" in text


def test_what_a_publisher_has_to_look_at_is_said_in_lines(trio_dirs, tmp_path):
    ids = {"base": "org/base", "language": "org/thai", "reasoning": "org/r1"}
    for name in trio_dirs:
        front(trio_dirs[name], license="mit")
    assert concerns(parents(plan_of(trio_dirs), ids)) == []
    front(trio_dirs["language"], license="other", license_name="\x1b[31mMine\nalone")
    front(trio_dirs["reasoning"], title="none")
    front(trio_dirs["base"], license="cc-by-nc-4.0")
    each = "org/base cc-by-nc-4.0, org/thai [31mMine alone, org/r1 unknown"
    assert concerns(parents(plan_of(trio_dirs), ids)) == [
        f"the models' licences are not one, so the merge has none of its own: {each}",
        "licence cc-by-nc-4.0: no commercial use: that binds the merge",
    ]


def test_a_model_that_is_not_known_on_the_hub_is_named_with_what_to_type(trio_dirs, tmp_path):
    for name in trio_dirs:
        front(trio_dirs[name], license="mit")
    lora = write_adapter(tmp_path / "lora", {"base_model_name_or_path": "org/older"})
    front(lora, license="mit")
    other = shutil.copytree(trio_dirs["base"], tmp_path / "other")
    data = recipe_data(trio_dirs)
    data["models"][0]["model"] = f"{other}+{lora}"
    plan = MergePlan(Recipe.parse(data))
    assert concerns(parents(plan, {"reasoning": "org/r1"})) == [
        "model base-model is not known on the hub, so the card's base_model does not name it: "
        "--hub-id base=ORG/NAME",
        "model other is not known on the hub, so the card's base_model does not name it: "
        "name it by its hub id where the recipe has language: ORG/NAME+ADAPTER",
        "model lora is not known on the hub, so the card's base_model names org/older for it: "
        "--hub-id language=ORG/NAME",
    ]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["mit", "mit"], Licence("mit")),
        (["mit", "gemma"], Licence("other", MIXED)),
        (["mit", None], Licence("other", MIXED)),
        ([None, None], Licence("other", UNKNOWN)),
        (["other", "other"], Licence("other", MIXED)),  # two without a name need not be one
    ],
)
def test_licences_together(ids, expected):
    assert together(Licence(one) for one in ids) == expected


def test_known_traps_are_said_plainly():
    said = {
        "cc-by-nc-4.0": "no commercial use",
        "cc-by-nc-nd-4.0": "no commercial use",
        "cc-by-nd-4.0": "may not be published",
        "llama3": "“Llama 3”",
        "llama3.3": "“Llama”",
        "gemma": "use restrictions",
        "agpl-3.0": "copyleft",
        "gpl": "copyleft",
    }
    for name, words in said.items():
        assert words in str(Licence(name).trap), name
    assert Licence("mit").trap is None
    both = str(Licence("cc-by-nc-nd-4.0").trap)
    assert both.startswith("no derivatives: a merge of it may not be published; no commercial use")
    assert "share alike" in str(Licence("cc-by-nc-sa-4.0").trap)
    assert str(Licence("bigscience-openrail-m").trap).count("restrictions") == 1
    assert begins([Licence("mit"), Licence("llama3.1")]) == "Llama"
    assert begins([Licence("llama3")]) == "Llama 3"
    assert begins([Licence("other", "Llama3.1")]) == "Llama"
    assert begins([Licence(None), Licence("gemma")]) is None


# ---- the card as a whole


def score(name: str = "reasoning", value: float = 0.93421) -> Score:
    return Score(name, "math", "math (items.jsonl)", "math", "test", value, 0.9, 0.96, 512)


def test_the_hub_reads_the_metadata(trio_dirs, tmp_path):
    front(trio_dirs["language"], language=["th", "en", "not a code"], license="mit")
    plan = plan_of(trio_dirs)
    hashes = [file_hashes(source) for source in plan.sources.all]
    making = Making("org/merge", {"base": "org/base"}, hashes, "abc", date(2026, 1, 2), "All well.")
    found = Found((score(), score("language", 0.5)), ("zh-Hant", "tag:lang"), (("Mine", "x\n"),))
    text = model_card(plan, making, found)
    card = ModelCard(text)
    assert card.data.language == ["zh", "th", "en"]
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["merge", "mergekit", "mergefront", "ties"]
    assert card.data.base_model == ["org/base"]
    assert card.data.to_dict()["base_model_relation"] == "merge"
    assert card.data.model_name == "org/merge"
    first, second = card.data.eval_results
    assert (first.metric_value, first.metric_args["n"]) == (0.9342, 512)
    assert second.metric_name == "language"
    for words in (
        "All well.",
        "2026-01-02",
        "`abc`",
        "## Mine",
        "torch",
        hashes[1]["tokenizer.json"],
    ):
        assert words in text
    assert str(tmp_path) not in text


def test_the_code_of_norwegian_is_no_boolean(trio_dirs):
    front(trio_dirs["language"], language=["no", "en"])
    text = model_card(plan_of(trio_dirs), Making("no"))
    assert metadata(text)["language"] == ["no", "en"]
    assert yaml.safe_load(text.split("---\n")[1])["language"] == ["no", "en"]


def test_without_mergekits_method_nothing_claims_it(trio_dirs):
    text = model_card(plan_of(trio_dirs, "ties_sv"))
    assert "mergekit" not in metadata(text)["tags"]
    assert "There is no mergekit configuration of this merge: mergekit has no ties" in text
    assert "mergekit_config.yml" not in text


WILD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(WILD, WILD)
@settings(max_examples=60)
def test_no_text_of_others_breaks_out(one, two):
    """Tables keep their columns, lines stay lines, fences close."""
    for text in (md(one), code(one)):
        assert "\n" not in text
        assert "\r" not in text
    cells = table(["a", "b"], [[md(one), code(two)]]).splitlines()
    assert len(cells) == 3
    # A backslash that is escaped escapes no bar.
    assert re.sub(r"\\.", "", cells[2]).count("|") == 3
    fenced = block(one + "\n```\n" + two).splitlines()
    assert not any(line.startswith(fenced[0]) for line in fenced[1:-1])


@pytest.mark.parametrize(
    "nasty",
    ["a | b", "x\n---\nlicense: mit", "<script>alert(1)</script>", "[x](javascript:1)", "`"],
)
def test_what_stands_in_a_parents_card_stays_text(trio_dirs, nasty):
    front(trio_dirs["language"], license="other", license_name=nasty, license_link=nasty)
    front(trio_dirs["base"], license="mit")
    text = model_card(plan_of(trio_dirs), Making(name=nasty))
    assert metadata(text)["license_name"] == MIXED
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body
    assert not re.search(r"(?<!\\)\]\(javascript:", body)
    rows = [line for line in body.splitlines() if line.startswith("| language |")]
    assert len(rows) == 1
