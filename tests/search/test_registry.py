"""Recipes in MLflow's registry, and what else of a run its pages show: a real store, a real run."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from merge_core import Recipe
from objectives import ItemScore
from search import confirm as confirming
from search import projection, registry
from search import study as studies
from search.file import TrackingEntry
from search.ledger import Ledger
from search.mlflow_link import link_for, page_of
from search.mlflow_note import END, LONGEST_NOTE, NOTE, above, note_of
from search.mlflow_store import Store
from search.names import version_alias
from search.registry import public_name
from search.results import Result
from search.run import Run, locked
from search.sync import differences, sync
from search.tracking import Tracker
from search.view import RunView
from tests.search.small import CommandLine
from tests.search.test_driver import write
from tests.search.test_postgres import a_run

MODELS = [
    {"model": n, "name": n, "parameters": {"weight": {"low": 0.0, "high": 1.0}}} for n in "lr"
]
TRIALS, ITEMS = 6, 4


def answered(recipe: dict[str, Any], fingerprint: str, right: int, split: str) -> Result:
    rows = [
        ItemScore(
            f"q{n}",
            {"math": float(n < right), "language": n / 4},
            f"answer {n}",
            5,
            "stop",
            (),
            {"math.answer": str(n)},
        )
        for n in range(ITEMS)
    ]
    return Result(recipe, fingerprint, split, {"t": rows}, {"load": 0.1, "generate": 0.2})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six trials, one of them failed, and a baseline; confirmed, and put into MLflow by `sync`."""
    folder = tmp_path_factory.mktemp("registry")
    data = {"budget": {"trials": TRIALS, "gpu_hour_price": 3.0}, "constraints": {}}
    data["tracking"] = {"register_as": "nightly", "alias": "best"}
    run = a_run(write(folder, models=MODELS, **data))
    with locked(run.folder), Ledger(run, 1, 0.0):
        study = studies.open_study(run)
        for number in range(TRIALS):
            trial = study.ask()
            recipe = run.search.space.sample(trial)
            trial.set_user_attr(studies.RECIPE, json.dumps(recipe.plain()))
            if number == 2:
                studies.fail(study, trial)
                continue
            name = run.fingerprint(recipe.resolved(run.search.root))
            result = answered(recipe.plain(), name, number % ITEMS, "dev")
            result.save(run.trial(number))
            studies.tell(study, run.search, trial, result)
        answered({"merge_method": "linear"}, "b" * 16, 2, "dev").save(run.baseline("uniform"))
        confirm(run, study)
        studies.release(run)
    sync(run)
    return run


def confirm(run: Run, study: Any) -> None:
    """Confirm the front without workers, and test the one that is exported."""
    trials = studies.scored(study)
    recipes: dict[str, Recipe] = {}
    claimed, confirmed = {}, {}
    for number in studies.current_front(study, run.search):
        recipe = studies.recipe_of(trials[number], run.search)
        assert recipe is not None
        label = f"trial {number}"
        recipes[label], claimed[label] = recipe, Result.load(run.trial(number))
        confirmed[label] = answered(recipe.plain(), run.fingerprint(recipe), 3, "confirm")
    members = confirming.members_of(run.search, recipes, claimed, confirmed)
    confirming.save(run, members, finished=len(trials))
    chosen = confirming.choose(run.search, members)
    test = answered(dict(chosen.recipe), chosen.fingerprint, 3, "test")
    test.save(run.held_out("test", chosen.fingerprint))


