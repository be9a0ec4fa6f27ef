"""What one actor rank does beside learning, and what it must leave alone."""

import copy
from dataclasses import replace

import pytest
import torch
from training_case import TAUGHT, TEMPERATURE, VOCAB, make_actor, make_config, part, save_tiny, teacher_of, weights_of
from transformers import AutoModelForCausalLM

from verl.checkpoint import CheckpointError
from verl.config.forwards import ForwardLimits
from verl.protocol import MiniBatch, Row, count_totals, plan_mini_batch
from verl.weights import SharedReader, digest


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("actor"), is_tied=True)


@pytest.fixture
def plain(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def untaught(rows):
    return [replace(row, teacher_prompt_ids=[]) for row in rows]


def one_batch(rows):
    (batch,) = plan_mini_batch(rows, 1, teacher_limits=ForwardLimits())
    return batch


def snapshot(worker):
    """Weights, teacher and optimizer state, copied."""
    return copy.deepcopy((weights_of(worker), teacher_of(worker), worker.learner.optimizer.state_dict()))


def is_equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(is_equal, a, b))
    return a == b


def test_update_without_target_changes_nothing(path):
    worker = make_actor(make_config(path))
    worker.update_policy([part(TAUGHT, worker, 2)])  # so that there is momentum to be applied by mistake
    before = snapshot(worker)
    metrics = worker.update_policy([one_batch(untaught(TAUGHT)), one_batch([])])
    assert is_equal(snapshot(worker), before)
    assert metrics["self_distillation/empty_target_batch"] == (2.0, 2.0)
    assert "actor/grad_norm" not in metrics


def test_entropy_bonus_uses_rows_without_target(path):
    config = make_config(path)
    worker = make_actor(replace(config, actor=replace(config.actor, entropy_coeff=0.1)))
    before = weights_of(worker)
    worker.update_policy([one_batch(untaught(TAUGHT))])
    assert not is_equal(weights_of(worker), before)


def test_non_finite_gradient_is_skipped_and_counted(path):
    worker = make_actor(make_config(path, grpo_lambda=0.5, teacher_update_rate=1.0))
    rows = [replace(row, advantages=[float("inf")] * len(row.response_ids)) for row in TAUGHT]
    before = snapshot(worker)
    metrics = worker.update_policy([one_batch(rows)])
    assert is_equal(snapshot(worker), before)
    assert metrics["actor/skipped_steps"] == (1.0, 1.0)
    assert metrics["self_distillation/teacher_updates"] == (0.0, 1.0)


def test_frozen_teacher_stays_and_the_distance_grows(path):
    worker = make_actor(make_config(path, teacher_update_rate=0.0))
    start = teacher_of(worker)
    distances = [worker.update_policy([one_batch(TAUGHT)])["self_distillation/teacher_distance"][0] for _ in range(2)]
    assert is_equal(teacher_of(worker), start)
    gap = sum((weights_of(worker)[name] - value).square().sum() for name, value in start.items()).sqrt()
    assert 0 < distances[0] < distances[1] == pytest.approx(gap.item(), rel=1e-5)


def test_log_probs_equal_transformers(path, plain):
    worker = make_actor(make_config(path))
    found = worker.compute_log_probs(MiniBatch([TAUGHT[:3], TAUGHT[3:], []], count_totals(TAUGHT)), "actor")
    assert found.keys() == {0, 1, 2, 3, 4}
    for row in TAUGHT:
        logits = plain(torch.tensor([row.prompt_ids + row.response_ids])).logits[0, len(row.prompt_ids) - 1 : -1]
        expected = (logits / TEMPERATURE).log_softmax(-1).gather(-1, torch.tensor(row.response_ids)[:, None])[:, 0]
        assert found[row.index] == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_seed_reaches_what_is_random_in_the_model(path):
    first, again, other = (
        teacher_of(make_actor(make_config(path, model={"lora_rank": 2}), seed=seed)) for seed in (1, 1, 2)
    )
    assert is_equal(first, again) and not is_equal(first, other)


