"""Audio files of any kind into mono 16 kHz samples, and back.

One decoder (libsndfile) and one resampler (soxr), in blocks: an hour of 8-channel 192 kHz sound never lies in
memory at its own rate. Whatever goes wrong is an ``AudioError`` that names the file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from aista.audio.archives import archive_of, read_member
from aista.audio.containers import as_wav
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.errors import AudioError

AudioSource = str | os.PathLike | bytes | BinaryIO
"""A path, the bytes of a whole encoded file, or a readable binary stream (a pipe will do)."""

SPAN_TOLERANCE_SECONDS = 0.25  # headers and manifests round; what is missing beyond this was cut off
SILENCE_DBFS = -60.0
_BLOCK_VALUES = 1 << 19  # of all channels together: two megabytes
_RATES_HZ = (2_000, 768_000)  # what a header may say and still be believed
_PEAK_LIMIT = 100.0  # a float file this far beyond full scale holds integers, not samples in [-1, 1]


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a file says."""

    duration_seconds: float
    sample_rate_hz: int
    num_channels: int
    num_frames: int


def probe(source: AudioSource) -> AudioInfo:
    """Read the header of an audio file without decoding it.

    Raises:
        AudioError: The file is missing, empty, or not audio that libsndfile reads.
    """
    with _open(source) as (sound, _):
        rate = sound.samplerate
        return AudioInfo(sound.frames / rate, rate, sound.channels, sound.frames)


def load_audio(
    source: AudioSource,
    *,
    offset_seconds: float = 0.0,
    duration_seconds: float | None = None,
    channel: int | None = None,
) -> np.ndarray:
    """Decode audio to mono at 16 kHz.

    Args:
        source: Path, bytes or stream of a WAV, FLAC, MP3, OGG/Vorbis or Opus file of any rate and width; with
            PyAV installed also of m4a, mp4, webm and whatever else FFmpeg reads.
        offset_seconds: Where to start, in seconds; what lies before is skipped, not decoded, where the format
            can seek.
        duration_seconds: How much to read, in seconds; ``None`` reads to the end.
        channel: Which channel to take, counted from 0; ``None`` takes the mean of all.

    Returns:
        float32 (n,), full scale 1.0, at 16,000 Hz.

    Raises:
        AudioError: The file is missing, empty, corrupt or not audio; the span or the channel is not in it; a
            sample is not a number.

    Cost:
        Memory of the result plus one block, whatever the file's rate and channels.
    """
    with _open(source) as (sound, name):
        first, count = _span(sound, name, offset_seconds, duration_seconds)
        if channel is not None and not 0 <= channel < sound.channels:
            raise AudioError(
                f"{name}: there is no channel {channel}.",
                got=f"{sound.channels} channel(s)",
                expected=f"0 <= channel < {sound.channels}",
            )
        try:
            samples = _resampled(_mono_blocks(sound, first, count, channel), sound.samplerate)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise _unreadable(name, getattr(error, "error_string", str(error))) from None
        tolerance = SPAN_TOLERANCE_SECONDS * SAMPLE_RATE_HZ
        if len(samples) == 0 or len(samples) + tolerance < count * SAMPLE_RATE_HZ / sound.samplerate:
            found, asked = len(samples) / SAMPLE_RATE_HZ, count / sound.samplerate
            raise _unreadable(name, f"only {found:.2f} s of {asked:.2f} s can be decoded")
    return _checked(samples, name)


