"""A disk that is full, or may not be written any more, in the middle of a search.

Every file of a run is whole or not there (`write_atomic`, SQLite's own journal), so the search can
stop at once: what runs goes on from its last block when the same command is started again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search.errors import RunError
from search.incidents import POLICIES, Kind
from search.run import Run

_KINDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), Kind.DISK_FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), Kind.NOT_WRITABLE),
}


@contextmanager
def guarded(run: Run) -> Iterator[None]:
    """Turn what the system says of the run's files into one line that tells what to do.

    Raises:
        RunError: the disk is full, or a file may not be written.
    """
    try:
        yield
    except OSError as error:
        kind = _KINDS.get(error.errno or 0)
        if kind is None:
            raise
        path = run.folder if error.filename is None else Path(error.filename)
        # The system names temporary files, or none: the folder is what the user knows.
        place = run.folder if path.is_relative_to(run.folder) else path
        run.incidents.record(kind, str(place), error.strerror)
        said = POLICIES[kind].message.format(said=f"{place}: {error.strerror}")
        raise RunError(said) from error
