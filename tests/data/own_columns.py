"""For every data set a few rows in its own column layout, with right and wrong responses. The contents are made up."""

from __future__ import annotations

import base64
import csv
import json
import pickle
import zlib
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass
class Case:
    """Rows of one set; `right[i]` answers the i-th row that becomes a question."""

    rows: list
    right: list
    wrong: str
    data_source: str
    suffix: str = ".jsonl"
    left_out: list = field(default_factory=list)
    """Rows of the set that are no questions."""


def write_rows(file, rows):
    """A file of the format that its name says."""
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".csv":
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text(json.dumps(rows) if file.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    return file


def program(code):
    return f"I add them.\n```python\n{code}\n```"


ADD = program("a, b = map(int, input().split())\nprint(a + b)")
ADD_FUNCTION = program("def add(a, b):\n    return a + b")
ADD_METHOD = program("class Solution:\n    def add(self, a, b):\n        return a + b")
WRONG = program("print(0)\ndef add(a, b):\n    return 0")
BOXED_7 = "It is \\boxed{7}."
ADDING = "Read two whole numbers and print their sum."


def packed(tests):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def sciknoweval(domain):
    def row(number, kind="mcq-4-choices", level="L3", domain=domain):
        texts = ["one", "two", "three", "four"][: int(kind[4])]
        return {
            "question": f"Which number is {number}?",
            "choices": {"text": texts, "label": list("ABCD"[: len(texts)])},
            "answer": "",
            "answerKey": "B",
            "type": kind,
            "domain": domain,
            "details": {"level": level, "task": "t", "subtask": "s", "source": "x"},
            "prompt": {"default": "Select the right answer."},
        }

    left_out = [row(4, level="L2"), row(5, domain="Geology")]
    answer = "<reasoning>\nplain\n</reasoning>\n<answer>\nB\n</answer>"
    rows = [row(1), row(2, kind="mcq-2-choices"), row(3)]
    return Case(rows, [answer] * 3, answer.replace("B", "A"), "sciknoweval", left_out=left_out)


def lcb(number, when, starter="", hidden=packed):
    kind = "functional" if starter else "stdin"
    given = ["3\n4", "7"] if starter else ["3 4\n", "7\n"]
    more = ["1\n1", "2"] if starter else ["1 1\n", "2\n"]
    return {
        "question_title": "Add",
        "question_content": f"{ADDING}\n\nInput\n\nTwo numbers ({number}).",
        "platform": "leetcode" if starter else "atcoder",
        "question_id": str(number),
        "contest_id": "abc400",
        "contest_date": when,
        "starter_code": starter,
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": given[0], "output": given[1], "testtype": kind}]),
        "private_test_cases": hidden([{"input": more[0], "output": more[1], "testtype": kind}]),
        "metadata": json.dumps({"func_name": "add"} if starter else {}),
    }


SIGNATURE = "class Solution:\n    def add(self, a: int, b: int) -> int:\n        "


def codeforces(number, **other):
    return {
        "id": f"{number}/A",
        "contest_id": str(number),
        "time_limit": 2.0,
        "title": "Sum",
        "description": f"Print the sum of two numbers ({number}).",
        "input_format": "Two numbers.",
        "output_format": "Their sum.",
        "interaction_format": None,
        "note": None,
        "examples": [{"input": "1 2", "output": "3"}],
        "editorial": "Just add them: the secret of the editorial.",
        "rating": 800,
        "official_tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5\n", "output": "10\n"}],
        "official_tests_complete": True,
        "input_mode": "stdio",
        "generated_checker": None,
        "executable": True,
    } | other


def code_elo(number, **other):
    return {
        "problem_id": f"{number}A",
        "title": "Sum",
        "rating": None,
        "tags": ["math"],
        "time_limit_ms": 1500,
        "memory_limit_mb": 256,
        "description": f"Print the sum of two numbers ({number}).",
        "input": "Two numbers.",
        "output": "Their sum.",
        "interaction": "",
        "examples": [["1 2\n", "3\n"], ["5 5\n", "10\n"]],
        "note": "",
    } | other


def taco(number, tests, starter="", limit="2.0 seconds"):
    return {
        "question": f"{ADDING} ({number})",
        "solutions": "[]",
        "starter_code": starter,
        "input_output": json.dumps(tests),
        "difficulty": "EASY",
        "source": "codechef",
        "time_limit": limit,
        "memory_limit": None,
    }


