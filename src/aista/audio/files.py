"""Audio files of any kind into mono 16 kHz samples, and back.

One decoder (libsndfile, and FFmpeg through PyAV for what it refuses) and one resampler (soxr), in blocks: an
hour of 8-channel 192 kHz sound never lies in memory at its own rate. A file is read whole, or it is an error;
its length has a limit. Whatever goes wrong is an ``AudioError`` that names the file.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import soundfile
import soxr

from aista.audio import decoders
from aista.audio.archives import archive_of, read_member
from aista.audio.decoders import FORMATS, NoDecoder, Sndfile, Track, open_track, undecodable
from aista.audio.parts import Part, Window, parts
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.audio.signal import offset_of, told_offset, without_offset
from aista.errors import AudioError
from aista.files import draft_of

AudioSource = str | os.PathLike | bytes | BinaryIO
"""A path, the bytes of a whole encoded file, or a readable binary stream (a pipe will do)."""

T = TypeVar("T")

SPAN_TOLERANCE_SECONDS = 0.25  # headers and manifests round; what is missing beyond this was cut off
CODEC_TOLERANCE_SECONDS = 0.5  # what encoders add at both ends, and containers count or not
MAX_MINUTES = 720.0  # of one reading: 2.8 GB of samples
_RATES_HZ = (2_000, 768_000)  # what a header may say and still be believed
_PEAK_LIMIT = 100.0  # a float file this far beyond full scale holds integers, not samples in [-1, 1]
_WRITTEN_SECONDS = 60  # at once: libsndfile crashes where it is given much Vorbis in one call
_EMPTY_PART = "one of the recordings that are joined in it holds no sound"
_CANCELLED = 0.04  # of the power that one channel alone leaves in the mean of all: less, and they cancel


class NoSound(AudioError):
    """A file holds no samples."""


class NoChannel(AudioError):
    """A file has fewer channels."""


class Overlong(AudioError):
    """A recording is longer than may be read at once."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a file says, or what counting says where it is silent.

    Attributes:
        duration_seconds: Of all recordings that are joined in the file.
        sample_rate_hz, num_channels: Of the first that holds sound.
        num_frames: The duration, in samples of that rate.
        remarks: What is odd about the file: it was cut off, or never finished.
    """

    duration_seconds: float
    sample_rate_hz: int
    num_channels: int
    num_frames: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recording:
    """What was heard in a file.

    Attributes:
        samples: float32 (n,), full scale 1.0, at 16,000 Hz.
        start_seconds: How much later than the picture the sound of a video begins.
        remarks: What a reader of the result should know: an offset, channels that cancel, a cut.
    """

    samples: np.ndarray
    start_seconds: float = 0.0
    remarks: tuple[str, ...] = ()


def probe(source: AudioSource) -> AudioInfo:
    """Look how long an audio file is.

    Raises:
        AudioError: The file is missing, empty, or not audio that can be read.

    Cost:
        Its header is read, and of FLAC, MP3 and Ogg every byte is looked at, and whether there is a last
        sample. Only what does not know its own length (a container, a FLAC that was recorded into a pipe) is
        decoded, block by block.
    """
    with _stream(source) as (name, stream):
        found = parts(stream)
        counts = [
            _with_sound_or(stream, part, name, partial(_counted, part=part, name=name), (0.0, 0, 0))
            for part in found
        ]
        with_sound = [count for count in counts if count[0]]
        if not with_sound:
            raise _no_sound(name)
        seconds = sum(max(length, part.seconds) for part, (length, _, _) in zip(found, counts, strict=True))
        _, rate, channels = with_sound[0]
        empty = (_EMPTY_PART,) if len(with_sound) < len(counts) else ()
        return AudioInfo(seconds, rate, channels, round(seconds * rate), (*_remarks(found), *empty))


def load_audio(
    source: AudioSource,
    *,
    offset_seconds: float = 0.0,
    duration_seconds: float | None = None,
    channel: int | None = None,
    max_minutes: float = MAX_MINUTES,
) -> np.ndarray:
    """Decode audio to mono at 16 kHz: the samples of :func:`read_audio`, which says more."""
    return read_audio(
        source,
        offset_seconds=offset_seconds,
        duration_seconds=duration_seconds,
        channel=channel,
        max_minutes=max_minutes,
    ).samples


def read_audio(
    source: AudioSource,
    *,
    offset_seconds: float = 0.0,
    duration_seconds: float | None = None,
    channel: int | None = None,
    max_minutes: float = MAX_MINUTES,
) -> Recording:
    """Decode audio to mono at 16 kHz.

    Files that were joined end to end are read as what they are: one after the other. What lies below 20 Hz is
    taken off where there is an offset. Where channels cancel in their mean, the loudest is heard alone.

    Args:
        source: Path, bytes or stream of a WAV, FLAC, MP3, OGG/Vorbis or Opus file of any rate and width; with
            PyAV installed also of m4a, mp4, webm and the other formats of ``aista.audio.decoders``.
        offset_seconds: Where to start, in seconds; what lies before is skipped, not decoded, where the format
            can seek.
        duration_seconds: How much to read, in seconds; ``None`` reads to the end.
        channel: Which channel to take, counted from 0; ``None`` takes the mean of all.
        max_minutes: Longest sound that is read.

    Raises:
        AudioError: The file is missing, empty, corrupt, cut off or not audio; the span or the channel is not
            in it, or the span holds no sample; a sample is not a number.
        Overlong: There is more to read than ``max_minutes``: seen before the memory is used.

    Cost:
        Memory of the result plus one block, whatever the file's rate and channels: 3.8 MB per minute.
    """
    with _stream(source) as (name, stream):
        if not offset_seconds >= 0 or not (duration_seconds is None or duration_seconds > 0):
            raise _not_in_it(name, offset_seconds, duration_seconds, probe(stream).duration_seconds)
        found = parts(stream)
        pieces: list[_Piece] = []
        passed, left = 0.0, max_minutes * 60
        for part in found:
            ask = _Ask(name, offset_seconds - passed, duration_seconds, channel, left, max_minutes)
            pieces.append(_read(stream, part, ask))
            passed += pieces[-1].length_seconds
            left -= len(pieces[-1].samples) / SAMPLE_RATE_HZ
            if duration_seconds is not None and passed >= offset_seconds + duration_seconds:
                break
        if not passed:
            raise _no_sound(name)
        beyond = offset_seconds + (duration_seconds or 0.0) - passed
        if offset_seconds >= passed or beyond > SPAN_TOLERANCE_SECONDS:
            raise _not_in_it(name, offset_seconds, duration_seconds, passed)
    samples = _one([piece.samples for piece in pieces])
    if not len(samples):
        raise AudioError(
            f"{name}: the span holds no sample.",
            got=f"{_asked(offset_seconds, duration_seconds)}, of {passed:.3f} s",
            expected="a sample or more",
            advice="Correct offset and duration.",
        )
    remarks = [*_remarks(found), *dict.fromkeys(remark for piece in pieces for remark in piece.remarks)]
    return recording_of(samples, name, pieces[0].start_seconds, remarks)


def recording_of(
    samples: np.ndarray, name: str, start_seconds: float = 0.0, remarks: Sequence[str] = ()
) -> Recording:
    """Return mono samples (n,) at 16 kHz as what was heard, without the offset that they may have.

    Args:
        name: What messages call them.
        start_seconds, remarks: As of ``Recording``.

    Raises:
        AudioError: They are no mono sound, see :func:`check_samples`.
    """
    check_samples(samples, name)
    samples = samples.astype(np.float32, copy=False)
    told = [told_offset(offset)] if (offset := offset_of(samples)) else []
    return Recording(without_offset(samples), start_seconds, (*remarks, *told))


def check_samples(samples: np.ndarray, name: str) -> None:
    """Demand mono sound: a non-empty array (n,) of finite floats that are not far beyond full scale, 1.0.

    Args:
        name: What the message calls them.

    Raises:
        AudioError: They are not. Integers made floats would be far beyond, or a square wave once clipped.
    """
    if samples.ndim != 1 or not len(samples) or not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(
            f"{name}: these are no samples of sound.",
            got=f"{samples.dtype} array of shape {samples.shape}",
            expected="a non-empty one-dimensional array of floats, mono, full scale 1.0",
            advice="Divide 16-bit integers by 32768; or pass the file itself (any rate, any channels).",
        )
    if not np.isfinite(peak := np.abs(samples).max()):
        raise AudioError(f"{name}: holds samples that are not numbers.", got="NaN or infinity")
    if peak > _PEAK_LIMIT:
        raise AudioError(
            f"{name}: is far beyond full scale.",
            got=f"a peak of {peak:.6g}",
            expected="floats within -1 .. 1",
            advice="Divide the samples by 32768 if they were 16-bit integers.",
        )


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
    check_samples(samples, str(path))
    kind, subtype = ("OGG", "OPUS") if path.suffix.lower() == ".opus" else (None, None)
    try:
        with (
            draft_of(path, suffix=path.suffix) as draft,
            soundfile.SoundFile(draft, "w", sample_rate_hz, 1, subtype, format=kind) as file,
        ):
            size = _WRITTEN_SECONDS * sample_rate_hz
            for first in range(0, len(samples), size):
                file.write(np.clip(samples[first : first + size], -1.0, 1.0))
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioError(f"{path}: cannot be written.", got=str(error), expected=FORMATS) from None
    return path


def as_flac(samples: np.ndarray) -> bytes:
    """Return mono float samples (n,) at 16 kHz as a FLAC file's bytes, of 16 bits: every browser plays it.

    Raises:
        AudioError: The samples cannot be written so.
    """
    check_samples(samples, "<samples>")
    out = io.BytesIO()
    soundfile.write(out, np.clip(samples, -1.0, 1.0), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return out.getvalue()


_UNRECOGNISED = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT


@dataclass(frozen=True)
class _Ask:
    """What is to be read of a part.

    Attributes:
        name: What messages call the file.
        offset_seconds: Where to start, counted from the part's beginning; less than 0 where it lies before.
        duration_seconds, channel, max_minutes: As for :func:`read_audio`.
        seconds_left: What the parts before have left of ``max_minutes``.
    """

    name: str
    offset_seconds: float
    duration_seconds: float | None
    channel: int | None
    seconds_left: float
    max_minutes: float

    def span(self, rate: int, frames: int | None) -> tuple[int, int | None]:
        """Return (first frame, frame not included) at a part's own rate; None: its end, wherever that is."""
        most = float(1 << 52)  # numbers beyond every file stay finite
        first = round(max(-most, min(self.offset_seconds * rate, most)))
        stop = frames
        if self.duration_seconds is not None:
            stop = first + round(min(self.duration_seconds * rate, most))
            stop = stop if frames is None else min(stop, frames)
        return max(0, first), stop

    def refuse_overlong(self, seconds: float) -> None:
        """Demand that a length is within what is left."""
        if seconds > self.seconds_left + SPAN_TOLERANCE_SECONDS:
            known = self.max_minutes + (seconds - self.seconds_left) / 60
            raise Overlong(
                f"{self.name}: is too long to be read at once.",
                got=f"{known:.1f} minutes or more",
                expected=f"at most {self.max_minutes:g} minutes",
                advice="Raise the limit (--max-minutes, max_minutes), or read it in spans or in pieces.",
            )


