"""Which runs a launcher makes: how many, under which names, with which overrides; and that a dry run starts nothing."""

import os
from collections import Counter
from pathlib import Path

import pytest

from verl.config import PPOConfig
from verl.config.checks import ppo_problems
from verl.trainer.compose import compose

SDPO_ALL = "generalization/run_sdpo_all.sh"
GRPO_ALL = "generalization/run_baseline_grpo_all.sh"
SDPO_RICH = "rich_feedback/run_sdpo.sh"
GRPO_RICH = "rich_feedback/run_baseline_grpo.sh"
MULTITURN = "ttt/run_multiturn_all.sh"
TTT = "ttt/run_ttt_sdpo.sh"
BEST_OF_K = "ttt/run_best_of_k_all.sh"
SDPO_LOCAL = "local/run_local_sdpo.sh"
GRPO_LOCAL = "local/run_local_grpo.sh"
TEST_LOCAL = "local/run_local_test.sh"
EMBEDDED = "local/run_embedded.sh"
NUM_RUNS = {SDPO_ALL: 10, GRPO_ALL: 40, SDPO_RICH: 1, GRPO_RICH: 1, MULTITURN: 19, TTT: 19, BEST_OF_K: 19}
LOCAL = [SDPO_LOCAL, GRPO_LOCAL, TEST_LOCAL, EMBEDDED]
COMMON = {"data.train_batch_size=32", "actor_rollout_ref.rollout.n=8", "algorithm.rollout_correction.rollout_is=token"}


@pytest.mark.parametrize(("script", "number"), NUM_RUNS.items())
def test_a_dry_run_prints_the_jobs_and_starts_nothing(launch, program, tmp_path, script, number):
    trace = tmp_path / "trace"
    programs = program("sbatch", f"touch {trace}")
    before = sorted(tmp_path.rglob("*"))
    process = launch(script, "--dry-run", PATH=f"{programs}:{os.environ['PATH']}")
    assert process.returncode == 0
    assert process.stdout.count("Would submit job for: ") == process.stdout.count("\nsbatch ") == number
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("script", NUM_RUNS)
def test_a_dry_run_needs_no_slurm(launch, few_programs, script):
    process = launch(script, "--dry-run", PATH=str(few_programs))
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("Would submit job for: ") == NUM_RUNS[script]


@pytest.mark.parametrize("script", LOCAL)
def test_local_launchers_have_one_run(dry_run, script):
    assert len(dry_run(script)) == 1


@pytest.mark.parametrize(
    ("script", "first", "last"),
    [
        (
            SDPO_ALL,
            "FINAL-SDPO-train32-alpha0.5-rollout8-lr1e-5-drossTrue-Qwen-Qwen3-8B-biology",
            "FINAL-SDPO-train32-alpha0.5-rollout8-lr1e-5-drossTrue-allenai-Olmo-3-7B-Instruct-tooluse",
        ),
        (
            GRPO_ALL,
            "FINAL-GRPO-mbs-8-train32-rollout8-lr1e-5-modelQwen-Qwen3-8B-biology",
            "FINAL-GRPO-mbs-32-train32-rollout8-lr1e-6-modelallenai-Olmo-3-7B-Instruct-tooluse",
        ),
        (SDPO_RICH, *["FINAL-SDPO-train32-alpha1.0-rollout8-lr1e-6-drossTrue-Qwen-Qwen3-8B-lcb_v6"] * 2),
        (GRPO_RICH, *["FINAL-GRPO-mbs-8-train32-rollout8-lr1e-6-modelQwen-Qwen3-8B-lcb_v6"] * 2),
        (
            SDPO_LOCAL,
            *["LOCAL-SDPO-train32-alpha0.5-rollout8-lr1e-5-drossTrue-Qwen-Qwen2.5-7B-Instruct-tooluse-local_sdpo"] * 2,
        ),
        (
            GRPO_LOCAL,
            *["LOCAL-GRPO-mbs-8-train32-rollout8-lr1e-5-modelQwen-Qwen2.5-7B-Instruct-tooluse-local_grpo"] * 2,
        ),
        (
            MULTITURN,
            "FINAL-MULTITURN-feedback_only-seed0-Qwen-Qwen3-8B-q_01",
            "FINAL-MULTITURN-feedback_only-seed0-Qwen-Qwen3-8B-q_129",
        ),
    ],
)
def test_names(dry_run, script, first, last):
    names = [job.name for job in dry_run(script)]
    assert (names[0], names[-1]) == (first, last)
    assert len(set(names)) == len(names)
    assert not [name for name in names if "--" in name or "/" in name or name.endswith("-")]


