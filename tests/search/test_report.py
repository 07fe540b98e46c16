"""The report tells the truth of a run in any state, and lets nothing in from outside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from merge_core.yaml_io import dump_yaml, load_yaml
from objectives import Estimate
from search import report, session
from search import study as studies
from search.config import Objective, Search, load
from search.confirm import Member
from search.export import spelled
from search.lease import holder_file
from search.live import Live
from search.report.gaps import gaps
from search.report.headline import headline
from search.report.page import _environment
from search.report.samples import samples
from search.report.sections import confirmed, failures
from search.report.steps import advice, commands, recipes, versions
from search.report.verdict import against
from search.run import LOCK, Run, freeze, item_digests, locked
from search.secrets import redacted
from search.status import look
from search.view import RunView
from tests.search import looks

SMALL = {"splits": {"dev": 8, "confirm": 12, "test": 8}, "workers": {"count": 2}}
PARAGRAPH = _environment().from_string("<p title='{{ a }}'>{{ a }}</p>")
HOSTILE = "</script><script>alert(1)</script><img src=//evil.example/x onerror=alert(1)>{{ 7*7 }}"


class Page(HTMLParser):
    """What a browser would find: elements, their text, the title."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = {name: value or "" for name, value in attrs}
        self.tags.append((tag, held))
        if tag in ("script", "style", "h1"):
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((held, ""))

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif "style" not in self._open:
            self.words.append(data)
            if "h1" in self._open:
                self.title = " ".join(data.replace("\u00a0", " ").split())

    @property
    def text(self) -> str:
        """All that is to be read, in one line."""
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def closed(self) -> None:
        """Nothing is loaded, no script runs but the page's own, every link leads into the page."""
        for tag, held in self.tags:
            assert tag not in ("img", "iframe", "link", "object", "embed", "base", "form", "video")
            assert not any(name.startswith("on") for name in held), held
            for name in ("src", "srcset", "action", "data", "poster", "background"):
                assert name not in held, (tag, held)
            assert held.get("href", "#").startswith("#"), held
        styles = re.findall(r"<style>(.*?)</style>", self.html, re.DOTALL)
        assert not any("url(" in style or "@import" in style for style in styles)
        (policy,) = (
            held["content"]
            for tag, held in self.tags
            if tag == "meta" and held.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy.startswith("default-src 'none';")
        data, *code = self.scripts
        assert data[0]["type"] == "application/json"
        json.loads(data[1])
        assert len(code) == (2 if json.loads(data[1]) else 1)
        for attributes, source in code:
            assert not attributes
            digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy

    def rows(self) -> list[str]:
        """Ids of the parts, in their order."""
        return [held["id"] for tag, held in self.tags if tag == "section"]


def page(folder: Path) -> Page:
    seen = look(Run.open(folder))
    assert seen.view is not None
    found = Page(report.page(seen.view, report.Standing.of(seen.status)))
    found.closed()
    return found


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes real small runs, which share a store of MLflow: to make one takes seconds."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"

    def made(trials: int, **changes: object) -> Path:
        parts = {**SMALL, "tracking": {"uri": store}, **changes}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session.figures, "draw", lambda view: None)  # seconds of drawing
            folder = looks.make(
                tmp_path_factory.mktemp("looks"), trials, "random", stops=(None,), **parts
            )
        holder = holder_file(folder / LOCK)  # this process, which goes on with other things
        gone = json.loads(holder.read_text(encoding="utf-8")) | {"pid": 2**22 + 1}
        holder.write_text(json.dumps(gone), encoding="utf-8")
        return folder

    return made


@pytest.fixture(scope="module")
def finished(make: Callable[..., Path]) -> Path:
    """A run that is done; not to be written to."""
    return make(6, baselines=["base", "experts"])


@pytest.fixture
def run(finished: Path) -> Iterator[Path]:
    """A copy of it, beside it: its models and items are where they were."""
    copy = finished.with_name("copy")
    shutil.copytree(finished, copy)
    # The study is known by the run's name.
    back = finished.with_name("kept")
    finished.rename(back)
    copy.rename(finished)
    yield finished
    shutil.rmtree(finished)
    back.rename(finished)


