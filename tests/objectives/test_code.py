import pytest

from objectives.engines.base import Generation
from objectives.errors import ScorerError
from objectives.item import Item
from objectives.sandbox import SANDBOXES, SandboxError, make_sandbox
from objectives.scorers import code as code_scorer
from objectives.scorers.base import Sample
from objectives.scorers.code import Code, last_block, read_events, same_output
from objectives.scorers.code_reading import free_names
from objectives.scorers.code_values import decode, encode
from tests.objectives.samples import sample
from tests.objectives.scorer_suite import ScorerSuite


def working_sandbox() -> str:
    for name in sorted(set(SANDBOXES) - {"http"}, reverse=True):
        try:
            make_sandbox(name).check()
        except SandboxError:
            continue
        return name
    raise AssertionError("no sandbox runs here, so none is tested")


@pytest.fixture(scope="module")
def scorer() -> Code:
    return Code(sandbox=working_sandbox(), time_limit=2)


def item(tests, entry_point=None) -> Item:
    fields = {"tests": tests} | ({} if entry_point is None else {"entry_point": entry_point})
    return Item("i", ({"role": "user", "content": "?"},), "", {}, "d", fields)


def grade(scorer: Code, code: str, tests, entry_point=None) -> tuple[float, float]:
    question = item(tests, entry_point)
    scorer.check_item(question)
    text = f"<think>```python\nprint('no')\n```</think>So:\n```python\n{code}\n```\nDone."
    case = Sample(question, Generation(text, 9, "stop"))
    return scorer.score(case), round(scorer.extras(case)["passed"], 2)


class TestSuite(ScorerSuite):
    @pytest.fixture
    def scorer(self, scorer):
        return scorer


CASES = [{"input": "1\n", "output": "2\n"}, {"input": "5\n", "output": "10\n"}]


class TestPrintedOutput:
    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("print(int(input()) * 2)", (1, 1)),
            ("print(2)", (0, 0.5)),
            ("print(int(input()) * 2, end='   ')", (1, 1)),
            ("print(int(input()) * 2.0)", (1, 1)),
            ("print('two')", (0, 0)),
            ("print(int(input()) * 2); print()", (1, 1)),
            ("print(int(input()) * 2); print('really')", (0, 0)),
            ("print(int(input()) * 2); 1 / 0", (0, 0)),
            ("import os; print(2, flush=True); os._exit(0)", (0, 0.5)),
            ("pass", (0, 0)),
            ("def (", (0, 0)),
        ],
    )
    def test_decides(self, scorer, code, expected):
        assert grade(scorer, code, CASES) == expected

    @pytest.mark.parametrize(
        ("expected", "printed", "same"),
        [
            ("1 2\n3\n", "1 2 \n3", True),
            ("1.50 2", "1.5 2.0", True),
            ("1 2", "1  2", True),
            ("a b", "a  b", False),
            ("1", "", False),
            ("", "", True),
            ("1\n2", "1 2", False),
            ("nan", "NaN", False),
            ("YES", "yes", False),
            ("1e400", "inf", False),
            ("Infinity", "inf", False),
        ],
    )
    def test_same_output(self, expected, printed, same):
        assert same_output(expected, printed) is same

    def test_an_item_has_a_time_limit_of_its_own(self):
        scorer = Code(sandbox=working_sandbox(), time_limit=0.2, item_limit=0.3)
        tests = [{"input": str(n), "output": "x"} for n in range(50)]
        assert grade(scorer, "import time; time.sleep(9)", tests) == (0, 0)


