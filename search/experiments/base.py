"""What an experiment is: a question, a file's keys, and how the answer is found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from search.experiments.file import ExperimentFile
from search.experiments.lab import Lab
from search.experiments.outcome import Outcome

FileT = TypeVar("FileT", bound=ExperimentFile)


class Experiment(ABC, Generic[FileT]):
    """One experiment.

    Attributes:
        name: of the command.
        summary: one line for the list.
        question: what is asked.
        paper: what the papers say.
        limits: what it cannot tell, of whatever models.
        miniature: what it cannot tell on its own small world.
        kind: what its file holds.
        continued: whether its own world needs the series of checkpoints.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    question: ClassVar[str]
    paper: ClassVar[str]
    limits: ClassVar[str]
    miniature: ClassVar[str] = ""
    kind: type[FileT]
    continued: ClassVar[bool] = False

    @abstractmethod
    def run(self, lab: Lab, file: FileT) -> Outcome:
        """Score what has to be scored, and say what was found.

        Raises:
            MergeError, ObjectiveError, ConfigError: the set-up is wrong.
        """
