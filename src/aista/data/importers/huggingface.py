"""Hugging Face ``datasets``: parquet, saved to disk, or from the hub; sounds are taken as they are.

Needs ``pip install datasets``. Audio columns are read with ``decode=False``, so no further codec is needed
(nor is ``torchcodec``, which decoding them would take).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from aista.data.importers import Options, Row, Skipped, language_code
from aista.data.manifest import Utterance
from aista.errors import ConfigError, ManifestError

# What data sets call our fields, in order of preference.
_USUAL = {
    "id": ("id", "utterance_id", "key"),
    "audio": ("audio", "file", "path"),
    "text": ("text", "sentence", "transcription", "transcript", "caption"),
    "translation": ("translation", "target"),
    "speaker": ("speaker_id", "speaker", "client_id"),
    "channel": ("channel",),
}


def read(source: Path, options: Options) -> Iterator[tuple[str, Row | Skipped]]:
    """Read one split; sounds stored inside the data set are written to ``STEM_audio`` beside the manifest.

    Args:
        source: A parquet file, a folder of them, a folder that ``save_to_disk`` wrote, or a hub id
            (``ORG/NAME``, ``ORG/NAME:CONFIGURATION``).

    Raises:
        ConfigError: A column or the split has to be named.
        ManifestError: This is no data set that can be loaded.
    """
    data = _load(source, options.split)
    columns = _columns(data, options)
    if isinstance(data.features[columns["audio"]], Audio):
        data = data.cast_column(columns["audio"], Audio(decode=False))
    unpacked: set[Path] = set()
    for number, item in enumerate(data):
        row = {field: item[column] for field, column in columns.items() if field in Utterance.model_fields}
        row["id"] = str(row["id"]) if row.get("id") is not None else f"{data.split or 'row'}-{number}"
        row["audio"] = _sound(row["audio"], row["id"], options, unpacked)
        if row.get("speaker") is not None:
            row["speaker"] = str(row["speaker"])
        where = f"{source}: row {number}"
        if isinstance(row.get("translation"), dict):  # {"en": ..., "zh-CN": ...}
            target = options.defaults.get("tgt_lang")
            found = {language_code(key): text for key, text in row["translation"].items() if text}
            row["translation"] = found.get(language_code(target or ""))
            if target and row["translation"] is None:
                yield where, Skipped(f"no {target} among its translations ({', '.join(sorted(found))})")
                continue
        yield where, row if row["audio"] else Skipped("a row without sound")


def _columns(data: Dataset, options: Options) -> dict[str, str]:
    """Return field -> column: the usual names, and what the options say."""
    columns = {
        field: next(name for name in names if name in data.column_names)
        for field, names in _USUAL.items()
        if any(name in data.column_names for name in names)
    }
    if "channel" in columns and not str(getattr(data.features["channel"], "dtype", "")).startswith("int"):
        del columns["channel"]  # not the number of a channel, but e.g. the name of a broadcaster
    columns |= options.columns
    columns = {field: column for field, column in columns.items() if column}  # "channel=": no column
    if fields := sorted(set(options.columns) - set(Utterance.model_fields)):
        raise ConfigError(
            "A column cannot be mapped to this.",
            got=", ".join(fields),
            expected="FIELD=COLUMN, fields: " + ", ".join(Utterance.model_fields),
        )
    unknown = sorted(set(columns.values()) - set(data.column_names))
    if unknown or "audio" not in columns:
        raise ConfigError(
            "Cannot find these columns." if unknown else "There is no column for the audio.",
            got=", ".join(data.column_names),
            expected=", ".join(unknown) or "--column audio=NAME",
        )
    return columns


def _load(source: Path, split: str | None) -> Dataset:
    try:
        if source.suffix == ".parquet":
            data = Dataset.from_parquet(str(source))
        elif (source / "dataset_dict.json").exists() or (source / "state.json").exists():
            data = load_from_disk(str(source))
        else:
            name, _, configuration = str(source).partition(":")
            data = load_dataset(name, configuration or None, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        raise ManifestError(
            f"{source}: cannot be loaded as a data set.",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected="parquet, a folder that save_to_disk wrote, or a hub id",
            advice="Sound files with a metadata.csv: --format table --column audio=file_name.",
        ) from None
    if not isinstance(data, DatasetDict):
        if split is not None and split != str(data.split):
            raise ConfigError(
                f"{source} holds one split alone.",
                got=f"--split {split}",
                expected=str(data.split),
                advice="Leave --split out.",
            )
        return data
    if split not in data:
        raise ConfigError("Which split?", got=split, expected=", ".join(data), advice="Name it with --split.")
    return data[split]


def _sound(value: Any, name: str, options: Options, unpacked: set[Path]) -> str | None:
    """Return the path of a sound as the data set has it; one that lies inside is unpacked first."""
    if isinstance(value, str):
        return value
    if value is None or value.get("bytes") is None:
        return None if value is None else value.get("path")
    assert options.out is not None
    folder = options.out.parent.resolve() / f"{options.out.stem}_audio"
    folder.mkdir(parents=True, exist_ok=True)
    suffix = Path(value.get("path") or ".wav").suffix or ".wav"
    plain = re.sub(r"[^\w.-]+", "_", name)
    path, times = folder / f"{plain}{suffix}", 1
    while path in unpacked:
        times += 1
        path = folder / f"{plain}_{times}{suffix}"
    unpacked.add(path)
    path.write_bytes(value["bytes"])
    return str(path)