def unconfirmed(run: Path) -> None:
    (run / "confirmed.json").unlink()
    shutil.rmtree(run / "confirm")
    shutil.rmtree(run / "test")


def test_a_finished_run_tells_what_was_chosen_and_how_sure_that_is(finished):
    written = Page((finished / report.NAME).read_text(encoding="utf-8"))
    written.closed()
    assert "finished" in written.text  # by the session that wrote it, which still held the run
    found = page(finished)
    assert found.title == written.title
    view = look(Run.open(finished)).view
    assert view is not None
    assert view.chosen is not None
    assert view.test is not None
    label = view.chosen.label
    assert found.title.startswith((f"T{label[1:]}", "No gain"))
    for objective in view.search.objectives:
        assert spelled(view.chosen.confirmed[objective.name]) in found.text
        assert spelled(view.test.estimate(objective)) in found.text
    for member in view.members:
        assert member.label in found.text
    for name in view.search.space.distributions():
        assert name in found.text
    order = ["front", "confirmed", "sure", "searched", "cost", "parameters", "schedules"]
    assert found.rows() == [*order, "retained", "answers", "failed", "next", "commands"]
    assert "mergefront export runs/looks --model merged" in found.text
    assert "mergefront export runs/looks -o recipe.yaml" in found.text
    assert "mergefront merge recipe" not in found.text  # which knows nothing of the run
    assert "6 trials: importances need 25." in found.text
    assert "The scores were made with python 3" in found.text
    assert "This report was written with python 3" in found.text
    assert "Not for mergekit: mergekit has no ties_sv" in found.text
    assert "math_en/math: '>= 0.5'" in found.text  # the search file, whole
    assert "Solved by neither" in found.text or "Solved here" in found.text
    assert "still running" not in found.text


def test_answers_names_and_messages_are_text_and_hold_no_passwords(run):
    opened = Run.open(run)
    view = look(opened).view
    assert view is not None
    assert view.chosen is not None
    path = opened.held_out("confirm", view.chosen.fingerprint)
    data = json.loads(path.read_text(encoding="utf-8"))
    for row in data["items"]["math_th"]:
        row["text"] = f"<think>{HOSTILE}</think> คำตอบ {HOSTILE}"
        row["details"] = {"math.answer": HOSTILE}
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    told = f"postgresql://me:geheim@db/x {HOSTILE}"
    opened.incidents.record("worker_lost", f"trial 1 on {HOSTILE}", told)
    found = page(run)  # which is closed
    assert HOSTILE in found.text
    assert "คำตอบ" in found.text
    assert "geheim" not in found.html
    assert "evil.example" not in "".join(source for _, source in found.scripts)


@given(st.text(st.characters(blacklist_categories=("Cs",)), max_size=60))
@settings(derandomize=True, max_examples=50, deadline=None)
def test_any_text_is_shown_as_it_is(text):
    shown = PARAGRAPH.render(a=text)
    assert shown.count("<") == 2
    assert shown.count("'") == 2
    assert unescape(shown[shown.index(">") + 1 : -4]) == redacted(text)


def test_a_stopped_run_says_that_nothing_is_confirmed(run):
    unconfirmed(run)
    Live(at=2.0, began=1.0, phase="stopped").save(run)
    found = page(run)
    assert "on the front, by scores that are not confirmed" in found.title
    assert "The search was stopped after 6 trials" in found.text
    assert "Not confirmed: these are scores on the dev items" in found.text
    assert "mergefront confirm runs/looks" in found.text
    assert "mergefront export" not in found.text
    assert "confirmed" not in found.rows()
    assert "Of the dev items" in found.text
    assert "An item is solved by an answer that is right and in the language." in found.text


@pytest.mark.parametrize(
    ("phase", "why", "says"),
    [
        ("failed", "3 jobs in a row failed", "ended with an error after 6 trials: 3 jobs"),
        ("searching", "", "its driver was killed"),
    ],
)
def test_a_run_that_broke_off_says_why(run, phase, why, says):
    unconfirmed(run)
    Live(at=2.0, began=1.0, phase=phase, why=why).save(run)
    assert says in page(run).text


