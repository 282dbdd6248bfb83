"""Files that appear whole or not at all, and what names their content."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

_LARGE_BYTES = 1 << 26
DRAFTS = ".*.partial*"
"""What the name of an unfinished file matches: a process that was killed leaves it."""
DISK_WORDS = ("inline_container", "failed writing", "write failed", "I/O error")
"""What torch and safetensors say where a disk refuses: they have no errors of their own for it."""
_asking = threading.Lock()


def no_answer() -> tuple[Any, ...]:
    """Return the errors that mean that a model hub did not give a file, to stand behind ``except``.

    The hub's own descend from those of its HTTP library, whichever that is.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    return (*HfHubHTTPError.__bases__, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError)


@contextmanager
def draft_of(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """Write a file in one go: what goes wrong leaves what was there before, and nothing besides.

    Its folder is made. Processes and threads that write the same file side by side do not mix; the last one
    stays. A pipe or a device (``/dev/stdout``) is written as it is.

    Args:
        path: The file.
        suffix: What the draft's name must end with.

    Yields:
        The draft to write. Its name is short: the file's own may be as long as a disk allows.

    Raises:
        OSError: The disk refuses; the error names the file, not the draft.
    """
    path = path.resolve() if path.is_symlink() and path.parts[:2] != ("/", "dev") else path
    if path.exists() and not path.is_dir() and (not path.is_file() or path.parts[:2] == ("/", "dev")):
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    number = zlib.crc32(os.fsencode(path.name))
    draft = path.with_name(f".{threading.get_native_id()}-{number:08x}.partial{suffix}")
    try:
        yield draft
        draft.chmod(0o666 & ~_umask())  # some writers make files that others may not read
        os.replace(draft, path)
    except OSError as error:
        if error.filename in (str(draft), None):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    except Exception as error:
        if not any(word in str(error) for word in DISK_WORDS):
            raise
        raise OSError(errno.EIO, f"It cannot be written ({error})", str(path)) from error
    finally:
        with suppress(OSError):  # a disk that cannot be written says so of a draft that is not there too
            draft.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the file where a disk refuses: a write that waited in memory does not know it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _umask() -> int:
    with _asking:  # it can only be asked by setting it: two threads at once would leave it set
        mask = os.umask(0o022)
        os.umask(mask)
    return mask


def write_whole(path: Path, text: str) -> None:
    """Write a text file (UTF-8), whole; what UTF-8 cannot hold (bytes of odd file names) is escaped."""
    with draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def crc32_of(path: Path) -> int:
    """Return the CRC-32 of a file's content: it tells damage, not intent."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


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
