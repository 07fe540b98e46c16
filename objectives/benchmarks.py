"""Published test sets: to be reported on, never to be searched on.

A recipe chosen by its score on a benchmark's test set has a score there that means nothing; so a
searched task that reads one is refused unless the user says that it may.
"""

import re

from objectives.item_source import DatasetItems, ItemsConfig

# Normalized names: lower case, without what separates words. What has one as a word of its own
# ("leaderboard_bbh"), or a long one within ("tinyGSM8k"), is refused whole: these have a test set
# and little else.
TEST_ONLY = (
    *("aime", "math500", "livecodebench", "ifeval", "mtbench", "gpqa", "humaneval", "mgsm"),
    *("simpleqa", "bigbench", "bbh", "alpacaeval", "arenahard", "polymath", "mmmlu", "belebele"),
    *("truthfulqa", "globalmmlu", "frontiermath", "hle", "swebench", "cmmlu", "thaiexam", "ceval"),
    *("agieval", "includebase", "lambada", "mmlupro", "mmluprox", "mlogiqa", "musr", "amc23"),
)
# These have a training set; their test sets, and validation sets that serve as such, are refused.
WITH_TRAINING = (
    *("gsm8k", "gsm", "hendrycksmath", "competitionmath", "minervamath", "mmlu", "arc", "race"),
    *("hellaswag", "winogrande", "xnli", "xcopa", "xquad", "xlsum", "mbpp", "apps", "drop"),
    *("squad", "tydiqa", "xstorycloze", "xwinograd", "indicglue", "indicxnli", "indicqa", "math"),
    *("commonsenseqa", "openbookqa", "boolq", "copa", "piqa", "sciq", "wsc", "sib200", "pawsx"),
)
_SHORT = ("mmlu", "mgsm", "gpqa", "mbpp", "xnli")
"""Known names of four letters that no word contains; longer ones count within words, too."""

_HELD_OUT = ("test", "validation", "dev", "valid", "eval")


def published_test_set(source: ItemsConfig) -> str | None:
    """The name of the published test set that `source` is, or None.

    Data sets of the hub are known by name (or subset) and split. Tasks of lm-evaluation-harness
    all read test sets, or what stands for one; those of a folder are the user's own, unless they
    have the name of a known one. A split called test or all is one whatever the data set. Item
    files are the user's own.
    """
    if isinstance(source, str):
        return None
    if not isinstance(source, DatasetItems):
        long = tuple(one for one in TEST_ONLY + WITH_TRAINING if one in _SHORT or len(one) > 4)
        if source.include is not None and not _among(source.lm_eval, long):
            return None
        return f"task {source.lm_eval} of lm-evaluation-harness"
    parts = [part for part in source.dataset.split("/") if part not in ("", ".", "..")]
    # Of a hub's id, the first of two, owners have all kinds of names; of a path any folder tells.
    path = source.dataset.startswith((".", "/", "~")) or len(parts) > 2
    names = [*(parts if path else parts[-1:]), source.subset or ""]
    said = f"split {source.split} of {source.dataset}"
    # A split may be several, or parts of them: train[:10%]+test.
    words = re.findall(r"[a-z]+", re.sub(r"\[.*?\]", "", source.split.casefold()))
    tested = any(word == "all" or word.startswith("test") for word in words)
    if tested or any(_among(name, TEST_ONLY) for name in names):
        return said
    held_out = set(words) & set(_HELD_OUT)
    return said if held_out and any(_among(name, WITH_TRAINING) for name in names) else None


def _among(name: str, known: tuple[str, ...]) -> bool:
    """Whether a name has a known one as a word, or a long one anywhere."""
    words = {word for word in re.split(r"[^a-z0-9]+", name.casefold()) if word}
    whole = re.sub(r"[^a-z0-9]", "", name.casefold())
    return any(
        one in words or whole == one or ((len(one) > 4 or one in _SHORT) and one in whole)
        for one in known
    )
