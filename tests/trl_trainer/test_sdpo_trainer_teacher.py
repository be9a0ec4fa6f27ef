"""The teacher's rules and adapters: what moves, by how much, and what must not."""

import copy
import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scripted import PROMPTS, arguments, load, make, weights
from sdpo_trainer import (
    LORA_EMA_TEACHER_ADAPTER,
    EMATeacherCallback,
    LoraEMATeacherCallback,
    collect_lora_adapter_pairs,
    ema_update,
    ema_update_lora_adapters,
    init_lora_ema_teacher,
)
from sdpo_trainer.teacher import active_adapter
from torch import nn

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.5}


def linear(weight, bias=0.0):
    module = nn.Linear(1, 1)
    nn.init.constant_(module.weight, weight)
    nn.init.constant_(module.bias, bias)
    module.register_buffer("count", torch.tensor(int(weight)))
    return module


def test_an_average_moves_to_the_student_by_the_rate():
    teacher, student = linear(10.0, 4.0), linear(20.0, 8.0)
    assert ema_update(teacher, student, 0.1) is None
    assert teacher.weight.item() == pytest.approx(11.0)  # not 19: the rate is the student's share
    assert teacher.bias.item() == pytest.approx(4.4)
    assert teacher.count.item() == 10  # integers are no weights to average
    assert student.weight.item() == 20.0
    assert teacher.weight.requires_grad and teacher.weight.grad_fn is None


def test_a_wrapped_teacher_is_matched_by_its_own_names():
    """DDP and DeepSpeed hold the model as `module`, FSDP and torch.compile put names of theirs between."""
    teacher, student = nn.ModuleDict({"a": linear(10.0)}), nn.ModuleDict({"a": linear(20.0)})
    ema_update(nn.ModuleDict({"module": nn.ModuleDict({"_orig_mod": teacher})}), student, 0.1)
    assert teacher["a"].weight.item() == pytest.approx(11.0)


def test_an_average_of_two_models_is_an_error():
    with pytest.raises(ValueError, match="not the same model"):
        ema_update(nn.Sequential(linear(1), linear(2)), nn.Sequential(linear(1)), 0.1)
    with pytest.raises(ValueError, match="bfloat16"):
        ema_update(linear(1).bfloat16(), linear(2), 0.1)
    with pytest.raises(ValueError, match=r"teacher_update_rate=1.5: must be between 0 and 1"):
        ema_update(linear(1), linear(2), 1.5)


def test_the_callback_keeps_its_period():
    teacher, student = linear(10.0), linear(20.0)
    callback = EMATeacherCallback(teacher, student, update_rate=0.5, num_iterations=3)
    assert [callback.should_update(step) for step in range(1, 7)] == [False, False, True, False, False, True]
    assert callback.teacher_model is teacher
    assert [callback.step(step) for step in (1, 2, 3)] == [False, False, True]
    assert teacher.weight.item() == pytest.approx(15.0)


@pytest.fixture
def peft_model():
    model = get_peft_model(load(torch.float32), LoraConfig(**LORA))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0))
    return model


def test_the_teachers_adapter_is_a_copy_of_the_students(peft_model):
    init_lora_ema_teacher(peft_model)
    pairs = collect_lora_adapter_pairs(peft_model)
    assert len(pairs) == 2 * 2 * 2  # layers, modules, A and B
    for target, source in pairs:
        assert torch.equal(target, source) and target.data_ptr() != source.data_ptr()
        assert not target.requires_grad and source.requires_grad
    assert any(source.abs().sum() > 0 for _, source in pairs[1::2])
    assert peft_model.active_adapter == "default"


def test_adapters_are_averaged_and_the_base_is_not_touched(peft_model):
    init_lora_ema_teacher(peft_model)
    base = {name: p.clone() for name, p in peft_model.named_parameters() if "lora_" not in name}
    pairs = collect_lora_adapter_pairs(peft_model)
    start = [target.clone() for target, _ in pairs]
    with torch.no_grad():
        for _, source in pairs:
            source.add_(1.0)
    ema_update_lora_adapters(peft_model, 0.25)
    for (target, _), before in zip(pairs, start, strict=True):
        torch.testing.assert_close(target.data, before + 0.25)
    callback = LoraEMATeacherCallback(peft_model, update_rate=1.0, num_iterations=2)
    assert [callback.step(1), callback.step(2)] == [False, True]
    assert all(torch.equal(target, source) for target, source in pairs)
    for name, before in base.items():
        assert torch.equal(peft_model.get_parameter(name), before), name


def test_adapters_that_are_not_there_are_named(peft_model):
    with pytest.raises(ValueError, match=r"adapter 'sdpo_teacher' not found in PeftModel.*; it has default"):
        collect_lora_adapter_pairs(peft_model)
    with pytest.raises(ValueError, match="adapter 'other' not found"):
        init_lora_ema_teacher(peft_model, student_adapter="other")
    with pytest.raises(ValueError, match="Linear is not a PEFT model"):
        init_lora_ema_teacher(linear(1))
    with pytest.raises(ValueError, match="not found in Linear; it has no adapters"):
        collect_lora_adapter_pairs(linear(1))
    init_lora_ema_teacher(peft_model)
    with pytest.raises(ValueError, match="is there already"):
        init_lora_ema_teacher(peft_model)


