"""The merged checkpoint with all that belongs to it: written, verified, and only then named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from merge_core import MergePlan
from merge_core.card import Found, Making, model_card
from merge_core.errors import CheckpointError
from merge_core.kernels.threads import beside
from merge_core.parents import parents
from merge_core.sources import digest_of_files, file_hashes
from merge_core.writing import CARD_FILE, new_folder, write_files
from search.errors import ExportError
from search.model_card import Chosen, found_in
from search.verify import Question, Verified, question, stored_result, verify

FAILED = "failed-verification"
"""What is added to the name of a folder that failed it, and stays to be looked at."""
_NO_ANSWERS = "the run keeps no answers of it"


@dataclass(frozen=True)
class Written:
    """What became of a checkpoint.

    Attributes:
        fingerprint: of the merge.
        verified: or None, if it was not asked for.
    """

    fingerprint: str
    verified: Verified | None


def write_checkpoint(
    plan: MergePlan,
    out: Path,
    *,
    chosen: Chosen | None = None,
    hub_ids: Mapping[str, str] | None = None,
    name: str | None = None,
    verified: bool = True,
    asked: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Merge `plan` into the new folder `out`, read it again, and write its card.

    Args:
        plan: what to merge.
        out: must not exist; appears whole, and verified if that is asked for, or not at all.
        chosen: the run's member that it is, if it is one's: the card then tells of the run, and
            answers are compared.
        hub_ids: where local models are on the hub; see `merge_core.parents.parents`.
        name: the card's title; default the folder's name.
        verified: whether to verify it.
        asked: refuse before the merge what can be known then not to be asked again.
        progress: called with bytes written so far and bytes in all.

    Raises:
        ExportError: the verification failed (the folder stays beside `out` under a name that says
            so), the sources are no longer those that the run scored, or see `asked`.
        StorageError, RunError: the run cannot tell of the merge; known before anything is written.
        RecipeError: see `parents`.
        CheckpointError: `out` exists or cannot be written, or a source is damaged.
        NonFiniteError: see `MergePlan.tensors`.
    """
    parents(plan, hub_ids)  # what is wrong with them is known before all sources are read
    if out.exists():
        raise CheckpointError(f"{out}: exists already; name a new folder")
    # What the card and the check need besides the merge is read before it, which takes long.
    found = Found() if chosen is None else found_in(chosen)
    asking = None if chosen is None or not verified else _question(chosen)
    if asked and chosen is not None and (asking is None or asking.lack):
        raise ExportError(
            f"{chosen.member.label} cannot be asked again, and what was not verified is not "
            f"pushed ({_NO_ANSWERS if asking is None else asking.lack}): add --push-unverified"
        )
    plan.sources.check_finite()
    # Hashing the sources takes as long as writing, which mostly waits for the disk.
    hashing = beside(lambda: [file_hashes(source) for source in plan.sources.all])
    with new_folder(out) as folder:
        tensors = write_files(plan, folder, progress=progress)
        hashes = hashing()
        fingerprint = plan.fingerprint([digest_of_files(files) for files in hashes])
        if chosen is not None and fingerprint != chosen.member.fingerprint:
            raise ExportError(
                f"{chosen.member.label} of run {chosen.run.name}: its sources have changed since "
                "it was scored: put them back, or merge its recipe.yaml without the run"
            )
        checked = _verified(folder, out, tensors, asking) if verified else None
        if checked is not None and chosen is not None and asking is None:
            checked = replace(checked, unasked=_NO_ANSWERS)
        making = Making(
            name=name or out.resolve().name,
            hub_ids=hub_ids or {},
            hashes=hashes,
            fingerprint=fingerprint,
            made=datetime.now(UTC).date(),
            verified="Not verified after it was written."
            if checked is None
            else f"After it was written: {checked.line(public=True)}.",
        )
        (folder / CARD_FILE).write_text(model_card(plan, making, found), encoding="utf-8")
    return Written(fingerprint, checked)


def _question(chosen: Chosen) -> Question | None:
    run, member = chosen.run, chosen.member
    result = stored_result(run, member.fingerprint, member.trial)
    return None if result is None else question(run, result)


def _verified(
    folder: Path, out: Path, tensors: Mapping[str, str], asking: Question | None
) -> Verified:
    """Verify the folder; one that fails leaves its place under a name that says so."""
    try:
        return verify(folder, tensors, asking)
    except (ExportError, CheckpointError) as error:
        kept = out.with_name(f"{out.name}.{FAILED}")
        number = 2
        while kept.exists():
            kept = out.with_name(f"{out.name}.{FAILED}-{number}")
            number += 1
        folder.chmod(0o755)
        folder.rename(kept)
        raise ExportError(
            f"{out}: failed its verification: {error}; what was written is {kept}"
        ) from error
