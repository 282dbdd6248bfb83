"""Every rate of the audio side, from three numbers: the sample rate, the frame rate, the frames of a window.

samples 16,000 Hz -> mel / filterbank 100 Hz (hop 160) -> encoder frames 50 Hz (320 samples)
-> windows of 17 frames (5,440 samples, 0.34 s): one speech token each
"""

from __future__ import annotations

SAMPLE_RATE_HZ = 16_000
FRAME_RATE_HZ = 50
FRAMES_PER_WINDOW = 17


def exact_div(numerator: int, denominator: int) -> int:
    """Divide, and insist that nothing is left over."""
    assert numerator % denominator == 0, f"{numerator} is no multiple of {denominator}"
    return numerator // denominator


SAMPLES_PER_FRAME = exact_div(SAMPLE_RATE_HZ, FRAME_RATE_HZ)
MELS_PER_FRAME = 2  # Whisper's second convolution has stride 2
MEL_HOP = exact_div(SAMPLES_PER_FRAME, MELS_PER_FRAME)
SAMPLES_PER_WINDOW = SAMPLES_PER_FRAME * FRAMES_PER_WINDOW

# Whisper hears 30 s at once: 1,500 frames, of which the last 4 fill no window.
MAX_SECONDS = 30
MAX_SAMPLES = MAX_SECONDS * SAMPLE_RATE_HZ
MAX_FRAMES = MAX_SECONDS * FRAME_RATE_HZ
MAX_WINDOWS = MAX_FRAMES // FRAMES_PER_WINDOW


def num_windows(num_samples: int) -> int:
    """Return how many windows overlap ``num_samples`` samples at 16 kHz: ceil(samples / 5440)."""
    return -(-num_samples // SAMPLES_PER_WINDOW)


def num_frames(num_samples: int) -> int:
    """Return how many encoder frames (50 Hz) overlap ``num_samples`` samples at 16 kHz."""
    return -(-num_samples // SAMPLES_PER_FRAME)
