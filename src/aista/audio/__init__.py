"""Sound in, numbers out: files, rates, the BEATs filterbank, and cutting long recordings."""

from aista.audio.files import AudioInfo, load_audio, probe, write_audio
from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, SAMPLES_PER_WINDOW, num_windows
from aista.audio.signal import beats_fbank, is_silent
from aista.audio.speech import Segment, segment

__all__ = [
    "SAMPLES_PER_FRAME",
    "SAMPLES_PER_WINDOW",
    "SAMPLE_RATE_HZ",
    "AudioInfo",
    "Segment",
    "beats_fbank",
    "is_silent",
    "load_audio",
    "num_windows",
    "probe",
    "segment",
    "write_audio",
]
