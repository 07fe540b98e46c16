"""Task arithmetic: base plus the weighted sum of the experts' differences from it.

out = round(b + (sum of (e_i - b) w_i) c), c = lambda (divided by the sum of w_i if normalized).
Ilharco et al., arXiv 2212.04089.
"""

from merge_core.methods.base import LAMBDA, Method, normalize, weight

TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    parameters=(weight(), LAMBDA, normalize(False)),
    source="arXiv 2212.04089",
)