def test_entropies_and_log_probs_come_from_one_forward(path, plain):
    worker = make_actor(make_config(path, loss_mode="vanilla"))
    found = worker.compute_entropies(MiniBatch([TAUGHT[:3], TAUGHT[3:], []], count_totals(TAUGHT)))
    log_probs = worker.compute_log_probs(one_batch(TAUGHT), "actor")
    for row in TAUGHT:
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        logits = plain(ids).logits[0, len(row.prompt_ids) - 1 : -1] / TEMPERATURE
        assert found[row.index][0] == pytest.approx(log_probs[row.index], abs=1e-5)
        entropies = torch.distributions.Categorical(logits=logits).entropy().tolist()
        assert found[row.index][1] == pytest.approx(entropies, abs=1e-5)


def test_padding_changes_nothing(path):
    worker = make_actor(make_config(path))
    long = Row([1] * 40, [2] * 50, [1] * 50, index=9)
    alone, beside = (worker.compute_log_probs(one_batch(rows), "actor")[0] for rows in (TAUGHT[:1], [TAUGHT[0], long]))
    assert beside == pytest.approx(alone, abs=1e-5)


def test_asking_for_a_reference_that_is_not_there(path):
    config = make_config(path, loss_mode="vanilla")
    worker = make_actor(replace(config, actor=replace(config.actor, use_kl_loss=False)))
    with pytest.raises(ValueError, match="no reference"):
        worker.compute_log_probs(one_batch(TAUGHT), "ref")


def test_the_frozen_model_stands_still_beside_a_teacher_that_moves(path, plain):
    def log_probs(row):
        logits = plain(torch.tensor([row.prompt_ids + row.response_ids])).logits[0, len(row.prompt_ids) - 1 : -1]
        chosen = (logits / TEMPERATURE).log_softmax(-1).gather(-1, torch.tensor(row.response_ids)[:, None])
        return chosen[:, 0].tolist()

    for rate, model in ((0.5, {}), (0.0, {}), (0.5, {"lora_rank": 2})):
        worker = make_actor(make_config(path, model=model, teacher_update_rate=rate, kl_anchor_coef=0.1))
        assert (worker._reference is worker._ref) == (rate == 0.0)  # no third copy where the second will do
        found = worker.compute_log_probs(one_batch(TAUGHT), "ref")
        for row in TAUGHT:
            assert found[row.index] == pytest.approx(log_probs(row), abs=1e-5)
        held = [replace(row, ref_log_probs=found[row.index]) for row in TAUGHT]
        metrics = [worker.update_policy([one_batch(held)]) for _ in range(2)]
        first, second = (m["self_distillation/kl_anchor"][0] for m in metrics)
        assert first == pytest.approx(0.0, abs=1e-5) and second > 1e-3
        assert worker.compute_log_probs(one_batch(TAUGHT), "ref") == found
        assert worker.compute_log_probs(one_batch(TAUGHT), "actor") != found


def test_teacher_match_finds_the_teachers_greedy_response(path, plain):
    worker = make_actor(make_config(path))
    prompt, greedy = [5, 6, 7], []
    for _ in range(3):
        greedy.append(plain(torch.tensor([prompt + greedy])).logits[0, -1].argmax().item())
    right = Row([1], greedy, [1, 1, 1], teacher_prompt_ids=prompt, index=4)
    wrong = replace(right, response_ids=[*greedy[:2], (greedy[2] + 1) % VOCAB], index=7)
    masked = replace(wrong, response_mask=[1, 1, 0], index=8)
    found = worker.teacher_match(one_batch([right, TAUGHT[1], wrong, masked]))
    assert {index: is_match for index, (is_match, _) in found.items()} == {4: True, 7: False, 8: True}
    log_probs = (plain(torch.tensor([prompt + greedy])).logits[0, 2:-1] / TEMPERATURE).log_softmax(-1)
    assert found[4][1] == pytest.approx(log_probs.max(dim=-1).values.mean().item(), abs=1e-5)


