"""SALMONN: ``{"annotation": [{"path", "text", "task", "Q", "expand_wav"}]}``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from aista.data.importers import Options, Row, Skipped, stem, unless_it_has_a_channel
from aista.data.manifest import Utterance
from aista.data.text_files import array_items
from aista.errors import ManifestError

# SALMONN's tasks that are ours; its others are questions about the sound
_TASKS: dict[str, Row] = {
    "asr": {"task": "asr", "src_lang": "en"},
    "asr_zh": {"task": "asr", "src_lang": "zh"},
    "asr_de": {"task": "asr", "src_lang": "de"},
    "audiocaption": {"task": "aac"},
    "audiocaption_v2": {"task": "aac"},
    "translation_ec": {"task": "st", "src_lang": "en", "tgt_lang": "zh"},
    "translation_en2ja": {"task": "st", "src_lang": "en", "tgt_lang": "ja"},
    "translation_en2de": {"task": "st", "src_lang": "en", "tgt_lang": "de"},
}


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped | ManifestError]]:
    """Read an annotation file; rows of other tasks, and of several files joined, are skipped and counted."""
    for number, row in enumerate(array_items(source, "annotation"), start=1):
        where = f"{source}: annotation {number}"
        if not isinstance(row, dict):
            yield where, Skipped("no object")
            continue
        task = str(row.get("task", "asr"))
        if task not in _TASKS:
            yield where, Skipped(f"task {task}")
        elif row.get("expand_wav"):
            yield where, Skipped("several files joined (expand_wav)")
        elif not isinstance(row.get("path"), str) or "text" not in row:
            yield where, ManifestError(f"{where}: lacks path or text.", got=sorted(row))
        else:
            fields = _TASKS[task]
            answer = "translation" if fields["task"] == "st" else "text"
            yield where, {"id": stem(row["path"]), "audio": row["path"], answer: row["text"], **fields}


def write(rows: Iterable[Utterance], path: Path) -> None:
    """Write an annotation file.

    Raises:
        ManifestError: A row is a span or a channel of a file, or of a task and language that SALMONN has no
            name for.
    """
    annotation = []
    for row in rows:
        unless_it_has_a_channel(row, "SALMONN")
        wanted = {"task": row.task, "src_lang": row.src_lang, "tgt_lang": row.tgt_lang}
        name = next((n for n, f in _TASKS.items() if f.items() <= wanted.items()), None)
        if name is None or row.offset:
            raise ManifestError(
                f"Utterance {row.id!r} cannot be written for SALMONN.",
                got=f"offset {row.offset:g} s, {wanted}",
                expected="whole files; " + ", ".join(_TASKS),
            )
        annotation.append({"path": row.audio, "text": row.target, "task": name})
    path.write_text(json.dumps({"annotation": annotation}, ensure_ascii=False, indent=1), encoding="utf-8")
