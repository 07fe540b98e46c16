"""LoRA experts: the arithmetic against a readable twin, the meaning against PEFT itself."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from merge_core import Checkpoint, CheckpointError
from merge_core.adapters import ADAPTER_FILE, AdaptedCheckpoint, LowRank
from merge_core.checkpoint import HEAD, SINGLE_FILE
from tests.merge_core.conftest import CONFIG, make_model, write_checkpoint

UNIT = 2.0**-24
EMBEDDING = "model.embed_tokens.weight"
Q0 = "model.layers.0.self_attn.q_proj.weight"

# ---- the arithmetic


def readable(low_rank: LowRank) -> np.ndarray:
    """The difference as DESIGN writes it down, one term after the other."""
    total = low_rank.B[:, :1] * low_rank.A[:1]
    for k in range(1, low_rank.rank):
        total = total + low_rank.B[:, k : k + 1] * low_rank.A[k : k + 1]
    return total * low_rank.scale


def random_low_rank(rows: int, columns: int, rank: int, seed: int) -> LowRank:
    random = np.random.default_rng(seed)

    def factor(*shape: int) -> np.ndarray:
        spread = random.choice(np.array([1e-22, 1e-3, 1.0, 1e3], np.float32), shape)
        values = random.standard_normal(shape, dtype=np.float32) * spread
        return np.where(random.random(shape) < 0.1, np.float32(-0.0), values)

    return LowRank(factor(rows, rank), factor(rank, columns), np.float32(random.normal()))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 9),
    columns=st.one_of(st.integers(1, 40), st.sampled_from([1023, 1024, 1025, 2050])),
    rank=st.integers(1, 19),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_any_slice_has_the_bits_of_the_whole(rows, columns, rank, seed, data) -> None:
    low_rank = random_low_rank(rows, columns, rank, seed)
    whole = readable(low_rank).reshape(-1)
    start = data.draw(st.integers(0, whole.size))
    stop = data.draw(st.integers(start, whole.size))
    guarded = np.full(stop - start + 2, np.float32(7.0))
    low_rank.fill(guarded[1:-1], start)
    expected = whole[start:stop]
    np.testing.assert_array_equal(guarded[1:-1].view(np.uint32), expected.view(np.uint32))
    assert guarded[0] == guarded[-1] == 7.0
    assert low_rank.shape == (rows, columns)


def test_a_tensor_of_many_blocks() -> None:
    low_rank = random_low_rank(300, 2100, 16, 1)
    out = np.empty(300 * 2100, np.float32)
    low_rank.fill(out, 0)
    np.testing.assert_array_equal(out.view(np.uint32), readable(low_rank).ravel().view(np.uint32))


# ---- the meaning, against PEFT


def base_model(
    path: Path, *, tied: bool = False, bias: bool = False, family: str = "llama"
) -> Path:
    torch.manual_seed(0)
    if family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=41, n_embd=16, n_layer=2, n_head=2, n_positions=8, n_inner=16
        )
    else:
        config = transformers.LlamaConfig(
            vocab_size=41,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=tied,
            attention_bias=bias,
        )
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.05)
    model.save_pretrained(path)
    return path


def load(path: Path) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def train(base: Path, out: Path, *, rows: int | None = None, **changes) -> Path:
    """A PEFT adapter on `base` with random weights, saved."""
    model = load(base)
    if rows is not None:
        model.resize_token_embeddings(rows)
    given = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{**given, **changes}))
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter.data, std=0.1)
    adapted.save_pretrained(out)
    return out


def merged_by_peft(base: Path, adapter: Path, out: Path, rows: int | None = None) -> Path:
    model = load(base)
    if rows is not None:
        model.resize_token_embeddings(rows)
    peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
    return out


def assert_agrees(adapted: Checkpoint, merged: Path) -> set[str]:
    """Every tensor within the bound that LowRank states; the names of those with a difference."""
    assert isinstance(adapted, AdaptedCheckpoint)
    expected = load_file(merged / SINGLE_FILE)
    assert adapted.specs.keys() == expected.keys()
    assert adapted.tied == json.loads((merged / "config.json").read_text())["tie_word_embeddings"]
    low = set()
    for name, theirs in expected.items():
        ours = adapted.tensor(name)
        assert ours.shape == theirs.shape == adapted.specs[name].shape
        assert ours.dtype == adapted.specs[name].dtype
        delta = adapted.delta(name)
        if delta is None:
            assert torch.equal(ours.float(), theirs)
            continue
        low.add(name)
        assert not adapted.replaces(name)
        difference = np.empty(theirs.numel(), np.float32)
        delta.fill(difference, 0)
        assert np.abs(difference).max() > 0
        n = delta.rank + 1
        size = abs(float(delta.scale)) * (abs(delta.B.astype(float)) @ abs(delta.A.astype(float)))
        total = ours.double().numpy() + difference.reshape(delta.shape)
        bound = 2 * n * UNIT / (1 - n * UNIT) * size + UNIT * abs(theirs.double().numpy())
        assert (abs(theirs.double().numpy() - total) <= bound).all()
    return low


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "plain": base_model(folder / "plain"),
        "tied": base_model(folder / "tied", tied=True),
        "bias": base_model(folder / "bias", bias=True),
        "gpt2": base_model(folder / "gpt2", family="gpt2"),
    }


CASES: dict[str, tuple[str, dict, int]] = {
    # name: base, LoraConfig, tensors with a difference
    "plain": ("plain", {}, 2),
    "scale_of_thirds": ("plain", {"r": 3, "lora_alpha": 10}, 2),
    "every_layer": ("plain", {"target_modules": "all-linear", "r": 7}, 14),
    "rank_stabilized": ("plain", {"use_rslora": True, "r": 5}, 2),
    "patterns": (
        "plain",
        {
            "target_modules": ["q_proj", "up_proj", "v_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "q_proj": 6, r"layers\.\d+.mlp.*": 3},
            "alpha_pattern": {"^model.layers.0.self_attn.v_proj": 20, "proj": 5, "up_proj": 1},
            "use_rslora": True,
        },
        6,
    ),
    "layers_to_transform": ("plain", {"layers_to_transform": [1]}, 1),
    "embeddings": ("plain", {"target_modules": ["q_proj", "embed_tokens"]}, 3),
    "head": ("plain", {"target_modules": ["q_proj", "lm_head"]}, 3),
    "saved_head": ("plain", {"modules_to_save": ["lm_head"]}, 2),
    "saved_norms": ("plain", {"modules_to_save": ["norm", "input_layernorm"]}, 2),
    "bias_all": ("bias", {"bias": "all"}, 2),
    "bias_lora_only": ("bias", {"bias": "lora_only"}, 2),
    "tied_embeddings": ("tied", {"target_modules": ["q_proj", "embed_tokens"]}, 3),
    "tied_head": ("tied", {"target_modules": ["q_proj", "lm_head"]}, 3),
    "tied_saved_embeddings": ("tied", {"modules_to_save": ["embed_tokens"]}, 2),
    "tied_saved_head": ("tied", {"modules_to_save": ["lm_head"]}, 2),
    "tied_saved_both": ("tied", {"modules_to_save": ["embed_tokens", "lm_head"]}, 2),
    "tied_saved_and_kept": (
        "tied",
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        2,
    ),
    "tied_head_on_saved_embeddings": (
        "tied",
        {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"]},
        3,
    ),
    "tied_embeddings_under_a_saved_head": (
        "tied",
        {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]},
        3,
    ),
    "fan_in_fan_out": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
        8,
    ),
    "gpt2_embeddings": (
        "gpt2",
        {"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True},
        3,
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_peft(case: str, bases: dict[str, Path], tmp_path: Path) -> None:
    kind, changes, count = CASES[case]
    base = bases[kind]
    adapter = train(base, tmp_path / "lora", **changes)
    adapted = Checkpoint.open(f"{base}+{adapter}")
    merged = merged_by_peft(base, adapter, tmp_path / "merged")
    low = assert_agrees(adapted, merged)
    assert len(low) == count
    adapted.check_finite()


@pytest.mark.filterwarnings("ignore")
def test_a_bfloat16_base_and_adapter(bases: dict[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    load(bases["plain"]).to(torch.bfloat16).save_pretrained(base)
    adapter = train(base, tmp_path / "lora", target_modules=["q_proj", "embed_tokens"])
    file = adapter / ADAPTER_FILE
    save_file({n: t.to(torch.bfloat16) for n, t in load_file(file).items()}, file)
    adapted = Checkpoint.open(f"{base}+{adapter}")
    assert {spec.dtype for spec in adapted.specs.values()} == {torch.bfloat16}
    assert len(assert_agrees(adapted, merged_by_peft(base, adapter, tmp_path / "merged"))) == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("plain", {}),
        ("tied", {}),
        ("plain", {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("tied", {"target_modules": ["embed_tokens"]}),
    ],
    ids=["plain", "tied", "saved", "adapted"],
)
def test_a_resized_vocabulary(kind, changes, bases, tmp_path: Path) -> None:
    base = bases[kind]
    adapter = train(base, tmp_path / "lora", rows=44, **changes)
    adapted = Checkpoint.open(f"{base}+{adapter}")
    assert adapted.specs[EMBEDDING].shape == (44, 16)
    assert adapted.replaces(EMBEDDING)
    merged = merged_by_peft(base, adapter, tmp_path / "merged", rows=44)
    if not changes.get("target_modules"):
        assert_agrees(adapted, merged)
        return
    # The resized embedding is formed: the base's is no longer what the difference is from.
    assert adapted.delta(EMBEDDING) is None
    theirs = load_file(merged / SINGLE_FILE)[EMBEDDING]
    ours = pickle.loads(pickle.dumps(adapted)).tensor(EMBEDDING)
    assert torch.equal(ours, adapted.tensor(EMBEDDING))
    assert ours.dtype == adapted.specs[EMBEDDING].dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=4 * UNIT, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
def test_a_vocabulary_resized_by_half(bases: dict[str, Path], tmp_path: Path) -> None:
    # PEFT saves the adapted embedding and forgets the new head.
    adapter = train(bases["plain"], tmp_path / "lora", rows=44, target_modules=["embed_tokens"])
    message = error_of(f"{bases['plain']}+{adapter}")
    assert "model.embed_tokens.weight has 44 rows and lm_head.weight 41" in message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    ],
)
def test_two_differences_of_one_shared_tensor(changes, bases, tmp_path: Path) -> None:
    adapter = train(bases["tied"], tmp_path / "lora", **changes)
    assert "adapts both model.embed_tokens.weight and the head" in error_of(
        f"{bases['tied']}+{adapter}"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ],
)
def test_what_peft_saves_but_is_no_difference(changes, key, bases, tmp_path: Path) -> None:
    adapter = train(bases["bias"], tmp_path / "lora", **changes)
    message = error_of(f"{bases['bias']}+{adapter}")
    assert message.startswith(f"{adapter / 'adapter_config.json'}: {key}")
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", [False, "gaussian", "orthogonal"])
def test_starts_that_keep_the_base(start, bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = train(bases["plain"], tmp_path / "lora", init_lora_weights=start)
    merged = merged_by_peft(bases["plain"], adapter, tmp_path / "merged")
    assert len(assert_agrees(Checkpoint.open(f"{bases['plain']}+{adapter}"), merged)) == 2


# ---- adapters by hand


def error_of(reference: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(reference)
    message = str(caught.value)
    assert "\n" not in message
    return message


P = "base_model.model."
STEM = Q0.removesuffix("weight")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A tied base of Llama's names and an adapter of rank 2 on one square tensor."""
    base = write_checkpoint(tmp_path / "base", make_model(0))
    return base, write_adapter(tmp_path / "lora")


