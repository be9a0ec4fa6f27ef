"""Data files and rows that cannot be used: exit status 1 before any worker starts, naming file, row and column.

The tools that make the files (`data/`) have tables of their own in tests/data.
"""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doors import arguments, begin, check, start, write_rows

USER = {"role": "user", "content": "light on"}


def row(**changes):
    values = {
        "data_source": "home_api",
        "prompt": [USER],
        "reward_model": {"ground_truth": "light.on()"},
        "extra_info": {"index": 1},
    } | changes
    return {column: value for column, value in values.items() if value is not ...}


GOOD = [row()] * 4
LONG = row(prompt=[{"role": "user", "content": "light on " * 200}])


def first(**changes):
    """A file whose first row is changed."""
    return [row(**changes), *GOOD]


def all_rows(**changes):
    return [row(**changes)] * 4


def says(role, content):
    return {"prompt": [{"role": role, "content": content}]}


def whole():
    sink = pa.BufferOutputStream()
    rows = [row(prompt=[{"role": "user", "content": f"{number} " * 50}]) for number in range(400)]
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def damaged():
    content = bytearray(whole())
    content[20:2000] = b"\xff" * 1980
    return bytes(content)


def column_twice():
    table = pa.Table.from_pylist(GOOD)
    return table.append_column("prompt", table["prompt"])


def not_utf8():
    buffers = pa.array([b"\xff\xfe"] * 4, type=pa.binary()).buffers()
    texts = pa.Array.from_buffers(pa.string(), 4, buffers)
    return pa.Table.from_pylist(GOOD).drop(["data_source"]).append_column("data_source", texts)


def no_rows():
    return pa.Table.from_pylist(GOOD).slice(0, 0)


FIRST = "train.parquet, row 0 (the first is 0), column"
MESSAGES = "expected a list of messages, each with a role and a content (both text)"
ROWS = {
    "not parquet": (b"hello", "train.parquet: is not a parquet file"),
    "empty file": (b"", "train.parquet: is not a parquet file"),
    "cut off": (whole()[:9000], "train.parquet: is not a parquet file"),
    "damaged inside": (damaged(), "train.parquet: after row 0, the file is damaged", "Make it anew"),
    "no rows": (no_rows(), "train.parquet: the file has no rows"),
    "fewer rows than a step": (GOOD[:3], "hold 3 usable prompts, fewer than data.train_batch_size=4"),
    "column missing": (all_rows(prompt=...), "lacks column prompt; it has data_source, reward_model, extra_info"),
    "column twice": (column_twice(), "has the column prompt more than once"),
    "prompt is text": (all_rows(prompt="hi"), f"{FIRST} 'prompt': found 'hi', {MESSAGES}"),
    "prompt is a message": (all_rows(prompt=USER), f"{FIRST} 'prompt': found {{'role'", MESSAGES),
    "prompt is empty": (first(prompt=[]), f"{FIRST} 'prompt': found [], {MESSAGES}"),
    "prompt holds null": (first(prompt=[None]), f"{FIRST} 'prompt': found None, {MESSAGES}"),
    "prompt is nested": (all_rows(**says({"a": [1]}, {"b": 2})), "found {'role': {'a': [1]}", MESSAGES),
    "message without role": (all_rows(prompt=[{"content": "x"}]), "found {'content': 'x'}", MESSAGES),
    "message without content": (first(**says("user", None)), "found None"),
    "content is blank": (all_rows(**says("user", " \n")), "expected the last message to hold text"),
    "content is multi-modal": (
        all_rows(prompt=[{"role": "user", "content": [{"type": "image"}]}]),
        "found [{'type': 'image'}]",
        "images, audio and video are not supported",
    ),
    "images beside the prompt": (
        all_rows(images=[{"bytes": b"12"}]),
        "column 'images': images, audio and video are not",
    ),
    "unknown role": (first(**says("usr", "x")), "found 'usr', expected a role, one of user", "did you mean 'user'?"),
    "no user turn": (
        first(**says("system", "x")),
        "found 'system', expected the last message to be one that is answer",
    ),
    "ends with an answer": (first(prompt=[USER, {"role": "assistant", "content": "x"}]), "found 'assistant'"),
    "extra_info is text": (all_rows(extra_info='{"a": 1}'), f"{FIRST} 'extra_info'", "expected a struct or null"),
    "reward_model is null": (first(reward_model=None), "expected a struct with ground_truth"),
    "reward_model without truth": (all_rows(reward_model={"style": "rule"}), "expected a struct with ground_truth"),
    "truth is null": (first(reward_model={"ground_truth": None}), "prompt 0 of data_source 'home_api' ('light on')"),
    "truth is nan": (all_rows(reward_model={"ground_truth": float("nan")}), "its ground_truth is nan"),
    "data_source is unknown": (first(data_source="home_ap"), "'home_ap' is not a known", "Did you mean 'home_api'?"),
    "data_source is null": (first(data_source=None), f"{FIRST} 'data_source': found None, expected a text"),
    "data_source is a number": (all_rows(data_source=5), "found 5, expected a text"),
    "data_source is not UTF-8": (not_utf8(), "after row 0, a text is not UTF-8"),
    "one prompt too long": (
        [*GOOD, LONG],
        "1 of 5 prompts are longer",
        "row 4",
        "data.truncation=left, right or middle",
    ),
}
OVERLONG = "data.filter_overlong_prompts=true"
SETTINGS = {
    "all prompts filtered": ([LONG] * 4, [OVERLONG], "4 of 4 prompts of", "the shortest has", "Raise the limit"),
    "too many prompts filtered": (
        [LONG, *GOOD[:3]],
        [OVERLONG],
        "hold 3 usable prompts",
        "raise data.max_prompt_length",
    ),
    "other prompt column": (GOOD, ["data.prompt_key=question"], "lacks column question; it has data_source, prompt"),
}


