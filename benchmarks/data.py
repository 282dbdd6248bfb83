"""How fast data gets from disk to a training step: manifest, decoding, order, cache.

    python benchmarks/data.py [manifest decoding padding shards cache] [--out docs/benchmarks/data.json]

Clips are MP3 at 48 kHz (the format of CoVoST 2) of 2 to 12 s with noise in them; bases have random weights in
the shape of whisper-tiny and of a small Qwen2: times, not scores, are measured. Rates are per second of
processor time of one core (what an idle core does, short of waiting for the disk), but for those called
``wall``. Ratios carry over to other machines better than seconds do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from aista.audio import beats_fbank, load_audio, write_audio
from aista.data.dataset import Collator, SpeechDataset
from aista.data.feature_store import FeatureStore, FeatureStoreWriter
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.data.rearrange import write_shards
from aista.data.sampling import LengthGroupedSampler, padding_waste
from aista.model import AistaForConditionalGeneration, AistaProcessor
from aista.speech_llm import SpeechLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # of a script only its own folder is there
from tests.tiny import tokenizer


def seconds(
    work: Callable[[], Any], repeats: int = 1, clock: Callable[[], float] = time.process_time
) -> float:
    """Return the least time of several runs: processor time, which other programs change little."""
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


def manifest_figures(folder: Path, rows: int) -> dict[str, float]:
    """Time to open a manifest, rows parsed per second, memory that stays."""
    row = Utterance(
        id="common_voice_en_00000000.en-zh", audio="clips/common_voice_en_00000000.mp3", duration=5.42,
        task="st", tgt_lang="zh", speaker="0123456789abcdef", corpus="covost2",
        text="And so, my fellow Americans, ask not what your country can do for you.",
        translation="所以，我的美国同胞们，不要问你的国家能为你做什么。",
    )  # fmt: skip
    path = folder / "big.jsonl"
    write_manifest(path, (row for _ in range(rows)))
    before = held_megabytes()
    opened = seconds(lambda: Manifest(path), repeats=3)
    manifest = Manifest(path)
    count = min(rows, 100_000)
    parsing = seconds(lambda: deque((manifest[i] for i in range(count)), maxlen=0))
    random_rows = np.random.default_rng(0).integers(0, rows, 20_000)
    jumping = seconds(lambda: deque((manifest[int(i)] for i in random_rows), maxlen=0))
    return {
        "rows": rows, "megabytes": path.stat().st_size / 1e6, "open_seconds": opened,
        "rows_per_second": count / parsing, "random_rows_per_second": len(random_rows) / jumping,
        "held_megabytes": held_megabytes() - before,
    }  # fmt: skip


def held_megabytes() -> float:
    """Return the memory of this process that is its own (Linux): without what is mapped from files."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("RssAnon"))


def clips(folder: Path, count: int) -> Manifest:
    """Write MP3 clips with lengths spread like Common Voice's."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        length = float(np.clip(rng.gamma(9, 0.6), 2, 12))
        samples = rng.normal(0, 0.05, round(length * 48_000))
        write_audio(folder / "clips" / f"{index}.mp3", samples, sample_rate_hz=48_000)
        rows.append(
            Utterance(
                id=f"u{index}",
                audio=f"clips/{index}.mp3",
                duration=length,
                task="st",
                tgt_lang="zh",
                text="the text of it " * 3,
                translation="它的文本" * 3,
            )
        )
    write_manifest(folder / "clips.jsonl", rows)
    return Manifest(folder / "clips.jsonl")


_EXTRACTOR = WhisperFeatureExtractor(feature_size=80)


def _decode(path: str) -> int:
    return len(load_audio(path))


def _decode_and_features(path: str) -> int:
    samples = load_audio(path)
    beats_fbank(samples)
    _EXTRACTOR(samples, sampling_rate=16_000, return_tensors="np")
    return len(samples)


def decoding_figures(folder: Path, manifest: Manifest) -> dict[str, float]:
    """Clips per second: decoding and resampling, then with both encoders' features; one and two processes."""
    paths = [str(manifest.audio_path(row)) for row in manifest]
    figures = {
        "decode_clips_per_second": len(paths) / seconds(lambda: [_decode(p) for p in paths], 2),
        "features_clips_per_second_1": len(paths) / seconds(lambda: [_decode_and_features(p) for p in paths]),
    }
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_decode_and_features, paths[:4]))
        one = seconds(lambda: [_decode_and_features(p) for p in paths], clock=time.perf_counter)
        both = seconds(
            lambda: list(pool.map(_decode_and_features, paths, chunksize=8)), clock=time.perf_counter
        )
    figures["wall_clips_per_second_1"] = len(paths) / one
    figures["wall_clips_per_second_2"] = len(paths) / both
    figures["speedup_2_workers"] = one / both
    figures["times_real_time_1"] = (
        sum(row.duration or 0 for row in manifest) / len(paths) * figures["features_clips_per_second_1"]
    )
    return figures


