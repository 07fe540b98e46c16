"""What is language in a text: the words, without code, formulas, tags, digits and punctuation.

What is left out is left out because natives write it so too. Each pattern is narrow, because
whatever it leaves out is where another language could hide: sentences in code fences, in backticks,
in formulas, in angle brackets and behind backslashes stay, and so do letters spelt one by one.
"""

import unicodedata
from functools import lru_cache
from typing import Any

import regex

from objectives.scorers.languages import count

# Invisible characters; joiners stay between letters of scripts that need them.
_INVISIBLE = regex.compile(
    r"[\p{DI}--[\u200c\u200d]]+|(?<=[\p{Latin}\p{Cyrillic}])\p{DI}+", regex.V1
)
# Letters drawn as symbols: mathematical alphabets, circled and squared letters.
_DRAWN = regex.compile("[\U0001d400-\U0001d7ff\u24b6-\u24e9\U0001f130-\U0001f149]+")
_UNSAFE = regex.compile(r"[\p{Cc}\p{Cs}\p{Co}\p{Cn}]+")  # CLD2 raises on them

_FENCE = regex.compile(
    r"(?P<fence>```|~~~)(?:[\w+#.-]{0,20}[ \t]*(?=\n))?(?P<body>.*?)(?:(?P=fence)|\Z)"
    r"|`(?P<inline>[^`\n]*)`",
    regex.DOTALL,
)
_COMMENT = regex.compile(r"\s*(?:#+|//+|/?\*+/?|--|%+|\"\"\"|\'\'\'|<!--)")
# What only code has. A sentence may have full stops, commas, colons, hyphens and quotes.
_CODE_SIGN = regex.compile(r"[(){}\[\]=<>;_+*/\\|&^%@$#~]|\w\.\w")
_KEYWORD = regex.compile(
    r"\s*(?:if|elif|else|for|while|return|import|from|def|class|try|except|pass|with|as|in|end|do|"
    r"done|then|fi|begin|let|var|const|use|using|package|public|private|static|void|int|pip|npm|"
    r"apt|sudo|git|cd|echo|select|insert|update|delete|create|where|print)\b",
    regex.IGNORECASE,
)
_FEW_WORDS = 4  # fewer in backticks are a term
_MANY_LETTERS = 40  # of terms
_MANY_WORDS = 6  # fewer words of prose in all its code say nothing about an answer

_URL = regex.compile(r"https?://[!-~]{1,200}")
_TAG_NAMES = """
a abbr answer assistant b big blockquote body bos bot br center code col del details div em eos font
footer h1 h2 h3 h4 h5 h6 head header hr html i img ins kbd li mark math mn mo mrow mi msup ol output
p pad pre reasoning response result s script section small solution span strong style sub summary
sup system table tbody td tfoot th thead think thinking thought title tool tool_call tr tt u ul unk
user var
"""
_TAG = regex.compile(
    rf"</?(?:{'|'.join(_TAG_NAMES.split())})"
    r"(?:\s{1,3}[\w:-]{1,20}=(?:\"[^\"\s]{0,60}\"|'[^'\s]{0,60}'|\w{1,20})){0,6}\s?/?>"
    r"|<\|[\w-]{1,30}\|>",
    regex.IGNORECASE,
)
_ENVIRONMENT = regex.compile(r"\\(?:begin|end)\s?\{[A-Za-z]{1,12}\*?\}(?:\{[lcr| ]{1,20}\})?")
_MATH = regex.compile(
    r"\$\$(?P<a>[^$]{0,2000})\$\$|\$(?P<b>[^$\n]{0,500})\$"
    r"|\\\((?P<c>[^\\]{0,500}(?:\\[^()][^\\]{0,500}){0,200})\\\)"
    r"|\\\[(?P<d>[^\\]{0,500}(?:\\[^\[\]][^\\]{0,500}){0,200})\\\]"
)
_COMMAND = regex.compile(r"\\(?:(?P<name>[A-Za-z]+)|.)", regex.DOTALL)
# In a formula: long Latin words, words in a row and words of other scripts are language, the rest
# is symbols.
_FORMULA_WORD = regex.compile(
    r"(?:[\p{L}\p{M}]{2,}[ ~]){2,}[\p{L}\p{M}]{2,}|[\p{L}\p{M}]{4,}"
    r"|[^\P{L}\p{Latin}\p{Greek}][\p{L}\p{M}]*"
)
_UNIT = regex.compile(
    r"(?<=\p{N}\s?)(?:[kcmdnµμ]?m|[km]?g|[mcdk]?l|ml|kWh|[kMG]?W|[kMG]?Hz|[kMGT]?B|mph|"
    r"km/h|m/s|kg/m|min|hrs?|sec|cc|ft|kPa|Pa|rpm|USD|EUR|THB|BDT|INR|CNY|JPY)\b"
    r"(?:/(?:h|s|min|m|kg|l)\b)?"
)
VARIABLE = regex.compile(r"(?<![\p{L}\p{M}])\p{Latin}(?![\p{L}\p{M}])")
"""A Latin letter alone."""
_MANY_VARIABLES = 12  # no text has so many; from here on someone is spelling
_LETTER = regex.compile(r"\p{L}")
_NOT_WORDS = regex.compile(r"[\p{N}\p{P}\p{S}\p{Z}]+")

