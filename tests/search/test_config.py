import re
import textwrap
from pathlib import Path

import pytest

from merge_core.yaml_io import parse_yaml
from objectives.engines import ScriptedConfig
from objectives.scorers.base import Measure
from search.config import Constraint, SearchFile, load, parse, seconds
from search.errors import ConfigError
from tests.search.small import GOOD, make_workplace


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_workplace(tmp_path_factory.mktemp("config"))


def changed(*changes: tuple[str, str]):
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return parse(parse_yaml(text, Path("search.yaml")))


def error(*changes: tuple[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        changed(*changes)
    return str(caught.value)


OBJECTIVE = "right: sums/math"
CONSTRAINT = '{english: ">= 0.1"}'


# --- Places --------------------------------------------------------------------------------------


def test_a_fault_is_told_with_file_line_and_column():
    message = error(("trials: 3", "trails: 3"))
    assert message == "search.yaml:31:10: unknown key 'trails'; did you mean 'trials'?"


def test_a_name_far_from_all_lists_what_is_known():
    known = "cost, gpu_hour_price, gpu_hours, patience, timeout, tokens, trials"
    assert error(("{trials: 3}", "{zzz: 3}")).endswith(f"unknown key 'zzz'; known: {known}")


@pytest.mark.parametrize(
    ("change", "known"),
    [
        (("kind: scripted,", "kind: scripted, zzz: 1,"), "default, delay, kind, read_weights"),
        (('{kind: scripted, default: "The answer is 7."}', "{zzz: 1}"), "batch_size, device"),
        ((OBJECTIVE, "right: {zzz: 1}"), "direction, reference, score"),
        (
            ("{max_tokens: 16}", "{zzz: 1}"),
            "max_tokens, seed, stop, stop_loops, temperature, top_p",
        ),
        (("    items: ", "    zzz: 1\n    items: "), "allow_test_split, chat, fewshot, fields"),
        (("    name: language", "    zzz: language"), "model, name, parameters"),
        (("{dev: 4", "{zzz: 4"), "by, confirm, dev, seed, stratify, test"),
        (("merge_method: ties_sv", "merge_method: {zzz: 1}"), "choices"),
    ],
)
def test_the_known_keys_are_those_of_the_place(change, known):
    message = error(change)
    assert "unknown key 'zzz'" in message
    assert f"known: {known}" in message


def test_the_first_unknown_key_goes_before_other_faults():
    # The unknown key is often the reason of the other faults.
    message = error(("trials: 3", "trials: 0"), ("{count: 1}", "{cuont: 1}"))
    assert "did you mean 'count'?" in message


def test_what_stands_there_is_told_short():
    message = error(("trials: 3", f"trials: {'x' * 500}"))
    assert len(message) < 120
    assert "budget.trials has to be a whole number" in message


def test_every_message_is_one_line():
    assert "\n" not in error((OBJECTIVE, 'right: "a\\nb/c"'))


# --- Settings of the command line ----------------------------------------------------------------


def weight(search):
    return search.example().models[0].parameters["weight"].value


def weight_range(search):
    return search.space.distributions()["language.weight"]


@pytest.mark.parametrize(
    ("setting", "read", "value"),
    [
        ("budget.trials=7", lambda s: s.file.budget.trials, 7),
        ("budget.timeout=8h", lambda s: s.file.budget.timeout, "8h"),
        ("budget={timeout: 8h}", lambda s: s.file.budget.trials, None),
        ("tracking.experiment=thai", lambda s: s.file.tracking.experiment, "thai"),
        ("models.1.name=other", lambda s: s.space.names, ("language", "other")),
        ("models.0.parameters.weight=1e-3", weight, 1e-3),
        ("models.0.parameters.weight={low: 0, high: 2}", lambda s: weight_range(s).high, 2.0),
        ("models.0.parameters.weight.high=2", lambda s: weight_range(s).high, 2.0),
        ('constraints={english: ">= 0.5"}', lambda s: s.constraints[0].bound, 0.5),
        ("baselines=[]", lambda s: s.file.baselines, []),
        ("dtype=float32", lambda s: s.file.dtype, "float32"),
        ("dtype=", lambda s: s.file.dtype, None),
    ],
)
def test_settings_go_before_the_file(folder, setting, read, value):
    search = load(folder / "search.yaml", [setting])
    assert read(search) == value
    # The run folder keeps the file with its settings applied.
    assert read(parse(parse_yaml(search.text, folder / "search.yaml"))) == value


def test_later_settings_go_before_earlier_ones(folder):
    assert load(folder / "search.yaml", ["seed=1", "seed=2"]).file.seed == 2


def test_a_fault_of_a_setting_names_the_setting(folder):
    with pytest.raises(ConfigError, match=r"^--set seed=-1: seed has to be at least 0"):
        load(folder / "search.yaml", ["dtype=float32", "seed=-1"])


def test_a_fault_of_the_file_beside_a_setting_names_the_file(folder):
    path = folder / "other.yaml"
    path.write_text(GOOD.replace("trials: 3", "trials: 0"))
    with pytest.raises(ConfigError, match=re.escape(f"{path}:31:10: budget.trials")):
        load(path, ["budget.timeout=8h"])


# --- Durations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90s", 90),
        ("45m", 2700),
        ("8h", 28800),
        ("1h30m", 5400),
        ("1d12h", 129600),
        (" 2m5s ", 125),
    ],
)
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "8", "8 h", "h", "1.5h", "-1h", "30m1h", "8hours", "٣h"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is no duration; write 90s"):
        seconds(text)


