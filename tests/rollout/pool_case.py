"""Requests to a pool, and a sync of it without a trainer."""

from tiny_models import true_log_probs, weights_of

from verl.config.rollout import WeightSyncConfig
from verl.single_controller import WorkerError
from verl.types import Request, Sampling
from verl.weights import buckets, digest, probe_token_ids
from verl.workers.send_weights import Sent

PROBE = probe_token_ids(96, WeightSyncConfig().probe_tokens, 128)


def send(pool, weights, version=1, damage=lambda bucket: bucket):
    """What the trainer's rank 0 does; `damage` changes a bucket after its digest was taken. The engines' reports."""
    pool.sync.begin(version)
    receiver, digests, failures = pool.sync.receiver, [], {}
    for bucket in buckets(weights, bucket_bytes=50_000):
        digests.append(digest(bucket))
        left = [rank for rank in receiver.ranks if rank not in failures]
        answers = receiver.send_each(damage(bucket), left, pool.sync.timeout)
        failures |= {rank: answer for rank, answer in answers.items() if isinstance(answer, WorkerError)}
    return pool.sync.finish(Sent(digests, failures), PROBE)


def publish(pool, model, version=1):
    """What the Publisher does, until all engines serve; the largest gap."""
    truth, gaps = true_log_probs(model, PROBE[:1], PROBE[1:]), []
    while not gaps or not pool.sync.is_complete:
        gaps.append(pool.sync.verify(send(pool, weights_of(model), version), truth, 1e-3))
    return max(gaps)


def requests(num, n=1, max_tokens=5):
    return [Request(i, [3 + i // n, 5, 7], Sampling(max_tokens=max_tokens), seed=i) for i in range(num)]


def written(pool, asked):
    """The responses, by request; each must come once."""
    found = [rollout for part in pool.generate(asked) for rollout in part]
    assert sorted(rollout.request_id for rollout in found) == [request.request_id for request in asked]
    return {rollout.request_id: rollout for rollout in found}


def texts(rollouts):
    return {number: (rollout.response_ids, rollout.finish_reason) for number, rollout in rollouts.items()}
