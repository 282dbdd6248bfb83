"""Which paths are one recording: spelled otherwise, linked, or copied under another name."""

from __future__ import annotations

import hashlib
import os
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
    for group in _equal(list(files.values())):
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


def _equal(paths: list[str]) -> list[list[str]]:
    """Return the groups of paths whose contents are equal, each of at least two."""
    groups = [paths]
    for look in (_size, _head, _content):
        finer: list[list[str]] = []
        for group in groups:
            parts: dict[object, list[str]] = defaultdict(list)
            for path in group:
                parts[look(path)].append(path)
            finer += [part for key, part in parts.items() if key is not None and len(part) > 1]
        groups = finer
    return groups


def _size(path: str) -> int | None:
    try:
        return os.path.getsize(path) if os.path.isfile(path) else len(_member(path))
    except (OSError, ValueError, AudioError):
        return None


def _head(path: str) -> bytes | None:
    try:
        if not os.path.isfile(path):
            return _BLAKE2B(_member(path)).digest()
        with open(path, "rb") as file:
            return _BLAKE2B(file.read(_HEAD_BYTES)).digest()
    except (OSError, AudioError):
        return None


def _content(path: str) -> bytes | None:
    try:
        if not os.path.isfile(path):
            return _BLAKE2B(_member(path)).digest()
        with open(path, "rb") as file:
            return hashlib.file_digest(file, _BLAKE2B).digest()
    except (OSError, AudioError):
        return None


def _member(path: str) -> bytes:
    archive = archive_of(Path(path))
    if archive is None:
        raise AudioError(f"{path}: no such file.")
    return read_member(archive, Path(path))