def test_a_running_search_can_be_told_of(run, mergefront, tmp_path):
    unconfirmed(run)
    with locked(run):
        Live(at=2.0, began=1.0, phase="searching").save(run)
        ended = mergefront("report", run, "-o", tmp_path / "now.html")
    assert ended.code == 0, ended.err
    found = Page((tmp_path / "now.html").read_text(encoding="utf-8"))
    found.closed()
    assert "still running" in found.text
    assert "This is how it stood." in found.text


def test_nothing_to_export_is_the_first_thing_told(run):
    data = json.loads((run / "confirmed.json").read_text(encoding="utf-8"))
    for member in data["members"]:
        member["feasible"] = member["on_front"] = False
    (run / "confirmed.json").write_text(json.dumps(data), encoding="utf-8")
    found = page(run)
    assert found.title == "Nothing to export: no confirmed merge qualifies"
    assert "No confirmed member holds math_en/math >= 0.5" in found.text
    assert "--best-effort" in found.text


def test_what_is_gone_costs_only_itself_and_trials_since_are_told(run):
    data = json.loads((run / "confirmed.json").read_text(encoding="utf-8"))
    data["finished"] -= 2
    (run / "confirmed.json").write_text(json.dumps(data), encoding="utf-8")
    shutil.rmtree(run / "confirm")
    found = page(run)
    assert "2 more have finished since" in found.text
    assert "None are shown: their results are gone from the run folder." in found.text
    assert "not compared" in found.text


@pytest.fixture(scope="module")
def view(finished: Path) -> RunView:
    found = look(Run.open(finished)).view
    assert found is not None
    assert found.chosen is not None
    return found


def told(view: RunView) -> tuple[str, str]:
    """The headline and what goes with it."""
    found = headline(view, report.Standing("finished", 1.0), against(view))
    return found.title, " ".join(found.lines)


def with_baselines(view: RunView, **changes: object) -> RunView:
    """Its baselines score everything, or what else is said of them."""
    best = Estimate(1.0, 0.99, 1.0, 12)

    def changed(member: Member) -> Member:
        scores = {o.name: best for o in view.search.objectives}
        return replace(member, **{"confirmed": scores, "joint": best, **changes})

    members = [m if m.trial is not None else changed(m) for m in view.members]
    return replace(view, members=members)


def test_a_baseline_that_does_not_hold_the_constraints_wins_nothing(view):
    ahead = with_baselines(view, feasible=True)
    assert told(ahead)[0].startswith("No gain")
    assert any("is ahead of" in line for line in confirmed(ahead)[1])
    none = with_baselines(view, feasible=False)
    title, lines = told(none)
    assert "No gain" not in title
    assert "best baseline," not in title
    assert "do not hold the constraints" in lines
    assert not any("is ahead of" in line for line in confirmed(none)[1])
    assert not any(one.holds for one in against(none))
    label = next(m.label for m in view.members if m.trial is None)
    some = replace(
        none, members=[replace(m, feasible=m.feasible or m.label == label) for m in none.members]
    )
    assert {one.baseline for one in against(some)} == {label}


def test_a_broken_baseline_is_not_told_as_compared(run):
    view = look(Run.open(run)).view
    for member in view.members:
        if member.trial is None:
            for path in (
                view.run.held_out("confirm", member.fingerprint),
                view.run.baseline(member.label),
            ):
                data = json.loads(path.read_text(encoding="utf-8"))
                path.write_text(json.dumps({**data, "items": {}, "fault": "infinite weights"}))
    # As its confirmation tells it: no items, and the reference for a score.
    scores = {objective.name: Estimate(0.0, 0.0, 0.0, 0) for objective in view.search.objectives}
    title, lines = told(with_baselines(view, feasible=False, joint=None, confirmed=scores))
    assert title.endswith("it could be compared with no baseline")
    assert "its merge is broken and could not be scored" in lines


def test_a_score_over_one_is_shown_whole(view):
    name = view.search.objectives[0].name
    large = Estimate(10.512, 9.0, 12.0, 8)
    members = [replace(m, claimed={**m.claimed, name: large}) for m in view.members]
    assert confirmed(replace(view, members=members))[0].rows[0][1] == "10.512"


