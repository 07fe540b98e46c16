import gc
import json
import math
import shutil

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from objectives.engines import (
    ENGINES,
    PROMPT_CHECKS,
    EngineConfig,
    ScriptedConfig,
    TransformersConfig,
    make_engine,
    prompt_check,
)
from objectives.engines.base import Continuation, Engine, GenerationSettings, Prompt
from objectives.engines.batching import Size
from objectives.engines.scripted import ScriptedEngine
from objectives.errors import EngineError
from objectives.tables import resolve
from tests.objectives.engine_suite import (
    ASKED,
    PROMPTS,
    SHORT,
    DictSource,
    EngineSuite,
    ReadingEngineSuite,
    Spec,
    user,
)
from tests.objectives.tiny_model import TEMPLATE, save_model

CPU = TransformersConfig(device="cpu")


def state(path):
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def batches_of(engine, sizes):
    """The batches that the engine makes of rows of these sizes."""
    batches = []
    engine._batcher.run(range(len(sizes)), sizes, [""] * len(sizes), batches.append)
    assert [i for batch in batches for i in batch] == list(range(len(sizes)))
    return batches


class TestTransformers(ReadingEngineSuite):
    @pytest.fixture
    def engine(self, tiny):
        with make_engine(CPU, tiny) as engine:
            yield engine

    @pytest.fixture
    def weights(self, tiny_other):
        return state(tiny_other)

    def test_a_loaded_engine_answers_as_a_fresh_one(self, engine, weights, tiny_other):
        before = engine.generate(PROMPTS, SHORT)
        engine.load(DictSource(weights))
        with make_engine(CPU, tiny_other) as fresh:
            expected = fresh.generate(PROMPTS, SHORT)
        assert engine.generate(PROMPTS, SHORT) == expected != before

    def test_loads_into_the_live_parameters(self, engine, weights):
        addresses = [p.data_ptr() for p in engine._model.parameters()]
        engine.load(DictSource(weights))
        assert [p.data_ptr() for p in engine._model.parameters()] == addresses

    def test_answers_as_generate_does(self, engine):
        for prompt in PROMPTS:
            tokens, _ = engine._encoder.prompt(prompt)
            out = engine._model.generate(torch.tensor([tokens]), max_new_tokens=8, do_sample=False)[
                0, len(tokens) :
            ]
            assert engine.generate([prompt], SHORT)[0].text == engine._answers.text(out.tolist())

    @pytest.mark.parametrize("limits", [{"batch_size": 1}, {"batch_size": 2}])
    def test_rows_do_not_depend_on_their_batch(self, engine, tiny, limits):
        many = PROMPTS * 3
        with make_engine(CPU.model_copy(update=limits), tiny) as other:
            assert other.generate(many, SHORT) == engine.generate(many, SHORT)

    def test_rows_that_end_early_leave_the_batch_unchanged(self, engine, tiny):
        prompts = [user(str(i), f"w{i} w{3 * i} {i % 20} . w{2 * i}") for i in range(32)]
        settings = GenerationSettings(max_tokens=100)
        together = engine.generate(prompts, settings)
        assert len({answer.tokens for answer in together}) > 5
        assert {answer.finish_reason for answer in together} == {"stop", "length"}
        with make_engine(CPU.model_copy(update={"batch_size": 1}), tiny) as one_by_one:
            assert one_by_one.generate(prompts[::4], settings) == together[::4]

    def test_batches_keep_to_the_token_limit(self, engine, tiny):
        with make_engine(CPU.model_copy(update={"max_batch_tokens": 60}), tiny) as small:
            lengths = [len(small._encoder.prompt(prompt)[0]) for prompt in PROMPTS]
            batches = batches_of(small, [Size(length, 8) for length in lengths])
            assert 1 < len(batches) < len(PROMPTS)
            for batch in batches:
                reach = max(lengths[i] + 8 for i in batch)
                assert len(batch) == 1 or reach * len(batch) <= 60
            assert small.generate(PROMPTS, SHORT) == engine.generate(PROMPTS, SHORT)

    def test_sampling_is_seeded_by_prompt_and_not_by_batch(self, engine):
        warm = GenerationSettings(max_tokens=8, temperature=1.0, top_p=0.9, seed=3)
        first = engine.generate(PROMPTS, warm)
        assert first == engine.generate(PROMPTS[::-1], warm)[::-1]
        assert first != engine.generate(PROMPTS, warm.model_copy(update={"seed": 4}))
        assert first != engine.generate(PROMPTS, SHORT)
        cold = warm.model_copy(update={"top_p": 1e-6})
        assert engine.generate(PROMPTS, cold) == engine.generate(PROMPTS, SHORT)

    def test_sampling_follows_the_distribution(self):
        from objectives.engines.decoding import _sample

        probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
        n = 20_000
        draw = (torch.arange(n) + 0.5) / n
        warm = GenerationSettings(temperature=1.0)
        ids = _sample(probabilities.log().expand(n, 4), draw, warm)
        torch.testing.assert_close(ids.bincount(minlength=4) / n, probabilities, atol=1e-3, rtol=0)
        nucleus = GenerationSettings(temperature=1.0, top_p=0.7)
        ids = _sample(probabilities.log().expand(n, 4), draw, nucleus)
        expected = torch.tensor([0.625, 0.375, 0, 0])
        torch.testing.assert_close(ids.bincount(minlength=4) / n, expected, atol=1e-3, rtol=0)

    def test_the_models_last_position_ends_an_answer(self, engine):
        long = user("long", " ".join(["w1"] * 120))
        (answer, short) = engine.generate([long, PROMPTS[0]], GenerationSettings(max_tokens=40))
        assert answer.tokens == 128 - 123
        assert short.tokens > answer.tokens or short.finish_reason == "stop"
        with pytest.raises(EngineError, match=r"'far' has 203 tokens, the model takes 128"):
            engine.generate([user("far", " ".join(["w1"] * 200))], SHORT)

    def test_names_every_misfit_before_the_first_write(self, engine, weights):
        before = engine.generate(PROMPTS, SHORT)
        norm = "model.norm.weight"

        def specs(**changes):
            return DictSource(weights).specs() | changes

        cases = [
            (specs(**{norm: Spec((97,), torch.float32)}), r"norm\.weight.*\(97,\).*\(96,\)"),
            (specs(**{norm: Spec((96,), torch.bfloat16)}), r"norm.*bfloat16.*float32"),
            (specs(extra=Spec((1,), torch.float32)), "no tensor extra"),
            ({k: v for k, v in specs().items() if k != norm}, rf"lacks {norm}"),
            (
                specs(**{"lm_head.weight": Spec((171, 96), torch.float32)}),
                "lm_head.weight apart from model.embed_tokens.weight.*ties",
            ),
        ]
        for wrong, message in cases:
            with pytest.raises(EngineError, match=message):
                engine.load(DictSource(weights, specs=wrong))
            assert engine.generate(PROMPTS, SHORT) == before

    def test_refuses_tensors_that_differ_from_their_specs(self, engine, weights):
        specs = DictSource(weights).specs()
        wrong = weights | {"model.norm.weight": torch.zeros(3)}
        with pytest.raises(EngineError, match="its specs say"):
            engine.load(DictSource(wrong, specs=specs))
        with pytest.raises(EngineError, match="no complete weights"):
            engine.generate(PROMPTS, SHORT)

    def test_ignores_buffers_that_the_live_model_computes(self, engine, weights):
        old = weights | {"model.rotary_emb.inv_freq": torch.zeros(12)}
        engine.load(DictSource(old))
        assert engine._model.model.rotary_emb.inv_freq.any()

    def test_untied_models_take_their_head(self, tiny_untied):
        weights = state(tiny_untied)
        assert "lm_head.weight" in weights
        with make_engine(CPU, tiny_untied) as engine:
            before = engine.generate(PROMPTS, SHORT)
            engine.load(DictSource(weights | {"lm_head.weight": -weights["lm_head.weight"]}))
            assert engine.generate(PROMPTS, SHORT) != before

    def test_dtype_of_config_wins(self, tiny, weights):
        with make_engine(CPU.model_copy(update={"dtype": "bfloat16"}), tiny) as engine:
            with pytest.raises(EngineError, match=r"float32.*bfloat16"):
                engine.load(DictSource(weights))
            engine.load(DictSource({k: v.bfloat16() for k, v in weights.items()}))
            assert engine.generate(PROMPTS, SHORT)

    def test_says_when_the_template_opens_the_thinking(self, tmp_path):
        opening = TEMPLATE.replace("<bot>{% endif", "<bot> <think>\n{% endif")
        with make_engine(CPU, save_model(tmp_path, template=opening)) as engine:
            assert all(answer.thinking_open for answer in engine.generate(PROMPTS, SHORT))

    def test_does_without_a_chat_template(self, tmp_path):
        with make_engine(CPU, save_model(tmp_path, template=None)) as engine:
            assert len(engine.generate(PROMPTS, SHORT)) == len(PROMPTS)

    def test_a_template_that_refuses_is_named_by_prompt(self, engine):
        with pytest.raises(EngineError, match=r"prompt 's'.*no system role here"):
            engine.generate([Prompt("s", ({"role": "system", "content": "x"},))], SHORT)

    def test_memory_goes_with_the_engine(self, tiny):
        import weakref

        engine = make_engine(CPU, tiny)
        parameter = weakref.ref(next(engine._model.parameters()))
        engine.close()
        gc.collect()
        assert parameter() is None

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"device": "gpu"}, "unknown device 'gpu'"),
            ({"device": "cuda:99"}, "not there"),
            ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ],
    )
    def test_refuses_what_it_cannot_use(self, tiny, changes, message):
        with pytest.raises(EngineError, match=message):
            make_engine(CPU.model_copy(update=changes), tiny)

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_a_skeleton_answers_as_a_whole_model_once_loaded(self, tmp_path, tied, dtype):
        path = save_model(tmp_path / "whole", tied=tied)
        with make_engine(CPU.model_copy(update={"dtype": dtype}), path) as engine:
            expected = engine.generate(PROMPTS, SHORT)
            live = dict(engine._live._tensors)
        skeleton = shutil.copytree(
            path, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors")
        )
        with make_engine(CPU.model_copy(update={"dtype": dtype}), skeleton) as engine:
            with pytest.raises(EngineError, match="no complete weights loaded; load before"):
                engine.generate(PROMPTS, SHORT)
            engine.load(DictSource(live))
            assert engine.generate(PROMPTS, SHORT) == expected

    def test_a_skeleton_s_own_dtype_and_generation_settings_hold(self, tmp_path):
        path = save_model(tmp_path / "whole")
        weights = state(path)
        (path / "model.safetensors").unlink()
        (path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
        with make_engine(CPU, path) as engine:
            engine.load(DictSource(weights))
            assert engine._end_ids == {2, 7}
        config = json.loads((path / "config.json").read_text()) | {"dtype": "bfloat16"}
        (path / "config.json").write_text(json.dumps(config))
        with make_engine(CPU, path) as engine, pytest.raises(EngineError, match=r"32.*bfloat16"):
            engine.load(DictSource(weights))

    def test_refuses_incomplete_or_broken_weights(self, tmp_path):
        from safetensors.torch import save_file

        path = save_model(tmp_path)
        weights = state(path)
        del weights["model.norm.weight"]
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(EngineError, match=r"the weights lack model\.norm\.weight"):
            make_engine(CPU, path)
        (path / "model.safetensors").write_bytes(b"short")
        with pytest.raises(EngineError, match="cannot be opened"):
            make_engine(CPU, path)
        (path / "model.safetensors").rename(path / "pytorch_model.bin")
        with pytest.raises(EngineError, match="cannot be opened"):
            make_engine(CPU, path)

    def test_refuses_a_directory_without_a_model(self, tmp_path):
        with pytest.raises(EngineError, match=r"no config\.json"):
            make_engine(CPU, tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        with pytest.raises(EngineError, match="cannot be opened"):
            make_engine(CPU, tmp_path)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    path = save_model(tmp_path_factory.mktemp("bare"))
    (path / "model.safetensors").unlink()
    return path


class TestPromptCheck:
    """What the engine says of prompts before it has weights is what it says when it is asked."""

    @pytest.fixture
    def check(self, bare):
        return prompt_check(CPU.model_copy(update={"device": "cuda:99"}), bare)  # needs none

    def test_counts_the_prompts_with_less_room_than_asked_for(self, check):
        long = [user(str(n), " ".join(["w1"] * n)) for n in (20, 85, 86, 124)]  # 3 tokens around
        assert check.prompts(long, GenerationSettings(max_tokens=40)) == 2
        assert check.prompts(PROMPTS, SHORT) == 0
        assert check.prompts([], SHORT) == 0

    def test_refuses_what_the_engine_refuses(self, check, tiny):
        wrong = [
            user("far", " ".join(["w1"] * 125)),
            Prompt("s", ({"role": "system", "content": "x"},)),
            user("half", "\ud800"),
        ]
        with make_engine(CPU, tiny) as engine:
            for prompt in wrong:
                with pytest.raises(EngineError) as asked:
                    engine.generate([prompt], SHORT)
                with pytest.raises(EngineError) as checked:
                    check.prompts([*PROMPTS, prompt], SHORT)
                assert str(asked.value) == str(checked.value)
                assert repr(prompt.id) in str(checked.value)
            for text, messages in (("", PROMPTS[0].messages), ("w1 " * 130, PROMPTS[0].messages)):
                one = Continuation("one", messages, text)
                with pytest.raises(EngineError) as asked:
                    engine.loglikelihood([one])
                with pytest.raises(EngineError) as checked:
                    check.continuations([*ASKED, one])
                assert str(asked.value) == str(checked.value)
        check.continuations([Continuation("document", (), "w1 " * 500)])

    def test_what_cannot_be_opened_is_named(self, bare, tmp_path):
        with pytest.raises(EngineError, match=r"no config\.json"):
            prompt_check(CPU, tmp_path)
        path = shutil.copytree(bare, tmp_path / "broken")
        (path / "tokenizer.json").write_text(
            '{"model": {"type": "WordLevel", "vocab": {}}, "added_tokens": []}'
        )
        with pytest.raises(EngineError, match=r"broken: the tokenizer cannot be opened: .*unk"):
            prompt_check(CPU, path)
        (path / "config.json").write_text('{"model_type": "no such"}')
        with pytest.raises(EngineError, match="broken: the "):
            prompt_check(CPU, path)

    def test_every_table_entry_resolves(self):
        assert set(PROMPT_CHECKS) <= set(ENGINES)
        for kind in PROMPT_CHECKS:
            assert callable(resolve(PROMPT_CHECKS, kind))


TABLE = {
    "a": "one two three four five six seven eight nine ten",
    "b": ["first answer", "second answer"],
    PROMPTS[2].messages[0]["content"]: "by text it is",
}


class TestScripted(EngineSuite):
    @pytest.fixture
    def engine(self, tmp_path):
        path = tmp_path / "responses.json"
        path.write_text(json.dumps(TABLE), encoding="utf-8")
        with make_engine(ScriptedConfig(responses=path, default="no idea"), "") as engine:
            yield engine

    @pytest.fixture
    def weights(self):
        return {"x": torch.zeros(2), "y": torch.ones(3)}

    def test_answers_by_id_then_text_then_default(self, engine):
        texts = [answer.text for answer in engine.generate(PROMPTS[:4], SHORT)]
        assert texts == [
            "one two three four five six seven eight",
            "first answer",
            "by text it is",
            "no idea",
        ]

    def test_the_nth_load_is_answered_by_the_nth_text(self, engine, weights):
        seen = []
        for _ in range(3):
            engine.load(DictSource(weights, fail_after=0))  # tensors are not touched
            seen.append(engine.generate([PROMPTS[1]], SHORT)[0].text)
        assert seen == ["first answer", "second answer", "first answer"]

    def test_an_unknown_prompt_is_named(self, tmp_path):
        path = tmp_path / "r.jsonl"
        path.write_text('{"id": "a", "response": "x"}\n\n{"prompt": "hi", "response": ["y"]}\n')
        engine = make_engine(ScriptedConfig(responses=path), "")
        assert engine.generate([user("z", "hi")], SHORT)[0].text == "y"
        with pytest.raises(EngineError, match="no response for prompt 'q'"):
            engine.generate([user("q", "what")], SHORT)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("r.json", "[1]", "must be an object"),
            ("r.json", "{", "not JSON"),
            ("r.json", '{"a": []}', "non-empty list"),
            ("r.jsonl", '{"id": "a"}', r"r\.jsonl:1: write"),
        ],
    )
    def test_a_malformed_table_is_named(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(EngineError, match=message):
            make_engine(ScriptedConfig(responses=tmp_path / name), "")

    def test_takes_the_time_it_is_told(self, monkeypatch):
        slept = []
        monkeypatch.setattr("objectives.engines.scripted.time.sleep", slept.append)
        make_engine(ScriptedConfig(default="x", delay=2.5), "").generate(PROMPTS, SHORT)
        assert slept == [2.5]

    def test_a_missing_or_empty_table_is_named(self, tmp_path):
        with pytest.raises(EngineError, match="cannot be read"):
            make_engine(ScriptedConfig(responses=tmp_path / "none.json"), "")
        with pytest.raises(EngineError, match="nothing to answer"):
            make_engine(ScriptedConfig(), "")


class TestScriptedFunction(ReadingEngineSuite):
    @pytest.fixture
    def engine(self):
        def respond(prompt, weights):
            return f"{prompt.id} is {sum(float(w.sum()) for w in weights.values())} indeed"

        with ScriptedEngine(ScriptedConfig(read_weights=True), respond=respond) as engine:
            yield engine

    @pytest.fixture
    def weights(self):
        return {"x": torch.zeros(2), "y": torch.ones(3), "z": torch.ones(1)}

    def test_sees_the_loaded_weights(self, engine, weights):
        engine.load(DictSource(weights))
        assert engine.generate([PROMPTS[0]], SHORT)[0].text == "a is 4.0 indeed"


def test_every_table_entry_resolves():
    for kind, target in ENGINES.items():
        engine = resolve(ENGINES, kind)
        assert issubclass(engine, Engine), target
        assert engine.kind == kind


def test_engine_configs_are_told_apart_by_kind():
    adapter = TypeAdapter(EngineConfig)
    assert adapter.validate_python({}) == TransformersConfig()
    assert adapter.validate_python({"kind": "scripted", "default": "x"}).kind == "scripted"
    assert adapter.validate_python(ScriptedConfig()) == ScriptedConfig()
    with pytest.raises(ValidationError, match="did you mean 'transformers'"):
        adapter.validate_python({"kind": "transfomers"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        adapter.validate_python({"kind": "transformers", "responses": "x"})
    schema = adapter.json_schema()
    assert {ref["$ref"].rsplit("/")[-1] for ref in schema["oneOf"]} == {
        "TransformersConfig",
        "VllmConfig",
        "ScriptedConfig",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1e-46},
        {"seeds": 1},
        {"stop": [""]},
    ],
)
def test_generation_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        GenerationSettings(**wrong)


@pytest.mark.parametrize("temperature", [1e-38, 1e-300, 9e-4])
def test_a_temperature_too_small_to_sample_with_is_refused(temperature):
    with pytest.raises(ValidationError, match=r"write 0, which is greedy, or at least 0\.001"):
        GenerationSettings(temperature=temperature)


def test_the_coldest_sampling_is_greedy(tiny):
    cold = SHORT.model_copy(update={"temperature": 1e-3, "top_p": 1e-6})
    assert GenerationSettings(**cold.model_dump()) == cold
    with make_engine(CPU, tiny) as engine:
        assert engine.generate(PROMPTS, cold) == engine.generate(PROMPTS, SHORT)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_row_without_a_distribution_is_sampled_as_it_is_decoded_greedily(broken):
    from objectives.engines.decoding import _sample

    logits = torch.randn((3, 7), generator=torch.Generator().manual_seed(0))
    logits[1] = broken
    whole = logits.clone()
    logits[2, 4] = math.nan
    settings = GenerationSettings(temperature=0.6, top_p=0.9)
    chosen = _sample(logits, torch.tensor([0.3, 0.5, 0.9]), settings)
    assert chosen[0] == _sample(whole[:1], torch.tensor([0.3]), settings)[0]
    assert chosen[1:].tolist() == logits[1:].argmax(-1).tolist()
