"""What is compared lives in processes of its own, which wait between their turns.

A benchmark asks one side after the other for a few steps, round after round, so that whatever else the machine does
meets all of them; models and engines are loaded once. A question is a JSON line on the side's stdin, an answer one on a
pipe of its own, so that what libraries print cannot get into it. Only the standard library is imported: a side may run
in another Python environment.
"""

import json
import os
import subprocess
import sys

ANSWERS = "BENCHMARK_ANSWERS_FD"


class Channel:
    """A side's end."""

    def __init__(self):
        answers = int(os.environ.pop(ANSWERS))
        os.set_inheritable(answers, False)  # processes that the side starts must not keep it open
        self._answers = os.fdopen(answers, "w")

    def receive(self):
        """The next question; None when there will be no more."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def send(self, answer):
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


class Side:
    """The benchmark's end: one process, or several that do the same and answer together.

    Args:
        name: in messages and results.
        commands: of each process.
        log: file for what they print; its end is shown when a process ends unexpectedly.
        envs: further environment variables of each process.
    """

    def __init__(self, name, commands, log, envs=None):
        self.name = name
        self._log = log
        self._processes, self._answers = [], []
        with log.open("w") as file:
            for command, env in zip(commands, envs or [{}] * len(commands), strict=True):
                ours, theirs = os.pipe()
                self._answers.append(os.fdopen(ours))
                self._processes.append(
                    subprocess.Popen(
                        [str(part) for part in command],
                        stdin=subprocess.PIPE,
                        stdout=file,
                        stderr=file,
                        text=True,
                        env={**os.environ, **env, ANSWERS: str(theirs)},
                        pass_fds=(theirs,),
                    )
                )
                os.close(theirs)

    def ask(self, question):
        """Put a question to all processes and wait for the answer."""
        for process in self._processes:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
        return self.answer()

    def answer(self):
        """Wait until all processes have answered; returns the first one's."""
        lines = [answers.readline() for answers in self._answers]
        if not all(lines):
            status = self._processes[lines.index("")].wait()
            tail = self._log.read_text(errors="replace")[-4000:]
            raise RuntimeError(f"side {self.name} ended with status {status}. The end of what it printed:\n{tail}")
        return json.loads(lines[0])

    def close(self):
        """Let the processes end: they do when no more questions come."""
        for process in self._processes:
            process.stdin.close()
        for process, answers in zip(self._processes, self._answers, strict=True):
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            answers.close()
