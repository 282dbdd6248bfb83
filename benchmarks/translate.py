"""Batched translation against one utterance at a time, and how much faster than the sound itself.

    python benchmarks/translate.py                       the shipped model on 64 synthetic sentences
    python benchmarks/translate.py --data test.jsonl --model runs/joint --to ja

The two ways take turns, sixteen utterances at a time, in one process; the texts must be identical. CPU
seconds of the process are compared, which other load disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from aista.audio.files import load_audio
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest
from aista.inference.translating import GenerationSettings
from aista.inference.translator import answer
from aista.model import AistaForConditionalGeneration, AistaProcessor
from aista.speech_llm import SpeechLM
from aista.text.prompts import instruction

BATCH = 16


def recordings(count: int) -> list[np.ndarray]:
    """Sentences of the demo's grammar in drawn voices (needs the demo's synthesiser)."""
    from aista.demo.grammar import sentences
    from aista.demo.speech import TEST_VARIANTS, draw_voice, utter

    found = []
    for number, sentence in enumerate(sentences(count, seed=5, split="test")):
        samples = utter(sentence.en, draw_voice(Random(number), TEST_VARIANTS), seed=number)
        if samples is not None:
            found.append(samples)
    return found


def read(manifest: str, count: int) -> list[np.ndarray]:
    """The first recordings of a manifest."""
    rows = [row for row in SpeechDataset([Manifest(manifest)]).utterances() if row.audio]
    return [
        load_audio(row.audio, offset_seconds=row.offset, duration_seconds=row.duration)
        for row in rows[:count]
        if row.audio
    ]


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what came out, and wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def compare(model: Any, processor: Any, sounds: list[np.ndarray], to: str, beams: int) -> dict[str, Any]:
    """Translate everything in both ways, in turns."""
    prompt = instruction("st", to)
    totals = {1: np.zeros(2), BATCH: np.zeros(2)}
    different = 0
    speech_llm = SpeechLM(model, processor)
    answer(speech_llm, sounds[:1], [prompt], GenerationSettings(num_beams=beams))
    for start in range(0, len(sounds), BATCH):
        batch = sounds[start : start + BATCH]
        prompts = [prompt] * len(batch)
        texts = {}
        for size in (1, BATCH) if start % (2 * BATCH) else (BATCH, 1):
            generation = GenerationSettings(num_beams=beams, batch_size=size)
            answers, wall, cpu = timed(lambda: answer(speech_llm, batch, prompts, generation))  # noqa: B023
            texts[size] = [each.text for each in answers]
            totals[size] += (wall, cpu)
        different += sum(one != other for one, other in zip(texts[1], texts[BATCH], strict=True))
    heard = sum(map(len, sounds)) / SAMPLE_RATE_HZ
    ways = {
        str(size): {
            "utterances_per_cpu_second": len(sounds) / cpu,
            "real_time_factor_cpu": cpu / heard,
            "seconds": wall,
            "cpu_seconds": cpu,
        }
        for size, (wall, cpu) in totals.items()
    }
    ratio = totals[1] / totals[BATCH]
    return {
        "utterances": len(sounds), "audio_seconds": heard, "different_texts": different, "beams": beams,
        "ways": ways, "ratio_wall": ratio[0], "ratio_cpu": ratio[1],
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--model", default="aista:model")
    parser.add_argument("--data", help="Manifest; without it sentences are synthesised.")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--to", default="zh")
    parser.add_argument("--beams", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = AistaForConditionalGeneration.from_pretrained(options.model).eval()
    processor = AistaProcessor.from_pretrained(options.model)
    sounds = read(options.data, options.count) if options.data else recordings(options.count)
    results: dict[str, Any] = {"date": str(date.today()), "torch": torch.__version__, "model": options.model}
    results |= {"machine": platform.processor(), "threads": options.threads}
    results["runs"] = [compare(model, processor, sounds, options.to, beams) for beams in options.beams]
    print(json.dumps(results, indent=1))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
