"""Probing a speech LLM against the obvious way: time of the ranking, and peak memory.

    python benchmarks/probe.py
    python benchmarks/probe.py --sizes tiny --json probe.json

The obvious way keeps all layers' states of all pairs that ``output_hidden_states=True`` returns, and calls
``ot.emd2([], [], ot.dist(x, y))`` of POT for every pair of every layer; its rankings, both ways, come from
that one matrix. Ours is what ``aista probe`` runs: states on disk layer by layer, certified ranks, both ways
and a shuffled control. Both see the same random Qwen2-Audio and the same noise; each way runs in a process of
its own, on one thread. Times are CPU seconds; memory is the peak of the process above what it held when the
model was loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import ot
import torch

BATCH = 8
TAG = "<|AUDIO|>"


@dataclass(frozen=True)
class Size:
    """A model's shape, and how many pairs are ranked."""

    layers: int
    width: int
    inner: int
    heads: int
    vocabulary: int
    pairs: int


SIZES = {
    "tiny": Size(layers=8, width=128, inner=256, heads=4, vocabulary=1_000, pairs=80),
    "0.5B": Size(layers=24, width=896, inner=4_864, heads=14, vocabulary=151_936, pairs=64),
}


def make(folder: Path, size: Size) -> None:
    """Write a random Qwen2-Audio with a processor that knows 500 words, and a manifest of noise."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    from aista.audio.files import write_audio
    from aista.data.manifest import Utterance, write_manifest

    words = {f"w{i}": i for i in range(500)}
    core = Tokenizer(models.WordLevel({**words, "?": 500}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tags = ["<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|audio_eos|>", TAG]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|pad|>")
    tokenizer.add_special_tokens({"additional_special_tokens": tags})
    torch.manual_seed(0)
    text = {
        "model_type": "qwen2", "vocab_size": size.vocabulary, "hidden_size": size.width,
        "intermediate_size": size.inner, "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
        "num_key_value_heads": 2, "max_position_embeddings": 2_048, "tie_word_embeddings": True,
    }  # fmt: skip
    heard = {
        "num_mel_bins": 80, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 512,
        "d_model": 256, "max_source_positions": 250,
    }  # fmt: skip
    number = tokenizer.convert_tokens_to_ids(TAG)
    config = Qwen2AudioConfig(audio_config=heard, text_config=text, audio_token_index=number)
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder / "model")
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=5)
    Qwen2AudioProcessor(extractor, tokenizer).save_pretrained(folder / "model")
    rng, rows = np.random.default_rng(0), []
    for i in range(size.pairs):
        seconds = float(np.clip(rng.lognormal(np.log(2.5), 0.35), 0.8, 4.9))
        write_audio(folder / f"{i}.wav", rng.standard_normal(round(16_000 * seconds)).astype(np.float32) / 10)
        said = " ".join(f"w{k}" for k in rng.integers(2, 500, max(2, round(4 * seconds))))
        rows.append(Utterance(id=str(i), audio=f"{i}.wav", text=said, task="asr", tgt_lang="en"))
    write_manifest(folder / "pairs.jsonl", rows)


def resident() -> float:
    """Megabytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def ours(folder: Path) -> dict[str, Any]:
    """What ``aista probe`` does for one model, prompt, cloud and cost."""
    from aista.data.dataset import SpeechDataset
    from aista.data.manifest import Manifest
    from aista.selection.hidden_states import Extraction
    from aista.selection.select import about_layer, retrieved
    from aista.speech_llm import SpeechLM

    speech_llm = SpeechLM.load(folder / "model")
    pairs = SpeechDataset([Manifest(folder / "pairs.jsonl")])
    texts = [row.text or "" for row in pairs.utterances()]
    warm_up(speech_llm.model)
    loaded, start = resident(), time.process_time()
    extraction = Extraction(speech_llm, pairs, folder / "states")
    extraction.run(BATCH)
    extracted = time.process_time()
    rows = []
    for states in extraction.layers(range(speech_llm.num_layers + 1), "span"):
        rows.append({**about_layer(states), **retrieved(states, texts, "squared_euclidean")})
    return report(loaded, start, extracted, [(row["mrr"], row["mrr_text_to_speech"]) for row in rows])


