"""The opened sources of a merge: base and experts, checked against each other from headers alone.

Sources outlive recipes: a search opens them once and plans hundreds of merges on them. What does
not depend on the recipe (depths, ids, thresholds by density) is kept here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from merge_core.checkpoint import HEAD, Checkpoint, TensorSpec, files_sha256
from merge_core.errors import CheckpointError, VocabularyError
from merge_core.facts import Facts
from merge_core.random import tensor_ids
from merge_core.reading import Reader
from merge_core.recipe import Recipe
from merge_core.tokenizers import TOKENIZER_FILE, Tokenizer
from merge_core.vocabulary import Alignment, align, vocabulary_tensors

_LAYER = re.compile(r"^(.*?)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|wte|wpe|word_embeddings")
_POSITIONS = re.compile(r"wpe|position")
_CACHES = ("rotary_emb.inv_freq", ".attn.masked_bias")
"""Buffers that some checkpoints store beside their weights: copied, never merged."""


class Sources:
    """Base (if any) and experts of a recipe, opened.

    Attributes:
        base: None for methods that need none and recipes that name none.
        experts: in recipe order.
        specs: shape and dtype of each tensor of the merge: as the template stores it, but
            vocabulary tensors have the rows of the merge's vocabulary.
        alignment: how the rows of vocabulary tensors correspond; None: they are the same.
        vocabulary_tensors: names of the tensors with a row for each token.
        ids: 32-bit id of each tensor (tie ranks, drop masks).
        layers: layer of each tensor that lies in the stack.
        depths: t of each tensor.
        untied: the merge has a head of its own although some source shares it.
        facts: what passes over the sources have found and no recipe changes.
    """

    def __init__(
        self,
        base: Checkpoint | None,
        experts: Sequence[Checkpoint],
        tokenizer_source: str = "base",
        names: Sequence[str] | None = None,
    ) -> None:
        self.base = base
        self.experts = tuple(experts)
        for source in self.all:
            self._check_architecture(source)
        tied = [source.shares_head for source in self.all]
        self.untied = any(tied) and not all(tied)
        specs = {n: spec for n, spec in self.template.specs.items() if n != HEAD}
        if not all(tied):
            specs[HEAD] = self.template.specs[self.template.stored_name(HEAD)]
        self.specs = dict(sorted(specs.items()))
        labels = names if names is not None else [source.path.name for source in self.experts]
        self.alignment: Alignment | None = align(base, self.experts, tokenizer_source, labels)
        self.vocabulary_tensors = vocabulary_tensors(self.specs)
        for source in self.all:
            self._check_same(source)
        self.ids = tensor_ids(self.specs)
        self.layers = _layers(self.specs, self.template)
        if self.alignment is not None:
            self._check_alignable()
            rows = len(self.alignment.output)
            for name in self.vocabulary_tensors:
                spec = self.specs[name]
                self.specs[name] = TensorSpec((rows, *spec.shape[1:]), spec.dtype)
        self.depths = _depths(self.specs, self.layers, self.template.layers)
        self._readers: dict[tuple[bool, bool], Reader] = {}
        self.facts = Facts(self)
        self._finite = False  # until `check_finite` has seen all

    @classmethod
    def open(cls, recipe: Recipe) -> Sources:
        """Open and check what `recipe` names.

        Raises:
            CheckpointError, VocabularyError: one line that names the file or tensor.
        """
        opened: dict[str, Checkpoint] = {}

        def get(reference: str) -> Checkpoint:
            if reference not in opened:
                opened[reference] = Checkpoint.open(reference, opened)
            return opened[reference]

        base = None if recipe.base_model is None else get(recipe.base_model)
        experts = [get(expert.model) for expert in recipe.models]
        return cls(base, experts, recipe.tokenizer_source, recipe.names)

    def reader(self, *, differences: bool, row_ranks: bool = False) -> Reader:
        """What reads tiles of these sources; see `Reader`. Kept, with its views of the files."""
        key = (differences, row_ranks)
        if key not in self._readers:
            self._readers[key] = Reader(self, differences, row_ranks)
        return self._readers[key]

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

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Token strings to rows of the merge; empty where no source says what its tokens are."""
        if self.alignment is not None:
            return self.alignment.ids
        found = (Tokenizer.read(path) for path in {s.tokenizer_path: None for s in self.all})
        return next((tokenizer.ids for tokenizer in found if tokenizer is not None), {})

    def report(self) -> list[str]:
        """Lines for people on vocabularies that differ; none where they do not."""
        return self.alignment.report() if self.alignment is not None else []

    def digests(self) -> list[str]:
        """One content hash a source (base first): see `digest_of`.

        Reads everything once; a search does so when it starts.
        """
        return [digest_of(source) for source in self.all]

    def check_finite(self) -> None:
        """Raise CheckpointError if any source holds NaN or infinity. Reads everything, once."""
        if not self._finite:
            for source in dict.fromkeys(self.all):
                source.check_finite()
        self._finite = True

    def _check_architecture(self, source: Checkpoint) -> None:
        template = self.template
        if source.architecture != template.architecture:
            raise CheckpointError(
                f"{source.path}: is {source.architecture}, but {template.path} is "
                f"{template.architecture}: only fine-tunes of one base merge"
            )

    def _check_same(self, source: Checkpoint) -> None:
        template = self.template
        for name, spec in self.specs.items():
            stored = source.stored_name(name)
            if stored not in source.specs:
                raise CheckpointError(
                    f"{source.path}: lacks tensor {name} that {template.path} has"
                )
            found = source.specs[stored]
            # Rows are told by token, where vocabularies are aligned.
            aligned = self.alignment is not None and name in self.vocabulary_tensors
            if found.shape[aligned:] != spec.shape[aligned:]:
                raise CheckpointError(
                    f"{source.path}: tensor {name} has shape {list(found.shape)}, "
                    f"in {template.path} it has {list(spec.shape)}"
                )
            # What is copied is compared bit by bit, so its dtypes are equal too.
            if found.floating != spec.floating or (
                not self.mergeable(name) and found.dtype != spec.dtype
            ):
                raise CheckpointError(
                    f"{source.path}: tensor {name} is {found.dtype}, "
                    f"in {template.path} it is {spec.dtype}"
                )
        for name in source.specs:
            if name not in self.specs and name != HEAD:
                raise CheckpointError(
                    f"{source.path}: has tensor {name} that {template.path} lacks"
                )

    def _check_alignable(self) -> None:
        """Raise VocabularyError where rows would be merged that are not of one token."""
        template = self.template
        rows = {self.specs[name].shape[0] for name in self.vocabulary_tensors}
        for name, spec in self.specs.items():
            if name in self.vocabulary_tensors:
                if not self.mergeable(name):
                    raise VocabularyError(
                        f"{template.path}: the vocabularies of the sources differ, and {name} is "
                        f"{spec.dtype}: only floating-point rows are aligned"
                    )
            # As many rows as there are tokens, outside the layers: perhaps a head by another name.
            elif (
                len(spec.shape) > 1
                and spec.shape[0] in rows
                and name not in self.layers
                and not _POSITIONS.search(name)
            ):
                raise VocabularyError(
                    f"{template.path}: the vocabularies of the sources differ, and whether the "
                    f"{spec.shape[0]} rows of {name} are tokens is not known"
                )


