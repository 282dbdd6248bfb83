"""16 kHz audio as numbers: how loud it is, a DC offset taken off, and the filterbank that BEATs hears."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.signal import butter, sosfilt, sosfilt_zi

from aista.audio.rates import MEL_HOP, SAMPLE_RATE_HZ
from aista.errors import AudioError

SILENCE_DBFS = -60.0
# An offset: the direct current that cheap microphones add. Nobody hears it, but it moves every level.
AUDIBLE_HZ = 20.0
OFFSET_LEVEL = 1e-3  # -60 dBFS: what is_silent calls silence
OFFSET_SHARE = 0.25  # of the level around it; of noise a hundredth, of speech (it is not symmetric) a tenth
_HALF_SECOND = SAMPLE_RATE_HZ // 2
_BLOCK = 1 << 20
# The settings of torchaudio.compliance.kaldi.fbank as BEATs calls it.
FRAME_SAMPLES = 400  # 25 ms
FFT_SIZE = 512
NUM_MEL_BINS = 128
LOW_HZ = 20.0
PREEMPHASIS = 0.97
POVEY_EXPONENT = 0.85
LOG_FLOOR = float(np.finfo(np.float32).eps)
# Mean and standard deviation of BEATs' training data, on the scale of 16-bit samples.
BEATS_MEAN, BEATS_STD = 15.41663, 6.55582
_FRAMES_AT_ONCE = 1024  # bounds the memory of a long recording


def is_silent(samples: np.ndarray) -> bool:
    """Whether no 20 ms of 16 kHz audio reaches -60 dBFS (root mean square)."""
    return bool(loudest_dbfs(samples) < SILENCE_DBFS)


def loudest_dbfs(samples: np.ndarray) -> float:
    """Return the level of the loudest 20 ms (root mean square) in dB below full scale."""
    frame = SAMPLE_RATE_HZ // 50
    usable = len(samples) // frame * frame
    frames = samples[:usable].reshape(-1, frame) if usable else samples[None, :]
    sums = np.einsum("ij,ij->i", frames, frames, dtype=np.float64)  # without a copy in float64
    power = float(sums.max()) / frames.shape[1] if samples.size else 0.0
    return float(10.0 * np.log10(power)) if power > 0 else -np.inf


def offset_of(samples: np.ndarray) -> float:
    """Return the largest offset of any half second of 16 kHz audio, or 0 where there is none to speak of.

    Args:
        samples: float32 (n,), full scale 1.0.

    Returns:
        A mean that reaches -60 dBFS and a quarter of the level (root mean square) around it.
    """
    found = 0.0
    for start in range(0, max(1, len(samples) - _HALF_SECOND // 2), _HALF_SECOND):
        piece = samples[start : start + _HALF_SECOND].astype(np.float64)
        mean = float(piece.mean())
        if abs(mean) > max(abs(found), OFFSET_LEVEL, OFFSET_SHARE * float(np.sqrt(np.square(piece).mean()))):
            found = mean
    return found


def told_offset(offset: float) -> str:
    """Say that an offset was taken off."""
    return f"it has a DC offset of {offset:.3f}, which was taken off"


def without_offset(samples: np.ndarray) -> np.ndarray:
    """Return 16 kHz audio without what lies below 20 Hz, where it has an offset.

    Sound without one is returned as it is, bit for bit. A constant becomes silence.

    Args:
        samples: float32 (n,), n >= 1.
    """
    if not offset_of(samples):
        return samples
    high_pass = butter(2, AUDIBLE_HZ, "highpass", fs=SAMPLE_RATE_HZ, output="sos")
    # As if the mean of the beginning had been there for ever: the filter starts without a click.
    state = sosfilt_zi(high_pass) * samples[:_HALF_SECOND].mean(dtype=np.float64)
    out = np.empty_like(samples)
    for start in range(0, len(samples), _BLOCK):
        block = samples[start : start + _BLOCK].astype(np.float64)
        out[start : start + _BLOCK], state = sosfilt(high_pass, block, zi=state)
    return out


def num_fbank_frames(num_samples: int) -> int:
    """Return how many whole 25 ms frames fit: 1 + (samples - 400) // 160, or 0."""
    return max(0, 1 + (num_samples - FRAME_SAMPLES) // MEL_HOP)


def beats_fbank(samples: np.ndarray) -> np.ndarray:
    """Return the normalised filterbank of a mono 16 kHz recording.

    The arithmetic is float64, which keeps it within 1e-5 of the numbers recorded from SALMONN
    (docs/decisions/filterbank.md).

    Args:
        samples: float array (n,), full scale 1.0, at least 400 samples (25 ms).

    Returns:
        float32 (1 + (n - 400) // 160, 128): (log-mel energy - 15.41663) / (2 * 6.55582).

    Raises:
        AudioError: The recording is shorter than one frame or not one-dimensional.

    Cost:
        About 4 ms per 10 s of audio on one core; memory is bounded by blocks of 1,024 frames.
    """
    if samples.ndim != 1 or len(samples) < FRAME_SAMPLES:
        raise AudioError(
            "The filterbank needs mono audio of at least one frame.",
            got=f"an array of shape {samples.shape}",
            expected=f"({FRAME_SAMPLES},) or longer",
            advice="Pad short clips (SALMONN pads to one second).",
        )
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME_SAMPLES)[::MEL_HOP]
    logmel = np.empty((len(frames), NUM_MEL_BINS), dtype=np.float32)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        block = slice(start, start + _FRAMES_AT_ONCE)
        logmel[block] = (_log_mel(frames[block]) - BEATS_MEAN) / (2 * BEATS_STD)
    return logmel


def _log_mel(frames: np.ndarray) -> np.ndarray:
    """Kaldi's steps in Kaldi's order: DC removal, pre-emphasis, Povey window, power spectrum, mel, log."""
    x = frames.astype(np.float64) * 2.0**15
    x -= x.mean(axis=1, keepdims=True)
    x[:, 1:] -= PREEMPHASIS * x[:, :-1]
    x[:, 0] *= 1.0 - PREEMPHASIS  # the sample before the first is taken to equal it
    spectrum = np.fft.rfft(x * _povey_window(), n=FFT_SIZE)
    power = spectrum.real**2 + spectrum.imag**2
    return np.log(np.maximum(power[:, :-1] @ _mel_bank(), LOG_FLOOR))


@cache
def _povey_window() -> np.ndarray:
    """A Hann window to the power 0.85."""
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(FRAME_SAMPLES) / (FRAME_SAMPLES - 1))
    return hann**POVEY_EXPONENT


@cache
def _mel_bank() -> np.ndarray:
    """Triangles that are straight in mel, not in hertz; the Nyquist bin belongs to none. (256, 128)."""

    def mel(hertz):
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    edges = np.linspace(mel(LOW_HZ), mel(SAMPLE_RATE_HZ / 2), NUM_MEL_BINS + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(FFT_SIZE // 2) * SAMPLE_RATE_HZ / FFT_SIZE)[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(0.0, np.minimum(rising, falling))
