"""Who the parents of a merge are to others: hub ids instead of paths, licences, languages, bytes.

A path of this machine means nothing to a reader of a card, and may tell what is nobody's business.
So a local folder is known by the hub id that it was fetched from, where that can be told, else by
its folder's own name; ids that its files name (`base_model` of its card, `_name_or_path` of its
configuration) may be itself or what it was trained from, and are told as just that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from merge_core.adapters import AdaptedCheckpoint
from merge_core.checkpoint import Checkpoint, read_json
from merge_core.errors import MergeError, RecipeError
from merge_core.licences import MIXED, UNKNOWN, Licence, together, traps
from merge_core.plan import MergePlan
from merge_core.recipe import Recipe
from merge_core.references import HUB_ID, split_reference
from merge_core.tokenizers import TOKENIZER_FILE
from merge_core.yaml_io import one_line, parse_yaml, unknown

_CACHED = re.compile(r"models--(.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REMOTE = re.compile(r"url\s*=\s*\S*huggingface\.co/([\w.-]+/[\w.-]+?)(?:\.git)?/?\s*$", re.M)
_LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.S)
BASE_OF = "base of "
_MOST_CARD = 4 << 20  # bytes of a card that is read


@dataclass(frozen=True)
class Parent:
    """One model or adapter that was merged.

    Attributes:
        roles: "base", experts' names; an adapter's base is "base of NAME".
        name: the hub id, or the folder's own name; no two models have one: "final-language" and
            "final-base" are two folders "final".
        hub_id: where it is on the hub; None: it is not known to be there.
        revision: commit, or what the recipe names; None where neither is known.
        named: hub ids that its files name: itself, or what it was trained from.
        licence: of its own card.
        languages: of its own card.
        path: its folder here.
    """

    roles: tuple[str, ...]
    name: str
    hub_id: str | None
    revision: str | None
    named: tuple[str, ...]
    licence: Licence
    languages: tuple[str, ...]
    path: Path

    @property
    def ids(self) -> tuple[str, ...]:
        """What stands for it in `base_model`: itself, or the nearest that is known."""
        return (self.hub_id,) if self.hub_id is not None else self.named


def parents(plan: MergePlan, hub_ids: Mapping[str, str] | None = None) -> list[Parent]:
    """The models and adapters of a merge, each once, base first.

    Args:
        plan: of the merge.
        hub_ids: where a local model is on the hub, by "base" or the expert's name: `org/name` or
            `org/name@revision`.

    Raises:
        RecipeError: `hub_ids` names no model of the recipe, or is no hub id.
    """
    given = dict(hub_ids or {})
    sources = plan.sources
    roles = [*(["base"] if sources.base is not None else []), *plan.recipe.names]
    for role, text in given.items():
        if role not in roles:
            raise RecipeError(unknown("model", role, roles))
        if not HUB_ID.fullmatch(text.partition("@")[0]):
            raise RecipeError(f"{role}={text}: is no hub id; write {role}=ORG/NAME")
    found: dict[Path, Parent] = {}
    for role, source in zip(roles, sources.all, strict=True):
        for parent in _of(source, role, given.get(role)):
            key = parent.path.resolve()
            had = found.get(key)
            found[key] = (
                parent
                if had is None
                else replace(had, roles=tuple(dict.fromkeys((*had.roles, *parent.roles))))
            )
    return _told_apart(list(found.values()))


def concerns(known: Sequence[Parent]) -> list[str]:
    """What to look at before the merge is given to others, a line each, without Markdown.

    Args:
        known: `parents(plan, hub_ids)`.
    """
    found = []
    licences = [parent.licence for parent in known]
    both = together(licences).name
    if both in (MIXED, UNKNOWN):
        each = ", ".join(f"{parent.name} {one_line(parent.licence.shown)}" for parent in known)
        what = "are unknown" if both == UNKNOWN else "are not one"
        found.append(f"the models' licences {what}, so the merge has none of its own: {each}")
    found += [f"licence {one_line(name)}: {trap}" for name, trap in traps(licences).items()]
    found += [_unmapped(parent) for parent in known if parent.hub_id is None]
    # Names and licences are others' text: nothing in them steers a terminal.
    return ["".join(c for c in line if c.isprintable()) for line in found]


def _unmapped(parent: Parent) -> str:
    """That a model has no hub id, and how to give it one."""
    named = f"names {', '.join(parent.named)} for it" if parent.named else "does not name it"
    text = f"model {parent.name} is not known on the hub, so the card's base_model {named}: "
    role = next((role for role in parent.roles if not role.startswith(BASE_OF)), None)
    if role is None:  # --hub-id names models of the recipe; with an adapter it means the adapter
        expert = parent.roles[0].removeprefix(BASE_OF)
        return f"{text}name it by its hub id where the recipe has {expert}: ORG/NAME+ADAPTER"
    return f"{text}--hub-id {role}=ORG/NAME"


def _told_apart(known: list[Parent]) -> list[Parent]:
    """`known` with the role added to the names of different folders that have the same one."""
    names = [parent.name for parent in known]
    taken = set(names)
    result = []
    for parent in known:
        name = parent.name
        if parent.hub_id is None and names.count(name) > 1:
            while name in taken:
                name += f"-{parent.roles[0].replace(' ', '-')}"
            taken.add(name)
        result.append(replace(parent, name=name))
    return result


def public_recipe(plan: MergePlan, known: Sequence[Parent]) -> Recipe:
    """The recipe as others can read it: hub ids with revisions; folders by their own names alone.

    Args:
        plan: of the merge.
        known: `parents(plan)`.
    """
    names = {
        parent.path.resolve(): f"{parent.name}@{parent.revision}"
        if parent.hub_id is not None and parent.revision is not None
        else parent.name
        for parent in known
    }

    def public(source: Checkpoint) -> str:
        own = names[source.path.resolve()]
        if isinstance(source, AdaptedCheckpoint):
            return f"{names[source.base.path.resolve()]}+{own}"
        return own

    recipe, sources = plan.recipe, plan.sources
    return replace(
        recipe,
        base_model=None if sources.base is None else public(sources.base),
        models=tuple(
            replace(expert, model=public(source))
            for expert, source in zip(recipe.models, sources.experts, strict=True)
        ),
    )


def hashes_by_parent(
    plan: MergePlan, hashes: Sequence[Mapping[str, str]], known: Sequence[Parent]
) -> list[tuple[Parent, dict[str, str]]]:
    """sha256 of each parent's own files, by name.

    Args:
        plan: of the merge.
        hashes: `merge_core.sources.file_hashes` of each of `plan.sources.all`.
        known: `parents(plan)`.
    """
    files: dict[Path, dict[str, str]] = {parent.path.resolve(): {} for parent in known}
    for source, of_source in zip(plan.sources.all, hashes, strict=True):
        own = source.path.resolve()
        for name, digest in of_source.items():
            group, _, file = name.rpartition("/")
            if group == "base" and isinstance(source, AdaptedCheckpoint):
                files[source.base.path.resolve()][file] = digest
            elif not group and name == TOKENIZER_FILE:
                files[source.tokenizer_path.resolve()][name] = digest
            else:
                files[own][file or name] = digest
    return [(parent, files[parent.path.resolve()]) for parent in known]


def _of(source: Checkpoint, role: str, given: str | None) -> list[Parent]:
    if not isinstance(source, AdaptedCheckpoint):
        return [_parent(source.reference, source.path, role, given)]
    return [
        _parent(source.base.reference, source.base.path, f"{BASE_OF}{role}", None),
        _parent((split_reference(source.reference) or ("", ""))[1], source.path, role, given),
    ]


def _parent(reference: str, path: Path, role: str, given: str | None) -> Parent:
    hub_id, revision = _identity(reference, path, given)
    front = front_matter(path / "README.md")
    named = [] if hub_id is not None else _named(path, front)
    text = {key: front[key] for key in front if isinstance(front[key], str)}
    return Parent(
        roles=(role,),
        name=hub_id or path.resolve().name,
        hub_id=hub_id,
        revision=revision,
        named=tuple(named),
        licence=Licence(text.get("license"), text.get("license_name"), text.get("license_link")),
        languages=tuple(code for code in _strings(front.get("language")) if is_language(code)),
        path=path,
    )


def is_language(code: str) -> bool:
    """Whether the hub takes it for a language: ISO 639."""
    return _LANGUAGE.fullmatch(code) is not None


def front_matter(card: Path) -> dict[str, Any]:
    """The metadata of a model card; {} where there is none that can be read."""
    try:
        if not card.is_file() or card.stat().st_size > _MOST_CARD:
            return {}
        found = _FRONT.match(card.read_text(encoding="utf-8", errors="replace"))
        data = {} if found is None else parse_yaml(found[1], card).data
    except (OSError, MergeError):  # somebody's broken card stops no merge
        return {}
    return data if isinstance(data, dict) else {}


def _identity(reference: str, path: Path, given: str | None) -> tuple[str | None, str | None]:
    """Hub id and revision, as far as they are known."""
    commit = _commit(path)
    if given is not None:
        hub_id, _, revision = given.partition("@")
        return hub_id, revision or commit
    for folder in (path, path.resolve()):
        for above in folder.parents:
            if above.name == "snapshots" and (match := _CACHED.fullmatch(above.parent.name)):
                return match[1].replace("--", "/"), commit
    own, _, revision = reference.partition("@")
    if HUB_ID.fullmatch(own) and not Path(reference).exists():
        return own, commit or revision or None
    try:
        remote = _REMOTE.search((path / ".git" / "config").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        remote = None
    return (None if remote is None else remote[1]), commit


def _commit(path: Path) -> str | None:
    """The commit that a folder was fetched at: of the hub's cache, or of `hf download`."""
    if path.resolve().parent.name == "snapshots" and _COMMIT.fullmatch(path.resolve().name):
        return path.resolve().name
    notes = path / ".cache" / "huggingface" / "download"
    try:
        lines = {file.read_text().split("\n", 1)[0] for file in notes.glob("*.metadata")}
    except (OSError, UnicodeDecodeError):
        return None
    commits = {line for line in lines if _COMMIT.fullmatch(line)}
    return commits.pop() if len(commits) == 1 else None


def _named(path: Path, front: Mapping[str, Any]) -> list[str]:
    """Hub ids in the files of a local folder, those of its card first."""
    found = [*_strings(front.get("base_model"))]
    for file, key in (
        ("adapter_config.json", "base_model_name_or_path"),
        ("config.json", "_name_or_path"),
    ):
        try:
            found += _strings(read_json(path / file, "").get(key))
        except MergeError:
            continue
    return list(
        dict.fromkeys(one for one in found if HUB_ID.fullmatch(one) and not Path(one).exists())
    )


def _strings(data: Any) -> list[str]:
    listed = data if isinstance(data, list) else [data]
    return [entry for entry in listed if isinstance(entry, str)]
