"""Where items come from: a JSONL file, a data set of the hub, a task of lm-evaluation-harness."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from objectives.copies import spelled
from objectives.errors import TaskError
from objectives.item_file import kind_of

Row = tuple[str, dict[str, Any]]
"""Where a row stands, and its data."""


class DatasetItems(BaseModel):
    """A data set of the Hugging Face hub, or a local folder in its layout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(min_length=1, description="hub id, or a folder relative to the file")
    subset: str | None = Field(None, description="the data set's configuration, such as `th`")
    split: str = Field(min_length=1, description="the data set's own, such as `train`")
    revision: str | None = Field(None, description="branch, tag or commit")


class LmEvalItems(BaseModel):
    """The documents of a task of lm-evaluation-harness; its scorer is `lm_eval`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, data: Any) -> Any:
        if isinstance(data, dict) and "dataset" in data:
            raise ValueError("items come from one place: give `dataset` or `lm_eval`")
        return data

    lm_eval: str = Field(min_length=1, description="name of the task")
    include: str | None = Field(None, description="folder of task files, relative to the file")


def _kind(value: Any) -> str:
    """The tag of what is given; classes have their names, by which errors tell their keys."""
    if isinstance(value, LmEvalItems) or (isinstance(value, dict) and "lm_eval" in value):
        return "LmEvalItems"
    return "DatasetItems" if isinstance(value, dict | DatasetItems) else "file"


ItemsConfig = Annotated[
    Annotated[str, Field(min_length=1), Tag("file")]
    | Annotated[DatasetItems, Tag("DatasetItems")]
    | Annotated[LmEvalItems, Tag("LmEvalItems")],
    Discriminator(_kind),
]


def read_rows(source: ItemsConfig, root: Path) -> Iterator[Row]:
    """The rows of a source; relative paths are relative to `root`.

    Raises:
        TaskError: it cannot be read, or a row is no object.
    """
    if isinstance(source, str):
        return _of_file(root / Path(source).expanduser(), source)
    if isinstance(source, DatasetItems):
        return _of_dataset(source, root)
    from objectives.scorers.lm_eval import documents

    return documents(source.lm_eval, _folder(source.include, root))


def digest(source: ItemsConfig, root: Path) -> str:
    """sha256 of what a source holds: of a file's bytes, or of its rows.

    Raises:
        TaskError: as `read_rows`.
    """
    sha256 = hashlib.sha256()
    if isinstance(source, str):
        path = root / Path(source).expanduser()
        try:
            sha256.update(path.read_bytes())
        except OSError as error:
            raise TaskError(f"{path}: cannot be read: {error.strerror or error}") from None
        return sha256.hexdigest()
    for _, row in read_rows(source, root):
        sha256.update(json.dumps(row, sort_keys=True, default=spelled).encode())
    return sha256.hexdigest()


def _folder(path: str | None, root: Path) -> Path | None:
    return None if path is None else root / Path(path).expanduser()


def _of_file(path: Path, written: str) -> Iterator[Row]:
    """Stream a JSONL file; blank lines are skipped."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield f"{path}:{number}", _object(text, f"{path}:{number}")
    except FileNotFoundError:
        raise TaskError(
            f"{path}: no such item file; give a JSONL path, or for a data set of the hub"
            f" {{dataset: {written}, split: train}}"
        ) from None
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror or error}") from None


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise TaskError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); write one object per line"
        ) from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise TaskError(f"{where}: a number is too long to be read; put it in quotes") from None
    except RecursionError:
        raise TaskError(f"{where}: nested too deeply to be an item; flatten it") from None
    if not isinstance(data, dict):
        raise TaskError(f"{where}: {kind_of(data)} instead of an object; write {{'id': ...}}")
    return data


def _of_dataset(source: DatasetItems, root: Path) -> Iterator[Row]:
    """The rows of a data set; those without an id have their number."""
    try:
        import datasets
    except ImportError:
        raise TaskError(
            f"data set {source.dataset}: needs the package datasets; pip install mergefront[hub]"
        ) from None
    from objectives.hub import quiet_hub

    local = root / Path(source.dataset).expanduser()
    name = str(local) if local.is_dir() else source.dataset
    try:
        # No scripts: what a data set says is data, never code (datasets 4 and later run none).
        with quiet_hub(local=local.is_dir()):
            rows = datasets.load_dataset(
                name, source.subset, split=source.split, revision=source.revision
            )
        columns = set(rows.column_names)
        for number, row in enumerate(rows):
            own = {} if "id" in columns else {"id": str(number)}
            yield f"{source.dataset}[{source.split}]:{number}", own | dict(row)
    except (
        *(ImportError, OSError, ValueError, RuntimeError),  # ImportError: to decode a picture
        *(datasets.exceptions.DatasetsError,),
    ) as error:
        what = " ".join(str(error).split())[:300]
        raise TaskError(
            f"data set {source.dataset}, split {source.split}: cannot be loaded: {what};"
            " download it where there is a network, or give a JSONL file"
        ) from None
