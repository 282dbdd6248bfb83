"""The items of one big array in a JSON file, one at a time: a corpus of gigabytes never lies in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from aista.errors import ManifestError

_CHUNK_CHARACTERS = 1 << 20
_BETWEEN = re.compile(r"[\s,]*")


def array_items(path: Path, key: str) -> Iterator[Any]:
    """Yield the items of the array ``key`` of the file's outermost object, or of the file if it is an array.

    Raises:
        ManifestError: There is no such array, or the JSON is broken.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from _items(file, path, key)
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read.", got=str(error)) from None


def _items(file: TextIO, path: Path, key: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    buffer = _from_array_start(file, path, key)
    position = 0
    while True:
        position = _BETWEEN.match(buffer, position).end()  # type: ignore[union-attr]
        if buffer[position : position + 1] == "]":
            return
        try:
            item, position = decoder.raw_decode(buffer, position)
            # A number may go on in the next chunk; only objects, arrays and strings end visibly.
        except json.JSONDecodeError as error:
            more = file.read(max(_CHUNK_CHARACTERS, len(buffer) - position))
            if not more:
                raise ManifestError(
                    f"{path}: broken JSON in the array {key!r}.",
                    got=error.msg,
                    advice="Download it again.",
                ) from None
            buffer, position = buffer[position:] + more, 0
            continue
        yield item


def _from_array_start(file: TextIO, path: Path, key: str) -> str:
    """Read on until the array starts; return what follows its bracket."""
    buffer = file.read(_CHUNK_CHARACTERS)
    if buffer.lstrip().startswith("["):
        return buffer.lstrip()[1:]
    start = re.compile(rf'"{re.escape(key)}"\s*:\s*\[')
    while True:
        if found := start.search(buffer):
            return buffer[found.end() :]
        more = file.read(_CHUNK_CHARACTERS)
        if not more:
            raise ManifestError(f"{path}: has no array {key!r}.", advice="Is this the right file?")
        buffer = buffer[-200:] + more