@dataclass(frozen=True)
class _Piece(Recording):
    """What was read of a part.

    Attributes:
        length_seconds: Of the whole part; infinity where it was not read to its end and does not say it.
        cancelled_by: The loudest channel, where the mean of the channels is next to nothing.
    """

    length_seconds: float = 0.0
    cancelled_by: int | None = None


def _with_sound(stream: BinaryIO, part: Part, name: str, use: Callable[[Sndfile | Track], T]) -> T:
    """Return what ``use`` makes of a part, as libsndfile reads it, or FFmpeg where libsndfile cannot."""
    try:
        with closing(Sndfile(Window(stream, part), name)) as sound:
            return use(_believable(sound, name))
    except (Overlong, NoChannel):
        raise
    except AudioError as error:
        first = error
    unknown = getattr(first.__cause__, "code", None) == _UNRECOGNISED
    if part.kind is None:
        stream.seek(part.start)
        raise undecodable(name, decoders.describe(stream.read(64))) if unknown else first
    if isinstance(first, NoSound) and part.kind is decoders.WAV:
        raise first  # FFmpeg would take what follows for samples
    try:
        with open_track(Window(stream, part), part.kind, name) as track:
            return use(_believable(track, name))
    except (Overlong, NoChannel):
        raise
    except NoDecoder as error:
        if isinstance(first, NoSound):
            raise first from None
        raise (error if unknown else undecodable(name, first.got, error.advice)) from None
    except AudioError as error:
        raise (error if unknown else first) from None