@pytest.mark.parametrize("adapter", [LORA_EMA_TEACHER_ADAPTER, None])
def test_switching_is_undone_even_after_an_error(peft_model, adapter):
    init_lora_ema_teacher(peft_model)
    next(p for name, p in peft_model.named_parameters() if ".default." in name).requires_grad_(False)
    flags = {name: p.requires_grad for name, p in peft_model.named_parameters()}
    ids = torch.tensor([[1, 2, 3]])
    peft_model.eval()
    before = peft_model(input_ids=ids).logits
    with pytest.raises(KeyError), active_adapter(peft_model, adapter):
        inside = peft_model(input_ids=ids).logits
        raise KeyError
    assert peft_model.active_adapter == "default"
    assert {name: p.requires_grad for name, p in peft_model.named_parameters()} == flags
    assert torch.equal(peft_model(input_ids=ids).logits, before)
    assert torch.equal(inside, before) == (adapter is not None)


# ---- In the trainer ----


def trained(folder, model=None, steps=3, lora=True, **settings):
    args = arguments(folder, max_steps=steps, learning_rate=5e-2, gradient_checkpointing=True)
    if lora:
        settings["peft_config"] = LoraConfig(**LORA)
    trainer = make(folder, load(torch.float32) if model is None else model, args, prompts=PROMPTS[:1], **settings)
    start = weights(trainer.model)
    trainer.train()
    return trainer, start


