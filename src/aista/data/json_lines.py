"""JSON lines of other tools: read with exact places in errors, written without escapes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aista.errors import ManifestError


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``file:line``, object) for every line that is not blank; ``.gz`` is unpacked.

    Raises:
        ManifestError: The file is missing, or a line is no JSON object.
    """
    opening = gzip.open if path.suffix == ".gz" else open
    try:
        with opening(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", _object(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read.", got=str(error)) from None


class KeyTwiceError(ValueError):
    """An object has one key twice: nobody knows which value was meant."""


def keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dictionary; for ``object_pairs_hook``.

    Raises:
        KeyTwiceError: A key stands twice.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyTwiceError(", ".join(sorted({name for name in names if names.count(name) > 1})))
    return row


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=keys_once)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{where}: no JSON.", got=error.msg) from None
    except KeyTwiceError as error:
        raise ManifestError(f"{where}: a key stands twice.", got=error) from None
    if not isinstance(row, dict):
        raise ManifestError(f"{where}: no JSON object.", got=type(row).__name__)
    return row


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write objects, one a line, leaving out keys whose value is None."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            kept = {key: value for key, value in row.items() if value is not None}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
