"""DELLA: drop entries at random, the smaller ones of each row more often; rescale the rest.

Deep et al., arXiv 2406.11617. Within a row (the last axis; a tensor of one or no axis is one row)
of n entries the keep probability grows with the rank of |delta| from density - epsilon to
density + epsilon. The draw and the rescale are DARE's: a fact of (seed, tensor, expert, element),
and the exact inverse of the kept share. Density 1 keeps all; any other needs
0 < density - epsilon and density + epsilon < 1. With epsilon 0 it is DARE bit for bit.
mergekit has both methods by name, but draws from its one random stream, so that it cannot give
the same merge.
"""

from merge_core.methods.base import (
    DENSITY_STEP,
    EPSILON,
    LAMBDA,
    SLACK,
    Method,
    density,
    normalize,
    weight,
)

_DRAW = (
    weight(),
    density("mean share of the entries that stay, chosen at random by the seed"),
    EPSILON,
    LAMBDA,
)

DELLA = Method(
    name="della",
    parameters=(*_DRAW, normalize(True), DENSITY_STEP, *SLACK),
    source="arXiv 2406.11617",
    sparsify="rank_drop",
    elects=True,
    mergekit=False,
)

DELLA_LINEAR = Method(
    name="della_linear",
    parameters=(*_DRAW, normalize(False), DENSITY_STEP),
    source="arXiv 2406.11617",
    sparsify="rank_drop",
    mergekit=False,
)
