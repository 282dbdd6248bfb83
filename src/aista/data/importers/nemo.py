"""NeMo: JSON lines ``audio_filepath, duration, text, source_lang, target_lang, taskname``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from aista.data.importers import Options, Row, stem
from aista.data.json_lines import read_json_lines, write_json_lines
from aista.data.manifest import Utterance
from aista.errors import ManifestError

_TRANSLATIONS = {"ast", "s2t_translation", "translate"}


def read(source: Path, options: Options) -> Iterator[tuple[str, Row]]:
    """Read a NeMo manifest; where ``taskname`` translates, ``text`` or ``answer`` is the translation."""
    for where, row in read_json_lines(source):
        if "audio_filepath" not in row:
            raise ManifestError(f"{where}: lacks audio_filepath.", got=sorted(row))
        translates = row.get("taskname") in _TRANSLATIONS
        answer = row.get("answer", row.get("text"))
        yield (
            where,
            {
                "id": row.get("id") or row.get("utt_id") or stem(row["audio_filepath"]),
                "audio": row["audio_filepath"],
                "offset": row.get("offset"),
                "duration": row.get("duration"),
                "src_lang": row.get("source_lang") or row.get("lang"),
                "tgt_lang": row.get("target_lang") if translates else None,
                "text": row.get("source_text") if translates else answer,
                "translation": answer if translates else None,
                "task": "st" if translates else None,
                "speaker": _text(row.get("speaker")),
            },
        )


def write(rows: Iterable[Utterance], path: Path) -> None:
    """Write a NeMo manifest."""
    write_json_lines(path, map(_line, rows))


def _line(row: Utterance) -> Row:
    translates = row.task in ("st", "mt")
    return {
        "id": row.id,
        "audio_filepath": row.audio,
        "offset": row.offset or None,
        "duration": row.duration,
        "text": row.target,
        "source_text": row.text if translates else None,
        "source_lang": row.src_lang,
        "target_lang": row.answer_lang,
        "taskname": "ast" if translates else "asr",
        "speaker": row.speaker,
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)