def write_audio(
    path: str | os.PathLike, samples: np.ndarray, *, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> Path:
    """Write mono samples in the format of the suffix (.wav and .flac as 16-bit PCM, .mp3, .ogg, .opus).

    The file appears whole or not at all.

    Args:
        samples: float (n,), full scale 1.0; what lies beyond is clipped.

    Raises:
        AudioError: The samples cannot be written so, or the suffix is unknown.
    """
    path = Path(path)
    if samples.ndim != 1 or len(samples) == 0 or not np.isfinite(samples).all():
        raise AudioError(
            f"{path}: these samples cannot be written.",
            got=f"an array of shape {samples.shape}",
            expected="a non-empty one-dimensional array of finite numbers",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    kind, subtype = ("OGG", "OPUS") if path.suffix.lower() == ".opus" else (None, None)
    try:
        soundfile.write(draft, np.clip(samples, -1.0, 1.0), sample_rate_hz, format=kind, subtype=subtype)
        draft.replace(path)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioError(f"{path}: cannot be written.", got=str(error), expected=_FORMATS) from None
    finally:
        draft.unlink(missing_ok=True)
    return path


def as_flac(samples: np.ndarray) -> bytes:
    """Return mono samples (n,) at 16 kHz as the bytes of a FLAC file of 16 bits: every browser plays it."""
    out = io.BytesIO()
    soundfile.write(out, np.clip(samples, -1.0, 1.0), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def is_silent(samples: np.ndarray) -> bool:
    """Whether no 20 ms of 16 kHz audio reaches -60 dBFS (root mean square)."""
    return bool(loudest_dbfs(samples) < SILENCE_DBFS)


def loudest_dbfs(samples: np.ndarray) -> float:
    """Return the level of the loudest 20 ms (root mean square) in dB below full scale."""
    frame = SAMPLE_RATE_HZ // 50
    usable = len(samples) // frame * frame
    frames = samples[:usable].reshape(-1, frame) if usable else samples[None, :]
    power = float(np.square(frames, dtype=np.float64).mean(axis=1).max()) if samples.size else 0.0
    return float(10.0 * np.log10(power)) if power > 0 else -np.inf


_FORMATS = "WAV, FLAC, MP3, OGG or Opus"
_UNRECOGNISED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT


@contextmanager
def _open(source: AudioSource) -> Iterator[tuple[soundfile.SoundFile, str]]:
    """Open a source as (sound, name for messages); every failure to do so is an AudioError."""
    name, stream = _stream(source)
    try:
        with _sound(stream, name) as sound:
            if sound.frames <= 0:
                raise AudioError(f"{name}: holds no sound.", got="0 samples", advice="Leave this file out.")
            if not _RATES_HZ[0] <= sound.samplerate <= _RATES_HZ[1]:
                raise _unreadable(name, f"a header that says {sound.samplerate} samples per second")
            yield sound, name
    finally:
        if stream is not source:
            stream.close()


class _Seekable:
    """A stream for libsndfile, which a damaged header may send anywhere: nowhere is where it stands.

    An exception in a callback of libsndfile would be printed, not raised.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.tell, self.read = stream.tell, stream.read
        if hasattr(stream, "readinto"):
            self.readinto = stream.readinto

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with suppress(OSError, ValueError, OverflowError):
            self._stream.seek(offset, whence)
        return self._stream.tell()


def _sound(stream: BinaryIO, name: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(_Seekable(stream))
    except soundfile.LibsndfileError as error:
        if error.code == _UNRECOGNISED:
            return soundfile.SoundFile(as_wav(stream, name))
        raise _unreadable(name, error.error_string) from None
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        raise _unreadable(name, str(error)) from None


def _stream(source: AudioSource) -> tuple[str, BinaryIO]:
    """Return a name for messages and a seekable stream at its start; a pipe is read to its end."""
    stream: BinaryIO
    if isinstance(source, bytes | bytearray | memoryview):
        name, stream = "<bytes>", io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        name, stream = os.fspath(source), _opened_file(Path(source))
    else:
        name, stream = str(getattr(source, "name", "<stream>")), source
    if not getattr(stream, "seekable", lambda: False)():
        data = stream.read()
        if stream is not source:
            stream.close()
        stream = io.BytesIO(data)
    if stream.seek(0, io.SEEK_END) == 0:
        if stream is not source:
            stream.close()
        raise _empty(name)
    stream.seek(0)
    return name, stream


def _empty(name: str) -> AudioError:
    return AudioError(
        f"{name}: is empty.", got="0 bytes", expected=_FORMATS, advice="Did what should write it fail?"
    )


def _opened_file(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        if (archive := archive_of(path)) is not None:
            return io.BytesIO(read_member(archive, path))
        raise AudioError(
            f"{path}: no such file.", advice="Check the path; in a manifest it is relative to the manifest."
        ) from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be opened.", got=error.strerror) from None
    except ValueError as error:
        raise AudioError(f"{str(path)!a}: no file can have this name.", got=str(error)) from None


def _unreadable(name: str, reason: str) -> AudioError:
    return AudioError(
        f"{name}: cannot be decoded.",
        got=reason,
        expected=_FORMATS,
        advice="The file may be cut off or of another kind; convert it: ffmpeg -i IN OUT.flac",
    )


def _span(
    sound: soundfile.SoundFile, name: str, offset_seconds: float, duration_seconds: float | None
) -> tuple[int, int]:
    """Return (first frame, number of frames) of a span at the file's own rate."""
    total, rate = sound.frames, sound.samplerate
    most = float(2 * total + rate)  # numbers beyond every file stay finite
    first = round(min(offset_seconds * rate, most))
    count = total - first if duration_seconds is None else round(min(duration_seconds * rate, most))
    beyond = (first + count - total) / rate
    if first < 0 or first >= total or count <= 0 or beyond > SPAN_TOLERANCE_SECONDS:
        asked = "to its end" if duration_seconds is None else f"for {duration_seconds} s"
        raise AudioError(
            f"{name}: the span is not in the file.",
            got=f"from {offset_seconds} s {asked}",
            expected=f"within 0 .. {total / rate:.3f} s",
            advice="Correct offset and duration, or look whether the file was cut off.",
        )
    return first, min(count, total - first)


def _mono_blocks(
    sound: soundfile.SoundFile, first: int, count: int, channel: int | None
) -> Iterator[np.ndarray]:
    """Decode ``count`` frames from frame ``first``, one block at a time, as float32 mono."""
    block_frames = max(1, _BLOCK_VALUES // sound.channels)
    if first:
        sound.seek(first)
    while count > 0:
        block = sound.read(min(count, block_frames), dtype="float32", always_2d=True)
        if len(block) == 0:
            return
        count -= len(block)
        if channel is not None:
            yield np.ascontiguousarray(block[:, channel])
        else:
            yield block[:, 0] if sound.channels == 1 else block.mean(axis=1, dtype=np.float32)


def _resampled(blocks: Iterator[np.ndarray], rate: int) -> np.ndarray:
    """Join blocks of mono samples, brought from ``rate`` to 16 kHz."""
    if rate == SAMPLE_RATE_HZ:
        parts = list(blocks)
    else:
        stream = soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1, dtype="float32")
        parts = [stream.resample_chunk(block) for block in blocks]
        parts.append(stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def _checked(samples: np.ndarray, name: str) -> np.ndarray:
    peak = np.abs(samples).max()
    if not np.isfinite(peak):
        raise AudioError(f"{name}: holds samples that are not numbers.", got="NaN or infinity")
    if peak > _PEAK_LIMIT:
        raise AudioError(
            f"{name}: is far beyond full scale.",
            got=f"a peak of {peak:.6g}",
            expected="floats within -1 .. 1",
            advice="Divide the samples by 32768 if they were 16-bit integers.",
        )
    return samples
