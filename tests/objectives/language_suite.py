"""What the tests of the language scorer share."""

from objectives.engines.base import Generation
from objectives.item import Item
from objectives.scorers import language, make_scorer
from objectives.scorers.base import Sample
from objectives.scorers.languages import read_expected
from tests.objectives.language_texts import RIGHT, WORD

ENGLISH = (
    "The answer is seven because she had five apples and then she bought two more at the market"
)
SPLIT = ENGLISH.split()
YES = WORD["th"]
THAI = RIGHT["th"]["long"]
QUESTION = f"{THAI} เหลือไข่กี่ฟอง"


def item(prompt="?", **tags):
    return Item("i", ({"role": "user", "content": prompt},), "7", tags, "d")


def judge(text, expect, prompt="?", **params):
    scorer = make_scorer({"language": {"expect": expect, **params}})
    case = Sample(item(prompt), Generation(text, 9, "stop", False))
    return {"": scorer.score(case)} | scorer.extras(case)


def share(text, expect, detector="cld2"):
    return language.share(text, read_expected(expect), detector)
