"""The direct current that cheap microphones add, taken off: nobody hears it, but every meter sees it."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import signal

from aista.audio.rates import SAMPLE_RATE_HZ

AUDIBLE_HZ = 20.0
OFFSET_LEVEL = 1e-3  # -60 dBFS: what is_silent calls silence
OFFSET_SHARE = 0.25  # of the level around it; of noise a hundredth, of speech (it is not symmetric) a tenth
_HALF_SECOND = SAMPLE_RATE_HZ // 2
_BLOCK = 1 << 20


def offset_of(samples: np.ndarray) -> float:
    """Return the largest offset of any half second of 16 kHz audio, or 0 where there is none to speak of.

    Args:
        samples: float32 (n,), full scale 1.0.

    Returns:
        A mean that reaches -60 dBFS and a quarter of the level (root mean square) around it.
    """
    starts = range(0, max(1, len(samples) - _HALF_SECOND // 2), _HALF_SECOND)
    found = 0.0
    for start in starts:
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
    # As if the mean of the beginning had been there for ever: the filter starts without a click.
    state = signal.sosfilt_zi(_high_pass()) * samples[:_HALF_SECOND].mean(dtype=np.float64)
    out = np.empty_like(samples)
    for start in range(0, len(samples), _BLOCK):
        block = samples[start : start + _BLOCK].astype(np.float64)
        out[start : start + _BLOCK], state = signal.sosfilt(_high_pass(), block, zi=state)
    return out


@cache
def _high_pass() -> np.ndarray:
    return signal.butter(2, AUDIBLE_HZ, "highpass", fs=SAMPLE_RATE_HZ, output="sos")
