"""How new weights travel from the trainer to the engines, and how it is known that they arrived.

Three guards, from cheap to certain: every bucket is hashed on both sides (`buckets`); an engine serves nothing until a
load has ended (`stream`); and trainer and engine must give the same log-probs to a fixed sequence (`verify`), which is
the only guard that sees what the engine made of the tensors.
"""

from verl.weights.broadcast import Announcement, Elsewhere, Invitation, Member
from verl.weights.buckets import Bucket, buckets, digest
from verl.weights.shared_memory import SharedBucket, SharedReader, SharedSlots
from verl.weights.stream import WeightStream
from verl.weights.verify import WeightSyncError, compare_digests, compare_log_probs, gap_threshold, probe_token_ids

__all__ = [
    "Announcement",
    "Bucket",
    "Elsewhere",
    "Invitation",
    "Member",
    "SharedBucket",
    "SharedReader",
    "SharedSlots",
    "WeightStream",
    "WeightSyncError",
    "buckets",
    "compare_digests",
    "compare_log_probs",
    "digest",
    "gap_threshold",
    "probe_token_ids",
]
