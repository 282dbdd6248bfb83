"""SLAM-LLM: JSON lines ``key, source, target`` (recognition, captions); for translation see ``qwen``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from aista.data.importers import Options, Row, unless_it_has_a_channel
from aista.data.manifest import Utterance
from aista.data.text_files import read_json_lines, write_json_lines
from aista.errors import ManifestError


def read(source: Path, options: Options) -> Iterator[tuple[str, Row]]:
    """Read a file of one task, which the defaults name."""
    answer = "translation" if options.defaults.get("task") == "st" else "text"
    for where, row in read_json_lines(source):
        if not {"key", "source", "target"} <= row.keys():
            raise ManifestError(
                f"{where}: lacks key, source or target.", got=sorted(row), advice="Is it the format 'qwen'?"
            )
        yield where, {"id": str(row["key"]), "audio": row["source"], answer: row["target"]}


def write(rows: Iterable[Utterance], path: Path) -> None:
    """Write key, source and target.

    Raises:
        ManifestError: A row is a span or a channel of a file: the format cannot say so.
    """
    write_json_lines(path, map(_line, rows))


def _line(row: Utterance) -> Row:
    unless_it_has_a_channel(row, "SLAM-LLM")
    if row.offset:
        raise ManifestError(f"Utterance {row.id!r} is a span of a file.", got=f"offset {row.offset:g} s")
    return {"key": row.id, "source": row.audio, "target": row.target}
