"""TIES-SV: TIES in which an expert with `slack` wins back the entries that it lost narrowly.

Arithmetic and parameters are those of TIES; the name says that slack is meant. With slack 0 it is
TIES bit for bit. The paper ("Unlocking the Potential of Model Merging for Low-Resource
Languages", arXiv 2407.03994) leaves the details open; our reading is `slack_rule: 1`.
"""

from dataclasses import replace

from merge_core.methods.ties import TIES

TIES_SV = replace(TIES, name="ties_sv", source="arXiv 2407.03994", mergekit=False)
