"""A translation as text, JSON, subtitles (SRT, WebVTT) or a table (TSV).

The formats and the columns of the table are those that users of Whisper's command line know. Warnings stand
in JSON (``warnings``, with a ``kind``) and in WebVTT's notes; the others have no place for them, and beside a
file of theirs lies ``NAME.warnings.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from aista.errors import ConfigError
from aista.files import write_whole
from aista.inference.cues import Cue, cues

if TYPE_CHECKING:
    from aista.inference.translator import Translation


def render(translation: Translation, output_format: str) -> str:
    """Write a translation in one of ``FORMATS``; the result ends with a newline.

    Raises:
        ConfigError: There is no such format.
    """
    if output_format not in FORMATS:
        raise ConfigError(f"Unknown output format {output_format!r}.", expected=", ".join(FORMATS))
    return FORMATS[output_format](translation)


def write(translation: Translation, output_format: str, path: Path) -> Path | None:
    """Write a translation to a file, JSON indented, and warnings beside it where the format has no place.

    Returns:
        The file of the warnings, where there is one; an older one is removed where nothing is to be told.

    Raises:
        ConfigError: There is no such format.
    """
    indented = output_format == "json"
    write_whole(path, as_json(translation, indent=2) if indented else render(translation, output_format))
    beside = path.with_suffix(".warnings.json")
    if not translation.warnings or output_format in _HOLD_WARNINGS:
        beside.unlink(missing_ok=True)
        return None
    rows = [asdict(row) for row in translation.warnings]
    write_whole(beside, json.dumps(rows, ensure_ascii=False, indent=2) + "\n")
    return beside


def clock(seconds: float, decimal_mark: str = ".") -> str:
    """Write a time as ``hh:mm:ss.mmm``."""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{decimal_mark}{rest % 1000:03}"


def as_json(translation: Translation, *, indent: int | None = None) -> str:
    """Write everything that is known about a translation; without ``indent``, on one line."""
    return json.dumps(asdict(translation), ensure_ascii=False, indent=indent) + "\n"


def _text(translation: Translation) -> str:
    return translation.text + "\n"


def _srt(translation: Translation) -> str:
    rows = (
        f"{number}\n{_span(cue, ',')}\n{_lines(cue)}\n"
        for number, cue in enumerate(cues(translation), start=1)
    )
    return "\n".join(rows)


def _vtt(translation: Translation) -> str:
    notes = (f"\nNOTE warning: {_one_line(str(row))}\n" for row in translation.warnings)
    rows = (f"\n{_span(cue, '.')}\n{_escaped(_lines(cue))}\n" for cue in cues(translation))
    return "WEBVTT\n" + "".join(notes) + "".join(rows)


def _tsv(translation: Translation) -> str:
    rows = (
        f"{round(1000 * row.start_seconds)}\t{round(1000 * row.end_seconds)}\t{_one_line(row.text)}\n"
        for row in translation.segments
        if row.text
    )
    return "start\tend\ttext\n" + "".join(rows)


def _lines(cue: Cue) -> str:
    return "\n".join(_one_line(line) for line in cue.lines)


def _span(row: Cue, decimal_mark: str) -> str:
    return f"{clock(row.start_seconds, decimal_mark)} --> {clock(row.end_seconds, decimal_mark)}"


def _one_line(text: str) -> str:
    """A subtitle ends at an empty line and a table row at a newline: neither may stand inside a text."""
    return " ".join(text.split()).replace("-->", "->")


def _escaped(text: str) -> str:
    """WebVTT reads tags and entities."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


FORMATS: dict[str, Callable[[Translation], str]] = {
    "text": _text,
    "json": as_json,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
}
_HOLD_WARNINGS = frozenset({"json", "vtt"})
SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt", "tsv": ".tsv"}