@pytest.fixture
def mergefront(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    monkeypatch.chdir(run.folder.parent.parent)
    return CommandLine(monkeypatch, capsys)


def client_of(run: Run) -> Any:
    return mlflow.MlflowClient(tracking_uri=run.tracking)


def test_registering_twice_is_one_version_whose_files_make_the_recipe(
    run: Run, mergefront: CommandLine, tmp_path: Path
) -> None:
    first = mergefront("register", "runs/s", "thai-r1", "--alias", "champion")
    assert first.code == 0, first
    assert "registered as thai-r1 version 1" in first.out
    again = mergefront("register", "runs/s", "thai-r1", "--alias", "challenger")
    assert "is already thai-r1 version 1" in again.out
    client = client_of(run)
    (version,) = client.search_model_versions("name='thai-r1'")
    assert sorted(client.get_model_version("thai-r1", "1").aliases) == ["challenger", "champion"]
    chosen = confirming.choose(run.search, confirming.load(run)[0])
    assert version.tags["fingerprint"] == chosen.fingerprint
    assert version.tags["confirmed_reasoning"].startswith(".750 [")
    assert "| 4" in version.description
    assert version.tags["test_reasoning"].startswith(".750")
    assert "scored once" in version.description
    champion = client.get_model_version_by_alias("thai-r1", "champion")
    assert champion.source == f"runs:/{champion.run_id}/registered"
    held = Path(client.download_artifacts(champion.run_id, "registered", str(tmp_path)))
    recipe = Recipe.load(held / "recipe.yaml")
    assert run.fingerprint(recipe) == chosen.fingerprint
    assert "merge_method: task_arithmetic" in (held / "mergekit_config.yml").read_text()
    assert differences(run) == []  # what is registered is nothing that sync would mend


def test_a_session_registers_what_it_exports_when_the_file_asks_for_it(run: Run) -> None:
    with locked(run.folder):
        tracker = Tracker(run, studies.open_study(run))
        tracker.report()
        tracker.close()
        studies.release(run)
    assert tracker.problem is None
    assert tracker.link == link_for(run)
    version = client_of(run).get_model_version_by_alias("nightly", "best")
    assert version.tags["fingerprint"] == confirming.load(run)[0][0].fingerprint
    assert differences(run) == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("a/b",), "'a/b' holds '/': a registered model's name has no / :"),
        ((" ",), "' ': a registered model's name cannot be blank"),
        (("m" * 201,), "has at most 200 characters"),
        (("..",), "is no dot"),
        (("model", "--alias", "v1"), "--alias 'v1': an alias is not latest or v1"),
        (("model", "--alias", "LATEST"), "--alias 'LATEST': an alias is not latest or v1"),
        (("model", "--alias", "7b"), "--alias '7b': an alias begins with a letter"),
        (("model", "--pick", "trial:99"), "not among the confirmed members"),
        (("model", "--tracking-uri", "sqlite:///m.db"), "sqlite:///m.db: nothing is tracked"),
        (("model", "--tracking-uri", "http://127.0.0.1:1"), "http://127.0.0.1:1"),
        (("model", "--tracking-uri", "postgresql://me:pw@127.0.0.1:1/x"), "does not answer"),
        (("model", "--tracking-uri", "postgresql://me@127.0.0.1:x/x"), "cannot be opened"),
        (("model", "--tracking-uri", ""), "--tracking-uri '': name a store"),
    ],
)
def test_what_cannot_be_registered_is_one_line_and_writes_nothing(
    run: Run,
    mergefront: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    why: str,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    began = time.monotonic()
    ended = mergefront("register", "runs/s", *arguments)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended
    assert why in ended.err
    assert "pw" not in ended.err
    assert time.monotonic() - began < 20  # MLflow alone would try a database for an hour
    names = {model.name for model in client_of(run).search_registered_models()}
    assert names <= {"thai-r1", "nightly"}


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V12", "1st", "a b", "", "x" * 201])
def test_the_search_file_and_the_command_refuse_the_same_aliases(alias: str) -> None:
    with pytest.raises(ValueError, match="alias"):
        TrackingEntry(alias=alias)
    with pytest.raises(ValueError, match="alias"):
        version_alias(alias)


def test_mlflow_takes_the_names_and_aliases_that_we_take(run: Run) -> None:
    client = client_of(run)
    for name, alias in (
        ("7b, the best & last%", "v1a"),
        ("ไทย", "best-1"),
        ("m" * 200, "x" * 200),
    ):
        entry = TrackingEntry(register_as=name, alias=alias)
        client.create_registered_model(entry.register_as)
        version = client.create_model_version(name, f"file://{run.folder}")
        client.set_registered_model_alias(name, alias, version.version)
        assert client.search_model_versions(f"name='{name}'")[0].version == version.version
        assert client.get_model_version_by_alias(name, alias).version == version.version
        client.delete_registered_model(name)


def test_a_refused_registration_leaves_a_finished_run_and_says_what_does_it_later(
    run: Run, mergefront: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    plain = mlflow.MlflowClient.log_artifact

    def noted(self: Any, run_id: str, path: str, *rest: Any) -> None:
        sent.append(Path(path).name)
        plain(self, run_id, path, *rest)

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", noted)
    (run.folder / "front.html").write_text("a page")
    before = dict(run.incidents.counts)
    refuse = "BEFORE INSERT ON model_versions BEGIN SELECT RAISE(ABORT, 'no'); END"
    client = client_of(run)
    if client.search_registered_models("name = 'nightly'"):
        client.delete_registered_model("nightly")
    with sqlite3.connect(run.folder / "mlflow.db") as database:
        database.execute(f"CREATE TRIGGER refuse {refuse}")
    try:
        with locked(run.folder):
            tracker = Tracker(run, studies.open_study(run))
            tracker.confirmed()
            tracker.report()
            tracker.close()
            studies.release(run)
    finally:
        with sqlite3.connect(run.folder / "mlflow.db") as database:
            database.execute("DROP TRIGGER refuse")
    assert tracker.problem is not None
    assert tracker.problem.startswith("'nightly' is not registered: ")
    later = "`mergefront register runs/s nightly --alias best`"
    assert tracker.problem.endswith(f"; {later} does it")
    assert "sync" not in tracker.problem
    assert run.incidents.counts == before  # MLflow was there all the time
    assert own_run(run).info.status == "FINISHED"
    assert sent.count("front.html") == 1  # and not once more while it closes
    assert mergefront(*later.strip("`").split()[1:]).code == 0
    (run.folder / "front.html").unlink()
    assert differences(run) == []


def test_a_version_that_is_found_again_tells_its_scores_anew(
    run: Run, mergefront: CommandLine
) -> None:
    assert mergefront("register", "runs/s", "thai-r1").code == 0
    client = client_of(run)
    told = client.get_model_version("thai-r1", "1").description
    client.update_model_version(
        "thai-r1", "1", f"what it was\n\n{registry.END}\n\nRuns on the phone."
    )
    again = mergefront("register", "runs/s", "thai-r1")
    assert "is already thai-r1 version 1" in again.out
    assert client.get_model_version("thai-r1", "1").description == f"{told}\n\nRuns on the phone."
    about = client.get_registered_model("thai-r1").description
    assert about.startswith("Recipes of merges of l, r")
    assert str(run.folder.parent.parent) not in about + told


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("/home/me/models/thai", "thai"),
        ("org/name@main", "org/name@main"),
        ("l", "l"),
        ("org/name+../adapters/thai", "org/name+thai"),
    ],
)
def test_descriptions_name_models_without_the_folders_above_them(
    run: Run, reference: str, shown: str
) -> None:
    (run.folder.parent.parent.parent / "adapters" / "thai").mkdir(parents=True, exist_ok=True)
    assert public_name(reference, run.search.root) == shown


