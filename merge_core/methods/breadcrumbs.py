"""Model Breadcrumbs: take out the smallest entries of each difference and the very largest.

Davari and Belilovsky, arXiv 2312.06795; with election as `breadcrumbs_ties`. Of n entries, ranked
by magnitude from the largest, the k that follow the first g = min(floor(gamma n), n - k) stay,
k as in trim: where both cannot be had, density goes before gamma, as in mergekit.
"""

from merge_core.methods.base import (
    DENSITY_STEP,
    GAMMA,
    LAMBDA,
    SCOPE,
    SLACK,
    Method,
    density,
    normalize,
    weight,
)

_BAND = (
    weight(),
    density("share of the entries that stay, the largest but for the outliers"),
    GAMMA,
    LAMBDA,
    normalize(False),
    SCOPE,
    DENSITY_STEP,
)

BREADCRUMBS = Method(
    name="breadcrumbs",
    parameters=_BAND,
    source="arXiv 2312.06795",
    sparsify="band",
)

BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    parameters=(*_BAND, *SLACK),
    source="arXiv 2312.06795",
    sparsify="band",
    elects=True,
)
