"""Blocks of items that are scored while their merge is not yet: kept so that no try repeats them.

`blocks/<split>-<fingerprint>.jsonl` in the run folder has a line per block, appended as it arrives
and removed once the whole result is written. It is kept by the merge and not by the trial: any job
of the same merge on the same items goes on from it.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from objectives import ItemScore
from search.results import item_of
from search.worker import Job, Scored

log = logging.getLogger("mergefront")


@dataclass(frozen=True)
class Blocks:
    """The blocks of a run's unfinished jobs.

    Attributes:
        folder: where they are kept; made when the first is.
    """

    folder: Path

    def of(self, job: Job) -> Scored:
        """What is scored already of a job; a line that a crash tore counts for nothing."""
        path = self._path(job)
        items: dict[str, dict[int, ItemScore]] = {}
        seconds = 0.0
        # A tear may go through the middle of a character.
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                read = {
                    task: {int(index): item_of(score) for index, score in scores.items()}
                    for task, scores in row["items"].items()
                }
                took = float(row["seconds"])
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            for task, scores in read.items():
                items.setdefault(task, {}).update(scores)
            seconds += took
        return Scored(items, seconds)

    def add(self, job: Job, done: Scored) -> None:
        """Keep a block. Where it cannot be written it is asked again, should it come to that."""
        if not done.items:
            return
        try:
            self.folder.mkdir(exist_ok=True)
            with self._path(job).open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(asdict(done), ensure_ascii=False))
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._path(job), error.strerror)

    def forget(self, job: Job) -> None:
        """The job's result is kept, or will never be."""
        self._path(job).unlink(missing_ok=True)

    def clear(self) -> None:
        """No job is unfinished: what is left is of a driver that was killed with a result."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _path(self, job: Job) -> Path:
        return self.folder / f"{job.split}-{job.fingerprint}.jsonl"
