"""Tar shards for clusters: sounds cut out as FLAC at 16 kHz, a thousand to a file, each with its row as JSON.

Small files are what shared file systems are worst at. Beside the shards lies a manifest whose paths lead into
them (``st-000003.tar/000017.flac``): training, checks and evaluation take it as any other. Where only reading
from start to end is fast (object stores), :class:`aista.data.streaming.ShardStream` reads the same shards
with ``webdataset``.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from aista.audio.files import load_audio
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.data.manifest import Manifest, Utterance, to_line, write_manifest
from aista.errors import ManifestError
from aista.files import write_whole

INDEX = "shards.json"


@dataclass(frozen=True)
class Shard:
    """What a shard holds.

    Attributes:
        path: The tar.
        seconds: Length of every row, in the order in which they lie. float64 (rows,)
    """

    path: Path
    seconds: np.ndarray


def write_shards(
    manifest: Manifest, out: str | os.PathLike, *, rows_per_shard: int = 1000, seed: int | None = 0
) -> list[Path]:
    """Write the rows of a manifest into shards, and beside them a manifest of the same name.

    Args:
        out: Folder of the shards; ``shards.json`` (what they hold) is written last.
        rows_per_shard: About 100 MB at 1,000 rows of six seconds.
        seed: Shuffles the rows first, as a stream can only be shuffled nearby; ``None`` keeps their order.

    Returns:
        The shards.

    Raises:
        AudioError: A clip cannot be read: check the manifest first.
        ManifestError: A row has no audio.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rows = range(len(manifest))
    order = list(rows) if seed is None else np.random.default_rng(seed).permutation(len(rows)).tolist()
    shards: list[dict[str, Any]] = []

    def utterances() -> Iterator[Utterance]:
        for start in range(0, len(order), rows_per_shard):
            name = f"{manifest.path.stem}-{len(shards):06d}.tar"
            held = _write_shard(folder / name, manifest, order[start : start + rows_per_shard])
            shards.append({"name": name, "rows": len(held), "seconds": [row.duration for row in held]})
            yield from (row.model_copy(update={"audio": f"{name}/{row.audio}"}) for row in held)

    write_manifest(folder / manifest.path.name, utterances())
    write_whole(folder / INDEX, json.dumps({"format": 2, "shards": shards}))
    return [folder / shard["name"] for shard in shards]


def _write_shard(path: Path, manifest: Manifest, order: list[int]) -> list[Utterance]:
    """Write one shard, whole or not at all; return its rows, their audio named as inside it."""
    draft = path.with_suffix(".part")
    held = []
    with tarfile.open(draft, "w") as tar:
        for number, index in enumerate(order):
            held.append(_add(tar, f"{number:06d}", manifest, manifest[index]))
    draft.replace(path)
    return held


def _add(tar: tarfile.TarFile, key: str, manifest: Manifest, row: Utterance) -> Utterance:
    samples = load_audio(manifest.audio_path(row), offset_seconds=row.offset, duration_seconds=row.duration)
    sound = io.BytesIO()
    soundfile.write(sound, np.clip(samples, -1, 1), SAMPLE_RATE_HZ, format="FLAC")
    duration = round(len(samples) / SAMPLE_RATE_HZ, 6)
    held = row.model_copy(update={"audio": f"{key}.flac", "offset": 0.0, "duration": duration})
    for suffix, data in (("flac", sound.getvalue()), ("json", to_line(held).encode())):
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return held


def read_index(folder: str | os.PathLike) -> list[Shard]:
    """Return the shards of a folder.

    Raises:
        ManifestError: There are none, or they were not finished.
    """
    path = Path(folder) / INDEX
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
        return [Shard(path.parent / shard["name"], np.array(shard["seconds"], float)) for shard in shards]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{folder} holds no complete shards.", got=repr(error), advice="Write them: aista data shard."
        ) from None
