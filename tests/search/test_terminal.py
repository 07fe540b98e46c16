"""What terminals show: the plot in characters, the panel at all sizes, a run's status."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from search import study as studies
from search import terminal
from search.amounts import lasting
from search.config import Search, load
from search.errors import ConfigError, RunError
from search.file import BudgetEntry
from search.lease import Holder, holder_file
from search.ledger import Session
from search.live import Doing, Live
from search.looking import print_front, print_runs, print_status, watch_status
from search.outlook import Outlook, outlook
from search.panel import Panel, facts, status_lines, workers
from search.run import LOCK, Run
from search.sketch import Points, sketch
from search.status import Status, as_json, look
from tests.search.test_budget import Begun, result, stop
from tests.search.test_driver import write

# --- plot ----------------------------------------------------------------------------------------

values = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 4))
pairs = st.tuples(values, values)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    others=st.lists(pairs, max_size=30),
    front=st.lists(pairs, max_size=5),
    baselines=st.dictionaries(st.text(min_size=1, max_size=20), pairs, max_size=6),
    width=st.integers(1, 220),
    height=st.integers(1, 60),
    plain=st.booleans(),
)
def test_a_plot_fits_its_room(others, front, baselines, width, height, plain):
    points = Points(("x", "y" * 30), others=others, front=front, baselines=baselines)
    drawn = sketch(points, width, height, plain=plain)
    if drawn is None:
        assert not points.all or width < 80 or height < 16
        return
    lines = drawn.split("\n")
    assert len(lines) <= height
    if plain and all(label.isascii() for label in baselines):
        assert drawn.plain.isascii()


def test_a_plot_shows_who_is_where():
    points = Points(
        ("reasoning", "language"),
        others=[(0.4, 0.4)],
        front=[(1.0, 0.2), (0.2, 1.0)],
        chosen=(0.8, 0.8),
        baselines={"base": (0.0, 0.0), "expert:language": (0.0, 1.0), "uniform": (0.8, 0.8)},
    )
    for plain, member, chosen in ((False, "●", "★"), (True, "o", "*")):
        drawn = sketch(points, 60, 16, plain=plain)
        assert drawn is not None
        lines = drawn.plain.split("\n")
        rows = [line for line in lines if line[4:5] in "│┤|+"]
        assert lines[0] == "language"
        assert rows[0].startswith("1.0")
        assert rows[0][5] == "L"
        assert member in rows[0]
        bottom = next(line for line in rows if line.startswith("0.0"))
        assert bottom[5] == "B"
        # The baseline stands beside the member that it has the scores of.
        assert any(f"{chosen}U" in row for row in rows)
        for entry in (f"{member} front", f"{chosen} exported", "B base", "L expert:language"):
            assert any(entry in line for line in lines)


def test_a_plot_of_one_value_has_a_range():
    drawn = sketch(Points(("a", "b"), front=[(0.5, 0.5)]), 40, 12)
    assert drawn is not None
    assert "●" in drawn.plain


@pytest.mark.parametrize(
    "values",
    [
        (1e9, 1e9 + 1e-7),
        (1e17, 1e17 + 16),
        (-1e12, 1e12),
        (0.0, 1e299),
        (0.5, float("inf")),
        (0.5, float("nan")),
    ],
)
def test_a_plot_of_any_values_is_drawn(values):
    low, high = values
    points = Points(("a", "b"), front=[(low, low)], others=[(high, high)], chosen=(high, low))
    drawn = sketch(points, 40, 12)
    assert drawn is not None
    assert "●" in drawn.plain
    assert max(map(len, drawn.plain.split("\n"))) <= 40
    assert sketch(Points(("a", "b"), front=[(float("nan"), 1.0)]), 40, 12) is None


def test_a_plot_says_where_less_is_better():
    points = Points(("cost", "b"), less=(True, False), others=[(1, 2), (3, 4)])
    assert "cost (less is better)" in str(sketch(points, 60, 12))


# --- outlook -------------------------------------------------------------------------------------


def ahead(**changes) -> Outlook:
    limits = BudgetEntry(**changes.pop("limits", {"trials": 100}))
    told = {
        "ended": [(1000.0 + 36.0 * n, 720) for n in range(1, 11)],
        "now": 1360.0,
        "began": 900.0,
        "working": 1000.0,
        "finished": 10,
        "tokens": 7200,
        "hours": 2.0,
        "per_hour": 4.0,
        "reserve": 100.0,
    }
    return outlook(limits, **(told | changes))


def test_an_outlook_goes_on_as_lately():
    told = ahead()
    assert told.trials_per_hour == pytest.approx(100)
    assert told.tokens_per_second == pytest.approx(20)
    assert (told.limit, told.left) == ("trials", pytest.approx(90 * 36 + 100))
    assert (told.cost, told.projected) == (None, None)


@pytest.mark.parametrize(
    ("limits", "limit", "left"),
    [
        ({"trials": 100, "timeout": "30m"}, "timeout", 1800 - 460),
        ({"trials": 100, "tokens": 9200}, "tokens", 100),
        ({"trials": 100, "gpu_hours": 2.1}, "gpu_hours", 90),
        ({"trials": 100, "gpu_hour_price": 5.0, "cost": 12.0}, "cost", 360),
        ({"patience": 5}, None, None),
    ],
)
def test_the_limit_that_comes_first_is_told(limits, limit, left):
    told = ahead(limits=limits)
    assert told.limit == limit
    assert told.left == (None if left is None else pytest.approx(left))


def test_cost_is_projected():
    told = ahead(limits={"trials": 110, "gpu_hour_price": 2.5})
    assert told.cost == pytest.approx(5.0)
    assert told.projected == pytest.approx(5.0 + 2.5 * 4 * (100 * 36 + 100) / 3600)
    assert ahead(searching=False).left is None


def test_confirmation_does_not_slow_the_pace():
    assert ahead(searching=False, now=9000.0).trials_per_hour == pytest.approx(100)


def test_only_recent_trials_tell_the_pace():
    slow = [(100.0 * n, 1) for n in range(1, 40)]
    told = ahead(ended=[*slow, *((3900.0 + n, 1) for n in range(1, 33))], now=3932.0, working=0.0)
    assert told.trials_per_hour == pytest.approx(3600, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3900, "1 h 5 min"), (90000, "1 d 1 h")],
)
def test_times_are_told_in_two_units(seconds, told):
    assert lasting(seconds) == told


# --- panel ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return load(write(tmp_path_factory.mktemp("one"), budget={"trials": 120}))


@pytest.fixture
def status(search: Search) -> Status:
    now = time.time()
    return Status(
        name="thai",
        folder=Path("runs/thai"),
        search=search,
        phase="searching",
        began=now - 4000,
        at=now,
        finished=47,
        front=(31, 12),
        volume=0.6123,
        best={"reasoning": (0.812, 31), "language": (0.955, 12)},
        failed=2,
        faults={"worker_lost": 3},
        workers={
            **{f"w{n}": Doing(f"trial {n}", "64 items of math", 10.0 * n, 64) for n in range(11)},
            "w11": Doing("", "starting", 70.0),
        },
        items=128,
        outlook=Outlook(38.0, 1240.0, 6900.0, "trials", 12.4, 31.8),
        points=Points(
            ("reasoning", "language"),
            others=[(n / 50, 1 - n / 45) for n in range(45)],
            front=[(0.8, 0.9), (0.9, 0.7)],
            baselines={"base": (0.1, 0.2), "expert:language": (0.05, 0.97)},
        ),
    )


def drawn(status: Status, width: int, height: int, term: str = "xterm", **options) -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=options.pop("encoding", "utf-8"))
    console = Console(
        width=width,
        height=height,
        file=file,
        force_terminal=True,
        no_color=True,
        _environ={"TERM": term},
        **options,
    )
    with console.capture() as taken:
        console.print(Panel(status))
    text = taken.get().replace("\x1b[0m", "").replace("\x1b[1m", "").replace("\x1b[2m", "")
    return [line.rstrip() for line in text.rstrip("\n").split("\n")]


@pytest.mark.parametrize("height", [10, 15, 20, 24, 40, 50])
@pytest.mark.parametrize("width", [60, 80, 103, 104, 120, 200])
def test_a_panel_fits_the_terminal(width, height, status):
    lines = drawn(status, width, height)
    assert len(lines) <= height - 2
    text = " ".join(" ".join(lines).split())
    if height == 10:  # no more than the beginning
        return
    for told in ("thai: searching for 1 h 6 min", "47 of 120", "39%", "38/h", "1,240 tokens/s"):
        assert told in text
    for told in ("1 h 55 min", "12.40 so far", "31.80 at the end", "2 trials", "0.6123"):
        assert told in text
    assert "w0 " in text or "12 workers" in text
    if height >= 20:
        assert "● front" in text
        assert "B base" in text


@pytest.mark.parametrize("width", [1, 5, 10, 18, 19])
def test_where_there_are_no_columns_there_is_a_title(width, status):
    assert len(drawn(status, width, 24)) <= (1 if width < 19 else 22)


@pytest.mark.parametrize(("term", "encoding"), [("linux", "utf-8"), ("xterm", "ascii")])
def test_a_screen_without_braille_gets_ascii(term, encoding, status):
    lines = drawn(status, 80, 40, term, encoding=encoding)
    assert all(line.isascii() for line in lines)
    assert any("o front" in line for line in lines)


def test_a_worker_says_what_it_does_and_how_far_it_is(status):
    lines = [line.plain for line in workers(status, 100, 20, status.at + 5)]
    assert lines[3] == "w3       trial 3, 64 items of math, 64/128, 35 s"
    assert lines[10].startswith("w10 ")
    assert lines[11] == "w11      starting, 1 min 15 s"
    fewer = [line.plain for line in workers(status, 100, 3, status.at)]
    assert fewer[2].strip() == "and 10 workers more: 9 at work, 1 not"
    assert [line.plain.strip() for line in workers(status, 100, 1, status.at)] == [
        "12 workers: 11 at work, 1 not"
    ]


def test_a_summary_is_one_line(status):
    line = terminal.summary(status)
    assert "\n" not in line
    assert "searching for 1 h 6 min: trials 47 of 120; rate 38/h, 1,240 tokens/s; " in line
    assert "left about 1 h 55 min, then budget.trials ends it" in line


def test_while_confirming_that_is_what_counts(status):
    told = dict(facts(replace(status, confirming=(3, 11)), bars=False))
    assert told["confirmed"].plain == "3 of 11 merges on held-out items"


# --- status of a folder --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace with a run of four trials, one of them stopped early."""
    folder = tmp_path_factory.mktemp("made")
    begun = Begun(folder, budget={"trials": 9, "gpu_hour_price": 2.0}, stored=True)
    for right in (0.5, 1.0):
        begun.tell(result(10, 4.0, right=right))
    begun.tell(result(10, 4.0, right=0.25, stopped=stop(2)))
    begun.tell(result(10, 4.0), duplicate_of=1)
    begun.held(0.5)
    studies.release(begun.run)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Run.open(tmp_path / "runs" / "s")


