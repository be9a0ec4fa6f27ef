"""The scorer of programming tasks, on real programs in the real sandbox."""

import json
from pathlib import Path

import pytest

from verl.rewards import code as scorer
from verl.rewards import compute_score

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "code_feedback.json").read_text())


def task(testtype, *pairs, fn_name="", time_limit=2):
    inputs, outputs = zip(*pairs, strict=True)
    values = {"inputs": inputs, "outputs": outputs, "testtype": testtype, "fn_name": fn_name, "time_limit": time_limit}
    return json.dumps(values)


def grade(code, tests, **options):
    return scorer.compute_score(f"Here it is.\n```python\n{code}\n```\n", tests, **options)


@pytest.mark.parametrize("name", FIXTURE["cases"])
def test_the_given_cases(name):
    case = FIXTURE["cases"][name]
    info = {"split": "test", "truncated": False}
    assert compute_score("code", case["solution"], json.dumps(case["tests"]), info) == case["result"]


SUM = task("stdin", ("1 2\n", "3"), ("30 4\n", "34"))

RIGHT_PROGRAMS = {
    "super": """
class A:
    def __init__(self): self.total = sum(map(int, input().split()))
class B(A):
    def __init__(self): super().__init__()
print(B().total)""",
    "divmod": "a, b = map(int, input().split())\nq, r = divmod(a + b, 10)\nprint(q * 10 + r)",
    "bin": "a, b = map(int, input().split())\nprint(int(bin(a + b), 2))",
    "type": "a, b = map(int, input().split())\nassert type(a) is int\nprint(type(a)(a + b))",
    "exceptions": """
a, b = map(int, input().split())
try:
    raise KeyError(a + b)
except KeyError as error:
    print(error.args[0])
finally:
    pass""",
    "sys.exit": "import sys\na, b = map(int, input().split())\nprint(a + b)\nsys.exit()\nprint('never')",
    "exit": "print(sum(map(int, input().split())))\nexit(0)",
    "copy": "import copy\nxs = copy.deepcopy(list(map(int, input().split())))\nprint(sum(xs))",
    "threads": """
import threading
found = []
t = threading.Thread(target=lambda: found.append(sum(map(int, input().split()))))
t.start()
t.join()
print(found[0])""",
    "deep recursion": """
import sys, threading
sys.setrecursionlimit(10**6)
threading.stack_size(64 * 1024 * 1024)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
def main(): print(sum(map(int, input().split())) + depth(5000) - 5000)
t = threading.Thread(target=main)
t.start()
t.join()""",
    "main guard": "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
    "typing names": "def f(xs: List[int]) -> Optional[int]:\n    return sum(xs)\nprint(f(map(int, input().split())))",
    "stdin as a file": "import sys\ndata = sys.stdin.read().split()\nprint(int(data[0]) + int(data[1]), end=' \\n\\n')",
    "buffers": "import sys\ns = sys.stdin.buffer.readline().split()\nsys.stdout.buffer.write(b'%d' % sum(map(int, s)))",
    "open(0)": "print(sum(int(x) for x in open(0).read().split()))",
    "standard library": """
import abc, enum, bisect, heapq, collections, itertools, functools, math, re, string, random, dataclasses, decimal
a, b = map(int, input().split())
print(functools.reduce(lambda x, y: x + y, [a, b]))""",
    "eval and globals": "exec('x = 1')\na, b = eval(input().replace(' ', ','))\nprint(a + b + x - 1)",
    "stderr": "import sys\nprint('noise', file=sys.stderr)\nprint(sum(map(int, input().split())))",
}


@pytest.mark.parametrize("name", RIGHT_PROGRAMS)
def test_right_programs_are_right(name):
    result = grade(RIGHT_PROGRAMS[name], SUM)
    assert (result["score"], result["pred"], result["feedback"]) == (1.0, "['3', '34']", "")


@pytest.mark.parametrize(
    ("code", "pairs"),
    [
        ("def f(a, b): return a + b", [("1\n2", "3"), ("[1]\n[2]", "[1,2]"), ('"a b"\n" c"', '"a b c"')]),
        ("class Solution:\n    def f(self, xs: List[int]) -> int:\n        return max(xs)", [("[1, 3,  2]", "3")]),
        ("def f(*, a, b=1): return a - b", [({"a": 3, "b": 2}, "1"), ({"a": 3}, "2")]),
        ("def f(x): return x / 3", [("1", "0.3333333333333333"), ("3", "1")]),
        ("def f(x): return (x, {x: None})", [("2", '[2, {"2": null}]')]),
        ("f = lambda x: not x", [("true", "false")]),
        ("def f(): return 1", [("", "1")]),
        ("def f(x):\n    print('noise')\n    return x", [('"ä\\u0000"', '"ä\\u0000"')]),
    ],
)
def test_right_functions_are_right(code, pairs):
    result = grade(code, task("functional", *pairs, fn_name="f"))
    assert (result["score"], result["feedback"]) == (1.0, "")