def test_the_name_is_the_run_that_is_started(dry_run):
    for job in dry_run(SDPO_ALL):
        name, preset, data = job.command[:3]
        assert (name, preset) == (job.name, "sdpo") and job.name.endswith("-" + Path(data).name)


def test_suffix(dry_run):
    assert all(job.name.endswith("-seed2") for job in dry_run(SDPO_ALL, "--suffix", "seed2"))
    (job,) = dry_run(SDPO_LOCAL, "mine")
    assert job.name.endswith("-tooluse-mine")


def test_a_model_folder_in_the_name(dry_run):
    (job,) = dry_run(GRPO_RICH, MODEL_PATH="/models/mine/")
    assert job.name == "FINAL-GRPO-mbs-8-train32-rollout8-lr1e-6-model-models-mine-lcb_v6"
    (job,) = dry_run(SDPO_RICH, MODEL_PATH="/models/mine/")
    assert job.name == "FINAL-SDPO-train32-alpha1.0-rollout8-lr1e-6-drossTrue-models-mine-lcb_v6"


def test_a_name_that_is_no_folder_is_refused(launch):
    process = launch(SDPO_RICH, "--dry-run", "--suffix", "a b")
    assert process.returncode == 2 and "allowed: letters, digits" in process.stderr and not process.stdout


def overrides(job):
    return set(job.command[3:])


def test_overrides_of_the_generalization_study(dry_run):
    expected = COMMON | {
        "actor_rollout_ref.actor.optim.lr=1e-5",
        "actor_rollout_ref.actor.ppo_mini_batch_size=32",
        "actor_rollout_ref.actor.self_distillation.distillation_topk=100",
        "actor_rollout_ref.actor.self_distillation.alpha=0.5",
        "actor_rollout_ref.actor.self_distillation.dont_reprompt_on_self_success=True",
        "actor_rollout_ref.actor.self_distillation.include_environment_feedback=False",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=10",
        "actor_rollout_ref.rollout.val_kwargs.n=16",
        "trainer.group_name=SDPO-generalization",
    }
    assert all(expected <= overrides(job) for job in dry_run(SDPO_ALL))


def test_the_grpo_grid(dry_run):
    jobs = dry_run(GRPO_ALL)
    keys = (
        "actor_rollout_ref.actor.optim.lr=",
        "actor_rollout_ref.actor.ppo_mini_batch_size=",
        "actor_rollout_ref.model.path=",
    )
    cells = Counter(
        tuple(next(word for word in job.command if word.startswith(key)).partition("=")[2] for key in keys)
        for job in jobs
    )
    models = ("Qwen/Qwen3-8B", "allenai/Olmo-3-7B-Instruct")
    assert cells == {(lr, size, model): 5 for lr in ("1e-5", "1e-6") for size in ("8", "32") for model in models}
    rest = {"actor_rollout_ref.actor.optim.lr_warmup_steps=10", "actor_rollout_ref.rollout.val_kwargs.n=16"}
    assert all(COMMON | rest <= overrides(job) and job.command[1] == "baseline_grpo" for job in jobs)


def test_overrides_of_the_feedback_study(dry_run):
    (sdpo,), (grpo,) = dry_run(SDPO_RICH), dry_run(GRPO_RICH)
    both = COMMON | {
        "actor_rollout_ref.actor.optim.lr=1e-6",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
        "actor_rollout_ref.rollout.val_kwargs.n=4",
        "actor_rollout_ref.model.path=Qwen/Qwen3-8B",
    }
    assert overrides(grpo) >= both | {"actor_rollout_ref.actor.ppo_mini_batch_size=8"}
    assert overrides(sdpo) >= both | {
        "actor_rollout_ref.actor.ppo_mini_batch_size=1",
        "actor_rollout_ref.actor.self_distillation.distillation_topk=20",
        "actor_rollout_ref.actor.self_distillation.alpha=1.0",
        "actor_rollout_ref.actor.self_distillation.teacher_update_rate=0.01",
    }


