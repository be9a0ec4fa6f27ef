"""Who is where, against tables written by hand; and what an impossible request is answered."""

import pytest

from verl.config import RolloutConfig
from verl.config.placement import Machine, Seat, place
from verl.config.root import ActorRolloutRefConfig, TrainerConfig
from verl.trainer.plan_placement import node_lines, placement_lines, problems_here
from verl.types import InputError


def plan(nodes, gpus, own=(0, None), size=1, machines=None, on_gpu=True, **rollout):
    """`own`: machines and GPUs of the engines; `machines`: GPUs of each that there is."""
    roles = ActorRolloutRefConfig(
        rollout=RolloutConfig(nnodes=own[0], n_gpus_per_node=own[1], tensor_model_parallel_size=size, **rollout),
        hybrid_engine=not own[0],
    )
    there = machines and [Machine(f"m{index}", count) for index, count in enumerate(machines)]
    return place(TrainerConfig(nnodes=nodes, n_gpus_per_node=gpus), roles, there, on_gpu)


def table(placement):
    return dict(node_lines(placement))


COLOCATED = [
    (1, 1, 1, {"node 0": "actor rank 0 on GPU 0, engine 0 on GPU 0"}),
    (1, 1, 4, {"node 0": "actor rank 0 on GPU 0, engine 0 on GPU 0"}),  # an engine never has more GPUs than there are
    (1, 4, 1, {"node 0": "actor ranks 0-3 on GPUs 0-3, engines 0-3 on GPUs 0-3"}),
    (1, 4, 2, {"node 0": "actor ranks 0-3 on GPUs 0-3, engines 0-1 on GPUs 0-3"}),
    (1, 4, 4, {"node 0": "actor ranks 0-3 on GPUs 0-3, engine 0 on GPUs 0-3"}),
    (1, 8, 2, {"node 0": "actor ranks 0-7 on GPUs 0-7, engines 0-3 on GPUs 0-7"}),
    (
        8,
        4,
        4,
        {f"node {n}": f"actor ranks {4 * n}-{4 * n + 3} on GPUs 0-3, engine {n} on GPUs 0-3" for n in range(8)},
    ),
    (
        4,
        8,
        2,
        {
            f"node {n}": f"actor ranks {8 * n}-{8 * n + 7} on GPUs 0-7, engines {4 * n}-{4 * n + 3} on GPUs 0-7"
            for n in range(4)
        },
    ),
]


@pytest.mark.parametrize(("nodes", "gpus", "size", "expected"), COLOCATED)
def test_engines_share_the_gpus_of_the_training_ranks(nodes, gpus, size, expected):
    assert table(plan(nodes, gpus, size=size)) == expected
    assert table(plan(nodes, gpus, size=size, machines=[16] * nodes + [1])) == expected


SPLIT = [
    ("one machine of 2", (1, 1, (1, 1)), 1, [2], {"node 0": "actor rank 0 on GPU 0, engine 0 on GPU 1"}),
    ("one of 8", (1, 4, (1, 4)), 2, [8], {"node 0": "actor ranks 0-3 on GPUs 0-3, engines 0-1 on GPUs 4-7"}),
    (
        "one of 8, a large engine",
        (1, 4, (1, 4)),
        4,
        [8],
        {"node 0": "actor ranks 0-3 on GPUs 0-3, engine 0 on GPUs 4-7"},
    ),
    ("6 and 2", (1, 6, (1, 2)), 1, [8], {"node 0": "actor ranks 0-5 on GPUs 0-5, engines 0-1 on GPUs 6-7"}),
    ("2 and 6", (1, 2, (1, 6)), 2, [8], {"node 0": "actor ranks 0-1 on GPUs 0-1, engines 0-2 on GPUs 2-7"}),
    (
        "two of 4",
        (1, 4, (1, 4)),
        2,
        [4, 4],
        {"node 0": "actor ranks 0-3 on GPUs 0-3", "node 1": "engines 0-1 on GPUs 0-3"},
    ),
    (
        "the large one is found for the larger part",
        (1, 2, (1, 8)),
        4,
        [4, 8],
        {"node 0": "actor ranks 0-1 on GPUs 0-1", "node 1": "engines 0-1 on GPUs 0-7"},
    ),
    (
        "32 GPUs: two machines each",
        (2, 8, (2, None)),
        4,
        [8, 8, 8, 8],
        {
            "node 0": "actor ranks 0-7 on GPUs 0-7",
            "node 1": "actor ranks 8-15 on GPUs 0-7",
            "node 2": "engines 0-1 on GPUs 0-7",
            "node 3": "engines 2-3 on GPUs 0-7",
        },
    ),
    (
        "32 GPUs: half of each machine",
        (4, 4, (4, 4)),
        2,
        [8, 8, 8, 8],
        {
            f"node {n}": f"actor ranks {4 * n}-{4 * n + 3} on GPUs 0-3, engines {2 * n}-{2 * n + 1} on GPUs 4-7"
            for n in range(4)
        },
    ),
]


