"""TIES: trim each difference to its largest entries, elect a sign per entry, add what agrees.

Yadav et al., arXiv 2306.01708. As in mergekit, weights vote in the election and trimming is per
tensor; `scope: model` trims over the whole model as the paper does.
"""

from merge_core.methods.base import (
    DENSITY_STEP,
    LAMBDA,
    SCOPE,
    SLACK,
    Method,
    density,
    normalize,
    weight,
)

TRIM_PARAMETERS = (
    weight(),
    density("share of the entries of largest magnitude that stay"),
    LAMBDA,
    normalize(True),
    SCOPE,
    DENSITY_STEP,
    *SLACK,
)

TIES = Method(
    name="ties",
    parameters=TRIM_PARAMETERS,
    source="arXiv 2306.01708",
    sparsify="trim",
    elects=True,
)
