"""Translations in a folder: which are finished, of which recording, by which model and settings."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aista.errors import ConfigError
from aista.files import named, sha256_of

RECORD = ".translations.jsonl"


class TranslationFolder:
    """The record of a folder: a line of ``.translations.jsonl`` for every translation that is written there.

    A line stands before its file does, and says what the file will be, so that a process may be killed at any
    time: a file counts as finished only where its content is that of a line.

    Args:
        folder: The folder.
        made_by: What translations are made by now: model and settings, as JSON holds them.
    """

    def __init__(self, folder: Path, made_by: Mapping[str, Any]) -> None:
        self._path, self._made_by = folder / RECORD, dict(made_by)
        self._begun: dict[str, dict[str, str | None]] = {}
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}  # by file and content, the last one of each
        for line in self._path.read_text(encoding="utf-8").split("\n") if self._path.exists() else ():
            with suppress(ValueError, TypeError, KeyError):  # one that a full disk or a crash cut off
                row = json.loads(line)
                self._rows[row["file"], row["sha256"]] = row

    def is_finished(self, place: Path, sound: str | io.BytesIO) -> bool:
        """Say whether a file holds the translation of this very sound by this model and these settings.

        Args:
            place: A file in the folder.
            sound: Path of a recording, or the bytes of a pipe.

        Raises:
            ConfigError: To write the file would lose what is there: the translation of another recording, or
                something that was not written from here, or was changed.
        """
        if not os.path.isfile(place):  # a name may be too long to be asked for by Path
            return False
        row, heard, audio = self._rows.get((place.name, sha256_of(place))), _digest(sound), _name(sound)
        if row and (row["heard"] == heard or (audio and row["audio"] == audio)):
            return bool(heard and row["heard"] == heard and row["made_by"] == self._made_by)
        raise ConfigError(
            f"{place} is kept: it is "
            + ("of another recording." if row else "not as `aista translate` wrote it."),
            got=row["audio"] or "another pipe" if row else "changed since, or written by something else",
            advice="Choose another --output-dir, or write over it with --overwrite.",
        )

    def begin(self, place: Path, sound: str | io.BytesIO) -> None:
        """Look at a sound before it is read: should it change meanwhile, its translation is not finished."""
        self._begun[place.name] = {"audio": _name(sound), "heard": _digest(sound)}

    def note(self, place: Path, text: str) -> None:
        """Note what is about to be written, after ``begin``."""
        content = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
        row = {"file": place.name, "sha256": content, **self._begun.pop(place.name), "made_by": self._made_by}
        with named(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(row))  # never behind a line that was cut off


def _name(sound: str | io.BytesIO) -> str | None:
    return os.path.abspath(sound) if isinstance(sound, str) else None


def _digest(sound: str | io.BytesIO) -> str | None:
    """Return the SHA-256 of the bytes of a file or a pipe; None where a file cannot be read."""
    if isinstance(sound, io.BytesIO):
        return hashlib.sha256(sound.getbuffer()).hexdigest()
    with suppress(OSError):
        return sha256_of(Path(sound))
    return None