@pytest.mark.parametrize(
    ("asked", "size", "machines", "expected"), [row[1:] for row in SPLIT], ids=[r[0] for r in SPLIT]
)
def test_engines_of_a_split_have_gpus_of_their_own(asked, size, machines, expected):
    nodes, gpus, own = asked
    assert table(plan(nodes, gpus, own, size, machines)) == expected


def test_every_rank_has_its_seat_and_an_engine_its_gpus():
    placement = plan(2, 2, (1, 4), 2, [4, 4, 4])
    assert placement.slots_per_node == (2, 2, 4)
    assert placement.actor == (Seat(0, (0,)), Seat(0, (1,)), Seat(1, (0,)), Seat(1, (1,)))
    assert placement.rollout == (Seat(2, (0, 1)), Seat(2, (2, 3)))


def test_engines_without_gpus_are_spread_over_machines():
    assert plan(2, 2, on_gpu=False, num_engines=5).rollout == tuple(
        Seat(node, (slot,)) for node, slot in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 0)]
    )
    assert len(plan(2, 2, on_gpu=False).rollout) == 2
    split = plan(1, 1, (1, 2), on_gpu=False, machines=[1, 2])
    assert table(split) == {"node 0": "actor rank 0 on slot 0", "node 1": "engines 0-1 on slots 0-1"}


def test_an_engine_that_cannot_use_more_gpus_gets_one():
    assert len(plan(1, 4, size=2, name="hf").rollout) == 4


ASKED = r"The run asks for {}\. There is {} GPU\(s\)\. Missing: {}\."


@pytest.mark.parametrize(
    ("asked", "own", "machines", "there", "missing"),
    [
        ((1, 8), (0, None), [4], "m0 with 4", r"1 machine\(s\) with 8 free GPU\(s\) for training ranks"),
        ((2, 4), (0, None), [8, 2], "m0 with 8, m1 with 2", r"1 machine\(s\) with 4 free GPU\(s\) for training ranks"),
        ((1, 4), (1, 4), [4], "m0 with 4", r"1 machine\(s\) with 4 free GPU\(s\) for rollout engines"),
        ((1, 4), (2, 4), [8], "m0 with 8", r"1 machine\(s\) with 4 free GPU\(s\) for rollout engines"),
        ((1, 2), (1, 8), [4], "m0 with 4", r"1 machine\(s\) with 8 free GPU\(s\) for rollout engines"),
        ((4, 8), (1, 8), [8] * 3, "m0 with 8, m1 with 8, m2 with 8", r"1 machine.* and 1 machine.*engines"),
        ((1, 1), (0, None), [], "no machine with any", r"1 machine\(s\) with 1 free .*"),
    ],
)
def test_what_is_missing_is_said(asked, own, machines, there, missing):
    said = rf"{asked[0]} machine\(s\) with {asked[1]} GPU\(s\) each for training ranks \(trainer.nnodes={asked[0]} .*\)"
    with pytest.raises(InputError, match=ASKED.format(said, there, missing)):
        plan(*asked, own, machines=machines)


def test_a_dry_run_says_who_sleeps_and_where_engines_are(one):
    def lines(*overrides):
        return dict(placement_lines(one("sdpo", *overrides), on_gpu=True, num_gpus=0))

    shared = lines()
    assert shared["rollout"] == "2 vllm engine(s), 2 GPU(s) each, shared with the actor, asleep during the update"
    assert shared["node 0"] == "actor ranks 0-3 on GPUs 0-3, engines 0-1 on GPUs 0-3"
    assert "asleep" not in lines("actor_rollout_ref.rollout.free_cache_engine=False")["rollout"]
    assert "asleep" not in lines("trainer.rollout_schedule=one_step_off")["rollout"]
    split = lines("actor_rollout_ref.hybrid_engine=False", "actor_rollout_ref.rollout.nnodes=1")
    assert split["rollout"].startswith("2 vllm engine(s), 2 GPU(s) each, apart from the actor (1 node(s)")
    assert (split["node 0"], split["node 1"]) == ("actor ranks 0-3 on GPUs 0-3", "engines 0-1 on GPUs 0-3")


def test_a_dry_run_holds_a_run_on_one_machine_against_this_one(one):
    split = ("actor_rollout_ref.hybrid_engine=False", "actor_rollout_ref.rollout.nnodes=1")
    assert problems_here(one("sdpo"), num_gpus=4) == problems_here(one("sdpo", *split), num_gpus=8) == []
    assert problems_here(one("sdpo"), num_gpus=0) == []  # a login node tells nothing
    assert problems_here(one("sdpo", "trainer.nnodes=2"), num_gpus=4) == []  # nor does one machine of two
    (problem,) = problems_here(one("sdpo", *split), num_gpus=7)
    assert "with 7 GPU(s). Missing: 1 machine(s) with 4 free GPU(s) for rollout engines." in problem
