"""The model card of a merge: README.md, with the metadata that the hub reads.

What a merge is made of is known here; how it was found and what it scored is added by who knows:
`Found`. No path of this machine stands in a card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from typing import Any

from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from merge_core.errors import RecipeError
from merge_core.licences import MIXED, together, traps
from merge_core.mergekit import to_mergekit
from merge_core.parents import (
    BASE_OF,
    Parent,
    hashes_by_parent,
    is_language,
    parents,
    public_recipe,
)
from merge_core.plan import MergePlan
from merge_core.versions import spelled_versions, versions_of
from merge_core.yaml_io import dump_yaml, one_line

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")
_TOOLS = ("mergefront", "torch", "transformers", "safetensors", "numpy")


@dataclass(frozen=True)
class Score:
    """One result, as the hub's leaderboards read it (`model-index`).

    Attributes:
        name: of the score.
        metric: what kind it is, for the hub: "accuracy", or the scorer's own name.
        dataset: what the items are, for people.
        dataset_id: hub id of the data set, or a word for private items.
        split: which of them.
        value: mean.
        low: of the 95% interval.
        high: of the same.
        n: items.
    """

    name: str
    metric: str
    dataset: str
    dataset_id: str
    split: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Found:
    """What a search adds to the card of what it found; all text is Markdown already.

    Attributes:
        scores: for the metadata.
        languages: that its tasks ask for: ISO 639 codes, with or without a script.
        sections: title and text, in order.
        scored_with: versions, a line each where they changed in the middle of the search.
        commands: that make it again, from the search on.
        limits: a sentence each.
    """

    scores: tuple[Score, ...] = ()
    languages: tuple[str, ...] = ()
    sections: tuple[tuple[str, str], ...] = ()
    scored_with: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Making:
    """How a merge came about on this machine.

    Attributes:
        name: of the merge: `org/name`, or its folder's.
        hub_ids: see `merge_core.parents.parents`.
        hashes: `merge_core.sources.file_hashes` of each source; empty: not told.
        fingerprint: of the merge; "": not told.
        made: the day; None: not told, so that the same merge has the same card.
        verified: what the verification of the written folder came to; "": it was not verified.
    """

    name: str = "Merged model"
    hub_ids: Mapping[str, str] = field(default_factory=dict)
    hashes: Sequence[Mapping[str, str]] = ()
    fingerprint: str = ""
    made: date | None = None
    verified: str = ""


def model_card(plan: MergePlan, making: Making | None = None, found: Found | None = None) -> str:
    """README.md: front matter and text.

    Raises:
        RecipeError: `making.hub_ids` names no model of the recipe, or is no hub id.
    """
    making, found = making or Making(), found or Found()
    known = parents(plan, making.hub_ids)
    why_not = mergekit_lack(plan)
    front = _quoted(_metadata(plan, making.name, known, found, mergekit=why_not is None))
    sections = [
        ("Merged from", _table_of(known)),
        ("Licences", _licences(known)),
        ("Recipe", _recipe(plan, known, why_not)),
        *found.sections,
        ("Verification", making.verified and f"{md(making.verified)}\n"),
        ("Provenance", _provenance(plan, known, making, found.scored_with)),
        ("How to make it again", _commands(found)),
        ("Limits", _limits(found)),
    ]
    body = "\n".join(f"## {title}\n\n{text}" for title, text in sections if text)
    return f"---\n{dump_yaml(front)}---\n\n# {md(making.name)}\n\n{_lead(plan, known)}\n{body}"


def mergekit_lack(plan: MergePlan) -> str | None:
    """Why mergekit cannot make this merge, in a sentence; None where it can."""
    try:
        to_mergekit(plan.recipe, plan.sources)
    except RecipeError as error:
        return one_line(error)
    return None


def md(text: object) -> str:
    """Any text as Markdown that shows just that, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    """Any text as Markdown code, on one line; in tables too."""
    plain = " ".join(str(text).split())
    if "\\" in plain:  # no way to write both it and a bar into the code of a table
        return md(plain)
    plain = plain.replace("|", "\\|")
    ticks = "`" * (max(map(len, re.findall("`+", plain)), default=0) + 1)
    space = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{ticks}{space}{plain}{space}{ticks}"


