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

from aista.audio.archives import archive_of, read_member
from aista.errors import AudioError, ConfigError
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
        self._read()

    def _read(self) -> None:
        record = self._path.read_text(encoding="utf-8", errors="replace") if self._path.exists() else ""
        for line in record.split("\n"):
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
        about = _about(sound)
        row = self._replaceable(place, about)
        return _same(row, about, "heard") and row["made_by"] == self._made_by

    def _replaceable(self, place: Path, about: Mapping[str, str | None]) -> dict[str, Any]:
        """Return the line of a file that the translation of a sound may replace; else an error."""
        content = place.name, sha256_of(place)
        if content not in self._rows:
            self._read()  # another process may have written it
        row = self._rows.get(content)
        if row and (_same(row, about, "heard") or _same(row, about, "audio")):
            return row
        raise ConfigError(
            f"{place} is kept: it is "
            + ("of another recording." if row else "not as `aista translate` wrote it."),
            got=row["audio"] or "another pipe" if row else "changed since, or written by something else",
            advice="Choose another --output-dir, or write over it with --overwrite.",
        )

    def begin(self, place: Path, sound: str | io.BytesIO) -> None:
        """Look at a sound before it is read: should it change meanwhile, its translation is not finished."""
        self._begun[place.name] = _about(sound)

    def note(self, place: Path, text: str, *, overwrite: bool = False) -> None:
        """Note what is about to be written, after ``begin``.

        Raises:
            ConfigError: As of ``is_finished``, unless ``overwrite``: another process has written the file.
        """
        about = self._begun.pop(place.name)
        if not overwrite and os.path.isfile(place):
            self._replaceable(place, about)
        content = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
        row = {"file": place.name, "sha256": content, **about, "made_by": self._made_by}
        with named(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(row))  # never behind a line that was cut off


def _about(sound: str | io.BytesIO) -> dict[str, str | None]:
    """Return a sound's absolute path, if it has one, and the digest of its bytes."""
    return {"audio": os.path.abspath(sound) if isinstance(sound, str) else None, "heard": _digest(sound)}


def _same(row: Mapping[str, Any], about: Mapping[str, str | None], key: str) -> bool:
    """Whether both are known and the same."""
    return about[key] is not None and row[key] == about[key]


def _digest(sound: str | io.BytesIO) -> str | None:
    """Return the SHA-256 of the bytes of a file, also in an archive, or a pipe; None: it cannot be read."""
    if isinstance(sound, io.BytesIO):
        return hashlib.sha256(sound.getbuffer()).hexdigest()
    path = Path(sound)
    with suppress(OSError, AudioError):
        archive = archive_of(path)
        return hashlib.sha256(read_member(archive, path)).hexdigest() if archive else sha256_of(path)
    return None
