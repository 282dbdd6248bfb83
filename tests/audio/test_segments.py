"""Segmentation laws: nothing is lost, nothing is too long, cuts fall where it is quiet."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.audio import SAMPLES_PER_WINDOW, num_windows, segment
from aista.audio.rates import MAX_SAMPLES, MAX_WINDOWS
from aista.errors import AudioError


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, round(seconds * 16_000)).astype(np.float32)


@given(st.integers(1, 100_000), st.floats(0.1, 5.0), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_segments_tile_the_recording(count, max_seconds, seed):
    samples = noise(count / 16_000, seed=seed)
    pieces = segment(samples, max_seconds=max_seconds)
    assert pieces[0].start_sample == 0 and pieces[-1].end_sample == len(samples)
    assert all(a.end_sample == b.start_sample for a, b in pairwise(pieces))
    assert all(0 < p.end_sample - p.start_sample <= max_seconds * 16_000 for p in pieces)
    assert pieces == segment(samples, max_seconds=max_seconds)


def test_cuts_fall_into_the_pauses():
    spoken, pauses = [], []
    position = 0.0
    for index, seconds in enumerate([3.1, 2.2, 4.0, 1.4, 3.3]):
        spoken += [noise(seconds, seed=index), noise(0.5, 1e-4, seed=index)]
        position += seconds + 0.5
        pauses.append((position - 0.5, position))
    pieces = segment(np.concatenate(spoken), max_seconds=5.0)
    for piece in pieces[:-1]:
        assert any(start < piece.end_seconds < end for start, end in pauses)


def test_a_longer_pause_is_preferred_and_cut_in_its_middle():
    samples = np.concatenate([noise(2), np.zeros(1_280), noise(1), noise(1.0, 1e-4), noise(2)])
    first, second = segment(samples, max_seconds=4.5)
    assert first.end_seconds == second.start_seconds == pytest.approx(3.58, abs=0.35)


def test_silent_stretches_are_reported():
    samples = np.concatenate([noise(4), np.zeros(16 * 16_000, np.float32), noise(4)])
    pieces = segment(samples, max_seconds=5.0)
    assert not pieces[0].silent and not pieces[-1].silent
    assert any(piece.silent for piece in pieces)
    assert [p.silent for p in segment(np.zeros(16_000, np.float32))] == [True]


def test_a_piece_may_be_as_long_as_the_limit():
    steady = np.full(6 * 16_000, 0.1, np.float32)
    assert [(p.start_sample, p.end_sample) for p in segment(steady, max_seconds=3.0)] == [
        (0, 48_000),
        (48_000, 96_000),
    ]


def test_short_remainders_are_avoided():
    pieces = segment(noise(30.2), max_seconds=30.0)
    assert len(pieces) == 2 and min(p.end_seconds - p.start_seconds for p in pieces) >= 0.99


@pytest.mark.slow
def test_ten_minutes():
    samples = noise(600, seed=3)
    pieces = segment(samples)
    assert 20 <= len(pieces) <= 40


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros((10, 2), np.float32)])
def test_what_cannot_be_cut_is_refused(samples):
    with pytest.raises(AudioError):
        segment(samples)


def test_rates():
    assert SAMPLES_PER_WINDOW == 5_440 and MAX_WINDOWS == 88
    assert [num_windows(n) for n in (0, 1, 5_440, 5_441, 88_000)] == [0, 1, 1, 2, 17]
    assert num_windows(MAX_SAMPLES) == 89  # the last 0.08 s of 30 s fill no window of the encoder
