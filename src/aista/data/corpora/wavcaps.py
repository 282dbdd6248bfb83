"""WavCaps: captions of four collections in JSON, their sounds as FLAC (Hugging Face cvssp/WavCaps)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aista.data.corpora import Absent, Expected, LeftOut
from aista.data.json_stream import array_items
from aista.data.manifest import Utterance

NOTE = (
    "Clips over 180 s are left out, as in the paper, which counts 370K of 403,050 clips and 2,800 of 7,568 "
    "hours. Clips of FreeSound and AudioSet also occur in the test sets of AudioCaps and Clotho: leave those "
    "out with WavCaps' own blacklists before testing captions."
)
MAX_SECONDS = 180.0

_METADATA = {
    "AudioSet_SL": ("as_final.json", Expected(108_317, 299.0)),
    "BBC_Sound_Effects": ("bbc_final.json", Expected(31_201, 997.0)),
    "FreeSound": ("fsd_final.json", Expected(262_300, 6_264.0)),
    "SoundBible": ("sb_final.json", Expected(1_232, 4.0)),
}
SPLITS = tuple(_METADATA)


def expected(split: str) -> Expected:
    """Return the published size of a collection, before long clips are left out."""
    return _METADATA[split][1]


def rows(source: Path, split: str) -> Iterator[Utterance | LeftOut]:
    """Read a collection: ``json_files/SPLIT/*.json`` and its sounds under ``SPLIT`` or ``SPLIT_flac``."""
    file = _METADATA[split][0]
    places = (source / "json_files" / split / file, source / split / file, source / file)
    metadata = next((place for place in places if place.is_file()), None)
    if metadata is None:
        raise Absent(f"{source} has no {file}.", expected=f"json_files/{split}/{file}")
    folders = [
        folder
        for parent in (source, source / "waveforms", source / "Zip_files", source / "audio")
        for folder in (parent / split, parent / f"{split}_flac")
        if folder.is_dir()
    ]
    for item in array_items(metadata, "data"):
        name = str(item["id"])
        stem = name.removesuffix(".wav").removesuffix(
            ".flac"
        )  # AudioSet's ids end in .wav, its files in .flac
        caption = (item.get("caption") or "").strip()
        seconds = float(item.get("duration") or 0)
        if not caption:
            yield LeftOut(name, "empty caption")
        elif seconds > MAX_SECONDS:
            yield LeftOut(name, f"longer than {MAX_SECONDS:g} s")
        elif (path := _sound(folders, stem)) is None:
            yield LeftOut(name, "audio is missing")
        else:
            yield Utterance(
                id=f"wavcaps-{split}-{stem}", audio=str(path), text=caption, task="aac", corpus="wavcaps"
            )


def _sound(folders: list[Path], stem: str) -> Path | None:
    candidates = (
        folder / f"{stem}{suffix}" for folder in folders for suffix in (".flac", ".wav", ".mp3", ".ogg")
    )
    return next((path for path in candidates if path.is_file()), None)