def padding_figures() -> dict[str, float]:
    """Share of padding in batches of 32: random order against grouped, lengths like Common Voice's."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(9, 0.6, 100_000), 2, 12)
    sampler = LengthGroupedSampler(lengths, 32)
    return {
        "random_waste": padding_waste(lengths, rng.permutation(len(lengths)), 32),
        "grouped_waste": sampler.padding_waste(),
        "order_seconds_100k": seconds(lambda: sampler.order(1)),
    }


def shard_figures(folder: Path, manifest: Manifest) -> dict[str, float]:
    """Clips per second: FLAC files, and the same in shards, in training's order."""
    paths = write_shards(manifest, folder / "shards", rows_per_shard=50)
    loose = []
    for index, row in enumerate(Manifest(folder / "shards" / manifest.path.name)):
        samples = load_audio(folder / "shards" / str(row.audio))
        write_audio(folder / "loose" / f"{index}.flac", samples)
        loose.append(row.model_copy(update={"audio": f"loose/{index}.flac"}))
    write_manifest(folder / "loose.jsonl", loose)
    files = SpeechDataset(Manifest(folder / "loose.jsonl"))
    shards = SpeechDataset(Manifest(folder / "shards" / manifest.path.name))
    sampler = LengthGroupedSampler(shards.lengths, 16, blocks=shards.archives)
    order = sampler.order(0).tolist()
    file_seconds, shard_seconds = (
        seconds(lambda data=data: [data[i] for i in order], 2) for data in (files, shards)
    )
    return {
        "shards": len(paths),
        "files_clips_per_second": len(order) / file_seconds,
        "shards_clips_per_second": len(order) / shard_seconds,
        "shards_over_files": file_seconds / shard_seconds,
    }


def model(folder: Path) -> AistaForConditionalGeneration:
    """A speech model on random bases: whisper-tiny's encoder, a small Qwen2."""
    torch.manual_seed(0)
    encoder = WhisperConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536, decoder_layers=1,
        decoder_attention_heads=6, decoder_ffn_dim=64, vocab_size=64, num_mel_bins=80,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(encoder).save_pretrained(folder / "whisper")
    _EXTRACTOR.save_pretrained(folder / "whisper")
    backbone = Qwen2Config(
        vocab_size=262, hidden_size=256, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=768, max_position_embeddings=1024,
    )  # fmt: skip
    Qwen2ForCausalLM(backbone).save_pretrained(folder / "lm")
    tokenizer(folder / "lm")
    qformer = {"hidden_size": 192, "num_attention_heads": 4, "intermediate_size": 512}
    return AistaForConditionalGeneration.from_bases(
        str(folder / "whisper"), str(folder / "lm"), qformer=qformer
    )


def cache_figures(folder: Path, manifest: Manifest, steps: int = 3, batch_size: int = 8) -> dict[str, float]:
    """Seconds of a training step (loading, forward, backward) with and without cached encoder outputs."""
    speech = model(folder)
    processor = AistaProcessor.from_config(speech.config)
    plain = SpeechDataset(manifest).subset(range(steps * batch_size))
    with FeatureStoreWriter(folder / "features", speech.config.feature_dim) as writer, torch.no_grad():
        for row, samples in (plain[i] for i in range(len(plain))):
            inputs = processor.audio_inputs([samples])
            frames = speech.encode_audio(inputs)[0][: speech.config.frames_for(len(samples))]
            writer.add(plain.feature_key(row), frames.numpy())
    cached = SpeechDataset(manifest, features=FeatureStore(folder / "features")).subset(range(len(plain)))
    speech_llm = SpeechLM(speech, processor)
    collator = Collator(speech_llm.batcher)

    def train(dataset: SpeechDataset) -> None:
        for start in range(0, len(dataset), batch_size):
            batch = collator([dataset[i] for i in range(start, start + batch_size)])
            speech_llm.predict(batch["speech"], logits="all").loss.backward()

    speech.train()
    uncached_step, cached_step = (
        seconds(lambda data=data: train(data), 2) / steps for data in (plain, cached)
    )
    return {
        "uncached_step_seconds": uncached_step,
        "cached_step_seconds": cached_step,
        "uncached_over_cached": uncached_step / cached_step,
        "megabytes_per_hour_of_sound": (folder / "features" / "features.bin").stat().st_size
        / 1e6 / (plain.lengths.sum() / 3600),
    }  # fmt: skip


PARTS = ("manifest", "decoding", "padding", "shards", "cache")


def measured(part: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the figures of one part, and how busy the machine was."""
    if part == "manifest":
        figures = manifest_figures(folder, arguments.rows)
    elif part == "padding":
        figures = padding_figures()
    else:
        manifest = clips(folder, arguments.clips)
        if part == "cache":
            figures = cache_figures(folder, manifest)
        else:
            figures = (decoding_figures if part == "decoding" else shard_figures)(folder, manifest)
    return {**figures, "load_average": os.getloadavg()[0]}


def main() -> None:
    """Run the parts and print them; put them into a JSON file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", default=PARTS, choices=[*PARTS, PARTS], metavar="part")
    parser.add_argument("--rows", type=int, default=700_000)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    about: dict[str, Any] = {"cores": os.cpu_count(), "torch": torch.__version__}
    if arguments.out and arguments.out.exists():
        about = json.loads(arguments.out.read_text()) | about
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as name:
            about[part] = measured(part, Path(name), arguments)
        print(part)
        for figure, value in about[part].items():
            print(f"  {figure:<32} {value:,.4g}")
        if arguments.out:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
