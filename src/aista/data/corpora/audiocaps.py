"""AudioCaps: captions of ten-second YouTube clips in CSV; the sounds are what could still be downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aista.data.corpora import Absent, Expected, LeftOut
from aista.data.manifest import Utterance
from aista.data.text_files import Broken, read_rows

NOTE = (
    "The clips come from YouTube and vanish: the paper trained on 45K of 49,838. Validation and test clips "
    "have five captions each, one row per caption."
)
SPLITS = ("train", "val", "test")
_EXPECTED = {"train": Expected(49_838), "val": Expected(2_475), "test": Expected(4_875)}


def expected(split: str) -> Expected:
    """Return the published number of captions."""
    return _EXPECTED[split]


def rows(source: Path, split: str) -> Iterator[Utterance | LeftOut]:
    """Read ``SPLIT.csv`` (also under ``dataset``) and clips under ``SPLIT``, ``audio/SPLIT`` or ``audio``.

    A clip may be named after its YouTube id (with or without ``Y`` and start time) or its AudioCaps id.
    """
    places = (
        source / f"{split}.csv",
        source / "dataset" / f"{split}.csv",
        source / "csv_files" / f"{split}.csv",
    )
    table = next((place for place in places if place.is_file()), None)
    if table is None:
        raise Absent(f"{source} has no {split}.csv.")
    folders = [f for f in (source / split, source / "audio" / split, source / "audio", source) if f.is_dir()]
    for number, line in read_rows(table, texts=["caption"]):
        if isinstance(line, Broken):
            yield LeftOut(f"{table.name}:{number}", line.reason)
            continue
        caption = line["caption"].strip()
        path = _clip(folders, line)
        if not caption or path is None:
            yield LeftOut(line["audiocap_id"], "audio is missing" if caption else "empty caption")
            continue
        yield Utterance(
            id=f"audiocaps-{line['audiocap_id']}",
            audio=str(path),
            text=caption,
            task="aac",
            corpus="audiocaps",
        )


def _clip(folders: list[Path], line: dict[str, str]) -> Path | None:
    video, start = line["youtube_id"], line["start_time"]
    names = (f"{video}_{start}", video, f"Y{video}", f"Y{video}_{start}", line["audiocap_id"])
    candidates = (
        f / f"{name}{suffix}" for f in folders for name in names for suffix in (".wav", ".flac", ".mp3")
    )
    return next((path for path in candidates if path.is_file()), None)
