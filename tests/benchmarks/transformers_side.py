"""One side of rollout.py: `generate` of transformers, the whole batch at once, in one process.

Question: {"generate": {...}} as trainer_side.py takes it.
"""

import json
import random
import sys
import time

import torch
from sides import Channel
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def generate(model, tokenizer, texts, batch, samples, response, is_mixed, seed):
    """Nothing is handed out before all have ended, and a response that ended is computed on as padding.

    With `is_mixed` the lengths wanted are those of trainer_side.py; only tokens that were wanted count.
    """
    prompts = [text for text in texts[: batch // samples] for _ in range(samples)]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    rng = random.Random(seed)
    wanted = [rng.randint(1, response) if is_mixed else response for _ in prompts]
    torch.manual_seed(seed)
    begin = time.perf_counter()
    output = model.generate(
        **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=max(wanted), use_cache=True
    )
    seconds = time.perf_counter() - begin
    assert output.shape[1] == inputs["input_ids"].shape[1] + max(wanted)
    return {"seconds": seconds, "tokens": sum(wanted), "first_response": seconds, "half_of_responses": seconds}


def main():
    channel = Channel()
    work = json.loads(sys.argv[1])
    torch.set_num_threads(work["threads"])
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(work["model"], padding_side="left")
    texts = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        for messages in work["messages"]
    ]
    channel.send({"engine": "transformers.generate"})
    while (question := channel.receive()) is not None:
        channel.send(generate(model, tokenizer, texts, **question["generate"]))


if __name__ == "__main__":
    main()
