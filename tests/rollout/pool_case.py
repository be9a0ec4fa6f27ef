"""Requests to a pool, and a sync of it without a trainer."""

from verl.config.rollout import WeightSyncConfig
from verl.types import Request, Sampling
from verl.weights import buckets, digest, probe_token_ids

PROBE = probe_token_ids(96, WeightSyncConfig().probe_tokens, 128)


def send(pool, weights, version=1, damage=lambda bucket: bucket):
    """What the trainer's rank 0 does; `damage` changes a bucket after its digest was taken."""
    receiver, sent = pool.receiver, []
    pool.begin_sync(version)
    for bucket in buckets(weights, bucket_bytes=50_000):
        sent.append(digest(bucket))
        receiver.send_all(damage(bucket))
    return pool.finish_sync(sent)


def requests(num, n=1, max_tokens=5):
    return [Request(i, [3 + i // n, 5, 7], Sampling(max_tokens=max_tokens), seed=i) for i in range(num)]
