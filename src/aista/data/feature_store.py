"""The frozen encoders' outputs on disk: ragged arrays of frames by key, memory-mapped, appended, resumable.

A store is a folder of three files: ``store.json`` (what it holds, and whether it is complete), ``index.tsv``
(a line per array: frames and CRC-32, key) and ``features.bin`` (the frames, one array after the other). An
array counts once its index line is whole, so a killed writer loses at most its last buffer. One process
writes at a time; others wait for it. Those that read see what was there when they opened it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from aista.audio.rates import num_frames
from aista.errors import CheckpointError
from aista.files import named, write_whole

logger = logging.getLogger(__name__)

LOCK = "writing.lock"

# name -> the type on disk; numpy has no bfloat16, so its upper half of float32 is kept as 16 bits
_DTYPES = {"float16": np.float16, "float32": np.float32, "bfloat16": np.uint16}
_FLUSH_EVERY = 64
_LINE = re.compile(rb"(\d{1,12}) ([0-9a-f]{8})\t([^\t]+)")


def estimate_bytes(num_samples: Iterable[int], dim: int, dtype: str = "float16") -> int:
    """Return the size of a store before it is made.

    Args:
        num_samples: Length of every clip in samples at 16 kHz.
        dim: Features per frame (50 frames a second).
        dtype: ``float16``, ``bfloat16`` or ``float32``.
    """
    return sum(map(num_frames, num_samples)) * dim * _stored_type(dtype).itemsize


class FeatureStoreWriter:
    """Fills a store; opening a store again goes on where it stopped.

    ``close`` marks the store complete. As a context manager it is closed where the block ends; where an
    exception ends the block, what was added is kept for the next time and a new store stays incomplete. While
    another process writes to the store, making a writer waits.

    Args:
        directory: Folder of the store, created if needed.
        dim: Features per frame.
        dtype: ``float16`` (11 bits of precision, up to 65,504), ``bfloat16`` or ``float32``.
        fingerprint: What names the encoders that made the features; another one is refused.

    Raises:
        CheckpointError: The folder holds features of another size, type or encoder.
    """

    def __init__(
        self, directory: str | os.PathLike, dim: int, dtype: str = "float16", fingerprint: str = ""
    ) -> None:
        self.directory = Path(directory)
        self.dim, self.dtype = dim, dtype
        self._about = {"format": 1, "dim": dim, "dtype": dtype, "fingerprint": fingerprint}
        frame_bytes = dim * _stored_type(dtype).itemsize
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.directory / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            logger.warning("Another process is writing to %s: waiting for it.", self.directory)
            self._lock.acquire()
        try:
            held = _read_about(self.directory) or {**self._about, "complete": False}
            complete = bool(held.pop("complete"))  # a store that was stays so for those that read it
            if held != self._about:
                raise CheckpointError(
                    f"{self.directory}: holds features of another kind.",
                    got=held,
                    expected=self._about,
                    advice="Name another folder, or delete this one.",
                )
            index = _read_index(self.directory, frame_bytes)
            self._keys = index.rows
            self._index = _truncated(self.directory / "index.tsv", index.bytes)
            self._data = _truncated(self.directory / "features.bin", int(index.frames.sum()) * frame_bytes)
            self._pending: list[str] = []
            self._say(complete)
        except BaseException:
            self._lock.release()
            raise

    def _say(self, complete: bool) -> None:
        about = json.dumps(self._about | {"complete": complete}, indent=1)
        write_whole(self.directory / "store.json", about)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str, features: np.ndarray) -> None:
        """Append one array; a key that is there already is left as it is.

        Args:
            key: Its name: one line of text.
            features: (frames, dim), any float type; finite in the type of the store.

        Raises:
            CheckpointError: The shape is not (frames, dim), a value is not finite, or the key is no line.
        """
        if key in self._keys:
            return
        if features.ndim != 2 or features.shape[1] != self.dim or not key or set(key) & set("\t\r\n"):
            raise CheckpointError(
                f"Features of {key!r} do not fit the store.",
                got=f"shape {features.shape}",
                expected=f"(frames, {self.dim}), and a key without tabs and line ends",
            )
        with np.errstate(over="ignore"):
            stored = _encode(np.asarray(features, dtype=np.float32), self.dtype)
            if not np.isfinite(_decode(stored, self.dtype)).all():
                raise CheckpointError(
                    f"Features of {key!r} do not fit {self.dtype}.",
                    got=f"values up to {np.abs(features).max():.6g}",
                    advice="Leave data.features out: the encoder then runs in every step.",
                )
        content = stored.tobytes()
        with named(self.directory):
            self._data.write(content)
        self._keys[key] = len(self._keys)
        self._pending.append(f"{len(features)} {zlib.crc32(content):08x}\t{key}\n")
        if len(self._pending) >= _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write out what was added: first the frames, then the lines that make them count."""
        with named(self.directory):
            self._data.flush()
            self._index.write("".join(self._pending).encode())
            self._index.flush()
        self._pending.clear()

    def close(self) -> None:
        """Write out what was added and mark the store complete."""
        try:
            self.flush()
            self._say(complete=True)
        finally:
            self._stop()

    def _stop(self) -> None:
        with named(self.directory), ExitStack() as stack:
            # Closed before the lock is another's, also where the disk refuses: what waits in memory would be
            # written later, among what that other has written.
            stack.callback(self._lock.release)
            stack.callback(self._index.close)
            stack.callback(self._data.close)
            if not self._data.closed:
                self.flush()

    def __enter__(self) -> FeatureStoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._stop()


