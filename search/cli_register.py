"""`mergefront register`: a recipe as a version of a model in MLflow's registry."""

from __future__ import annotations

from typing import Annotated

import typer

from search.console import RunFolder, say

app = typer.Typer()


@app.command()
def register(
    run: RunFolder,
    name: Annotated[str, typer.Argument(help="of the registered model", show_default=False)],
    alias: Annotated[
        str | None, typer.Option(help="of the version, for example champion", show_default=False)
    ] = None,
    pick: Annotated[
        str, typer.Option(help="knee | best:OBJECTIVE | trial:N", show_default=True)
    ] = "knee",
    best_effort: Annotated[
        bool, typer.Option("--best-effort", help="even if no member holds the constraints")
    ] = False,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="another store or server with this run")
    ] = None,
) -> None:
    """Register a confirmed recipe as a model version in MLflow; twice is one version.

    Example: mergefront register runs/thai thai-r1 --alias champion

    Example: mergefront register runs/thai thai-r1 --pick best:reasoning
    """
    from search import confirm as confirming
    from search.errors import StorageError
    from search.mlflow_store import Store, answering, is_made
    from search.registry import register as register_member
    from search.run import Run
    from search.secrets import redacted

    opened = Run.open(run)
    members, _ = confirming.load(opened)
    chosen = confirming.choose(opened.search, members, pick, best_effort=best_effort)
    uri = opened.tracking if tracking_uri is None else tracking_uri
    with answering(opened, tracking_uri):
        if not is_made(uri):
            raise StorageError(f"{redacted(uri)}: nothing is tracked there yet")
        store = Store(opened, uri, create=False)
        version = register_member(store, chosen, name, alias)
    how = "registered as" if version.made else "is already"
    say(f"{version.label} {how} {version.name} version {version.number}")
    if alias is not None:
        say(f"alias {alias}: models:/{version.name}@{alias}")
    say(f"models:/{version.name}/{version.number} holds {', '.join(version.files)}")
