"""A translation as text, JSON, subtitles (SRT, WebVTT) or a table (TSV).

The formats and the columns of the table are those that users of Whisper's command line know. Warnings stand
in JSON (``warnings``, with a ``kind``) and in WebVTT's notes; the others have no place for them, and beside a
file of theirs lies ``FILE.warnings.json``. Subtitles are as subtitlers set them: two lines of 42 columns, one
to seven seconds, broken at punctuation; a Chinese, Japanese or Korean character takes two columns.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from aista.errors import ConfigError
from aista.files import write_whole
from aista.inference.words import Word, evenly
from aista.text.prompts import language

if TYPE_CHECKING:
    from aista.inference.translating import Translation

COLUMNS = 42
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 7.0
_PAUSE_SECONDS = 1.5  # no subtitle stands through a longer pause
_SENTENCE_ENDS, _CLAUSE_ENDS = ".!?。！？…", ",;:，；：、"
# What a break costs: a sentence has a subtitle of its own where it lasts a second, no word is left alone.
_AFTER_SENTENCE, _AFTER_SEGMENT, _AFTER_CLAUSE, _AFTER_WORD = -0.1, -0.05, 0.9, 1.6
_PER_MISSING_SECOND = 2.0


def render(translation: Translation, output_format: str) -> str:
    """Write a translation in one of ``FORMATS``; the result ends with a newline.

    Raises:
        ConfigError: There is no such format.
    """
    if output_format not in FORMATS:
        raise ConfigError(f"Unknown output format {output_format!r}.", expected=", ".join(FORMATS))
    return FORMATS[output_format](translation)


def write(
    translation: Translation,
    output_format: str,
    path: Path,
    note: Callable[[str], object] | None = None,
) -> Path | None:
    """Write a translation to a file, JSON indented, and warnings beside it where the format has no place.

    Args:
        note: Called with the file's text before anything is written; the file itself is written last.

    Returns:
        The file of the warnings (``talk.zh.srt.warnings.json``), where there is one; an older one is removed
        where nothing is to be told.

    Raises:
        ConfigError: There is no such format.
    """
    indented = output_format == "json"
    text = as_json(translation, indent=2) if indented else render(translation, output_format)
    if note is not None:
        note(text)
    beside = path.with_name(f"{path.name}.warnings.json")
    told = bool(translation.warnings) and output_format not in _HOLD_WARNINGS
    if told:
        rows = [asdict(row) for row in translation.warnings]
        write_whole(beside, json.dumps(rows, ensure_ascii=False, indent=2) + "\n")
    else:
        beside.unlink(missing_ok=True)
    write_whole(path, text)
    return beside if told else None


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
    return re.sub("-{2,}>", "->", " ".join(text.split()))


def _escaped(text: str) -> str:
    """WebVTT reads tags and entities."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True)
class Cue:
    """One subtitle.

    Attributes:
        start_seconds, end_seconds: When it is shown.
        lines: One or two.
    """

    start_seconds: float
    end_seconds: float
    lines: tuple[str, ...]


def columns(text: str) -> int:
    """Return how wide a text is: wide and full-width characters count two, combining ones nothing."""
    return sum(
        0 if unicodedata.combining(mark) else 2 if unicodedata.east_asian_width(mark) in "WF" else 1
        for mark in text
    )


def cues(translation: Translation) -> list[Cue]:
    """Set a translation in subtitles, in order, without overlap, none beyond the end of the sound.

    Where a segment's words have no times, they are spread over it evenly. A subtitle is shorter than a second
    only where the next one begins or the sound ends before, and nothing comes before it to make room.
    """
    words: list[Word] = []
    costs: list[float] = []  # of a break after each word
    for segment in translation.segments:
        spoken = segment.words or evenly(
            segment.text, translation.language, segment.start_seconds, segment.end_seconds
        )
        parts = [part for word in spoken for part in _chopped(word)]
        words += parts
        costs += [_break_cost(word.text) for word in parts]
        if parts:
            costs[-1] = min(costs[-1], _AFTER_SEGMENT)
    joint = " " if language(translation.language).spaces else ""
    until = max([translation.duration_seconds, *(row.end_seconds for row in translation.segments)])
    groups = _grouped(words, costs, joint, until)
    return _timed([_cue(words[a:b], costs[a:b], joint) for a, b in groups], until)


def _chopped(word: Word) -> list[Word]:
    """Cut a word that is wider than a line."""
    rows = [""]
    for mark in word.text:
        if rows[-1] and columns(rows[-1] + mark) > COLUMNS:
            rows.append("")
        rows[-1] += mark
    step = (word.end_seconds - word.start_seconds) / len(rows)
    start = word.start_seconds
    return [Word(row, start + i * step, start + (i + 1) * step) for i, row in enumerate(rows)]


