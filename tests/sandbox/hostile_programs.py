"""Reads hostile_programs.txt, which see."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

HIDDEN = "7391-8264-5520"
HONEST = f"print('-'.join({HIDDEN.split('-')!r}))"
ENOUGH = "assert add(2, 2) == 4\nassert add(1, 2) == 3"
MODES = {"function": "functional", "tests": "code"}

STATEMENTS = """
import ctypes, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) < 0: raise OSError(ctypes.get_errno(), name)
for statement in {statements!r}:
    try:
        exec(statement)
        print('ESCAPED', statement)
    except (OSError, ValueError): pass
print('contained')
"""
PROCESSES = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
for pid in {{*range(2, 400), *[int(n) for n in os.listdir('/proc') if n.isdigit()]}} - {{os.getpid()}}:
    try:
{body}
    except OSError: pass
print('contained')
"""


@dataclass(frozen=True)
class Attack:
    source: str
    mode: str
    end: str
    wall: float


def read():
    text = re.sub(r"^-{20,}.*$", "", Path(__file__).with_suffix(".txt").read_text(), flags=re.MULTILINE)
    _, _, *blocks = text.split("\n=== ")  # the first says how to read the others
    return dict(parse(*block.split("\n", 1)) for block in blocks)


def parse(header, body):
    name, kind, end, *wall = header.split(" | ")
    if kind == "statements":
        body = STATEMENTS.format(statements=body.strip().splitlines())
    if kind == "processes":
        body = PROCESSES.format(body=textwrap.indent(body.strip(), " " * 8))
    source = body.strip().replace("@HIDDEN@", repr(HIDDEN.split("-")))
    return name, Attack(source, MODES.get(kind, "stdin"), end, float(*wall or [10.0]))


ATTACKS = read()
