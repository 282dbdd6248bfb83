"""MRR per layer under what lies before the speech, which positions are compared, and the cost.

    python tools/retrieval_curve.py --ear aligned-1=runs/base/aligned-1 --ear untrained=untrained:1 \\
        --data data/held.st.jsonl --features runs/base/features --prompts none three system_user \\
        --output docs/results/base/curve.jsonl

``aista probe`` measures the same of whole models. Here the language model stays and *ears* change: weights of
the window Q-Former from a folder that ``aista align`` or ``aista pretrain`` made, new random ones
(``untrained:SEED``), or none at all: ``translation`` puts the row's translation, as text, where the speech
would stand. Nothing before the span leaves nothing but the span: ``sequence`` is then not measured apart.
Rows are appended; what stands in the output already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aista.data.dataset import SpeechDataset
from aista.data.feature_store import FeatureStore
from aista.data.manifest import Manifest
from aista.model.loading import read_trained
from aista.model.speech_lm import seeded
from aista.model.window_qformer import WindowQFormer
from aista.ot.loss import COSTS
from aista.retrieval import control_ranks, exact_ranks
from aista.retrieval.tokens import under_cost
from aista.selection.hidden_states import LayerStates
from aista.selection.select import about_layer, as_clouds
from aista.speech_llm import SpeechLM
from aista.speech_llm.pairs import CLOUDS, compared
from aista.text.prompts import text_ids

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
PREFIXES = {
    "none": "",
    "one": "<|im_start|>",
    "three": "<|im_start|>user\n",
    "salmonn": "USER: <Speech>",
    "system_user": SYSTEM,
    "qwen2_audio": SYSTEM + "Audio 1: ",  # without its audio tag, which is no token of Qwen2.5
}
BATCH, EAR = 20, "window_qformer."


def main() -> None:
    """Measure every combination that is not in the output yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ear", action="append", required=True, help="NAME=FOLDER | untrained:SEED | translation"
    )
    parser.add_argument("--backbone", default="backbone", help="Its name in the rows.")
    parser.add_argument("--model", help="Folder of a model on the backbone; default: the first ear's.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", help="Folder of cached encoder features.")
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--prompts", nargs="+", default=[*PREFIXES], choices=[*PREFIXES])
    parser.add_argument("--clouds", nargs="+", default=[*CLOUDS], choices=[*CLOUDS])
    parser.add_argument("--costs", nargs="+", default=[*COSTS], choices=[*COSTS])
    parser.add_argument("--layers", nargs="+", type=int, help="Default: 0 to 4, 6, every fourth, the last.")
    parser.add_argument("--controls", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--dtype", default="float32", help="Of the frozen weights.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    ears = dict(ear.split("=", 1) for ear in chosen.ear)
    trained = (source for source in ears.values() if not source.startswith(("untrained", "translation")))
    speech_llm = SpeechLM.load(chosen.model or next(trained), dtype=chosen.dtype)
    store = FeatureStore(Path(chosen.features)) if chosen.features else None
    dataset = SpeechDataset([Manifest(chosen.data)], features=store)
    drawn = range(min(chosen.pairs, len(dataset)))
    pairs = dataset.subset(sorted(drawn, key=dataset.lengths.__getitem__))  # less padding
    texts = [row.text or "" for row in pairs.utterances()]
    old = chosen.output.read_text().split("\n") if chosen.output.exists() else []
    since = {"data": chosen.data}  # older rows do not name it
    done = {tuple(map((since | json.loads(line)).get, _KEY)) for line in old if line}
    top = speech_llm.num_layers
    layers = chosen.layers or [k for k in range(top + 1) if k in (*range(5), 6, top) or k % 4 == 0]
    for prompt in chosen.prompts:
        before = text_ids(speech_llm.batcher.tokenizer, PREFIXES[prompt])
        read = cache(partial(states, speech_llm, pairs, "text", before, layers))  # the same for every ear
        for ear, source in ears.items():
            for cloud in chosen.clouds if before else ("span",):
                about = {
                    "backbone": chosen.backbone, "prompt": prompt, "ear": ear, "cloud": cloud,
                    "data": chosen.data, "num_pairs": len(texts),
                }  # fmt: skip
                if tuple(about.values()) in done:
                    continue
                start = time.process_time()
                hear_with(speech_llm, source)
                side = "translation" if source == "translation" else "speech"
                heard, text = states(speech_llm, pairs, side, before, layers, cloud), read(cloud)
                spent = round(time.process_time() - start, 1)
                rows = [
                    {
                        "experiment": "retrieval_curve", **about, "prompt_tokens": len(before),
                        "extraction_cpu_seconds": spent, **row,
                    }
                    for k in layers
                    for row in measured(
                        LayerStates(k, heard[k], text[k]), texts, chosen.costs, chosen.controls
                    )
                ]  # fmt: skip
                chosen.output.parent.mkdir(parents=True, exist_ok=True)
                with chosen.output.open("a", encoding="utf-8") as file:
                    file.write("".join(json.dumps(row) + "\n" for row in rows))
                brief = {(row["layer"], row["cost"]): round(row["mrr"], 2) for row in rows}
                print(prompt, ear, cloud, spent, brief, flush=True)


_SIDES = ("speech", "text")
_KEY = ("backbone", "prompt", "ear", "cloud", "data", "num_pairs")


def hear_with(speech_llm: SpeechLM, source: str) -> None:
    """Give the model an ear; text in place of speech needs none.

    Raises:
        SystemExit: The ear was trained beside other LoRA than the model has, and would not be heard with it.
    """
    if source.startswith("untrained:"):
        with seeded(int(source.partition(":")[2])):
            fresh = WindowQFormer(speech_llm.model.config)
        speech_llm.model.window_qformer.load_state_dict(fresh.state_dict())
    elif source != "translation":
        trained = read_trained(Path(source))
        here = speech_llm.model.state_dict()
        beside = {name: tensor for name, tensor in trained.items() if "lora_B" in name and tensor.any()}
        if any(not torch.equal(tensor.to(here[name]), here[name]) for name, tensor in beside.items()):
            raise SystemExit(f"{source} was trained with LoRA of its own: --model {source}, in a run apart")
        ear = {name.removeprefix(EAR): tensor for name, tensor in trained.items() if name.startswith(EAR)}
        speech_llm.model.window_qformer.load_state_dict(ear)


@torch.no_grad()
def states(
    speech_llm: SpeechLM,
    pairs: SpeechDataset,
    side: str,
    before: Sequence[int],
    layers: Sequence[int],
    cloud: str,
) -> dict[int, list[np.ndarray]]:
    """Return the states of one side, speech, text or translation, by layer."""
    found: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    for start in range(0, len(pairs), BATCH):
        items = [pairs[i] for i in range(start, min(start + BATCH, len(pairs)))]
        contents = [content if side == "speech" else getattr(row, side) or "" for row, content in items]
        batch = speech_llm.batcher.translation(contents, [""] * len(items), padding_side="right")
        batch = speech_llm.batcher.up_to_speech(batch, before)
        read = speech_llm.states if batch.sound else speech_llm.text_states
        for layer, rows in read(batch, layers).items():
            found[layer] += [
                row[at].float().numpy() for row, at in zip(rows, compared(batch, cloud), strict=True)
            ]
    return found


def measured(
    at: LayerStates, texts: Sequence[str], costs: Sequence[str], controls: bool
) -> list[dict[str, Any]]:
    """Return the MRR of one layer under every cost, with the shuffled control where asked."""
    layer, rows = about_layer(at, texts), []
    for cost in costs:
        speech, text = under_cost(*as_clouds(at), cost)
        ranking = exact_ranks(speech, text, texts=texts)
        shuffled = round(control_ranks(speech, text, texts=texts).mrr, 4) if controls else None
        rows.append(
            {
                "layer": at.layer, "cost": cost, "mrr": round(ranking.mrr, 4),
                "shuffled_mrr": shuffled, "chance_mrr": round(ranking.chance, 4),
                "length_only_mrr": round(layer["length_only"], 4),
                **{f"{side}_massive_tokens": round(layer[f"massive_{side}"], 4) for side in _SIDES},
                **{f"{side}_top_energy": round(layer[f"energy_top_dims_{side}"], 4) for side in _SIDES},
            }
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
