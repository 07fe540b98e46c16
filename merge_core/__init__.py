"""Merging of model checkpoints from a recipe, bit-for-bit reproducible on any device."""

from merge_core.checkpoint import Checkpoint, TensorSpec
from merge_core.errors import (
    CheckpointError,
    MergeError,
    NonFiniteError,
    RecipeError,
    VocabularyError,
)
from merge_core.plan import MergePlan
from merge_core.recipe import Expert, Recipe
from merge_core.sources import Sources
from merge_core.writing import write_merge

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Expert",
    "MergeError",
    "MergePlan",
    "NonFiniteError",
    "Recipe",
    "RecipeError",
    "Sources",
    "TensorSpec",
    "VocabularyError",
    "write_merge",
]