def test_an_outage_at_the_end_says_that_the_recipe_is_to_be_registered_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me@127.0.0.1:1/x")
    monkeypatch.chdir(run.folder.parent.parent)
    (run.folder / "recipe.yaml").write_text("merge_method: linear")
    began = time.monotonic()
    with locked(run.folder):
        tracker = Tracker(run, studies.open_study(run))
        tracker.report()
        tracker.close()
        studies.release(run)
    (run.folder / "recipe.yaml").unlink()
    assert time.monotonic() - began < 30
    assert tracker.problem is not None
    assert "127.0.0.1:1" in tracker.problem
    assert tracker.problem.endswith(
        "; `mergefront sync` fills it in, then `mergefront register runs/s nightly --alias best` "
        "registers the recipe"
    )


def test_a_copied_run_writes_nothing_into_the_one_it_was_copied_from(
    run: Run, mergefront: CommandLine, tmp_path: Path
) -> None:
    held = sorted((run.folder / "mlartifacts").rglob("*"))
    shutil.copytree(run.folder.parent.parent, tmp_path / "elsewhere")
    copy = tmp_path / "elsewhere" / "runs" / "s"
    rows = (copy / "mlflow.db").read_bytes()
    for command in (["register", str(copy), "model"], ["sync", str(copy)]):
        ended = mergefront(*command)
        assert (ended.code, ended.err.count("\n")) == (2, 1), ended
        assert f"mlflow.db keeps its files under {run.folder}" in ended.err
    with locked(copy):
        moved = Run.open(copy)
        tracker = Tracker(moved, studies.open_study(moved))
        tracker.report()
        tracker.close()
        studies.release(moved)
    assert tracker.problem is not None
    assert tracker.problem.endswith("rename its mlflow.db, then `mergefront sync` writes another")
    assert (copy / "mlflow.db").read_bytes() == rows
    assert sorted((run.folder / "mlartifacts").rglob("*")) == held
    (copy / "mlflow.db").rename(copy / "old.db")
    # In another place: this process still has the old file open.
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "third")
    third = tmp_path / "third" / "runs" / "s"
    assert mergefront("sync", str(third)).code == 0
    assert mergefront("register", str(third), "model").code == 0
    assert list((third / "mlartifacts").rglob("registered/recipe.yaml"))
    assert sorted((run.folder / "mlartifacts").rglob("*")) == held


