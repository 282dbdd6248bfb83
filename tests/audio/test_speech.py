"""Speech is found where it is; noise and tones are not; a recording in pieces is cut as a whole one is."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.audio import speech
from aista.audio.speech import SpeechFinder, find_speech, sounding

needs_detector = pytest.mark.skipif(not speech.is_installed(), reason="needs pip install '.[vad]'")


def noise(seconds: float, level: float, slope: float = 0.0, seed: int = 0) -> np.ndarray:
    from aista.demo.speech import coloured_noise

    return level * coloured_noise(int(seconds * 16_000), slope, np.random.default_rng(seed))


def tone(seconds: float, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * 16_000)) / 16_000)).astype(np.float32)


@pytest.fixture(scope="module")
def sentences() -> list[np.ndarray]:
    pytest.importorskip("espeakng_loader")
    from aista.demo.speech import TEST_VARIANTS, draw_voice, utter

    texts = ["The doctor has bought a newspaper.", "She will return to Tokyo by plane."]
    made = (utter(text, draw_voice(Random(i), TEST_VARIANTS), seed=i) for i, text in enumerate(texts))
    return [samples for samples in made if samples is not None]


@needs_detector
def test_speech_is_found_between_noise_tone_and_silence(sentences):
    one, two = sentences
    rest = [noise(2.0, 0.05), tone(2.0), np.zeros(32_000, np.float32)]
    found = find_speech(np.concatenate([rest[0], one, rest[1], two, rest[2]]))
    spoken = [piece for piece in found if not piece.silent]
    starts = [2.0, 4.0 + len(one) / 16_000]
    assert len(spoken) == 2
    for piece, start, sentence in zip(spoken, starts, sentences, strict=True):
        assert piece.start_seconds == pytest.approx(start, abs=0.35)
        assert piece.end_seconds == pytest.approx(start + len(sentence) / 16_000, abs=0.45)


@pytest.mark.slow
@needs_detector
@pytest.mark.parametrize("level", [0.003, 0.02, 0.06])
@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_the_edges_of_a_sentence_stay_where_they_are_beside_noise(sentences, level, slope):
    for number, sentence in enumerate(sentences):
        [alone] = [piece for piece in find_speech(sentence) if not piece.silent]
        rest = [noise(1.5, level, slope, seed) for seed in (number, number + 2)]
        found = find_speech(np.concatenate([rest[0], sentence, rest[1]]).astype(np.float32))
        [beside] = [piece for piece in found if not piece.silent]
        assert beside.start_seconds - 1.5 == pytest.approx(alone.start_seconds, abs=0.05)
        assert beside.end_seconds - 1.5 == pytest.approx(alone.end_seconds, abs=0.05)


@needs_detector
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads as Linux does")
@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import torch"])
def test_the_detector_wakes_no_threads_of_its_own(before):
    """Whatever was loaded before it: torch brings another OpenMP, whose names everybody sees."""
    program = f"""{before}
import os
import numpy as np
from aista.audio.speech import find_speech, is_installed
environment = dict(os.environ)
assert is_installed() and dict(os.environ) == environment
threads = len(os.listdir("/proc/self/task"))
find_speech(np.zeros(16_000, np.float32))
print(len(os.listdir("/proc/self/task")) - threads)
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "0\n"


@needs_detector
@pytest.mark.parametrize(
    "sound", [noise(3.0, 0.1), noise(3.0, 0.3, 1.0), tone(3.0), np.zeros(48_000, np.float32)]
)
def test_where_nobody_speaks_nothing_is_found(sound):
    [piece] = find_speech(sound)
    assert piece.silent and piece.end_sample == len(sound)


def test_what_is_heard_is_named():
    assert sounding(np.zeros(9_000, np.float32)) == "silence"
    assert {sounding(tone(2.0, hertz)) for hertz in (100.0, 440.0, 3_000.0)} == {"tone"}
    assert {sounding(noise(2.0, 0.1, slope)) for slope in (-0.5, 0.0, 0.5, 1.0)} == {"noise"}
    assert sounding(noise(0.01, 0.1)) == "noise"


def test_what_is_heard_is_named_over_blocks_in_memory_that_does_not_grow():
    long = np.resize(noise(1.0, 0.1), 600 * 16_000)
    hum = tone(100.0)
    tracemalloc.start()
    try:
        assert sounding(long) == "noise"
        assert tracemalloc.get_traced_memory()[1] < len(long) * 5  # a float64 each would be 8
    finally:
        tracemalloc.stop()
    assert sounding(hum) == "tone"
    late = np.concatenate([np.zeros(90 * 16_000, np.float32), noise(0.5, 0.1)])
    assert sounding(late) == "noise" and sounding(late[: 90 * 16_000 + 319]) == "silence"


@pytest.mark.slow
@given(st.integers(0, 99), st.lists(st.integers(300, 20_000), min_size=1, max_size=5), st.booleans())
@settings(max_examples=8, deadline=None)
def test_how_sound_arrives_changes_nothing(seed, sizes, installed):
    rng = np.random.default_rng(seed)
    loud = [noise(s, 0.2 * (i % 2), seed=seed) for i, s in enumerate(rng.uniform(0.05, 1.5, 6))]
    samples = np.concatenate(loud).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        if not installed:
            patch.setattr(speech, "is_installed", lambda: False)
        whole = find_speech(samples)
        finder, found, at = SpeechFinder(), [], 0
        while at < len(samples):
            size = sizes[at % len(sizes)]
            found += finder.push(samples[at : at + size])
            at += size
        found += finder.finish()
    assert found == [(piece.start_sample, piece.end_sample) for piece in whole if not piece.silent]
    assert whole[0].start_sample == 0 and whole[-1].end_sample == len(samples)
    assert all(a.end_sample == b.start_sample for a, b in pairwise(whole))


@pytest.mark.slow
@needs_detector
def test_the_noise_beside_a_sentence_hardly_ever_changes_it():
    """With the shipped model, of six sentences with noise after and before them; once it was half of them."""
    pytest.importorskip("espeakng_loader")
    import aista
    from aista.demo.grammar import sentences
    from aista.demo.speech import TEST_VARIANTS, draw_voice, utter

    made = (
        utter(row.en, draw_voice(Random(i), TEST_VARIANTS), seed=i)
        for i, row in enumerate(sentences(6, seed=3, split="test"))
    )
    clips = [samples for samples in made if samples is not None]
    rests = [noise(1.5, 0.02, 0.5, number) for number in range(len(clips))]
    pairs = [(a, b) for clip, rest in zip(clips, rests, strict=True) for a, b in ((clip, rest), (rest, clip))]
    translator = aista.load()
    alone = [result.text for result in translator.translate(clips, "zh") for _ in range(2)]
    beside = translator.translate([np.concatenate(pair).astype(np.float32) for pair in pairs], "zh")
    assert all([row.kind for row in result.warnings] == ["noise"] for result in beside)
    same = sum(result.text == text for result, text in zip(beside, alone, strict=True))
    assert len(pairs) == 12 and same >= 11
