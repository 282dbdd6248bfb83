"""The filterbank against SALMONN's recorded numbers and against Kaldi's own code."""

from __future__ import annotations

import kaldi_native_fbank as knf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.audio.signal import BEATS_MEAN, BEATS_STD, beats_fbank, num_fbank_frames
from aista.errors import AudioError


def kaldi(samples: np.ndarray) -> np.ndarray:
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 128
    options.mel_opts.low_freq = 20
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(16_000, (samples * 2**15).tolist())
    bank.input_finished()
    return (np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)]) - BEATS_MEAN) / (
        2 * BEATS_STD
    )


@pytest.mark.parametrize("case", ["single_1p73s", "short_0p4s", "batch_1p0_2p35_3p9s"])
def test_recorded_from_salmonn(shared_dir, case):
    kit = np.load(shared_dir / "parity" / "kit" / f"case_{case}.npz")
    for row, expected in enumerate(kit["beats_fbank_normed"]):
        pcm = kit[f"pcm{row}"] / np.float32(2**15)
        heard = beats_fbank(np.pad(pcm, (0, max(0, 16_000 - len(pcm)))))  # SALMONN pads to one second
        assert np.abs(heard - expected[: len(heard)]).max() < 1e-5


@pytest.mark.slow
@given(st.integers(400, 6_000), st.floats(1e-3, 1.0), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_agrees_with_kaldi_on_noise(count, level, seed):
    noise = np.random.default_rng(seed).normal(0, level / 4, count).astype(np.float32)
    assert np.abs(beats_fbank(noise) - kaldi(noise)).max() < 1e-4


def test_agrees_with_kaldi_on_speech(shared_dir):
    from aista.audio import load_audio

    speech = load_audio(shared_dir / "audio" / "2412-153948-0000.flac")
    assert np.abs(beats_fbank(speech) - kaldi(speech)).max() < 2e-3


def test_frames_shape_and_blocks(monkeypatch):
    noise = np.random.default_rng(0).normal(0, 0.1, 32_123).astype(np.float32)
    whole = beats_fbank(noise)
    assert whole.dtype == np.float32 and whole.shape == (num_fbank_frames(32_123), 128)
    monkeypatch.setattr("aista.audio.signal._FRAMES_AT_ONCE", 7)
    assert np.allclose(beats_fbank(noise), whole, atol=1e-6)


def test_silence_is_finite_and_constant():
    quiet = beats_fbank(np.zeros(16_000, np.float32))
    assert np.isfinite(quiet).all() and np.ptp(quiet) == 0


@pytest.mark.parametrize("shape", [(0,), (399,), (16_000, 1)])
def test_what_has_no_frame_is_refused(shape):
    with pytest.raises(AudioError):
        beats_fbank(np.zeros(shape, np.float32))
