"""Shards hold what the manifest holds, in an order that is the same in every run."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from aista.audio import write_audio
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.data.shards import ShardedSpeech, write_shards
from aista.errors import ManifestError


@pytest.fixture
def shards(tmp_path):
    rows = []
    for i in range(10):
        write_audio(tmp_path / f"{i}.wav", np.full(16_000, i / 100))
        rows.append(Utterance(id=f"u{i}", audio=f"{i}.wav", offset=0.25, duration=0.5, text=f"{i}"))
    write_manifest(tmp_path / "m.jsonl", rows)
    paths = write_shards(Manifest(tmp_path / "m.jsonl"), tmp_path / "shards", rows_per_shard=3)
    assert len(paths) == 4 and all(path.is_file() for path in paths)
    return tmp_path / "shards"


def test_every_row_once_with_its_sound(shards):
    pytest.importorskip("webdataset")
    items = list(ShardedSpeech(shards))
    assert sorted(row.text for row, _ in items) == [str(i) for i in range(10)]
    for row, samples in items:
        assert len(samples) == 8_000 and np.allclose(samples, int(row.text) / 100, atol=1e-4)


def test_order_depends_on_seed_and_epoch_alone(shards):
    pytest.importorskip("webdataset")

    def order(seed, epoch):
        dataset = ShardedSpeech(shards, seed=seed)
        dataset.set_epoch(epoch)
        return [row.id for row, _ in dataset]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_workers_share_the_shards(shards):
    pytest.importorskip("webdataset")
    loader = DataLoader(ShardedSpeech(shards), batch_size=None, num_workers=2)
    assert sorted(row.id for row, _ in loader) == [f"u{i}" for i in range(10)]


def test_unfinished_shards_are_refused(shards):
    pytest.importorskip("webdataset")
    (shards / "shards.json").unlink()
    with pytest.raises(ManifestError, match="no complete shards"):
        ShardedSpeech(shards)
