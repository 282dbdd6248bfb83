"""Which files hold the same sound: recordings are known by their content, wherever a corpus lies."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from aista.audio.archives import archive_of, read_member
from aista.errors import AudioError

_HEAD_BYTES = 1 << 16
_BLAKE2B = partial(hashlib.blake2b, digest_size=16)


def same_recordings(paths: Iterable[str]) -> dict[str, str]:
    """Return path -> the first of the paths that are the same recording.

    Two paths are one recording where they lead to one file (spelled otherwise, by links of either kind) or to
    files of equal content. A file that is not there is known by its path alone.

    Cost:
        One ``stat`` a path. Content is read only of files of equal size: first 64 KB, then, where these are
        equal too, all of it.
    """
    first: dict[str, str] = {}
    files: dict[str, str] = {}  # what a path leads to -> the first path that does
    for path in paths:
        if path not in first:
            first[path] = files.setdefault(_file(path), path)
    groups = [list(files.values())]
    for look in (_size, lambda path: _digest(path, _HEAD_BYTES), _digest):
        finer: list[list[str]] = []
        for group in groups:
            parts: dict[object, list[str]] = defaultdict(list)
            for path in group:
                try:
                    parts[look(path)].append(path)
                except (OSError, ValueError, AudioError):
                    continue
            finer += [part for part in parts.values() if len(part) > 1]
        groups = finer
    for group in groups:
        for path in group:
            files[_file(path)] = group[0]
    return {path: files[_file(one)] for path, one in first.items()}


def _file(path: str) -> str:
    """Return what a path leads to: a file, a member of an archive, or a place where nothing is."""
    try:
        about = os.stat(path)
        return f"{about.st_dev}:{about.st_ino}"
    except (OSError, ValueError):
        pass
    try:
        archive = archive_of(Path(path))
    except (OSError, ValueError):
        return path
    if archive is None:
        return os.path.realpath(path) if "\0" not in path else path
    return f"{_file(str(archive))}/{Path(path).relative_to(archive).as_posix()}"


def _size(path: str) -> int:
    archive = archive_of(Path(path))
    return os.path.getsize(path) if archive is None else len(read_member(archive, Path(path)))


def _digest(path: str, limit: int | None = None) -> str:
    """Return the BLAKE2b hash of a file's content, or of its first bytes.

    Raises:
        OSError, AudioError: It cannot be read.
    """
    archive = archive_of(Path(path))
    if archive is not None:
        return _BLAKE2B(read_member(archive, Path(path))).hexdigest()
    with open(path, "rb") as file:
        return (
            hashlib.file_digest(file, _BLAKE2B) if limit is None else _BLAKE2B(file.read(limit))
        ).hexdigest()


MEMO = "sounds.tsv"
_LINE = re.compile(r"(\d+)\t(\d+)\t([0-9a-f]{32})\t([^\t\n]+)")


class SoundNames:
    """The BLAKE2b hash of audio files, remembered by path, size and time of change.

    A file is read whole once; afterwards, as long as it lies where it lay and was not written again, asking
    for its name costs one ``stat``. After a move every file is read once more: much less than encoding it.

    Args:
        folder: Where the memo lies, a line per file in ``sounds.tsv``; None: it is kept in memory alone.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._known: dict[str, tuple[int, int, str]] = {}
        self._new: list[str] = []
        if self.folder is None or not (self.folder / MEMO).exists():
            return
        for line in (self.folder / MEMO).read_text(encoding="utf-8", errors="replace").split("\n"):
            if found := _LINE.fullmatch(line):
                size, changed, digest, path = found.groups()
                self._known[path] = (int(size), int(changed), digest)

    def __reduce__(self) -> tuple[type[SoundNames], tuple[Path | None]]:
        return SoundNames, (self.folder,)

    def __getitem__(self, path: str | os.PathLike[str]) -> str:
        """Return the name of a file: 32 hexadecimal digits.

        Raises:
            AudioError: The file is missing or cannot be read.
        """
        name = os.fspath(path)
        try:
            about = os.stat((archive_of(Path(name)) if ".tar/" in name else None) or name)
            size, changed, digest = self._known.get(name, (-1, -1, ""))
            if (size, changed) != (about.st_size, about.st_mtime_ns):
                digest = _digest(name)
                self._known[name] = (about.st_size, about.st_mtime_ns, digest)
                self._new.append(f"{about.st_size}\t{about.st_mtime_ns}\t{digest}\t{name}\n")
        except OSError as error:
            raise AudioError(f"{name}: cannot be read.", got=error.strerror) from None
        except ValueError as error:
            raise AudioError(f"{name!a}: no file can have this name.", got=str(error)) from None
        return digest

    def save(self) -> None:
        """Append what is new to the memo, in one write: processes side by side do not mix their lines."""
        if self.folder is None or not self._new:
            return
        lines = "".join(line for line in self._new if _LINE.fullmatch(line[:-1]))  # no path with a tab
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / MEMO, "ab", buffering=0) as memo:
            memo.write(lines.encode("utf-8", errors="replace"))
        self._new.clear()
