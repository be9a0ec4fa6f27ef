"""What programs find inside, in the three modes, and what is told of how they ended."""

import pytest
from sandbox_case import limits, run_together

from verl.sandbox import ErrorReport, Job

SQUARE = "class Solution:\n    def square(self, x: int) -> int:\n        return x * x\n"
STDIN_PROGRAMS = {
    "input and print": "a, b = map(int, input().split())\nprint(a + b)",
    "bytes": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "file 0": "print(sum(map(int, open(0).read().split())))",
    "device": "print(sum(map(int, open('/dev/stdin').readline().split())))",
    "lines": "import sys\nfor line in sys.stdin: print(sum(map(int, line.split())))",
    "os.read and os.write": "import os\nos.write(1, str(sum(map(int, os.read(0, 99).split()))).encode())",
    "main guard": "def main(): print(sum(map(int, input().split())))\nif __name__ == '__main__': main()",
    "super": """
class A:
    def f(self): return 1
class B(A):
    def f(self): return super().f() + 2
print(B().f())
""",
    "divmod, bin, type": "print(divmod(7, 2)[0] if bin(3) == '0b11' and type(1) is int else 0)",
    "exceptions": "try:\n    raise KeyError('x')\nexcept KeyError:\n    print(3)\nfinally:\n    pass",
    "typing without import": "def f(x: List[int], y: Optional[Dict[str, int]] = None): return x[0]\nprint(f([3]))",
    "exit()": "print(3)\nexit()",
    "sys.exit(0)": "import sys\nprint(3)\nsys.exit(0)",
    "os._exit after a flush": "import os\nprint(3, flush=True)\nos._exit(0)",
    "copy, abc, enum, bisect": "import copy, abc, enum, bisect\nprint(copy.deepcopy([3])[bisect.bisect([1], 0)])",
    "numpy": "import numpy as np\nprint(int(np.array([1, 2]).sum()))",
    "sortedcontainers": "from sortedcontainers import SortedList\nprint(SortedList([3, 4])[0])",
    "threads": """
import threading
out = []
t = threading.Thread(target=lambda: out.append(3))
t.start()
t.join()
print(out[0])
""",
    "thread that prints after the end": """
import threading, time
def late():
    time.sleep(0.1)
    print(3)
threading.Thread(target=late).start()
""",
    "thread with a large stack": """
import sys, threading
sys.setrecursionlimit(10**6)
threading.stack_size(1 << 26)
def f(n): return 0 if n == 0 else f(n - 1)
t = threading.Thread(target=lambda: print(f(50_000) + 3))
t.start()
t.join()
""",
    "recursion through a cache": """
import sys, functools
sys.setrecursionlimit(10**6)
@functools.cache
def f(n): return 3 if n == 0 else f(n - 1)
print(f(20_000))
""",
    "processes": "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print(sum(p.map(int, '12')))",
    "a process of its own": """
import subprocess, sys
print(subprocess.run([sys.executable, '-c', 'import numpy; print(3)'], capture_output=True, text=True).stdout)
""",
    "asyncio": "import asyncio\nasync def f(): await asyncio.sleep(0)\nasyncio.run(f())\nprint(3)",
    "files": "open('x', 'w').write('3')\nprint(open('/tmp/x').read())\nimport tempfile\ntempfile.mkdtemp()",
    "dataclass and pickle": """
import pickle, dataclasses
@dataclasses.dataclass
class P:
    x: int
print(pickle.loads(pickle.dumps(P(3))).x)
""",
    "its own source": """
import inspect
def f(): return 3
assert 'return 3' in inspect.getsource(f)
print(f())
""",
    "exit functions": "import atexit\natexit.register(lambda: print(3))",
    "much memory": "x = bytearray(100 << 20)\nprint(3)",
}


@pytest.mark.parametrize("name", STDIN_PROGRAMS)
def test_honest_programs_run(sandbox, name):
    outcome = sandbox.run(Job(STDIN_PROGRAMS[name], "stdin", limits(), stdin="1 2\n"))
    assert (outcome.status, outcome.stdout.strip(), outcome.error) == ("ok", "3", None)


@pytest.mark.parametrize(
    ("source", "arguments", "value"),
    [
        (SQUARE, [3], 9),
        ("def square(x): return x * x", {"x": 3}, 9),
        ("square = lambda x: (x, [x])", [1], [1, [1]]),
        ("def square(x): return x", ["two  words, \\ and 'quotes'\n\0é😀"], "two  words, \\ and 'quotes'\n\0é😀"),
        ("import numpy as np\ndef square(x): return np.array(x) ** 2", [[1, 2]], [1, 4]),
        ("from collections import deque\ndef square(x): return deque(x)", [[1, 2]], [1, 2]),
        ("def square(x): return {1: x}", [None], {"1": None}),
        ("import sys\ndef square(x): return x\nif __name__ == '__main__': input()\nsys.exit()", [1.5], 1.5),
        ("def square(x):\n    print('seen', end='')\n    return x", [[]], []),
    ],
)
def test_functions_are_called(sandbox, source, arguments, value):
    outcome = sandbox.run(Job(source, "functional", limits(), function="square", arguments=arguments))
    assert (outcome.status, outcome.value, outcome.error) == ("ok", value, None)
    assert type(outcome.value) is type(value)


