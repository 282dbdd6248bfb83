"""What is said when, from subtitle files (SubRip ``.srt``, WebVTT ``.vtt``)."""

from __future__ import annotations

import re
from pathlib import Path

from aista.data.manifest import TimedText
from aista.errors import ManifestError

SUFFIXES = (".srt", ".vtt")

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})"
_CUE = re.compile(rf"^\s*{_TIME}\s+-->\s+{_TIME}")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")  # <i>, <v Ann>, {\an8}
_SAME_SECONDS = 0.25


def read_cues(path: Path) -> list[TimedText]:
    """Return the cues of a subtitle file that say something, in order, without markup.

    Raises:
        ManifestError: The file is no UTF-8, or a cue ends before it starts.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: is not UTF-8.", advice="Convert it: iconv -f ... -t utf-8") from None
    cues = []
    for number, line in enumerate(lines):
        if not (found := _CUE.match(line)):
            continue
        start, end = _seconds(found.groups()[:4]), _seconds(found.groups()[4:])
        spoken = _MARKUP.sub("", " ".join(_until_blank(lines[number + 1 :])))
        if end <= start:
            raise ManifestError(f"{path}:{number + 1}: the cue ends before it starts.", got=line.strip())
        if spoken.strip():
            cues.append(
                TimedText(offset=start, duration=round(end - start, 3), text=" ".join(spoken.split()))
            )
    return sorted(cues, key=lambda cue: cue.offset)


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


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, thousandths = (int(part or 0) for part in parts)
    return hours * 3600 + minutes * 60 + seconds + thousandths / 1000


def _until_blank(lines: list[str]) -> list[str]:
    blank = next((number for number, line in enumerate(lines) if not line.strip()), len(lines))
    return lines[:blank]
