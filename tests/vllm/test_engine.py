"""The conformance suite, and what vLLM answers beside what the transformers engine answers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from safetensors.torch import save_file

from merge_core import MergePlan
from objectives.engines import TransformersConfig, VllmConfig, make_engine, prompt_check
from objectives.engines.base import Continuation, GenerationSettings, Prompt
from objectives.engines.vllm_arguments import known_arguments
from objectives.errors import EngineDiedError, EngineError
from search.demo.world import draw_problems
from tests.objectives.engine_suite import (
    ASKED,
    PROMPTS,
    SHORT,
    DictSource,
    ReadingEngineSuite,
    user,
)
from tests.objectives.test_engines import state
from tests.objectives.tiny_model import save_model
from tests.vllm.kit import SETTINGS, prompts, recipe, recipes, started, vllm

CPU = TransformersConfig(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("tiny"), head_dim=32)


@pytest.fixture(scope="module")
def tiny_other(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("other"), seed=1, head_dim=32)


@pytest.fixture(scope="module")
def shared(tiny):
    """One engine for many tests: a list, so that who closes it can be followed by a new one."""
    engines = []
    yield engines
    for engine in engines:
        engine.close()


class TestVllm(ReadingEngineSuite):
    @pytest.fixture
    def engine(self, shared, tiny):
        if not shared or shared[-1]._closed:
            shared.append(vllm(tiny))
        shared[-1].load(DictSource(state(tiny)))
        return shared[-1]

    @pytest.fixture
    def weights(self, tiny_other):
        return state(tiny_other)


def test_answers_as_the_transformers_engine_does(tiny, tiny_other):
    long = GenerationSettings(max_tokens=60)
    weights = state(tiny_other)
    with vllm(tiny) as engine, make_engine(CPU, tiny) as other:
        assert engine.generate(PROMPTS, long) == other.generate(PROMPTS, long)
        for one in (engine, other):
            one.load(DictSource(weights))
        found = other.generate(PROMPTS, long)
        assert engine.generate(PROMPTS, long) == found
        stop = long.model_copy(update={"stop": (found[2].text.split()[3], "w1 w2")})
        assert engine.generate(PROMPTS, stop) == other.generate(PROMPTS, stop)
        ours, theirs = engine.loglikelihood(ASKED), other.loglikelihood(ASKED)
        assert [one.logprob for one in ours] == pytest.approx([one.logprob for one in theirs], 1e-4)
        assert [(o.tokens, o.greedy) for o in ours] == [(o.tokens, o.greedy) for o in theirs]
        text = [Continuation("document", (), "w1 w2 w3 " * 40)]
        (one,), (two,) = engine.loglikelihood(text), other.loglikelihood(text)
        assert one.logprob == pytest.approx(two.logprob, 1e-4)
        # Beyond the model's limit windows end two tokens earlier, and see other contexts.
        text = [Continuation("document", (), "w1 w2 w3 " * 90)]
        (window,), (rolled,) = engine.loglikelihood(text), other.loglikelihood(text)
        assert window.tokens == rolled.tokens == 270
        assert window.logprob == pytest.approx(rolled.logprob, 0.1)
        far = user("far", " ".join(["w1"] * 200))
        for ask in (engine, other):
            with pytest.raises(EngineError, match=r"'far' has 203 tokens, the model takes 128"):
                ask.generate([far], SHORT)


def test_loops_end_at_the_token_where_they_end_elsewhere(tmp_path):
    model = save_model(tmp_path, head_dim=32, positions=1024, tied=False, layers=1, template=None)
    weights = state(model)
    for name in weights:  # each word follows from the one before it alone: soon all come again
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name].zero_()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    asked = [user(str(n), f"w{2 * n}") for n in range(24)]
    long = GenerationSettings(max_tokens=700)
    with vllm(model, max_model_len=1024) as engine, make_engine(CPU, model) as other:
        expected = other.generate(asked, long)
        assert {answer.finish_reason for answer in expected} == {"loop"}
        assert len({answer.tokens for answer in expected}) > 1  # short stretches repeat for longer
        assert engine.generate(asked, long) == expected
        whole = long.model_copy(update={"stop_loops": False, "max_tokens": 300})
        assert engine.generate(asked, whole) == other.generate(asked, whole)


def test_sampling_is_seeded_by_prompt_and_sample(tiny):
    warm = GenerationSettings(max_tokens=8, temperature=1.0, top_p=0.9, seed=3)
    with vllm(tiny) as engine:
        first = engine.generate(PROMPTS, warm)
        assert first == engine.generate(PROMPTS[::-1], warm)[::-1]
        assert first != engine.generate(PROMPTS, warm.model_copy(update={"seed": 4}))
        assert first != engine.generate(PROMPTS, SHORT)
        again = [Prompt(p.id, p.messages, sample=1) for p in PROMPTS]
        assert first != engine.generate(again, warm)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("merging", [False, True])
def test_processes_end_with_the_engine_and_their_death_is_told(trio, monkeypatch, merging):
    if merging:  # vLLM's core in a process of its own, as for users: failures arrive as text
        monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    plan = MergePlan(recipes(trio, 1)[0])
    before = set(psutil.Process().children(recursive=True))

    def left():
        """All processes started since, by their command lines."""
        lines = {}
        for process in set(psutil.Process().children(recursive=True)) - before:
            with contextlib.suppress(psutil.NoSuchProcess):
                lines[process] = " ".join(process.cmdline())
        return {p: line for p, line in lines.items() if "resource_tracker" not in line}

    with started(plan, tensor_parallel=2) as engine:
        engine.load(plan)
        rank = next(process for process, line in left().items() if "Worker_TP1" in line)
        if merging:
            rank.suspend()  # so that it is at work on the load when it dies
            threading.Timer(2, rank.kill).start()
            with pytest.raises(EngineDiedError, match="died"):
                engine.load(plan)
        else:
            rank.kill()
            with pytest.raises(EngineDiedError, match="died"):
                engine.generate(prompts(), SETTINGS)
        with pytest.raises(EngineError, match="no complete weights"):
            engine.generate(prompts(), SETTINGS)
    assert left() == {}


KILLED = """
if __name__ == "__main__":  # children import the rest again, and must not import llvmlite so early
    import sys, time
    from objectives.engines import VllmConfig, make_engine
    from tests.vllm.kit import SMALL
    engine = make_engine(VllmConfig(**SMALL), sys.argv[1])
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.timeout(600)
def test_no_process_outlives_a_killed_owner(tiny, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    quiet = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    owner = subprocess.Popen(
        [sys.executable, tmp_path / "killed.py", tiny],
        env=quiet | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while owner.stdout.readline().strip() != "ready":
            assert owner.poll() is None
        workers = psutil.Process(owner.pid).children(recursive=True)
        assert len(workers) >= 2
    finally:
        owner.kill()
    _, alive = psutil.wait_procs(workers, timeout=60)
    for process in alive:
        process.kill()
    assert alive == []


def test_says_what_vllm_says_in_one_line(tiny, tmp_path):
    with pytest.raises(EngineError, match=r"no config\.json there"):
        vllm(tmp_path)
    with pytest.raises(EngineError, match=r"vLLM does not start: .*max_model_len") as told:
        vllm(tiny, max_model_len=100_000)
    assert "\n" not in str(told.value)


def test_unknown_arguments_have_a_hint():
    with pytest.raises(ValueError, match="'max_num_seq'; did you mean 'max_num_seqs'"):
        VllmConfig(max_num_seq=4)
    with pytest.raises(ValueError, match="did you mean 'tensor_parallel'"):
        VllmConfig(tensor_paralel=4)


def test_settings_that_change_no_answer_are_vllms():
    ours = {*VllmConfig.model_fields}
    assert VllmConfig.incidental - ours <= known_arguments()


def test_prompts_are_checked_against_the_length_given(tiny):
    check = prompt_check(VllmConfig(max_model_len=64), tiny)
    asked = [user("a", " ".join(["w1"] * 40))]
    assert check.prompts(asked, GenerationSettings(max_tokens=40)) == 1


def test_continuations_of_a_merge_are_as_likely_as_elsewhere(trio, record_property):
    plan = MergePlan(recipe(trio, "ties", {"weight": 0.6, "density": 0.4}, {"weight": 0.7}))
    asked = [
        Continuation(str(n), prompts(8)[n].messages, text)
        for n, problem in enumerate(draw_problems(8, 5))
        for text in (problem.derivation("th"), f"#### {problem.answer}", "<think>")
    ]
    with started(plan) as engine:
        engine.load(plan)
        ours = engine.loglikelihood(asked)
    from search.worker import skeleton

    with skeleton(plan) as folder, make_engine(CPU, folder) as other:
        other.load(plan)
        theirs = other.loglikelihood(asked)
    worst = max(abs(a.logprob - b.logprob) for a, b in zip(ours, theirs, strict=True))
    record_property("largest difference of log likelihoods", worst)
    assert worst < 1e-3
    assert [(o.tokens, o.greedy) for o in ours] == [(o.tokens, o.greedy) for o in theirs]
