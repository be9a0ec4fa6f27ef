"""Files of responses: grown prompt by prompt, taken up again after a kill, and written whole."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verl.dataset.parquet import SchemaError
from verl.trainer.response_files import (
    PartialResponses,
    Responses,
    check_columns,
    read_response_rows,
    write_responses,
)
from verl.types import InputError

SETTINGS = {"model": "m", "n": 2, "seed": 1}
ANSWERS = [Responses(2, ["c1", "c2"], ["stop", "length"]), Responses(0, ["a1 ⏎\n", "a2"], ["stop", "stop"])]


def write_input(path, names):
    rows = [{"prompt": [{"role": "user", "content": name}], "data_source": "s", "level": len(name)} for name in names]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_rows_of_several_files_get_their_responses(tmp_path, suffix):
    files = [write_input(tmp_path / "1.parquet", ["a", "bb"]), write_input(tmp_path / "2.parquet", ["ccc"])]
    output = tmp_path / f"out.{suffix}"
    write_responses(output, files, ANSWERS)
    rows = [row.values for row in read_response_rows([str(output)], ["level", "responses", "finish_reasons"], [])]
    assert [(row["level"], row["responses"], row["finish_reasons"]) for row in rows] == [
        (3, ["c1", "c2"], ["stop", "length"]),
        (1, ["a1 ⏎\n", "a2"], ["stop", "stop"]),
    ]
    text = output.read_text() if suffix == "jsonl" else json.dumps(pq.read_table(output).to_pylist())
    assert '{"role": "user", "content": "ccc"}' in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.parquet", "2.parquet", output.name]


def test_a_killed_writer_keeps_whole_prompts(tmp_path):
    output = tmp_path / "out.parquet"
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from test_response_files import ANSWERS, SETTINGS\n"
        "from verl.trainer.response_files import PartialResponses\n"
        "partial = PartialResponses(Path(sys.argv[1]), SETTINGS)\n"
        "[partial.add(answer) for answer in ANSWERS]\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(output)], cwd=Path(__file__).parent).returncode == -9
    with (tmp_path / "out.parquet.partial").open("a") as file:
        file.write('{"row": 1, "responses": ["b')
    with PartialResponses(output, SETTINGS) as partial:
        assert partial.done == {2: ANSWERS[0], 0: ANSWERS[1]}
        partial.add(Responses(1, ["b1", "b2"], ["stop", "stop"]))
    with PartialResponses(output, SETTINGS) as partial:
        assert sorted(partial.done) == [0, 1, 2]


def test_other_settings_are_refused(tmp_path):
    with PartialResponses(tmp_path / "o.jsonl", SETTINGS):
        pass
    with pytest.raises(InputError, match=r"drawn otherwise \(n: 2, now 4; seed: 1, now 3\)"):
        PartialResponses(tmp_path / "o.jsonl", SETTINGS | {"n": 4, "seed": 3})


@pytest.mark.parametrize("text", ["{}x\n", '{}\n{"row": 1}\n', "{}\n3\n"])
def test_a_damaged_file_is_told(tmp_path, text):
    (tmp_path / "o.jsonl.partial").write_text(text)
    with pytest.raises(InputError, match="is damaged"):
        PartialResponses(tmp_path / "o.jsonl", SETTINGS)


def test_a_file_of_responses_is_no_file_of_prompts(tmp_path):
    file = write_input(tmp_path / "1.parquet", ["a", "b", "c"])
    check_columns([file])
    write_responses(tmp_path / "2.parquet", [file], ANSWERS)
    with pytest.raises(InputError, match="has a column finish_reasons, responses already"):
        check_columns([str(tmp_path / "2.parquet")])


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "row 1 .*is not JSON"), ('{"a": 1}', "row 1 .*lacks responses"), ("3", "it is no object")],
)
def test_broken_lines_are_named(tmp_path, line, message):
    (tmp_path / "x.jsonl").write_text('{"responses": ["r"]}\n' + line + "\n")
    with pytest.raises(SchemaError, match=message):
        list(read_response_rows([str(tmp_path / "x.jsonl")], ["responses"], []))
