"""What the trainer does with what it is given: nothing of the caller's is changed, and every setting has its effect."""

import copy
import logging

import pytest
import torch
from datasets import Dataset
from scripted import (
    MODEL,
    PROMPTS,
    RIGHT,
    TEXTS,
    arguments,
    gradient,
    judge,
    load,
    make,
    tokenizer,
    weights,
    write,
)
from sdpo_trainer import SDPOConfig, SDPOTrainer
from sdpo_trainer.forward import add_backbone_exit
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer
from trl.experimental.sdpo import SDPOConfig as TRLConfig

from verl.algorithms.head import HiddenTerm
from verl.algorithms.sdpo import SDPO
from verl.config.actor import ActorConfig
from verl.config.root import AlgorithmConfig
from verl.models.packed_attention import SDPA
from verl.models.packing import pack
from verl.models.policy_model import PolicyModel
from verl.protocol import Row, count_totals
from verl.workers.update import policy_loss, response_tokens


def plain(completions, **_):
    return [float(c[0]["content"] == RIGHT) for c in completions]


# ---- Disabled: plain GRPO ----


def trained(trainer_class, folder, **own):
    args = arguments(folder, num_generations=4, max_steps=3, learning_rate=1e-3, max_grad_norm=1.0, temperature=1.0)
    data = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS * 4])

    def lengths(completions, **_):
        return [float(len(c[0]["content"])) for c in completions]

    trainer = trainer_class(
        model=load(torch.float32),
        args=args,
        reward_funcs=lengths,
        train_dataset=data,
        processing_class=tokenizer(),
        **own,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("settings", [{"enabled": False}, {"distillation_weight": 0.0}])
def test_disabled_is_grpo_bit_for_bit(tmp_path, settings):
    grpo = trained(GRPOTrainer, tmp_path / "grpo")
    sdpo = trained(SDPOTrainer, tmp_path / "sdpo", sdpo_config=SDPOConfig(**settings))
    start = weights(load(torch.float32))
    for name, weight in weights(grpo.model).items():
        assert torch.equal(weight, sdpo.model.get_parameter(name)), name
    assert any(not torch.equal(weight, start[name]) for name, weight in weights(grpo.model).items())
    assert sdpo.ref_model is None and sdpo.ema_callback is None


def test_the_grpo_loss_is_not_called_with_weight_1(tmp_path, monkeypatch):
    def called(*_):
        raise AssertionError("GRPO's loss was computed")

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", called)
    gradient(tmp_path)


# ---- The distributed trainer's loss ----


@pytest.mark.parametrize("topk", [None, 5])
def test_the_loss_is_the_distributed_trainers(tmp_path, topk):
    """The same rows through rows, packs and the actor's own functions, to the same loss and gradient."""
    config = SDPOConfig(distillation_topk=topk, teacher_mode="frozen")
    seen = []
    trainer = make(tmp_path, distillation_topk=topk)
    original = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: seen.append(original(inputs)) or seen[-1]
    before = weights(trainer.model)
    trainer.train()
    (batch,) = seen
    length = batch["completion_ids"].shape[1]
    rows = []
    for index in range(len(TEXTS)):
        response = batch["completion_ids"][index][batch["completion_mask"][index] > 0].tolist()
        prompt_mask = batch["teacher_attention_mask"][index, :-length] > 0
        teacher_prompt = batch["teacher_input_ids"][index, :-length][prompt_mask].tolist()
        is_taught = bool(batch["self_distillation_mask"][index])
        rows.append(
            Row(
                prompt_ids=batch["prompt_ids"][index][batch["prompt_mask"][index] > 0].tolist(),
                response_ids=response,
                response_mask=[1] * len(response),
                teacher_prompt_ids=teacher_prompt if is_taught else [],
                index=index,
            )
        )
    assert sum(row.is_taught for row in rows) == 7
    algorithm = SDPO(ActorConfig(self_distillation=config.core()), AlgorithmConfig())
    student, teacher = PolicyModel(load()), PolicyModel(load())
    for model in (student, teacher):
        model.lm.set_attn_implementation(SDPA)
    taught = [row for row in rows if row.is_taught]
    states = teacher.evaluate(pack(taught, torch.device("cpu"), for_teacher=True), lambda hidden, head: (hidden, head))
    loss, _ = student(
        pack(rows, torch.device("cpu")),
        lambda hidden, head: policy_loss(
            algorithm,
            hidden,
            head,
            response_tokens(rows, torch.device("cpu")),
            0.7,
            [HiddenTerm(1.0, *states)],
            count_totals(rows),
        ),
    )
    loss.backward()
    assert trainer.state.log_history[0]["sdpo/loss"] == pytest.approx(loss.item(), abs=1e-10)
    for name, p in student.lm.named_parameters():
        # Packs share prefixes, and the model's norms compute in float32.
        assert (before[name] - trainer.model.get_parameter(name) - p.grad).abs().max() < 1e-7, name


# ---- What is given stays as it was ----


def test_nothing_of_the_callers_is_changed(tmp_path, caplog):
    tok = tokenizer()
    tok.pad_token = None
    tok.truncation_side = tok.padding_side = "right"
    state = copy.deepcopy({**tok.__dict__, "_tokenizer": None})
    args = arguments(tmp_path, beta=0.04)
    before = args.to_dict()
    rewards = [judge, plain]
    with caplog.at_level(logging.WARNING):
        trainer = SDPOTrainer(
            sdpo_config=SDPOConfig(teacher_mode="frozen"),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
            reward_funcs=rewards,
            rollout_func=write(),
            model=load(torch.float32),
            processing_class=tok,
            args=args,
        )
    trainer.train()
    assert trainer.beta == 0.0 and args.beta == 0.04
    assert caplog.text.count("beta=0.04 is taken as 0") == 1
    assert args.to_dict() == before
    assert (tok.pad_token, tok.truncation_side, tok.padding_side) == (None, "right", "right")
    assert {**tok.__dict__, "_tokenizer": None}.keys() == state.keys()
    assert rewards == [judge, plain]


def test_arguments_may_be_given_by_position(tmp_path):
    data = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS])
    trainer = SDPOTrainer(MODEL, arguments(tmp_path), None, tokenizer(), plain, data)
    assert trainer.sdpo_config == SDPOConfig()
    assert trainer.ref_model is trainer.ema_callback.teacher_model
    assert trainer.ref_model is not trainer.model


