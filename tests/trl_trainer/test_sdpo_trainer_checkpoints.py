"""A run that is cut in two ends where the whole one does, teacher and all; what does not fit is refused."""

import json
import logging

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from scripted import arguments, load, make, weights
from sdpo_trainer import LORA_EMA_TEACHER_ADAPTER, SDPOTrainer
from sdpo_trainer.teacher_files import fingerprint
from transformers import AutoModelForCausalLM

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
KINDS = {
    "ema": {"teacher_mode": "ema", "teacher_update_rate": 0.3},
    "frozen": {"teacher_mode": "frozen"},
    "copy": {"teacher_mode": "copy"},
    "trust_region": {"teacher_mode": "trust_region", "teacher_update_rate": 0.3},
    "lora_ema": {"teacher_mode": "lora_ema", "teacher_update_rate": 0.3, "lora": True},
    "lora frozen": {"teacher_mode": "frozen", "lora": True},
    "lora_ema_exact": {"teacher_mode": "lora_ema", "teacher_update_rate": 0.3, "lora_ema_exact": True, "lora": True},
}


def run(folder, max_steps, resume=None, lora=False, model=None, iterations=1, **settings):
    """Sampled completions, AdamW; a rollout batch is used for `iterations` optimizer steps."""
    training = {"learning_rate": 5e-3, "save_strategy": "steps", "save_steps": 1, "temperature": 1.0}
    training["num_iterations"] = iterations
    args = arguments(folder, num_generations=4, max_steps=max_steps, shuffle_dataset=True, **training)
    if lora:
        settings["peft_config"] = LoraConfig(**LORA)
    texts = [f"{device} in the attic to {level}" for device in ("shower", "lamp") for level in range(1, 9)]
    prompts = [[{"role": "user", "content": text}] for text in texts]
    trainer = make(
        folder, load(torch.float32) if model is None else model, args, reward=lengths, prompts=prompts, rollout=False,
        plain_sgd=False, **settings,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def lengths(completions, **_):
    """Short is good, and each completion is told its length: something to learn in every batch."""
    sizes = [len(c[0]["content"]) for c in completions]
    return [{"score": float(size < 28), "feedback": f"{size} characters"} for size in sizes]


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_four_steps_are_two_and_two(tmp_path, kind):
    settings = KINDS[kind]
    whole = run(tmp_path / "whole", 4, **settings)
    run(tmp_path / "halves", 2, **settings)
    second = run(tmp_path / "halves", 4, resume=str(tmp_path / "halves" / "checkpoint-2"), **settings)
    same(weights(second.model), weights(whole.model))
    same(second._teacher.weights(), whole._teacher.weights())
    losses = [[log["sdpo/loss"] for log in t.state.log_history if "sdpo/loss" in log] for t in (whole, second)]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 4
    files = [tmp_path / folder / "checkpoint-4" / "sdpo_teacher" / "state.json" for folder in ("whole", "halves")]
    states = [json.loads(file.read_text()) for file in files]
    assert states[0] == states[1]
    assert states[0]["num_consumed_batches"] == 4
    assert states[0]["num_updates"] == (4 if whole.ema_callback else 0)


def test_a_run_resumed_within_a_rollout_batch_generates_at_the_same_steps_again(tmp_path, monkeypatch):
    """A batch serves two steps. What was sampled for it is lost with the process, but the next one comes in time."""
    generated = []

    class Watched(SDPOTrainer):
        def _generate_and_score_completions(self, inputs):
            generated.append(self.state.global_step)
            return super()._generate_and_score_completions(inputs)

    monkeypatch.setattr("scripted.SDPOTrainer", Watched)
    run(tmp_path, 4, iterations=2)
    assert generated == [0, 2]
    generated.clear()
    run(tmp_path, 4, resume=str(tmp_path / "checkpoint-1"), iterations=2)
    assert generated == [1, 2]


def test_the_teacher_is_not_the_student_by_then(tmp_path):
    """Otherwise the test above would say nothing."""
    trainer = run(tmp_path, 2, **KINDS["ema"])
    student, teacher = trainer.model.lm_head.weight, trainer.ref_model.lm_head.weight
    start = load(torch.float32).lm_head.weight
    assert 0.05 < (teacher - start).norm() / (student - start).norm() < 0.8


@pytest.fixture
def checkpoint(tmp_path):
    run(tmp_path, 1, **KINDS["ema"])
    return tmp_path / "checkpoint-1"


def damage_missing(teacher):
    (teacher / "state.json").unlink()


def damage_weights(teacher):
    path = teacher / "teacher.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def damage_student(teacher):
    path = teacher.parent / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, path, metadata={"format": "pt"})