def write_adapter(path: Path, config: dict | None = None, **tensors: torch.Tensor | None) -> Path:
    path.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(5)
    stored: dict[str, torch.Tensor | None] = {
        f"{P}{STEM}lora_A.weight": torch.randn(2, 8, generator=generator),
        f"{P}{STEM}lora_B.weight": torch.randn(8, 2, generator=generator),
    }
    stored.update({f"{P}{name}": tensor for name, tensor in tensors.items()})
    save_file({n: t for n, t in stored.items() if t is not None}, path / ADAPTER_FILE)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **(config or {})}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path


def test_what_an_adapted_checkpoint_tells(pair: tuple[Path, Path]) -> None:
    base, lora = pair
    plain, adapted = Checkpoint.open(str(base)), Checkpoint.open(f"{base}+{lora}")
    assert isinstance(adapted, AdaptedCheckpoint)
    assert adapted.reference == f"{base}+{lora}"
    assert adapted.path == lora
    assert adapted.base.reference == str(base)
    assert adapted.specs == plain.specs
    assert adapted.config == plain.config
    assert (adapted.layers, adapted.tied, adapted.architecture) == (3, True, "LlamaForCausalLM")
    assert {file.name for file in adapted.files} == {
        SINGLE_FILE,
        ADAPTER_FILE,
        "adapter_config.json",
    }
    delta = adapted.delta(Q0)
    assert delta is not None
    assert (delta.shape, delta.rank, delta.scale) == ((8, 8), 2, np.float32(2))
    assert adapted.delta(Q0) is delta  # the last one is kept: slices ask again and again
    assert torch.equal(adapted.tensor(Q0), plain.tensor(Q0))
    assert adapted.delta(EMBEDDING) is None
    assert not adapted.replaces(EMBEDDING)
    copy = pickle.loads(pickle.dumps(adapted))
    assert np.array_equal(copy.delta(Q0).B, delta.B)