# --- Objectives and constraints ------------------------------------------------------------------


def test_short_and_long_objectives():
    long = (
        "right: {score: [sums/math, sums/language], reference: 0.2}\n"
        "  mixed: {score: sums/language.switch, direction: minimize, reference: 0.9}"
    )
    right, mixed, english = changed((OBJECTIVE, long)).objectives
    assert right.parts == (("sums", "math"), ("sums", "language"))
    assert (right.direction, right.reference) == ("maximize", 0.2)
    assert (mixed.direction, mixed.reference, mixed.sign) == ("minimize", 0.9, -1.0)
    assert (english.name, english.reference, english.sign) == ("english", 0.0, 1.0)
    assert [measure.binary for measure in right.measures] == [True, False]


def test_a_list_is_a_mean():
    right, _ = changed((OBJECTIVE, "right: [sums/math, sums/joint]")).objectives
    assert right.parts == (("sums", "math"), ("sums", "joint"))


def test_the_joint_score_exists_where_both_of_its_parts_do():
    assert "unknown score of task 'sums' 'joint'" in error(
        (OBJECTIVE, "right: sums/joint"), ("[math, {language: {expect: en}}]", "[math]")
    )


@pytest.mark.parametrize(
    ("text", "value", "violation"),
    [(">= 0.8", 0.9, -0.1), (">= 0.8", 0.5, 0.3), ("<= 0.2", 0.1, -0.1), ("<=0.2", 0.5, 0.3)],
)
def test_a_constraint_holds_where_its_violation_is_not_positive(text, value, violation):
    # Optuna's sign: more than 0 is infeasible.
    (constraint,) = changed((CONSTRAINT, f'{{english: "{text}"}}')).constraints
    assert constraint.violation(value) == pytest.approx(violation)
    assert constraint.violation(constraint.bound) == 0.0
    assert constraint.violation(constraint.worst) > 0.0


def test_constraints_name_objectives_or_scores():
    given = '{english: ">= 1e-1", sums/language.switch: "<= 0.3", right: ">=0"}'
    constraints = changed((CONSTRAINT, given)).constraints
    assert [str(c) for c in constraints] == [
        "english >= 0.1",
        "sums/language.switch <= 0.3",
        "right >= 0",
    ]
    assert constraints[1] == Constraint(
        key="sums/language.switch",
        parts=(("sums", "language.switch"),),
        at_least=False,
        bound=0.3,
        worst=1.0,
        measures=(Measure(direction="minimize", binary=True),),
    )