class TestAsserts:
    @pytest.mark.parametrize(
        ("code", "tests", "entry_point", "expected"),
        [
            ("def f(x): return 2 * x", "assert f(2) == 4\nassert f([1]) == [1, 1]", None, (1, 1)),
            ("def f(x): return 2 * x", "assert f(2) == 4\nassert f(3) == 5", None, (0, 0.5)),
            ("def f(x): return 2 * x", ["assert f(2) == 4", "assert f(0) == 0"], None, (1, 1)),
            ("def g(x): return 2 * x", "assert f(2) == 4", None, (0, 0)),
            (
                "def f(x): return x / 3",
                "def check(candidate):\n    assert candidate(3) == 1, 'a'\n"
                "    for n in range(5):\n        assert abs(candidate(n) - n / 3) < 1e-9\n"
                "    assert True, 'always'\n",
                "f",
                (1, 1),
            ),
            (
                "def decode(s): return s[::-1]",
                "import random\ndef encode(s): return s[::-1]\nrandom.seed(0)\n"
                "s = ''.join(random.choices('ab', k=9))\nassert decode(encode(s)) == s",
                None,
                (1, 1),
            ),
            (
                "class Stack:\n    size = 0\n    def __init__(self, n=0): self.items = [n]\n"
                "    def push(self, x): self.items.append(x); self.size += 1\n"
                "    def __len__(self): return len(self.items)\n"
                "    def __getitem__(self, i): return self.items[i]",
                "s = Stack(n=3)\ns.push((1, 'x'))\nassert s.size == 1\nassert len(s) == 2\n"
                "assert s[1] == (1, 'x')\nassert list(s) == [3, (1, 'x')]\ns.items = []\n"
                "assert not s",
                None,
                (1, 1),
            ),
            ("def f(l): l.sort()", "l = [3, 1]\nf(l)\nassert l == [1, 3]", None, (1, 1)),
            ("def f(d): d['a'] = {1}", "d = {}\nf(d)\nassert d == {'a': {1}}", None, (1, 1)),
            (
                "def f(x): raise KeyError(x)",
                "try:\n    f('k')\n    assert False\nexcept KeyError as e:\n"
                "    assert 'k' in str(e)",
                None,
                (1, 1),
            ),
            (
                "class E(ValueError): pass\ndef f(): raise E",
                "error = None\ntry: f()\nexcept ValueError as e: error = e\n"
                "else: assert False\nassert error",
                None,
                (1, 1),
            ),
            ("def f(n): yield from range(n)", "assert list(f(3)) == [0, 1, 2]", None, (1, 1)),
            ("def f(): return 10 ** 5000", "assert f() == 10 ** 5000", None, (1, 1)),
            ("def f(): return (1, [2.5], {'a': {3}}, None, b'x', 1j)",
             "assert f() == (1, [2.5], {'a': {3}}, None, b'x', 1j)", None, (1, 1)),
            ("def f(): return [1]", "assert f() == (1,)", None, (0, 0)),
            ("def f(): return float('nan')", "x = f()\nassert x != x", None, (1, 1)),
            ("def f(x): return True", "assert f(1)\nassert not f(2)", None, (0, 0.5)),
            ("print('hi')\ndef f(x): print(x); return x", "assert f(1) == 1", None, (1, 1)),
            ("def f(x): return x\nif __name__ == '__main__': f(input())", "assert f(1) == 1",
             None, (1, 1)),
            ("def f(): return g()\ndef g(): return 1", "assert f() == g() == 1", ["f", "g"],
             (1, 1)),
            ("class Solution:\n    def add(self, a, b): return (a + b, a)",
             [{"input": "1\n2", "output": "[3, 1]"}], "add", (1, 1)),
            ("class Solution:\n    def add(self, a): return a",
             "def check(candidate):\n    assert candidate(a=[1]) == [1]", "Solution().add", (1, 1)),
            ("def add(a, b): return a + b",
             [{"input": '"x"\n"y"', "output": '"xy"'}, {"input": "1\n1", "output": "3"}],
             "add", (0, 0.5)),
        ],
    )  # fmt: skip
    def test_decide(self, scorer, code, tests, entry_point, expected):
        assert grade(scorer, code, tests, entry_point) == expected

    @pytest.mark.parametrize(
        ("tests", "entry_point"),
        [
            ("def test_a():\n    assert f(1) == 2\ntest_a()", None),
            ("if __name__ == '__main__':\n    assert f(1) == 2", None),
            ("for n, t in [('x', lambda: f(1))]:\n    assert t() == 2", None),
            (
                "def test_a(): assert f(1) == 2\n"
                "for n, t in list(globals().items()):\n    if n.startswith('test_'): t()",
                None,
            ),
            (
                "class T:\n    def test_a(self): self.same(f(1), 2)\n"
                "    def same(self, a, b): assert a == b\nT().test_a()",
                None,
            ),
            ("def check(candidate):\n    assert candidate(1) == 2\ncheck(f)", None),
            ("def check(candidate):\n    assert candidate(1) == 2\ncheck(f)", "f"),
            ("def check(candidate):\n    assert candidate(1) == 2\ncheck(candidate)", "f"),
            ("def check(c):\n    helper(c)\ndef helper(c):\n    assert c(1) == 2", "f"),
            ("import math\nassert math.isclose(f(1), 2)", "f"),
            ("assert math.isclose(f(1), 2)", None),
            ("def setup():\n    global y\n    y = 2\nsetup()\nassert f(1) == y", None),
            ("assert f(1) == 2 == g(1)", ["f", "g"]),
        ],
    )
    def test_in_all_forms_that_reach_them(self, scorer, tests, entry_point):
        assert grade(scorer, "def f(x): return 2 * x\ng = f", tests, entry_point) == (1, 1)

    def test_by_the_thousand(self):
        scorer = Code(sandbox=working_sandbox(), time_limit=20)
        tests = "".join(f"assert f({n}) == {n}\n" for n in range(5000))
        assert grade(scorer, "def f(n): return n", tests) == (1, 1)
        tests = "".join(f"assert f({n}) == {n}\n" for n in range(1000))
        assert grade(scorer, "def f(n): return n - n % 2", tests) == (0, 0.5)

    def test_as_deep_as_python_takes_them(self, scorer):
        for depth in (300, 900):
            tests = f"assert f({'1 + ' * depth} 1) == {depth + 1}"
            assert grade(scorer, "def f(n): return n", tests) == (1, 1)

    def test_a_hang_fails_what_comes_after(self):
        scorer = Code(sandbox=working_sandbox(), time_limit=0.3)
        code = "def f(n):\n    while n: pass\n    return 0"
        assert grade(scorer, code, "assert f(0) == 0\nassert f(1) == 0\n") == (0, 0.33)