def _with_sound_or(
    stream: BinaryIO, part: Part, name: str, use: Callable[[Sndfile | Track], T], empty: T
) -> T:
    """Return what ``use`` makes of a part; ``empty`` where it holds no sound and says so."""
    try:
        return _with_sound(stream, part, name, use)
    except NoSound:
        _hold_against(0.0, max(part.seconds, part.promised_seconds), name)
        return empty


def _believable(sound: Sndfile | Track, name: str) -> Sndfile | Track:
    if sound.frames == 0:
        raise _no_sound(name)
    if not _RATES_HZ[0] <= sound.rate <= _RATES_HZ[1]:
        raise undecodable(name, f"a header that says {sound.rate} samples per second")
    return sound


def _counted(sound: Sndfile | Track, part: Part, name: str) -> tuple[float, int, int]:
    """Return length in seconds, rate and channels; what does not know its length is decoded."""
    if sound.frames is None:
        for _ in sound.blocks(0, None):
            pass
        _hold_against(_length(sound), sound.declared_seconds or 0.0, name)
    elif part.kind in (decoders.FLAC, decoders.OGG):  # their headers may say anything
        try:
            at_its_end = any(len(block) for block in sound.blocks(sound.frames - 1, 1))
        except AudioError:
            at_its_end = False
        if not at_its_end:
            raise undecodable(name, f"its header says {_length(sound):.1f} s, but it ends before")
    _hold_against(part.seconds or math.inf, part.promised_seconds, name)
    return _length(sound), sound.rate, sound.channels


