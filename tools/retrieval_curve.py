"""MRR per layer under what lies before the speech, which positions are compared, and the cost.

    python tools/retrieval_curve.py --ear aligned-1=runs/base/aligned-1 --ear untrained=untrained:1 \\
        --data data/held.st.jsonl --features runs/base/features --prompts none three system_user \\
        --work runs/base/curve --output docs/results/base/curve.jsonl

Nothing before the span leaves nothing but the span: ``sequence`` is then not measured apart. A prefix is
encoded once and its keys and values are used for every span.

An *ear* is a set of weights of the window Q-Former: a folder that ``aista align`` or ``aista pretrain`` made,
new random weights (``untrained:SEED``), or none at all: ``translation`` puts the row's translation, as text,
where the speech would stand. Rows are appended; what stands in the output already is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aista import retrieval
from aista.data.dataset import SpeechDataset
from aista.data.feature_store import FeatureStore
from aista.data.manifest import Manifest
from aista.model.loading import read_trained
from aista.model.speech_lm import seeded
from aista.model.window_qformer import WindowQFormer
from aista.ot.loss import COSTS
from aista.retrieval.tokens import under_cost
from aista.selection.hidden_states import LayerStates
from aista.selection.select import about_layer
from aista.speech_llm import SpeechLM
from aista.speech_llm.pairs import CLOUDS
from aista.text import prompts
from aista.text.prompts import Template

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
Layers = dict[int, list[Tensor]]  # layer -> one (tokens, d) a pair


def main() -> None:
    """Measure every combination that is not in the output yet."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    ears = dict(ear.split("=", 1) for ear in chosen.ear)
    trained = (source for source in ears.values() if not source.startswith(("untrained", "translation")))
    speech_llm = SpeechLM.load(chosen.model or next(trained))
    # Only the span is made into embeddings by the batcher: every prefix is encoded once, by itself.
    prompts.TEMPLATES["span"] = Template("{speech}", end="", bos=False)
    speech_llm.processor.config.template = speech_llm.model.config.template = "span"
    store = FeatureStore(Path(chosen.features)) if chosen.features else None
    dataset = SpeechDataset([Manifest(chosen.data)], features=store)
    drawn = range(min(chosen.pairs, len(dataset)))
    pairs = dataset.subset(sorted(drawn, key=dataset.lengths.__getitem__))  # less padding
    done = {key(row) for row in rows_of(chosen.output)}
    for prompt in chosen.prompts:
        prefix = Prefix(speech_llm, PREFIXES[prompt])
        written = None
        for ear, source in ears.items():
            clouds = [
                cloud
                for cloud in chosen.clouds
                if (chosen.backbone, prompt, ear, cloud) not in done and (prefix.length or cloud == "span")
            ]
            if not clouds:
                continue
            start = time.process_time()
            if written is None:
                path = chosen.work / f"text-{chosen.backbone}-{prompt}-{len(pairs)}.pt"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    torch.save(prefix.states(embeddings("text", speech_llm, pairs)), path)
                written = torch.load(path, weights_only=True)
            spoken = prefix.states(embeddings(source, speech_llm, pairs))
            extraction = time.process_time() - start
            for cloud in clouds:
                about = {
                    "backbone": chosen.backbone,
                    "prompt": prompt,
                    "prompt_tokens": prefix.length,
                    "ear": ear,
                    "cloud": cloud,
                    "extraction_cpu_seconds": round(extraction, 1),
                }
                sides = (
                    (spoken, written) if cloud == "span" else (prefix.before(spoken), prefix.before(written))
                )
                found = list(measured(*sides, pairs))
                append(chosen.output, [{"experiment": "retrieval_curve", **about, **row} for row in found])
                brief = {(row["layer"], row["cost"]): round(row["mrr"], 2) for row in found}
                print(prompt, ear, cloud, round(extraction), brief, flush=True)


