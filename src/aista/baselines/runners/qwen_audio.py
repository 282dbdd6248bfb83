"""Qwen-Audio at the other end of a pipe, in an environment of its own.

Run by another Python (3.8 or later, see qwen_audio.requirements.txt): it imports nothing of this package.
JSON lines in: {"id", "audio": path of a WAV file, "prompt", "max_new_tokens", "num_beams", ...}. JSON lines
out: first {"ready": true, "versions": {...}}, then for each line one {"id", "hyp", "finished", "seconds",
"error"}. Whatever a library prints goes to stderr.
"""

import argparse
import json
import os
import sys
import time

SEARCH = ("max_new_tokens", "num_beams", "length_penalty", "repetition_penalty")


def protocol():
    """Keep stdout for answers alone: the tokenizer of the model prints."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def load(name, revision, device):
    import torch
    import transformers

    kwargs = {"trust_remote_code": True, "revision": revision}
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **kwargs)
    half = {"bf16": True} if device.startswith("cuda") else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        name, device_map=device, **half, **kwargs
    ).eval()
    return model, tokenizer, {"torch": torch.__version__, "transformers": transformers.__version__}


def answer(model, tokenizer, row):
    import torch

    query = f"<audio>{row['audio']}</audio>{row['prompt']}"
    heard = tokenizer.process_audio(query)
    inputs = tokenizer(query, return_tensors="pt", audio_info=heard).to(model.device)
    search = {name: row[name] for name in SEARCH if name in row}
    with torch.no_grad():
        ids = model.generate(
            **inputs,
            audio_info=heard,
            do_sample=False,
            min_new_tokens=1,
            pad_token_id=tokenizer.eod_id,
            eos_token_id=tokenizer.eod_id,
            **search,
        )
    new = ids[0, inputs["input_ids"].size(1) :].tolist()
    finished = tokenizer.eod_id in new or len(new) < row.get("max_new_tokens", len(new) + 1)
    if tokenizer.eod_id in new:
        new = new[: new.index(tokenizer.eod_id)]
    return tokenizer.decode(new, skip_special_tokens=False).strip(), finished


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="Qwen/Qwen-Audio")
    parser.add_argument("--revision")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    answers = protocol()

    def say(message):
        answers.write(json.dumps(message, ensure_ascii=False) + "\n")
        answers.flush()

    model, tokenizer, versions = load(given.model, given.revision, given.device)
    say({"ready": True, "versions": versions})
    for line in sys.stdin:
        row = json.loads(line)
        started = time.time()
        result = {"id": row["id"], "hyp": "", "finished": True, "error": None}
        try:
            result["hyp"], result["finished"] = answer(model, tokenizer, row)
        except Exception as error:  # one clip that fails must not end the others
            result["error"] = f"{type(error).__name__}: {error}"
        result["seconds"] = round(time.time() - started, 3)
        say(result)


if __name__ == "__main__":
    main()
