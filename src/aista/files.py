"""Files that appear whole or not at all, and what names their content."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

_LARGE_BYTES = 1 << 26


def write_whole(path: Path, text: str) -> None:
    """Write a text file (UTF-8) in one go: a crash leaves what was there before.

    Its folder is made. Processes that write the same file side by side do not mix their texts; the last one
    stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits.

    Cost:
        The file is read once; a large one is read again in the same process only if its size or its time of
        change is another.
    """
    about = path.stat()
    if about.st_size < _LARGE_BYTES:
        return _digest(path)
    return _digest_of_large(path.resolve(), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1024)
def _digest_of_large(path: Path, size: int, changed_ns: int) -> str:
    return _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