@pytest.mark.parametrize(("task", "feedback"), [("", "False"), ("datasets/lcb_v6", "True")])
def test_local_sdpo_has_no_feedback_for_tooluse(dry_run, task, feedback):
    (job,) = dry_run(SDPO_LOCAL, TASK=task)
    assert f"actor_rollout_ref.actor.self_distillation.include_environment_feedback={feedback}" in job.command


def test_local_test_run(dry_run):
    (job,) = dry_run(TEST_LOCAL)
    assert {
        "actor_rollout_ref.model.path=Qwen/Qwen3-8B",
        "actor_rollout_ref.actor.self_distillation.alpha=1.0",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=-1",
    } <= overrides(job)


@pytest.mark.parametrize(
    ("environment", "gpus", "width"),
    [
        ({"N_GPUS_PER_NODE": "1"}, 1, 1),
        ({"N_GPUS_PER_NODE": "3"}, 3, 1),
        ({"N_GPUS_PER_NODE": "4"}, 4, 2),
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, 2, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "N_GPUS_PER_NODE": "2"}, 2, 2),
    ],
)
def test_placement_of_local_runs(dry_run, environment, gpus, width):
    (job,) = dry_run(SDPO_LOCAL, **environment)
    placement = {f"trainer.n_gpus_per_node={gpus}", f"actor_rollout_ref.rollout.tensor_model_parallel_size={width}"}
    assert placement <= overrides(job)


def test_all_runs_compose_with_their_presets(dry_run, monkeypatch):
    """Each distinct list of overrides, as the trainer reads it: unknown keys, wrong values and broken rules show."""
    monkeypatch.setenv("USER", "ada")
    seen = set()
    for script, gpus in [*((script, "4") for script in [*NUM_RUNS, *LOCAL]), *((script, "") for script in LOCAL)]:
        for job in dry_run(script, CLUSTER_GPUS_PER_NODE=gpus, N_GPUS_PER_NODE=gpus):
            name, preset, data, *given = job.command
            if script.startswith("ttt/") or (preset, *given) in seen:
                continue  # recipes read their own flags
            seen.add((preset, *given))
            monkeypatch.setenv("EXPERIMENT", name)
            monkeypatch.setenv("TASK", data)
            (run,) = compose(PPOConfig, "ppo_trainer", ["--config-name", preset, *given], ppo_problems)
            assert run.config.trainer.experiment_name == name and not run.notes
    assert len(seen) == (2 + 8 + 1 + 1 + 4) + 4


def test_the_19_hard_questions(dry_run):
    jobs = dry_run(MULTITURN)
    numbers = [int(job.name.rpartition("q_")[2]) for job in jobs]
    assert numbers == [1, 3, 10, 43, 46, 59, 69, 74, 86, 91, 92, 95, 100, 103, 111, 120, 125, 127, 129]
    script, *flags = jobs[0].command
    assert script == "recipes/multiturn_baseline/multiturn.py"
    assert flags[0] == "--data-dir" and flags[1].endswith("/lcb_v6_questions/q_01")
    named = ["--run-name", jobs[0].name, "--template", "feedback_only", "--seed", "0", "--model", "Qwen/Qwen3-8B"]
    assert flags[2:] == named


def test_questions_can_be_chosen(dry_run):
    assert len(dry_run(TTT, QUESTIONS="very_hard")) == 9
    assert [job.name.rpartition("-")[2] for job in dry_run(TTT, QUESTIONS="08 46")] == ["q_08", "q_46"]


def test_folders_of_questions_without_zeros_are_found(dry_run, tmp_path):
    (tmp_path / "data" / "lcb_v6_questions" / "q_3").mkdir(parents=True)
    assert [Path(job.command[3]).name for job in dry_run(TTT, QUESTIONS="1 3")] == ["q_01", "q_3"]
