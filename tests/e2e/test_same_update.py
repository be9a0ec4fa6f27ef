"""One SDPO update is the same computation everywhere: Ray with 1 and 2 ranks, each with its rows or both with
all of them, the in-process double, the recipe.

Gradients are read off the weights: AdamW's first step with lr 1, eps 1 and no decay moves a weight by -g / (|g| + 1),
which gives g back.
"""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from whole_runs import ROOT

from recipes.minimal_sdpo import pad, response_logits, sdpo_loss
from verl.config import ActorConfig, ActorRolloutRefConfig, OptimConfig, PolicyLossConfig, SelfDistillationConfig
from verl.config.actor import FSDPConfig, ModelConfig
from verl.config.forwards import ForwardLimits
from verl.config.root import AlgorithmConfig, TrainerConfig
from verl.protocol import Row, mean_metrics, plan_mini_batch
from verl.single_controller import LocalWorkerGroup
from verl.workers.actor import ActorWorker

MODEL = str(ROOT / "recipes/embedded/model")


def rows():
    """Responses of unequal length; every third has no target; old log-probs that the ratio clip acts on."""
    generator = torch.Generator().manual_seed(3)

    def ids(length):
        return torch.randint(300, (length,), generator=generator).tolist()

    made = []
    for index in range(7):
        response = ids(3 + 2 * index)
        teacher = ids(12 + index) if index % 3 != 2 else []
        old = (-17 + 4 * torch.rand(len(response), generator=generator)).tolist()
        mask = [1] * len(response)
        made.append(Row(ids(4 + index), response, mask, old_log_probs=old, teacher_prompt_ids=teacher, index=index))
    return made


@pytest.fixture
def arguments():
    actor = ActorConfig(
        policy_loss=PolicyLossConfig(loss_mode="sdpo"),
        self_distillation=SelfDistillationConfig(distillation_topk=None, teacher_update_rate=0.0),
        optim=OptimConfig(lr=1.0, eps=1.0, weight_decay=0.0),
        grad_clip=1e9,
    )
    config = ActorRolloutRefConfig(model=ModelConfig(path=MODEL), actor=actor)
    return config, AlgorithmConfig(), TrainerConfig(device="cpu", n_gpus_per_node=2), 10


def update(group, micro_batch_size, folder, together=1):
    """Loss and gradients of one update on `rows()`."""
    group.setup()
    limits = (ForwardLimits(size, num_ranks=together) for size in (micro_batch_size, None))
    parts = plan_mini_batch(rows(), group.world_size, *limits)
    metrics = mean_metrics(group.update_policy([[part] for part in parts]))
    group.export_huggingface(str(folder))
    group.shutdown()
    before, after = load_file(f"{MODEL}/model.safetensors"), load_file(folder / "model.safetensors")
    moved = {name: before[name] - after[name] for name in before}
    return metrics["actor/pg_loss"], {name: step / (1 - step.abs()) for name, step in moved.items()}


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    norm = torch.stack([gradient.norm() for gradient in expected[1].values()]).norm()
    assert norm > 0.01  # there is something to compare
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() < 1e-5 * norm, name


def test_recipe_double_and_ray_compute_the_same(arguments, tmp_path, ray_runtime):
    from verl.config.placement import in_order
    from verl.single_controller.ray_group import RayWorkerGroup
    from verl.single_controller.resources import ResourcePool

    local = update(LocalWorkerGroup("actor", ActorWorker, arguments), None, tmp_path / "local")
    assert_same(local, recipe_update())
    pool = ResourcePool([2], has_gpus=False)
    for num_ranks, micro_batch_size in ((1, 2), (2, 1)):
        group = RayWorkerGroup(
            "actor", ActorWorker, arguments, num_ranks=num_ranks, pool=pool, seats=in_order(num_ranks, 2)
        )
        assert_same(update(group, micro_batch_size, tmp_path / f"ray{num_ranks}"), local)
    roles, *others = arguments
    actor = replace(roles.actor, ulysses_sequence_parallel_size=2, fsdp_config=FSDPConfig(fsdp_size=1))
    shared = (replace(roles, actor=actor), *others)
    group = RayWorkerGroup("actor", ActorWorker, shared, num_ranks=2, pool=pool, seats=in_order(2, 2))
    assert_same(update(group, 3, tmp_path / "together", together=2), local)
    pool.release()


def recipe_update():
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    taught = [row for row in rows() if row.teacher_prompt_ids]
    responses = [row.response_ids for row in taught]
    with torch.no_grad():
        teacher = response_logits(model, [row.teacher_prompt_ids for row in taught], responses)
    loss = sdpo_loss(
        response_logits(model, [row.prompt_ids for row in taught], responses),
        teacher,
        response_ids=pad(responses),
        mask=pad([row.response_mask for row in taught]),
        old_log_probs=pad([row.old_log_probs for row in taught], 0.0),
    )
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss.item(), gradients
