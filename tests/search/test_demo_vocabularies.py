"""The trio with a language expert of another vocabulary merges and scores as the plain trio."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge_core import MergePlan, Recipe, write_merge
from merge_core.methods import METHODS, get_method
from search.config import load
from search.demo import Trio, world
from search.demo.vocabularies import NEW_TOKENS, Vocabulary, write_expert
from search.errors import ConfigError
from search.session import prepare
from search.worker import Evaluator, Job
from tests.search.kit import finish, start, write_search

EMBEDDING = "model.embed_tokens.weight"
OTHERS: tuple[Vocabulary, ...] = ("permuted", "extended")


@pytest.fixture(scope="module")
def trios(trio: Trio, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trio]:
    made = {"plain": trio}
    for vocabulary in OTHERS:
        out = tmp_path_factory.mktemp("trio") / vocabulary
        write_expert(trio.language, out, vocabulary)
        made[vocabulary] = Trio(out.parent, trio.base, out, trio.reasoning)
    return made


def recipe_of(trio: Trio, method: str, source: str = "base") -> Recipe:
    """A recipe of any method; slerp's models are base and the language expert."""
    parameters = {"density": 0.37, "slack": 0.5, "epsilon": 0.1, "gamma": 0.02, "t": 0.3}
    known = get_method(method).by_name
    two = (trio.base, trio.language) if method == "slerp" else (trio.language, trio.reasoning)
    names = ("own", "language") if method == "slerp" else ("language", "reasoning")
    data = {
        "merge_method": method,
        "base_model": str(trio.base),
        "models": [
            {"model": str(m), "name": n}
            | ({"parameters": {"weight": w}} if "weight" in known else {})
            for m, n, w in zip(two, names, (0.8, 0.6), strict=True)
        ],
        "parameters": {key: value for key, value in parameters.items() if key in known},
        "tokenizer_source": source,
        "seed": 5,
    }
    return Recipe.parse(data)


def merged(trio: Trio, method: str, source: str = "base") -> dict[str, torch.Tensor]:
    plan = MergePlan(recipe_of(trio, method, source))
    return {name: tensor.clone().view(torch.int16) for name, tensor in plan.tensors()}


