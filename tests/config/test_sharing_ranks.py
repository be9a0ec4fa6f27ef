"""Fine-tuning's keys of how ranks share weights and forwards: checked, and passed on."""

from verl.config import SFTConfig, build
from verl.config.checks import sft_problems
from verl.config.forwards import update_limits

RANKS = {"n_gpus_per_node": 6}
GIVEN = {"model": {"path": "recipes/embedded/model"}, "data": {"train_files": ["x"], "train_batch_size": 3}}


def test_rules_of_fine_tuning():
    values = {"trainer": RANKS, "ulysses_sequence_parallel_size": 3, "fsdp_config": {"fsdp_size": 4}}
    heads, ranks = sft_problems(build(SFTConfig, GIVEN | values))[::-1]
    assert heads.startswith("ulysses_sequence_parallel_size=3: must divide the 4 attention heads")
    assert ranks.startswith("fsdp_config.fsdp_size=4: must divide the 6 ranks") and ranks.endswith("1, 2, 3, 6")


def test_rows_of_fine_tuning_are_counted_against_groups_of_ranks():
    problems = sft_problems(build(SFTConfig, GIVEN | {"trainer": RANKS}))
    assert any("fewer rows than the 6 ranks" in problem for problem in problems)
    assert sft_problems(build(SFTConfig, GIVEN | {"trainer": RANKS, "ulysses_sequence_parallel_size": 2})) == []


def test_fine_tuning_passes_the_key_on():
    from verl.trainer.sft_trainer import worker_config

    roles = worker_config(build(SFTConfig, {"ulysses_sequence_parallel_size": 2}))
    assert update_limits(roles).num_ranks == 2


def test_a_dry_run_says_how_ranks_share(one):
    from verl.trainer.plan_placement import ranks_text

    actor = "actor_rollout_ref.actor"
    shared = one("sdpo", f"{actor}.fsdp_config.fsdp_size=2", f"{actor}.ulysses_sequence_parallel_size=4")
    assert ranks_text(shared, 4) == "; 2 copies of the weights, each in 2 shard(s); 4 ranks run a forward together"
    assert ranks_text(one("sdpo"), 4) == ""