# What an answer may try, to pass `assert f(1) == SECRET` with a number that it cannot know.
SECRET = 7919
CHEATS = {
    "equal to all": "class All:\n    def __eq__(s, o): return True\n"
    "    def __ne__(s, o): return False\n    __hash__ = None\ndef f(x): return All()",
    "equal to all, a number": "class All(int):\n    def __eq__(s, o): return True\n"
    "    __hash__ = int.__hash__\ndef f(x): return All(1)",
    "equal to all, a text": "class All(str):\n    def __eq__(s, o): return True\n"
    "    __hash__ = str.__hash__\ndef f(x): return All('x')",
    "exit": "import sys\ndef f(x): sys.exit(0)",
    "exit at once": "import os\nos._exit(0)",
    "exit in a call": "import os\ndef f(x): os._exit(0)",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\nf = lambda x: 1 / 0",
    "hide AssertionError": "import builtins\nbuiltins.AssertionError = KeyError\nf = lambda x: 0",
    "patch built-ins": "import builtins\nbuiltins.bool = lambda x: True\n"
    "builtins.print = builtins.exec = lambda *a: None\nf = lambda x: 0",
    "patch the machinery": "import sys, json\nfor m in list(sys.modules.values()):\n"
    "    for n in ('encode', 'decode'):\n        if 'code_' in m.__name__ and hasattr(m, n):\n"
    "            setattr(m, n, lambda *a: {'handle': 0})\nf = lambda x: 0",
    "print a verdict": "import sys\nfor out in (sys.stdout, sys.stderr):\n"
    "    print('2 2 0 1', file=out, flush=True)\nf = lambda x: 0",
    "write everywhere": "import os\ndef f(x):\n    for fd in range(64):\n"
    "        try: os.write(fd, b'2 2 0 1\\n')\n        except OSError: pass\n"
    "    os._exit(0)",
    "forge replies": "import os\ndef f(x):\n    for fd in range(3, 64):\n"
    "        for v in (b'true', b'{\"handle\": 0}'):\n"
    "            try: os.write(fd, b'{\"value\": ' + v + b'}\\n')\n"
    "            except OSError: pass\n    return 0",
    "forge junk": "import os\ndef f(x):\n    for fd in range(3, 64):\n"
    "        try: os.write(fd, b'{\"value\": {\"fraction\": [\"1\", \"0\"]}}\\n')\n"
    "        except OSError: pass",
    "search the frames": "import sys\ndef f(x):\n    frame, found = sys._getframe(), []\n"
    "    while frame:\n        found += [v for v in (*frame.f_locals.values(),"
    " *frame.f_globals.values(), *frame.f_code.co_consts) if isinstance(v, int) and v > 5000]\n"
    "        frame = frame.f_back\n    return found[0]",
    "search memory": "import gc, re\ndef f(x):\n    gc.collect()\n"
    "    texts = [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]\n"
    "    words = [w for t in texts for w in (t.values() if isinstance(t, dict) else t)\n"
    "             if isinstance(w, str) and 'assert' in w and 'def main' not in w]\n"
    "    return int(re.search(r'== (\\d{4})', ' '.join(words))[1])",
    "search the arguments": "import sys\n"
    "def f(x): return int(str(sys.orig_argv).split('== ')[1][:4])",
    "search files": "import glob\ndef f(x):\n"
    "    return int([open(p).read() for p in glob.glob('/tmp/**', recursive=True)][0])",
    "shadow the tests' helper": "def close(a, b): return True\nclass math:\n"
    "    isclose = staticmethod(lambda *a: True)\nf = lambda x: 0",
    "recurse": "def f(x): return f(x)",
    "endless value": "def f(x):\n    x = []\n    x.append(x)\n    return x",
    "huge value": "def f(x): return ['x' * 1000] * 10**7",
    "a raised lie": "def f(x): raise SystemExit(0)",
    "an error that lies": "class E(Exception):\n    def __str__(s): raise s\ndef f(x): raise E",
}  # fmt: skip