class Inbox:
    ranks = (0,)

    def __init__(self):
        self.buckets = []

    def send_each(self, payload, ranks=None, timeout=None):
        self.buckets.append(copy.deepcopy(SharedReader().open(payload)))
        return {0: frozenset()}


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_published_weights_compute_what_the_trainer_computes(path, plain, lora_rank):
    worker = make_actor(make_config(path, model={"lora_rank": lora_rank}, teacher_update_rate=0.5))
    worker.update_policy([part(TAUGHT, worker, 2)] * 2)
    inbox = Inbox()
    sent = worker.publish_weights(3, inbox, bucket_bytes=2000)
    digests = sent.digests
    assert not sent.failures and digests == [digest(bucket) for bucket in inbox.buckets] and len(digests) > 3
    pairs = [pair for bucket in inbox.buckets for pair in zip(bucket.names, bucket.tensors, strict=True)]
    weights = dict(pairs)
    names = dict(plain.named_parameters(remove_duplicate=False)).keys()  # the tied head under both
    assert weights.keys() == names
    before = plain(torch.tensor([[3, 4, 5]])).logits
    plain.load_state_dict(weights)
    log_probs = plain(torch.tensor([[3, 4, 5]])).logits[0].log_softmax(-1)
    assert (plain(torch.tensor([[3, 4, 5]])).logits - before).abs().max() > 1e-3
    assert worker.probe_log_probs([3, 4, 5]) == pytest.approx(
        [log_probs[0, 4].item(), log_probs[1, 5].item()], abs=1e-5
    )


def test_lora_trains_and_saves_adapters_only(path, tmp_path):
    config = make_config(path, model={"lora_rank": 2}, teacher_update_rate=0.5)
    worker = make_actor(config)
    start = weights_of(worker)
    worker.update_policy([one_batch(TAUGHT)])
    changed = {name for name, value in weights_of(worker).items() if not torch.equal(value, start[name])}
    assert len(changed) == 14 and all("_proj" in name for name in changed)  # 7 linear layers in each of 2 blocks
    assert all(".lora_" in name for name in teacher_of(worker))
    worker.save_checkpoint(str(tmp_path))
    resumed = make_actor(config)
    resumed.load_checkpoint(str(tmp_path))
    for actor in (worker, resumed):
        actor.update_policy([one_batch(TAUGHT)])
    assert is_equal(snapshot(resumed)[:2], snapshot(worker)[:2])


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_frozen_teacher_predicts_as_before_while_the_student_learns(path, lora_rank):
    worker = make_actor(make_config(path, model={"lora_rank": lora_rank}, teacher_update_rate=0.0))
    teacher, student = worker.teacher_match(one_batch(TAUGHT)), worker.compute_log_probs(one_batch(TAUGHT), "actor")
    worker.update_policy([part(TAUGHT, worker, 2)] * 2)
    learned = worker.compute_log_probs(one_batch(TAUGHT), "actor")
    assert worker.teacher_match(one_batch(TAUGHT)) == teacher
    assert worker.compute_log_probs(one_batch(TAUGHT), "actor") == learned  # the teacher's turn left no trace
    assert learned[0] != pytest.approx(student[0], abs=1e-3)


def test_lora_teacher_cannot_come_from_another_model(path):
    config = make_config(path, model={"lora_rank": 2})
    with pytest.raises(ValueError, match=r"ref\.model\.path=other"):
        make_actor(replace(config, ref=replace(config.ref, model=replace(config.ref.model, path="other"))))


def test_checkpoint_without_teacher_is_refused_by_a_run_with_one(path, tmp_path):
    make_actor(make_config(path, loss_mode="sft")).save_checkpoint(str(tmp_path))
    with pytest.raises(CheckpointError, match="no teacher"):
        make_actor(make_config(path)).load_checkpoint(str(tmp_path))


def test_calls_before_setup_say_so(path):
    from verl.config.root import AlgorithmConfig, TrainerConfig
    from verl.workers.actor import ActorWorker

    with pytest.raises(RuntimeError, match="setup"):
        ActorWorker(make_config(path), AlgorithmConfig(), TrainerConfig(), 1).probe_log_probs([1, 2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("offload", [False, True])
def test_gpu_trains_like_the_cpu(path, offload):
    if torch.distributed.is_initialized():  # by a test before, for the CPU only
        torch.distributed.destroy_process_group()
    config = make_config(path, teacher_update_rate=0.3, teacher_cpu_offload=offload)
    fsdp = replace(config.actor.fsdp_config, param_offload=offload)
    config = replace(config, actor=replace(config.actor, fsdp_config=fsdp))
    found = []
    for device in ("cpu", "cuda"):
        worker = make_actor(config, device=device)
        worker.update_policy([part(TAUGHT, worker, 2)] * 2)
        found.append(weights_of(worker))
        worker.close()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4)
