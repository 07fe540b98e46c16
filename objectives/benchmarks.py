"""Published test sets: to be reported on, never to be searched on.

A recipe chosen by its score on a benchmark's test set has a score there that means nothing; so a
searched task that reads one is refused unless the user says that it may.
"""

import re

from objectives.item_source import DatasetItems, ItemsConfig

# Normalized names: lower case, without what separates words. What starts with one is refused
# whole: these have a test set and little or nothing else.
TEST_ONLY = (
    *("aime", "math500", "livecodebench", "ifeval", "mtbench", "gpqa", "humaneval", "mgsm"),
    *("simpleqa", "bigbench", "bbh", "alpacaeval", "arenahard", "polymath", "mmmlu", "belebele"),
    *("truthfulqa", "globalmmlu", "thaiexam", "frontiermath", "hle", "swebench"),
)
# These have a training set; their test sets, and validation sets that serve as such, are refused.
WITH_TRAINING = (
    *("gsm8k", "gsm", "math", "hendrycksmath", "competitionmath", "minervamath", "mmlu", "arc"),
    *("hellaswag", "winogrande", "xnli", "xcopa", "xquad", "xlsum", "mbpp", "apps", "drop"),
    *("squad", "tydiqa", "xstorycloze", "xwinograd", "indicglue", "indicxnli", "indicqa"),
    *("commonsenseqa", "openbookqa", "boolq", "copa", "piqa", "sciq", "wsc"),
)
_HELD_OUT = ("test", "validation", "dev")


def published_test_set(source: ItemsConfig) -> str | None:
    """The name of the published test set that `source` is, or None.

    Data sets of the hub are known by name and split, tasks of lm-evaluation-harness by name (they
    read test sets, or what stands for one) unless a folder of own tasks is given. A split called
    test is one whatever the data set. Item files are the user's own.
    """
    if isinstance(source, str):
        return None
    if not isinstance(source, DatasetItems):
        name = _normal(source.lm_eval)
        known = source.include is None and _among(name, TEST_ONLY + WITH_TRAINING)
        return f"task {source.lm_eval} of lm-evaluation-harness" if known else None
    name = _normal(source.dataset.rpartition("/")[2])
    said = f"split {source.split} of {source.dataset}"
    split = re.split(r"[\[+]", source.split.casefold())[0]
    if split == "test" or _among(name, TEST_ONLY):
        return said
    held_out = split.startswith(_HELD_OUT)
    return said if held_out and _among(name, WITH_TRAINING) else None


def _among(name: str, known: tuple[str, ...]) -> bool:
    # Short names are names as they are: "hle" is a benchmark, "hleb" may be anything.
    return any(name == one or (len(one) > 3 and name.startswith(one)) for one in known)


def _normal(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
