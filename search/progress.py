"""What the told trials come to: how many count, the front, its volume; trial by trial.

It equals what `search.study` computes from the whole study, for the price of one trial.
"""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from search import study as studies
from search.config import Search
from search.front import Point, dominates, gains, hypervolume


class Progress:
    """The state of a search after the trials that were told so far.

    Args:
        search: whose trials they are.

    Attributes:
        finished: trials that count against the budget.
        able: trials that may be confirmed: full, feasible, no faults; on the front or behind it.
        front: trial numbers on the front, best first objective first.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        self._members: dict[int, Point] = {}
        self.finished = self.able = 0
        self.front: list[int] = []
        self._volume: float | None = 0.0

    @classmethod
    def of(cls, study: optuna.Study, search: Search) -> Progress:
        """That of all trials of a study."""
        progress = cls(search)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            progress.add(trial)
        return progress

    @property
    def volume(self) -> float:
        """Hypervolume of the front, counted when asked for: many objectives take long."""
        if self._volume is None:
            self._volume = hypervolume(list(self.points.values()))
        return self._volume

    @property
    def points(self) -> dict[int, Point]:
        """The gains of the front's members, in its order."""
        return {number: self._members[number] for number in self.front}

    def add(self, trial: FrozenTrial) -> None:
        """A trial was told, whatever it was told as."""
        if trial.state != TrialState.COMPLETE or studies.DUPLICATE_OF in trial.user_attrs:
            return
        self.finished += studies.counts(trial)
        if studies.known(trial):
            self.able += 1
            self._join(trial.number, gains(trial.values, self._search.objectives))

    def _join(self, number: int, point: Point) -> None:
        for member, other in self._members.items():
            # Of equal ones the trial that was asked for first stays.
            if dominates(other, point) or (other == point and member < number):
                return
        self._members = {
            member: other
            for member, other in self._members.items()
            if other != point and not dominates(point, other)
        }
        self._members[number] = point
        best_first = sorted(self._members.items(), key=lambda e: tuple(-gain for gain in e[1]))
        self.front = [member for member, _ in best_first]
        self._volume = None
