"""A verified checkpoint to the hub: only when asked, private unless told, never over another's.

What the hub gets is the folder, but for places of this machine: recipe.yaml and mergekit_config.yml
name models as the card does (`public_texts`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merge_core import MergePlan
from merge_core.card import mergekit_lack
from merge_core.licences import begins
from merge_core.mergekit import to_mergekit
from merge_core.parents import Parent, parents, public_recipe
from merge_core.references import HUB_ID
from merge_core.writing import CARD_FILE, MERGEKIT_FILE, RECIPE_FILE
from merge_core.yaml_io import dump_yaml, one_line
from search.errors import ExportError

_OURS = {".gitattributes", CARD_FILE}
"""What a repository may hold that is pushed to: what the hub itself puts into a new one."""


def public_texts(plan: MergePlan, hub_ids: Mapping[str, str]) -> dict[str, str]:
    """recipe.yaml and mergekit_config.yml as others can read them.

    Args:
        plan: what will be merged.
        hub_ids: see `merge_core.parents.parents`.

    Raises:
        RecipeError: `hub_ids` names no model of the recipe, is no hub id, or gives several models
            one.
    """
    public = public_recipe(plan, parents(plan, hub_ids))
    texts = {RECIPE_FILE: dump_yaml(public.plain())}
    if mergekit_lack(plan) is None:
        texts[MERGEKIT_FILE] = dump_yaml(to_mergekit(public, plan.sources))
    return texts


class Push:
    """A repository of the hub that a checkpoint will be pushed to.

    Args:
        repository: `org/name`.
        public: whether all may read it.

    Raises:
        ExportError: no hub id, no token, no network, or a repository that holds something. Known
            before anything is merged.
    """

    def __init__(self, repository: str, *, public: bool = False) -> None:
        from huggingface_hub import HfApi, constants, get_token

        self.repository, self.public = repository, public
        if not HUB_ID.fullmatch(repository):
            raise ExportError(f"--push {repository}: is no hub id; write ORG/NAME")
        if constants.HF_HUB_OFFLINE:
            raise ExportError(f"--push {repository}: HF_HUB_OFFLINE is set: unset it to push")
        token = get_token()
        if token is None:
            raise ExportError(
                f"--push {repository}: no token: `hf auth login`, or set HF_TOKEN, with the right "
                "to write"
            )
        self._api = HfApi(token=token)
        self._check()

    def concerns(self, known: Sequence[Parent]) -> list[str]:
        """What its name lacks, a line each; of the rest see `merge_core.parents.concerns`."""
        wanted = begins(parent.licence for parent in known)
        name = self.repository.partition("/")[2]
        if wanted is None or name.lower().startswith(wanted.lower().replace(" ", "-")):
            return []
        return [f"a parent's licence asks for a name that begins with '{wanted}'"]

    def send(self, folder: Path, texts: Mapping[str, str], fingerprint: str) -> str:
        """Upload the folder in one commit; its address, and `public` as it turned out.

        Args:
            folder: as `search.publish.write_checkpoint` wrote it.
            texts: in the place of files of these names; see `public_texts`.
            fingerprint: of the merge.

        Raises:
            ExportError: the hub refuses; says how to send the folder later.
        """
        from huggingface_hub import CommitOperationAdd

        files = sorted(p for p in folder.rglob("*") if p.is_file())
        operations = []
        for file in files:
            name = file.relative_to(folder).as_posix()
            content: Any = texts[name].encode() if name in texts else file
            operations.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=content))
        message, hub = f"Merge {fingerprint}", self._api
        try:
            held = self._check()  # merging may have taken hours
            self._told(hub.create_repo, self.repository, private=not self.public, exist_ok=True)
            self._told(
                hub.create_commit,
                self.repository,
                operations,
                commit_message=message,
                parent_commit=held,
            )
            self.public = not self._told(hub.repo_info, self.repository).private
        except ExportError as error:
            raise ExportError(
                f"{error}; {folder} is whole: send it later with `{self.typed(folder, texts)}`"
            ) from error
        return f"{self._api.endpoint}/{self.repository}"

    def typed(self, folder: Path, texts: Mapping[str, str]) -> str:
        """The command that sends the folder without the files that name places: see `send`."""
        words = ["hf", "upload", self.repository, str(folder), "."]
        words += [] if self.public else ["--private"]
        return shlex.join(words + [word for name in texts for word in ("--exclude", name)])

    def _check(self) -> str | None:
        """Refuse a repository that is there and is not just made for this; the commit it is at."""
        if not self._told(self._api.repo_exists, self.repository):
            return None
        info = self._told(self._api.repo_info, self.repository)
        held = {file.rfilename for file in info.siblings or ()}
        if held - _OURS:
            raise ExportError(
                f"--push {self.repository}: holds {min(held - _OURS)} already: name a new one"
            )
        if not info.private and not self.public:
            raise ExportError(
                f"--push {self.repository}: is public: add --public, or name a new one"
            )
        return str(info.sha) if info.sha else None

    def _told(self, call: Any, *arguments: Any, **named: Any) -> Any:
        """What the hub answers; what it refuses is one line."""
        try:
            return call(*arguments, **named)
        except (OSError, ValueError, RuntimeError) as error:
            raise ExportError(
                f"--push {self.repository}: the hub does not take it: {one_line(error)[:200]}"
            ) from error
        except Exception as error:  # of whichever HTTP library the hub's client has inside
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "requests"):
                raise
            raise ExportError(
                f"--push {self.repository}: the hub cannot be reached: {one_line(error)[:200]}"
            ) from error