def primeintellect(number, info):
    before = "Solve the following coding problem using the programming language python:\n\n"
    after = (
        "\n\nThe input will be given via stdin and the output printed.\n\nNow solve the problem and return the code."
    )
    return {
        "source": "apps",
        "task_type": "verifiable_code",
        "in_source_id": str(number),
        "prompt": f"{before}{ADDING} ({number}){after}",
        "gold_standard_solution": "",
        "verification_info": info,
        "metadata": "{}",
        "problem_id": f"vfc_{number}",
    }


STDIN_PAIRS = {"inputs": ["1 2\n", "5 5\n"], "outputs": ["3\n", "10\n"]}
FUNCTION_PAIRS = {"inputs": [[1, 2], [5, 5]], "outputs": [[3], [10]], "fn_name": "add"}
STDIN_CASES = [{"type": "stdin_stdout", "input": "1 2\n", "output": "3\n", "fn_name": None}]
FUNCTION_CASES = [{"type": "function_call", "input": [1, 2], "output": 3, "fn_name": "add"}]
LCB_CASES = [{"input": "1\n2", "output": "3", "testtype": "functional", "metadata": {"func_name": "add"}}]
CORPUS_TESTS = json.dumps(STDIN_PAIRS | {"testtype": "stdin", "fn_name": "", "time_limit": 2})
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a: int, b: int) -> int:\n    """Add two whole numbers.\n    >>> add(1, 2)\n    3\n    """\n',
    "canonical_solution": "    return a + b\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(5, 5) == 10\n",
}
MBPP = {
    "task_id": 2,
    "code": "def add(a, b):\n    return a + b",
    "prompt": "Write a function to add two numbers.",
    "source_file": "x.ipynb",
    "test_imports": ["import math"],
    "test_list": ["assert add(1, 2) == 3", "assert add(5, 5) == 10"],
    "test": "for given, expected in [((1, 2), 3), ((5, 5), 10)]:\n    assert math.isclose(add(*given), expected)\n",
}
CALLS = [{"Action": "getFact", "Action_Input": '{"topic": {"name": "owls"}, "limit": 2}'}]
CALLING = "Thought: look\nAction: getFact\nAction Input: " + CALLS[0]["Action_Input"]


def two(row, column):
    """The row, and once more with another question."""
    return [row, row | {column: row[column] + " Once more."}]


def gpqa(number):
    return {
        "Record ID": f"rec{number}",
        "Question": f"What is {number} + 4?",
        "Correct Answer": str(number + 4),
        "Incorrect Answer 1": "0",
        "Incorrect Answer 2": "-1\n",
        "Incorrect Answer 3": "-2",
        "Explanation": "add",
        "Subdomain": "Arithmetic",
        "High-level domain": "Physics",
    }


def mathematics(question, answer, data_source, value="7", suffix=".jsonl", **more):
    rows = two({"id": 1, question: "What is 3 + 4?", answer: value} | more, question)
    return Case(rows, [BOXED_7] * 2, "It is \\boxed{8}.", data_source, suffix)