def test_a_configuration_of_another_kind_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"sdpo_config is a builtins.dict; pass sdpo_trainer.SDPOConfig"):
        SDPOTrainer(MODEL, arguments(tmp_path), {"alpha": 1}, tokenizer(), plain, Dataset.from_list([{"prompt": "a"}]))


def test_arguments_of_another_kind_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"args is a sdpo_trainer.config.SDPOConfig; pass a trl.GRPOConfig"):
        SDPOTrainer(MODEL, SDPOConfig(), None, tokenizer(), plain, Dataset.from_list([{"prompt": "a"}]))
    of_trl = TRLConfig(str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(TypeError, match=r"args is a trl\.\S*\.SDPOConfig; .* \(SDPOConfig.from_trl splits"):
        SDPOTrainer(MODEL, of_trl, None, tokenizer(), plain, Dataset.from_list([{"prompt": "a"}]))


# ---- Prompts ----


def batch_of(tmp_path, prompts, reward, rollout=None, **settings):
    """The scored batch of one step, and the trainer."""
    seen = []
    trainer = make(tmp_path, reward=reward, prompts=prompts, rollout=rollout, **settings)
    original = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: seen.append(original(inputs)) or seen[-1]
    trainer.train()
    return seen[0], trainer


def test_a_chat_stays_a_chat_and_only_its_last_turn_is_new(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "shower to 6"}]
    batch, trainer = batch_of(tmp_path, [chat], judge, max_reprompt_length=1000)
    tok = trainer.processing_class
    content = f"shower to 6\nCorrect solution:\n\n{RIGHT}\n\nCorrectly solve the original question."
    expected = tok.apply_chat_template([chat[0], {"role": "user", "content": content}], add_generation_prompt=True)
    length = batch["completion_ids"].shape[1]
    real = batch["teacher_attention_mask"][0, :-length] > 0
    assert batch["teacher_input_ids"][0, :-length][real].tolist() == expected["input_ids"]
    assert batch["teacher_position_ids"][0, :-length][real].tolist() == list(range(len(expected["input_ids"])))