def hold(run: Run, **changes) -> None:
    me = vars(Holder.me()) | changes
    holder_file(run.folder / LOCK).write_text(json.dumps(me))


def kept(run: Run, phase: str, **more) -> None:
    told = {
        "at": time.time(),
        "began": time.time() - 100,
        "items": 4,
        "command": "mergefront run s",
        "holder": str(Holder.of(run.folder / LOCK)),
    }
    Live(phase=phase, **(told | more)).save(run.folder)


DEAD = {"pid": 2**22 + 1}
AWAY = {"machine": "another", "host": "node7", "since": "2026-01-01 00:00:00+00:00"}


@pytest.mark.parametrize(
    ("holder", "phase", "more", "state", "said", "then"),
    [
        ({}, "searching", {}, "running", "searching for", "mergefront ui"),
        (
            DEAD,
            "searching",
            {},
            "dead",
            "its driver ended while searching",
            "go on: mergefront run s",
        ),
        (DEAD, "stopped", {}, "stopped", "stopped", "mergefront confirm"),
        (DEAD, "failed", {"why": "no GPU"}, "failed", "no GPU", "go on: mergefront run s"),
        (AWAY, "searching", {}, "running", "searching for", "mergefront ui"),
        (AWAY, "searching", {"at": 0.0}, "silent", "on node7", "takes over"),
        (DEAD, None, {}, "stopped", "stopped", "mergefront run FILE"),
    ],
)
def test_a_status_says_whether_somebody_works(holder, phase, more, state, said, then, run):
    hold(run, **holder)
    if phase is not None:
        kept(run, phase, **more)
    old = time.time() - 3600
    os.utime(run.folder / "sessions.json", (old, old))
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    seen = look(run)
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
    assert seen.status.state == state
    lines = status_lines(seen)
    assert any(line.startswith("state") and said in line for line in lines), lines
    assert any(line.startswith("next") and then in line for line in lines), lines


