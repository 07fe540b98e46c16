"""Where MLflow keeps a run: that the place answers, and that it is still the run's own."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from search.database import connect, place_of, spoken
from search.errors import StorageError
from search.run import Run
from search.secrets import redacted

_DATABASES = ("postgresql", "mysql", "mssql")


def refuse_absent(uri: str) -> None:
    """StorageError if `uri` is a database that does not answer: MLflow would try for an hour."""
    if uri.partition(":")[0].partition("+")[0] not in _DATABASES:
        return
    try:
        engine = connect(uri)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise StorageError(f"{redacted(uri)}: cannot be opened: {spoken(error)}") from error
    try:
        engine.connect().close()
    except SQLAlchemyError as error:
        raise StorageError(f"{place_of(uri)}: does not answer: {spoken(error)}") from error
    finally:
        engine.dispose()


def refuse_moved(run: Run, uri: str, location: str) -> None:
    """StorageError if the run's folder was copied or moved, and its files would go elsewhere.

    Args:
        run: whose.
        uri: of the store.
        location: where its experiment keeps files: MLflow writes absolute places.
    """
    if not uri.startswith("sqlite:") or not location.startswith("file:"):
        return
    file = make_url(uri).database
    kept = Path(unquote(urlsplit(location).path))
    own = run.folder.resolve()
    if not file or not Path(file).resolve().is_relative_to(own):
        return  # a store of several runs
    if not kept.resolve().is_relative_to(own):
        raise StorageError(
            f"{Path(file).name} keeps its files under {kept}, not in this run: {run.folder} was "
            f"copied or moved: rename its {Path(file).name}, then `mergefront sync` writes another"
        )
