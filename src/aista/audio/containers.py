"""Sound in containers that libsndfile does not read (m4a, webm, mp4), through PyAV (``pip install av``)."""

from __future__ import annotations

import io
from typing import BinaryIO

import soundfile

from aista.errors import AudioError


def as_wav(stream: BinaryIO, name: str) -> io.BytesIO:
    """Decode the first audio track of any container FFmpeg knows into a float WAV in memory.

    Args:
        stream: A seekable stream, read from its start.
        name: What messages call it.

    Raises:
        AudioError: PyAV is not installed, or there is no sound in the stream.

    Cost:
        Memory of the decoded track at its own rate: 23 MB per minute of 48 kHz stereo.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise AudioError(
            f"{name}: cannot be decoded.",
            got="an unknown or damaged format",
            expected="WAV, FLAC, MP3, OGG or Opus",
            advice="If it is m4a, mp4 or webm: pip install av. Or convert it: ffmpeg -i IN OUT.flac",
        ) from None
    stream.seek(0)
    wav = io.BytesIO()
    try:
        with av.open(stream, "r") as container:
            track = container.streams.audio[0]
            plain = av.AudioResampler(format="flt")  # interleaved float32, rate and channels unchanged
            form = {"samplerate": track.rate, "channels": track.channels, "format": "WAV", "subtype": "FLOAT"}
            with soundfile.SoundFile(wav, "w", **form) as sound:
                for frame in container.decode(track):
                    for part in plain.resample(frame):
                        sound.write(part.to_ndarray().reshape(-1, track.channels))
    except (av.FFmpegError, IndexError, ValueError, soundfile.SoundFileError) as error:
        raise AudioError(f"{name}: cannot be decoded.", got=str(error) or "no audio track") from None
    wav.seek(0)
    return wav