def test_a_driver_that_has_told_nothing_yet_is_not_taken_for_the_one_before(run):
    hold(run, **DEAD)
    kept(run, "searching", workers={"w0": Doing("trial 3", "merging", 2.0, 2)}, done=1, total=2)
    hold(run)
    seen = look(run)
    assert (seen.status.state, seen.status.phase) == ("running", "starting")
    assert not seen.status.workers
    assert seen.status.confirming is None
    assert time.time() - seen.status.began < 60
    hold(run, **AWAY)  # nor does what the other told count as a sign of life
    old = time.time() - 3600
    os.utime(run.folder / "sessions.json", (old, old))
    assert look(run).status.state == "silent"


def test_the_session_tells_since_when_it_works(run):
    hold(run)
    began = time.time() - 1000
    kept(run, "searching", began=began, working=began + 400)
    seen = look(run)
    assert seen.status.began == began
    told = [t for t in seen.view.trials.values() if t.state in ("full", "partial")]
    rate = len(told) / (seen.status.at - began - 400) * 3600
    assert seen.status.outlook.trials_per_hour == pytest.approx(rate, rel=0.01)


def test_trials_that_run_are_named(run):
    study = studies.open_study(run)
    numbers = [study.ask().number for _ in range(2)]
    studies.release(run)
    (run.folder / "sessions.json").unlink()
    hold(run)
    named = f"2 trials: {numbers[0]}, {numbers[1]}"
    assert f"running     {named}" in status_lines(look(run))
    hold(run, **DEAD)
    assert f"unfinished  {named}" in status_lines(look(run))


