"""What is said when, from subtitle files: SubRip ``.srt``, WebVTT ``.vtt``, SubStation ``.ass`` and ``.ssa``.

Times as people write them, markup and entities, captions that roll up the screen: what cannot be read is an
error with its line, and no cue is lost without a word. ``pysubs2`` reads SubStation.
"""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pysubs2

from aista.data.manifest import OVERLAP_SECONDS, TimedText
from aista.errors import ManifestError
from aista.text.prompts import joined

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")

_TIME = r"(?:(\d{1,4}):)?(\d{1,3}):(\d{1,2})(?:[.,](\d{1,3}))?"
_ARROW = (
    r"\s*(?:[-\u2010-\u2015\u2212=]+\s*[-\u2010-\u2015\u2212=]*\s*(?:>|&gt;)+|[\u2192\u27f6\u279c\u21d2])\s*"
)
_TIME_LINE = re.compile(rf"\s*{_TIME}{_ARROW}{_TIME}(?:\s+(\S.*))?\s*")
_ALMOST = re.compile(rf"-->|\d\s*:\s*\d\d.*{_ARROW}.*\d\s*:\s*\d\d")
_NUMBER = re.compile(r"\s*(\d+)\s*")
_NOT_SPOKEN = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
# <i>, <font color="red">, <v Ann>, <c.yellow>, <00:00:01.000>; {\an8}. Another < is a less-than sign.
_MARKUP = re.compile(
    r"</?(?:i|b|u|s|c|ruby|rt|br)(?:\.[^<>\s]*)?\s*/?>|</?(?:v|lang|font|span)(?:[.\s][^<>]*)?>"
    r"|<(?:\d+:)?\d+:\d+[.,]\d+>|\{\\[^{}]*\}",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
# Where a line break stands for a space in any language, as aista.inference.formats sets lines.
_BETWEEN_WORDS = re.compile(r"(?<=[!-~])\n(?=[0-9A-Za-z])")
_SAME_SECONDS = 0.25
_TOUCHING_SECONDS = 0.1  # rolling captions follow one another without a pause


@dataclass(frozen=True)
class Cue:
    """One cue: its line in the file, times in seconds, lines of text without markup, and their language."""

    line: int
    start: float
    end: float
    texts: tuple[str, ...]
    code: str | None = None

    @property
    def text(self) -> str:
        """The text as one line."""
        return one_line(self.texts, self.code)


@dataclass(frozen=True)
class Subtitles:
    """What a subtitle file says.

    Attributes:
        path: The file.
        cues: What is said, in the order of their starts; cues that say nothing are left out.
    """

    path: Path
    cues: tuple[Cue, ...]

    def untimed(self) -> str | None:
        """Say, with the line, why these times cannot divide a sound; None if they can."""
        end = 0.0
        for cue in self.cues:
            if cue.end <= cue.start:
                return f"{self.path}:{cue.line}: a cue without length"
            if cue.start < end - OVERLAP_SECONDS:
                return f"{self.path}:{cue.line}: a cue starts before the one before it ends"
            end = cue.end
        return None

    def timed(self) -> list[TimedText]:
        """Return the cues as parts of an utterance."""
        return [
            TimedText(offset=cue.start, duration=round(cue.end - cue.start, 3), text=cue.text)
            for cue in self.cues
        ]

    def joined(self, code: str) -> str | None:
        """Return everything that is said, joined as the language does; None if that is nothing."""
        return one_line((cue.text for cue in self.cues), code) or None

    def beyond(self, seconds: float) -> str | None:
        """Say, with the line, which cue ends after a sound of this length."""
        late = next((cue for cue in self.cues if cue.end > seconds + OVERLAP_SECONDS), None)
        if late is None:
            return None
        return f"{self.path}:{late.line}: a cue ends at {late.end:g} s, the sound at {seconds:.2f} s"


def read_subtitles(path: Path, code: str | None = None) -> Subtitles:
    """Read a subtitle file.

    Captions that roll up the screen (each shows the line before it once more, as those that are made live or
    by a machine do) give every line once.

    Args:
        code: The language; the lines of a cue are joined as it does, of an unknown one with spaces.

    Raises:
        ManifestError: The file is no text in UTF-8, or something in it cannot be read; the message names
            file and line. Nothing is left out instead.
    """
    text = read_text(path)
    read = _substation if path.suffix.lower() in (".ass", ".ssa") else _timed_lines
    cues = read(text, path)
    spoken = sorted((replace(cue, code=code) for cue in cues if cue.texts), key=lambda cue: cue.start)
    return Subtitles(path, tuple(_unrolled(spoken)))


def read_text(path: Path) -> str:
    """Return a text file: UTF-8, or UTF-16 with its byte-order mark.

    Raises:
        ManifestError: It is in another encoding.
    """
    data = path.read_bytes()
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: is not UTF-8.", advice="Convert it: iconv -f ... -t utf-8") from None


def one_line(lines: Iterable[str], code: str | None) -> str:
    """Join the lines of a text as its language does; Latin words at a break stay apart in every language."""
    return joined(_BETWEEN_WORDS.sub(" ", "\n".join(lines)).split("\n"), code)


def with_translations(cues: list[TimedText], translated: list[TimedText]) -> list[TimedText] | None:
    """Return cues that hold both languages, or None where the two do not have the same times."""
    same = len(cues) == len(translated) and all(
        abs(one.offset - other.offset) <= _SAME_SECONDS and abs(one.end - other.end) <= _SAME_SECONDS
        for one, other in zip(cues, translated, strict=True)
    )
    if not same:
        return None
    return [
        one.model_copy(update={"translation": other.text})
        for one, other in zip(cues, translated, strict=True)
    ]


# ---- SubRip and WebVTT


def _timed_lines(text: str, path: Path) -> Iterator[Cue]:
    """Yield the cues of SubRip or WebVTT: line, times, and what stands up to the next cue's head."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    web = lines[0].startswith("WEBVTT")
    if path.suffix.lower() == ".vtt" and not web:
        raise ManifestError(f"{path}:1: no WebVTT.", got=lines[0][:40], expected="WEBVTT")
    head: Cue | None = None
    body: list[str] = []
    number, numbered = 0, False  # of the last cue, as the file counts; whether it does
    for at, line in enumerate([*lines, None], start=1):
        found = None if line is None else _head(line, at, path, in_note=web and _in_note([*body, line]))
        if line is not None and found is None:
            body.append(line)
            continue
        if found is not None:
            numbered = numbered or (head is None and bool(body and _NUMBER.fullmatch(body[-1])))
            number = _without_name(body, number, numbered, web)
        # Blank lines say nothing, nor do comments and styles of WebVTT.
        said = [text for i, text in enumerate(body) if text.strip() and not (web and _in_note(body[: i + 1]))]
        if head is not None:
            yield replace(head, texts=_plain(said))
        elif web:
            said = said[next((i for i, each in enumerate(body) if not each.strip()), len(body)) :]
        if head is None and said:
            raise ManifestError(
                f"{path}: something stands before the first cue.",
                got=said[0][:60],
                expected="00:00:01,000 --> 00:00:02,000",
            )
        head, body = found, []


def _head(line: str, at: int, path: Path, in_note: bool) -> Cue | None:
    """Return the cue that a line begins, still without its texts, or None if it holds no times.

    Raises:
        ManifestError: It looks like a time line and cannot be read.
    """
    plain = unicodedata.normalize("NFKC", line)
    if in_note or not _ALMOST.search(plain):
        return None
    if found := _TIME_LINE.fullmatch(plain):
        parts = found.groups()
        start, end = _seconds(parts[:4]), _seconds(parts[4:8])
        if start is not None and end is not None and start <= end:
            return Cue(at, start, end, ())
    raise ManifestError(
        f"{path}:{at}: the times of this cue cannot be read.",
        got=line.strip(),
        expected="00:00:01,000 --> 00:00:02,000",
    )


def _seconds(parts: Sequence[str | None]) -> float | None:
    hours, minutes, seconds = (int(part or 0) for part in parts[:3])
    if seconds > 59 or (parts[0] is not None and minutes > 59) or (parts[0] is None and parts[3] is None):
        return None
    return hours * 3600 + minutes * 60 + seconds + int((parts[3] or "0").ljust(3, "0")) / 1000


def _without_name(body: list[str], number: int, numbered: bool, web: bool) -> int:
    """Take the next cue's number (in WebVTT: its name) off the end of a body; a number that is said stays.

    Args:
        number: That of the cue before.
        numbered: Whether the file's cues have numbers.

    Returns:
        The next cue's number.
    """
    apart = bool(body) and not body[-1].strip()  # a blank line stands before the times
    while body and not body[-1].strip():
        body.pop()
    if not body:
        return number + 1
    alone = len(body) == 1 or not body[-2].strip()
    found = _NUMBER.fullmatch(body[-1])
    follows = found is not None and int(found[1]) == number + 1 and (alone or not apart)
    if follows or (alone and not apart and (web or (numbered and found))):
        body.pop()
        return int(found[1]) if found else number + 1
    return number + 1


def _in_note(body: Sequence[str]) -> bool:
    """Whether the last paragraph of a WebVTT body is a comment or a style."""
    if not body or not body[-1].strip():
        return False
    first = next((i for i in range(len(body) - 1, -1, -1) if not body[i].strip()), -1) + 1
    return bool(_NOT_SPOKEN.match(body[first]))


# ---- SubStation


def _substation(text: str, path: Path) -> list[Cue]:
    lines = [number for number, line in enumerate(text.split("\n"), start=1) if line.startswith("Dialogue:")]
    try:
        events = pysubs2.SSAFile.from_string(text, format_=path.suffix.lower().lstrip("."))
    except (pysubs2.Pysubs2Error, ValueError, LookupError) as error:
        raise ManifestError(f"{path}: cannot be read.", got=str(error)) from None
    spoken = [event for event in events if not event.is_comment]
    if len(spoken) != len(lines):
        raise ManifestError(f"{path}: not all cues can be read.", got=len(spoken), expected=len(lines))
    early = next((line for line, e in zip(lines, spoken, strict=True) if e.end < e.start), None)
    if early is not None:
        raise ManifestError(f"{path}:{early}: the cue ends before it starts.")
    texts = [() if event.is_drawing else _plain(event.plaintext.split("\n")) for event in spoken]
    return [
        Cue(line, event.start / 1000, event.end / 1000, said)
        for line, event, said in zip(lines, spoken, texts, strict=True)
    ]


# ---- what is said


def _plain(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines that say something, without markup, with their entities read."""
    texts = (_ENTITY.sub(lambda found: html.unescape(found[0]), _MARKUP.sub("", line)) for line in lines)
    return tuple(text for text in (" ".join(text.split()) for text in texts) if text)


def _unrolled(cues: list[Cue]) -> list[Cue]:
    """Return the cues with every line once if they roll; else as they are.

    A speaker may say a thing twice, so single repetitions prove nothing. Cues roll if at least half of those
    that follow another without a pause begin with its last line (or with all of it), and at least one of
    them goes on after it with something new.
    """
    touching = rolling = going_on = 0
    for before, cue in itertools.pairwise(cues):
        if cue.start - before.end <= _TOUCHING_SECONDS:
            shared = _shared(before, cue)
            touching += 1
            rolling += bool(shared)
            going_on += bool(shared) and len(shared) < len(cue.text)
    if not going_on or rolling < 2 or 2 * rolling < touching:
        return cues
    kept: list[Cue] = []
    for number, cue in enumerate(cues):
        shared = ""
        if number:
            before = cues[number - 1]
            shared = _shared(before, cue)
            if len(shared) == len(cue.text) and cue.start - before.end > _TOUCHING_SECONDS:
                shared = ""  # said again after a pause
        new = cue.text[len(shared) :].strip()
        if new:
            start = max(cue.start, kept[-1].end if shared else 0.0)
            kept.append(replace(cue, start=start, texts=(new,)))
        elif kept:
            kept[-1] = replace(kept[-1], end=max(kept[-1].end, cue.end))
    return kept


def _shared(before: Cue, cue: Cue) -> str:
    """Return the beginning of a cue that the one before it showed already: its last lines, or its text."""
    for count in range(min(len(before.texts), len(cue.texts)), 0, -1):
        if before.texts[-count:] == cue.texts[:count]:
            return one_line(cue.texts[:count], cue.code)
    grows = len(cue.text) > len(before.text) and cue.text.startswith(before.text)
    return before.text if grows and (cue.text[len(before.text)] == " " or not before.text.isascii()) else ""