def test_a_plain_string_gets_no_chat_template(tmp_path):
    batch, trainer = batch_of(tmp_path, ["shower to 6"], judge)
    tok = trainer.processing_class
    length = batch["completion_ids"].shape[1]
    text = tok.decode(batch["teacher_input_ids"][0, :-length][batch["teacher_attention_mask"][0, :-length] > 0])
    own = tok.decode(tok(text="shower to 6")["input_ids"])
    assert text.startswith(own)
    assert "Correct solution" in text and "user" not in text


def test_a_prompt_that_ends_with_an_answer_is_refused(tmp_path):
    chat = [{"role": "user", "content": "shower to 6"}, {"role": "assistant", "content": "shower."}]
    with pytest.raises(ValueError, match="a prompt ends with a turn of 'assistant'"):
        batch_of(tmp_path, [chat], judge)


def test_a_chat_template_that_fails_is_an_error(tmp_path):
    """Never a prompt without its format in silence."""
    trainer = make(tmp_path, apply_chat_template_kwargs={"mode": "odd"})
    template = trainer.processing_class.chat_template
    trainer.processing_class.chat_template = (
        "{%- if mode is defined -%}{{ raise_exception('odd') }}{%- endif -%}" + template
    )
    with pytest.raises(Exception, match="odd"):
        trainer.train()


def test_feedback_may_be_an_attribute_or_a_column(tmp_path):
    def scored(completions, **_):
        scored.last_feedback = [f"said {number}" for number in range(len(completions))]
        return [0.0] * len(completions)

    scored.last_feedback = []
    batch, trainer = batch_of(tmp_path / "a", PROMPTS, scored)
    read = trainer.processing_class.batch_decode(batch["teacher_input_ids"])
    assert ["said" in text for text in read] == [True] * 8
    assert len(set(read)) == 8

    data = Dataset.from_list([{"prompt": PROMPTS[0], "privileged_context": "the room comes first"}] * 2)
    args = arguments(tmp_path / "b", remove_unused_columns=True)  # this column is used
    trainer = make(tmp_path / "b", args=args, reward=lambda completions, **_: [0.0] * len(completions))
    trainer.train_dataset = data
    seen = []
    original = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: seen.append(original(inputs)) or seen[-1]
    trainer.train()
    read = trainer.processing_class.batch_decode(seen[0]["teacher_input_ids"])
    assert all("the room comes first" in text for text in read)


def test_tokens_beyond_the_models_length_are_not_learnt_and_counted(tmp_path):
    """Teacher prompts of 33 tokens; a model of 40 positions has room for 7 of each completion."""
    model = load()
    model.config.max_position_embeddings = 40
    _, trainer = batch_of(tmp_path, PROMPTS[:1], judge, model=model)
    log = trainer.state.log_history[0]
    assert log["self_distillation/reprompt_len/mean"] == 33
    assert log["self_distillation/target_token_count"] == pytest.approx(7 * 7)
    assert log["self_distillation/over_length_fraction"] == pytest.approx(1 - 49 / 87)


def test_a_batch_without_targets_has_nothing_over_length(tmp_path):
    _, trainer = batch_of(tmp_path, PROMPTS[:1], lambda completions, **_: [0.0] * len(completions))
    assert trainer.state.log_history[0]["self_distillation/over_length_fraction"] == 0


def test_a_float16_model_makes_its_loss_in_float32():
    """A token's share of the gradient is below float16's smallest step, and a loss scaler comes too late for it."""
    lm = load(torch.float16)
    add_backbone_exit(lm)
    hidden, head = lm(input_ids=torch.tensor([[1, 2]]), after_backbone=lambda *left: left)
    assert (hidden.dtype, head.weight.dtype) == (torch.float32, torch.float32)


