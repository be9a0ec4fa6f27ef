"""A run that fails: our own errors stand alone, others come with their traceback; exit status 1."""

import dataclasses

from verl.trainer.main_ppo import DOOR


class ForPeopleError(Exception):
    """Stands for an error of ours."""


ForPeopleError.__module__ = "verl.somewhere"


def open_with(train, environment):
    door = dataclasses.replace(DOOR, train=train, missing_files=lambda config: [], advice=lambda config: [])
    return door.open(["--config-name", "sdpo"])


def test_our_errors_stand_alone(environment, capsys):
    def train(config):
        raise ForPeopleError("rank 1 of actor died")

    assert open_with(train, environment) == 1
    assert capsys.readouterr().err == "ForPeopleError: rank 1 of actor died\n"


def test_other_errors_keep_their_traceback(environment, capsys):
    assert open_with(lambda config: 1 / 0, environment) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_good_run_gets_its_configuration(environment):
    seen = []
    assert open_with(seen.append, environment) == 0
    assert seen[0].actor_rollout_ref.actor.policy_loss.loss_mode == "sdpo"
