from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import benchmarks.__main__ as bench
from benchmarks import agreement, measure, merge, process
from benchmarks.models import Shape, write_set
from merge_core import Checkpoint, MergePlan, Sources, write_merge
from merge_core.methods import METHODS

MILLIONS = 1.1


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "set"
    write_set(folder, MILLIONS)
    return folder


def test_the_models_are_what_transformers_loads(models: Path) -> None:
    config = AutoConfig.from_pretrained(models / "base")
    with torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(config).state_dict()
    specs = Checkpoint.open(str(models / "base")).specs
    assert {n: spec.shape for n, spec in specs.items()} == {
        n: tuple(t.shape) for n, t in expected.items() if n != "lm_head.weight"
    }
    assert len(AutoTokenizer.from_pretrained(models / "base")) == config.vocab_size


def test_differences_are_those_of_a_fine_tune(models: Path) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    base, *experts = [
        Checkpoint.open(str(models / folder)).tensor(name).float()
        for folder in ("base", "expert0", "expert1")
    ]
    assert float(base.std()) == pytest.approx(0.02, rel=0.05)
    for expert, scale in zip(experts, (5e-4, 1.5e-3), strict=True):
        assert float((expert - base).std()) == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize("millions", [1.1, 8, 45, 450])
def test_a_set_has_about_the_size_that_was_asked_for(millions: float) -> None:
    assert Shape.of(millions).parameters == pytest.approx(millions * 1e6, rel=0.02)


def test_a_set_is_made_once_and_nothing_else_is_overwritten(models: Path, tmp_path: Path) -> None:
    before = (models / "base" / "model.safetensors").stat().st_mtime_ns
    write_set(models, MILLIONS)
    assert (models / "base" / "model.safetensors").stat().st_mtime_ns == before
    (tmp_path / "mine").touch()
    with pytest.raises(SystemExit, match="name an empty folder"):
        write_set(tmp_path, MILLIONS)


def test_the_merge_table_has_a_row_for_every_method(models: Path, capsys) -> None:
    merge.report(models, repeats=1)
    ours, eager = capsys.readouterr().out.split("\n\n")
    rows = {line[:24].strip(): line[24:].split() for line in ours.splitlines()}
    for label in (*METHODS, "ties_sv, threshold kept"):
        assert all(float(cell) >= 0 for cell in rows[label][:5]), label
    assert rows["ties"][5:] in (["<=", "1.15", "yes"], ["<=", "1.15", "NO"])
    assert "medians of 1 pairs" in ours
    for method in ("linear", "task_arithmetic", "ties"):
        for dtype in ("float32", "bfloat16"):
            assert f"{method}, {dtype}" in eager


def test_processes_without_mergekit(models: Path, capsys) -> None:
    process.report(models, None, repeats=1, methods=["ties"], trials=(1,))
    agreement.report(models, None)
    text = capsys.readouterr().out
    assert text.count("mergekit not named: not measured") == 2
    row = next(line for line in text.splitlines() if line.startswith("ties")).split()
    seconds, gigabytes = map(float, row[-2:])
    assert seconds > 0
    assert 0.05 < gigabytes < 1.5
    assert not list(models.parent.glob("bench-*"))  # nothing is left behind


def test_a_process_that_fails_is_reported_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="No such file"):
        process.watched(["ls", tmp_path / "missing"])


def test_agreement_counts_what_differs(models: Path, tmp_path: Path) -> None:
    recipe = agreement.recipe_for(models, "ties", varied=True, normalize=True)
    write_merge(MergePlan(recipe), tmp_path / "merged")
    same = agreement.compare(recipe, tmp_path / "merged", tmp_path / "merged")
    assert (same.differ, same.steps) == (0, 0)
    assert 0 < same.tied < same.entries / 5
    other = agreement.compare(recipe, tmp_path / "merged", models / "expert1")
    assert 0.3 * other.entries < other.differ_untied <= other.differ < other.entries
    assert other.steps >= 1


def test_steps_are_spacings_of_bfloat16(models: Path) -> None:
    sources = Sources.open(merge.recipe_of(models, "ties"))
    name = "model.norm.weight"
    values = torch.stack([source.tensor(name).float() for source in sources.all])
    above = (values.amax(0) >= 1.0).float()  # there a step is 2^-7
    moved = sources.all[0].tensor(name)
    steps = agreement.steps_apart(moved, moved.float() + above * 2**-7, sources, name)
    assert torch.equal(steps, above)


@pytest.mark.parametrize(
    "content",
    ["def test_kernel_equals_reference():\n    assert 1 == 2\n", "def test_other():\n    pass\n"],
)
def test_nothing_is_measured_while_equality_is_red(monkeypatch, tmp_path, capfd, content) -> None:
    """A failing test is red; so is a selection that finds no test."""
    (tmp_path / "test_red.py").write_text(content)
    red = (str(tmp_path / "test_red.py"), "-k", "equals_reference")
    monkeypatch.setattr(measure, "EQUALITY_TESTS", red)
    with pytest.raises(SystemExit) as caught:
        bench.main(["--millions", str(MILLIONS), "--folder", str(tmp_path / "sets")])
    message = str(caught.value.code)  # a message as code: status 1, printed as one line
    assert message.startswith("not measured: the equality tests are red (1 ")
    assert "\n" not in message
    assert not (tmp_path / "sets").exists()
    assert capfd.readouterr().out == ""


def test_the_equality_tests_that_are_run_exist(monkeypatch) -> None:
    """Collected, not run: they run on their own in this suite."""
    tests = (*measure.EQUALITY_TESTS, "--collect-only")
    monkeypatch.setattr(measure, "EQUALITY_TESTS", tests)
    measure.refuse_unless_equal()


def test_a_mergekit_that_is_not_there_is_an_error(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.main(["--mergekit", str(tmp_path)])
    assert caught.value.code == 2
    assert "holds no mergekit-yaml" in capsys.readouterr().err
