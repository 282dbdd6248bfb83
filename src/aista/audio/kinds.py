"""What a file is, by its own first bytes: never by its name, and never by trying what could open it.

FFmpeg knows hundreds of formats. Some of them are lists of other files, addresses or devices. So a file is
opened only as the one format that its first bytes name, and what is not in the table is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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


def _kind(
    name: str,
    demuxer: str,
    begins: bytes,
    *marks: bytes,
    declares_length: bool = True,
    lead: int = 0,
) -> Kind:
    found = tuple((mark, lead) for mark in marks)
    return Kind(name, demuxer, re.compile(begins, re.DOTALL), declares_length, found)


WAV = _kind("WAV", "wav", rb"(?:RIFF|RIFX|RF64|BW64).{4}WAVE", b"RIFF", b"RIFX", b"RF64", b"BW64")
W64 = _kind("W64", "w64", rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00", b"riff\x2e\x91")
AIFF = _kind("AIFF", "aiff", rb"FORM.{4}AIF[FC]", b"FORM")
AVI = _kind("AVI", "avi", rb"RIFF.{4}AVI ")
FLAC = _kind("FLAC", "flac", rb"fLaC", b"fLaC")
OGG = _kind("Ogg", "ogg", rb"OggS", b"OggS\x00\x02")
MP3 = _kind("MP3", "mp3", rb"\xff[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xff]", declares_length=False)
MP4 = _kind("MP4", "mov", rb".{4}(?:ftyp|moov|mdat|wide|skip|free|pnot|styp|moof|sidx)", b"ftyp", lead=4)
CAF = _kind("CAF", "caf", rb"caff\x00\x01\x00\x00", b"caff\x00\x01")
AU = _kind("AU", "au", rb"\.snd\x00\x00", b".snd\x00\x00")
SPHERE = _kind("NIST SPHERE", "nistsphere", rb"NIST_1A\n", b"NIST_1A\n")
MATROSKA = _kind("Matroska", "matroska", rb"\x1aE\xdf\xa3", b"\x1aE\xdf\xa3")

KINDS: tuple[Kind, ...] = (
    WAV,
    W64,
    AIFF,
    AVI,
    FLAC,
    OGG,
    MP4,
    MATROSKA,
    CAF,
    AU,
    SPHERE,
    _kind(
        "ASF",
        "asf",
        rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
        b"\x30\x26\xb2\x75\x8e\x66",
    ),
    _kind("FLV", "flv", rb"FLV\x01.\x00\x00\x00\x09", b"FLV\x01", declares_length=False),
    _kind("AMR", "amr", rb"#!AMR(?:-WB)?\n", b"#!AMR", declares_length=False),
    _kind("MPEG-TS", "mpegts", rb"(?:G.{187}G.{187}G|.{4}G.{191}G.{191}G)", declares_length=False),
    _kind("MPEG-PS", "mpeg", rb"\x00\x00\x01\xba", declares_length=False),
    _kind("AC-3", "ac3", rb"\x0bw.{3}[\x00-\x57]", declares_length=False),
    _kind("E-AC-3", "eac3", rb"\x0bw.{3}[\x58-\x8f]", declares_length=False),
    _kind("VOC", "voc", rb"Creative Voice File\x1a"),
    _kind("RealMedia", "rm", rb"\.RMF\x00\x00\x00"),
    _kind("DTS", "dts", rb"\x7f\xfe\x80\x01", declares_length=False),
    _kind("DSF", "dsf", rb"DSD \x1c\x00\x00\x00"),
    _kind("Monkey's Audio", "ape", rb"MAC "),
    _kind("WavPack", "wv", rb"wvpk"),
    _kind("True Audio", "tta", rb"TTA1"),
    _kind("Musepack", "mpc8", rb"MPCK"),
    _kind("Musepack 7", "mpc", rb"MP\+"),
    _kind("ADTS", "aac", rb"\xff[\xf0\xf1\xf8\xf9]", declares_length=False),
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
