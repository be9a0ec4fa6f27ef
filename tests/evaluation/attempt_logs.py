"""Small logs of attempts."""

from verl.evaluation.attempt_writer import AttemptWriter
from verl.evaluation.attempts import Attempt, Header, read_attempts


def attempt(number, solved=False, question="q_01", seed=0, **extras):
    return Attempt(question, seed, number, float(solved), solved, 1000.0 + number, extras)


def write_log(path, method, outcomes, stops_when_solved=True):
    """`outcomes`: (question, seed) -> a string with 1 for each right attempt and 0 for each wrong one."""
    with AttemptWriter(path, Header(method, path.stem, {}, stops_when_solved)) as log:
        for (question, seed), marks in outcomes.items():
            log.append([attempt(i, mark == "1", question, seed) for i, mark in enumerate(marks, start=1)])
    return read_attempts(path)