def _read(stream: BinaryIO, part: Part, ask: _Ask) -> _Piece:
    """Read what is asked for of a part; where channels cancel, the loudest alone."""
    empty = _Piece(np.zeros(0, dtype=np.float32), remarks=(_EMPTY_PART,))
    piece = _with_sound_or(stream, part, ask.name, partial(_heard, part=part, ask=ask), empty)
    if piece.cancelled_by is None:
        return piece
    alone = replace(ask, channel=piece.cancelled_by)
    piece = _with_sound(stream, part, ask.name, partial(_heard, part=part, ask=alone))
    remark = f"its channels cancel (opposite phase): channel {alone.channel} is heard alone"
    return replace(piece, remarks=(*piece.remarks, remark))


def _heard(sound: Sndfile | Track, part: Part, ask: _Ask) -> _Piece:
    """Decode what is asked for of a part and hold it against what the part says of its length."""
    if ask.channel is not None and not 0 <= ask.channel < sound.channels:
        raise NoChannel(
            f"{ask.name}: there is no channel {ask.channel}.",
            got=f"{sound.channels} channel(s)",
            expected=f"0 <= channel < {sound.channels}",
        )
    first, stop = ask.span(sound.rate, sound.frames)
    if stop is not None and stop <= first:
        return _Piece(np.zeros(0, dtype=np.float32), length_seconds=_length(sound))
    expected = (stop - first) / sound.rate if stop is not None and sound.frames is not None else 0.0
    rest = (sound.declared_seconds or 0.0) - first / sound.rate
    ask.refuse_overlong(expected if stop is not None else rest)
    mixer = _Mixer(ask.channel)
    blocks = sound.blocks(first, None if stop is None else stop - first)
    samples = _resampled(mixer.mono(blocks), sound.rate, ask)
    found = len(samples) / SAMPLE_RATE_HZ
    if sound.frames == 0:
        raise _no_sound(ask.name)
    if found + SPAN_TOLERANCE_SECONDS < expected or (expected and not found):
        raise _short(ask.name, found, expected)
    if sound.frames is not None and stop in (None, sound.frames):  # it was read to its end
        declared = sound.declared_seconds or 0.0
        _hold_against(_length(sound), max(part.seconds, part.promised_seconds, declared), ask.name)
    return _Piece(samples, sound.start_seconds, (), _length(sound), mixer.cancelled_by())


