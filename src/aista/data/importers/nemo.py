"""NeMo: JSON lines ``audio_filepath, duration, text, source_lang, target_lang, taskname``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from aista.data.importers import Options, Row, Skipped, stem
from aista.data.manifest import Utterance
from aista.data.text_files import read_json_lines, write_json_lines
from aista.errors import ManifestError

_TRANSLATIONS = {"ast", "s2t_translation", "translate"}


# What NeMo's data sets and diarization manifests call the channel of a row.
_CHANNELS = ("channel_selector", "channel", "audio_channel", "channel_id")


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped | ManifestError]]:
    """Read a NeMo manifest; where ``taskname`` translates, ``text`` or ``answer`` is the translation.

    ``channel_selector`` (or ``channel``) is the row's channel; ``average`` is the mean of all. Rows of
    several channels, or of several files, are skipped.
    """
    for where, row in read_json_lines(source):
        if "audio_filepath" not in row:
            yield where, ManifestError(f"{where}: lacks audio_filepath.", got=sorted(row))
            continue
        if isinstance(row["audio_filepath"], list):
            yield where, Skipped("several files in one row")
            continue
        if not isinstance(row["audio_filepath"], str) or not row["audio_filepath"]:
            yield where, Skipped("audio_filepath is no path")
            continue
        channel = _channel(row)
        if isinstance(channel, Skipped):
            yield where, channel
            continue
        translates = row.get("taskname") in _TRANSLATIONS
        answer = row.get("answer", row.get("text"))
        yield (
            where,
            {
                "id": next(
                    (row[key] for key in ("id", "utt_id") if row.get(key) not in (None, "")),
                    stem(row["audio_filepath"]),
                ),
                "audio": row["audio_filepath"],
                "offset": row.get("offset"),
                "duration": row.get("duration"),
                "channel": channel,
                "src_lang": row.get("source_lang") or row.get("lang"),
                "tgt_lang": row.get("target_lang") if translates else None,
                "text": row.get("source_text") if translates else answer,
                "translation": answer if translates else None,
                "task": "st" if translates else None,
                "speaker": row.get("speaker"),
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
        "channel_selector": row.channel,
        "text": row.target,
        "source_text": row.text if translates else None,
        "source_lang": row.src_lang,
        "target_lang": row.answer_lang,
        "taskname": "ast" if translates else "asr",
        "speaker": row.speaker,
    }


def _channel(row: Row) -> int | Skipped | None:
    """Return the one channel of a row, None for the mean of all, or why it is neither."""
    value = next((row[name] for name in _CHANNELS if row.get(name) is not None), None)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if value is None or value == "average":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return Skipped(f"channel {str(value)[:40]} of a recording, where one number is expected")
