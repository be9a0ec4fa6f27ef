"""Scorers: from the text of a response to a score and, where the environment has something to say, feedback.

A scorer is one file with `compute_score(solution_str, ground_truth, extra_info=None)` and one row in `table.py`. It
returns a dictionary with `score`, `acc`, `pred`, `incorrect_format` and `feedback` ("" when there is nothing to say,
always on success) and never raises on what a model wrote. The feedback does not tell the answer, unless `extra_info`
says that it may (`feedback_may_reveal_answer`, the run's policy). Scorers are imported when first used.
"""

from verl.rewards.custom import load_custom
from verl.rewards.result import score_to_reward
from verl.rewards.table import SCORERS, check_ground_truths, check_isolation, check_sources, compute_score
from verl.rewards.verdict import MAY_REVEAL_ANSWER

__all__ = [
    "MAY_REVEAL_ANSWER",
    "SCORERS",
    "check_ground_truths",
    "check_isolation",
    "check_sources",
    "compute_score",
    "load_custom",
    "score_to_reward",
]