def test_a_base_is_opened_once(pair: tuple[Path, Path]) -> None:
    base, lora = pair
    plain = Checkpoint.open(str(base))
    adapted = Checkpoint.open(f"{base}+{lora}", {str(base): plain})
    assert isinstance(adapted, AdaptedCheckpoint)
    assert adapted.base is plain


def test_the_tokenizer_is_the_adapters_if_it_has_one(pair: tuple[Path, Path]) -> None:
    base, lora = pair
    assert Checkpoint.open(str(base)).tokenizer_path == base
    assert Checkpoint.open(f"{base}+{lora}").tokenizer_path == base
    (lora / "tokenizer.json").write_text("{}")
    assert Checkpoint.open(f"{base}+{lora}").tokenizer_path == lora


def test_the_digest_knows_base_factors_and_scale(pair: tuple[Path, Path]) -> None:
    base, lora = pair
    first = Checkpoint.open(f"{base}+{lora}").sha256()
    assert set(first) == {
        f"base/{SINGLE_FILE}",
        f"adapter/{ADAPTER_FILE}",
        "adapter/adapter_config.json",
    }
    write_adapter(lora, {"lora_alpha": 5})
    second = Checkpoint.open(f"{base}+{lora}").sha256()
    assert {name for name in first if first[name] != second[name]} == {
        "adapter/adapter_config.json"
    }


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_check_finite_names_the_adapters_tensor(pair, bad: float) -> None:
    base, lora = pair
    Checkpoint.open(f"{base}+{lora}").check_finite()
    factor = torch.randn(2, 8)
    factor[1, 3] = bad
    write_adapter(lora, **{f"{STEM}lora_A.weight": factor})
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(f"{base}+{lora}").check_finite()
    assert str(caught.value).startswith(
        f"{lora / ADAPTER_FILE}: tensor {P}{STEM}lora_A.weight holds NaN"
    )