def test_a_run_with_nothing_but_running_trials_was_seen_when_they_began(tmp_path):
    begun = Begun(tmp_path, budget={"trials": 9}, stored=True)
    studies.open_study(begun.run).ask()
    studies.release(begun.run)
    hold(begun.run, **DEAD)
    seen = look(begun.run, time.time() + 3600)
    assert any(
        line.startswith("state") and "stopped 1 h" in line
        for line in status_lines(seen, time.time() + 3600)
    )


def test_a_status_has_the_numbers(run):
    hold(run)
    kept(run, "searching", workers={"w0": Doing("trial 3", "merging", 2.0, 2)}, reserve=60.0)
    seen = look(run)
    data = json.loads(json.dumps(as_json(seen)))
    assert data["trials"] == {"duplicate": 1, "full": 2, "partial": 1}
    assert (data["finished"], data["front"], data["working"]) == (3, [1], True)
    assert data["best"]["reasoning"] == {"value": 1.0, "trial": 1}
    assert data["workers"]["w0"]["what"] == "merging"
    assert data["cost"] == pytest.approx(1.0)
    assert data["limit"] == "trials"
    assert data["left"] > 60
    lines = status_lines(seen)
    assert any("w0       trial 3, merging, 2/4" in line for line in lines)
    assert any(line.startswith("cost        1.00 so far, about ") for line in lines)


def test_a_status_is_read_while_the_lock_is_held_and_the_database_written(run):
    from search.run import locked

    with locked(run.folder):
        began = time.monotonic()
        assert look(run).status.state == "running"
        assert time.monotonic() - began < 5.0


def test_all_runs_are_a_table(run, tmp_path, capsys):
    hold(run, **DEAD)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    console = Console(width=120, record=True, file=io.StringIO())
    print_runs(console, tmp_path / "runs", as_json=False)
    text = console.export_text()
    assert "3 of 9" in text
    assert "broken" in text
    capsys.readouterr()
    print_runs(console, tmp_path / "runs", as_json=True)
    broken, whole = json.loads(capsys.readouterr().out)
    assert broken["run"].endswith("runs/broken")
    assert "run.json" in broken["error"]
    assert whole["finished"] == 3
    for data in (False, True):
        with pytest.raises(RunError, match="holds no runs"):
            print_runs(console, tmp_path / "nowhere", as_json=data)


