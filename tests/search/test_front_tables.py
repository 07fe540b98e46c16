"""The front as tables and data: baselines and the joint score at every width, before confirmation
and after, and what is broken or off is marked.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from objectives import Estimate, ItemScore
from search import study as studies
from search.confirm import Member, save
from search.confirmed import findings, standing, write_report
from search.listing import points
from search.looking import print_front
from search.mlflow_note import note_of
from search.projection import nearby, of_baseline
from search.report.sections import confirmed
from search.run import Run
from search.status import look
from search.terminal import front_table
from search.view import RunView
from tests.search.test_budget import Begun, result, stop

BROKEN = Estimate(0.0, 0.0, 0.0, 0)


def sure(value: float, n: int = 200) -> Estimate:
    return Estimate(value, max(0.0, value - 0.05), min(1.0, value + 0.05), n)


def member(label: str, x: float, y: float, *, joint: float | None = 0.5, **more) -> Member:
    scores = {"reasoning": sure(x), "language": sure(y)}
    trial = int(label.split()[1]) if label.startswith("trial ") else None
    recipe = {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}]}
    told = {
        "claimed": {name: replace(one, n=64) for name, one in scores.items()},
        "confirmed": scores,
        "joint": None if joint is None else sure(joint),
        "feasible": True,
        "on_front": trial is not None,
        **more,
    }
    return Member(label, trial, label, recipe, **told)


def broken(label: str) -> Member:
    scores = {"reasoning": BROKEN, "language": BROKEN}
    return member(label, 0, 0, claimed=scores, confirmed=scores, joint=None, feasible=False)


MEMBERS = [
    member("trial 1", 1.0, 0.75),
    member("expert:language", 0.1, 1.0),
    member("base", 0.25, 0.5, feasible=False),
    broken("uniform"),
]


def joined(rows: list[ItemScore]) -> list[ItemScore]:
    return [replace(row, scores={**row.scores, "joint": row.scores["math"]}) for row in rows]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose trial 0 misses the constraint, with three baselines, one of them broken."""
    folder = tmp_path_factory.mktemp("made")
    begun = Begun(folder, budget={"trials": 9}, stored=True, constraints={"reasoning": ">= 0.4"})
    run = begun.run
    for right in (0.25, 0.5):
        told = result(right=right)
        begun.tell(replace(told, items={"t": joined(told.items["t"])}))
    for label, right in (("expert:language", 0.75), ("base", 0.0)):
        result(right=right).save(run.baseline(label))
    result(fault="NaN").save(run.baseline("uniform"))
    studies.release(run)
    return run.folder


def shown(run: Run, width: int = 120, **options) -> str:
    file = io.StringIO()
    given = {"as_json": False, "as_csv": False, "every": False, "out": None, "plot": False}
    print_front(Console(file=file, width=width), run, **{**given, **options})
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 122, 160])
def test_the_joint_score_is_told_at_every_width(width: int, made: Path) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width)
    console.print(front_table(Run.open(made), MEMBERS, MEMBERS[0], width))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = " ".join(text.split())
    for told in ("right and in", "the language", "exported", "claimed", "confirmed"):
        assert told in words
    if width >= 80:  # whole numbers
        for told in ("1.000 [.950, 1.000]", ".500 [.450, .550]", ".250 [.200, .300]"):
            assert told in text
        assert text.count(".500 [.450, .550]") == 4  # joint of three, and the base's language
    assert [text.count(told) for told in ("broken", "off:", "constraint")] == [1, 1, 1]


@pytest.mark.parametrize("width", [80, 160])
def test_a_score_that_no_task_tells_has_no_column(width: int, made: Path) -> None:
    table = front_table(Run.open(made), [replace(m, joint=None) for m in MEMBERS], None, width)
    heads = [str(column.header) for column in table.columns]
    assert len(heads) == (6 if width == 160 else 3)
    assert not any("right and in" in head for head in heads)


def test_what_is_broken_or_off_is_marked_and_counts_for_nothing(made: Path, tmp_path: Path) -> None:
    run = Run.open(made)
    assert [standing(one) for one in MEMBERS] == [
        "front",
        "baseline",
        "baseline, off: constraint",
        "baseline, broken",
    ]
    lost = replace(broken("trial 3"), behind="trial 1")
    assert standing(lost) == "broken"
    lines = findings(run, [*MEMBERS, lost])
    assert "baseline uniform is broken and could not be scored" in lines
    assert "trial 3 is broken and could not be scored" in lines
    assert not any("fell off" in line for line in lines)
    assert lines[-1].startswith("language: claimed 0.000 better than confirmed on average")
    moved = replace(run, folder=tmp_path)
    account = RunView.of(run, studies.open_study(run, create=False)).account
    report = write_report(moved, [lost, *MEMBERS], account).read_text()
    assert "| uniform | - | - | - | - |  | baseline, broken |" in report
    assert "reasoning on 64 and 200" in report
    # The pages alike.
    view = replace(RunView.of(run, studies.open_study(run, create=False)), members=MEMBERS)
    table, _ = confirmed(view)
    assert table.rows[-1] == ["uniform", *["-"] * 4, "", "baseline, broken"]
    note = note_of(view, "1", "finished")
    (row,) = [line for line in note.splitlines() if re.match(r"\W*uniform\W", line)]
    assert [cell.strip() for cell in row.split("|")][1:6] == ["uniform", *["-"] * 4]


