"""A reward that costs nothing and that every side can compute: a coin which the text of the response throws.

About half of the responses succeed, whatever the policy has learnt, so in a group of 8 nearly every response has a
sibling to show to its teacher, in every step and on every side.
"""

import zlib


def coin(text):
    """0.0 or 1.0."""
    return float(zlib.crc32(text.encode()) & 1)


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    score = coin(solution_str)
    return {"score": score, "acc": score, "feedback": ""}
