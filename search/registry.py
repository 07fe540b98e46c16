"""A recipe as a version of a model in MLflow's registry."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from merge_core.card import code, md, table
from merge_core.errors import RecipeError
from merge_core.references import HUB_ID, split_reference
from search.confirm import Member
from search.errors import ExportError, RunError
from search.export import save_recipe, spelled, tested
from search.mlflow_note import above, spaced
from search.mlflow_store import Store
from search.names import model_name, version_alias
from search.projection import TRIAL
from search.run import Run
from search.study import FINGERPRINT

END = "*Written by mergefront as it registers. What you write below this line stays.*"
FOLDER = "registered"
"""Of a trial's files: those of the version."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        name, number: which.
        label: the member whose recipe it holds.
        made: whether it was made just now; the recipe was registered before otherwise.
        files: that it holds.
    """

    name: str
    number: str
    label: str
    made: bool
    files: tuple[str, ...]


def register(store: Store, member: Member, name: str, alias: str | None = None) -> Version:
    """Make a confirmed member's recipe a version of the model `name`, which may be a new one.

    A recipe that is one already stays the one version, with the scores that it has now and what
    people wrote below its description. Its files
    are those of the trial's own run: `recipe.yaml`, and `mergekit_config.yml` where mergekit has
    the method.

    Args:
        store: of the member's run, with its trial.
        member: a trial.
        name: of the registered model.
        alias: of the version; taken from the one that has it.

    Raises:
        ExportError: MLflow takes no such name or alias.
        RunError: MLflow does not have the trial.
    """
    _check(name, alias)
    run_id = store.find((TRIAL, str(member.trial)))
    if run_id is None:
        run = f"{store.run.folder.parent.name}/{store.run.name}"
        raise RunError(f"MLflow lacks {member.label}: `mergefront sync {run}` fills it in")
    _model(store, name)
    tags = dict(_tags(store.run, member))
    found = [
        each
        for each in store.client.search_model_versions(f"name='{name}'")
        if each.tags.get(FINGERPRINT) == member.fingerprint
    ]
    if found:
        version = found[0]
        for key, value in tags.items():
            if version.tags.get(key) != value:
                store.client.set_model_version_tag(name, version.version, key, value)
        held = version.description or ""
        if (told := above(_description(store.run, member), held, END)) != held:
            store.client.update_model_version(name, version.version, told)
    else:
        _put_files(store, run_id, member)
        version = store.client.create_model_version(
            name,
            f"runs:/{run_id}/{FOLDER}",
            run_id,
            tags=tags,
            description=above(_description(store.run, member), "", END),
        )
    if alias is not None:
        store.client.set_registered_model_alias(name, alias, version.version)
    there = store.client.list_artifacts(version.run_id, FOLDER)
    files = tuple(file.path.removeprefix(f"{FOLDER}/") for file in there)
    return Version(name, str(version.version), member.label, not found, files)


def _check(name: str, alias: str | None) -> None:
    """ExportError if MLflow takes no such name of a model, or no such alias."""
    try:
        model_name(name)
    except ValueError as error:
        raise ExportError(str(error)) from None
    try:
        if alias is not None:
            version_alias(alias)
    except ValueError as error:
        raise ExportError(f"--alias {error}") from None


def _model(store: Store, name: str) -> None:
    """The registered model, made if there is none."""
    from mlflow.exceptions import MlflowException

    file = store.run.search.file
    root = store.run.search.root
    models = ", ".join(md(public_name(entry.model, root)) for entry in file.models)
    on = f" onto {md(public_name(file.base_model, root))}" if file.base_model else ""
    try:
        store.client.create_registered_model(
            name, description=f"Recipes of merges of {models}{on}, found by mergefront."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def public_name(reference: str, root: Path) -> str:
    """A model as others know it: a hub id, or a folder's own name without those above it."""
    parts = split_reference(reference, root) or (reference,)
    return "+".join(
        part
        if HUB_ID.fullmatch(part.partition("@")[0]) and not (root / part).exists()
        else Path(part).name
        for part in parts
    )


def _put_files(store: Store, run_id: str, member: Member) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe, config = Path(folder) / "recipe.yaml", Path(folder) / "mergekit_config.yml"
        test = tested(store.run, member)
        save_recipe(store.run, member, recipe, test=test)
        store.client.log_artifact(run_id, str(recipe), FOLDER)
        try:
            save_recipe(store.run, member, config, mergekit=True, test=test)
        except RecipeError:  # mergekit does not have all methods
            return
        store.client.log_artifact(run_id, str(config), FOLDER)


def _tags(run: Run, member: Member) -> Iterator[tuple[str, str]]:
    """Short ones, scores first: MLflow's list of versions shows their beginnings."""
    for name, estimate in member.confirmed.items():
        yield f"confirmed_{name}", spelled(estimate)
    if (test := tested(run, member)) is not None:
        for objective in run.search.objectives:
            yield f"test_{objective.name}", spelled(test.estimate(objective))
    yield "run", run.name
    yield "trial", str(member.trial)
    yield FINGERPRINT, member.fingerprint


def _description(run: Run, member: Member) -> str:
    """What a version is and how to make its checkpoint, as Markdown."""
    test = tested(run, member)
    rows = []
    for objective in run.search.objectives:
        estimate = member.confirmed[objective.name]
        row = [md(objective.name), spelled(estimate), str(estimate.n)]
        rows.append(row if test is None else [*row, spelled(test.estimate(objective))])
    if (both := member.joint) is not None:
        row = ["right and in the language", spelled(both), str(both.n)]
        rows.append(row if test is None else [*row, ""])
    header = ["objective", "confirmed [95%], held out", "items"]
    header += [] if test is None else ["test, scored once"]
    parts = [
        f"{md(member.label)} of the search {code(run.name)}, fingerprint "
        f"{code(member.fingerprint)}.",
        table(header, [[*map(spaced, row)] for row in rows]).rstrip(),
    ]
    if not member.feasible:
        parts.append("**It does not hold the search's constraints with 95% confidence.**")
    parts.append("`mergefront merge recipe.yaml OUT --run RUN` writes its checkpoint.")
    return "\n\n".join(parts)
