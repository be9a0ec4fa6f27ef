"""From the printed command to what runs: quoting, flags of the cluster, and options that do not exist."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SDPO_ALL = "generalization/run_sdpo_all.sh"
GRPO_ALL = "generalization/run_baseline_grpo_all.sh"
SDPO_RICH = "rich_feedback/run_sdpo.sh"
MULTITURN = "ttt/run_multiturn_all.sh"
BEST_OF_K = "ttt/run_best_of_k_all.sh"
LAUNCHERS = sorted(str(path.relative_to(ROOT / "experiments")) for path in ROOT.glob("experiments/*/run_*.sh"))
ODD = 'trainer.experiment_name=it\'s "$HOME" `x` \\n; (a|b) *'
# A program that writes down how it was called, one JSON list a line.
DUMP = f"""exec {sys.executable} -c '
import json, os, sys
words = [os.environ.get("WANDB_ENTITY"), os.environ.get("MADE_BY_SETUP"), os.environ.get("EXPERIMENT"), *sys.argv[1:]]
print(json.dumps(words), file=open(os.environ["DUMP"], "a"))' "$@"
"""


@pytest.fixture
def chain(launch, program, tmp_path):
    """`chain(script, *arguments, **environment)`: paste what a dry run prints into bash, where sbatch does what Slurm
    does (its line goes to sh), srun starts its command, and Python only writes down how it was called."""

    def run(script, *arguments, **environment):
        printed = launch(script, "--dry-run", *arguments, **environment)
        assert printed.returncode == 0, printed.stderr
        programs = program("sbatch", 'for word; do :; done; cd "${WORKDIR:?}"; exec sh -c "${word#--wrap=}"')
        program("srun", 'while [[ $1 == -* ]]; do shift; done; exec "$@"')
        program("spy", DUMP)
        dump = tmp_path / "calls"
        env = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": "/nowhere", "PYTHON": "spy", "DUMP": str(dump)}
        env |= {"WORKDIR": str(ROOT), "SLURM_JOB_ID": "7"}
        lines = [line for line in printed.stdout.splitlines() if not line.startswith("Would ")]
        subprocess.run(["bash"], input="\n".join(lines), env=env, cwd=tmp_path, text=True, check=True)
        return [json.loads(line) for line in dump.read_text().splitlines()]

    return run


def test_printed_commands_can_be_pasted(chain, tmp_path):
    """Every character arrives at the trainer as it was typed."""
    calls = chain(SDPO_ALL, ODD, CLUSTER_LOG_DIR=f"{tmp_path}/my logs")
    assert len(calls) == 10
    entity, made, experiment, *words = calls[0]
    assert (entity, made, words[:3]) == (None, None, ["-m", "verl.trainer.main_ppo", "--config-name"])
    assert experiment == "FINAL-SDPO-train32-alpha0.5-rollout8-lr1e-5-drossTrue-Qwen-Qwen3-8B-biology"
    assert words[-1] == ODD


def test_settings_of_the_cluster_reach_the_run(chain):
    setup = """MADE_BY_SETUP="it's $((1 + 1))"; export MADE_BY_SETUP;"""
    (call,) = chain(SDPO_RICH, ODD, WANDB_ENTITY="my team", CLUSTER_SETUP=setup, CLUSTER_OVERRIDES="trainer.seed=4")
    assert call[:2] == ["my team", "it's 2"]
    assert call[-2:] == ["trainer.seed=4", ODD]


def test_a_setup_that_fails_ends_the_job(chain):
    with pytest.raises(subprocess.CalledProcessError):
        chain(SDPO_RICH, CLUSTER_SETUP="false")


def test_recipes_get_their_flags(chain):
    calls = chain(MULTITURN, "--", "--max-turns", "5 6", TEMPLATE="attempt_and_feedback", QUESTIONS="3")
    assert calls[0][3] == "recipes/multiturn_baseline/multiturn.py"
    assert calls[0][-8:-4] == ["--template", "attempt_and_feedback", "--seed", "0"]
    assert calls[0][-2:] == ["--max-turns", "5 6"]


def test_local_commands_can_be_pasted(chain):
    (call,) = chain("local/run_local_grpo.sh", ODD)
    assert call[-1] == ODD


def test_flags_by_default_suit_any_slurm(dry_run, tmp_path):
    job = dry_run(SDPO_ALL)[0]
    logs = tmp_path / "logs"
    assert job.sbatch[:-1] == [
        "sbatch",
        "--job-name=rlvr",
        f"--comment={job.name}",
        "--nodes=1",
        "--time=12:00:00",
        "--ntasks-per-node=1",
        f"--output={logs}/%j.log",
        f"--error={logs}/%j.err",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@600",
        f"--chdir={ROOT}",
    ]


def test_flags_of_the_gh200_cluster(dry_run):
    job = dry_run(SDPO_ALL, CLUSTER_FILE="experiments/clusters/gh200.sh", CLUSTER_ACCOUNT="a123")[0]
    assert {
        "--job-name=rlvr",
        "--account=a123",
        "--nodes=1",
        "--partition=normal",
        "--time=12:00:00",
        "--environment=sdpo",
        "--ntasks-per-node=1",
        "--gpus-per-node=4",
        "--mem=460000",
        "--cpus-per-task=288",
    } <= set(job.sbatch)
    assert {"trainer.n_gpus_per_node=4", "actor_rollout_ref.rollout.tensor_model_parallel_size=2"} <= set(job.command)
    assert " --cpus-per-task=288 " in job.sbatch[-1]


def test_gpus_may_name_their_type(dry_run):
    job = dry_run(SDPO_RICH, CLUSTER_GPUS_PER_NODE="a100:4")[0]
    assert "--gpus-per-node=a100:4" in job.sbatch and "trainer.n_gpus_per_node=4" in job.command


def test_every_step_of_a_job_gets_the_cores_of_its_task(tmp_path):
    """srun takes them from SRUN_CPUS_PER_TASK, and no longer from the job."""
    env = os.environ | {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "12"}
    command = ["bash", str(ROOT / "experiments/lib/job.sh"), "printenv", "SRUN_CPUS_PER_TASK"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "12\n"), done.stderr


def test_submitted_training_saves_and_what_the_user_says_counts(dry_run):
    (job,) = dry_run(SDPO_RICH, "trainer.save_freq=5")
    saving = [word for word in job.command if word.startswith("trainer.save_freq=")]
    assert saving == ["trainer.save_freq=20", "trainer.save_freq=5"]
    (job,) = dry_run(SDPO_RICH, "--local")
    assert not [word for word in job.command if word.startswith("trainer.save_freq=")]


def test_an_engine_alone_spans_its_node(dry_run, launch):
    job = dry_run(BEST_OF_K, CLUSTER_GPUS_PER_NODE="4")[0]
    assert "actor_rollout_ref.rollout.tensor_model_parallel_size=4" in job.command
    job = dry_run(MULTITURN, "--", "--max-turns", "9", CLUSTER_GPUS_PER_NODE="7")[0]
    assert job.command[-4:] == ["--tensor-parallel-size", "4", "--max-turns", "9"]
    for script in (BEST_OF_K, MULTITURN):
        done = launch(script, "--dry-run", CLUSTER_NODES="2")
        assert done.returncode == 2 and "CLUSTER_NODES=2: this run is one engine on one node" in done.stderr


def test_multi_turn_takes_flags_and_no_overrides(launch):
    done = launch(MULTITURN, "--dry-run", "trainer.seed=3")
    assert done.returncode == 2 and "trainer.seed=3: multiturn.py takes flags, not key=value" in done.stderr


def test_a_cluster_file_that_is_not_there_is_named(launch):
    done = launch(SDPO_ALL, "--dry-run", CLUSTER_FILE="experiments/clusters/gh20.sh")
    assert done.returncode == 2
    assert done.stderr.startswith("error: CLUSTER_FILE=experiments/clusters/gh20.sh: there is no such file")
    assert done.stdout == ""


def test_the_environment_wins_over_the_files(dry_run):
    chosen = {"CLUSTER_TIME": "1:00:00", "CLUSTER_PARTITION": "", "CLUSTER_NODES": "2", "CLUSTER_SIGNAL_SECONDS": ""}
    job = dry_run(
        SDPO_ALL, CLUSTER_FILE="experiments/clusters/gh200.sh", CLUSTER_FLAGS="--exclusive --qos=hi", **chosen
    )[0]
    assert {"--time=1:00:00", "--nodes=2", "--exclusive", "--qos=hi"} <= set(job.sbatch)
    assert "trainer.nnodes=2" in job.command
    absent = ("--partition", "--signal", "--requeue", "--account")
    assert not [word for word in job.sbatch if word.startswith(absent)]


def test_containers_of_srun(dry_run):
    job = dry_run(SDPO_RICH, CLUSTER_CONTAINER="/images/sdpo.sqsh", CLUSTER_MOUNTS="/a:/a,/b:/b")[0]
    flags = "--container-image=/images/sdpo.sqsh --container-mounts=/a:/a,/b:/b"
    assert job.sbatch[-1].startswith(f"--wrap=exec env 'SRUN_OPTIONS={flags}' bash experiments/lib/job.sh srun ")
    assert f" {flags} bash experiments/verl_training.sh " in job.sbatch[-1]


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize("argument", ["--dryrun", "-n", "=x", "--suffix"])
def test_unknown_options_are_errors(launch, script, argument):
    process = launch(script, argument)
    assert process.returncode != 0 and argument in process.stderr and not process.stdout


@pytest.mark.parametrize("script", sorted({SDPO_ALL, GRPO_ALL, SDPO_RICH, MULTITURN}))
def test_a_sweep_takes_no_words(launch, script):
    process = launch(script, "dry-run")
    assert process.returncode == 2 and "unknown argument dry-run" in process.stderr


@pytest.mark.parametrize("script", LAUNCHERS)
def test_help(launch, script):
    process = launch(script, "--help")
    assert process.returncode == 0
    assert f"bash experiments/{script}" in process.stdout and "--dry-run" in process.stdout


def test_launchers_run_from_any_folder():
    command = ["bash", "local/run_local_grpo.sh", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "experiments")
    assert (process.returncode, process.stderr) == (0, "") and "GRPO on this machine" in process.stdout