def test_before_the_confirmation_baselines_stand_beside_the_front(made: Path) -> None:
    run = Run.open(made)
    lines = [re.split(r"\s{2,}", line.strip()) for line in shown(run).splitlines()]
    rows = {label: cells for label, *cells in lines}
    held = ".500 [.094, .906]"
    assert rows["trial 1"] == [held, "1.000 [.473, 1.000]", held, "front"]
    assert rows["expert:language"][2:] == ["baseline"]  # nobody scored both
    assert rows["base"][-1] == "baseline, off: constraint"
    assert rows["uniform"] == ["-", "-", "baseline, broken"]
    # Where there is little room intervals stand below their values, and none is cut.
    narrow = shown(run, 76)
    assert "the front on the dev items, NOT confirmed" in narrow
    assert all(part in narrow for part in held.split(" ", 1))
    told = {row["label"]: row for row in json.loads(shown(run, as_json=True))}
    assert list(told) == ["trial 1", "expert:language", "base", "uniform"]
    assert told["trial 1"]["trial"] == 1
    assert told["trial 1"]["claimed"] == {"reasoning": 0.5, "language": 1.0}
    assert told["trial 1"]["joint"] == 0.5
    assert "params" in told["trial 1"]
    assert told["expert:language"]["trial"] is None
    assert [told[label]["feasible"] for label in told] == [True, True, False, False]
    assert told["uniform"]["standing"] == "baseline, broken"
    table = list(csv.DictReader(io.StringIO(shown(run, as_csv=True))))
    assert [row["label"] for row in table] == list(told)
    assert table[0]["joint"] == "0.5"
    assert [row["standing"] for row in table[1:]] == [
        "baseline",
        "baseline, off: constraint",
        "baseline, broken",
    ]
    drawn = look(run).status.points
    assert drawn is not None
    assert set(drawn.baselines) == {"base", "expert:language"}


def test_where_there_is_no_front_a_line_says_why(tmp_path: Path, capsys) -> None:
    begun = Begun(tmp_path, budget={"trials": 9}, stored=True, constraints={"reasoning": ">= 0.9"})
    studies.release(begun.run)
    run = begun.run
    assert shown(run) == "no front yet: no trial is scored\n"
    begun.tell(result(fault="NaN"))
    assert shown(run) == "no front yet: no trial is scored: 1 broken\n"
    for right in (0.25, 0.5):
        begun.tell(result(right=right))
    told = "no front yet: of 2 scored trials 2 miss reasoning >= 0.9\n"
    assert shown(run) == told
    result(right=1.0).save(run.baseline("base"))
    assert shown(run).endswith(told)
    assert "base" in shown(run)
    capsys.readouterr()
    assert [row["label"] for row in json.loads(shown(run, as_json=True))] == ["base"]
    assert capsys.readouterr().err == f"note: {told}"
    stopped = replace(stop(2), constraints={"reasoning": 0.95})
    begun.tell(result(stopped=stopped))
    assert shown(run).endswith("2 miss reasoning >= 0.9, 1 were stopped early\n")


def test_a_member_that_could_not_be_confirmed_is_named(made: Path, tmp_path: Path) -> None:
    run = Run.open(made)
    try:
        save(run, MEMBERS[1:], finished=2, failed={"trial 1": "it was killed"})
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            text = shown(run, width=80)
            assert "trial 1 could not be confirmed: it was killed\n" in text
            assert json.loads(shown(run, as_json=True))[0]["standing"] == "baseline"
            assert "expert:language" in shown(run, as_csv=True)
        view = RunView.of(run, studies.open_study(run, create=False))
        assert points(view).front == []
        assert set(points(view).baselines) == {"base", "expert:language"}
        assert findings(run, view.members)[0] == "trial 1 could not be confirmed: it was killed"
    finally:
        run.confirmed.unlink()


def test_mlflow_shows_no_scores_of_a_broken_baseline(made: Path) -> None:
    run = Run.open(made)
    row = of_baseline(run, run.baseline("uniform"))
    assert row.tags["fault"] == "NaN"
    assert not {"reasoning", "language", "reasoning_low"} & row.metrics.keys()
    assert "broken: NaN" in row.note
    assert set(nearby(run)) == {"base", "expert:language"}  # nothing is compared with it
