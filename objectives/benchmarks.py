"""Published test sets: to be reported on, never to be searched on.

A recipe chosen by its score on a benchmark's test set has a score there that means nothing; so a
searched task that reads one is refused unless the user says that it may.
"""

import re

from objectives.item_source import DatasetItems, ItemsConfig

# Normalized names: lower case, without what separates words. What begins with one, or has one as a
# word of its own ("leaderboard_bbh"), is refused whole: these have a test set and little else.
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
_HELD_OUT = ("test", "validation", "dev", "valid", "eval")


def published_test_set(source: ItemsConfig) -> str | None:
    """The name of the published test set that `source` is, or None.

    Data sets of the hub are known by name and split, tasks of lm-evaluation-harness by name (they
    read test sets, or what stands for one) unless a folder of own tasks is given. A split called
    test is one whatever the data set. Item files are the user's own.
    """
    if isinstance(source, str):
        return None
    if not isinstance(source, DatasetItems):
        known = source.include is None and _among(source.lm_eval, TEST_ONLY + WITH_TRAINING)
        return f"task {source.lm_eval} of lm-evaluation-harness" if known else None
    name = source.dataset.rpartition("/")[2]
    said = f"split {source.split} of {source.dataset}"
    # A split may be several, or parts of them: train[:10%]+test.
    splits = [re.split(r"[^a-z]", part)[0] for part in source.split.casefold().split("+")]
    if "test" in splits or _among(name, TEST_ONLY):
        return said
    return said if set(splits) & set(_HELD_OUT) and _among(name, WITH_TRAINING) else None


def _among(name: str, known: tuple[str, ...]) -> bool:
    """Whether a name begins with a known one of over four letters, or has one as a word."""
    words = {word for word in re.split(r"[^a-z0-9]+", name.casefold()) if word}
    whole = re.sub(r"[^a-z0-9]", "", name.casefold())
    return any(
        one in words or whole == one or (len(one) > 4 and whole.startswith(one)) for one in known
    )
