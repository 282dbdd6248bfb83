"""Tar shards for clusters: sounds cut out as FLAC at 16 kHz, a thousand to a file, each with its row as JSON.

Small files are what shared file systems are worst at. Beside the shards lies a manifest whose paths lead into
them (``st-000003.tar/000017.flac``): training, checks and evaluation take it as any other, and read the clips
by random access. The manifest is the only index, and its paths are paths: nothing in them is a command or an
address (docs/decisions/shards.md).
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from aista.audio.files import load_audio
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.data.manifest import Manifest, Utterance, to_line, write_manifest
from aista.errors import ManifestError

logger = logging.getLogger(__name__)


def write_shards(
    manifest: Manifest, out: str | os.PathLike, *, rows_per_shard: int = 1000, seed: int | None = 0
) -> list[Path]:
    """Write the rows of a manifest into shards, and beside them, last, a manifest of the same name.

    Args:
        out: Folder of the shards.
        rows_per_shard: About 100 MB at 1,000 rows of six seconds.
        seed: Shuffles the rows first, so that neighbours in a shard are no neighbours in the corpus; ``None``
            keeps their order.

    Returns:
        The shards.

    Raises:
        AudioError: A clip cannot be read: check the manifest first.
        ManifestError: A row has no audio, or the manifest itself lies in this folder.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    name = manifest.path.name
    if (folder / name).exists() and (folder / name).samefile(manifest.path):
        raise ManifestError(
            f"{folder} holds the manifest itself.",
            got=str(manifest.path),
            expected="another folder",
            advice="The manifest of the shards has the same name and would take its place.",
        )
    rows = range(len(manifest))
    order = list(rows) if seed is None else np.random.default_rng(seed).permutation(len(rows)).tolist()
    shards: list[Path] = []

    def utterances() -> Iterator[Utterance]:
        for start in range(0, len(order), rows_per_shard):
            shard = folder / f"{manifest.path.stem}-{len(shards):06d}.tar"
            held = _write_shard(shard, manifest, order[start : start + rows_per_shard])
            shards.append(shard)
            yield from (row.model_copy(update={"audio": f"{shard.name}/{row.audio}"}) for row in held)

    write_manifest(folder / name, utterances())
    return shards


def _write_shard(path: Path, manifest: Manifest, order: list[int]) -> list[Utterance]:
    """Write one shard, whole or not at all; return its rows, their audio named as inside it."""
    draft = path.with_suffix(".part")
    held = []
    try:
        with tarfile.open(draft, "w") as tar:
            for number, index in enumerate(order):
                held.append(_add(tar, f"{number:06d}", manifest, manifest[index]))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return held


def _add(tar: tarfile.TarFile, key: str, manifest: Manifest, row: Utterance) -> Utterance:
    samples = load_audio(manifest.audio_path(row), **row.span)
    sound = io.BytesIO()
    soundfile.write(sound, _within_full_scale(samples, row), SAMPLE_RATE_HZ, format="FLAC")
    duration = round(len(samples) / SAMPLE_RATE_HZ, 6)
    held = row.model_copy(
        update={"audio": f"{key}.flac", "offset": 0.0, "duration": duration, "channel": None}
    )
    for suffix, data in (("flac", sound.getvalue()), ("json", to_line(held).encode())):
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return held


def _within_full_scale(samples: np.ndarray, row: Utterance) -> np.ndarray:
    """Return samples that FLAC can hold: a clip that is louder is made quieter as a whole, never clipped."""
    peak = float(np.abs(samples).max())
    if peak <= 1.0:
        return samples
    logger.warning("Clip %s goes beyond full scale: divided by its peak, %.3f.", row.id, peak)
    return samples / peak
