"""Errors a user of `merge_core` can mend: one class per thing to mend, each message one line."""


class MergeError(Exception):
    """Root of what can go wrong in recipes, checkpoints and merges through the user's input.

    Attributes:
        where: the place in the document that is at fault: keys and list indices from its root.
            The reader of the file turns it into line and column.
    """

    where: tuple[str | int, ...] = ()


class RecipeError(MergeError):
    """A recipe has an unknown key, an illegal value, or asks for what its method does not have."""


class CheckpointError(MergeError):
    """A checkpoint is missing, damaged, unsafe, or does not fit the others."""


class VocabularyError(MergeError):
    """The tokenizers of the sources disagree in a way that cannot be mended."""


class NonFiniteError(MergeError):
    """A merge gave infinities or NaN: the recipe's own fault, not the machine's."""
