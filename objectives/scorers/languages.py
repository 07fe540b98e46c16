"""Languages by ISO 639 code, their scripts, and what a user may write as the expected one."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import regex

from objectives.tables import did_you_mean

# Code: living scripts by their Unicode names. Any script before the bar counts; those after it
# count only when asked for (`kk-Latn`), because taking them unasked would let another language in.
_TABLE = """
aa: Latin                   ab: Cyrillic                af: Latin
ak: Latin                   am: Ethiopic                an: Latin
ar: Arabic                  arz: Arabic                 as: Bengali
ast: Latin                  av: Cyrillic                awa: Devanagari
ay: Latin                   az: Latin | Cyrillic Arabic ba: Cyrillic
ban: Latin Balinese         bci: Latin                  be: Cyrillic | Latin
bem: Latin                  bg: Cyrillic                bho: Devanagari
bi: Latin                   bm: Latin Nko               bn: Bengali
bo: Tibetan                 br: Latin                   brx: Devanagari
bs: Latin | Cyrillic        bug: Latin Buginese         ca: Latin
ce: Cyrillic                ceb: Latin                  chr: Cherokee
ckb: Arabic                 co: Latin                   cs: Latin
cv: Cyrillic                cy: Latin                   da: Latin
de: Latin                   doi: Devanagari | Arabic    dv: Thaana
dz: Tibetan                 ee: Latin                   el: Greek
en: Latin                   eo: Latin                   es: Latin
et: Latin                   eu: Latin                   fa: Arabic
ff: Latin Adlam             fi: Latin                   fil: Latin
fj: Latin                   fo: Latin                   fr: Latin
fy: Latin                   ga: Latin                   gaa: Latin
gd: Latin                   gl: Latin                   gn: Latin
gu: Gujarati                gv: Latin                   ha: Latin | Arabic
haw: Latin                  he: Hebrew                  hi: Devanagari | Latin
hne: Devanagari             hr: Latin                   ht: Latin
hu: Latin                   hy: Armenian                id: Latin
ig: Latin                   ilo: Latin                  is: Latin
it: Latin                   iu: Canadian_Aboriginal Latin  ja: Han Hiragana Katakana
jv: Latin Javanese          ka: Georgian                kab: Latin Tifinagh
kha: Latin | Bengali        kk: Cyrillic | Latin Arabic kl: Latin
km: Khmer                   kn: Kannada                 ko: Hangul | Han
kok: Devanagari | Latin     kr: Latin                   kri: Latin
ks: Arabic Devanagari       ksw: Myanmar                ku: Latin | Arabic
ky: Cyrillic | Arabic       la: Latin                   lb: Latin
lg: Latin                   lif: Limbu Devanagari       ln: Latin
lo: Lao                     lt: Latin                   luo: Latin
lus: Latin                  lv: Latin                   mad: Latin
mag: Devanagari             mai: Devanagari             mfe: Latin
mg: Latin                   mi: Latin                   min: Latin
mk: Cyrillic                ml: Malayalam               mn: Cyrillic Mongolian
mni: Bengali Meetei_Mayek   mnw: Myanmar                mr: Devanagari
ms: Latin | Arabic          mt: Latin                   my: Myanmar
nan: Han | Latin            nb: Latin                   ne: Devanagari
new: Devanagari             nl: Latin                   nn: Latin
no: Latin                   nod: Thai Tai_Tham          nqo: Nko
nso: Latin                  ny: Latin                   oc: Latin
om: Latin | Ethiopic        or: Oriya                   os: Cyrillic
pa: Gurmukhi | Arabic       pam: Latin                  pap: Latin
pcm: Latin                  pl: Latin                   pnb: Arabic
prs: Arabic                 ps: Arabic                  pt: Latin
qu: Latin                   raj: Devanagari             rn: Latin
ro: Latin | Cyrillic        ru: Cyrillic                rw: Latin
sa: Devanagari              sah: Cyrillic               sat: Ol_Chiki | Bengali Devanagari Latin
sc: Latin                   scn: Latin                  sco: Latin
sd: Arabic | Devanagari     sg: Latin                   shn: Myanmar
si: Sinhala                 sk: Latin                   sl: Latin
sm: Latin                   sn: Latin                   so: Latin
sq: Latin                   sr: Cyrillic Latin          ss: Latin
st: Latin                   su: Latin Sundanese         sv: Latin
sw: Latin                   syr: Syriac                 ta: Tamil
te: Telugu                  tet: Latin                  tg: Cyrillic | Latin Arabic
th: Thai                    ti: Ethiopic                tk: Latin | Cyrillic
tl: Latin                   tn: Latin                   to: Latin
tpi: Latin                  tr: Latin                   ts: Latin
tt: Cyrillic | Latin        tts: Thai                   tum: Latin
ty: Latin                   tyv: Cyrillic               ug: Arabic | Cyrillic Latin
uk: Cyrillic                ur: Arabic                  uz: Latin Cyrillic | Arabic
ve: Latin                   vi: Latin                   war: Latin
wo: Latin                   wuu: Han                    xh: Latin
yi: Hebrew                  yo: Latin                   yue: Han
za: Latin                   zgh: Tifinagh               zh: Han
zu: Latin
"""

# ISO 15924 codes of the suffixes, by Unicode script name.
_SUFFIX = {
    "Adlam": "Adlm", "Arabic": "Arab", "Armenian": "Armn", "Balinese": "Bali", "Bengali": "Beng",
    "Buginese": "Bugi", "Canadian_Aboriginal": "Cans", "Cherokee": "Cher", "Cyrillic": "Cyrl",
    "Devanagari": "Deva", "Ethiopic": "Ethi", "Georgian": "Geor", "Greek": "Grek",
    "Gujarati": "Gujr", "Gurmukhi": "Guru", "Han": "Hani", "Hangul": "Hang", "Hebrew": "Hebr",
    "Hiragana": "Hira", "Javanese": "Java", "Kannada": "Knda", "Katakana": "Kana",
    "Khmer": "Khmr", "Lao": "Laoo", "Latin": "Latn", "Limbu": "Limb", "Malayalam": "Mlym",
    "Meetei_Mayek": "Mtei", "Mongolian": "Mong", "Myanmar": "Mymr", "Nko": "Nkoo",
    "Ol_Chiki": "Olck", "Oriya": "Orya", "Sinhala": "Sinh", "Sundanese": "Sund",
    "Syriac": "Syrc", "Tai_Tham": "Lana", "Tamil": "Taml", "Telugu": "Telu", "Thaana": "Thaa",
    "Thai": "Thai", "Tibetan": "Tibt", "Tifinagh": "Tfng",
}  # fmt: skip
# Writing these is writing English words.
ENGLISHES = frozenset(("bi", "en", "kri", "pcm", "sco", "tpi"))
# Two ways to write Han, told apart by characters that only one of them has.
HANS, HANT = "Hans", "Hant"


def _read_table() -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    usual, on_request = {}, {}
    for code, scripts in regex.findall(r"(\w+): ([\w |]+?)(?=\s+\w+:|\s*\Z)", _TABLE):
        first, _, more = scripts.partition("|")
        usual[code], on_request[code] = tuple(first.split()), tuple(more.split())
    return usual, on_request


SCRIPTS, SCRIPTS_ON_REQUEST = _read_table()
"""Unicode script names by language: those that count, and those that count when asked for."""

# Scripts of one large language: a text too short for the detector is still known by them.
OWNER: dict[str, str] = {
    "Armenian": "hy", "Cherokee": "chr", "Georgian": "ka", "Greek": "el", "Gujarati": "gu",
    "Gurmukhi": "pa", "Hangul": "ko", "Hebrew": "he", "Hiragana": "ja", "Kannada": "kn",
    "Katakana": "ja", "Khmer": "km", "Lao": "lo", "Malayalam": "ml", "Meetei_Mayek": "mni",
    "Mongolian": "mn", "Myanmar": "my", "Nko": "nqo", "Ol_Chiki": "sat", "Oriya": "or",
    "Sinhala": "si", "Syriac": "syr", "Tamil": "ta", "Telugu": "te", "Thaana": "dv",
    "Thai": "th", "Tifinagh": "zgh",
}  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """A language, the scripts that count for it, and `HANS` or `HANT` where only one of them does.

    `on_request` says that a script was asked for which detectors do not know of this language.
    """

    language: str
    scripts: tuple[str, ...]
    variant: str = ""
    on_request: bool = False

    @cached_property
    def letters(self) -> Any:
        """A pattern that finds the letters of `scripts`, none that several scripts share."""
        union = "".join(rf"\p{{{script}}}" for script in self.scripts)
        return regex.compile(rf"[[{union}]&&[^\P{{L}}\p{{Common}}]]", regex.VERSION1)

    @cached_property
    def scripted(self) -> Any:
        """A pattern that finds the letters and the marks of `scripts`."""
        union = "".join(rf"\p{{{script}}}" for script in self.scripts)
        return regex.compile(rf"[[{union}]&&[\p{{L}}\p{{M}}]--\p{{Common}}]", regex.VERSION1)

    @cached_property
    def other_scripted(self) -> Any:
        """A pattern that finds the letters and the marks of one script not among `scripts`."""
        union = "".join(rf"\p{{{script}}}" for script in self.scripts)
        return regex.compile(
            rf"[[\p{{L}}\p{{M}}]--[{union}\p{{Common}}\p{{Inherited}}]]", regex.VERSION1
        )


def read_expected(text: str) -> Expected:
    """What `th`, `mn-Mong`, `sr-Latn` or `zh-Hant` stand for.

    Raises:
        ValueError: an unknown language, or a script that it is not written in.
    """
    code, _, suffix = text.partition("-")
    if code not in SCRIPTS:
        raise ValueError(f"unknown language {text!r}; {did_you_mean(code, SCRIPTS)}")
    if not suffix:
        return Expected(code, SCRIPTS[code])
    possible = {_SUFFIX[name]: name for name in SCRIPTS[code] + SCRIPTS_ON_REQUEST[code]}
    if code == "ja":
        possible = {"Jpan": "Han"}
    elif code == "ko":
        possible |= {"Kore": "Hangul"}
    elif SCRIPTS[code] == ("Han",):
        possible |= {HANS: "Han", HANT: "Han"}
    if suffix not in possible:
        known = ", ".join(f"{code}-{name}" for name in possible)
        raise ValueError(f"{text!r} is no script that {code!r} is written in; write {known}")
    if suffix in ("Jpan", "Kore"):
        return Expected(code, SCRIPTS[code])
    name = possible[suffix]
    variant = suffix if suffix in (HANS, HANT) else ""
    return Expected(code, (name,), variant, name in SCRIPTS_ON_REQUEST[code])


def count(letters: Any, text: str) -> int:
    """How many characters of `text` the pattern `letters`, of one character, finds."""
    # Texts have thousands of characters and few different ones.
    return sum(map(text.count, letters.findall("".join(set(text)))))
