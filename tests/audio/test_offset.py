"""A DC offset is taken off on reading, and sound without one is left as it is, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.audio import is_silent, load_audio, segment
from aista.audio.files import read_audio
from aista.audio.signal import offset_of, without_offset
from tests.audio.sounds import encoded, tone


def speech(seed: int = 0) -> np.ndarray:
    """Six seconds of noise bursts with pauses between."""
    rng = np.random.default_rng(seed)
    loud = np.tile(np.concatenate([np.hanning(16_000), np.zeros(16_000)]), 3)
    return (0.05 * loud * rng.normal(0, 1, 96_000) + rng.normal(0, 1e-4, 96_000)).astype(np.float32)


@pytest.mark.parametrize("offset", [0.05, 0.2, -0.1, 0.01])
@pytest.mark.parametrize("kind", [{"format": "WAV", "subtype": "FLOAT"}, {"format": "FLAC"}])
def test_the_offset_is_gone(offset, kind):
    clean = speech()
    found = read_audio(encoded(clean + np.float32(offset), **kind))
    assert f"DC offset of {offset:.3f}"[:16] in found.remarks[0]
    assert np.sqrt(np.square(found.samples - clean).mean()) < 0.006 and abs(found.samples.mean()) < 1e-4
    for piece in segment(found.samples, max_seconds=3.0)[:-1]:
        assert int(piece.end_seconds) % 2 == 1  # the pauses are the odd seconds


@pytest.mark.parametrize("value", [0.2, -0.05, 0.002, 1.0])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_constant_is_silent(value, rate):
    for seconds in (0.3, 1.0, 7.3):
        data = encoded(np.full(round(seconds * rate), value, np.float32), rate, format="WAV", subtype="FLOAT")
        middle = load_audio(data)[200:-200]  # a resampler rings at the edges of a step
        assert is_silent(middle)


def test_offsets_that_come_and_go():
    clean = speech()
    steps = np.repeat(np.float32([0.1, -0.1, 0.0]), 32_000)
    drift = np.linspace(-0.1, 0.1, 96_000, dtype=np.float32)
    for offset in (steps, drift):
        heard = without_offset(clean + offset)
        assert is_silent(heard[20_000:28_000]) and not is_silent(heard)


def test_zeros_before_and_after_stay_silent():
    sound = np.concatenate([np.zeros(16_000), np.full(32_000, 0.1), np.zeros(16_000)]).astype(np.float32)
    heard = without_offset(sound)
    assert is_silent(heard[:15_900]) and is_silent(heard[24_000:47_900]) and is_silent(heard[56_000:])


@given(st.integers(4_000, 50_000), st.floats(1e-4, 0.3), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_sound_without_an_offset_is_untouched(count, level, seed):
    noise = np.random.default_rng(seed).normal(0, level, count).astype(np.float32)
    assert offset_of(noise) == 0.0 and without_offset(noise) is noise


def test_tones_are_untouched_and_a_long_sound_has_no_seam(monkeypatch):
    for seconds in (3.0, 3.001):  # whose last millisecond is on one side
        assert offset_of(tone(seconds, 60)) == 0.0
    shifted = speech() + np.float32(0.1)
    whole = without_offset(shifted)
    monkeypatch.setattr("aista.audio.signal._BLOCK", 1_000)
    assert np.array_equal(without_offset(shifted), whole)
