"""The report: one HTML page of a run, to be read in the morning, kept, sent and printed.

It tells what was found and how sure that is, what it cost, and what to do next, for a run in any
state. It needs no network: all that it shows is in the file.
"""

from search.report.headline import Standing
from search.report.page import NAME, draw, page, write

__all__ = ["NAME", "Standing", "draw", "page", "write"]