def test_answers_are_sorted_by_scores_that_have_a_half(view):
    (part, measure), *_ = view.search.objectives[0].measured.items()
    key = f"{part[0]}/{part[1]}"

    def by(**changes: object) -> str:
        one = Objective("one", (part,), "maximize", 0.0, (replace(measure, **changes),))
        search = replace(view.search, objectives=(one,), constraints=())
        return samples(replace(view, search=search)).rule

    # Whether both are right is told of these items, so that bounds do not count.
    assert f"{key}: without bounds" in by(range=(0.0, float("inf")))
    assert "without bounds" not in by()


def test_trials_that_nobody_began_are_no_failures(view):
    trial = view.trials[0]
    lost = replace(trial, number=98, state="never begun", recipe=None, why="")
    assert failures(replace(view, trials={**view.trials, 98: lost})) == failures(view)
    done = replace(lost, state="failed", recipe=trial.recipe)
    assert "1 trial could not be done" in failures(replace(view, trials={98: done}))[0][-1]


def test_models_that_are_gone_are_not_mergekit_s_fault(view):
    models = [{"model": f"./gone/{name}", "parameters": {"weight": 1}} for name in "ab"]
    plain = {"merge_method": "task_arithmetic", "base_model": "./gone/base", "models": models}
    why = recipes(replace(view, chosen=replace(view.chosen, recipe=plain)))[1]
    assert why.startswith("Whether mergekit can do it is not known here: ")
    assert recipes(view)[1].startswith("Not for mergekit: ")


def again(run: Path) -> str:
    """The command for the same search from its beginning."""
    view = look(Run.open(run)).view
    assert view is not None
    told = dict(commands(view, mergekit=False))
    return told["this search again, from its beginning"]


def test_a_stopped_search_is_gone_on_with_as_it_was_typed(run):
    stopped = report.Standing("stopped", 2.0)

    def first(command: str) -> str:
        Live(at=2.0, began=1.0, phase="stopped", command=command).save(run)
        view = look(Run.open(run)).view
        assert view is not None
        return advice(view, stopped, [])[0].command

    assert first("") == "mergefront run looks.yaml"
    typed = "mergefront run sub/own.yaml --name looks --set budget.trials=6"
    assert first(typed) == typed


def test_the_search_again_is_the_one_that_ran_and_not_the_file_as_it_is_now(run):
    view = look(Run.open(run)).view
    assert view is not None
    held = view.search.root / "looks.yaml"
    was = held.read_text(encoding="utf-8")
    assert again(run) == "mergefront run looks.yaml --new"
    own = held.with_name("own.yaml")
    try:
        # As after `run looks.yaml --set seed=0`: what is frozen in the run is not in the file.
        held.write_text(f"seed: 7\n{was}", encoding="utf-8")
        copy, _, command = again(run).partition(" && ")
        assert command == "mergefront run looks-again.yaml --name looks --new"
        subprocess.run(shlex.split(copy), cwd=view.search.root, check=True)
        made = load(view.search.root / "looks-again.yaml")
        assert freeze(made) == freeze(view.search)
        assert item_digests(made) == view.run.manifest["items"]  # its paths lead there
        assert again(run) == command
        # Comments are no other search, and neither is another name.
        (view.search.root / "looks-again.yaml").unlink()
        own.write_text(f"# mine\n{was}", encoding="utf-8")
        Live(at=2.0, began=1.0, phase="done", command="mergefront run a/own.yaml").save(run)
        assert again(run) == "mergefront run own.yaml --name looks --new"
        held.unlink()
        own.unlink()
        command = "mergefront run looks.yaml --new"
        assert again(run) == f"cp runs/looks/search.yaml looks.yaml && {command}"
    finally:
        held.write_text(was, encoding="utf-8")
        own.unlink(missing_ok=True)


def test_a_run_in_another_folder_of_runs_is_named_with_it(run):
    view = look(Run.open(run)).view
    assert view is not None
    moved = replace(view.run, folder=view.search.root / "elsewhere" / "looks")
    told = dict(commands(replace(view, run=moved), mergekit=False))
    last = "mergefront run looks.yaml --runs elsewhere --new"
    assert told["this search again, from its beginning"] == last


# ---- answers