CONFIGS: list[tuple[dict, str]] = [
    ({"peft_type": "IA3"}, "peft_type is 'IA3'; of adapters only LORA is merged"),
    ({"peft_type": None}, "peft_type is None"),
    ({"use_qalora": True}, "use_qalora is set: QALoRA"),
    ({"target_parameters": ["experts.up"]}, "target_parameters is set: LoRA on bare parameters"),
    ({"megatron_config": {"a": 1}}, "megatron_config is set"),
    ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
    ({"use_newer_lora": True}, "use_newer_lora is not known here"),
    ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16', which changes the base's"),
    ({"init_lora_weights": "loftq"}, "'loftq', which changes the base's"),
    ({"init_lora_weights": "CorDA"}, "'corda', which changes the base's"),
    ({"init_lora_weights": ["x"]}, "['x'], which changes the base's"),
    ({"r": 0}, "a rank is 0"),
    ({"r": True}, "a rank is True"),
    ({"r": None}, "a rank is None"),
    ({"lora_alpha": "4"}, "an alpha is 4;"),
    ({"lora_alpha": float("nan")}, "an alpha is nan"),
    ({"lora_alpha": 10**400}, "an alpha is 1000"),
    ({"lora_alpha": 1e39}, "an alpha is 1e+39"),
    ({"rank_pattern": {"q_proj": 2.5}}, "a rank is 2.5"),
    ({"rank_pattern": ["q_proj"]}, "rank_pattern is ['q_proj']"),
    ({"alpha_pattern": {"(q_proj": 2}}, "alpha_pattern: '(q_proj' is no regular expression"),
    ({"alpha_pattern": {"q_proj": None}}, "an alpha is None"),
    ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head'"),
    ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
]