class TestCheats:
    @pytest.mark.parametrize("name", CHEATS)
    def test_in_asserts(self, scorer, name):
        tests = (
            "def close(a, b):\n    return math.isclose(a, b)\n"
            f"result = f(1)\nassert result == {SECRET}\nassert close(result, {SECRET})\n"
        )
        slow = Code(sandbox=scorer.params.sandbox, time_limit=0.5)
        assert grade(slow if name == "huge value" else scorer, CHEATS[name], tests)[0] == 0
        assert grade(scorer, f"def f(x): return {SECRET}", tests) == (1, 1)

    @pytest.mark.parametrize(
        "code",
        [
            "import os; os._exit(0)",
            "import sys\nfor v in vars(sys).values():\n    print(v)",
            "import os\nfor fd in range(64):\n"
            "    try: os.write(fd, b'ok')\n    except OSError: pass",
            "print(open('/proc/self/cmdline').read())",
            "import __main__; print(vars(__main__))",
        ],
    )
    def test_in_programs_that_print(self, scorer, code):
        assert grade(scorer, code, [{"input": "1", "output": str(SECRET)}]) == (0, 0)

    def test_the_answers_side_never_holds_the_tests(self, scorer):
        """Its whole memory is searched: text, numbers, and how the tests are written."""
        code = (
            "import ctypes\ndef f(x):\n    import gc\n"
            "    word = ''.join(['SEC', 'RET_WORD'])\n"
            "    kinds = (str, dict, list, tuple)\n"
            "    return any(word in str(o) for o in gc.get_objects() if isinstance(o, kinds))"
        )
        tests = "# SECRET_WORD\nassert f(1) == False\nassert f('x') != 'SECRET_WORD'"
        assert grade(scorer, code, tests) == (1, 1)

    @pytest.mark.parametrize(
        ("code", "tests", "entry_point"),
        [
            ("x = 1", "for x in []:\n    assert f(x)", None),
            ("def f(x): return 5", "if f(1) == 2:\n    assert f(2) == 4", None),
            ("def f(x): return []", "for x in f(1):\n    assert x == 3", "f"),
            ("class Solution:\n    f = None", "def check(c):\n    assert c(1) == 2",
             "Solution().f"),
            ("class Solution: pass", "def check(c):\n    assert c(1) == 2", "f"),
            ("x = 1", "assert 1 == 1\nif len([1]) == 2:\n    f(1)", None),
            ("def f(x): raise StopIteration", "assert all(map(f, [1]))\nassert 1", None),
            ("import os\ndef f(x): os._exit(0)",
             "assert 1 == len([1])\ntry: f(1)\nexcept: pass", None),
            ("class math:\n    isclose = staticmethod(lambda *a: True)\ndef f(x): return 5",
             "assert math.isclose(f(1), 2)", None),
            ("def isclose(*a): return True\ndef f(x): return 5",
             "from math import isclose\nassert isclose(f(1), 2)", None),
            ("def _lists(x): return 2\ndef f(x): return 5", [{"input": "1", "output": "2"}], "f"),
            ("def check(c): pass\ndef f(x): return 5", "def check(c): assert c(1) == 2", "f"),
        ],
    )  # fmt: skip
    def test_where_nothing_was_shown_nothing_is_right(self, scorer, code, tests, entry_point):
        assert grade(scorer, code, tests, entry_point)[0] == 0

    def test_an_answers_names_do_not_replace_the_tests_own(self):
        tests = "import os\ny = 1\ndef g(a): return [a + z for _ in b]\nassert f(math.pi, y, len)"
        assert free_names(tests) == {"f", "math", "z", "b"}


