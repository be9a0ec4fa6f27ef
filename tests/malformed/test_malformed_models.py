"""Model folders that cannot be trained: damage to files is told at the door, the rest when the run starts."""

import importlib.util
import json
import shutil

import pytest
from doors import ROOT, arguments, ask, check, start, write_rows

MODEL = ROOT / "recipes/embedded/model"
WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def edit(name, **changes):
    """Change the fields of a JSON file; ... takes one out."""

    def do(folder):
        values = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))

    return do


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(folder):
    write(WEIGHTS, (folder / WEIGHTS).read_bytes()[:100_000])(folder)


def pickled(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def lost_shard(folder):
    remove(WEIGHTS)(folder)
    shards = {"model.norm.weight": "model-00001-of-00002.safetensors"}
    write(INDEX, json.dumps({"weight_map": shards}))(folder)


def lost_tensor(folder):
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    write(INDEX, json.dumps({"weight_map": {"model.norm.weight": "a.safetensors", "gone": "a.safetensors"}}))(folder)


def broken_index(folder):
    remove(WEIGHTS)(folder)
    write(INDEX, "{")(folder)


def no_end(folder):
    edit("tokenizer_config.json", eos_token=...)(folder)
    edit(CONFIG, eos_token_id=...)(folder)
    remove("generation_config.json")(folder)


def change_tensors(change):
    def do(folder):
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return do


DOWN = "model.layers.0.mlp.down_proj.weight"
AT_THE_DOOR = {
    "no config": (remove(CONFIG), "is not a model folder (no config.json there)"),
    "config is not JSON": (write(CONFIG, "{"), "config.json cannot be read"),
    "config is a list": (write(CONFIG, "[]"), "config.json holds a list, not an object"),
    "no model type": (edit(CONFIG, model_type=...), "config.json has no model_type"),
    "unknown dtype": (edit(CONFIG, dtype="float33"), "dtype=float33", "did you mean float32?"),
    "an encoder": (edit(CONFIG, model_type="bert", architectures=["BertForMaskedLM"]), "not a causal language model"),
    "a classifier": (edit(CONFIG, architectures=["Qwen3ForSequenceClassification"]), "is a Qwen3ForSequenceClassific"),
    "no weights": (remove(WEIGHTS), "has no weights (neither model.safetensors nor"),
    "weights cut off": (cut, "model.safetensors has 100000 bytes and should have", "cut off or damaged"),
    "weights are text": (write(WEIGHTS, "hello"), "model.safetensors is not a safetensors file (5 bytes)"),
    "weights are empty": (write(WEIGHTS, ""), "is not a safetensors file (0 bytes)"),
    "Git LFS pointer": (write(WEIGHTS, "version https://git-lfs"), "is a Git LFS pointer", "git lfs pull"),
    "pickled weights": (pickled, "pytorch_model.bin, a pickle, which can run any code", "save_pretrained"),
    "a shard is missing": (lost_shard, "lacks 1 of 1 files that model.safetensors.index.json names: model-00001-of"),
    "a shard lacks a tensor": (lost_tensor, "a.safetensors lacks 1 tensors that", "gone"),
    "index is not JSON": (broken_index, "model.safetensors.index.json cannot be read"),
    "no tokenizer": (remove(*TOKENIZER), "holds no tokenizer (none of tokenizer.json,"),
    "tokenizer settings are not JSON": (write("tokenizer_config.json", "{"), "tokenizer_config.json cannot be read"),
}
AT_THE_START = {
    "unknown architecture": (edit(CONFIG, model_type="quen3"), "its configuration cannot be read", "`quen3`"),
    "code of its own": (
        edit(CONFIG, model_type="mine", auto_map={"AutoConfig": "a.C", "AutoModelForCausalLM": "a.M"}),
        "where you trust that, set model.trust_remote_code=true",
    ),
    "tokenizer is not JSON": (write("tokenizer.json", "{"), "its tokenizer cannot be read"),
    "no chat template": (remove("chat_template.jinja"), "has no chat template", "model.tokenizer_path="),
    "chat template does not parse": (
        write("chat_template.jinja", "{% for m in messages %}"),
        "row 0 (the first is 0): the chat template refuses this chat: TemplateSyntaxError",
    ),
    "chat template looks at nothing": (
        write("chat_template.jinja", "hello"),
        "tokens for every prompt, although rows 0 and 1 differ",
    ),
    "chat template writes nothing": (write("chat_template.jinja", ""), "has no chat template"),
    "no end of sequence": (no_end, "names an end-of-sequence token, so no response would ever end"),
    "tokenizer of a larger model": (edit(CONFIG, vocab_size=200), "has 375 tokens, the model", "only 200"),
    "a weight is missing": (
        change_tensors(lambda tensors: tensors.pop(DOWN)),
        f"lack 1 of the weights that its config.json asks for: {DOWN}. They would have been random.",
    ),
    "more layers than weights": (edit(CONFIG, num_hidden_layers=5, layer_types=...), "lack 33 of the weights"),
    "weights of other shapes": (edit(CONFIG, intermediate_size=100), "is [64, 128] in the file and [64, 100] by"),
    "a weight is not a number": (
        change_tensors(lambda tensors: tensors[DOWN].fill_(float("nan"))),
        f"its logits are not finite, and neither are 1 of its weights: {DOWN}",
    ),
}
MODEL_KEY = "actor_rollout_ref.model"
SETTINGS = {
    "adapters on no module": (
        ["lora_rank=4", "target_modules=[none_proj]"],
        "'none_proj' is no linear module",
    ),
    "one adapter is misspelt": (["lora_rank=4", "target_modules=[q_proj,v_porj]"], "'v_porj'", "Did you mean v_proj?"),
    "adapters on all_linear": (["lora_rank=4", "target_modules=all_linear"], "Did you mean all-linear?"),
    "a hub name that cannot be fetched": (["path=nobody/none"], "model.path=nobody/none: its tokenizer cannot be read"),
}


def copy(folder, name):
    target = folder / name.replace(" ", "_")
    shutil.copytree(MODEL, target)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    rows = [
        {
            "data_source": "home_api",
            "prompt": [{"role": "user", "content": f"light {number}"}],
            "reward_model": {"ground_truth": "light.on()"},
        }
        for number in range(4)
    ]
    write_rows(folder / "train.parquet", rows)
    return folder


@pytest.fixture(scope="module")
def answers(folder):
    lines = {}
    for name, (damage, *_) in AT_THE_DOOR.items():
        model = copy(folder, name)
        damage(model)
        lines[name] = arguments(folder, f"{MODEL_KEY}.path={model}")
    lines["whole"] = arguments(folder)
    lines["tokenizer alone"] = [*lines["whole"], f"{MODEL_KEY}.tokenizer_path={tokenizer_alone(folder)}"]
    lines["vllm"] = [*lines["whole"], "actor_rollout_ref.rollout.engine_kwargs.vllm.gpu_memory_utilisation=0.5"]
    return dict(zip(lines, ask(list(lines.values())), strict=True))


def tokenizer_alone(folder):
    target = folder / "tokenizer_alone"
    target.mkdir()
    for name in TOKENIZER:
        shutil.copy(MODEL / name, target)
    return target


@pytest.mark.parametrize("name", AT_THE_DOOR)
def test_a_damaged_folder_is_refused_before_torch_is_loaded(answers, name):
    answer = answers[name]
    assert (answer.status, answer.heavy) == (2, []), answer.text
    assert f"{MODEL_KEY}.path=" in answer.text and "1 problem(s)" in answer.text
    for word in AT_THE_DOOR[name][1:]:
        assert word in answer.text


@pytest.mark.parametrize("name", ["whole", "tokenizer alone"])
def test_a_good_folder_passes_the_door(answers, name):
    assert answers[name].status == 0 and "STARTED" in answers[name].text, answers[name].text


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_misspelt_argument_of_the_engine_is_refused_before_torch_is_loaded(answers):
    answer = answers["vllm"]
    assert (answer.status, answer.heavy) == (2, [])
    assert "gpu_memory_utilisation=0.5: the installed vLLM has no such argument" in answer.text
    assert "Did you mean gpu_memory_utilization?" in answer.text


def begin(config):
    """What a run does before its first step, in this process."""
    from verl.trainer.roles import local_roles
    from verl.trainer.run_data import load_run_data

    load_run_data(config)
    with local_roles(config, 1):
        pass


@pytest.mark.parametrize("name", AT_THE_START)
def test_a_folder_that_only_transformers_can_judge_ends_the_start(folder, name):
    damage, *words = AT_THE_START[name]
    model = copy(folder, name)
    damage(model)
    check(start(arguments(folder, f"{MODEL_KEY}.path={model}"), begin), 1, words)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_do_not_fit_the_model_end_the_start(folder, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read on import
    settings, *words = SETTINGS[name]
    check(start(arguments(folder, *[f"{MODEL_KEY}.{setting}" for setting in settings]), begin), 1, words)


def test_heads_of_a_teacher_that_cannot_be_spread_over_ranks_end_the_start(folder):
    teacher = copy(folder, "three heads")
    edit(CONFIG, num_attention_heads=3, num_key_value_heads=1)(teacher)
    more = ["trainer.n_gpus_per_node=2", "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"]
    line = arguments(folder, *more, f"actor_rollout_ref.ref.model.path={teacher}")
    check(start(line, begin), 1, [f"size=2: must divide the 3 attention heads of {teacher}"])
