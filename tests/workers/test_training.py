"""The update of one and of two ranks, however it is cut, against plain training."""

from pathlib import Path

import pytest
import torch
from plain_training import plain_training
from rank_processes import run_ranks
from training_case import (
    CASES,
    SPLIT_CASES,
    TAUGHT,
    VARIANTS,
    VARIED,
    ask,
    make_actor,
    make_config,
    part,
    run_case,
    save_tiny,
    teacher_of,
    weights_of,
)
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    save_tiny(folder / "tied", True)
    save_tiny(folder / "untied", False)
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """Results of one rank."""
    return {name: run_case(name, folder) for name in CASES}


@pytest.fixture(scope="module")
def two_ranks(folder):
    """Results of rank 0 of two."""
    run_ranks(Path(__file__).with_name("two_ranks.py"), folder)
    return torch.load(folder / "results.pt")


@pytest.fixture(scope="module")
def four_ranks(folder):
    """Results of the last rank of four."""
    run_ranks(Path(__file__).with_name("four_ranks.py"), folder, 4)
    return torch.load(folder / "four.pt")


def assert_close(found, expected):
    """Equal to 1e-5 of each tensor's largest entry."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        gap = (found[name] - value).abs().max() / value.abs().max().clamp(min=1e-3)
        assert gap < 1e-5, f"{name} differs by {gap:.1e} of its largest entry"


def assert_same_run(found, expected):
    assert_close(found["weights"], expected["weights"])
    assert_close(found["teacher"], expected["teacher"])
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_like_one(name, whole, two_ranks):
    assert_same_run(two_ranks[name], whole[name])


@pytest.mark.parametrize(("name", "split"), SPLIT_CASES)
def test_ranks_that_share_forwards_or_copy_weights_train_like_one(name, split, whole, two_ranks):
    assert_same_run(two_ranks[name, split], whole[name])


@pytest.mark.parametrize("name", ["trust-region-untied", "gspo-entropy-untied"])
def test_two_pairs_of_ranks_with_a_copy_each_train_like_one(name, whole, four_ranks):
    assert_same_run(four_ranks[name], whole[name])


def test_ranks_that_share_forwards_answer_like_one(folder, two_ranks):
    found, expected = two_ranks["asked"], ask(folder)
    assert found["probe"] == pytest.approx(expected["probe"], rel=1e-4)
    for index, values in expected["log-probs"].items():
        assert found["log-probs"][index] == pytest.approx(values, rel=1e-4)
    for index, (is_best, value) in expected["match"].items():
        assert found["match"][index] == (is_best, pytest.approx(value, rel=1e-4))
    assert [found[name].keys() for name in ("log-probs", "match")] == [{0, 1, 2, 3, 4}, {0, 2, 3}]


PLAIN = [
    "ema-tied",
    "trust-region-untied",
    "lone-taught-row-tied",
    "anchored-tied",
    "anchored-trust-region-untied",
    "kl-anchored-untied",
    "kl-anchored-frozen-tied",
]


@pytest.mark.parametrize("name", PLAIN)
def test_update_equals_plain_training(name, folder):
    is_tied, rows, _, options = CASES[name]
    path = str(folder / ("tied" if is_tied else "untied"))
    expected = plain_training(path, rows, make_config(path, **options))
    found = run_case(name, folder)
    assert_close(found["weights"], expected["weights"])
    assert_close(found["teacher"], expected["teacher"])
    start = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).get_input_embeddings().weight
    assert (found["weights"]["model.embed_tokens.weight"] - start).abs().max() > 0.01  # it did learn


@pytest.mark.parametrize("cut", [2, 5])
@pytest.mark.parametrize("name", ["ema-tied", "anchored-tied"])
def test_the_cut_into_micro_batches_changes_nothing(name, cut, folder):
    whole, cut = run_case(name, folder), run_case(name, folder, cut=cut)
    assert_same_run(cut, whole)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", VARIED)
def test_packing_gathering_and_the_teachers_cut_change_nothing(name, variant, folder, whole, two_ranks):
    assert_same_run(run_case(name, folder, variant=variant), whole[name])
    assert_same_run(two_ranks[name, variant], whole[name])


def test_two_rank_checkpoint_goes_on_with_one_rank(folder, two_ranks):
    worker = make_actor(make_config(str(folder / "tied"), teacher_update_rate=0.3))
    worker.load_checkpoint(str(folder / "saved"))
    assert_close(weights_of(worker), two_ranks["at checkpoint"]["weights"])
    metrics = worker.update_policy([part(TAUGHT, worker, 2)])
    assert metrics["self_distillation/teacher_updates"] == (2.0, 1.0)
    assert metrics["actor/lr"] == (pytest.approx(0.3), 1.0)  # second warm-up step
    assert_close(weights_of(worker), two_ranks["after checkpoint"]["weights"])
    assert_close(teacher_of(worker), two_ranks["after checkpoint"]["teacher"])


def test_exported_folder_has_the_trained_weights(folder, two_ranks):
    exported = AutoModelForCausalLM.from_pretrained(folder / "exported", dtype=torch.float32)
    assert_close(dict(exported.named_parameters(remove_duplicate=False)), two_ranks["after checkpoint"]["weights"])
    worker = make_actor(make_config(str(folder / "exported")))
    log_probs = exported(torch.tensor([[5, 6, 7]])).logits[0].log_softmax(-1)
    assert worker.probe_log_probs([5, 6, 7]) == pytest.approx(
        [log_probs[0, 6].item(), log_probs[1, 7].item()], abs=1e-5
    )