@pytest.mark.parametrize("text", ["0.8", "= 0.8", "> 0.8", ">= a", ">= nan", ">= 1 2", ">="])
def test_what_is_no_bound(text):
    message = error((CONSTRAINT, f'{{english: "{text}"}}'))
    assert "is no bound" in message or "lies outside" in message


def test_a_constraint_on_a_reported_task_is_refused():
    task = textwrap.indent(
        "told:\n  items: items.jsonl\n  role: report\n  scorers: [exact]\n", "  "
    )
    assert "role report" in error(
        ("tasks:\n", f"tasks:\n{task}"), (CONSTRAINT, '{told/exact: ">= 0.1"}')
    )


# --- The rest ------------------------------------------------------------------------------------


def test_the_good_file_reads_as_it_is_written(folder):
    search = load(folder / "search.yaml")
    assert search.root == folder.resolve()
    assert search.file.sampler.name == "random"
    assert search.space.names == ("language", "reasoning")
    assert search.example().base_model == str((folder / "models/base").resolve())
    assert [o.name for o in search.objectives] == ["right", "english"]


def test_what_is_left_out_has_its_default():
    short = re.sub(r"(?ms)^constraints.*", "", GOOD)
    search = parse(parse_yaml(short, Path("search.yaml")))
    assert search.file.baselines == ["base", "experts", "uniform", "task_arithmetic"]
    assert search.file.budget.trials == 120
    assert search.file.engine.kind == "transformers"
    assert search.file.sampler.name == "auto"
    assert search.constraints == ()


def test_paths_are_relative_to_the_file_wherever_one_stands(folder, monkeypatch, tmp_path):
    (folder / "answers.json").write_text("{}")
    path = folder / "answers.yaml"
    path.write_text(GOOD.replace('default: "The answer is 7."', "responses: answers.json"))
    monkeypatch.chdir(tmp_path)
    engine = load(path).engine
    assert isinstance(engine, ScriptedConfig)
    assert engine.responses == (folder / "answers.json").resolve()
    assert load(path).example().models[0].model == str((folder / "models/thai").resolve())


@pytest.mark.parametrize("text", [GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD, GOOD + "...\n"])
def test_line_ends_and_byte_order_marks_do_not_matter(folder, text):
    path = folder / "bytes.yaml"
    path.write_bytes(text.encode())
    assert load(path).file == load(folder / "search.yaml").file


@pytest.mark.parametrize("number", ["1e-3", "1.0e-3", "1E-3", "0.001"])
def test_numbers_in_any_spelling(number):
    search = changed(("weight: {low: 0.3, high: 1.2}", f"weight: {{low: {number}, high: 1}}"))
    assert search.space.distributions()["language.weight"].low == 0.001


@pytest.mark.parametrize("word", ["yes", "no", "on", "off"])
def test_words_stay_words(word):
    # YAML 1.1 made them flags.
    assert changed(("sampler: random", f"tracking: {{experiment: {word}}}")).file.tracking == (
        SearchFile.model_fields["tracking"].annotation(experiment=word)
    )


def test_whole_numbers_are_not_made_of_flags():
    assert "has to be a whole number, not True" in error(("trials: 3", "trials: true"))


@pytest.mark.parametrize("url", ["sqlite:///study.db", "sqlite:////var/study.db"])
def test_storages_that_can_be_opened(url):
    assert changed(("sampler: random", f"storage: {url}")).file.storage == url


def test_a_storage_without_its_driver_keeps_the_password_to_itself():
    message = error(("sampler: random", "storage: 'mysql+nope://me:secret@host/db'"))
    assert "secret" not in message
