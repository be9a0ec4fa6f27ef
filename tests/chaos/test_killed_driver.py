"""The driver is killed in every phase of a step: nothing is left, and the run that is started again is the same."""

import signal

import pytest
from fault_table import note
from faults import Fault
from harness import assert_same

pytestmark = pytest.mark.slow

SETTINGS = ("actor_rollout_ref.rollout.name=hf", "trainer.n_gpus_per_node=1", "trainer.total_training_steps=3")

ALL_SHARDS = "global_step_2*/actor/policy/.metadata"
PHASES = {
    "generation": Fault("driver", "generate", 2),
    "reward": Fault("driver", "reward.score", 2),
    "update": Fault("driver", "actor.update_policy", 2),
    "weight sync": Fault("driver", "actor.publish_weights", 2),
    "validation": Fault("driver", "validation", 2),
    "save, shards half written": Fault("driver", "actor.save_checkpoint", 2, written="global_step_2*/actor/*/*"),
    "save, shards written": Fault("driver", "actor.save_checkpoint", 2, written=ALL_SHARDS),
    "resume": Fault("driver", "actor.load_checkpoint", 0),
}


@pytest.mark.parametrize("phase", PHASES)
def test_run_is_started_again(phase, make_run, reference):
    run = make_run(SETTINGS)
    if phase == "resume":
        assert run.start(Fault("driver", "logged", 2)).code == -signal.SIGKILL
    killed = run.start(PHASES[phase])
    assert killed.code == -signal.SIGKILL, killed.output[-5000:]
    run.finish()
    assert_same(run, reference(SETTINGS))
    note(f"driver: {phase}", "killed with all its workers; started again, goes on", run.seconds_to_recover())