@pytest.mark.parametrize("name", ROWS)
def test_data_that_cannot_be_used_end_the_start(tmp_path, name):
    content, *words = ROWS[name]
    write_rows(tmp_path / "train.parquet", content)
    check(begin(tmp_path), 1, words)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_leave_no_data_end_the_start(tmp_path, name):
    rows, settings, *words = SETTINGS[name]
    write_rows(tmp_path / "train.parquet", rows)
    check(begin(tmp_path, *settings), 1, words)


def test_validation_without_rows_ends_the_start(tmp_path):
    write_rows(tmp_path / "train.parquet", GOOD)
    write_rows(tmp_path / "val.parquet", no_rows())
    check(begin(tmp_path, f"data.val_files={tmp_path}/val.parquet"), 1, ["val.parquet: the file has no rows"])


OWN_CLASS = {
    "raises": ("def Mine(*args):\n    raise OSError('no table')\n", "fails: line 2: OSError: no table"),
    "takes nothing": ("class Mine: ...\n", "fails: TypeError: Mine() takes no arguments"),
    "is a number": ("def Mine(*args): return 5\n", "gives a int; wanted is a sequence of verl.types.Prompt"),
    "holds texts": ("def Mine(*args): return ['x']\n", "item 0 of Mine is a str, not a"),
    "is empty": ("def Mine(*args): return []\n", "hold 0 usable prompts"),
}


@pytest.mark.parametrize("name", OWN_CLASS)
def test_a_data_set_class_that_fails_ends_the_start(tmp_path, name):
    code, *words = OWN_CLASS[name]
    write_rows(tmp_path / "train.parquet", GOOD)
    (tmp_path / "own.py").write_text(code)
    check(begin(tmp_path, f"data.custom_cls.path={tmp_path}/own.py", "data.custom_cls.name=Mine"), 1, words)


def test_an_argument_that_the_chat_template_never_names_is_told(tmp_path, caplog):
    write_rows(tmp_path / "train.parquet", GOOD)
    assert begin(tmp_path, "data.apply_chat_template_kwargs.enable_thinkin=False")[0] == 0
    assert "enable_thinkin has no effect: the chat template of" in caplog.text


PAIR = {"prompt": "hi", "response": "yo"}
SUPERVISED = {
    "no rows": (pa.table({"prompt": ["x"], "response": ["x"]}).slice(0, 0), "train.parquet: the file has no rows"),
    "column missing": ([{"prompt": "hi"}] * 4, "lacks column response; it has prompt"),
    "response is null": ([PAIR | {"response": None}, PAIR], f"{FIRST} 'response': found None, expected a text"),
    "prompt is a number": ([PAIR | {"prompt": 5}] * 4, f"{FIRST} 'prompt': found 5"),
    "longer than the limit": ([PAIR | {"response": "yo " * 999}] * 4, "data.max_length=64", "leave the row out"),
    "fewer rows than a step": ([PAIR], "data.train_batch_size=4: must be between 1 and the number of rows, 1"),
}


@pytest.mark.parametrize("name", SUPERVISED)
def test_rows_of_fine_tuning_that_cannot_be_used_end_the_start(tmp_path, name):
    from verl.trainer import main_sft, sft_trainer

    content, *words = SUPERVISED[name]
    write_rows(tmp_path / "train.parquet", content)
    model = next(argument.partition("=")[2] for argument in arguments(tmp_path) if ".model.path=" in argument)
    settings = [f"model.path={model}", f"data.train_files={tmp_path}/train.parquet", "data.train_batch_size=4"]
    settings += ["data.max_length=64", "trainer.n_gpus_per_node=1", f"trainer.default_local_dir={tmp_path}/run"]
    check(start(settings, sft_trainer.train, main_sft.DOOR), 1, words)
    assert not (tmp_path / "run").exists()