def block(text: str, kind: str = "") -> str:
    """A fenced block that `text` cannot end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _metadata(
    plan: MergePlan, name: str, known: Sequence[Parent], found: Found, *, mergekit: bool
) -> dict[str, Any]:
    languages = [code.partition("-")[0] for code in found.languages]
    languages += [code for parent in known for code in parent.languages]
    data: dict[str, Any] = {}
    if listed := [code for code in dict.fromkeys(languages) if is_language(code)]:
        data["language"] = listed
    data |= together(parent.licence for parent in known).metadata()
    data["library_name"] = "transformers"
    if plan.sources.template.architecture.endswith("ForCausalLM"):
        data["pipeline_tag"] = "text-generation"
    method = plan.recipe.merge_method
    data["tags"] = ["merge", *(["mergekit"] if mergekit else []), "mergefront", method]
    if ids := list(dict.fromkeys(one for parent in known for one in parent.ids)):
        data["base_model"] = ids
        data["base_model_relation"] = "merge"
    if found.scores:
        data["model-index"] = [{"name": name, "results": [_result(s) for s in found.scores]}]
    return data


def _quoted(data: Any) -> Any:
    """`data` with quotes around the words that YAML 1.1, which the hub reads, takes for booleans.

    One of them is the code of Norwegian.
    """
    if isinstance(data, dict):
        return {key: _quoted(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_quoted(value) for value in data]
    return DoubleQuotedScalarString(data) if _truth(data) else data


def _truth(data: object) -> bool:
    return isinstance(data, str) and data.lower() in ("y", "n", "yes", "no", "on", "off")


def _result(score: Score) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": score.dataset, "type": score.dataset_id, "split": score.split},
        "metrics": [
            {
                "type": score.metric,
                "name": score.name,
                "value": round(score.value, 4),
                "args": {
                    "n": score.n,
                    "low95": round(score.low, 4),
                    "high95": round(score.high, 4),
                },
            }
        ],
    }


def _lead(plan: MergePlan, known: Sequence[Parent]) -> str:
    method = plan.recipe.method
    experts = ", ".join(
        f"{md(parent.name)} ({md(', '.join(parent.roles))})"
        for parent in known
        if not all(role == "base" or role.startswith(BASE_OF) for role in parent.roles)
    )
    return (
        f"Weights of {experts} merged by mergefront {version('mergefront')} with the method "
        f"`{method.name}` ({_linked(method.source)}): no weight was trained.\n"
    )


def _linked(source: str) -> str:
    """A method's source; a paper of arXiv as a link, by which the hub knows it."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", source)


def _table_of(known: Sequence[Parent]) -> str:
    rows = []
    for parent in known:
        where = code(parent.name)
        if parent.hub_id is not None:
            where = f"[{md(parent.hub_id)}](https://huggingface.co/{parent.hub_id})"
        revision = "not known" if parent.revision is None else code(parent.revision)
        rows.append([md(", ".join(parent.roles)), where, revision, md(parent.licence.shown)])
    text = table(["role", "model", "revision", "licence"], rows)
    local = [parent for parent in known if parent.hub_id is None]
    for parent in local:
        names = ", ".join(map(code, parent.named))
        told = f"its files name {names}" if names else "its files name no model of the hub"
        text += f"\n{code(parent.name)} was merged from a local folder; {told}.\n"
    return text


def _licences(known: Sequence[Parent]) -> str:
    """A warning where there is anything to look at; "" where all parents have one plain licence."""
    licences = [parent.licence for parent in known]
    both = together(licences)
    overlooked = traps(licences)
    text = ""
    if all(licence.id is None for licence in licences):
        return (
            "**Warning:** no licence of any parent is known: their cards say none, or are not "
            "there. Who publishes or uses this merge has to find them first.\n"
        )
    if both.name == MIXED:
        text = (
            "**Warning:** the parents' licences are not one, so this merge has none of its own "
            "yet. Who publishes or uses it has to keep all of them:\n\n"
        )
        text += "".join(f"- {code(p.name)}: {md(p.licence.shown)}{_link(p)}\n" for p in known)
        if unknown := [p for p in known if p.licence.id is None]:
            names = ", ".join(code(parent.name) for parent in unknown)
            text += f"\nOf {names} no licence is known: its card says none, or is not there.\n"
    if overlooked:
        text += ("\n" if text else "") + "What is easily overlooked:\n\n"
        text += "".join(f"- {md(name)}: {md(trap)}.\n" for name, trap in overlooked.items())
    return text


def _link(parent: Parent) -> str:
    link = parent.licence.link
    if link is not None and re.fullmatch(r"https?://[^\s()<>]+", link):
        return f" ([text]({link}))"
    return ""


def _recipe(plan: MergePlan, known: Sequence[Parent], why_not: str | None) -> str:
    text = block(dump_yaml(public_recipe(plan, known).plain()), "yaml")
    if why_not is None:
        return text + "\nmergekit makes the same merge of `mergekit_config.yml`.\n"
    why = md(why_not.partition(";")[0])  # what follows is for whoever merges
    return text + f"\nThere is no mergekit configuration of this merge: {why}.\n"


def _provenance(
    plan: MergePlan, known: Sequence[Parent], making: Making, scored_with: Sequence[str]
) -> str:
    if not making.fingerprint:
        return ""
    rows = [["fingerprint", code(making.fingerprint)]]
    if making.made is not None:
        rows.append(["made", making.made.isoformat()])
    rows += [["scored with", md(line)] for line in scored_with]
    rows.append(["merged with", md(spelled_versions(versions_of(_TOOLS)))])
    text = table(["what", "value"], rows)
    if making.hashes:
        files = hashes_by_parent(plan, making.hashes, known)
        rows = [
            [code(parent.name), code(name), code(digest)]
            for parent, own in files
            for name, digest in sorted(own.items())
        ]
        text += "\n" + table(["source", "file", "sha256"], rows)
    return text


def _commands(found: Found) -> str:
    again = (*found.commands, "mergefront merge recipe.yaml OUT")
    return (
        block("\n".join(again), "bash") + "\n`recipe.yaml` beside this file is the whole recipe: "
        "from the same sources, by their sha256, it makes the same weights bit for bit.\n"
    )


def _limits(found: Found) -> str:
    own = (
        "A merge inherits what its parents cannot do, their biases, and the terms of their data.",
        "Only what is listed here was measured; safety was not.",
    )
    return "".join(f"- {limit}\n" for limit in (*found.limits, *own))
