"""lhotse: a cut set in JSON lines (``.jsonl`` or ``.jsonl.gz``), one utterance per supervision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aista.audio.files import probe
from aista.data.importers import Options, Row, Skipped
from aista.data.json_lines import read_json_lines, write_json_lines
from aista.data.manifest import Utterance
from aista.errors import ManifestError
from aista.text.languages import LANGUAGES

_CODES = {language.name.lower(): code for code, language in LANGUAGES.items()}


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped]]:
    """Read simple cuts of recordings in files; mixed cuts and recordings elsewhere are skipped."""
    for where, cut in read_json_lines(source):
        recording = cut.get("recording") or {}
        files = [s["source"] for s in recording.get("sources", []) if s.get("type") == "file"]
        if cut.get("type", "MonoCut") != "MonoCut":
            yield where, Skipped(f"a {cut['type']}")
        elif not files:
            yield where, Skipped("a recording that is no file")
        elif not {"id", "start", "duration"} <= cut.keys():
            raise ManifestError(f"{where}: no cut.", got=sorted(cut), expected="a cut set, not recordings")
        else:
            supervisions = cut.get("supervisions") or []
            if not supervisions:
                yield where, Skipped("a cut without supervision")
            for supervision in supervisions:
                yield where, _row(cut, supervision, files[0], whole=len(supervisions) == 1)


def _row(cut: Row, supervision: Row, file: str, whole: bool) -> Row:
    """Return the span of a supervision: the whole cut if it is the only one."""
    begin = cut["start"] if whole else cut["start"] + max(0.0, supervision.get("start", 0.0))
    custom: dict[str, Any] = supervision.get("custom") or {}
    language = str(supervision.get("language") or "").lower()
    return {
        "id": cut["id"] if whole else supervision["id"],
        "audio": file,
        "offset": round(begin, 6),
        "duration": cut["duration"] if whole else supervision["duration"],
        "src_lang": _CODES.get(language, language[:2] or None),
        "tgt_lang": custom.get("tgt_lang"),
        "text": supervision.get("text"),
        "translation": custom.get("translation"),
        "task": custom.get("task") or ("st" if custom.get("translation") else None),
        "speaker": supervision.get("speaker"),
    }


def write(rows: Iterable[Utterance], path: Path) -> None:
    """Write a cut set; the headers of the files are read for their rates.

    Raises:
        AudioError: A file cannot be read.
        ManifestError: A row has no audio.
    """
    write_json_lines(path, map(_cut, rows))


def _cut(row: Utterance) -> Row:
    if row.audio is None:
        raise ManifestError(f"Utterance {row.id!r} has no audio: lhotse cannot hold it.")
    info = probe(row.audio)
    duration = row.duration or round(info.duration_seconds - row.offset, 6)
    recording_id = Path(row.audio).stem
    custom = {"translation": row.translation, "tgt_lang": row.tgt_lang, "task": row.task}
    language = LANGUAGES[row.src_lang].name if row.src_lang in LANGUAGES else row.src_lang
    supervision = {
        "id": row.id, "recording_id": recording_id, "start": 0.0, "duration": duration, "channel": 0,
        "text": row.text, "language": language, "speaker": row.speaker,
        "custom": {key: value for key, value in custom.items() if value is not None},
    }  # fmt: skip
    recording = {
        "id": recording_id, "sources": [{"type": "file", "channels": [0], "source": row.audio}],
        "sampling_rate": info.sample_rate_hz, "num_samples": info.num_frames,
        "duration": info.duration_seconds, "channel_ids": [0],
    }  # fmt: skip
    return {
        "id": row.id, "start": row.offset, "duration": duration, "channel": 0,
        "supervisions": [{key: value for key, value in supervision.items() if value is not None}],
        "recording": recording, "type": "MonoCut",
    }  # fmt: skip
