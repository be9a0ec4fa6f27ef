"""Command lines and presets that cannot be a run: exit status 2, before torch is loaded, with the way out.

Rules between the parts of a configuration are in tests/config/test_mistakes.py too; here is what people mistype.
"""

import pytest
from doors import ask

ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
DISTILLATION = f"{ACTOR}.self_distillation"
TEMPLATE = f"{DISTILLATION}.reprompt_template"
NAMES = "{prompt} {solution} {feedback}"

KEYS = [
    ("data.trian_files=x", "unknown key. Did you mean data.train_files?"),
    (f"{ACTOR}.self_distilation.alpha=1", f"Did you mean {DISTILLATION}.alpha"),
    ("lr=1", "unknown key"),
    ("data=5", "data=5: must be a group of keys, not a single value"),
    ("data=[1]", "data=[1]: is a list, but the key is a group of keys"),
    ("trainer.dry_run", "trainer.dry_run: is not key=value, and no flag either"),
    ("data.seed:3", "data.seed:3: is not key=value"),
    ("=5", "=5: lacks the key"),
    ("data..seed=3", "data..seed=3: cannot be read as key=value (a stray character)"),
    ("data.seed=[1", "data.seed=[1: cannot be read as key=value", "quoted twice"),
    ("~data.sed", "'data.sed' does not exist"),
    ("trainer.seed=1,2", "Ambiguous value for argument 'trainer.seed=1,2'", "--multirun"),
    ("--confg-name=sdpo", "unrecognized arguments: --confg-name=sdpo"),
]
VALUES = [
    ("data.train_batch_size=abc", "must be a number"),
    ("data.train_batch_size=1.5", "must be a whole number"),
    ("data.train_batch_size=inf", "must be a finite number"),
    ("data.train_batch_size=nan", "must be a finite number"),
    ("data.train_batch_size=[1,2]", "train_batch_size=[1, 2]: must be a number"),
    ("data.train_batch_size=0", "must be at least 1"),
    (f"{ACTOR}.optim.lr=nan", "lr=nan: must be a finite number"),
    (f"{ACTOR}.optim.lr=-1", "lr=-1: must be at least 0"),
    (f"{ACTOR}.entropy_coeff=inf", "entropy_coeff=inf: must be a finite number"),
    (f"{DISTILLATION}.success_reward_threshold=nan", "must be a finite number"),
    (f"{DISTILLATION}.alpha=2", "alpha=2: must be between 0 and 1"),
    (f"{ACTOR}.optim.betas=0.9", "betas=[0.9]: must be two numbers, each at least 0 and less than 1"),
    (f"{ACTOR}.optim.betas=[0.9,2]", "betas=[0.9, 2.0]: must be two numbers"),
    ("trainer.seed=-1", "seed=-1: must be between 0 and 4294967295"),
    ("trainer.val_only=yes_please", "val_only=yes_please: must be true or false"),
    (f"{MODEL}.path=[a,b]", "path=['a', 'b']: must be a text or null"),
    (f"{MODEL}.path=true", "path=True: must be a text or null"),
    ("data.train_files={a:1}", "data.train_files={a:1}: is a mapping, but the key holds a list"),
    ("data.train_files=[[a],[b]]", "train_files=[['a'], ['b']]: must be a text"),
    ("data.train_files=null", "name the training data, data.train_files=<file.parquet>"),
    ("data.train_max_samples=0", "train_max_samples=0: would leave no row; -1 uses all"),
    ("data.truncation=up", "must be one of error, left, right, middle"),
    ("data.apply_chat_template_kwargs.tokenize=False", "is set by every call", "take it out"),
    (f"{ROLLOUT}.dtype=float16", "must be one of auto, float32, bfloat16 (did you mean 'bfloat16'?)"),
    (f"{ACTOR}.fsdp_config.model_dtype=fp16", "must be one of fp32, bf16"),
    ("reward_model.timeout=inf", "timeout=inf: must be a finite number"),
]
NAMED = [
    (f"{ACTOR}.policy_loss.loss_mode=spdo", "known are cispo, gspo, sdpo, sft, vanilla. Did you mean 'sdpo'?"),
    (f"{ACTOR}.policy_loss.loss_mode=sft", "python -m verl.trainer.main_sft"),
    ("algorithm.adv_estimator=grpoo", "known are grpo, reinforce_plus_plus, rloo. Did you mean 'grpo'?"),
    (f"{ROLLOUT}.name=vlm", "known are hf, vllm. Did you mean 'vllm'?"),
    ("trainer.logger=[wandbb]", "known are console, file, tensorboard, wandb. Did you mean 'wandb'?"),
    (f"{ROLLOUT}.engine_kwargs.vlm.x=1", f"Did you mean {ROLLOUT}.engine_kwargs.vllm"),
    (f"{ROLLOUT}.engine_kwargs.hf.bath_size=3", "hf.bath_size=3: unknown argument", "Did you mean batch_size?"),
    (f"{ROLLOUT}.engine_kwargs.hf.batch_size=0", "hf.batch_size=0: must be at least 1"),
    ("--config-name=spdo", "there is no such preset; known are baseline_grpo,", "Did you mean sdpo?"),
    ("--config-dir=/nope", "'/nope' not found"),
]
BETWEEN = [
    ("data.train_batch_size=48", "48 prompts of a step / 32 prompts of an update = 1.5", "Allowed here: 1, 2, 3"),
    (f"{ROLLOUT}.n=1 {DISTILLATION}.include_environment_feedback=False", "raise n"),
    (f"{DISTILLATION}.max_reprompt_len=100", "must hold a prompt of data.max_prompt_length=2048 tokens"),
    (f"{ROLLOUT}.max_model_len=99", "max_model_len=99: is shorter than data.max_prompt_length=2048"),
    ("trainer.resume_mode=resume_path", "resume_mode=resume_path needs the folder of a checkpoint"),
    ("trainer.resume_mode=resume_path trainer.resume_from_path=/nope/s", "/nope/s: there is no such folder"),
    ("trainer.resume_from_path=/nope/s", "is used with resume_mode=resume_path only"),
    ("custom_reward_function.name=mine", "custom_reward_function.path=null: names no file", "name=mine"),
    (f"{MODEL}.lora_rank=8 {MODEL}.target_modules=[]", "lora_rank=8 needs modules; take all-linear"),
    (f"{ACTOR}.fsdp_config.fsdp_size=3", "fsdp_size=3: must divide the 4 ranks", "Allowed here: -1 (all), 1, 2, 4"),
    (f"{ACTOR}.ulysses_sequence_parallel_size=3", "=3: must divide the 4 ranks", "Allowed here: 1, 2, 4"),
    (f"{ACTOR}.ulysses_sequence_parallel_size=2 {MODEL}.use_remove_padding=False", "model.use_remove_padding=True"),
    (f"{ACTOR}.checkpoint.save_contents=[model]", "because a run resumes from it"),
]
TEMPLATES = [
    (f"{TEMPLATE}=hello", "lacks {feedback}, {prompt}, {solution}"),
    (f"{TEMPLATE}='{{prompt}}'", "lacks {feedback}, {solution}"),
    (f"{TEMPLATE}='{NAMES} {{foo}}'", "has unknown {foo}; placeholders are {attempt}, {feedback}, {prompt}"),
    (f"{TEMPLATE}='{NAMES} {{}}'", "has unknown {}"),
    (f"{TEMPLATE}='{NAMES} {{'", "is not a valid template", "a literal brace is doubled"),
    (f"{TEMPLATE}='{NAMES} }}'", "is not a valid template", "a literal brace is doubled"),
    (f"{TEMPLATE}='{{prompt:d}} {{solution!r}} {{feedback}}'", "formats prompt, solution with ! or :"),
    (f"{TEMPLATE}=null", "must be a text"),
    (f"{TEMPLATE}=file:/nope", "the file cannot be read", "No such file"),
    (f"{DISTILLATION}.solution_template=''", "lacks {successful_previous_attempt}"),
    (f"{DISTILLATION}.feedback_template='{{feedback}}'", "lacks {feedback_raw}"),
]
INTERPOLATIONS = [
    ("data.seed=${nothing}", "data.seed: Interpolation key 'nothing' not found"),
    ("data.seed=${oc.env:NOT_SET}", "The environment variable NOT_SET is not set", "export NOT_SET=..."),
    ("data.seed=${unknown:1}", "data.seed: Unsupported interpolation type unknown"),
    ("data.seed=${data.seed}", "data.seed: Recursive interpolation detected"),
    ("data.seed=???", "data.seed: has no value"),
]
PRESETS = {
    "open": ("defaults: [sdpo\ndata: {seed: [\n", "open.yaml, line 2: is not valid YAML"),
    "tab": ("defaults: [sdpo, _self_]\ndata:\n\tseed: 1\n", "tab.yaml, line 3: is not valid YAML"),
    "twice": ("defaults: [sdpo, _self_]\ndata: {seed: 1}\ndata: {seed: 2}\n", "line 3", "found duplicate key data"),
    "list": ("- a\n", "'list' must be a DictConfig"),
    "parent": ("defaults: [sdpoo, _self_]\n", "no such preset (asked for by parent)", "Did you mean sdpo?"),
    "deep": ("defaults: [sdpo, _self_]\ndata: {train: {files: x}}\n", "data.train.files: unknown key"),
}
TABLE = [*KEYS, *VALUES, *NAMED, *BETWEEN, *TEMPLATES, *INTERPOLATIONS]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Answers by the words of the command line, and by the name of the preset."""
    folder = tmp_path_factory.mktemp("presets")
    lines = {f"{text}": text.split(" ") if "template" not in text else [text] for text, *_ in TABLE}
    for name, (text, *_) in PRESETS.items():
        (folder / f"{name}.yaml").write_text(text)
        lines[name] = [f"--config-dir={folder}", f"--config-name={name}"]
    named = [
        argv if any("--config-name" in word for word in argv) else ["--config-name=sdpo", *argv]
        for argv in lines.values()
    ]
    return dict(zip(lines, ask(named), strict=True))


@pytest.mark.parametrize(("line", "words"), [(line, words) for line, *words in TABLE], ids=[row[0] for row in TABLE])
def test_a_command_line_is_refused_before_torch_is_loaded(answers, line, words):
    check(answers[line], words)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_refused_before_torch_is_loaded(answers, name):
    check(answers[name], PRESETS[name][1:])


def check(answer, words):
    assert answer.status == 2
    assert answer.heavy == []
    assert "Traceback" not in answer.text and "STARTED" not in answer.text
    for word in words:
        assert word in answer.text
