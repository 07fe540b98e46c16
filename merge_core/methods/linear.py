"""Linear: the weighted average of the experts themselves; no base is needed.

out = round((sum of e_i w_i) c), c = 1 / sum of w_i when normalized (the default), otherwise 1.
"Model soups", Wortsman et al., arXiv 2203.05482.
"""

from merge_core.methods.base import Method, normalize, weight

LINEAR = Method(
    name="linear",
    parameters=(weight(), normalize(True)),
    source="arXiv 2203.05482",
    on_differences=False,
    needs_base=False,
)
