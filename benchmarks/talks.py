"""Synthetic talks of any length through the shipped model: speed, memory, word times, quality.

    python benchmarks/talks.py --minutes 1 10 60

A talk is sentences of the demo's grammar in drawn voices with pauses of 0.6 to 1.5 s, over low noise. Each
length runs in a process of its own, so that its peak of memory is its own. Needs `pip install '.[demo,vad]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from difflib import SequenceMatcher
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from rich.progress import track

SAMPLE_RATE_HZ = 16_000


def talk(minutes: float, seed: int = 0, block_minutes: float = 10.0):
    """Return samples, the words spoken with their starts in seconds, and the sentences' Chinese.

    A talk that is longer than ``block_minutes`` repeats its beginning, with other noise.
    """
    from aista.demo.grammar import sentences
    from aista.demo.speech import TEST_VARIANTS, coloured_noise, draw_voice, synthesiser

    rng, voices = np.random.default_rng(seed), Random(seed)
    parts, words, chinese, at = [np.zeros(SAMPLE_RATE_HZ // 2)], [], [], 0.5
    block = min(minutes, block_minutes) * 60
    for number, sentence in enumerate(sentences(max(20, int(block / 2)), seed=seed + 1, split="test")):
        if at > block - 5:
            break
        voice = draw_voice(voices, TEST_VARIANTS)
        samples = synthesiser().speak(sentence.en, voice, seed=number)
        samples *= voice.peak / np.abs(samples).max()
        pause = np.zeros(int(rng.uniform(0.6, 1.5) * SAMPLE_RATE_HZ))
        starts = [start for *_, start in synthesiser().word_starts]
        if len(starts) == len(sentence.en.split()):
            words += [(word, at + start) for word, start in zip(sentence.en.split(), starts, strict=True)]
        parts += [samples, pause]
        chinese.append(sentence.zh)
        at += (len(samples) + len(pause)) / SAMPLE_RATE_HZ
    once = np.concatenate(parts).astype(np.float32)
    times = max(1, round(minutes * 60 / at)) if minutes > block_minutes else 1
    whole = np.tile(once, times)
    for start in range(0, len(whole), len(once)):
        whole[start : start + len(once)] += 0.003 * coloured_noise(len(once), 0.5, rng)
    shift = len(once) / SAMPLE_RATE_HZ
    return (
        np.clip(whole, -1, 1),
        [(word, start + turn * shift) for turn in range(times) for word, start in words],
        chinese * times,
    )


def word_error(found, true, window_seconds: float = 30.0) -> dict[str, float]:
    """Return errors of the starts of words that both have, in order.

    Words are matched within windows of time: over an hour the same sentences come again, and the longest
    common run of words may lie an hour away.
    """
    pairs = []
    for begin in np.arange(0.0, max(start for _, start in true) + 1, window_seconds):
        mine, theirs = (
            [(w, start) for w, start in words if begin <= start < begin + window_seconds]
            for words in (found, true)
        )
        matcher = SequenceMatcher(None, [w for w, _ in mine], [w for w, _ in theirs], autojunk=False)
        pairs += [
            abs(mine[i + k][1] - theirs[j + k][1])
            for i, j, size in matcher.get_matching_blocks()
            for k in range(size)
        ]
    return {"words": len(pairs), "mean": float(np.mean(pairs)), "median": float(np.median(pairs))}


def measure(minutes: float) -> dict:
    """Translate one talk into Chinese, write it down in English, and say what that took."""
    import aista
    from aista.evaluation.metrics import bleu
    from aista.inference.words import evenly

    samples, words, chinese = talk(minutes)
    translator = aista.load(batch_size=8)
    translator.translate(samples[: 5 * SAMPLE_RATE_HZ], "zh")
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(samples) / SAMPLE_RATE_HZ
    cpu, wall = time.process_time(), time.perf_counter()
    result = translator.translate(samples, "zh")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    translator.word_times = True
    spoken = translator.translate(samples, "en")
    exact = [(word.text, word.start_seconds) for row in spoken.segments for word in row.words]
    even = [
        (word.text, word.start_seconds)
        for row in spoken.segments
        for word in evenly(row.text, "en", row.start_seconds, row.end_seconds)
    ]
    kinds: dict[str, int] = {}
    for row in result.warnings:
        kinds[row.kind] = kinds.get(row.kind, 0) + max(1, len(row.spans))
    texts = [row.text for row in result.segments if row.text]
    return {
        "minutes": round(seconds / 60, 2),
        "sentences": len(chinese),
        "spoken_segments": len(texts),
        "real_time_factor_cpu": cpu / seconds,
        "real_time_factor_wall": wall / seconds,
        "samples_mb": samples.nbytes / 1e6,
        "peak_mb": peak / 1e3,
        "peak_growth_mb": (peak - before) / 1e3,
        "bleu_zh_by_sentence": bleu(texts, chinese, "zh").value if len(texts) == len(chinese) else None,
        "word_start_error": word_error(exact, words),
        "even_spacing_error": word_error(even, words),
        "warnings": kinds,
    }


def main() -> None:
    """Measure each length in a process of its own and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--alone", action="store_true", help="Measure in this process.")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options.minutes[0])))
        return
    for minutes in track(options.minutes, "talks", disable=not sys.stderr.isatty()):
        command = [sys.executable, __file__, "--alone", "--minutes", str(minutes)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(json.dumps(json.loads(out.rstrip("\n").split("\n")[-1]), indent=1), flush=True)


if __name__ == "__main__":
    main()