@pytest.mark.parametrize(("config", "message"), CONFIGS)
def test_settings_that_are_refused(pair, config: dict, message: str) -> None:
    base, lora = pair
    write_adapter(lora, config)
    got = error_of(f"{base}+{lora}")
    assert got.startswith(f"{lora / 'adapter_config.json'}: ")
    assert message in got


@pytest.mark.parametrize("config", [{"r": 2, "rank_pattern": {"k_proj": 8}}, {"use_dora": False}])
def test_settings_that_do_not_concern_it(pair, config: dict) -> None:
    base, lora = pair
    write_adapter(lora, config)
    assert Checkpoint.open(f"{base}+{lora}").delta(Q0) is not None


A, B = f"{STEM}lora_A.weight", f"{STEM}lora_B.weight"
UP = "model.layers.0.mlp.up_proj"
TENSORS: list[tuple[dict[str, torch.Tensor | None], str]] = [
    ({B: None}, f"{P}{A} lacks its other factor"),
    (
        {A: torch.zeros(3, 8)},
        f"{P}{A} is [3, 8] and its B [8, 2]; adapter_config.json gives rank 2",
    ),
    ({A: torch.zeros(2, 8, 3), B: torch.zeros(8, 2, 1)}, "only adapters of linear layers"),
    ({A: torch.zeros(16)}, "is [16] and its B [8, 2]; only adapters of linear"),
    ({A: torch.zeros(2, 8, dtype=torch.int32)}, "only adapters of linear"),
    ({A: torch.zeros(2, 9)}, f"make [8, 9], {Q0} in"),
    ({A: torch.zeros(2, 0)}, "make [8, 0]"),
    ({f"{STEM}lora_magnitude_vector": torch.zeros(8)}, "lora_magnitude_vector belongs to no"),
    ({f"{STEM}lora_A.default.weight": torch.zeros(2, 8)}, "lora_A.default.weight belongs to no"),
    ({"model.layers.9.self_attn.q_proj.lora_A.weight": torch.zeros(2, 8)}, "layers.9"),
    ({"score.weight": torch.zeros(2, 8)}, f"{P}score.weight belongs to no tensor"),
    ({"model.norm.weight": torch.zeros(9)}, "model.norm.weight is [9] of torch.float32, in"),
    ({"model.norm.weight": torch.zeros(8, dtype=torch.int8)}, "is [8] of torch.int8, in"),
    ({EMBEDDING: torch.zeros(30, 7)}, "is [30, 7] of torch.float32"),
    ({Q0: torch.zeros(8, 8)}, f"{P}{Q0} belongs to no tensor"),
    ({f"{UP}.base_layer.weight": torch.zeros(17, 8)}, "up_proj.base_layer.weight belongs to"),
    ({f"{UP}.original_module.weight": torch.zeros(17, 8)}, "original_module.weight belongs to"),
    ({EMBEDDING: torch.zeros(23, 8), HEAD: torch.ones(23, 8)}, "stores a head that differs"),
]


@pytest.mark.parametrize(("tensors", "message"), TENSORS)
def test_tensors_that_do_not_fit(pair, tensors: dict, message: str) -> None:
    base, lora = pair
    write_adapter(lora, **tensors)
    got = error_of(f"{base}+{lora}")
    assert got.startswith(f"{lora / ADAPTER_FILE}: ")
    assert message in got


def test_a_name_without_pefts_prefix(pair: tuple[Path, Path]) -> None:
    base, lora = pair
    save_file({Q0: torch.zeros(8, 8)}, lora / ADAPTER_FILE)
    assert f"{Q0} belongs to no tensor of {base}" in error_of(f"{base}+{lora}")
    save_file({}, lora / ADAPTER_FILE)
    assert "holds no tensors" in error_of(f"{base}+{lora}")