def test_a_run_that_is_not_confirmed_or_not_in_mlflow_is_told(
    run: Run, mergefront: CommandLine
) -> None:
    other = run.folder.with_name("other")
    shutil.copytree(run.folder, other)
    (other / "confirmed.json").unlink()
    assert "not confirmed yet" in mergefront("register", "runs/other", "model").err
    shutil.rmtree(other)
    client, own = client_of(run), Store(run, create=False).find((projection.TRIAL, "3"))
    client.delete_run(own)
    lacking = mergefront("register", "runs/s", "model")
    assert (lacking.code, lacking.err.count("\n")) == (2, 1)
    assert "MLflow lacks trial 3: `mergefront sync runs/s`" in lacking.err
    client.restore_run(own)


def own_run(run: Run) -> Any:
    store = Store(run, create=False)
    return store.client.get_run(store.parent)


def test_the_searchs_own_run_tells_what_was_found_and_what_to_do(run: Run) -> None:
    own = own_run(run)
    note = own.data.tags[NOTE]
    assert note.startswith(f"**{own.data.tags['exported']} is exported: reasoning ")
    for words in (
        "### Failed",
        "trial 2: ",
        "`mergefront register runs/s NAME",
        "### Found",
        END,
        "**trial 3**\u00a0 |",
    ):
        assert words in note
    # What MLflow shows unfolded is a few lines.
    assert "viewStateShareKey=front" in "\n".join(note.splitlines()[:3])


def test_what_people_write_below_the_description_stays(run: Run) -> None:
    client, own = client_of(run), own_run(run)
    client.set_tag(own.info.run_id, NOTE, "old words" + "\n\n" + END + "\n\nTried again on 8 GPUs.")
    assert differences(run) == ["the search: its description is not up to date"]
    sync(run)
    note = own_run(run).data.tags[NOTE]
    assert note.endswith("\n\nTried again on 8 GPUs.")
    assert "old words" not in note
    assert differences(run) == []


def test_a_description_fits_what_mlflow_keeps_and_keeps_what_people_wrote() -> None:
    long = "\n".join(f"line {n} " + "x" * 90 for n in range(200))
    written = f"{END}\n\nmine"
    text = above(long, f"before\n\n{written}")
    assert len(text) <= LONGEST_NOTE
    assert text.endswith(f"x\n\n{written}")
    assert above(long, text) == text
    assert above("ours", "mine alone") == f"ours\n\n{END}\n\nmine alone"


def test_curves_count_tokens_failures_and_cost_by_finished_trials(run: Run) -> None:
    client, own = client_of(run), own_run(run)
    curves = {
        name: [point.value for point in client.get_metric_history(own.info.run_id, name)]
        for name in ("trials", "tokens", "failures", "cost")
    }
    assert curves["trials"] == [1, 2, 3, 4, 5]
    assert curves["tokens"] == [20, 40, 60, 80, 100]
    assert curves["failures"] == [0, 0, 1, 1, 1]
    assert curves["cost"][:5] == sorted(curves["cost"][:5])
    account = RunView.of(run, studies.open_study(run, create=False)).account
    assert own.data.metrics["cost"] == account.cost  # of the whole session, at the last step


