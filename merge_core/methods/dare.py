"""DARE: drop entries of each difference at random, rescale the rest; linear or with election.

Yu et al., arXiv 2311.03099. The mask is a fact of (seed, tensor, expert, element), so that any
device, shard and order gives the same bits; the rescale is the exact inverse of the kept share.
mergekit has both methods by name, but its masks follow its one random stream, so that it cannot
give the same merge.
"""

from merge_core.methods.base import (
    DENSITY_STEP,
    LAMBDA,
    SLACK,
    Method,
    density,
    normalize,
    weight,
)

_PARAMETERS = (
    weight(),
    density("share of the entries that stay, chosen at random by the seed"),
    LAMBDA,
    normalize(False),
    DENSITY_STEP,
)

DARE_LINEAR = Method(
    name="dare_linear",
    parameters=_PARAMETERS,
    source="arXiv 2311.03099",
    sparsify="drop",
    mergekit=False,
)

DARE_TIES = Method(
    name="dare_ties",
    parameters=(*_PARAMETERS, *SLACK),
    source="arXiv 2311.03099",
    sparsify="drop",
    elects=True,
    mergekit=False,
)
