"""What the launchers of test-time training pass is what the recipes read."""

from recipes.embedded.make_data import SCHEMA, write_rows
from recipes.embedded.task import rl_rows
from recipes.multiturn_baseline.settings import parse
from recipes.test_time import best_of_k, main

ONE = {"QUESTIONS": "3", "MODEL_PATH": "recipes/embedded/model"}


def make_question(folder):
    for split in ("train", "test"):
        write_rows(rl_rows("test", "weak")[:1], SCHEMA, folder / f"{split}.parquet")


def test_multiturn(dry_run, tmp_path):
    (job,) = dry_run("ttt/run_multiturn_all.sh", "--", "--max-turns", "5", **ONE)
    settings = parse(None, job.command[1:])
    assert settings.data_dir == tmp_path / "data" / "lcb_v6_questions" / "q_03"
    assert (settings.run_name, settings.template, settings.seed) == (job.name, "feedback_only", 0)
    assert (settings.model, settings.max_turns) == ("recipes/embedded/model", 5)


def test_test_time_training_and_best_of_k(dry_run, tmp_path, capsys):
    make_question(tmp_path / "data" / "lcb_v6_questions" / "q_03")
    for script, module in (("run_ttt_sdpo", main), ("run_best_of_k_all", best_of_k)):
        (job,) = dry_run(f"ttt/{script}.sh", "trainer.dry_run=true", "data.max_response_length=64", **ONE)
        assert job.command[:2] == ["-m", module.__name__]
        assert module.main(job.command[2:]) == 0, capsys.readouterr().err
