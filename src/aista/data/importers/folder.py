"""A folder of sounds with texts beside them: ``talk.wav``, ``talk.txt``, ``talk.zh.txt`` (translation)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aista.data.importers import Options, Row, Skipped
from aista.errors import ManifestError

_SOUNDS = {".wav", ".flac", ".mp3", ".ogg", ".opus"}


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped]]:
    """Read a folder and what is below it, by name.

    ``NAME.txt`` is the transcript. With ``tgt_lang`` in the defaults, ``NAME.TGT.txt`` is the translation and
    a sound without it is skipped; else a sound without a transcript is.
    """
    if not source.is_dir():
        raise ManifestError(f"{source} is no folder.")
    target = options.defaults.get("tgt_lang")
    for sound in sorted(path for path in source.rglob("*") if path.suffix.lower() in _SOUNDS):
        text = _text(sound.with_suffix(".txt"))
        translation = _text(sound.with_suffix(f".{target}.txt")) if target else None
        if (translation if target else text) is None:
            yield (
                str(sound),
                Skipped(f"no {target} translation beside it" if target else "no transcript beside it"),
            )
            continue
        yield (
            str(sound),
            {
                "id": sound.relative_to(source).with_suffix("").as_posix(),
                "audio": str(sound.relative_to(source)),
                "text": text,
                "translation": translation,
                "task": "st" if target else None,
            },
        )


def _text(path: Path) -> str | None:
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split()) or None
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: is not UTF-8.", advice="Convert it: iconv -f ... -t utf-8") from None