def warm_up(model: Any) -> None:
    """Read the weights, and let both ways compile and import what they need, before the clock starts."""
    for weight in model.parameters():
        weight.sum()
    from aista.retrieval import control_ranks, exact_ranks

    clouds = [torch.randn(5, 8) for _ in range(12)]
    for run in (exact_ranks, control_ranks):
        run(clouds, [cloud + 0.1 for cloud in clouds], threads=1)
    ot.emd2([], [], ot.dist(clouds[0].numpy(), clouds[1].numpy()))


@torch.no_grad()
def obvious(folder: Path) -> dict[str, Any]:
    """All hidden states of all pairs in memory, and a loop over POT."""
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    from aista.audio.files import load_audio
    from aista.data.manifest import Manifest

    model = AutoModelForMultimodalLM.from_pretrained(folder / "model").eval()
    processor = AutoProcessor.from_pretrained(folder / "model")
    rows = [row for row in Manifest(folder / "pairs.jsonl")]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "w1"}]}],
        add_generation_prompt=True, tokenize=False,
    )  # fmt: skip
    warm_up(model)
    loaded, start = resident(), time.process_time()
    speech: list[list[np.ndarray]] = []
    text: list[list[np.ndarray]] = []
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        waves = [load_audio(folder / (row.audio or "")) for row in part]
        heard = processor(
            text=[prompt] * len(part), audio=waves, sampling_rate=16_000, return_tensors="pt", padding=True
        )
        read = processor(
            text=[prompt.replace(TAG, row.text or "") for row in part], return_tensors="pt", padding=True
        )
        states = model(**heard, output_hidden_states=True).hidden_states
        span = heard["input_ids"] == model.config.audio_token_id
        speech += [[x[i][span[i]].float().numpy() for x in states] for i in range(len(part))]
        states = model(**read, output_hidden_states=True).hidden_states
        written = (read["input_ids"] >= 2) & (read["input_ids"] < 500)
        text += [[x[i][written[i]].float().numpy() for x in states] for i in range(len(part))]
    extracted = time.process_time()
    found = []
    for layer in range(len(speech[0])):
        distance = np.array(
            [[ot.emd2([], [], ot.dist(x[layer], y[layer])) for y in text] for x in speech], dtype=np.float64
        )
        own = np.diag(distance)
        forth, back = (1 + (side < own[:, None]).sum(1) for side in (distance, distance.T))
        found.append((float(np.mean(1 / forth)), float(np.mean(1 / back))))
    return report(loaded, start, extracted, found)


def report(loaded: float, start: float, extracted: float, mrr: list[tuple[float, float]]) -> dict[str, Any]:
    """What one way took."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {
        "extraction_cpu_seconds": extracted - start,
        "ranking_cpu_seconds": time.process_time() - extracted,
        "loaded_mb": loaded,
        "peak_above_model_mb": peak - loaded,
        "mrr": mrr,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=[*SIZES], choices=[*SIZES])
    parser.add_argument("--json", type=Path, help="Also write the figures here.")
    parser.add_argument("--way", choices=["ours", "obvious"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.way:
        print(json.dumps({"ours": ours, "obvious": obvious}[chosen.way](chosen.folder)))
        return
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, POT {ot.__version__}")
    found: dict[str, Any] = {}
    for name in chosen.sizes:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), SIZES[name])
            ways = {}
            for way in ("ours", "obvious"):
                command = [sys.executable, __file__, "--way", way, "--folder", folder]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                ways[way] = json.loads(done.stdout.strip().split("\n")[-1])
        one, other = ways["ours"], ways["obvious"]
        apart = float(np.abs(np.subtract(one["mrr"], other["mrr"])).max())
        found[name] = {"pairs": SIZES[name].pairs, **ways, "mrr_apart": apart}
        for key in ("extraction_cpu_seconds", "ranking_cpu_seconds", "peak_above_model_mb"):
            ratio = other[key] / one[key]
            print(f"{name:5s} {key:22s} ours {one[key]:9.1f}  obvious {other[key]:9.1f}  {ratio:6.1f}x")
        print(f"{name:5s} model and libraries {one['loaded_mb']:.0f} MB; MRR apart {apart:.1e}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
