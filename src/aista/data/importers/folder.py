"""A folder of sounds with texts beside them: ``talk.wav``, ``talk.txt``, ``talk.zh.txt`` (translation).

Subtitles will do as well (``talk.srt``, ``talk.zh.srt``; or ``.vtt``, ``.ass``): they say what is said when,
so a long talk can be cut (``too_long: segment``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from aista.audio.files import probe
from aista.data.importers import NOTE, Options, Row, Skipped, language_code
from aista.data.subtitles import (
    SUFFIXES,
    Subtitles,
    one_line,
    read_subtitles,
    read_text,
    with_translations,
)
from aista.errors import AudioError, ManifestError

# What libsndfile and FFmpeg read: a sound is known by its suffix here and by its first bytes when it is read.
_SOUNDS = {
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".mp3", ".mp2", ".mpga", ".ogg", ".oga", ".opus",
    ".spx", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc", ".m4a", ".m4b",
    ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".mka", ".webm", ".aac", ".ac3", ".eac3", ".dts",
    ".amr", ".awb", ".wma", ".wmv", ".asf", ".avi", ".flv", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts",
    ".wv", ".ape", ".tta", ".ra", ".rm", ".rmvb", ".mpc", ".dsf", ".mp1", ".mpa", ".adts", ".ec3", ".m4r",
    ".mp4a", ".3gpp", ".f4v", ".f4a", ".qt", ".ogv", ".ogx", ".vob", ".svx", ".iff", ".avr", ".ircam", ".sf",
    ".pvf", ".paf", ".mat", ".htk",
}  # fmt: skip


class _Unusable(Exception):
    """Why a sound with its texts gives no row, and where."""

    def __init__(self, reason: str, where: str) -> None:
        super().__init__(reason)
        self.reason, self.where = reason, where


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped]]:
    """Read a folder and what is below it, by name; hidden files are passed over, links are followed.

    ``NAME.txt`` is the transcript. With ``tgt_lang`` in the defaults, ``NAME.TGT.txt`` is the translation and
    a sound without it is skipped; else a sound without a transcript is. Where a text is missing and subtitles
    are there, it is theirs. A text or subtitles that cannot be read cost their own sound alone.
    """
    if not source.is_dir():
        raise ManifestError(f"{source} is no folder.")
    target = options.defaults.get("tgt_lang")
    files = sorted(_files(source))
    taken: set[Path] = set()
    for sound in (path for path in files if path.suffix.lower() in _SOUNDS):
        try:
            if sound.with_suffix("") in taken:
                raise _Unusable("another sound has this name", str(sound))
            taken.add(sound.with_suffix(""))
            spoken = language_code(options.defaults.get("src_lang", "en"))
            yield str(sound), _row(source, sound, target, spoken)
        except _Unusable as error:
            yield error.where, Skipped(error.reason)
    for text in (path for path in files if path.suffix.lower() in (".txt", *SUFFIXES)):
        if not {text.with_suffix(""), text.with_suffix("").with_suffix("")} & taken:
            yield str(text), Skipped("a text without a sound beside it")


def _files(source: Path) -> Iterator[Path]:
    """Yield what is not hidden below a folder; a folder that links lead into twice is read once."""
    seen: set[str] = set()
    for place, folders, files in os.walk(source, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        yield from (Path(place, name) for name in files if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _row(source: Path, sound: Path, target: str | None, spoken: str) -> Row:
    try:
        str(sound).encode()
    except UnicodeEncodeError:
        raise _Unusable("a name that is no UTF-8", ascii(str(sound))) from None
    subtitles = _subtitles(sound.with_suffix(""), spoken)
    text = (
        _text(sound.with_suffix(".txt"), spoken)
        or _text(sound.with_suffix(".TXT"), spoken)
        or (subtitles.joined(spoken) if subtitles else None)
    )
    translated, translation = None, None
    if target is not None:
        code = language_code(target)  # files are named by the form that was given
        translated = _subtitles(sound.with_suffix(f".{target}"), code)
        translation = _text(sound.with_suffix(f".{target}.txt"), code)
        translation = translation or (translated.joined(code) if translated else None)
    if (translation if target else text) is None:
        raise _Unusable(
            f"no {target} translation beside it" if target else "no transcript beside it", str(sound)
        )
    row: Row = {
        "id": sound.relative_to(source).with_suffix("").as_posix(),
        "audio": str(sound.relative_to(source)),
        "text": text,
        "translation": translation,
        "task": "st" if target else None,
    }
    timed = [each for each in (subtitles, translated) if each is not None]
    return row | _length_and_segments(sound, timed, target)


def _length_and_segments(sound: Path, timed: list[Subtitles], target: str | None) -> Row:
    """Return the sound's length and, where all its texts have times, its segments, or why it has none."""
    if not timed:
        return {}
    try:
        seconds = round(probe(sound).duration_seconds, 4)
    except AudioError:
        return {NOTE: ("subtitles of a sound that cannot be read: no segments", str(sound))}
    untimed = next((said for each in timed if (said := each.untimed()) is not None), None)
    segments = None
    if untimed is None and len(timed) == (2 if target else 1):
        segments = timed[0].timed()
        if target and (segments := with_translations(segments, timed[1].timed())) is None:
            raise _Unusable(f"subtitles whose times are others in {target}", str(timed[1].path))
    late = next((said for each in timed if (said := each.beyond(seconds)) is not None), None)
    if late is not None:
        raise _Unusable("subtitles that go on after the sound", late)
    note = None if untimed is None else "subtitles that do not follow one another: no segments"
    return {"duration": seconds, "segments": segments or None, NOTE: note and (note, untimed)}


def _subtitles(stem: Path, code: str) -> Subtitles | None:
    """Return the subtitles ``STEM.srt`` (or of another kind), or None."""
    paths = (stem.with_name(stem.name + suffix) for suffix in SUFFIXES)
    path = next((path for path in paths if path.is_file()), None)
    try:
        return None if path is None else read_subtitles(path, code)
    except (ManifestError, OSError) as error:
        what = f"{error.what} {error.got or ''}" if isinstance(error, ManifestError) else str(error)
        raise _Unusable("subtitles that cannot be read", what.strip()) from None


def _text(path: Path, code: str) -> str | None:
    try:
        lines = (" ".join(line.split()) for line in read_text(path).splitlines())
        return one_line(filter(None, lines), code) or None
    except FileNotFoundError:
        return None
    except OSError:
        raise _Unusable("a text that cannot be read", str(path)) from None
    except ManifestError:
        raise _Unusable("a text that is not UTF-8", str(path)) from None
