"""Finding the program in a response."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.rewards.code import extract_code


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("```python\nprint(1)\n```", "print(1)"),
        ("```\nprint(1)\n```", "print(1)"),
        ("```c++\nx\n```", "x"),
        ('```python title="a b"\nx = 1\n```', "x = 1"),
        ("so:```py\nx\n```done", "x"),
        ("````\nx\n```\ny\n````", "x\n```\ny"),
        ("a\n```python\nshort\n```\nb\n```python\nmuch longer\n```\n", "much longer"),
        ("```\nab\n```\n```\ncd\n```", "ab"),
        ("```python\r\nx\r\ny\r\n```\r\n", "x\ny"),
        ("1. Do\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y"),
        ('```python\ns = """\n    ```quoted\n"""\nprint("```")\n```', '"""\nprint("```")'),
        ('```python\nprint("a```b```")\n```', 'print("a```b```")'),
        ("```python\nprint(1)```", "print(1)"),
        ("```python\nforgotten\n```python\nx\n```", "x"),
        ("```python\n\n\nx = 1\n```", "\n\nx = 1"),
        ("no code here", None),
        ("```python\nprint(1)", None),
        ("`" * 100_000 + "!", None),
        ("`" * 100_000 + "!\n" * 1000, None),
        ("```python\n \n```", None),
        ("`print(1)`", None),
        ("", None),
    ],
)
def test_by_hand(response, code):
    assert extract_code(response) == code


@given(st.lists(st.sampled_from(["```", "````", "```python", "\n", " ", "x", "`"])).map("".join))
def test_it_never_raises_and_finds_no_empty_program(response):
    code = extract_code(response)
    assert code is None or code.strip()