def test_ema_with_adapters_is_lora_ema(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="sdpo_trainer"):
        trainer, start = trained(tmp_path, teacher_mode="ema", teacher_update_rate=0.5)
    assert "the teacher is a second adapter (lora_ema)" in caplog.text
    assert trainer.ref_model is trainer.model
    in_optimizer = {p.data_ptr() for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, p in trainer.model.named_parameters():
        moved = not torch.equal(p, start[name])
        assert moved == ("lora_" in name), name  # both adapters moved, the base did not by a bit
        assert (p.data_ptr() in in_optimizer) == (".default." in name), name
        assert p.requires_grad == (".default." in name), name


def test_a_teacher_that_shares_the_students_modules_reads_without_dropout(tmp_path, peft_model):
    trainer = make(tmp_path, peft_model, teacher_mode="lora_ema", prompts=PROMPTS[:1])
    read, original = [], trainer._teacher_terms

    def twice(model, part):
        read.extend(original(model, part) for _ in range(2))
        assert model.training
        return read[-1]

    trainer._teacher_terms = twice
    trainer.train()
    (first,), (second,) = read
    assert torch.equal(first.hidden, second.hidden)
    assert first.hidden.abs().sum() > 0


def test_frozen_with_a_new_adapter_is_the_base(tmp_path):
    trainer, _ = trained(tmp_path, teacher_mode="frozen")
    assert LORA_EMA_TEACHER_ADAPTER not in trainer.model.peft_config
    assert trainer.ema_callback is None


def test_frozen_with_a_trained_adapter_is_a_copy_of_it(tmp_path, peft_model):
    start = {n: p.clone() for n, p in peft_model.named_parameters() if ".default." in n}
    trainer, _ = trained(tmp_path, model=peft_model, lora=False, teacher_mode="frozen")
    for name, before in start.items():
        teacher = trainer.model.get_parameter(name.replace(".default.", f".{LORA_EMA_TEACHER_ADAPTER}."))
        assert torch.equal(teacher, before)
        assert not torch.equal(trainer.model.get_parameter(name), before)


def logits(trainer, ids):
    with torch.no_grad(), trainer._teacher.running(trainer.model) as model:
        model.eval()
        return model(input_ids=ids).logits


def test_kinds_of_a_peft_teacher_agree_where_they_must(tmp_path, peft_model):
    """At the start every kind is the student as it was handed in."""
    ids = torch.tensor([[1, 2, 3, 4]])
    peft_model.eval()
    with torch.no_grad():
        expected = peft_model(input_ids=ids).logits
    for number, settings in enumerate(
        [{"teacher_mode": "lora_ema"}, {"teacher_mode": "frozen"}, {"teacher_mode": "copy"}, {"lora_ema_exact": True}]
    ):
        model = copy.deepcopy(peft_model)
        trainer = make(tmp_path / str(number), model, **{"teacher_mode": "lora_ema", **settings})
        torch.testing.assert_close(logits(trainer, ids), expected, rtol=1e-4, atol=1e-4)


def test_the_exact_average_is_of_products(tmp_path, peft_model):
    """Student delta D1, then D2: the teacher's is 0.75 D1 + 0.25 D2, and the base stays as it is to the bit."""
    trainer = make(tmp_path, peft_model, teacher_mode="lora_ema", lora_ema_exact=True, teacher_update_rate=0.25)
    base = {name: p.clone() for name, p in trainer.model.named_parameters() if "lora_" not in name}
    modules = {n: m for n, m in trainer.model.named_modules() if hasattr(m, "get_delta_weight")}
    first = {n: m.get_delta_weight("default").detach().clone() for n, m in modules.items()}
    with torch.no_grad():
        for name, p in trainer.model.named_parameters():
            if "lora_" in name:
                p.mul_(-2.0)  # products times 4, A and B the other way round
    trainer.ema_callback.step(1)
    for name, delta in trainer._teacher.deltas.items():
        torch.testing.assert_close(delta, 0.75 * first[name] + 0.25 * 4 * first[name], rtol=1e-4, atol=1e-5)
    logits(trainer, torch.tensor([[1, 2]]))
    for name, before in base.items():
        assert torch.equal(trainer.model.get_parameter(name), before), name


def test_the_exact_average_of_low_precision_adapters_is_float32(tmp_path):
    model = get_peft_model(load(torch.bfloat16), LoraConfig(**LORA), autocast_adapter_dtype=False)
    trainer = make(tmp_path, model, teacher_mode="lora_ema", lora_ema_exact=True, teacher_update_rate=0.01)
    with torch.no_grad():
        for name, p in trainer.model.named_parameters():
            if "lora_B" in name:
                assert p.dtype == torch.bfloat16
                p.fill_(1.0)
    student = {n: m.get_delta_weight("default") for n, m in trainer._teacher.modules.items()}
    trainer.ema_callback.step(1)
    for name, delta in trainer._teacher.deltas.items():
        assert delta.dtype == torch.float32
        torch.testing.assert_close(delta, 0.01 * student[name].float())


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_teacher_adapter_leaves_the_base_alone_whatever_the_students_began_as(start):
    """These take the first adapter's product out of the base; taken out twice, the model is another."""
    model = get_peft_model(load(torch.float32), LoraConfig(**LORA | {"lora_dropout": 0.0}, init_lora_weights=start))
    before, ids = weights(model), torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    init_lora_ema_teacher(model)
    for name, p in before.items():
        assert torch.equal(model.get_parameter(name), p), name
    with torch.no_grad(), active_adapter(model, LORA_EMA_TEACHER_ADAPTER):
        torch.testing.assert_close(model(input_ids=ids).logits, expected)


def test_adapters_that_a_teacher_cannot_follow_are_refused(tmp_path):
    named = get_peft_model(load(torch.float32), LoraConfig(**LORA), adapter_name="sft")
    with pytest.raises(ValueError, match="has to be called 'default', and this model has sft"):
        make(tmp_path, named, teacher_mode="frozen")
    more = get_peft_model(load(torch.float32), LoraConfig(**LORA, use_dora=True))
    with pytest.raises(ValueError, match=r"lora_ema_exact=True averages products of A and B.*magnitude.* and 3 more"):
        make(tmp_path, more, teacher_mode="lora_ema", lora_ema_exact=True)


def test_a_model_in_parts_is_refused(tmp_path):
    model = load()
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers": 1, "lm_head": 1}
    with pytest.raises(ValueError, match=r"is spread over 0, 1 \(device_map=auto.*accelerate launch"):
        make(tmp_path, model)


def test_the_teachers_states_keep_the_type_of_its_head(tmp_path):
    """accelerate makes float32 of what a bfloat16 forward returns, and the head would follow, tile by tile."""
    args = arguments(tmp_path, bf16=True)
    trainer = make(tmp_path, load(torch.bfloat16), args=args)
    seen = []
    original = trainer._teacher_terms
    trainer._teacher_terms = lambda *given: seen.extend(original(*given)) or seen
    trainer.train()
    assert [(term.hidden.dtype, term.head.weight.dtype) for term in seen] == [(torch.bfloat16, torch.bfloat16)]


def test_modes_that_do_not_fit_the_model_are_refused(tmp_path):
    with pytest.raises(ValueError, match="teacher_mode=lora_ema needs a PEFT model, and this is Qwen3ForCausalLM"):
        make(tmp_path, teacher_mode="lora_ema")


def test_a_bfloat16_student_has_a_float32_average(tmp_path):
    trainer, start = trained(tmp_path, load(torch.bfloat16), lora=False, teacher_mode="ema", teacher_update_rate=0.01)
    assert trainer.model.dtype == torch.bfloat16
    for name, p in trainer.ref_model.named_parameters():
        assert p.dtype == torch.float32
        expected = start[name].float()
        assert (p - expected).abs().max() > 0 or torch.equal(trainer.model.get_parameter(name), start[name]), name


def test_a_model_with_a_bias_on_its_head_is_refused(tmp_path):
    model = load(torch.float32)
    model.lm_head.bias = nn.Parameter(torch.ones(model.lm_head.weight.shape[0]))
    with pytest.raises(ValueError, match="the output head of Qwen3ForCausalLM has a bias"):
        make(tmp_path, model)


def test_a_model_that_does_more_behind_its_hidden_states_is_refused(tmp_path):
    model = load(torch.float32)
    model.lm_head.register_forward_hook(lambda _module, _args, output: output * 2)
    with pytest.raises(ValueError, match=r"are not its hidden states times lm_head\.weight"):
        make(tmp_path, model)
