"""Errors a user of `search` can mend, and the set of all errors a user can mend.

`merge_core` and `objectives` never import each other and there is no package below both, so their
roots are joined here: `except USER_ERRORS` is what "catch whatever the user can mend" means.
"""

from merge_core.errors import MergeError
from objectives.errors import ObjectiveError


class SearchError(Exception):
    """Root of what can go wrong in search files, runs, storage and exports."""


class ConfigError(SearchError):
    """A search file is wrong; the message begins with file:line:column."""


class RunError(SearchError):
    """A run folder is missing, frozen otherwise, or in use by another driver."""


class StorageError(SearchError):
    """The study's storage cannot be opened or written."""


class WorkerError(SearchError):
    """The workers cannot start, or keep dying."""


class ExportError(SearchError):
    """Nothing qualifies for export, or the export would say what is not true."""


USER_ERRORS = (MergeError, ObjectiveError, SearchError)
"""What the command line prints as one line with exit code 2; anything else is our own fault."""