def test_a_layout_that_cannot_be_told(pair: tuple[Path, Path]) -> None:
    base, lora = pair
    up = {f"{UP}.lora_A.weight": torch.zeros(2, 8), f"{UP}.lora_B.weight": torch.zeros(17, 2)}
    write_adapter(lora, {"fan_in_fan_out": True}, **up)
    got = error_of(f"{base}+{lora}")
    assert f"fan_in_fan_out does not hold for {UP}.weight, so the layout of {Q0}" in got
    # Shapes that are not square tell by themselves.
    write_adapter(lora, {"fan_in_fan_out": True}, **up, **{A: None, B: None})
    assert Checkpoint.open(f"{base}+{lora}").delta(f"{UP}.weight").shape == (17, 8)


def test_a_frozen_copy_that_is_not_the_bases(pair: tuple[Path, Path]) -> None:
    base, lora = pair
    stored = load_file(base / SINGLE_FILE)[EMBEDDING]
    stem = "model.embed_tokens"
    tensors = {
        f"{stem}.lora_embedding_A": torch.randn(2, 23),
        f"{stem}.lora_embedding_B": torch.randn(8, 2),
    }
    for frozen, formed in ((stored.float(), False), (stored.half(), False), (stored + 1, True)):
        write_adapter(lora, None, **tensors, **{f"{stem}.base_layer.weight": frozen})
        adapted = Checkpoint.open(f"{base}+{lora}")
        assert adapted.replaces(EMBEDDING) is formed
        assert (adapted.delta(EMBEDDING) is None) is formed
    plain = write_adapter(lora, None, **tensors)
    delta = Checkpoint.open(f"{base}+{plain}").delta(EMBEDDING)
    difference = np.empty(23 * 8, np.float32)
    delta.fill(difference, 0)
    expected = torch.from_numpy(difference).reshape(23, 8) + (stored + 1).float()
    assert torch.equal(adapted.tensor(EMBEDDING), expected)


def test_an_adapter_that_is_a_pickle(pair: tuple[Path, Path]) -> None:
    base, lora = pair
    (lora / ADAPTER_FILE).rename(lora / "adapter_model.bin")
    assert "adapter_model.bin: is a pickle" in error_of(f"{base}+{lora}")
    (lora / "adapter_model.bin").unlink()
    assert f"{lora}: has no {ADAPTER_FILE}" in error_of(f"{base}+{lora}")
    (lora / ADAPTER_FILE).write_bytes(b"\x08")
    assert "damaged or cut short" in error_of(f"{base}+{lora}")
    (lora / "adapter_config.json").unlink()
    assert "adapter_config.json: no such file; what follows + is" in error_of(f"{base}+{lora}")


def test_a_tied_base_that_stores_its_head_too(tmp_path: Path) -> None:
    tensors = make_model(0)
    base = write_checkpoint(tmp_path / "base", {**tensors, HEAD: tensors[EMBEDDING].clone()})
    lora = write_adapter(tmp_path / "lora")
    adapted = Checkpoint.open(f"{base}+{lora}")
    assert HEAD not in adapted.specs
    assert adapted.stored_name(HEAD) == EMBEDDING
    saved = {HEAD: torch.ones(23, 8)}
    write_adapter(lora, {"modules_to_save": ["lm_head"]}, **saved)
    adapted = Checkpoint.open(f"{base}+{lora}")
    assert adapted.stored_name(HEAD) == HEAD
    assert torch.equal(adapted.tensor(HEAD), saved[HEAD])
    assert torch.equal(adapted.tensor(EMBEDDING), tensors[EMBEDDING])


def test_a_quantized_base(pair: tuple[Path, Path]) -> None:
    base, lora = pair
    config = {**CONFIG, "quantization_config": {"quant_method": "bitsandbytes"}}
    (base / "config.json").write_text(json.dumps(config))
    assert f"{base}: is quantized" in error_of(f"{base}+{lora}")


def test_an_adapter_without_its_base(pair: tuple[Path, Path]) -> None:
    _, lora = pair
    assert f"is an adapter; name it with its base: BASE+{lora}" in error_of(str(lora))