@pytest.mark.parametrize(
    ("code", "pred"),
    [
        ("print(input())", "['1 2', '30 4']"),
        ("pass", "['', '']"),
        ("import sys\nprint(4)\nsys.exit(0)", "['4', '4']"),
    ],
)
def test_wrong_answers_are_wrong(code, pred):
    result = grade(code, SUM)
    assert (result["score"], result["pred"], result["error_in_test_cases"]) == (0.0, pred, 0)
    assert result["feedback"].startswith("Test Case 1: Wrong Answer\n\nInput\n1 2\n\nOutput\n")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import sys\nprint(sum(map(int, input().split())))\nsys.exit(1)", "SystemExit: "),
        ("print(sum(map(int, input().split())))\nraise KeyError('k')", "KeyError: 'k'"),
        ("def f(:", "SyntaxError: "),
        ("f()", "NameError: name 'f' is not defined"),
        ("input()\ninput()", "EOFError: "),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_errors_are_told(code, error):
    result = grade(code, SUM)
    assert (result["score"], result["acc"], result["error_in_test_cases"]) == (0.0, 0.0, 1)
    assert result["feedback"].startswith(f"Runtime Error\n{error}")
    assert result["feedback"].endswith("\n\nLast Executed Input\n1 2")


def test_an_error_names_the_programs_own_lines():
    code = """def inner(x):
    return 1 // x

def solve():
    n = int(input())
    return inner(n)

print(solve())"""
    result = grade(code, task("stdin", ("1\n", "1"), ("0\n", "0")))
    lines = result["feedback"].split("\n")
    assert lines[0] == "Runtime Error" and lines[1].startswith("ZeroDivisionError: ")
    assert lines[2:] == [
        "Line 8 in <module> (Solution.py)",
        "Line 6 in solve (Solution.py)",
        "Line 2 in inner (Solution.py)",
        "",
        "Last Executed Input",
        "0",
    ]
    assert (result["score"], result["acc"], result["error_in_test_cases"]) == (0.5, 0.5, 1)


def test_debug_output_reaches_the_feedback_and_not_the_answer():
    code = "n = int(input())\ndebug_print('n is', n)\nprint(n if n == 1 else 0)"
    result = grade(code, task("stdin", ("1", "1"), ("2", "2")))
    assert result["feedback"].endswith("Output\n0\n\nExpected\n2\n\nDebug Output\nn is 2")


def test_sparse_or_partial_credit():
    code, half = "print(3)", {"acc": 0.5}
    for options, score in [
        ({}, 0.5),
        ({"sparse_rewards": True}, 0.0),
        ({"extra_info": {"split": "test"}}, 0.0),
        ({"extra_info": {"split": "train"}}, 0.5),
        ({"max_test_cases": 1, "sparse_rewards": True}, 1.0),
    ]:
        result = grade(code, SUM, **options)
        assert result["score"] == score and (result["acc"] == half["acc"] or "max_test_cases" in options)
    assert compute_score("livecodebench", f"```\n{code}\n```", SUM)["score"] == 0.0


@pytest.mark.parametrize(
    ("response", "info", "expected"),
    [
        ("", {"truncated": True}, (1, 1, 1, "Truncated Attempt: ")),
        ("```python\nprint(", {"truncated": True}, (1, 1, 1, "Truncated Attempt: ")),
        ("```python\nprint(", {"truncated": False}, (1, 0, 0, "Incorrect Format: ")),
        ("```\nprint(0)\n```\nand", {"truncated": True}, (0, 1, 0, "Test Case 1: Wrong Answer")),
        ("", None, (1, 0, 0, "Incorrect Format: ")),
    ],
)
def test_truncated_responses(response, info, expected):
    found = scorer.compute_score(response, SUM, info)
    keys = ("incorrect_format", "truncated", "truncated_and_missing_answer")
    assert tuple(found[key] for key in keys) == expected[:3]
    assert found["feedback"].startswith(expected[3]) and found["score"] == 0.0


def test_ground_truths_without_tests_say_so():
    for truth, feedback in [
        ("nothing", "Failed to parse ground truth test cases."),
        ('{"inputs": [], "outputs": [], "testtype": "stdin"}', "No test execution information available."),
    ]:
        result = grade("print(1)", truth)
        assert (result["score"], result["acc"], result["pred"], result["feedback"]) == (0.0, 0.0, "[]", feedback)


def test_pred_keeps_the_end_of_long_answers():
    result = grade("print('x' * 6000 + input())", task("stdin", ("1", "1"), ("2", "2")))
    assert len(result["pred"]) == 5000 and result["pred"].endswith("x2']")


def test_answers_that_cannot_be_written_down_do_no_harm():
    tests = task("functional", ("0", "0"), fn_name="f")
    for body in ("'\\ud800'", "[float('nan')]", "{1, 2}", "object()", "10**9999", "f", "lambda: 0"):
        result = grade(f"def f(x): return {body}", tests)
        assert result["score"] == 0.0 and result["feedback"]
        (result["feedback"] + result["pred"]).encode()
    deep = "def f(x):\n    for _ in range(100000): x = [x]\n    return x"
    assert grade(deep, tests)["score"] == 0.0


SOURCES = "code livecodebench humanevalplus mbppplus codeforces code_elo taco primeintellect deepcoder"


@pytest.mark.parametrize("source", SOURCES.split())
def test_data_sources_of_code(source):
    assert compute_score(source, "```\nprint(sum(map(int, input().split())))\n```", SUM)["score"] == 1.0
