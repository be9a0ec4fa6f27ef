"""Twenty kills of one run at instants drawn by chance, and it ends as if there had been none.

An instant is a moment of some step (or of the start, before any) and a few milliseconds after it, so every place in a
step can be met, also between moments. Which instants is fixed by a seed; that the outcome does not depend on it is the
point.
"""

import random
import signal

import pytest
from faults import Fault
from harness import assert_same

NUM_KILLS = 20
NUM_STEPS = 12
SEED = 0
SETTINGS = (
    "actor_rollout_ref.rollout.name=hf",
    "trainer.n_gpus_per_node=1",
    f"trainer.total_training_steps={NUM_STEPS}",
    "trainer.test_freq=6",
)
EARLY = (
    "generate",
    "reward.score",
    "actor.compute_log_probs",
    "actor.update_policy",
    "rollout.begin_sync",
    "actor.publish_weights",
)
LATE = ("rollout.finish_sync", "logged", "actor.save_checkpoint", "saved")
"""Shortly after these the step's checkpoint may count already."""
AT_THE_START = ("actor.setup", "rollout.begin_sync")
LONGEST_DELAY = 0.04  # seconds; a step takes longer


def draw(seed):
    """Faults in the order of the steps they come in, so that each finds the run not yet past it."""
    chance, step, faults = random.Random(seed), 1, []
    for _ in range(NUM_KILLS):
        kind = chance.choices((EARLY, LATE, AT_THE_START), (6, 3, 1))[0]
        delay = chance.random() * LONGEST_DELAY
        faults.append(Fault("driver", chance.choice(kind), 0 if kind is AT_THE_START else step, delay=delay))
        step += kind is LATE or chance.random() < 0.4
    return faults


def test_kills_are_spread_over_the_whole_run():
    faults = draw(SEED)
    assert len(set(faults)) == NUM_KILLS
    assert {fault.moment for fault in faults} >= {*EARLY, "actor.setup"} and len(
        {*LATE} & {f.moment for f in faults}
    ) >= 3
    assert NUM_STEPS - 2 <= faults[-1].step < NUM_STEPS


@pytest.mark.slow
def test_twenty_kills(make_run, reference):
    run = make_run(SETTINGS)
    for number, fault in enumerate(draw(SEED)):
        killed = run.start(fault)
        assert killed.code == -signal.SIGKILL, f"kill {number}, {fault}: the run was over.\n{killed.output[-3000:]}"
    run.finish()
    events = run.events()
    assert sum(event["event"] == "fault" for event in events) == NUM_KILLS
    assert_same(run, reference(SETTINGS))