class FeatureStore(Mapping[str, np.ndarray]):
    """A complete store, memory-mapped; safe to share with worker processes.

    Args:
        directory: Folder of the store.
        fingerprint: What the encoders must be; ``None`` takes any.

    Raises:
        CheckpointError: The store is missing, unfinished, damaged, or of another encoder.
    """

    def __init__(self, directory: str | os.PathLike, fingerprint: str | None = None) -> None:
        self.directory = Path(directory)
        about = _read_about(self.directory)
        if about is None:
            raise CheckpointError(f"{self.directory}: holds no features.", advice="Cache them first.")
        if not about["complete"]:
            raise CheckpointError(
                f"{self.directory}: the features are not complete.",
                advice="Run the caching again; it goes on.",
            )
        self.fingerprint, self.dim, self.dtype = about["fingerprint"], about["dim"], about["dtype"]
        if fingerprint is not None and fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{self.directory}: the features are of another encoder.",
                got=self.fingerprint,
                expected=fingerprint,
                advice="Delete the folder, or name another one.",
            )
        stored = _stored_type(self.dtype)
        index = _read_index(self.directory, self.dim * stored.itemsize)
        if index.damaged:
            raise _damaged(self.directory)
        self._rows, self._sums = index.rows, index.sums
        self._seen = np.zeros(len(index.rows), dtype=bool)
        self._starts = np.concatenate([[0], np.cumsum(index.frames)])
        shape = (int(self._starts[-1]), self.dim)
        path = self.directory / "features.bin"
        self._data = np.memmap(path, stored, "r", shape=shape) if shape[0] else np.zeros(shape, stored)

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return FeatureStore, (self.directory,)

    def __getitem__(self, key: str) -> np.ndarray:
        """Return the features of a key: float32 (frames, dim), a copy.

        Raises:
            CheckpointError: They are not what was written (looked at when they are first read).
        """
        row = self._rows[key]
        stored = self._data[self._starts[row] : self._starts[row + 1]]
        features = _decode(stored, self.dtype)
        if not self._seen[row]:
            if zlib.crc32(stored.tobytes()) != self._sums[row]:
                raise _damaged(self.directory, key)
            self._seen[row] = True
        return features

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _stored_type(dtype: str) -> np.dtype:
    if dtype not in _DTYPES:
        raise CheckpointError(f"Unknown feature type {dtype!r}.", expected=", ".join(_DTYPES))
    return np.dtype(_DTYPES[dtype])


def _encode(features: np.ndarray, dtype: str) -> np.ndarray:
    """Turn float32 into what lies on disk; bfloat16 is rounded to the nearest, ties to even."""
    if dtype != "bfloat16":
        return np.ascontiguousarray(features, dtype=_DTYPES[dtype])
    bits = np.ascontiguousarray(features).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _decode(stored: np.ndarray, dtype: str) -> np.ndarray:
    if dtype != "bfloat16":
        return stored.astype(np.float32)
    return (stored.astype(np.uint32) << 16).view(np.float32)


def is_complete(directory: Path) -> bool:
    """Say whether a folder holds a complete store.

    Raises:
        CheckpointError: It holds a damaged one.
    """
    about = _read_about(directory)
    return about is not None and bool(about["complete"])


def _read_about(directory: Path) -> dict[str, Any] | None:
    try:
        about = json.loads((directory / "store.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        about = None
    if not isinstance(about, dict) or not {"complete", "dim", "dtype", "fingerprint"} <= about.keys():
        raise _damaged(directory, "store.json")
    return about


def _damaged(directory: Path, what: str = "its index") -> CheckpointError:
    return CheckpointError(
        f"{directory}: the cached features are damaged.",
        got=what,
        advice="Delete that folder; it is filled again when it is next asked for.",
    )


class _Index(NamedTuple):
    """The lines of an index that are whole and whose frames are on disk."""

    rows: dict[str, int]  # key -> row
    frames: np.ndarray  # of every row. int64 (rows,)
    sums: np.ndarray  # CRC-32 of what lies on disk of every row. int64 (rows,)
    bytes: int  # how much of the file these lines fill
    # Whether a whole line was found that is none, or whose frames are not there. Frames are written before
    # lines, so another process that is writing does not look like this.
    damaged: bool


def _read_index(directory: Path, frame_bytes: int) -> _Index:
    path, data = directory / "index.tsv", directory / "features.bin"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    frames_left = data.stat().st_size // frame_bytes if data.exists() else 0
    rows: dict[str, int] = {}
    counts: list[int] = []
    sums: list[int] = []
    used = 0
    for line in lines:
        found = _LINE.fullmatch(line)
        frames_left -= int(found[1]) if found else frames_left + 1
        if found is None or frames_left < 0:
            break
        rows[found[3].decode(errors="replace")] = len(rows)
        counts.append(int(found[1]))
        sums.append(int(found[2], 16))
        used += len(line) + 1
    told = np.array(counts, dtype=np.int64), np.array(sums, dtype=np.int64)
    return _Index(rows, *told, used, damaged=frames_left < 0)


def _truncated(path: Path, size: int):
    """Open a file for appending, cut to ``size`` bytes."""
    file = open(path, "ab")  # noqa: SIM115 - the writer closes it
    file.truncate(size)
    return file