def test_settings_of_the_loss_that_is_not_computed_are_named(tmp_path, caplog):
    args = arguments(tmp_path, loss_type="grpo", epsilon_high=0.28)
    with caplog.at_level(logging.WARNING):
        make(tmp_path, args=args)
    assert "loss_type=grpo, epsilon_high=0.28: no effect while distillation_weight is 1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        make(tmp_path, args=args, distillation_weight=0.5)
        make(tmp_path, args=arguments(tmp_path))
    assert "no effect" not in caplog.text


def test_truncated_completions_can_be_masked(tmp_path):
    args = arguments(tmp_path, mask_truncated_completions=True)

    def cut(prompts, trainer):
        output = write()(prompts, trainer)
        output["completion_ids"] = [
            ids[:-1] if number < 6 else ids for number, ids in enumerate(output["completion_ids"])
        ]
        return output

    _, trainer = batch_of(tmp_path, PROMPTS[:1], judge, rollout=cut, args=args)
    assert trainer.state.log_history[0]["self_distillation/target_token_count"] == pytest.approx(13)


def test_a_warning_after_ten_idle_batches_and_flat_rewards(tmp_path, caplog):
    args = arguments(tmp_path, max_steps=10)
    with caplog.at_level(logging.WARNING):
        batch_of(tmp_path, PROMPTS, lambda completions, **_: [0.5] * len(completions), args=args)
    assert caplog.text.count("no sample had a demonstration or feedback for 10 batches in a row") == 1
    assert "Groups with a success (reward >= 1) in the last one: 0 of 1" in caplog.text
    assert caplog.text.count("for 10 batches in a row all siblings got the same reward") == 1


# ---- Evaluation ----


def test_evaluation_reports_its_own_loss(tmp_path):
    data = Dataset.from_list([{"prompt": PROMPTS[0]}])
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=8, learning_rate=0.0)
    trainer = make(tmp_path, args=args, eval_dataset=data, prompts=PROMPTS[:1], plain_sgd=False)
    trainer.train()
    train, told = (next(log for log in trainer.state.log_history if name in log) for name in ("sdpo/loss", "eval_loss"))
    assert told["eval_loss"] == pytest.approx(train["loss"], abs=1e-6)
    assert told["eval_sdpo/kl_mean"] == pytest.approx(train["sdpo/kl_mean"], abs=1e-9)


def test_groups_of_an_evaluation_have_their_own_size(tmp_path):
    """num_generations_eval=2: only the success's own sibling is shown it, and the other six have feedback."""
    data = Dataset.from_list([{"prompt": PROMPTS[0]}] * 4)
    args = arguments(tmp_path, per_device_eval_batch_size=8, num_generations_eval=2)
    trainer = make(tmp_path, args=args, eval_dataset=data)
    told = trainer.evaluate()
    assert told["eval_self_distillation/success_sample_fraction"] == 1 / 8
    assert told["eval_self_distillation/feedback_used_fraction"] == 6 / 8


# ---- Periods ----


def test_rollout_batches_must_not_end_within_a_step(tmp_path):
    args = arguments(tmp_path, rows=8, accumulation=2, steps_per_generation=3)
    with pytest.raises(ValueError, match=r"steps_per_generation=3 times num_iterations=1 is 3 .* would end within"):
        make(tmp_path, args=args)


@pytest.mark.parametrize(
    ("rows", "accumulation", "per_generation", "iterations", "every", "updated_after"),
    [
        (8, 1, 1, 1, 1, [1, 2, 3, 4]),
        (2, 4, 4, 1, 1, [1, 2, 3, 4]),  # four micro-steps are one step
        (2, 1, 4, 1, 1, [4]),  # a batch serves four steps
        (8, 1, 1, 2, 1, [2, 4]),  # a batch is used twice
        (2, 2, 4, 1, 1, [2, 4]),
        (8, 1, 1, 1, 3, [3]),
        (4, 2, 1, 1, 1, [1, 2, 3, 4]),  # two batches in a step
    ],
)
def test_the_teacher_moves_after_the_last_step_on_a_batch(
    tmp_path, rows, accumulation, per_generation, iterations, every, updated_after
):
    settings = {"steps_per_generation": per_generation, "num_iterations": iterations, "max_steps": 4}
    args = arguments(tmp_path, rows, accumulation, num_generations=min(8, rows * per_generation), **settings)
    trainer = make(tmp_path, args=args, teacher_mode="ema", teacher_update_every=every)
    moved = []
    original = trainer.ema_callback.step
    trainer.ema_callback.step = lambda step: moved.append(step) if original(step) else None
    trainer.train()
    assert moved == updated_after