def test_a_trials_run_has_its_answers_and_what_changed_against_the_nearest_baseline(
    run: Run,
) -> None:
    client = client_of(run)
    store = Store(run, create=False)
    own = client.get_run(store.find((projection.TRIAL, "3")))
    assert (own.data.tags["beside"], own.data.tags["role"]) == ("uniform", "front")
    assert own.data.metrics["confirmed_reasoning_n"] == ITEMS
    assert "- reasoning **0.750** [" in own.data.tags[NOTE]
    assert json.loads(own.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "beside_baseline.json", "type": "table"},
        {"path": "items.json", "type": "table"},
    ]
    tables = {}
    for name in ("items.json", "beside_baseline.json"):
        path = client.download_artifacts(own.info.run_id, name)
        tables[name] = json.loads(Path(path).read_text(encoding="utf-8"))
    items = tables["items.json"]
    first = dict(zip(items["columns"], items["data"][0], strict=True))
    assert (first["prompt"], first["expected"]) in {
        (f"what is {n}?", str(n)) for n in range(12)
    } | {
        ("", "")  # of other items than those that the split drew
    }
    assert first["read math/answer"] == "0"
    changed = tables["beside_baseline.json"]
    assert (
        dict(zip(changed["columns"], changed["data"][0], strict=True))["change"] == "better: math"
    )


def test_the_front_is_listed_before_the_trials_in_the_order_of_roles(run: Run) -> None:
    client = client_of(run)
    experiment = client.get_experiment_by_name(run.name)
    found = client.search_runs([experiment.experiment_id], order_by=["tags.`role` ASC"])
    roles = [each.data.tags["role"] for each in found]
    assert roles == sorted(roles) == ["baseline", "front", "search", *["trial"] * (len(roles) - 3)]
    front = client.search_runs([experiment.experiment_id], "tags.role != 'trial'")
    assert len(front) == 3


def test_the_link_is_the_saved_view_or_the_command_that_serves_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(run.folder.parent.parent)
    page = page_of(run, "http://h:1")
    assert page.startswith("http://h:1/#/experiments/1/runs?")
    assert page.endswith("&viewStateShareKey=front")
    assert link_for(run) == f"mergefront ui runs/s, then {page_of(run, 'http://127.0.0.1:5000')}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    assert link_for(run) == "http://127.0.0.1:1"  # which does not answer
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    assert link_for(run) == "mergefront ui runs/s"


def test_a_description_of_a_search_that_has_not_begun_and_of_one_not_confirmed(run: Run) -> None:
    study = studies.open_study(run, create=False)
    view = RunView.of(run, study)
    claimed = note_of(view.__class__(**{**vars_of(view), "members": [], "chosen": None}), "1")
    assert "not confirmed yet" in claimed.splitlines()[0]
    assert "`mergefront confirm runs/s`" in claimed
    assert "| baseline uniform" in claimed


def test_a_description_says_where_its_commands_are_typed_and_names_no_folder_of_the_machine(
    run: Run, tmp_path: Path
) -> None:
    view = RunView.of(run, studies.open_study(run, create=False))
    note = note_of(view, "1", "failed", f"see {run.folder / 'run.log'}; /home/me/w/x.json: no 3/4")
    assert note.startswith("**Ended with an error**: see run.log; x.json: no 3/4. ")
    assert "Typed in the folder of the search file:" in note
    assert "`mergefront report runs/s`" in note
    elsewhere = replace(view, run=replace(run, folder=tmp_path / "shared" / "s"))
    note = note_of(elsewhere, "1", "running")
    assert note.startswith("It goes on. ")
    assert "Typed in the folder that holds the run's, `s`:" in note
    assert "`mergefront report s`" in note
    assert str(tmp_path) not in note


def vars_of(view: RunView) -> dict[str, Any]:
    return {name: getattr(view, name) for name in view.__dataclass_fields__}
