"""lhotse: a cut set in JSON lines (``.jsonl`` or ``.jsonl.gz``), one utterance per supervision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aista.audio.files import probe
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.data.importers import Options, Row, Skipped
from aista.data.manifest import OVERLAP_SECONDS, Utterance
from aista.data.text_files import read_json_lines, write_json_lines
from aista.errors import ManifestError
from aista.text.prompts import LANGUAGES


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped | ManifestError]]:
    """Read cuts of recordings in files: what is said in one channel gets the sound of that channel.

    Skipped are mixed cuts, recordings elsewhere, recordings that are changed when they are loaded (speed,
    tempo, volume, reverberation ...), and what is said in some of several channels.
    """
    for where, cut in read_json_lines(source):
        try:
            yield from [(where, row) for row in _rows(cut, where)]
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            yield where, ManifestError(f"{where}: no cut.", got=f"{type(error).__name__}: {error}")


def _rows(cut: Row, where: str) -> Iterator[Row | Skipped | ManifestError]:
    recording = cut.get("recording") or {}
    sources = [each for each in recording.get("sources", []) if each.get("type") == "file"]
    if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut"):
        yield Skipped(f"a {cut['type']}")
    elif not sources:
        yield Skipped("a recording that is no file")
    elif effect := _effect(cut, recording):
        yield Skipped(effect)
    elif not {"id", "start", "duration"} <= cut.keys():
        yield ManifestError(f"{where}: no cut.", got=sorted(cut), expected="a cut set, not recordings")
    else:
        supervisions = cut.get("supervisions") or []
        if not supervisions:
            yield Skipped("a cut without supervision")
        for supervision in supervisions:
            place = _place(cut, supervision, sources)
            if isinstance(place, Skipped):
                yield place
            elif cut["start"] + supervision.get("start", 0.0) < -OVERLAP_SECONDS:
                yield Skipped("a supervision that begins before its recording")
            else:
                whole = len(supervisions) == 1 and _inside(cut, supervision)
                yield _row(cut, supervision, whole) | place


def _effect(cut: Row, recording: Row) -> str | None:
    """Say what changes the sound when lhotse loads it; to another rate no lower than ours is no change."""
    for effect in [*(recording.get("transforms") or []), *(cut.get("transforms") or [])]:
        effect = effect if isinstance(effect, dict) else {"name": str(effect)}
        name, kwargs = effect.get("name", "?"), effect.get("kwargs") or effect
        if name == "Resample" and int(kwargs.get("target_sampling_rate") or 0) >= SAMPLE_RATE_HZ:
            continue
        return f"a recording with a transform ({name})"
    return None


def _place(cut: Row, supervision: Row, sources: list[Row]) -> Row | Skipped:
    """Return the file and the channel of what is said, or why they cannot be named."""
    cuts = _channels(cut.get("channel"))
    wanted = _channels(supervision.get("channel"))
    if cuts and wanted and not set(wanted) <= set(cuts):
        return Skipped("a supervision in another channel than its cut")
    wanted = wanted or cuts
    held = [_channels(source.get("channels")) or [0] for source in sources]
    if not wanted:
        if len(sources) > 1 or len(held[0]) > 1:
            return Skipped("a recording with several channels, and which one is meant is not said")
        wanted = held[0]
    for source, channels in zip(sources, held, strict=True):
        if set(wanted) == set(channels):  # the file as it is, mixed to one channel
            return {"audio": source["source"]}
        if len(wanted) == 1 and wanted[0] in channels:
            return {"audio": source["source"], "channel": channels.index(wanted[0])}
    if len(wanted) == 1:
        return Skipped("a channel that its recording does not have")
    return Skipped("some of several channels, or channels in several files")


def _channels(value: Any) -> list[int]:
    """Return channel numbers from one number, several, or none."""
    return [] if value is None else [int(each) for each in (value if isinstance(value, list) else [value])]


def _inside(cut: Row, supervision: Row) -> bool:
    """Whether a cut holds all that is said; a window of a recording may begin or end within it."""
    start = supervision.get("start", 0.0)
    end = start + supervision.get("duration", 0.0)
    return start >= -OVERLAP_SECONDS and end <= cut["duration"] + OVERLAP_SECONDS


def _row(cut: Row, supervision: Row, whole: bool) -> Row:
    """Return the span of a supervision: the whole cut if it is the only one and lies inside."""
    custom: dict[str, Any] = supervision.get("custom") or {}
    span = cut if whole else supervision
    begin = cut["start"] + (0.0 if whole else supervision.get("start", 0.0))
    return {
        "id": span["id"],
        "offset": round(max(0.0, begin), 6),
        "duration": span["duration"],
        "src_lang": str(supervision.get("language") or "") or None,
        "tgt_lang": custom.get("tgt_lang"),
        "text": supervision.get("text"),
        "translation": custom.get("translation"),
        "task": custom.get("task") or ("st" if custom.get("translation") else None),
        "speaker": supervision.get("speaker"),
    }


def write(rows: Iterable[Utterance], path: Path) -> None:
    """Write a cut set; the headers of the files are read for their rates and channels.

    A row that is the mean of several channels becomes a MultiCut of all of them.

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
    held = list(range(info.num_channels))
    channel = row.channel if row.channel is not None else held if len(held) > 1 else 0
    custom = {"translation": row.translation, "tgt_lang": row.tgt_lang, "task": row.task}
    language = LANGUAGES[row.src_lang].name if row.src_lang in LANGUAGES else row.src_lang
    supervision = {
        "id": row.id, "recording_id": recording_id, "start": 0.0, "duration": duration,
        "channel": channel, "text": row.text, "language": language, "speaker": row.speaker,
        "custom": {key: value for key, value in custom.items() if value is not None},
    }  # fmt: skip
    recording = {
        "id": recording_id, "sources": [{"type": "file", "channels": held, "source": row.audio}],
        "sampling_rate": info.sample_rate_hz, "num_samples": info.num_frames,
        "duration": info.duration_seconds, "channel_ids": held,
    }  # fmt: skip
    return {
        "id": row.id, "start": row.offset, "duration": duration, "channel": channel,
        "supervisions": [{key: value for key, value in supervision.items() if value is not None}],
        "recording": recording, "type": "MultiCut" if isinstance(channel, list) else "MonoCut",
    }  # fmt: skip
