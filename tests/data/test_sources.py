"""What single data sets do beside renaming columns: prompts without leaks, limits that are true, safe unpacking."""

import base64
import json
import os
import pickle
import re
import zlib

import pytest
from own_columns import CASES, CODE, SIGNATURE, gpqa, lcb

from data.rows import DataError, Row
from data.schema import parquet_row
from data.sources import SOURCES, livecodebench
from data.sources.code_tests import from_cases, from_pairs

LCB = "livecodebench/code_generation_lite-v6"


def questions(name):
    return [SOURCES.load(name).convert(Row("here", row)) for row in CASES[name].rows]


@pytest.mark.parametrize("name", CODE)
def test_the_prompt_states_the_time_limit_of_the_tests(name):
    for question in questions(name):
        if question.kind == "code":
            (stated,) = re.findall(r"Each test may run for ([\d.]+) seconds?\.", question.prompt)
            assert float(stated) == json.loads(question.tests)["time_limit"]


def test_time_limits():
    limits = {name: [json.loads(q.tests)["time_limit"] for q in questions(name) if q.kind == "code"] for name in CODE}
    assert limits == {
        LCB: [6, 6, 6],
        "lasgroup/verifiable-corpus": [2],
        "open-r1/codeforces": [2, 1],
        "Qwen/CodeElo": [1.5, 1.5],
        "evalplus/humanevalplus": [5, 5],
        "evalplus/mbppplus": [5, 5],
        "BAAI/TACO": [2, 6],
        "PrimeIntellect/verifiable-coding-problems": [6, 6],
        "agentica-org/DeepCoder-Preview-Dataset": [6, 6, 6],
    }


def test_the_problem_holds_neither_editorial_nor_tests():
    for name in ("open-r1/codeforces", "Qwen/CodeElo"):
        first = questions(name)[0]
        assert first.prompt.endswith("(1).\n\nInput\n\nTwo numbers.\n\nOutput\n\nTheir sum.")
    assert questions("open-r1/codeforces")[0].elo == 800
    assert questions("Qwen/CodeElo")[0].elo is None


def test_the_system_message_names_as_many_options_as_there_are():
    four, two, _ = questions("Chemistry")
    assert four.prompt == "Which number is 1?\n\nA: one\nB: two\nC: three\nD: four\nPlease reason step by step."
    assert "four options" in four.system and "(A, B, C or D)" in four.system
    assert "two options" in two.system and "(A or B)" in two.system
    assert all("<reasoning>" in q.system and "<answer>" in q.system for q in (four, two))


def test_the_order_of_gpqa_depends_on_the_question_alone():
    convert = SOURCES.load("Idavidrein/gpqa-D").convert
    alone = [convert(Row("here", gpqa(number))) for number in range(40)]
    again = [convert(Row("there", gpqa(number))) for number in reversed(range(40))]
    assert alone == again[::-1]
    assert {q.answer for q in alone} == set("ABCD")
    assert all(f"{q.answer}: {number + 4}\n" in q.prompt for number, q in enumerate(alone))


def test_the_wrapping_of_primeintellect_is_taken_off():
    for number, question in enumerate(questions("PrimeIntellect/verifiable-coding-problems"), 1):
        assert question.prompt.partition("\n\n")[2] == f"Read two whole numbers and print their sum. ({number})"


def test_layouts_of_functional_tests():
    json_lines = from_pairs(['[1, 2]\n"a b"'], ['"x"'], "f")
    assert (json_lines.inputs, json_lines.outputs) == (['[1, 2]\n"a b"'], ['"x"'])
    values = from_pairs([[[1, 2], "a b"], [[3], "c"]], ["x", "12"], "f")
    assert (values.inputs, values.outputs) == (['[1, 2]\n"a b"', '[3]\n"c"'], ['"x"', '"12"'])
    wrapped = from_pairs([[1], [2]], [[[5]], [[6, 7]]], "f")
    assert wrapped.outputs == ["[5]", "[6, 7]"]
    lists = from_pairs([[1], [2]], [[5], [6, 7]], "f")
    assert lists.outputs == ["[5]", "[6, 7]"]
    keywords = from_cases([Row("here", {"input": {"n": 1}, "output": None, "fn_name": "f"})])
    assert (keywords.inputs, keywords.outputs, keywords.fn_name) == ([{"n": 1}], ["null"], "f")


def test_livecodebench_shows_a_plain_function():
    question = questions(LCB)[1]
    assert question.prompt.endswith("```python\ndef add(self, a: int, b: int) -> int:\n```")
    assert question.description == "Read two whole numbers and print their sum."
    row = parquet_row(Row("here", question.to_json(0, [])), "train")
    assert row["prompt"][0]["content"].endswith("```python\ndef add(a: int, b: int) -> int:\n```")


class Hostile:
    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return os.mkdir, (self.file,)


def as_stored(value):
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def test_hidden_tests_are_unpacked_without_running_them(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    expected = "a JSON list, or base64 of zlib of a pickled JSON text"
    stored = [as_stored(Hostile(mark)), as_stored(b"[]"), as_stored([]), "!!", base64.b64encode(b"x").decode()]
    for text in [*stored, as_stored("[]")[:-8]]:
        with pytest.raises(DataError, match=f"here, column 'private_test_cases': .* expected {expected}"):
            livecodebench._hidden_tests(Row("here", {"private_test_cases": text}))
    assert not mark.exists()
    monkeypatch.setattr(livecodebench, "_MAX_BYTES", 1000)
    with pytest.raises(DataError, match="column 'private_test_cases'"):
        livecodebench._hidden_tests(Row("here", {"private_test_cases": as_stored("[" + " " * 10**6 + "]")}))


def test_livecodebench_reads_dates_that_a_library_parsed():
    from datetime import datetime

    row = lcb(1, datetime(2025, 4, 30, 23, 59), SIGNATURE)
    assert SOURCES.load(LCB).convert(Row("here", row)).dataset == "livecodebench"
