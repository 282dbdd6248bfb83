"""The files that one file is made of: recordings joined end to end, as ``cat a.mp3 b.mp3`` joins them.

Decoders read the first and stop without a word. So the places where another file begins are looked up here,
and every part is read as the file that it was. What a format says about its own end is looked at as well: a
header that was never finished, samples that are missing, bytes that nobody reads.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from aista.audio import decoders
from aista.audio.decoders import Kind
from aista.errors import AudioError

_BLOCK = 1 << 18
_MOST_PARTS = 10_000
_MOST_GARBAGE = 1 << 20  # before the first frame of an MP3
_MOST_CANDIDATES = 200_000  # for the place where an MP3 goes on: what looks like a frame may be none
_STRAY_BYTES = 8192  # what follows the end of a file and is more than this is told
_PLACEHOLDER = 0x7FFF0000  # a size from here on means "not known yet"
_MOST_CHUNKS = 10_000
_RESYNC_BYTES = 1024  # what a decoder of MP3 skips before it gives up


@dataclass(frozen=True)
class Part:
    """One file within a file.

    Attributes:
        kind: None where its first bytes say nothing.
        start, end: Its bytes.
        seconds: Its least length where its frames were counted (MP3).
        promised_seconds: The same where an encoder wrote their number.
        patches: Bytes to read in place of the file's own: a finished header.
        remarks: What is odd about it.
    """

    kind: Kind | None
    start: int
    end: int
    seconds: float = 0.0
    promised_seconds: float = 0.0
    patches: tuple[tuple[int, bytes], ...] = ()
    remarks: tuple[str, ...] = field(default=())


class Window(io.RawIOBase):
    """A part as a file of its own. It can be sent anywhere; what is outside is nowhere.

    Decoders write what goes wrong in their callbacks to the terminal, so nothing goes wrong here.
    """

    def __init__(self, stream: BinaryIO, part: Part) -> None:
        super().__init__()
        self._stream, self._part, self._place = stream, part, 0
        self._size = part.end - part.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}.get(whence, 0)
        if 0 <= place <= 1 << 62:
            self._place = place
        return self._place

    def readinto(self, buffer) -> int:
        first = self._part.start + self._place
        self._stream.seek(first)
        data = self._stream.read(max(0, min(len(buffer), self._size - self._place)))
        buffer[: len(data)] = data
        for at, patch in self._part.patches:
            begin, end = max(at, first), min(at + len(patch), first + len(data))
            if begin < end:
                buffer[begin - first : end - first] = patch[begin - at : end - at]
        self._place += len(data)
        return len(data)


class _Bytes:
    """Random access to a stream through blocks."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = stream.seek(0, io.SEEK_END)
        self._start, self._block = 0, b""

    def at(self, place: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``place``."""
        first = self._loaded(place, count)
        return self._block[first : first + count]

    def search(self, pattern: re.Pattern[bytes], place: int) -> int:
        """Return where a (short) pattern is found from ``place`` on, or the size."""
        return self._find(place, lambda block, first: (hit := pattern.search(block, first)) and hit.start())

    def find_beginning(self, place: int, kind: Kind | None = None) -> int:
        """Return where the next file certainly begins from ``place`` on, or the size."""
        return self._find(place, lambda block, first: decoders.beginning(block, first, kind))

    def _find(self, place: int, look: Callable[[bytes, int], int | None]) -> int:
        while place < self.size:
            first = self._loaded(place, decoders.LONGEST_BEGINNING)
            if (found := look(self._block, first)) is not None:
                return self._start + found
            # What hangs over the end of the block is looked at again.
            place = max(place, self._start + len(self._block) - decoders.LONGEST_BEGINNING) + 1
        return self.size

    def _loaded(self, place: int, count: int) -> int:
        """Make a block hold some bytes and return where they are in it."""
        first = place - self._start
        if first < 0 or first + count > len(self._block):
            self._stream.seek(place)
            self._start, self._block = place, self._stream.read(max(count, _BLOCK))
            first = 0
        return first


def parts(stream: BinaryIO) -> list[Part]:
    """Return the files that a stream consists of, at least one.

    Args:
        stream: Seekable.

    Raises:
        AudioError: There are more than 10,000.

    Cost:
        WAV, MP4 and the like: their outlines. FLAC, MP3, Ogg: all bytes are looked at, none is decoded.
    """
    data = _Bytes(stream)
    found: list[Part] = []
    start = 0
    while start < data.size:
        part = _part(data, start, first=not found)
        if part is None:
            remarks = (*found[-1].remarks, *_stray(data, start, data.size))
            found[-1] = replace(found[-1], remarks=remarks)
            break
        found.append(part)
        start = part.end
        if len(found) > _MOST_PARTS:
            raise AudioError(
                "Too many recordings are joined in one file.", expected=f"at most {_MOST_PARTS:,}"
            )
    return found or [Part(None, 0, data.size)]


def _part(data: _Bytes, start: int, *, first: bool) -> Part | None:
    """Return the file that begins at ``start``; None where nothing known does and it is not the first."""
    body = _after_tags(data, start)
    kind = decoders.kind_of(data.at(body, decoders.HEAD_BYTES))
    if kind is decoders.MP3 or (kind is None and (first or body > start)):
        part = _mp3(data, start, body)
        if part is None or (kind is None and part.seconds < _SURE_SECONDS):  # what looked like frames is none
            return Part(kind, start, data.size) if first or kind else None
        return part
    if kind is decoders.OGG:
        return _ogg(data, start, body)
    if kind is decoders.WAV:
        return _wav(data, start, body)
    if kind is None:
        return None
    declared = _declared_end(data, body, kind)
    least = declared if declared <= data.size else 0
    if kind is decoders.MP4:
        least = _mp4_end(data, body)
    elif kind is decoders.MATROSKA:
        least = _matroska_end(data, body)
    elif (sound := _before_sound(data, body, kind)) <= data.size:
        least = max(least, sound)
    end = data.size
    if kind is not decoders.AVI:  # a long one goes on in further RIFFs
        end = data.find_beginning(max(least, body + 1), kind)
    return Part(kind, start, end, remarks=_cut_off(data, body, declared))


def _after_tags(data: _Bytes, place: int) -> int:
    while tag := decoders.id3_bytes(data.at(place, 10)):
        place += tag
    return place


def _before_sound(data: _Bytes, body: int, kind: Kind) -> int:
    """Return where the bytes end that may hold the header of the WAV that a file was made from; else 0."""
    if kind is decoders.WAVPACK:  # in its first block
        return body + 8 + int.from_bytes(data.at(body + 4, 4), "little")
    if kind is decoders.APE:
        head = data.at(body, 24).ljust(24, b"\0")
        return body + sum(struct.unpack("<4I", head[8:]))
    if kind is not decoders.FLAC:
        return 0
    place = body + 4
    for _ in range(_MOST_CHUNKS):
        head = data.at(place, 4)
        place += 4 + int.from_bytes(head[1:], "big")
        if len(head) < 4 or head[0] & 0x80:  # the last block of metadata
            break
    return place


def _cut_off(data: _Bytes, body: int, declared: int) -> tuple[str, ...]:
    """Say that a header promises more bytes than are there, unless that is how it says "not known"."""
    if not data.size + 8 < declared < body + (1 << 62) or declared - body in range(_PLACEHOLDER, 1 << 32):
        return ()
    return (f"cut off: its header says {declared - body:,} bytes, {data.size - body:,} are there",)


def _declared_end(data: _Bytes, body: int, kind: Kind) -> int:
    """Return where a header says that its file ends; 0 where it does not."""
    head = data.at(body, 24)
    if kind is decoders.AIFF:
        return body + 8 + int.from_bytes(head[4:8], "big")
    if kind is decoders.AVI:
        return body + 8 + int.from_bytes(head[4:8], "little")
    if kind is decoders.W64:
        return body + int.from_bytes(head[16:24], "little")
    if kind is decoders.AU:
        first, size = struct.unpack(">II", head[4:12].ljust(8, b"\0"))
        return 0 if size == 0xFFFFFFFF else body + first + size
    if kind is decoders.CAF:
        return _caf_end(data, body)
    return _sphere_end(data, body) if kind is decoders.SPHERE else 0


def _caf_end(data: _Bytes, body: int) -> int:
    place = body + 8
    for _ in range(_MOST_CHUNKS):
        head = data.at(place, 12)
        if len(head) < 12:
            break
        size = int.from_bytes(head[4:], "big", signed=True)
        if size < 0:  # a sound of a length not known yet
            return 0
        place += 12 + size
        if head[:4] == b"data":
            return place
    return place if place > data.size else 0


def _sphere_end(data: _Bytes, body: int) -> int:
    head = data.at(body, 1024)
    found = {name: int(value) for name, value in re.findall(rb"\n(\w+) -i (\d{1,15})(?=\n)", head)}
    size = found.get(b"sample_count", 0) * found.get(b"channel_count", 1) * found.get(b"sample_n_bytes", 0)
    compressed = b"shorten" in head or b"wavpack" in head
    return 0 if compressed or not size else body + 1024 + size


def _mp4_end(data: _Bytes, body: int) -> int:
    """Go along the boxes: another ``ftyp`` after the sound or its table begins another file."""
    place, full = body, False
    for _ in range(_MOST_CHUNKS):
        head = data.at(place, 16)
        if len(head) < 8:
            return data.size
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if name == b"ftyp" and full:
            return place
        full |= name in (b"moov", b"mdat")
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        if size < 8 or place + size > data.size:
            return data.size
        place += size
    return data.size


_CLUSTER = re.compile(rb"\x1fC\xb6u")


def _matroska_end(data: _Bytes, body: int) -> int:
    """Go over the header and the segment; where the segment does not know its size, look from its sound."""
    place = body
    for _ in range(_MOST_CHUNKS):
        head = data.at(place, 12)
        if len(head) < 5:
            return data.size
        width = 9 - head[4].bit_length()
        size = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        unknown = size == (1 << 7 * width) - 1
        if width > 8 or unknown or place + 4 + width + size > data.size:
            return data.search(_CLUSTER, place + 4)  # what is before may hold the head of a FLAC
        place += 4 + width + size
        if head[:4] != b"\x1aE\xdf\xa3":
            return place
    return data.size


# ---- WAV


def _chunks(data: _Bytes, place: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Go over the chunks of a RIFF: name, first byte, size as it stands there."""
    for _ in range(_MOST_CHUNKS):
        head = data.at(place, 8)
        if len(head) < 8:
            return
        size = struct.unpack(f"{order}I", head[4:])[0]
        yield head[:4], place + 8, size
        place += 8 + size + size % 2


def _is_chunks(data: _Bytes, place: int) -> bool:
    """Whether the rest of the data is whole chunks: then what stands before it was meant to be empty."""
    for name, first, size in _chunks(data, place, "<"):
        if not name.isascii() or not name.decode("ascii").isprintable() or first + size > data.size + 1:
            return False
        place = first + size
    return data.size - place <= 8


def _wav(data: _Bytes, start: int, body: int) -> Part:
    head = data.at(body, 12)
    order = ">" if head[:4] == b"RIFX" else "<"
    riff = struct.unpack(f"{order}I", head[4:8])[0]
    sound = next((c for c in _chunks(data, body + 12, order) if c[0] == b"data"), None)
    if head[:4] in (b"RF64", b"BW64"):
        if data.at(body + 12, 4) == b"ds64":
            riff = int.from_bytes(data.at(body + 20, 8), "little")
        sound = None
    if sound is None:
        end = body + 8 + riff
        if cut_off := _cut_off(data, body, end):
            return Part(decoders.WAV, start, data.size, remarks=cut_off)
        return _ended(data, start, end if 12 < riff < data.size else body + 12)
    _, first, size = sound
    left = data.size - first
    if size == 0 and left and not _is_chunks(data, first):
        end = data.find_beginning(first, decoders.WAV)
        patches = (
            (first - 4, struct.pack(f"{order}I", min(end - first, 0xFFFFFFFE))),
            (body + 4, struct.pack(f"{order}I", min(end - body - 8, 0xFFFFFFFE))),
        )
        remark = "its header was never finished (it says 0 samples): read to the end of the file"
        return Part(decoders.WAV, start, end, patches=patches, remarks=(remark,))
    if size > left:
        if size >= _PLACEHOLDER:
            return Part(decoders.WAV, start, data.find_beginning(first, decoders.WAV))
        remark = f"cut off: its header says {size:,} bytes of samples, {left:,} are there"
        return Part(decoders.WAV, start, data.size, remarks=(remark,))
    return _ended(data, start, max(first + size, min(body + 8 + riff, data.size)))


def _ended(data: _Bytes, start: int, end: int) -> Part:
    """Return a WAV that says it ends at ``end``: up to the next file, with a remark on what is between."""
    following = data.find_beginning(end, decoders.WAV) if end < data.size else data.size
    stray = following - end
    remark = f"{stray:,} bytes follow the end that its header gives, and are not read"
    return Part(decoders.WAV, start, following, remarks=(remark,) if stray > _STRAY_BYTES else ())


# ---- Ogg

_PAGE = re.compile(rb"OggS\x00|" + decoders.CERTAIN.pattern, re.DOTALL)


def _ogg(data: _Bytes, start: int, body: int) -> Part:
    """Go over the pages: a stream that begins after another's sound begins another file (a chain)."""
    place, sounded, ended = body, False, False
    while place < data.size:
        head = data.at(place, 27 + 255)
        if len(head) < 27 or head[:4] != b"OggS":
            following = data.search(_PAGE, place + 1)
            if following == data.size or data.at(following, 4) != b"OggS":
                return Part(decoders.OGG, start, following, remarks=_unended(ended))
            place = following
            continue
        begins = bool(head[5] & 2)
        if begins and sounded:
            break
        sounded |= not begins
        ended = bool(head[5] & 4)
        place += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return Part(decoders.OGG, start, min(place, data.size), remarks=_unended(ended and place <= data.size))


def _unended(ended: bool) -> tuple[str, ...]:
    return () if ended else ("it has no mark of its end: it may have been cut off",)


# ---- MP3

_SYNC = re.compile(rb"\xff[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xff][\x10-\xef]|ID3", re.DOTALL)
_ID3 = re.compile(rb"ID3[\x02-\x04]\x00")
_SURE_SECONDS = 0.1
_RATES_HZ = (44_100, 48_000, 32_000)
_KBPS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class _Frame:
    """A frame of MPEG audio: its bytes, its samples, and what all frames of one stream have in common."""

    size: int
    samples: int
    rate: int
    stream: tuple[int, int, int, bool]


def _frame(head: bytes) -> _Frame | None:
    """Read the four bytes that a frame begins with."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = (head[1] >> 3) & 3, 4 - ((head[1] >> 1) & 3)
    kbps, rate = head[2] >> 4, (head[2] >> 2) & 3
    if version == 1 or layer == 4 or kbps in (0, 15) or rate == 3:
        return None
    generation = 1 if version == 3 else 2
    hertz = _RATES_HZ[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits = _KBPS[generation, layer][kbps - 1] * 1000
    padding = (head[2] >> 1) & 1
    samples = 384 if layer == 1 else 576 if layer == 3 and generation == 2 else 1152
    size = (12 * bits // hertz + padding) * 4 if layer == 1 else samples // 8 * bits // hertz + padding
    return _Frame(size, samples, hertz, (version, layer, rate, head[3] >> 6 == 3))


def _mp3(data: _Bytes, start: int, body: int) -> Part | None:
    """Go over the frames up to a tag, or to a frame that begins another stream; None if this is no MP3."""
    place = last = body
    seconds, length, frames, declared = 0.0, 0.0, 0, (0, 0)
    stream: tuple[int, int, int, bool] | None = None
    candidates = _MOST_CANDIDATES
    while place < data.size and candidates:
        frame = _frame(data.at(place, 4))
        if frame is not None and stream in (None, frame.stream) and _goes_on(data, place, frame):
            opening = _opening(data, place)
            if opening and stream is not None:
                break
            declared = opening or declared
            length = frame.samples / frame.rate
            frames += not opening
            seconds += 0.0 if opening else length
            stream = frame.stream
            place = last = place + frame.size
            continue
        following, candidates = _next_frame(data, place, candidates)
        if stream is None and (following == data.size or following - start > _MOST_GARBAGE):
            return None
        if stream is not None and _other(data, place, following, stream):
            place = _next_part(data, place, following)
            break
        place = following
    end = min(place, data.size)
    # An encoder's count that is too small would end the reading there; without it the frames are counted.
    patches = ((declared[0], bytes(4)),) if 0 < declared[1] < frames - 1 else ()
    return Part(decoders.MP3, start, end, seconds, declared[1] * length, patches, _stray(data, last, end))


def _stray(data: _Bytes, last: int, end: int) -> tuple[str, ...]:
    """Say what follows the last frame, unless it is a tag, zeros, or little."""
    last = _after_tags(data, last)
    stray = end - last
    if stray <= _STRAY_BYTES or _is_tag(data.at(last, 10)) or not data.at(last, 64).strip(b"\0"):
        return ()
    return (f"{stray:,} bytes in it are no MP3, and are not read",)


def _opening(data: _Bytes, place: int) -> tuple[int, int] | None:
    """Return where an encoder's note stands in place of sound, and how many frames it counts; None: sound."""
    head = data.at(place, 64)
    for at in (13, 15, 21, 23, 36, 38):  # after the side information of any version, with or without checksum
        if head[at : at + 4] in (b"Xing", b"Info"):
            counted = head[at + 7 : at + 8] and head[at + 7] & 1
            return place + at, int.from_bytes(head[at + 8 : at + 12], "big") if counted else 0
    if head[36:40] == b"VBRI":
        return place + 36, int.from_bytes(head[50:54], "big")
    return None


def _goes_on(data: _Bytes, place: int, frame: _Frame) -> bool:
    """Whether after a frame there is another, a tag or the end: what looks like a frame is one."""
    after = data.at(place + frame.size, 10)
    return len(after) < 4 or _frame(after) is not None or _is_tag(after) or not after.strip(b"\0")


def _is_tag(head: bytes) -> bool:
    return head[:3] in (b"ID3", b"TAG") or head[:8] in (b"APETAGEX", b"LYRICSBE")


def _next_frame(data: _Bytes, place: int, candidates: int) -> tuple[int, int]:
    """Return where the next frame is from ``place`` on, tags passed over, and how many tries are left."""
    while place < data.size and candidates:
        candidates -= 1
        if tag := decoders.id3_bytes(data.at(place, 10)):
            place += tag
            continue
        frame = _frame(data.at(place, 4))
        if frame is not None and _goes_on(data, place, frame):
            return place, candidates
        place = data.search(_SYNC, place + 1)
    return data.size, candidates


def _other(data: _Bytes, place: int, following: int, stream: tuple[int, int, int, bool]) -> bool:
    """Whether what comes after a gap is another file: another stream, after a tag, or after much else."""
    if following == data.size:
        return True
    frame = _frame(data.at(following, 4))
    gap = following - place
    return frame is None or frame.stream != stream or gap > _RESYNC_BYTES or _is_tag(data.at(place, 10))


def _next_part(data: _Bytes, place: int, following: int) -> int:
    """Return where the file after a gap begins: at its tag, or at another kind of file, or at its frame."""
    certain = data.find_beginning(place)
    if certain < following:
        return certain
    if following == data.size:
        return following
    tag = data.search(_ID3, place)
    return tag if tag < following and decoders.id3_bytes(data.at(tag, 10)) else following