@pytest.mark.parametrize("vocabulary", OTHERS)
def test_the_expert_answers_as_before(trios: dict[str, Trio], vocabulary: Vocabulary) -> None:
    replies = []
    for trio in (trios["plain"], trios[vocabulary]):
        model = AutoModelForCausalLM.from_pretrained(trio.language).eval()
        tokenizer = AutoTokenizer.from_pretrained(trio.language)
        assert model.config.vocab_size == len(tokenizer) == len(model.get_input_embeddings().weight)
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        asked = [{"role": "user", "content": world.draw_problems(1, 3)[0].question("th")}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        batch = tokenizer([prompt], return_tensors="pt", add_special_tokens=False)
        tokens = model.generate(**batch, max_new_tokens=30, do_sample=False)
        replies.append(tokenizer.decode(tokens[0]))
    assert replies[0] == replies[1]


def test_the_vocabularies_differ_as_they_say(trios: dict[str, Trio]) -> None:
    ids = {
        name: json.loads((trio.language / "tokenizer.json").read_text())["model"]["vocab"]
        for name, trio in trios.items()
    }
    assert ids["permuted"].keys() == ids["plain"].keys()
    moved = [token for token, number in ids["plain"].items() if ids["permuted"][token] != number]
    assert len(moved) > 160
    assert ids["extended"].items() >= ids["plain"].items()
    assert set(ids["extended"]) - set(ids["plain"]) == set(NEW_TOKENS)


@pytest.mark.parametrize("method", METHODS)
def test_merges_in_base_s_vocabulary_are_the_plain_trio_s(trios, method: str) -> None:
    """To the bit: trims, masks and ranks are facts of base's rows."""
    plain = merged(trios["plain"], method)
    for vocabulary in OTHERS:
        other = merged(trios[vocabulary], method)
        assert other.keys() == plain.keys()
        assert all(torch.equal(other[name], plain[name]) for name in plain), vocabulary


@pytest.mark.parametrize("source", ["union", "model:language"])
@pytest.mark.parametrize("method", ["ties_sv", "dare_ties", "linear"])
def test_merges_in_the_experts_vocabulary_move_rows_and_add_its_own(trios, method, source) -> None:
    plain = merged(trios["plain"], method)[EMBEDDING]
    extended = merged(trios["extended"], method, source)[EMBEDDING]
    assert torch.equal(extended[: len(plain)], plain)
    own = AutoModelForCausalLM.from_pretrained(trios["extended"].language).state_dict()[EMBEDDING]
    assert torch.equal(extended[len(plain) :], own[len(plain) :].view(torch.int16))
    permuted = merged(trios["permuted"], method, source)[EMBEDDING]
    if source == "union":  # base has all tokens too, and comes first
        assert torch.equal(permuted, plain)
        return
    for token, number in MergePlan(
        recipe_of(trios["permuted"], method, source)
    ).sources.vocabulary.items():
        assert torch.equal(permuted[number], plain[world.encode(token)[0]])


def test_an_expert_with_a_head_of_its_own_scores_as_one_that_shares_it(
    trio: Trio, tmp_path: Path
) -> None:
    """The merge is untied then, and the engine with it, although base is tied."""
    own = shutil.copytree(trio.language, tmp_path / "language")
    config = json.loads((own / "config.json").read_text()) | {"tie_word_embeddings": False}
    (own / "config.json").write_text(json.dumps(config))
    tensors = load_file(own / "model.safetensors")
    tensors["lm_head.weight"] = tensors[EMBEDDING].clone()
    save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
    untied = Trio(tmp_path, trio.base, own, trio.reasoning)
    found = [
        scores(tmp_path / name, models, "base", ("task_arithmetic",), [])
        for name, models in (("tied", trio), ("untied", untied))
    ]
    assert found[0] == found[1]


def scores(
    root: Path, trio: Trio, source: str, methods: tuple[str, ...], baselines: list[str]
) -> list:
    """What a worker of a search in `source`'s vocabulary finds for a few recipes."""
    file = write_search(root, trio, tokenizer_source=source, baselines=baselines)
    prepared = prepare(load(file))
    recipes = [recipe_of(trio, method, source) for method in methods]
    evaluator = Evaluator(prepared.setup())
    try:
        results = [
            evaluator.evaluate(Job("job", recipe, "f", "dev"))
            for recipe in (*recipes, *prepared.baselines.values())
        ]
    finally:
        evaluator.close()
    assert not any(result.fault for result in results)
    return [[(i.id, i.scores, i.text) for i in result.items["math_th"]] for result in results]


def test_searches_score_as_on_the_plain_trio(trios: dict[str, Trio], tmp_path: Path) -> None:
    methods = ("ties_sv", "dare_ties", "task_arithmetic")
    baselines = ["base", "experts", "uniform"]
    plain = scores(tmp_path / "plain", trios["plain"], "base", methods, baselines)
    assert len({json.dumps(found) for found in plain}) > 3
    for vocabulary in OTHERS:
        for source in ("base", "union", "model:language"):
            root = tmp_path / f"{vocabulary}-{source}"
            found = scores(root, trios[vocabulary], source, methods, baselines)
            if (vocabulary, source) == ("permuted", "model:language"):
                # Of equal logits the first is taken, and another token is the first there.
                answers = list(zip(chain(*found), chain(*plain), strict=True))
                assert sum(one == other for one, other in answers) > 0.95 * len(answers)
            else:
                assert found == plain, (vocabulary, source)


def test_a_baseline_in_another_vocabulary_is_refused(trios, tmp_path: Path) -> None:
    """Its tensors have the search's shapes, but its rows are other tokens'."""
    recipe_of(trios["permuted"], "ties", "model:language").save(tmp_path / "other.yaml")
    file = write_search(tmp_path, trios["permuted"], baselines=["recipe:other.yaml"])
    with pytest.raises(ConfigError, match="its vocabulary is not this search's: give it"):
        prepare(load(file))


def test_check_and_merge_say_what_differs(trios, tmp_path: Path) -> None:
    file = write_search(tmp_path, trios["extended"], tokenizer_source="union")
    said = finish(start(tmp_path, "check", file.name))
    assert "vocabulary of the merge: language's; 211 tokens, 211 rows" in said
    assert "language: adds 40 tokens ('คำใหม่1', " in said
    recipe_of(trios["permuted"], "ties").save(tmp_path / "recipe.yaml")
    said = finish(start(tmp_path, "merge", "recipe.yaml", "out"))
    assert "language: has 170 tokens at other ids" in said
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_what_is_written_speaks_the_vocabulary(trios: dict[str, Trio], tmp_path: Path) -> None:
    """transformers loads a merge in the experts' vocabulary, and it answers as the plain one."""
    replies = []
    for name, source in (("plain", "base"), ("extended", "union"), ("permuted", "model:language")):
        write_merge(MergePlan(recipe_of(trios[name], "ties_sv", source)), tmp_path / name)
        model, report = AutoModelForCausalLM.from_pretrained(
            tmp_path / name, output_loading_info=True
        )
        assert not any(report.values()), report
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        assert model.config.vocab_size == len(tokenizer)
        assert model.config.eos_token_id == tokenizer.eos_token_id
        asked = [{"role": "user", "content": world.draw_problems(1, 3)[0].question("th")}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        batch = tokenizer([prompt], return_tensors="pt", add_special_tokens=False)
        tokens = model.eval().generate(**batch, max_new_tokens=30, do_sample=False)
        replies.append(tokenizer.decode(tokens[0]))
    assert replies[0] == replies[1] == replies[2]