def test_a_status_on_a_terminal_has_the_plot(run):
    console = Console(width=80, height=40, record=True, file=io.StringIO(), force_terminal=True)
    print_status(console, run, plot=True, as_json=False)
    text = console.export_text()
    for told in ("● front", "hypervolume", "next ", "last trial"):
        assert told in text
    with pytest.raises(ConfigError, match="needs a terminal"):
        watch_status(Console(file=io.StringIO()), run, plot=True)


def test_the_front_as_csv(run, tmp_path):
    console = Console(file=io.StringIO())
    options = {"as_json": False, "as_csv": False, "plot": False}
    out = tmp_path / "all.csv"
    print_front(console, run, **options, every=True, out=out)
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert [(row["trial"], row["state"]) for row in rows] == [
        ("0", "full"),
        ("1", "full"),
        ("2", "partial"),
        ("3", "duplicate"),
    ]
    assert [row["on_front"] for row in rows] == ["false", "true", "false", "false"]
    assert float(rows[1]["reasoning"]) == 1.0
    assert float(rows[1]["reasoning_low"]) < 1.0
    assert rows[1]["reasoning_n"] == "4"
    assert rows[1]["reasoning_confirmed"] == ""
    assert set(run.search.space.distributions()) <= rows[0].keys()
    front = tmp_path / "front.json"
    print_front(console, run, **options, every=False, out=front)
    (member,) = json.loads(front.read_text())
    assert (member["trial"], member["claimed"]["reasoning"]) == (1, 1.0)
    with pytest.raises(ConfigError, match=r"end it in \.csv or \.json"):
        print_front(console, run, **options, every=False, out=tmp_path / "x.txt")


def test_the_front_goes_to_standard_output_and_into_pipes(run, tmp_path):
    file = io.StringIO()
    options = {"as_json": False, "as_csv": True, "every": False, "plot": False}
    print_front(Console(file=file), run, **options, out=Path("-"))
    assert file.getvalue().startswith("label,trial,state,")
    assert not Path("-").exists()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    print_front(Console(file=io.StringIO()), run, **options, out=pipe)
    reader.join(20)
    assert read == [file.getvalue()]
    assert pipe.is_fifo()
    (tmp_path / "there.csv").write_text("")
    link = tmp_path / "link.csv"
    link.symlink_to("there.csv")
    print_front(Console(file=io.StringIO()), run, **options, out=link)
    assert link.is_symlink()
    assert (tmp_path / "there.csv").read_text() == file.getvalue()


# --- the listener --------------------------------------------------------------------------------


def listening(console: Console, run: Run, every: float = 1e9) -> tuple[terminal.Progress, object]:
    """The listener, and as much of a driver as it looks at."""
    begun_at = time.monotonic() - 60
    budget = SimpleNamespace(
        began=begun_at,
        items=4,
        tokens=100,
        ledger=SimpleNamespace(
            own=Session("2026-11-20T21:30:00+00:00", 180.0, 2, 0.0), priced_hours=0.1
        ),
        reserved=lambda able: 30.0,
    )
    driver = SimpleNamespace(
        run=run,
        search=run.search,
        budget=budget,
        notes=[],
        finished=3,
        front=[1],
        volume=0.5,
        stopping=False,
        study=studies.open_study(run, create=False),
        progress=SimpleNamespace(able=2),
        tracker=SimpleNamespace(link="http://mlflow/#/view"),
        pool=SimpleNamespace(size=2, doing=lambda: {"w0": Doing("trial 4", "merging", 1.0)}),
    )
    return terminal.Progress(console, "mergefront run s.yaml", every), driver


@pytest.mark.parametrize("term", ["dumb", "none"])
def test_without_a_terminal_there_are_plain_lines(term, run):
    file = io.StringIO()
    console = Console(
        file=file, width=80, force_terminal=term == "dumb", _environ={"TERM": term}, soft_wrap=True
    )
    progress, driver = listening(console, run, every=0.0)
    with progress:
        progress.phase(run, "starting")
        progress.started(driver)
        progress.finished(driver, "trial 1", result(10, 4.0))
        progress.confirming("trial 1", 2, 2)
    lines = file.getvalue().splitlines()
    assert "\x1b" not in file.getvalue()
    assert lines[0].startswith("run s: 2 workers, 3 trials done, until 9 trials")
    assert "every trial in MLflow: http://mlflow/#/view" in lines
    assert any("trial 1" in line and line.endswith("on the front") for line in lines)
    assert any(": trials 3 of 9; rate " in line for line in lines)
    assert lines[-1] == "confirmed 2 of 2: trial 1"
    told = Live.read(run.folder)
    assert told is not None
    assert (told.phase, told.command) == ("done", "mergefront run s.yaml")