def digest_of(source: Checkpoint) -> str:
    """One hash for a checkpoint: see `file_hashes`. Reads everything once."""
    return digest_of_files(file_hashes(source))


def file_hashes(source: Checkpoint) -> dict[str, str]:
    """sha256 of its weight files and its tokenizer, by file name. Reads everything once.

    The tokenizer counts, because it says which rows of two models are merged with each other.
    """
    files = source.sha256()
    tokenizer = source.tokenizer_path / TOKENIZER_FILE
    if tokenizer.is_file():
        files |= files_sha256({TOKENIZER_FILE: tokenizer})
    return files


def digest_of_files(files: Mapping[str, str]) -> str:
    """One hash for a checkpoint, of what `file_hashes` gives."""
    return hashlib.sha256(json.dumps(dict(sorted(files.items()))).encode()).hexdigest()


def _layers(specs: Mapping[str, TensorSpec], template: Checkpoint) -> dict[str, int]:
    """The layer of each tensor of the stack that the configuration speaks of."""
    count = template.layers
    stacks: dict[str, dict[str, int]] = {}
    for name in specs:
        if match := _LAYER.match(name):
            stacks.setdefault(match[1], {})[name] = int(match[2])
    found = {prefix: len(set(layers.values())) for prefix, layers in stacks.items()}
    whole = [p for p, layers in stacks.items() if set(layers.values()) == set(range(count))]
    if not whole:
        raise CheckpointError(
            f"{template.path / 'config.json'}: speaks of {count} layers, but the weights hold "
            f"{', '.join(f'{n} in {prefix}' for prefix, n in found.items()) or 'none'}"
        )
    return {name: layer for prefix in whole for name, layer in stacks[prefix].items()}


def _depths(names: Iterable[str], layers: Mapping[str, int], count: int) -> dict[str, float]:
    """Depth t of each tensor: l / (L - 1) in the stack (1 if L = 1), 0 before it, 1 after it."""
    outside = {name: 0.0 if _EMBEDDING.search(name) else 1.0 for name in names}
    return {
        name: (layers[name] / (count - 1) if count > 1 else 1.0) if name in layers else depth
        for name, depth in outside.items()
    }