# The commands of LaTeX that answers use. An unknown command is a word with a backslash.
_LATEX_TEXT = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi
varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi
Pi Sigma Upsilon Phi Psi Omega frac dfrac tfrac cfrac sqrt sum prod int iint oint lim limits
nolimits sup inf max min log ln lg exp sin cos tan cot sec csc arcsin arccos arctan sinh cosh
tanh det dim ker gcd lcm deg arg Pr mod bmod pmod binom dbinom tbinom cdot cdots ldots dots
vdots ddots times div pm mp ast star circ bullet oplus otimes cap cup setminus subset supset
subseteq supseteq in notin ni emptyset varnothing forall exists nexists neg lnot land lor wedge
vee leq geq le ge lt gt ll gg neq ne equiv approx sim simeq cong propto parallel nparallel perp
mid nmid angle measuredangle triangle square infty partial nabla hbar ell Re Im aleph to gets
rightarrow leftarrow Rightarrow Leftarrow leftrightarrow Leftrightarrow longrightarrow
Longrightarrow longleftarrow mapsto implies impliedby iff therefore because uparrow downarrow
left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr lfloor rfloor lceil rceil langle
rangle lvert rvert lVert rVert vert Vert lbrace rbrace quad qquad hspace vspace hline cline text
textbf textit textrm texttt textsf mathrm mathbf mathit mathsf mathtt mathbb mathcal mathfrak
mathscr operatorname boldsymbol bm mbox hbox fbox boxed underline overline overrightarrow
overleftarrow underbrace overbrace overset underset stackrel xrightarrow hat widehat bar vec dot
ddot tilde widetilde acute grave breve check prime begin end item label ref tag eqref nonumber
notag displaystyle textstyle scriptstyle phantom hphantom vphantom color textcolor cancel
bcancel xcancel not substack array cases matrix pmatrix bmatrix vmatrix section subsection
paragraph title author date documentclass usepackage newline par noindent centering small large
Large huge degree celsius unit num SI si
"""
_LATEX = frozenset(_LATEX_TEXT.split())


@lru_cache(maxsize=64)
def words(text: str) -> str:
    """What is language in `text`, its words separated by single spaces."""
    text = _INVISIBLE.sub("", text)
    text = _DRAWN.sub(lambda drawn: unicodedata.normalize("NFKC", drawn[0]), text)
    text = _without_code(text)
    text = _UNSAFE.sub(" ", text)
    text = _TAG.sub(" ", text)
    text = _ENVIRONMENT.sub(" ", text)
    text = _MATH.sub(_formula_words, text)
    text = _COMMAND.sub(_command_word, text)
    text = _UNIT.sub(" ", text)
    alone = {letter.casefold() for letter in VARIABLE.findall(text)}
    if len(alone) < _MANY_VARIABLES:
        text = VARIABLE.sub(" ", text)
    return str(_NOT_WORDS.sub(" ", text)).strip()


def _command_word(command: Any) -> str:
    name = command["name"]
    return " " if name is None or name in _LATEX else f" {name}"


def _formula_words(match: Any) -> str:
    content = next(group for group in match.groups() if group is not None)
    return f" {' '.join(_FORMULA_WORD.findall(_COMMAND.sub(_command_word, content)))} "


def _without_code(text: str) -> str:
    """Without the code between fences and backticks, and without URLs; prose in them stays.

    Code is prose when it has several words, and more letters stand in its sentences and comments
    than in its code. Terms in backticks and URLs are prose when they outweigh the text around them.
    """
    if "`" not in text and "~~~" not in text and "://" not in text:
        return text
    said: list[str] = []
    terms: list[str] = _URL.findall(text)
    code = 0
    rest = _URL.sub(" ", text)
    for block in _FENCE.finditer(rest):
        if block["inline"] is None:
            lines = block["body"].split("\n")
        elif len(block["inline"].split()) < _FEW_WORDS:
            terms.append(block["inline"])
            continue
        else:
            lines = [block["inline"]]
        for line in lines:
            comment = _COMMENT.match(line)
            if comment or not (_CODE_SIGN.search(line) or _KEYWORD.match(line)):
                said.append(line[comment.end() :] if comment else line)
            else:
                code += count(_LETTER, line)
    rest = str(_FENCE.sub(" ", rest))
    sentences, named = " ".join(said), " ".join(terms)
    prose = len(sentences.split()) >= _MANY_WORDS or not sentences.isascii()
    if prose and count(_LETTER, sentences) > code:
        rest = f"{rest} {sentences}"
    if count(_LETTER, named) > max(_MANY_LETTERS, count(_LETTER, rest)):
        rest = f"{rest} {named}"
    return rest
