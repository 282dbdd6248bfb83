"""What a file is, by its own first bytes, and what decodes it: libsndfile, or FFmpeg (``pip install av``).

Its name is never asked, nor is everything tried that could open it: FFmpeg knows hundreds of formats, and
some of them are lists of other files, addresses or devices. So a file is opened only as the one format that
its first bytes name, and what is not in the table is refused.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import soundfile

from aista.errors import AudioError

HEAD_BYTES = 600  # enough for three packets of a transport stream


@dataclass(frozen=True)
class Kind:
    """A format of sound files.

    Attributes:
        name: What messages call it.
        demuxer: FFmpeg's name for it.
        begins: What a file of it begins with.
        declares_length: Whether it says how long it is, so that what was decoded can be held against it.
        marks: What every beginning of it holds, and how many bytes after its first: quick to look for.
    """

    name: str
    demuxer: str
    begins: re.Pattern[bytes]
    declares_length: bool = True
    marks: tuple[tuple[bytes, int], ...] = ()


def _kind(name: str, demuxer: str, begins: bytes, *marks: bytes, lead: int = 0, length: bool = True) -> Kind:
    return Kind(name, demuxer, re.compile(begins, re.DOTALL), length, tuple((mark, lead) for mark in marks))


WAV = _kind("WAV", "wav", rb"(?:RIFF|RIFX|RF64|BW64).{4}WAVE", b"RIFF", b"RIFX", b"RF64", b"BW64")
W64 = _kind("W64", "w64", rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00", b"riff\x2e\x91")
AIFF = _kind("AIFF", "aiff", rb"FORM.{4}AIF[FC]", b"FORM")
AVI = _kind("AVI", "avi", rb"RIFF.{4}AVI ")
FLAC = _kind("FLAC", "flac", rb"fLaC", b"fLaC")
OGG = _kind("Ogg", "ogg", rb"OggS", b"OggS\x00\x02")
MP3 = _kind("MP3", "mp3", rb"\xff[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xff]", length=False)
MP4 = _kind("MP4", "mov", rb".{4}(?:ftyp|moov|mdat|wide|skip|free|pnot|styp|moof|sidx)", b"ftyp", lead=4)
CAF = _kind("CAF", "caf", rb"caff\x00\x01\x00\x00", b"caff\x00\x01")
AU = _kind("AU", "au", rb"\.snd\x00\x00", b".snd\x00\x00")
SPHERE = _kind("NIST SPHERE", "nistsphere", rb"NIST_1A\n", b"NIST_1A\n")
WAVPACK = _kind("WavPack", "wv", rb"wvpk")
APE = _kind("Monkey's Audio", "ape", rb"MAC ")
MATROSKA = _kind("Matroska", "matroska", rb"\x1aE\xdf\xa3", b"\x1aE\xdf\xa3")
_ASF = rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
_PLAIN = (WAV, W64, AIFF, AVI, FLAC, OGG, MP4, MATROSKA, CAF, AU, SPHERE)

KINDS: tuple[Kind, ...] = (
    *_PLAIN,
    _kind("ASF", "asf", _ASF, b"\x30\x26\xb2\x75\x8e\x66"),
    _kind("FLV", "flv", rb"FLV\x01.\x00\x00\x00\x09", b"FLV\x01", length=False),
    _kind("AMR", "amr", rb"#!AMR(?:-WB)?\n", b"#!AMR", length=False),
    _kind("MPEG-TS", "mpegts", rb"(?:G.{187}G.{187}G|.{4}G.{191}G.{191}G)", length=False),
    _kind("MPEG-PS", "mpeg", rb"\x00\x00\x01\xba", length=False),
    _kind("AC-3", "ac3", rb"\x0bw.{3}[\x00-\x57]", length=False),
    _kind("E-AC-3", "eac3", rb"\x0bw.{3}[\x58-\x8f]", length=False),
    _kind("VOC", "voc", rb"Creative Voice File\x1a"),
    _kind("RealMedia", "rm", rb"\.RMF\x00\x00\x00"),
    _kind("DTS", "dts", rb"\x7f\xfe\x80\x01", length=False),
    _kind("DSF", "dsf", rb"DSD \x1c\x00\x00\x00"),
    APE,
    WAVPACK,
    _kind("True Audio", "tta", rb"TTA1"),
    _kind("Musepack", "mpc8", rb"MPCK"),
    _kind("Musepack 7", "mpc", rb"MP\+"),
    _kind("ADTS", "aac", rb"\xff[\xf0\xf1\xf8\xf9]", length=False),
    MP3,
)

# Beginnings that nobody meets by chance in the middle of a file: eight bytes and more.
CERTAIN = re.compile(
    rb"fLaC[\x00\x80]\x00\x00\x22"
    rb"|OggS\x00\x02\x00{8}"
    rb"|(?:RIFF|RIFX|RF64|BW64).{4}WAVE"
    rb"|riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
    rb"|FORM.{4}AIF[FC]"
    rb"|caff\x00\x01\x00\x00desc"
    rb"|\.snd\x00\x00\x00.{5}\x00\x00\x00.\x00"
    rb"|NIST_1A\n   1024\n"
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
    rb"|FLV\x01[\x01\x04\x05]\x00\x00\x00\x09"
    rb"|#!AMR(?:-WB)?\n"
    rb"|\x1aE\xdf\xa3.{1,48}?(?:webm|matroska)"
    rb"|\x00\x00\x00.ftyp[a-zA-Z0-9 ]{4}",
    re.DOTALL,
)
LONGEST_BEGINNING = 64
_USUAL = (*WAV.marks[:1], *FLAC.marks, *OGG.marks, *MP4.marks)


def beginning(block: bytes, first: int, kind: Kind | None) -> int | None:
    """Return where in a block another file certainly begins: of the same kind, or of a usual one."""
    found = len(block)
    for mark, lead in dict.fromkeys([*(kind.marks if kind else ()), *_USUAL]):
        place = block.find(mark, first + lead, found)
        while place >= 0 and not CERTAIN.match(block, place - lead):
            place = block.find(mark, place + 1, found)
        if place >= 0:
            found = place - lead
    return found if found < len(block) else None


def id3_bytes(head: bytes) -> int:
    """Return the length of the ID3v2 tag that ``head`` begins with, or 0."""
    if len(head) < 10 or head[:3] != b"ID3" or any(byte & 0x80 for byte in head[6:10]):
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte
    return 10 + size + (10 if head[5] & 0x10 else 0)


def kind_of(head: bytes) -> Kind | None:
    """Return the kind of a file, or None where nothing in the table begins so.

    Args:
        head: Its first ``HEAD_BYTES`` bytes, after any ID3 tags.
    """
    return next((kind for kind in KINDS if kind.begins.match(head)), None)


def describe(head: bytes) -> str:
    """Say what a file of no known kind seems to be."""
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in place of the file (git lfs pull fetches it)"
    start = head[:48]
    if start and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return f"a text that begins with {start.decode('ascii')!r}"
    return "an unknown or damaged format"


FORMATS = "WAV, FLAC, MP3, OGG or Opus"
_MICROSECONDS = 1_000_000
_BLOCK_VALUES = 1 << 19  # of all channels together: two megabytes
_UNKNOWN_FRAMES = 1 << 62  # about what libsndfile counts where a header does not say it


class NoDecoder(AudioError):
    """PyAV would be needed, and is not installed."""


def undecodable(name: str, reason: object, advice: str | None = None) -> AudioError:
    """Return the error for sound that cannot be decoded."""
    return AudioError(
        f"{name}: cannot be decoded.",
        got=reason,
        expected=FORMATS,
        advice=advice or "The file may be cut off or of another kind; convert it: ffmpeg -i IN OUT.flac",
    )


class Track:
    """The first audio track of a container.

    Attributes:
        rate: Samples per second.
        channels: How many, at its beginning.
        frames: Samples per channel, known once the track was read to its end.
        declared_seconds: How long the container says the track is; None where it does not say.
        start_seconds: How much later than the picture the sound begins.
    """

    def __init__(self, container: Any, kind: Kind, name: str) -> None:
        if not container.streams.audio:
            raise AudioError(
                f"{name}: has no audio track.",
                got=f"a {kind.name} file with {len(container.streams)} track(s), none of sound",
                advice="Leave this file out.",
            )
        self._container, self._name = container, name
        self._track = track = container.streams.audio[0]
        if track.codec_context is None:
            raise undecodable(name, f"a {kind.name} file in a coding that FFmpeg does not know")
        self.rate: int = track.rate or 0
        self.channels: int = track.channels or 0
        self.frames: int | None = None
        declared = []
        if track.duration is not None and track.time_base:
            declared.append(float(track.duration * track.time_base))
        if container.duration is not None and (declared or not container.streams.video):
            declared.append(container.duration / _MICROSECONDS)
        self.declared_seconds = min(declared, default=None) if kind.declares_length else None
        self.start_seconds = 0.0
        if track.start_time is not None and container.start_time is not None and track.time_base:
            later = float(track.start_time * track.time_base) - container.start_time / _MICROSECONDS
            self.start_seconds = max(0.0, later)

    def blocks(self, first: int, count: int | None) -> Iterator[np.ndarray]:
        """Decode ``count`` samples (None: all) from sample ``first`` on, float32 (n, channels) at a time.

        A track whose format changes in the middle is brought to its first rate; its channels may change.
        """
        import av

        try:
            yield from cut(self._decoded(), first, count)
        except (av.FFmpegError, OSError, IndexError, ValueError, OverflowError) as error:
            raise undecodable(self._name, _words(error)) from None

    def _decoded(self) -> Iterator[np.ndarray]:
        import av

        seen, form = 0, None
        plain: Any = None
        for frame in chain(self._container.decode(self._track), [None]):
            found = frame and (frame.format.name, frame.layout.name, frame.sample_rate)
            ready = plain.resample(None) if plain is not None and found != form else []
            if frame is not None and found != form:
                plain = av.AudioResampler(format="flt", rate=self.rate)
            form = found
            for out in [*ready, *(plain.resample(frame) if frame is not None else [])]:
                seen += out.samples
                yield out.to_ndarray().reshape(-1, out.layout.nb_channels)
        self.frames = seen


def cut(blocks: Iterator[np.ndarray], first: int, count: int | None) -> Iterator[np.ndarray]:
    """Return of blocks (n, channels) the samples from ``first`` on, ``count`` of them or all."""
    seen, end = 0, None if count is None else first + count
    for block in blocks:
        part = block[max(0, first - seen) : None if end is None else end - seen]
        seen += len(block)
        if len(part):
            yield part
        if end is not None and seen >= end:
            return


@contextmanager
def open_track(stream: io.RawIOBase, kind: Kind, name: str) -> Iterator[Track]:
    """Open the first audio track of a container as the one format it is, and nothing besides.

    Args:
        stream: A seekable stream at its start.
        kind: What its first bytes say.
        name: What messages call it.

    Raises:
        AudioError: PyAV is not installed, there is no sound, or the container names something outside.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise NoDecoder(
            f"{name}: cannot be decoded.",
            got=f"a {kind.name} file of a kind that libsndfile does not read",
            expected=FORMATS,
            advice="pip install av. Or convert it: ffmpeg -i IN OUT.flac",
        ) from None
    try:
        container = av.open(
            stream,
            "r",
            format=kind.demuxer,
            container_options={"protocol_whitelist": ""},
            io_open=_nothing_else,
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        raise undecodable(name, _words(error)) from None
    with container:
        yield Track(container, kind, name)


def _nothing_else(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise PermissionError(f"the file names another one ({url[:80]!r}), which is not opened")


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Sndfile:
    """What libsndfile reads; ``frames`` is None until it was read where its header does not say it."""

    declared_seconds = None
    start_seconds = 0.0

    def __init__(self, stream: io.RawIOBase, name: str) -> None:
        self._name = name
        try:
            self._sound = _Forward(stream)
        except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
            raise undecodable(name, getattr(error, "error_string", str(error))) from error
        self.rate, self.channels = self._sound.samplerate, self._sound.channels
        frames = self._sound.frames
        self.frames: int | None = None if frames >= _UNKNOWN_FRAMES else max(0, frames)

    def blocks(self, first: int, count: int | None) -> Iterator[np.ndarray]:
        """Decode as :meth:`Track.blocks` does."""
        try:
            if self.frames is None:
                yield from cut(self._decoded(), first, count)
                return
            if first:
                self._sound.seek(first)
            yield from cut(self._decoded(), 0, self.frames - first if count is None else count)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise undecodable(self._name, getattr(error, "error_string", str(error))) from None

    def _decoded(self) -> Iterator[np.ndarray]:
        size, seen = max(1, _BLOCK_VALUES // self.channels), 0
        while len(block := self._sound.read(size, dtype="float32", always_2d=True)):
            seen += len(block)
            yield block
        if self.frames is None:
            self.frames = seen

    def close(self) -> None:
        """Close the file."""
        self._sound.close()


class _Forward(soundfile.SoundFile):
    """A sound file whose reads are plain reads: SoundFile seeks after each, which not every file can."""

    def seekable(self) -> bool:
        return False
