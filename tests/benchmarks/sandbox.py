"""Graded tests per second: the sandbox against one fresh `python` process per test, which isolates nothing.

Both run the same small program on the same inputs, as many at a time as there are cores, in turns, so that other load
on the machine meets both. Prints one JSON object; `ratio` is the sandbox's rate over the other's.

    python tests/benchmarks/sandbox.py --tests 200 --rounds 5
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from verl.config.sandbox import SandboxConfig
from verl.sandbox import Job, Limits, Sandbox

PROGRAM = """from typing import *

def solve(values: List[int]) -> int:
    return sum(v * v for v in values)

print(solve(list(map(int, input().split()))))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=200, help="tests in one round of the sandbox")
    parser.add_argument("--fresh-tests", type=int, default=50, help="tests in one round of fresh processes")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of both, in turns")
    parser.add_argument("--cores", type=int, default=2, help="cores used by both")
    parser.add_argument("--kind", choices=["bubblewrap", "namespaces"], help="default: the first that works")
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    sandbox = Sandbox(SandboxConfig(num_workers=args.cores), *([(args.kind,)] if args.kind else []))
    sandboxed(sandbox, 2 * args.cores)  # starts the workers
    rounds = [(sandboxed(sandbox, args.tests), fresh(args.cores, args.fresh_tests)) for _ in range(args.rounds)]
    result = {
        "isolation": sandbox.kind,
        "cores": len(os.sched_getaffinity(0)),
        "sandboxed_tests_per_second": round(median(ours for ours, _ in rounds), 1),
        "fresh_process_tests_per_second": round(median(theirs for _, theirs in rounds), 1),
        "ratio": round(median(ours / theirs for ours, theirs in rounds), 2),
        "ratios": [round(ours / theirs, 2) for ours, theirs in rounds],
    }
    sandbox.close()
    print(json.dumps(result))
    if args.output:
        args.output.write_text(json.dumps(result) + "\n")


def sandboxed(sandbox, num_tests):
    """Tests per second."""
    jobs = [Job(PROGRAM, "stdin", Limits(wall_seconds=60.0), stdin=f"{n} 2 3") for n in range(num_tests)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(sandbox.num_workers) as threads:
        outcomes = list(threads.map(sandbox.run, jobs))
    seconds = time.perf_counter() - begin
    assert [outcome.stdout for outcome in outcomes] == [f"{n * n + 13}\n" for n in range(num_tests)]
    return num_tests / seconds


def fresh(num_cores, num_tests):
    """Tests per second."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(num_cores) as threads:
        path = Path(folder) / "Solution.py"
        path.write_text(PROGRAM)

        def run(n):
            command = [sys.executable, str(path)]
            return subprocess.run(command, input=f"{n} 2 3", capture_output=True, text=True, timeout=60).stdout

        begin = time.perf_counter()
        outputs = list(threads.map(run, range(num_tests)))
        seconds = time.perf_counter() - begin
    assert outputs == [f"{n * n + 13}\n" for n in range(num_tests)]
    return num_tests / seconds


if __name__ == "__main__":
    main()