def test_an_error_is_kept_for_other_shells(run):
    progress, _ = listening(Console(file=io.StringIO()), run)

    def failing() -> None:
        with progress:
            progress.phase(run, "starting")
            raise RunError("the disk is gone")

    with pytest.raises(RunError):
        failing()
    hold(run, **DEAD)
    seen = look(run)
    assert (seen.status.state, seen.status.why) == ("failed", "the disk is gone")


def test_an_error_in_the_panel_does_not_end_the_search(run, monkeypatch, caplog):
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a plot of nothing")

    monkeypatch.setattr(Panel, "__rich_console__", fails)
    file = io.StringIO()
    console = Console(
        file=file, width=80, height=30, force_terminal=True, _environ={"TERM": "xterm"}
    )
    progress, driver = listening(console, run, every=0.0)
    with progress:
        progress.phase(run, "starting")
        progress.started(driver)
        deadline = time.monotonic() + 20.0
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.05)  # another thread draws
        progress.finished(driver, "trial 1", result(10, 4.0))
        progress.tick(driver)
        progress.confirming("", 0, 2)
        progress.confirming("trial 1", 2, 2)
        progress.phase(run, "testing")
    assert "trials 3 of 9; rate " in file.getvalue()
    assert "confirmed 2 of 2: trial 1" in file.getvalue()
    assert [r.getMessage() for r in caplog.records if "panel" in r.getMessage()] == [
        "the search goes on without its panel: a plot of nothing"
    ]
    told = Live.read(run.folder)
    assert told is not None
    assert (told.phase, told.done, told.total) == ("done", 2, 2)


def test_what_a_confirmation_is_at_is_kept_with_the_searchs_command(run):
    hold(run, **DEAD)
    kept(run, "stopped")
    hold(run)
    progress = terminal.Progress(Console(file=io.StringIO()))
    with progress:
        for phase in ("starting", "scoring baselines"):
            progress.phase(run, phase)
            told = look(run)
            assert (told.status.state, told.status.phase) == ("running", phase)
        progress.confirming("", 0, 3)
        assert look(run).status.confirming == (0, 3)
        for phase in ("testing", "reporting"):
            progress.phase(run, phase)
            assert look(run).status.phase == phase
    told = Live.read(run.folder)
    assert told is not None
    assert (told.phase, told.command) == ("done", "mergefront run s")


def test_a_driver_that_lost_its_lock_tells_nothing(run):
    progress, driver = listening(Console(file=io.StringIO()), run)

    def taken_over() -> None:
        with progress:
            progress.phase(run, "starting")
            progress.started(driver)
            hold(run, pid=os.getppid())
            kept(run, "searching")
            raise RunError("was taken over")

    hold(run)
    with pytest.raises(RunError):
        taken_over()
    told = Live.read(run.folder)
    assert told is not None
    assert told.phase == "searching"


def test_what_cannot_be_kept_is_told_once(run, caplog):
    (run.folder / "live.json").unlink(missing_ok=True)
    (run.folder / "live.json").mkdir()
    progress, driver = listening(Console(file=io.StringIO()), run)
    with progress:
        progress.phase(run, "starting")
        progress.started(driver)
        progress.confirming("trial 1", 1, 1)
    warned = [r.getMessage() for r in caplog.records if "live.json" in r.getMessage()]
    assert len(warned) == 1
    assert "cannot be written" in warned[0]


def test_a_live_panel_ends_with_the_search(run):
    file = io.StringIO()
    console = Console(
        file=file, width=80, height=30, force_terminal=True, _environ={"TERM": "xterm"}
    )
    progress, driver = listening(console, run)
    with progress:
        progress.phase(run, "starting")
        progress.started(driver)
        time.sleep(0.1)
        driver.stopping = True
        progress.stopping(driver)
    assert "w0" in file.getvalue()
    told = Live.read(run.folder)
    assert told is not None
    assert told.phase == "stopped"
