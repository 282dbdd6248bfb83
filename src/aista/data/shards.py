"""Tar shards for clusters: written once, streamed by ``webdataset`` (``pip install webdataset``).

Small files and random access are what shared file systems are worst at. A shard is a tar of FLAC spans, each
with its row as JSON; every node and worker reads its own shards from start to end.
"""

from __future__ import annotations

import io
import json
import logging
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from torch.utils.data import IterableDataset

from aista.audio.files import load_audio
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.data.manifest import Manifest, Utterance, to_line
from aista.errors import AudioError, ConfigError, ManifestError, TrainingError

logger = logging.getLogger(__name__)

INDEX = "shards.json"


def write_shards(
    manifest: Manifest, out: str | os.PathLike, *, rows_per_shard: int = 1000, seed: int | None = 0
) -> list[Path]:
    """Write the rows of a manifest into shards: mono 16 kHz FLAC, spans cut out.

    Args:
        out: Folder of the shards; ``shards.json`` (what they hold) is written last.
        rows_per_shard: About 100 MB at 1,000 rows of six seconds.
        seed: Shuffles the rows first, as streaming can only shuffle nearby; ``None`` keeps their order.

    Returns:
        The shards.

    Raises:
        AudioError: A clip cannot be read: check the manifest first.
        ManifestError: A row has no audio.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    order = (
        np.arange(len(manifest)) if seed is None else np.random.default_rng(seed).permutation(len(manifest))
    )
    shards: list[dict[str, Any]] = []
    for start in range(0, len(order), rows_per_shard):
        path = folder / f"{manifest.path.stem}-{len(shards):06d}.tar"
        draft = path.with_suffix(".part")
        with tarfile.open(draft, "w") as tar:
            for number, index in enumerate(order[start : start + rows_per_shard]):
                _add(tar, f"{number:06d}", manifest, manifest[int(index)])
        draft.replace(path)
        shards.append({"name": path.name, "rows": min(rows_per_shard, len(order) - start)})
    (folder / INDEX).write_text(json.dumps({"shards": shards}, indent=1), encoding="utf-8")
    return [folder / shard["name"] for shard in shards]


def _add(tar: tarfile.TarFile, key: str, manifest: Manifest, row: Utterance) -> None:
    samples = load_audio(manifest.audio_path(row), offset_seconds=row.offset, duration_seconds=row.duration)
    sound = io.BytesIO()
    soundfile.write(sound, np.clip(samples, -1, 1), SAMPLE_RATE_HZ, format="FLAC")
    held = {"audio": f"{key}.flac", "offset": 0.0, "duration": len(samples) / SAMPLE_RATE_HZ}
    for suffix, data in (("flac", sound.getvalue()), ("json", to_line(row.model_copy(update=held)).encode())):
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


class ShardedSpeech(IterableDataset[tuple[Utterance, np.ndarray]]):
    """The utterances of shards with their samples, in an order that depends on (seed, epoch) alone.

    Args:
        folder: Where ``shards.json`` lies.
        seed: Seed of all orders.
        shuffle_buffer: How many utterances are shuffled among one another; 0 keeps the shards' order.
        max_corrupt_share: As for :class:`~aista.data.collate.SpeechDataset`, per worker; a corrupt clip
            is logged and left out.

    Raises:
        ConfigError: ``webdataset`` is not installed.
        ManifestError: There are no complete shards.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        seed: int = 0,
        shuffle_buffer: int = 1000,
        max_corrupt_share: float = 0.0,
    ) -> None:
        try:
            import webdataset  # noqa: F401
        except ModuleNotFoundError:
            raise ConfigError("Reading shards needs webdataset.", advice="pip install webdataset") from None
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ManifestError(
                f"{self.folder} holds no complete shards.", advice="Write them: aista data shard."
            ) from None
        self._names = [shard["name"] for shard in index["shards"]]
        self.num_rows = sum(shard["rows"] for shard in index["shards"])
        self.seed, self.shuffle_buffer, self.max_corrupt_share = seed, shuffle_buffer, max_corrupt_share
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Utterance, np.ndarray]]:
        import webdataset

        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self._names))
        paths = [str(self.folder / self._names[i]) for i in order]
        stream = webdataset.WebDataset(
            paths, shardshuffle=False, nodesplitter=webdataset.split_by_node, empty_check=False
        )
        if self.shuffle_buffer:
            rng = random.Random(f"{self.seed}-{self.epoch}")
            stream = stream.shuffle(self.shuffle_buffer, initial=self.shuffle_buffer, rng=rng)
        return self._decoded(iter(stream))

    def _decoded(self, samples: Iterator[dict[str, Any]]) -> Iterator[tuple[Utterance, np.ndarray]]:
        corrupt = 0
        for sample in samples:
            utterance = Utterance.model_validate_json(sample["json"])
            try:
                yield utterance, load_audio(sample["flac"])
            except AudioError as error:
                if not self.max_corrupt_share:
                    raise
                corrupt += 1
                logger.warning("Clip %s is left out (%d so far): %s", utterance.id, corrupt, error)
                if corrupt > self.max_corrupt_share * self.num_rows:
                    raise TrainingError("Too many clips are corrupt.", got=corrupt) from None
