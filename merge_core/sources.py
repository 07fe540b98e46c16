"""The opened sources of a merge: base and experts, checked against each other from headers alone.

Sources outlive recipes: a search opens them once and plans hundreds of merges on them. What does
not depend on the recipe (depths, ids, thresholds by density) is kept here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

from merge_core.checkpoint import Checkpoint, TensorSpec
from merge_core.errors import CheckpointError
from merge_core.random import tensor_ids
from merge_core.recipe import Recipe
from merge_core.tokenizers import check_same_vocabulary

_LAYER = re.compile(r"^(.*?)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|wte|wpe|word_embeddings")
_CACHES = ("rotary_emb.inv_freq", ".attn.masked_bias")
"""Buffers that some checkpoints store beside their weights: copied, never merged."""
_HEAD = "lm_head.weight"


class Sources:
    """Base (if any) and experts of a recipe, opened.

    Attributes:
        base: None for methods that need none and recipes that name none.
        experts: in recipe order.
        specs: shape and dtype of each tensor of the merge, as the template stores it.
        ids: 32-bit id of each tensor (tie ranks, drop masks).
        depths: t of each tensor.
        untied: the merge has a head of its own although some source shares it.
        thresholds: trim bounds made so far, by (expert, tensor, kept count).
    """

    def __init__(self, base: Checkpoint | None, experts: Sequence[Checkpoint]) -> None:
        self.base = base
        self.experts = tuple(experts)
        tied = [source.tied or _HEAD not in source.specs for source in self.all]
        self.untied = any(tied) and not all(tied)
        self.specs = {
            name: spec
            for name, spec in self._head_source().specs.items()
            if not (name == _HEAD and all(source.tied for source in self.all))
        }
        for expert in self.all:
            self._check_same(expert)
        check_same_vocabulary(self.template, self.all)
        self.ids = tensor_ids(self.specs)
        self.depths = _depths(self.specs, self.template.layers)
        self.thresholds: dict[tuple[int, str, int], int] = {}

    @classmethod
    def open(cls, recipe: Recipe) -> Sources:
        """Open and check what `recipe` names.

        Raises:
            CheckpointError, VocabularyError: one line that names the file or tensor.
        """
        opened: dict[str, Checkpoint] = {}

        def get(reference: str) -> Checkpoint:
            if reference not in opened:
                opened[reference] = Checkpoint.open(reference)
            return opened[reference]

        base = None if recipe.base_model is None else get(recipe.base_model)
        return cls(base, [get(expert.model) for expert in recipe.models])

    @property
    def all(self) -> tuple[Checkpoint, ...]:
        """Base first (if any), then the experts."""
        return (*((self.base,) if self.base is not None else ()), *self.experts)

    @property
    def template(self) -> Checkpoint:
        """Whose config, names and shapes the merge takes: base, or the first expert."""
        return self.all[0]

    def mergeable(self, name: str) -> bool:
        """Whether `name` is merged by arithmetic; integers and caches are copied from base."""
        return self.specs[name].floating and not name.endswith(_CACHES)

    def stored_name(self, source: Checkpoint, name: str) -> str:
        """Under which name `source` stores `name`: a shared head lives in the embedding."""
        if name in source.specs and not (name == _HEAD and source.tied):
            return name
        return next(n for n in source.specs if n.endswith("embed_tokens.weight"))

    def digests(self) -> list[str]:
        """One content hash a source (base first): over its files' names and sha256.

        Reads everything once; a search does so when it starts.
        """
        return [digest_of(source.sha256()) for source in self.all]

    def check_finite(self) -> None:
        """Raise CheckpointError if any source holds NaN or infinity. Reads everything once."""
        for source in dict.fromkeys(self.all):
            source.check_finite()

    def _head_source(self) -> Checkpoint:
        """The template, or where the head must be untied, a source that has one."""
        if not self.untied or _HEAD in self.template.specs:
            return self.template
        return next(s for s in self.all if _HEAD in s.specs and not s.tied)

    def _check_same(self, source: Checkpoint) -> None:
        template = self.template
        if source.architecture != template.architecture:
            raise CheckpointError(
                f"{source.path}: is {source.architecture}, but {template.path} is "
                f"{template.architecture}: only fine-tunes of one base merge"
            )
        for name, spec in self.specs.items():
            if name not in source.specs and name != _HEAD:
                raise CheckpointError(
                    f"{source.path}: lacks tensor {name} that {template.path} has"
                )
            found = source.specs[self.stored_name(source, name)]
            if found.shape != spec.shape:
                raise CheckpointError(
                    f"{source.path}: tensor {name} has shape {list(found.shape)}, "
                    f"in {template.path} it has {list(spec.shape)}"
                )
            if found.floating != spec.floating:
                raise CheckpointError(
                    f"{source.path}: tensor {name} is {found.dtype}, "
                    f"in {template.path} it is {spec.dtype}"
                )
        for name in source.specs:
            if name not in self.specs and name != _HEAD:
                raise CheckpointError(
                    f"{source.path}: has tensor {name} that {template.path} lacks"
                )


def digest_of(sha256: Mapping[str, str]) -> str:
    """One hash for a checkpoint from its files' hashes."""
    return hashlib.sha256(json.dumps(dict(sorted(sha256.items()))).encode()).hexdigest()


def _depths(specs: Mapping[str, TensorSpec], layers: int) -> dict[str, float]:
    """T of each tensor: l / (L - 1) in the stack (1 if L = 1), 0 for embeddings, 1 for the rest."""
    stacks: dict[str, set[int]] = {}
    for name in specs:
        if match := _LAYER.match(name):
            stacks.setdefault(match[1], set()).add(int(match[2]))
    whole = [prefix for prefix, found in stacks.items() if found == set(range(layers))]
    depths = {}
    for name in specs:
        match = _LAYER.match(name)
        if match and match[1] in whole:
            depths[name] = int(match[2]) / (layers - 1) if layers > 1 else 1.0
        else:
            depths[name] = 0.0 if _EMBEDDING.search(name) else 1.0
    return depths