def damage_shape(teacher):
    tensors = load_file(teacher / "teacher.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:3].clone()
    save_file(tensors, teacher / "teacher.safetensors")


DAMAGES = {
    "does not hold a teacher": damage_missing,
    "cannot be read": damage_weights,
    "belongs to other student weights": damage_student,
    "model.norm.weight has shape": damage_shape,
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_teacher_that_does_not_fit_is_an_error_and_never_fresh_in_silence(checkpoint, message):
    DAMAGES[message](checkpoint / "sdpo_teacher")
    with pytest.raises(ValueError, match=f"(?s){message}.*allow_fresh_teacher=True"):
        run(checkpoint.parent, 2, resume=str(checkpoint), **KINDS["ema"])


def test_another_kind_of_teacher_is_an_error(checkpoint):
    with pytest.raises(ValueError, match="its teacher_mode is ema, and this run has frozen"):
        run(checkpoint.parent, 2, resume=str(checkpoint), teacher_mode="frozen")


def test_a_fresh_teacher_is_a_copy_of_the_resumed_student(checkpoint, caplog):
    damage_missing(checkpoint / "sdpo_teacher")
    fresh = {"teacher_mode": "frozen", "allow_fresh_teacher": True}
    with caplog.at_level(logging.WARNING):
        trainer = run(checkpoint.parent, 2, resume=str(checkpoint), **fresh)
    assert "It begins as a copy of the student" in caplog.text
    saved = AutoModelForCausalLM.from_pretrained(checkpoint)
    same(weights(trainer.ref_model), weights(saved))
    assert not torch.equal(saved.lm_head.weight, load(torch.float32).lm_head.weight)


def test_what_is_saved_is_the_student_for_plain_transformers(tmp_path):
    trainer = run(tmp_path / "run", 2, **KINDS["ema"])
    trainer.save_model(str(tmp_path / "out"))
    same(weights(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), weights(trainer.model))
    assert not (tmp_path / "out" / "sdpo_teacher").exists()


def test_a_saved_adapter_is_the_students_alone(tmp_path):
    trainer = run(tmp_path / "run", 2, **KINDS["lora_ema"])
    trainer.save_model(str(tmp_path / "out"))
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert not any(LORA_EMA_TEACHER_ADAPTER in name for name in files)
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    own = {n.replace(".default", ""): p for n, p in trainer.model.named_parameters() if ".default." in n}
    same(saved, {name: p.detach() for name, p in own.items()})
    assert LORA_EMA_TEACHER_ADAPTER in trainer.model.peft_config  # and it is there to go on with


def test_fingerprints_know_names_types_and_bytes():
    one = {"a": torch.ones(2), "b": torch.zeros(3)}
    assert fingerprint(one) == fingerprint(dict(reversed(one.items())))
    others = [{}, {"a": torch.ones(2)}, one | {"b": torch.zeros(3, dtype=torch.int32)}, one | {"a": torch.ones(1, 2)}]
    others += [one | {"a": torch.tensor([1.0, 1.0000001])}, {"a": torch.ones(2), "c": torch.zeros(3)}]
    assert len({fingerprint(each) for each in [one, *others]}) == 7


def test_bfloat16_weights_have_a_fingerprint_too():
    assert fingerprint({"a": torch.ones(2, dtype=torch.bfloat16)}) != fingerprint({"a": torch.ones(2)})
