"""SLAM-LLM: JSON lines ``key, source, target`` (recognition, captions); for translation see ``qwen``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from aista.data.importers import Options, Row, Skipped, unless_it_has_a_channel
from aista.data.manifest import Utterance
from aista.data.text_files import read_json_lines, write_json_lines
from aista.errors import ManifestError

_TASKS = {
    "s2tt": "st", "s2t": "st", "ast": "st", "translate": "st", "translation": "st", "transcribe": "asr",
    "caption": "aac", "audiocaption": "aac",
}  # fmt: skip


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped | ManifestError]]:
    """Read a file; a row's own task and prompt are kept, for the others the defaults name the task."""
    for where, row in read_json_lines(source):
        if not {"key", "source", "target"} <= row.keys():
            what, advice = f"{where}: lacks key, source or target.", "Is it the format 'qwen'?"
            yield where, ManifestError(what, got=sorted(row), advice=advice)
            continue
        task = str(row["task"]).strip().lower() if row.get("task") else options.defaults.get("task")
        task = _TASKS.get(str(task), task)
        if task not in (None, "asr", "aac", "st"):
            yield where, Skipped(f"task {row['task']}")
            continue
        answer = "translation" if task == "st" else "text"
        fields = {"task": task, "prompt": row.get("prompt"), answer: row["target"]}
        yield where, {"id": str(row["key"]), "audio": row["source"], **fields}


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
    return {"key": row.id, "source": row.audio, "target": row.target, "prompt": row.prompt, "task": row.task}