class Prefix:
    """What lies before the span: encoded once, since attention is causal and it is the same for all."""

    def __init__(self, speech_llm: SpeechLM, text: str) -> None:
        self.decoder = speech_llm.decoder
        self.layers = layers_of(speech_llm)
        tokenizer = speech_llm.processor.tokenizer
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]], dtype=torch.int64)
        self.length = ids.shape[1]
        self.cache: Any = None
        self.own: dict[int, Tensor] = {}
        if self.length:
            with torch.no_grad(), self.decoder.capture(self.layers) as states:
                self.cache = self.decoder.module(input_ids=ids, use_cache=True).past_key_values
            self.own = {layer: state[0] for layer, state in states.items()}

    @torch.no_grad()
    def states(self, spans: list[Tensor]) -> Layers:
        """Return the states of the spans behind the prefix."""
        found: Layers = {layer: [] for layer in self.layers}
        for start in range(0, len(spans), BATCH):
            part = spans[start : start + BATCH]
            embedded = pad_sequence(part, batch_first=True)
            real = pad_sequence([torch.ones(len(span), dtype=torch.int64) for span in part], batch_first=True)
            mask = torch.cat([real.new_ones(len(part), self.length), real], 1)
            cache = copy.deepcopy(self.cache)
            if cache is not None:
                cache.batch_repeat_interleave(len(part))
            with self.decoder.capture(self.layers) as states:
                self.decoder.module(
                    inputs_embeds=embedded, attention_mask=mask, past_key_values=cache, use_cache=True
                )
            for layer, state in states.items():
                found[layer] += [row[: len(span)].float() for row, span in zip(state, part, strict=True)]
        return found

    def before(self, spans: Layers) -> Layers:
        """Return the whole sequences: the prefix's own states before those of each span."""
        return {layer: [torch.cat([self.own[layer], row]) for row in rows] for layer, rows in spans.items()}


def arguments() -> argparse.Namespace:
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
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def layers_of(speech_llm: SpeechLM) -> tuple[int, ...]:
    """Every layer up to 4, then 6, every fourth, and the last."""
    top = speech_llm.num_layers
    return tuple(layer for layer in range(top + 1) if layer in (*range(5), 6, top) or layer % 4 == 0)


@torch.no_grad()
def embeddings(source: str, speech_llm: SpeechLM, pairs: SpeechDataset) -> list[Tensor]:
    """Return what enters the language model in the span: transcripts, translations, or speech of an ear."""
    if source.startswith("untrained:"):
        with seeded(int(source.partition(":")[2])):
            fresh = WindowQFormer(speech_llm.model.config)
        speech_llm.model.window_qformer.load_state_dict(fresh.state_dict())
    elif source not in ("text", "translation"):
        trained = read_trained(Path(source)).items()
        ear = {name.removeprefix(EAR): tensor for name, tensor in trained if name.startswith(EAR)}
        speech_llm.model.window_qformer.load_state_dict(ear)
    found = []
    for start in range(0, len(pairs), BATCH):
        part = [pairs[i] for i in range(start, min(start + BATCH, len(pairs)))]
        texts = [(row.translation if source == "translation" else row.text) or "" for row, _ in part]
        written = source in ("text", "translation")
        contents = texts if written else [content for _, content in part]
        batch = speech_llm.batcher.translation(contents, [""] * len(part), padding_side="right")
        states = (speech_llm.text_states if written else speech_llm.states)(batch, (0,))[0]
        found += [row[keep] for row, keep in zip(states, batch.span, strict=True)]
    return found


def measured(
    spoken: dict[int, list[Tensor]], written: dict[int, list[Tensor]], pairs: SpeechDataset
) -> Iterator[dict[str, Any]]:
    """MRR of one cloud at every layer under every cost, with the controls."""
    texts = [row.text or "" for row in pairs.utterances()]
    for layer in sorted(spoken):
        speech, text = spoken[layer], written[layer]
        at = about_layer(LayerStates(layer, [x.numpy() for x in speech], [x.numpy() for x in text]))
        about = {
            "layer": layer,
            "num_pairs": len(texts),
            "chance_mrr": round(retrieval.chance_mrr(len(texts)), 4),
            "length_only_mrr": round(at["length_only"], 4),
            "speech_massive_tokens": round(at["massive_speech"], 4),
            "text_massive_tokens": round(at["massive_text"], 4),
            "speech_top_energy": round(at["energy_top_dims_speech"], 4),
            "text_top_energy": round(at["energy_top_dims_text"], 4),
        }
        for cost in COSTS:
            sides = under_cost(speech, text, cost)
            ranking = retrieval.exact_ranks(*sides, texts=texts)
            control = retrieval.control_ranks(*sides) if layer in (0, 6, 12) else None
            found = {
                "cost": cost,
                "mrr": round(ranking.mrr, 4),
                "shuffled_mrr": round(control.mrr, 4) if control else None,
            }
            yield {**about, **found}


def key(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return row["backbone"], row["prompt"], row["ear"], row["cloud"]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line] if path.exists() else []


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
