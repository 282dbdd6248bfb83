"""Corpora of captioned sounds: WavCaps, AudioCaps and Clotho."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from aista.data.corpora import Absent, Corpus, Expected, LeftOut
from aista.data.manifest import Utterance
from aista.data.text_files import Broken, array_items, read_rows
from aista.errors import ConfigError, ManifestError


def _first_file(paths: Iterator[Path] | Sequence[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _captioned(row_id: str, audio: Path, caption: str, corpus: str) -> Utterance:
    return Utterance(id=row_id, audio=str(audio), text=caption, task="aac", corpus=corpus)


# ---- WavCaps (Hugging Face cvssp/WavCaps): captions of four collections in JSON, their sounds as FLAC

BLACKLIST = "blacklist_exclude_test_ac.json"
NO_BLACKLIST = "none"
_WAVCAPS_NOTE = (
    "Clips over 180 s are left out, as in the paper, which counts 370K of 403,050 clips and 2,800 of 7,568 "
    "hours. Clips that are also in the test sets of AudioCaps or Clotho are left out where WavCaps' own list "
    "of them (1,451 of AudioSet, 2,090 of FreeSound) is there; the paper does not say whether it did so."
)
_MAX_SECONDS = 180.0
_METADATA = {
    "AudioSet_SL": "as_final.json",
    "BBC_Sound_Effects": "bbc_final.json",
    "FreeSound": "fsd_final.json",
    "SoundBible": "sb_final.json",
}
_SOUNDS = (".flac", ".wav", ".mp3", ".ogg")
_FAMILY = {"AudioSet_SL": "AudioSet", "FreeSound": "FreeSound"}  # what the blacklist calls a collection


def _wavcaps_note(source: Path, split: str, blacklist: str | None = None) -> str:
    """Return the note, and which blacklist was used."""
    if split not in _FAMILY:
        return _WAVCAPS_NOTE
    path = _blacklist(source, blacklist)
    if path is not None:
        return f"{_WAVCAPS_NOTE} {path.name} was used."
    return (
        f"{_WAVCAPS_NOTE} No blacklist was used: a test of captions on AudioCaps or Clotho would be tainted."
    )


def _wavcaps(source: Path, split: str, blacklist: str | None = None) -> Iterator[Utterance | LeftOut]:
    """Read a collection: ``json_files/SPLIT/*.json`` and its sounds under ``SPLIT`` or ``SPLIT_flac``.

    Args:
        blacklist: A JSON ``{"AudioSet": [ids], "FreeSound": [ids]}`` of clips to leave out; by default the
            one that lies in ``json_files/blacklist``; ``none``: none.
    """
    file = _METADATA[split]
    metadata = _found(source, (f"{split}/{file}", file))
    if metadata is None:
        raise Absent(f"{source} has no {file}.", expected=f"json_files/{split}/{file}")
    listed = _blacklist(source, blacklist) if split in _FAMILY else None
    held_out = _ids(listed, _FAMILY[split]) if listed else frozenset()
    folders = [
        folder
        for parent in (source, source / "waveforms", source / "Zip_files", source / "audio")
        for folder in (parent / split, parent / f"{split}_flac")
        if folder.is_dir()
    ]
    for item in array_items(metadata, "data"):
        name = str(item["id"])
        stem = _stem(name)
        caption = (item.get("caption") or "").strip()
        seconds = float(item.get("duration") or 0)
        if stem in held_out:
            yield LeftOut(name, f"also in a test set of captions ({listed.name if listed else ''})")
        elif not caption:
            yield LeftOut(name, "empty caption")
        elif seconds > _MAX_SECONDS:
            yield LeftOut(name, f"longer than {_MAX_SECONDS:g} s")
        elif (path := _first_file(f / f"{stem}{suffix}" for f in folders for suffix in _SOUNDS)) is None:
            yield LeftOut(name, "audio is missing")
        else:
            yield _captioned(f"wavcaps-{split}-{stem}", path, caption, "wavcaps")


def _found(source: Path, names: Sequence[str]) -> Path | None:
    """Return the first of these files, in the layout of the hub, of the repository, or a flat one."""
    folders = (source / "json_files", source / "data" / "json_files", source)
    return _first_file([folder / name for folder in folders for name in names])


def _blacklist(source: Path, named: str | None) -> Path | None:
    """Return the blacklist to use, or None.

    Raises:
        ConfigError: The named one is not there.
    """
    if named == NO_BLACKLIST:
        return None
    if named is None:
        return _found(source, (f"blacklist/{BLACKLIST}", BLACKLIST))
    if not Path(named).is_file():
        raise ConfigError(f"There is no blacklist {named}.", expected=f"a path, or {NO_BLACKLIST!r}")
    return Path(named)


def _ids(path: Path, family: str) -> frozenset[str]:
    """Return the clips that a blacklist names.

    Raises:
        ManifestError: The file is no blacklist.
    """
    try:
        return frozenset(_stem(str(name)) for name in json.loads(path.read_bytes())[family])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{path}: is no blacklist.", got=repr(error), expected='{"AudioSet": [ids], "FreeSound": [ids]}'
        ) from None


def _stem(name: str) -> str:
    """Return an id without the suffix of a file: AudioSet's ids end in .wav, its files in .flac."""
    return name.removesuffix(".wav").removesuffix(".flac")


WAVCAPS = Corpus(
    NOTE=_WAVCAPS_NOTE,
    sizes={  # before long and blacklisted clips are left out
        "AudioSet_SL": Expected(108_317, 299.0),
        "BBC_Sound_Effects": Expected(31_201, 997.0),
        "FreeSound": Expected(262_300, 6_264.0),
        "SoundBible": Expected(1_232, 4.0),
    },
    rows=_wavcaps,
    note=_wavcaps_note,
    MAX_SECONDS=_MAX_SECONDS,
)

# ---- AudioCaps: captions of ten-second YouTube clips in CSV; the sounds are what could still be downloaded


def _audiocaps(source: Path, split: str) -> Iterator[Utterance | LeftOut]:
    """Read ``SPLIT.csv`` (also under ``dataset``) and clips under ``SPLIT``, ``audio/SPLIT`` or ``audio``.

    A clip may be named after its YouTube id (with or without ``Y`` and start time) or its AudioCaps id.
    """
    table = _first_file([f / f"{split}.csv" for f in (source, source / "dataset", source / "csv_files")])
    if table is None:
        raise Absent(f"{source} has no {split}.csv.")
    folders = [f for f in (source / split, source / "audio" / split, source / "audio", source) if f.is_dir()]
    for number, line in read_rows(table, texts=["caption"]):
        if isinstance(line, Broken):
            yield LeftOut(f"{table.name}:{number}", line.reason)
            continue
        row_id, caption = line["audiocap_id"], line["caption"].strip()
        video, start = line["youtube_id"], line["start_time"]
        names = (f"{video}_{start}", video, f"Y{video}", f"Y{video}_{start}", row_id)
        suffixes = (".wav", ".flac", ".mp3")
        path = _first_file(f / f"{name}{suffix}" for f in folders for name in names for suffix in suffixes)
        if caption and path is not None:
            yield _captioned(f"audiocaps-{row_id}", path, caption, "audiocaps")
        else:
            yield LeftOut(row_id, "audio is missing" if caption else "empty caption")


AUDIOCAPS = Corpus(
    NOTE="The clips come from YouTube and vanish: the paper trained on 45K of 49,838. Validation and test "
    "clips have five captions each, one row per caption.",
    sizes={"train": Expected(49_838), "val": Expected(2_475), "test": Expected(4_875)},
    rows=_audiocaps,
)

# ---- Clotho 2.1 (zenodo.org/records/4783391): 15 to 30 s sounds with five captions each

_CAPTIONS = [f"caption_{number}" for number in range(1, 6)]


def _clotho(source: Path, split: str) -> Iterator[Utterance | LeftOut]:
    """Read ``clotho_captions_SPLIT.csv`` and the clips under ``SPLIT`` or ``clotho_audio_SPLIT/SPLIT``."""
    table = source / f"clotho_captions_{split}.csv"
    if not table.is_file():
        raise Absent(f"{source} has no {table.name}.")
    places = (source / split, source / f"clotho_audio_{split}" / split, source / f"clotho_audio_{split}")
    folder = next((place for place in places if place.is_dir()), source)
    for at, line in read_rows(table, texts=_CAPTIONS):
        if isinstance(line, Broken):
            yield LeftOut(f"{table.name}:{at}", line.reason)
            continue
        name = line["file_name"]
        # File names keep the spaces their owners gave them, some of them at the end.
        path = _first_file([folder / name, folder / name.strip()]) or folder / name
        for number, column in enumerate(_CAPTIONS, start=1):
            row_id, caption = f"clotho-{split}-{Path(name).stem}#{number}", line.get(column, "").strip()
            yield _captioned(row_id, path, caption, "clotho") if caption else LeftOut(row_id, "empty caption")


CLOTHO = Corpus(
    NOTE="Every clip has five captions, one row each; the paper's 4K counts the 3,839 clips of development.",
    sizes={
        split: Expected(clips * 5)
        for split, clips in {"development": 3_839, "validation": 1_045, "evaluation": 1_045}.items()
    },
    rows=_clotho,
)
