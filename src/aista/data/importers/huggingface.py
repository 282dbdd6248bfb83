"""Hugging Face ``datasets``: parquet, saved to disk, or from the hub; sounds are taken as they are.

Needs ``pip install datasets``. Audio columns are read with ``decode=False``, so no further codec is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset, DatasetDict, load_dataset, load_from_disk

from aista.data.importers import Options, Row, Skipped, stem
from aista.data.manifest import Utterance
from aista.errors import ConfigError

# What data sets call our fields, in order of preference.
_USUAL = {
    "id": ("id", "utterance_id", "key"),
    "audio": ("audio", "file", "path"),
    "text": ("text", "sentence", "transcription", "transcript", "caption"),
    "translation": ("translation", "target"),
    "speaker": ("speaker_id", "speaker", "client_id"),
}


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped]]:
    """Read one split; sounds stored inside the data set are written to ``STEM_audio`` beside the manifest."""
    data = _load(source, options.split)
    columns = {
        field: next(name for name in names if name in data.column_names)
        for field, names in _USUAL.items()
        if any(name in data.column_names for name in names)
    } | options.columns
    unknown = sorted(set(columns.values()) - set(data.column_names))
    if unknown or "audio" not in columns:
        raise ConfigError(
            "Cannot find these columns." if unknown else "There is no column for the audio.",
            got=", ".join(data.column_names),
            expected=", ".join(unknown) or "--column audio=NAME",
        )
    if isinstance(data.features[columns["audio"]], Audio):
        data = data.cast_column(columns["audio"], Audio(decode=False))
    for number, item in enumerate(data):
        row = {field: item[column] for field, column in columns.items() if field in Utterance.model_fields}
        row["id"] = str(row.get("id") or f"{data.split or 'row'}-{number}")
        row["audio"] = _sound(row["audio"], row["id"], options)
        if row.get("speaker") is not None:
            row["speaker"] = str(row["speaker"])
        if isinstance(row.get("translation"), dict):  # {"en": ..., "zh": ...}
            row["translation"] = row["translation"].get(options.defaults.get("tgt_lang"))
        where = f"{source}: row {number}"
        yield where, row if row["audio"] else Skipped("a row without sound")


def _load(source: Path, split: str | None) -> Dataset:
    if source.suffix == ".parquet":
        data = Dataset.from_parquet(str(source))
    else:
        data = load_from_disk(str(source)) if source.is_dir() else load_dataset(str(source), split=split)
    if isinstance(data, DatasetDict):
        if split not in data:
            raise ConfigError(
                "Which split?", got=split, expected=", ".join(data), advice="Name it with --split."
            )
        data = data[split]
    return data


def _sound(value: Any, name: str, options: Options) -> str | None:
    """Return the absolute path of a sound; one that lies inside the data set is unpacked first."""
    if isinstance(value, str):
        return str(Path(value).absolute())
    if value is None or (value.get("bytes") is None and not value.get("path")):
        return None
    if value.get("bytes") is None:
        return str(Path(value["path"]).absolute())
    assert options.out is not None
    folder = options.out.parent / f"{options.out.stem}_audio"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem(name)}{Path(value.get('path') or '.wav').suffix}"
    path.write_bytes(value["bytes"])
    return str(path.absolute())
