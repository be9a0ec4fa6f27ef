"""Keys of the trainer that supervised fine-tuning would not heed are refused."""

from verl.config import SFTConfig, build
from verl.config.checks import sft_problems

GIVEN = {"model": {"path": "somewhere"}, "data": {"train_files": ["train.parquet"]}}


def test_protection_that_fine_tuning_does_not_have_is_refused():
    trainer = {"max_restarts": 2, "stop_on_collapse": {"metric": "val/loss"}}
    assert sft_problems(build(SFTConfig, GIVEN | {"trainer": trainer})) == [
        "trainer.max_restarts=2: fine-tuning does not restart by itself; set it to 0, and start the same command again:"
        " it resumes from its newest checkpoint",
        "trainer.stop_on_collapse.metric=val/loss: fine-tuning does not watch for a collapse; set it to null",
    ]
    assert sft_problems(build(SFTConfig, GIVEN)) == []
