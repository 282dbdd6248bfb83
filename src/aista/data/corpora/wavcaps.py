"""WavCaps: captions of four collections in JSON, their sounds as FLAC (Hugging Face cvssp/WavCaps)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from aista.data.corpora import Absent, Expected, LeftOut
from aista.data.manifest import Utterance
from aista.data.text_files import array_items
from aista.errors import ConfigError, ManifestError

NOTE = (
    "Clips over 180 s are left out, as in the paper, which counts 370K of 403,050 clips and 2,800 of 7,568 "
    "hours. Clips that are also in the test sets of AudioCaps or Clotho are left out where WavCaps' own list "
    "of them (1,451 of AudioSet, 2,090 of FreeSound) is there; the paper does not say whether it did so."
)
MAX_SECONDS = 180.0
BLACKLIST = "blacklist_exclude_test_ac.json"
NO_BLACKLIST = "none"

_METADATA = {
    "AudioSet_SL": ("as_final.json", Expected(108_317, 299.0)),
    "BBC_Sound_Effects": ("bbc_final.json", Expected(31_201, 997.0)),
    "FreeSound": ("fsd_final.json", Expected(262_300, 6_264.0)),
    "SoundBible": ("sb_final.json", Expected(1_232, 4.0)),
}
SPLITS = tuple(_METADATA)
_FAMILY = {"AudioSet_SL": "AudioSet", "FreeSound": "FreeSound"}  # what the blacklist calls a collection


def expected(split: str, blacklist: str | None = None) -> Expected:
    """Return the published size of a collection, before long and blacklisted clips are left out."""
    return _METADATA[split][1]


def note(source: Path, split: str, blacklist: str | None = None) -> str:
    """Return the note, and which blacklist was used."""
    if split not in _FAMILY:
        return NOTE
    path = _blacklist(source, blacklist)
    if path is not None:
        return f"{NOTE} {path.name} was used."
    return f"{NOTE} No blacklist was used: a test of captions on AudioCaps or Clotho would be tainted."


def rows(source: Path, split: str, blacklist: str | None = None) -> Iterator[Utterance | LeftOut]:
    """Read a collection: ``json_files/SPLIT/*.json`` and its sounds under ``SPLIT`` or ``SPLIT_flac``.

    Args:
        blacklist: A JSON ``{"AudioSet": [ids], "FreeSound": [ids]}`` of clips to leave out; by default the
            one that lies in ``json_files/blacklist``; ``none``: none.
    """
    file = _METADATA[split][0]
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
        elif seconds > MAX_SECONDS:
            yield LeftOut(name, f"longer than {MAX_SECONDS:g} s")
        elif (path := _sound(folders, stem)) is None:
            yield LeftOut(name, "audio is missing")
        else:
            yield Utterance(
                id=f"wavcaps-{split}-{stem}", audio=str(path), text=caption, task="aac", corpus="wavcaps"
            )


def _found(source: Path, names: Sequence[str]) -> Path | None:
    """Return the first of these files, in the layout of the hub, of the repository, or a flat one."""
    folders = (source / "json_files", source / "data" / "json_files", source)
    return next((path for f in folders for name in names if (path := f / name).is_file()), None)


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


def _sound(folders: list[Path], stem: str) -> Path | None:
    candidates = (
        folder / f"{stem}{suffix}" for folder in folders for suffix in (".flac", ".wav", ".mp3", ".ogg")
    )
    return next((path for path in candidates if path.is_file()), None)
