"""SLERP: base and one other model, on the arc between them instead of the chord.

Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985; each tensor is one vector.
out = round(e_0 f_0 + e_1 f_1), f = sin((1 - t) theta) / sin(theta) for base and
sin(t theta) / sin(theta) for the other, theta the angle between them; f = 1 - t and t where they
are nearly parallel. So t = 0 is base. As in mergekit, base is one of the two models.
"""

from merge_core.methods.base import Method, T

SLERP = Method(
    name="slerp",
    parameters=(T,),
    source="Shoemake 1985",
    on_differences=False,
    interpolates=True,
    min_models=2,
    max_models=2,
)