def _break_cost(text: str) -> float:
    last = text.rstrip("\"')]」』”’）》")[-1:]
    if last and last in _SENTENCE_ENDS:
        return _AFTER_SENTENCE
    return _AFTER_CLAUSE if last and last in _CLAUSE_ENDS else _AFTER_WORD


def _grouped(
    words: Sequence[Word], costs: Sequence[float], joint: str, until: float
) -> list[tuple[int, int]]:
    """Return the words of each subtitle, (first, after the last): of all ways to break, the cheapest."""
    begins, ends = _laid_out(words, joint)
    best, came_from = [0.0], [0]
    for stop in range(1, len(words) + 1):
        found = (float("inf"), stop - 1)
        for first in range(stop - 1, -1, -1):
            if first < stop - 1 and not _may_stand_together(words, begins, ends, first, stop):
                break
            end = words[stop].start_seconds if stop < len(words) else until
            shown = max(words[stop - 1].end_seconds, min(words[first].start_seconds + SHORTEST_SECONDS, end))
            missing = max(0.0, SHORTEST_SECONDS - (shown - words[first].start_seconds))
            cost = best[first] + costs[stop - 1] + _PER_MISSING_SECOND * missing
            found = min(found, (cost, first))
        best.append(found[0])
        came_from.append(found[1])
    groups = []
    stop = len(words)
    while stop:
        groups.append((came_from[stop], stop))
        stop = came_from[stop]
    return groups[::-1]


def _may_stand_together(
    words: Sequence[Word], begins: Sequence[int], ends: Sequence[int], first: int, stop: int
) -> bool:
    """Whether words fit one subtitle; if some do not, neither do more of them."""
    if words[stop - 1].end_seconds - words[first].start_seconds > LONGEST_SECONDS:
        return False
    if words[first + 1].start_seconds - words[first].end_seconds > _PAUSE_SECONDS:
        return False
    place = bisect_right(ends, begins[first] + COLUMNS)  # the first word that the first line has no room for
    return place >= stop or ends[stop - 1] - begins[place] <= COLUMNS


def _split(group: Sequence[Word], costs: Sequence[float], joint: str) -> tuple[str, ...]:
    """Return a group that fits in one line, or in two alike ones broken at punctuation."""
    begins, ends = _laid_out(group, joint)
    if ends[-1] <= COLUMNS:
        return (_joined(group, joint),)
    found = []
    for place in range(1, len(group)):
        widths = ends[place - 1], ends[-1] - begins[place]
        if max(widths) <= COLUMNS:
            found.append((costs[place - 1] + abs(widths[0] - widths[1]) / COLUMNS, place))
    _, place = min(found)
    return _joined(group[:place], joint), _joined(group[place:], joint)


def _laid_out(words: Sequence[Word], joint: str) -> tuple[list[int], list[int]]:
    """Return the columns where each word begins and ends, were all of them in one line."""
    begins: list[int] = []
    ends: list[int] = []
    for number, word in enumerate(words):
        begins.append(ends[-1] + len(_apart(words[number - 1], word, joint)) if number else 0)
        ends.append(begins[-1] + columns(word.text))
    return begins, ends


def _apart(before: Word, after: Word, joint: str) -> str:
    """Return what stands between two words: where words are not spaced, a space after and before Latin."""
    latin = before.text[-1].isascii() and after.text[0].isascii() and after.text[0].isalnum()
    return joint or (" " if latin else "")


def _joined(group: Sequence[Word], joint: str) -> str:
    rest = (_apart(before, after, joint) + after.text for before, after in pairwise(group))
    return "".join([group[0].text, *rest])


def _cue(group: Sequence[Word], costs: Sequence[float], joint: str) -> Cue:
    return Cue(group[0].start_seconds, group[-1].end_seconds, _split(group, costs, joint))


def _timed(found: list[Cue], until: float) -> list[Cue]:
    """Bring subtitles to their lengths: never over seven seconds, not under one where there is room."""
    out: list[Cue] = []
    for number, cue in enumerate(found):
        start = max(cue.start_seconds, out[-1].end_seconds if out else 0.0)
        limit = found[number + 1].start_seconds if number + 1 < len(found) else until
        end = min(max(cue.end_seconds, start + SHORTEST_SECONDS), limit, start + LONGEST_SECONDS)
        if end - start < SHORTEST_SECONDS:
            start = max(out[-1].end_seconds if out else 0.0, end - SHORTEST_SECONDS)
        out.append(replace(cue, start_seconds=start, end_seconds=max(end, start)))
    return out


FORMATS: dict[str, Callable[[Translation], str]] = {
    "text": _text,
    "json": as_json,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
}
_HOLD_WARNINGS = frozenset({"json", "vtt"})
SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt", "tsv": ".tsv"}
