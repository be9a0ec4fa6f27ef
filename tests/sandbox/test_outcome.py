"""Judging what came back: everything a program can write may be forged."""

import json

import pytest

from verl.sandbox.job import Ending, ErrorReport, Job, Limits, outcome

LIMITS = Limits(wall_seconds=1.0, output_bytes=100)
DONE = Ending(0, None, 0.5)


def judged(mode, report, ending=DONE, stdout=b""):
    lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in report]
    return outcome(Job("", mode, LIMITS, function="f"), ending, stdout, b"\n".join(lines), token="secret")


@pytest.mark.parametrize("token", ["", "Secret", None, 1, ["secret"], {"token": "secret"}])
def test_only_the_token_ends_tests(token):
    assert judged("code", [{"token": token}]).status == "error"
    assert judged("code", [{"token": "secret"}]).status == "ok"
    assert judged("code", [{"token": "secret"}], Ending(1, None, 0.5)).status == "error"
    assert judged("code", [{"token": "secret"}], Ending(0, "time", 0.5)).status == "timeout"


@pytest.mark.parametrize(
    "junk",
    [
        b"[" * 100_000,
        b'{"value": ' + b"[" * 100_000,
        b'{"value": ' + b"9" * 5000 + b"}",
        b"\xff\xfe\x00",
        b"null",
        b'{"error": null}',
        b'{"error": {"type": [], "message": {}, "frames": 1}}',
        b'{"debug": [[[]]]}',
        b"\n" * 5000,
    ],
)
def test_junk_is_passed_over(junk):
    told = judged("functional", [{"value": 1}, junk])
    assert (told.status, told.value, told.debug) == ("ok", 1, [])


def test_frames_that_are_none_are_left_out():
    frames = [[1, "f"], [float("inf"), "g"], "ab", [True, "h"], [2, "i"], [3, "j"], [4, "k"]]
    told = judged("stdin", [{"error": {"type": "E", "message": "m", "frames": frames}}])
    assert told.error == ErrorReport("E", "m", [(2, "i"), (3, "j"), (4, "k")])


def test_half_characters_are_replaced():
    told = judged("functional", [b'{"debug": "\xed\xa0\x80"}', b'{"value": "\\ud83d\\ude00\\udfff"}'], stdout=b"\xff")
    for text in (*told.debug, told.value, told.stdout):
        text.encode()
    assert told.value == "😀?"


def test_only_so_many_records_are_read():
    told = judged("functional", [*[{"debug": "x"}] * 5000, {"value": 1}])
    assert (told.status, len(told.debug)) == ("error", 1000)


def test_values_count_only_after_a_good_end():
    assert judged("functional", [{"value": 1}], Ending(-9, None, 0.1)).value is None
    assert judged("functional", [{"value": 1}], Ending(-9, None, 0.1)).error == ErrorReport(
        "Killed", "ended by SIGKILL"
    )
    assert judged("functional", [{"value": 1}], Ending(-9, "memory", 0.1)).status == "limit"
    assert judged("functional", []).status == "error"
