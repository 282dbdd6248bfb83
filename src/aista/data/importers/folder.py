"""A folder of sounds with texts beside them: ``talk.wav``, ``talk.txt``, ``talk.zh.txt`` (translation).

Subtitles will do as well (``talk.srt``, ``talk.zh.srt``; or ``.vtt``): they say what is said when, so a long
talk can be cut (``too_long: segment``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aista.data.importers import Options, Row, Skipped
from aista.data.manifest import TimedText
from aista.data.subtitles import SUFFIXES, read_cues, with_translations
from aista.errors import ManifestError
from aista.text.languages import LANGUAGES

_SOUNDS = {".wav", ".flac", ".mp3", ".ogg", ".opus"}


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped]]:
    """Read a folder and what is below it, by name.

    ``NAME.txt`` is the transcript. With ``tgt_lang`` in the defaults, ``NAME.TGT.txt`` is the translation and
    a sound without it is skipped; else a sound without a transcript is. Where a text is missing and subtitles
    are there, it is theirs.
    """
    if not source.is_dir():
        raise ManifestError(f"{source} is no folder.")
    target = options.defaults.get("tgt_lang")
    for sound in sorted(path for path in source.rglob("*") if path.suffix.lower() in _SOUNDS):
        yield str(sound), _row(source, sound, target, options.defaults.get("src_lang", "en"))


def _row(source: Path, sound: Path, target: str | None, spoken: str) -> Row | Skipped:
    cues = _cues(sound.with_suffix(""))
    text = _text(sound.with_suffix(".txt")) or _joined(cues, spoken)
    translation = None
    if target is not None:
        translated = _cues(sound.with_suffix(f".{target}"))
        translation = _text(sound.with_suffix(f".{target}.txt")) or _joined(translated, target)
        if cues and translated and (cues := with_translations(cues, translated)) is None:
            return Skipped(f"subtitles whose times are others in {target}")
        if not translated:
            cues = None
    if (translation if target else text) is None:
        return Skipped(f"no {target} translation beside it" if target else "no transcript beside it")
    return {
        "id": sound.relative_to(source).with_suffix("").as_posix(),
        "audio": str(sound.relative_to(source)),
        "text": text,
        "translation": translation,
        "task": "st" if target else None,
        "segments": cues or None,
    }


def _cues(stem: Path) -> list[TimedText] | None:
    """Return the cues of ``STEM.srt`` or ``STEM.vtt``, or None."""
    paths = (stem.with_name(stem.name + suffix) for suffix in SUFFIXES)
    path = next((path for path in paths if path.is_file()), None)
    return None if path is None else read_cues(path)


def _joined(cues: list[TimedText] | None, code: str) -> str | None:
    spaced = code not in LANGUAGES or LANGUAGES[code].spaces
    return (" " if spaced else "").join(cue.text or "" for cue in cues) if cues else None


def _text(path: Path) -> str | None:
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split()) or None
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: is not UTF-8.", advice="Convert it: iconv -f ... -t utf-8") from None