class TestItems:
    @pytest.mark.parametrize(
        ("tests", "entry_point", "message"),
        [
            (None, None, '"tests" must hold tests'),
            ([], None, '"tests" must hold tests'),
            ("  ", None, '"tests" must hold tests'),
            ([{"input": "1"}], None, '"tests" must hold tests'),
            ([{"input": 1, "output": "1"}], None, '"tests" must hold tests'),
            ("x = 1", None, "has no assert"),
            ("assert True", None, "has no assert"),
            ("assert f(", None, "is not Python"),
            ("assert f(1)", "f g", "\"entry_point\" is 'f g'"),
            ([{"input": "x", "output": "1"}], "f", '"tests" 1: with an entry_point'),
            ("assert f(1)", [], r'"entry_point" is \[\]'),
            ("assert f(1)", ["f", "g()"], r'"entry_point" is .*or a list of names'),
            ("assert f(1)", 5, '"entry_point" is 5'),
            ("assert (f(1) == 2, 'two')", None, "has no assert;"),
            ("try: f()\nexcept ValueError: pass\nelse: assert False", None, "that can hold"),
            ("def check(candidate):\n    assert candidate(1)", None, "defines check and never"),
            ("def check(c):\n    assert c(1)\n    check(c)", None, "defines check and never"),
            ("def test_a(): assert f(1) == 2", None, "in test_a, which nothing calls"),
            ("assert f(1)\ndef test_b(): assert f(2)", None, "in test_b, which nothing calls"),
            ("class T:\n    def test_a(self): assert f(1)", None, "in T, which nothing calls"),
            ("def a(): b()\ndef b(): assert f(1)\nf(2)", None, "in b, which nothing calls"),
            ("def a(): assert f(1)\ndef b(): assert f(1)\nf(2)", None, "in a, which nothing"),
            ("def check(c): assert c(1)\ndef test_a(): assert f(1)", "f", "in test_a, which"),
            ("assert candidate(1) == 2", None, 'uses candidate, and there is no "entry_point"'),
            ("assert np.allclose(f(1), 2)", None, 'uses f, np, all undefined; name in "entry_'),
            ("assert isclose(f(1), 2)", None, "uses f, isclose, all undefined"),
            ("assert np.allclose(f(1), 2)", "f", "uses np, which is neither defined there nor in"),
            ("def check(c):\n    assert poly(c(1)) == 0", "find_zero", "uses poly, which is"),
            ("assert 1 + 1 == 2", None, "uses nothing of the answer"),
            ("assert abs(-1) == 1", "f", "uses nothing of the answer"),
            ("def f(x): return x\nassert f(1) == 1", "f", "uses nothing of the answer"),
            ("import numpy as np\nassert np.sum(f(1)) == 2", "f", "imports numpy, and the sand"),
            ("def check(c):\n    from solution import f\n    assert f(1)", "f", "imports solution"),
            ("from . import f\nassert f(1)", None, r"imports \., and the sandbox"),
            ("from math import *\nassert gcd(1, 2) == 1", "gcd", r"imports \* from math"),
        ],
    )
    def test_without_tests_are_refused(self, scorer, tests, entry_point, message):
        with pytest.raises(ScorerError, match=message) as caught:
            scorer.check_item(item(tests, entry_point))
        assert "\n" not in str(caught.value)

    def test_tests_may_be_json_text_as_in_livecodebench(self, scorer):
        assert grade(scorer, "print(input())", '[{"input": "1", "output": "1"}]') == (1, 1)

    def test_tests_may_have_another_key(self):
        scorer = Code(sandbox="landlock", tests="test_list")
        question = Item("i", (), "", {}, "d", {"test_list": ["assert f(1)"]})
        scorer.check_item(question)