def test_test_code_decides(sandbox):
    def status(source, tests):
        return sandbox.run(Job(source, "code", limits(), test_code=tests)).status

    assert status("def f(x): return x", "assert f(1) == 1\ndef check(f): assert f('a') == 'a'\ncheck(f)") == "ok"
    assert status("def f(x): return x", "assert f(1) == 2") == "error"
    assert status("def f(x): return x\nif __name__ == '__main__': input()", "assert f(1) == 1") == "ok"
    assert status("f = 1", "import unittest\nraise SystemExit(0)") == "error"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("x = 1\n\ny = x / 0", ErrorReport("ZeroDivisionError", "division by zero", [(3, "<module>")])),
        ("x = (1", ErrorReport("SyntaxError", "'(' was never closed (Solution.py, line 1)", [(1, "<module>")])),
        ("import sys\nsys.exit(3)", ErrorReport("SystemExit", "exit status 3", [(2, "<module>")])),
        ("import sys\nsys.exit('no')", ErrorReport("SystemExit", "no", [(2, "<module>")])),
        ("import os\nos._exit(4)", ErrorReport("SystemExit", "exit status 4")),
        (
            "def f(n):\n    return 1 // n if n == 0 else f(n - 1)\nf(5)",
            ErrorReport("ZeroDivisionError", "integer division or modulo by zero", [(2, "f")] * 3),
        ),
        (
            "import json\njson.loads('')",
            ErrorReport("JSONDecodeError", "Expecting value: line 1 column 1 (char 0)", [(2, "<module>")]),
        ),
        ("class E(Exception):\n    def __str__(self): raise E()\nraise E()", ErrorReport("E", "", [(3, "<module>")])),
        ("raise ValueError('\\ud800')", ErrorReport("ValueError", "?", [(1, "<module>")])),
        ("import ctypes\nctypes.string_at(0)", ErrorReport("Killed", "ended by SIGSEGV")),
    ],
)
def test_errors_are_told(sandbox, source, error):
    outcome = sandbox.run(Job(source, "stdin", limits()))
    assert (outcome.status, outcome.error) == ("error", error)


def test_missing_function_and_missing_value(sandbox):
    def error(source):
        outcome = sandbox.run(Job(source, "functional", limits(), function="f", arguments=[]))
        return outcome.status, outcome.error.type, outcome.error.message

    assert error("g = 1") == ("error", "NameError", "function 'f' is not defined")
    assert error("import os\ndef f(): os._exit(0)") == ("error", "SystemExit", "the program ended before f returned")
    assert error("import sys\ndef f(): sys.exit()") == ("error", "SystemExit", "exit status 0")
    assert error("def f(): return {1}") == ("error", "TypeError", "a value of type set has no JSON form")


def test_output_before_an_error_and_debug_texts_are_kept(sandbox):
    outcome = sandbox.run(Job("print('a')\ndebug_print('x', 1, sep='-')\ndebug_print()\n1 / 0", "stdin", limits()))
    assert (outcome.stdout, outcome.debug, outcome.error.type) == ("a\n", ["x-1", ""], "ZeroDivisionError")


def test_time_out_keeps_what_was_said(sandbox):
    outcome = sandbox.run(Job("debug_print('here')\nprint(1, flush=True)\nwhile True: pass", "stdin", limits(0.3)))
    assert (outcome.status, outcome.stdout, outcome.debug) == ("timeout", "1\n", ["here"])
    assert outcome.wall_seconds >= 0.3


def test_processor_time_is_limited_apart(sandbox):
    busy = sandbox.run(Job("while True: pass", "stdin", limits(20.0, cpu=0.2)))
    idle = sandbox.run(Job("import time\ntime.sleep(0.5)", "stdin", limits(20.0, cpu=0.2)))
    assert (busy.status, idle.status) == ("timeout", "ok")
    assert busy.wall_seconds < 10


def test_large_input_and_output_pass(sandbox):
    text = "x" * 900_000
    assert sandbox.run(Job("print(input())", "stdin", limits(), stdin=text)).stdout == text + "\n"


def test_hashes_are_the_same_every_time(sandbox):
    job = Job("print(hash('a'))", "stdin", limits())
    assert len({outcome.stdout for outcome in run_together(sandbox, [job] * 6)}) == 1


def test_more_threads_than_workers_get_each_its_own_outcome(sandbox):
    outcomes = run_together(sandbox, [Job(f"print({n})", "stdin", limits()) for n in range(12)], 4)
    assert [int(outcome.stdout) for outcome in outcomes] == list(range(12))


def test_processes_and_threads_are_counted(sandbox):
    source = "import os, time\nn = 1\ntry:\n    while os.fork(): n += 1\n    time.sleep(9)\nexcept OSError: print(n)"
    assert sandbox.run(Job(source, "stdin", limits())).stdout == "16\n"
    source = (
        "import threading\nn, stop = 1, threading.Event()\ntry:\n    while True:\n"
        "        threading.Thread(target=stop.wait).start()\n        n += 1\n"
        "except RuntimeError: print(n)\nstop.set()"
    )
    assert sandbox.run(Job(source, "stdin", limits())).stdout == "16\n"
