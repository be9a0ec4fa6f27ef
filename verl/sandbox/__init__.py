"""Runs programs written by a model: isolated by the operating system, limited, and quickly.

`Sandbox.run(Job) -> Outcome`. A worker process per core waits with Python loaded, inside walls made once (`isolation`,
`worker`); each attempt is a fork of it with namespaces, scratch folder and limits of its own (`inside`). What is and is
not protected is told in the README, "Security of graded code".
"""

from verl.sandbox.job import ErrorReport, Job, Limits, Outcome
from verl.sandbox.pool import Sandbox, isolation_problem
from verl.sandbox.worker import SandboxError

__all__ = ["ErrorReport", "Job", "Limits", "Outcome", "Sandbox", "SandboxError", "isolation_problem"]