def with_answers(view: RunView, ours: list[float], theirs: list[float]) -> None:
    """The run as if each item had been answered several times, by the chosen one and baselines."""
    file = view.run.folder / "search.yaml"
    asked = load_yaml(file).data
    for task in asked["tasks"].values():
        task["samples"] = len(ours)
        task["generate"]["temperature"] = 0.6
    file.write_text(dump_yaml(asked), encoding="utf-8")
    for member in view.members:
        if member is view.chosen or member.trial is None:
            path = view.run.held_out("confirm", member.fingerprint)
            data = json.loads(path.read_text(encoding="utf-8"))
            rights = ours if member is view.chosen else theirs
            for row in (row for rows in data["items"].values() for row in rows):
                row["samples"] = [
                    {
                        "scores": dict.fromkeys(row["scores"], right),
                        "text": f"saying {at + 1}",
                        "tokens": 3,
                        "finish_reason": "stop",
                        "details": {},
                    }
                    for at, right in enumerate(rights)
                ]
                row["scores"] = dict.fromkeys(row["scores"], sum(rights) / len(rights))
            path.write_text(json.dumps(data), encoding="utf-8")


def test_of_several_answers_the_one_that_tells_is_shown_with_its_own_scores(run):
    view = look(Run.open(run)).view
    assert view is not None
    with_answers(view, [0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
    found = samples(look(Run.open(run)).view)
    assert found is not None
    (group,) = found.groups
    assert group.name == "fail"  # for one of the four is wrong, as the rule says
    assert "solved by all 4 answers being right and in the language" in found.rule
    assert "the first in which the two differ" in found.rule
    for one in group.shown:
        assert one.theirs is not None
        assert (one.ours.which, one.ours.answer) == ("answer 2 of 4", "saying 2")
        assert (one.theirs.which, one.theirs.answer) == ("answer 2 of 4", "saying 2")
        assert ("right and in the language (mean of 4: 0.75)", "1") in one.ours.scores
        assert ("right and in the language (mean of 4: 0)", "0") in one.theirs.scores
    assert "answer 2 of 4" in page(run).text
    with_answers(view, [1.0, 1.0], [1.0, 0.0])
    (group,) = samples(view).groups
    assert group.name == "wins"
    assert {one.theirs.which for one in group.shown} == {"answer 2 of 2"}


def test_questions_that_are_gone_are_said_to_be(run):
    view = look(Run.open(run)).view
    assert view is not None
    items = view.search.root / "items_th.jsonl"
    was = items.read_text(encoding="utf-8")
    assert "(items not found)" not in page(run).text
    try:
        items.write_text(was.replace("prompt", "question"), encoding="utf-8")
        text = page(run).text
        assert "What math_th asks and expects is not shown:" in text
        assert "(items not found) expected: (items not found)" in text
    finally:
        items.write_text(was, encoding="utf-8")


# ---- what is missing is said


def test_what_a_page_has_not_is_told(view):
    def told(**changes: object) -> dict[str, str]:
        own = {n: replace(t, retained={}) for n, t in view.trials.items()}
        return gaps(replace(view, trials=own, **changes), {"importance"}, answers=False)

    def searching(**changes: object) -> Search:
        return replace(view.search, file=view.search.file.model_copy(update=changes))

    assert gaps(view, {"importance", "slices", "retained"}, answers=True) == {}
    found = told()
    assert set(found) == {"slices", "retained", "answers"}
    assert found["retained"] == "Not counted: the scripted engine merges nothing."
    assert "gone from the run folder" in found["answers"]
    off = searching(tracking=view.search.file.tracking.model_copy(update={"retained": False}))
    assert told(search=off)["retained"].endswith("tracking.retained: false.")
    names = view.search.space.distributions()
    frozen = view.search.file.sampler.model_copy(update={"freeze": dict.fromkeys(names, 0)})
    assert "No parameter was varied" in told(search=searching(sampler=frozen))["slices"]


# ---- runs in which nothing was scored


def emptied(run: Path, *trials: FrozenTrial, why: str = "", phase: str = "failed") -> Page:
    """The page of the run as if it had ended with these trials alone."""
    for name in ("trials", "confirm", "test", "baselines"):
        shutil.rmtree(run / name)
    for name in ("confirmed.json", "study.db", "recipe.yaml"):
        (run / name).unlink()
    opened = Run.open(run)
    study = studies.open_study(opened)
    study.add_trials(trials)
    studies.release(opened)
    Live(at=2.0, began=1.0, phase=phase, why=why, command="mergefront run looks.yaml").save(run)
    return page(run)


def test_a_search_that_failed_before_anything_was_scored_has_its_report(run, mergefront):
    lost = create_trial(state=TrialState.FAIL, user_attrs={studies.RECIPE: "{}"})
    Run.open(run).incidents.record("worker_lost", "trial 1 on w0", "worker process ended: OOM")
    why = "3 jobs in a row failed, the last with: worker process ended; see run.log"
    found = emptied(run, lost, lost, lost, why=why)
    assert found.title == f"The search ended with an error: {why}"
    assert "ended with an error" in found.words  # its state
    assert "Of 3 trials none is scored: 3 could not be done by any worker." in found.text
    assert "The last of them: worker process ended: OOM." in found.text
    assert "No baseline is scored." in found.text
    assert "x worker_lost: a worker's process ended" in found.text
    assert "less runs/looks/run.log" in found.text
    assert "mergefront run looks.yaml" in found.text
    assert "mergefront confirm" not in found.text
    assert "mergefront front" not in found.text
    assert "3 trials could not be done by any worker" in found.text
    ended = mergefront("report", run)
    assert (ended.code, ended.err) == (0, "")
    report.draw(look(Run.open(run)).view, why="no worker starts")
    assert Page((run / report.NAME).read_text()).title.endswith("an error: no worker starts")


def test_a_search_whose_merges_were_all_broken_says_so(run):
    told = {"fault": "model.norm.weight: NaN", studies.RECIPE: "{}"}
    broken = create_trial(values=[0.0, 0.0], user_attrs=told)
    found = emptied(run, broken, broken, phase="done")
    assert found.title == "The search ended, and no trial is scored"
    assert "2 came out broken. The last of them: model.norm.weight: NaN." in found.text
    assert "Every merge that was tried is broken" in found.text


@pytest.mark.parametrize(
    ("phase", "title"),
    [
        ("stopped", "The search was stopped before any trial was scored"),
        ("searching", "The search's driver was killed before any trial was scored"),
    ],
)
def test_a_search_that_ended_before_its_first_trial_says_so(run, phase, title):
    found = emptied(run, phase=phase)
    assert found.title == title
    assert "No trial had begun." in found.text
    assert "Go on with the search where it stands" in found.text


def test_a_long_error_is_whole_below_the_title(run):
    why = "the node is gone: " + "x" * 300
    found = emptied(run, why=why)
    assert found.title == "The search ended with an error: the node is gone: …"
    assert f"The search ended with an error after 0 trials: {why}." in found.text


def test_versions_of_scores_are_told_where_sessions_kept_them(view):
    (new,) = view.sessions
    (line,), _ = versions(view)
    assert line.startswith("python 3")
    lines, _ = versions(replace(view, sessions=[replace(new, versions={}), new, new]))
    assert lines == ["not known: of a session whose version of mergefront kept none", line]


def test_one_objective_without_baselines(make):
    folder = make(3, objectives={"reasoning": "math_th/math"}, baselines=[], constraints={})
    found = page(folder)
    assert found.title.endswith("there is no baseline")
    assert "Of the confirm items" in found.text


def test_three_objectives_one_of_them_to_be_small(make):
    switch = {"score": "math_th/language.switch", "direction": "minimize", "reference": 1.0}
    objectives = {"right": "math_th/math", "thai": "math_th/language", "switch": switch}
    found = page(make(3, objectives=objectives, baselines=["base"], constraints={}))
    assert "switch (less is better)" in found.text
    assert "base" in found.text


def test_the_command_says_what_is_wrong(run, mergefront, tmp_path):
    ended = mergefront("report", run, "-o", tmp_path)
    assert ended.code != 0
    assert "is a folder; name a file" in ended.err
    (run / "study.db").unlink()
    shutil.rmtree(run / "trials")
    ended = mergefront("report", run)
    assert ended.code == 2
    assert "no trial has begun yet" in ended.err
    Live(at=2.0, began=1.0, phase="failed", why="no database is there").save(run)
    ended = mergefront("report", run)
    assert ended.code == 2
    assert "when the search ended with an error: no database is there" in ended.err
