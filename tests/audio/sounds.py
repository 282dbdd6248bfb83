"""Sound files of our own making: whole, joined, broken, and in containers."""

from __future__ import annotations

import io
import struct
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def tone(seconds: float, hertz: float = 440.0, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, **kind: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, **kind)
    return stream.getvalue()


def contained(samples: np.ndarray, container: str, codec: str, *, rate: int = 48_000, **how) -> bytes:
    """Return samples (n,) or (channels, n) in a container of FFmpeg.

    Args:
        how: ``late_seconds``: how much later than a picture of ``picture_seconds`` the sound begins;
            ``options`` of the muxer.
    """
    import av

    samples = np.atleast_2d(samples)
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    with (
        tempfile.NamedTemporaryFile(suffix=".tmp") as out,
        av.open(out.name, "w", format=container, options=how.get("options", {})) as file,
    ):
        picture = None
        if how.get("picture_seconds"):
            picture = file.add_stream("mpeg4", rate=10)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        track = None
        if samples.size:
            track = file.add_stream(codec, rate=rate, layout=layout)
            track.bit_rate = 64_000
        if picture is not None:
            for number in range(round(10 * how["picture_seconds"])):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                file.mux(picture.encode(frame))
            file.mux(picture.encode(None))
        if track is not None:
            form = track.format.name
            resampler = av.AudioResampler(format=form, layout=layout, rate=rate)
            late = round(how.get("late_seconds", 0.0) * rate)
            size = track.frame_size or 1024
            for start in range(0, samples.shape[1], size):
                block = np.ascontiguousarray(samples[:, start : start + size])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), late + start
                for ready in resampler.resample(frame):
                    file.mux(track.encode(ready))
            file.mux(track.encode(None))
        file.close()
        return Path(out.name).read_bytes()


def pitch_at(samples: np.ndarray, second: float) -> float:
    """Return the loudest frequency in half a second of 16 kHz sound around a place, in hertz."""
    middle = round(second * RATE)
    piece = samples[middle - RATE // 4 : middle + RATE // 4]
    return float(np.abs(np.fft.rfft(piece * np.hanning(len(piece)))).argmax() * RATE / len(piece))


def without_length(flac: bytes) -> bytes:
    """Return a FLAC as it is recorded into a pipe: its header does not know how long it is."""
    data = bytearray(flac)
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def ogg_pages(data: bytes) -> list[bytes]:
    pages, place = [], 0
    while place < len(data):
        table = data[place + 27 : place + 27 + data[place + 26]]
        size = 27 + len(table) + sum(table)
        pages.append(data[place : place + size])
        place += size
    return pages


def without_end_flag(ogg: bytes) -> bytes:
    """Return an Ogg whose last page does not say that it is the last (its checksum does fit)."""
    pages = ogg_pages(ogg)
    last = bytearray(pages[-1])
    last[5] &= ~4
    last[22:26] = bytes(4)
    check = 0
    for byte in last:
        check ^= byte << 24
        for _ in range(8):
            check = (check << 1) ^ (0x04C11DB7 if check & 0x80000000 else 0)
        check &= 0xFFFFFFFF
    last[22:26] = struct.pack("<I", check)
    return b"".join([*pages[:-1], bytes(last)])


def id3(size: int) -> bytes:
    """Return an ID3v2 tag with a picture of ``size`` bytes that look like the beginnings of frames."""
    body = b"APIC" + struct.pack(">I", size) + b"\0\0" + b"\xff\xfb\x90\x64" * (size // 4)
    length = len(body)
    return b"ID3\3\0\0" + bytes((length >> shift) & 0x7F for shift in (21, 14, 7, 0)) + body
