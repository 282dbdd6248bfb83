"""MRR per layer under what lies before the speech, which positions are compared, and the cost.

    python tools/retrieval_curve.py --ear aligned-1=runs/base/aligned-1 --ear untrained=untrained:1 \\
        --data data/held.st.jsonl --features runs/base/features --prompts none three system_user \\
        --work runs/base/curve --output docs/results/base/curve.jsonl

Nothing before the span leaves nothing but the span: ``sequence`` is then not measured apart.
An *ear* is a set of weights of the window Q-Former: a folder that ``aista align`` or ``aista pretrain`` made,
new random weights (``untrained:SEED``), or none at all: ``translation`` puts the row's translation, as text,
where the speech would stand. Rows are appended; what stands in the output already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aista import retrieval
from aista.data.dataset import SpeechDataset
from aista.data.feature_store import FeatureStore
from aista.data.manifest import Manifest, Utterance
from aista.model.loading import read_trained
from aista.model.speech_lm import seeded
from aista.model.window_qformer import WindowQFormer
from aista.ot.cost import COSTS
from aista.retrieval.tokens import under_cost
from aista.selection.hidden_states import LayerStates
from aista.selection.measures import about_layer
from aista.speech_llm import Batch, SpeechLM
from aista.speech_llm.pairs import CLOUDS, compared
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
BATCH = 20
States = dict[str, dict[int, list[Tensor]]]  # cloud -> layer -> one (tokens, d) a pair


def main() -> None:
    """Measure every combination that is not in the output yet."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    ears = dict(ear.split("=", 1) for ear in chosen.ear)
    folder = next(source for source in ears.values() if not source.startswith(("untrained", "translation")))
    speech_llm = SpeechLM.load(folder)
    store = FeatureStore(Path(chosen.features)) if chosen.features else None
    dataset = SpeechDataset([Manifest(chosen.data)], features=store)
    drawn = range(min(chosen.pairs, len(dataset)))
    pairs = dataset.subset(sorted(drawn, key=dataset.lengths.__getitem__))  # less padding
    done = {key(row) for row in rows_of(chosen.output)}
    for prompt in chosen.prompts:
        tokens = use_prefix(speech_llm, prompt)
        written = None
        for ear, source in ears.items():
            clouds = [
                cloud
                for cloud in chosen.clouds
                if (chosen.backbone, prompt, ear, cloud) not in done and (tokens or cloud == "span")
            ]
            if not clouds:
                continue
            start = time.process_time()
            if written is None:
                written = cached(chosen.work / f"text-{prompt}-{len(pairs)}.pt", text_side, speech_llm, pairs)
            spoken = side_of(source, speech_llm, pairs)
            extraction = time.process_time() - start
            for cloud in clouds:
                about = {
                    "backbone": chosen.backbone,
                    "prompt": prompt,
                    "prompt_tokens": tokens,
                    "ear": ear,
                    "cloud": cloud,
                    "extraction_cpu_seconds": round(extraction, 1),
                }
                found = list(measured(spoken[cloud], written[cloud], pairs))
                append(chosen.output, [{"experiment": "retrieval_curve", **about, **row} for row in found])
                brief = {(row["layer"], row["cost"]): round(row["mrr"], 2) for row in found}
                print(prompt, ear, cloud, brief, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ear", action="append", required=True, help="NAME=FOLDER | untrained:SEED | translation"
    )
    parser.add_argument("--backbone", default="backbone", help="Its name in the rows.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", help="Folder of cached encoder features.")
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--prompts", nargs="+", default=[*PREFIXES], choices=[*PREFIXES])
    parser.add_argument("--clouds", nargs="+", default=[*CLOUDS], choices=[*CLOUDS])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def use_prefix(speech_llm: SpeechLM, prompt: str) -> int:
    """Let the model's template be this prefix and nothing behind the speech (which could change no state).

    Returns:
        The number of its tokens.
    """
    prompts.TEMPLATES[prompt] = Template(PREFIXES[prompt] + "{speech}", end="", bos=False)
    speech_llm.processor.config.template = speech_llm.model.config.template = prompt
    batch = speech_llm.batcher.translation(["a"], [""], padding_side="right")
    return int(batch.span[0].int().argmax())


def layers_of(speech_llm: SpeechLM) -> tuple[int, ...]:
    """Every layer up to 4, then 6, every fourth, and the last."""
    top = speech_llm.num_layers
    return tuple(layer for layer in range(top + 1) if layer in (*range(5), 6, top) or layer % 4 == 0)


def states_of(batches: Iterable[tuple[Batch, dict[int, Tensor]]]) -> States:
    """Cut the compared positions out of batches of hidden states."""
    found: States = {cloud: {} for cloud in CLOUDS}
    for batch, states in batches:
        for cloud in CLOUDS:
            mask = compared(batch, cloud)
            for layer in states:
                rows = zip(states[layer], mask, strict=True)
                found[cloud].setdefault(layer, []).extend(row[keep].float() for row, keep in rows)
    return found


def parts(pairs: SpeechDataset) -> Iterator[list[tuple[Utterance, Any]]]:
    for start in range(0, len(pairs), BATCH):
        yield [pairs[i] for i in range(start, min(start + BATCH, len(pairs)))]


@torch.no_grad()
def side_of(source: str, speech_llm: SpeechLM, pairs: SpeechDataset) -> States:
    """What stands in the speech slot: speech through an ear, or the translations as text."""
    if source == "translation":
        return states_of(
            text_batches(speech_llm, [[row.translation for row, _ in part] for part in parts(pairs)])
        )
    if source.startswith("untrained:"):
        with seeded(int(source.partition(":")[2])):
            fresh = WindowQFormer(speech_llm.model.config)
        speech_llm.model.window_qformer.load_state_dict(fresh.state_dict())
    else:
        speech_llm.model.load_trainable(read_trained(Path(source)))

    def batches() -> Iterator[tuple[Batch, dict[int, Tensor]]]:
        for part in parts(pairs):
            contents = [content for _, content in part]
            batch = speech_llm.batcher.translation(contents, [""] * len(part), padding_side="right")
            yield batch, speech_llm.states(batch, layers_of(speech_llm))

    return states_of(batches())


def text_side(speech_llm: SpeechLM, pairs: SpeechDataset) -> States:
    return states_of(text_batches(speech_llm, [[row.text or "" for row, _ in part] for part in parts(pairs)]))


def text_batches(speech_llm: SpeechLM, texts: list[list[str]]) -> Iterator[tuple[Batch, dict[int, Tensor]]]:
    for some in texts:
        batch = speech_llm.batcher.translation(some, [""] * len(some), padding_side="right")
        yield batch, speech_llm.text_states(batch, layers_of(speech_llm))


def cached(path: Path, make: Any, *inputs: Any) -> States:
    """Make states, or read those that were made before."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(*inputs), path)
    return torch.load(path, weights_only=True)


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