def test_an_optimizer_step_that_was_skipped_moves_no_teacher(tmp_path):
    trainer = make(tmp_path, teacher_mode="ema", args=arguments(tmp_path, max_steps=2))
    before = weights(trainer.ref_model)

    class Skips:
        """Stands for a gradient scaler that found the gradients not finite."""

        step_was_skipped = True

    trainer.accelerator._optimizers = [Skips()]
    assert trainer.accelerator.optimizer_step_was_skipped
    callback = next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == "_TeacherUpdates")
    trainer.state.global_step = 1
    callback.on_step_end(trainer.args, trainer.state, trainer.control)
    assert trainer.ema_callback.num_updates == 0
    assert all(torch.equal(weight, before[name]) for name, weight in weights(trainer.ref_model).items())


# ---- The teacher's start ----


@pytest.mark.parametrize("mode", ["ema", "frozen", "copy", "trust_region"])
def test_the_teacher_starts_from_the_model_in_memory(tmp_path, mode):
    """Not from the name in its configuration, where the weights are others."""
    model = load()
    with torch.no_grad():
        model.lm_head.weight.add_(0.01)
    start = weights(model)
    trainer = make(tmp_path, model=model, teacher_mode=mode)
    assert AutoModelForCausalLM.from_pretrained(model.config._name_or_path) is not None
    for name, weight in weights(trainer.ref_model).items():
        assert torch.equal(weight, start[name]), name
        assert weight.data_ptr() != trainer.model.get_parameter(name).data_ptr()
    assert (trainer.ema_callback is None) == (mode in ("frozen", "trust_region"))


def test_the_teacher_is_a_model_of_its_own(tmp_path):
    """Also when it is called plainly: no forward that was put on the student goes on calling the student."""
    trainer = make(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = trainer.model(input_ids=ids).logits
        trainer.ref_model.model.norm.weight.mul_(0.5)
        torch.testing.assert_close(trainer.ref_model(input_ids=ids).logits, before / 2)
        assert torch.equal(trainer.model(input_ids=ids).logits, before)


def test_a_trust_region_mixes_logits(tmp_path):
    """Rate 1 is the student itself as the teacher, rate 0 the frozen start."""
    frozen, _ = gradient(tmp_path / "frozen", teacher_mode="frozen")
    zero, _ = gradient(tmp_path / "zero", teacher_mode="trust_region", teacher_update_rate=0.0)
    assert all((frozen[name] - zero[name]).abs().max() < 1e-12 for name in frozen)

    model, expected_teacher = load(), load()
    with torch.no_grad():  # the last norm scales the logits: 0.75 * 0.5 + 0.25 * 1 of them
        expected_teacher.model.norm.weight.mul_(0.625)
    trainer = make(tmp_path / "mixed", model=model, teacher_mode="trust_region", teacher_update_rate=0.25)
    with torch.no_grad():
        trainer.ref_model.model.norm.weight.mul_(0.5)
    trainer.train()
    other = load()
    second = make(tmp_path / "one", model=other, teacher_mode="frozen")
    second.ref_model.load_state_dict(expected_teacher.state_dict())
    second.train()
    for name, value in moved_by(other).items():
        assert (moved_by(model)[name] - value).abs().max() < 1e-10, name
        assert (frozen[name] - value).abs().max() > 1e-9 or not frozen[name].any(), name


def moved_by(model):
    start = weights(load())
    return {name: start[name] - p.detach() for name, p in model.named_parameters()}