class TestUnavailable:
    def test_without_a_sandbox_nothing_is_right_or_wrong(self):
        scorer = Code()
        for action in (
            scorer.check,
            lambda: scorer.score(sample("")),
            lambda: scorer.extras(sample("```python\n1\n```")),
        ):
            with pytest.raises(ScorerError, match=r"no sandbox.*\{code: \{sandbox: landlock\}\}"):
                action()

    def test_a_sandbox_that_fails_gives_no_score(self):
        scorer = Code(sandbox={"http": {"url": "http://127.0.0.1:9/", "tries": 1}})
        with pytest.raises(SandboxError, match="refused"):
            scorer.check()
        case = Sample(item("assert f(1)"), Generation("```\nf = 1\n```", 1, "stop"))
        with pytest.raises(SandboxError, match="refused"):
            scorer.score(case)

    def test_a_wrong_sandbox_is_said_at_once(self):
        with pytest.raises(ScorerError, match="did you mean 'landlock'"):
            Code(sandbox="landlok")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```", "a\n"),
        ("```\na\n```", "a\n"),
        ("```py\na\n```\n```python3\nb\n```", "b\n"),
        ("```python\na\n```\nprints\n```\n3\n```", "a\n"),
        ("```python\na\n```\n```text\n3\n```", "a\n"),
        ("```cpp\na\n```", None),
        ("```python\na", None),
        ("a", None),
        ("", None),
        ("1. so\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b\n"),
        ("~~~python\n```\na\n~~~", "```\na\n"),
        ("````python\n```\na\n````", "```\na\n"),
        ("```inline``` and ```python\n", None),
        ("``` python title='x'\na\n```  ", "a\n"),
        ("```" * 5000, None),
    ],
)
def test_last_block(text, code):
    assert last_block(text) == code


def test_events_need_the_word():
    assert read_events("w 2 0 0 0\nw 2 2 0 1", "w") == (2, 2)
    assert read_events("x 1 1 0 1", "w") == (0, 1)
    assert read_events("w 2 0 0 0\nw 2 1 0 0", "w") == (1, 3)
    assert read_events("w 2 1 1 1\nnoise", "w") == (1, 2)
    assert read_events("w 3 1 0 1", "w") == (3, 3)  # two had no occasion
    assert read_events("w 2 0 0 1", "w") == (0, 2)
    assert read_events("", "w") == (0, 1)


def test_large_tests_are_not_kept(scorer):
    """LiveCodeBench's hold megabytes, and each was the key of a result."""
    tests = [{"input": "x" * 3_000_000, "output": "3000000"}]
    assert grade(scorer, "print(len(input()))", tests) == (1, 1)
    assert max(map(len, code_scorer._results)) <= 32


@pytest.mark.parametrize(
    "value",
    [0, -(10**400), True, None, 1.5, float("inf"), "ก\ud800", b"\0", [1, (2,)], {(1, 2): {3}}, 1j,
     frozenset("a"), range(1, 9, 2), bytearray(b"x")],
)  # fmt: skip
def test_plain_values_travel(value):
    def never(_):
        raise AssertionError

    again = decode(encode(value, never), never)
    assert again == value
    assert type(again) is type(value)