def _hold_against(seconds: float, declared_seconds: float, name: str) -> None:
    """Demand that as much was decoded as its container says there is."""
    if seconds + CODEC_TOLERANCE_SECONDS < declared_seconds:
        raise _short(name, seconds, declared_seconds)


def _length(sound: Sndfile | Track) -> float:
    return math.inf if sound.frames is None else sound.frames / sound.rate


class _Mixer:
    """Makes one channel of several, and notes whether they cancel."""

    def __init__(self, channel: int | None) -> None:
        self._channel = channel
        self._power = np.zeros(0)  # of each channel
        self._mixed = 0.0

    def mono(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Return the channel that was chosen, or the mean of all."""
        for block in blocks:
            if self._channel is not None:
                yield np.ascontiguousarray(block[:, min(self._channel, block.shape[1] - 1)])
            elif block.shape[1] == 1:
                yield block[:, 0]
            else:
                mean = block.mean(axis=1, dtype=np.float32)
                if len(self._power) != block.shape[1]:
                    self._power, self._mixed = np.zeros(block.shape[1]), 0.0
                self._power += np.einsum("ij,ij->j", block, block, dtype=np.float64)
                self._mixed += float(np.einsum("i,i->", mean, mean, dtype=np.float64))
                yield mean

    def cancelled_by(self) -> int | None:
        """Return the loudest channel where the mean holds next to nothing of it, else None."""
        if len(self._power) < 2:
            return None
        loudest = int(self._power.argmax())
        alone = self._power[loudest] / len(self._power) ** 2
        return loudest if self._mixed < _CANCELLED * alone else None


def _remarks(found: list[Part]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(remark for part in found for remark in part.remarks))


@contextmanager
def _stream(source: AudioSource) -> Iterator[tuple[str, BinaryIO]]:
    """Open a source as (name for messages, seekable stream); a pipe is read to its end."""
    stream: BinaryIO
    if isinstance(source, bytes | bytearray | memoryview):
        name, stream = "<bytes>", io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        name, stream = os.fspath(source), _opened_file(Path(source))
    else:
        name, stream = str(getattr(source, "name", "<stream>")), source
    try:
        if not getattr(stream, "seekable", lambda: False)():
            data = io.BytesIO(stream.read())
            if stream is not source:
                stream.close()
            stream = data
        if stream.seek(0, io.SEEK_END) == 0:
            advice = "Did what should write it fail?"
            raise AudioError(f"{name}: is empty.", got="0 bytes", expected=FORMATS, advice=advice)
        yield name, stream
    finally:
        if stream is not source:
            stream.close()


def _no_sound(name: str) -> NoSound:
    return NoSound(f"{name}: holds no sound.", got="0 samples", advice="Leave this file out.")


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
        advice = f"Name what is in it: {path / '*'}" if isinstance(error, IsADirectoryError) else None
        raise AudioError(f"{path}: cannot be opened.", got=error.strerror, advice=advice) from None
    except ValueError as error:
        raise AudioError(f"{str(path)!a}: no file can have this name.", got=str(error)) from None


def _short(name: str, found: float, expected: float) -> AudioError:
    return undecodable(name, f"only {found:.2f} s of {expected:.2f} s can be decoded")


def _asked(offset: float, duration: float | None) -> str:
    return f"from {offset} s {'to its end' if duration is None else f'for {duration} s'}"


def _not_in_it(name: str, offset: float, duration: float | None, total: float) -> AudioError:
    return AudioError(
        f"{name}: the span is not in the file.",
        got=_asked(offset, duration),
        expected=f"within 0 .. {total:.3f} s",
        advice="Correct offset and duration, or look whether the file was cut off.",
    )


def _resampled(blocks: Iterator[np.ndarray], rate: int, ask: _Ask) -> np.ndarray:
    """Join blocks of mono samples, up to the limit, brought from ``rate`` to 16 kHz."""
    stream = None
    if rate != SAMPLE_RATE_HZ:
        stream = soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1, dtype="float32")
    out, seen = [], 0
    for block in blocks:
        seen += len(block)
        ask.refuse_overlong(seen / rate)
        out.append(block if stream is None else stream.resample_chunk(block))
    if stream is not None:
        out.append(stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    return _one(out)


def _one(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0] if arrays else np.zeros(0, np.float32)