CASES = {
    "Biology": sciknoweval("Biology"),
    "Chemistry": sciknoweval("Chemistry"),
    "Material": sciknoweval("Materials"),
    "Physics": sciknoweval("Physics"),
    "livecodebench/code_generation_lite-v6": Case(
        [
            lcb(1, "2025-02-01T00:00:00"),
            lcb(2, "2025-04-30T12:00:00", SIGNATURE),
            lcb(3, "2025-03-01", hidden=json.dumps),
        ],
        [ADD, ADD_FUNCTION, ADD],
        WRONG,
        "livecodebench",
        left_out=[lcb(4, "2025-01-31T23:00:00"), lcb(5, "2025-05-01T00:00:00")],
    ),
    "tooluse": Case(
        two({"prompt": "Find facts.", "description": "Find facts.", "idx": 4046, "dataset": "tooluse", "system": None,
             "answer": json.dumps(CALLS), "tests": None, "kind": "tooluse", "elo": 1500}, "prompt"),
        [CALLING] * 2, CALLING.replace("owls", "cats"), "tooluse", ".json",
    ),
    "Idavidrein/gpqa-D": Case([gpqa(1), gpqa(2), gpqa(3)], ["gpqa"] * 3, "\\boxed{Z}", "gpqa", ".csv"),
    "TIGER-Lab/MMLU-Pro": Case(
        two({"question_id": 70, "question": "Which is the seventh?", "options": list("abcdefghi"), "answer": "G",
             "answer_index": 6, "cot_content": "", "category": "law", "src": "x"}, "question"),
        ["So the answer is (G)."] * 2, "So the answer is (A).", "mmlu_pro", ".parquet",
    ),
    "math-ai/math500": mathematics("problem", "answer", "math500", subject="Algebra", level=1, unique_id="a/1.json"),
    "math-ai/aime24": mathematics("problem", "solution", "aime24", value="Thus \\boxed{7}", url="x"),
    "math-ai/aime25": mathematics("problem", "answer", "aime25", suffix=".csv"),
    "math-ai/amc23": mathematics("question", "answer", "amc23", value=7.0, url="x"),
    "openai/gsm8k": Case(
        two({"question": "How much is lost?", "answer": "3 x -400 = <<3*-400=-1200>>-1,200.\n#### -1,200"}, "question"),
        ["\\boxed{-1200}", "\\boxed{-1,200}"], "\\boxed{1200}", "gsm8k", ".parquet",
    ),
    "POLARIS-Project/Polaris-Dataset-53K": mathematics("problem", "answer", "polaris", difficulty="4/8"),
    "zwhe99/DeepMath-103K": mathematics("question", "final_answer", "deepmath", difficulty=5.0, topic="x"),
    "lasgroup/verifiable-corpus": Case(
        [{"kind": "code", "dataset": "taco", "problem": ADDING, "description": "sum", "answer": None,
          "tests": CORPUS_TESTS, "elo": 1500},
         {"kind": "math", "dataset": "dapo_math", "problem": "What is 3 + 4?", "description": None, "answer": "7",
          "tests": None, "elo": None},
         {"kind": "math", "dataset": "some_new_set", "problem": "What is 4 + 3?", "description": "x", "answer": "7",
          "tests": None, "elo": None}],
        [ADD, BOXED_7, BOXED_7], "\\boxed{8}", "taco dapo_math math",
        left_out=[{"kind": "essay", "dataset": "x", "problem": "Write.", "answer": "-", "tests": None}],
    ),
    "open-r1/codeforces": Case(
        [codeforces(1), codeforces(2, rating=None, time_limit=None)], [ADD, ADD], WRONG, "codeforces", ".parquet",
        [codeforces(3, interaction_format="Ask."), codeforces(4, generated_checker="def"),
         codeforces(5, official_tests=[]), codeforces(6, input_mode="file")],
    ),
    "Qwen/CodeElo": Case(
        [code_elo(1), code_elo(2, rating=1200)], [ADD, ADD], WRONG, "code_elo",
        left_out=[code_elo(3, interaction="Ask."), code_elo(4, examples=[])],
    ),
    "evalplus/humanevalplus": Case(two(HUMANEVAL, "prompt"), [ADD_FUNCTION] * 2, WRONG, "humanevalplus", ".parquet"),
    "evalplus/mbppplus": Case(two(MBPP, "prompt"), [ADD_FUNCTION] * 2, WRONG, "mbppplus", ".parquet"),
    "BAAI/TACO": Case(
        [taco(1, STDIN_PAIRS), taco(2, FUNCTION_PAIRS, "class Solution:\n    def add(self, a, b):", None)],
        [ADD, ADD_METHOD], WRONG, "taco", ".parquet",
        [taco(3, {"inputs": [], "outputs": []}), taco(4, STDIN_PAIRS, "def solve(n):"),
         taco(5, STDIN_PAIRS | {"outputs": ["1"]})],
    ),
    "PrimeIntellect/verifiable-coding-problems": Case(
        [primeintellect(1, json.dumps({"language": "python", "test_cases": STDIN_CASES})),
         primeintellect(2, repr({"language": "python", "test_cases": FUNCTION_CASES}))],
        [ADD, ADD_FUNCTION], WRONG, "primeintellect", ".json",
        [primeintellect(3, json.dumps({"language": "cpp", "test_cases": STDIN_CASES}))],
    ),
    "agentica-org/DeepCoder-Preview-Dataset": Case(
        [{"problem": ADDING, "solutions": ["x"], "tests": json.dumps(STDIN_CASES)},
         {"problem": f"{ADDING} Twice.", "solutions": ["x"], "tests": json.dumps(FUNCTION_PAIRS)},
         {"problem": f"{ADDING} Thrice.", "starter_code": SIGNATURE, "tests": json.dumps(LCB_CASES),
          "metadata": {"func_name": "add"}}],
        [ADD, ADD_FUNCTION, ADD_METHOD], WRONG, "deepcoder", left_out=[{"problem": "x", "tests": "[]"}],
    ),
}  # fmt: skip
CODE = [name for name, case in CASES.items() if ADD in case.right or ADD_FUNCTION in case.right]
