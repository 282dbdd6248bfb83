"""Shards hold what the manifest holds: read at random as a manifest, or streamed in a resumable order."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from aista.audio import load_audio, probe, write_audio
from aista.data.checks import check
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.data.sampling import LengthGroupedSampler, padding_waste
from aista.data.shards import read_index, write_shards
from aista.data.streaming import ShardStream
from aista.errors import AudioError, ManifestError, TrainingError

COUNT = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty spans of 0.1 to 0.5 s in seven shards."""
    place = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(COUNT):
        write_audio(place / f"{i}.wav", np.full(16_000, (i + 1) / 100))
        duration = round(float(rng.uniform(0.1, 0.5)), 3)
        rows.append(Utterance(id=f"u{i}", audio=f"{i}.wav", offset=0.25, duration=duration, text=f"{i}"))
    write_manifest(place / "m.jsonl", rows)
    paths = write_shards(Manifest(place / "m.jsonl"), place / "shards", rows_per_shard=9)
    assert [path.name for path in paths] == [f"m-{i:06d}.tar" for i in range(7)]
    return place


def ids(batches):
    return [[row.id for row, _ in batch] for batch in batches]


def told(batches):
    return sorted(name for batch in ids(batches) for name in batch)


# ---- as a manifest


def test_the_manifest_of_shards_is_one_like_any_other(folder):
    manifest = Manifest(folder / "shards" / "m.jsonl")
    report = check(manifest, decode=True)
    assert report.ok and not report.problems and report.rows == COUNT
    original = {row.id: row for row in Manifest(folder / "m.jsonl")}
    dataset = SpeechDataset(manifest)
    for index, row in enumerate(manifest):
        assert row.duration == pytest.approx(original[row.id].duration, abs=1e-3) and row.offset == 0
        _, samples = dataset[index]
        assert len(samples) == pytest.approx(row.duration * 16_000, abs=1)
        assert np.allclose(samples, (int(row.text) + 1) / 100, atol=1e-4)
    assert len(dataset.clips()) == COUNT and len(set(dataset.archives.tolist())) == 7


def test_the_order_stays_within_few_shards_and_is_whole(folder):
    dataset = SpeechDataset([Manifest(folder / "shards" / "m.jsonl"), Manifest(folder / "m.jsonl")])
    sampler = LengthGroupedSampler(dataset.lengths, 4, blocks=dataset.archives, pool_batches=3)
    orders = [sampler.order(epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(2 * COUNT)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    alone = LengthGroupedSampler(dataset.lengths[:COUNT], 4, blocks=dataset.archives[:COUNT], pool_batches=3)
    opened = [
        len(set(dataset.archives[alone._block_by_block(np.arange(COUNT), 0)][i : i + 12]))
        for i in range(0, COUNT, 12)
    ]
    assert max(opened) <= 3  # of 7: a pool of twelve rows touches at most three shards of nine


def test_paths_that_lead_nowhere(folder, tmp_path):
    shard = folder / "shards" / "m-000000.tar"
    assert probe(shard / "000000.flac").sample_rate_hz == 16_000
    (tmp_path / "garbage.tar").write_bytes(b"no archive " * 99)
    with tarfile.open(shard) as tar:
        last = [member for member in tar if member.name.endswith("flac")][3]
    (tmp_path / "torn.tar").write_bytes(shard.read_bytes()[: last.offset_data + 10])
    cases = {
        shard / "999999.flac": "no such file in the archive",
        tmp_path / "torn.tar" / last.name: "cut off|as an archive",
        tmp_path / "garbage.tar" / "000000.flac": "as an archive",
        tmp_path / "missing.tar" / "000000.flac": "no such file",
    }
    for path, message in cases.items():
        with pytest.raises(AudioError, match=message):
            load_audio(path)


# ---- as a stream


def stream(folder, **options):
    pytest.importorskip("webdataset")
    return ShardStream(folder / "shards", 4, **{"pool_batches": 3, **options})


def test_a_stream_gives_every_row_once_with_its_sound(folder):
    batches = list(stream(folder))
    assert len(batches) == len(stream(folder)) == 15 and told(batches) == sorted(
        f"u{i}" for i in range(COUNT)
    )
    for batch in batches:
        for row, samples in batch:
            assert len(samples) == round(row.duration * 16_000)
            assert np.allclose(samples, (int(row.text) + 1) / 100, atol=1e-4)


def test_batches_hold_clips_of_like_length(folder):
    streamed = stream(folder, pool_batches=5)
    lengths = np.array([row.duration for batch in streamed for row, _ in batch])
    order = np.arange(COUNT)
    waste = padding_waste(lengths, order, 4)
    random_waste = np.mean(
        [padding_waste(lengths, np.random.default_rng(i).permutation(COUNT), 4) for i in range(9)]
    )
    assert waste < 0.5 * random_waste


def test_order_depends_on_seed_and_epoch_alone(folder):
    def order(seed, epoch):
        streamed = stream(folder, seed=seed)
        streamed.set_epoch(epoch)
        return tuple(name for batch in ids(streamed) for name in batch)

    assert order(0, 0) == order(0, 0)
    assert len({order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("seen", [0, 1, 5, 6, 7, 14])
def test_a_resumed_stream_is_the_uninterrupted_one(folder, seen):
    whole = stream(folder, seed=3)
    whole.set_epoch(2)
    batches = ids(whole)
    state = whole.state_dict(batches_seen=seen)
    again = stream(folder, seed=3)
    again.load_state_dict(state)
    assert ids(again) == batches[seen:]
    assert ids(again) == batches  # only the first iteration after loading starts in the middle


def test_a_resumed_stream_opens_only_the_shards_it_still_needs(folder, monkeypatch):
    opened = []
    import webdataset

    make = webdataset.WebDataset
    monkeypatch.setattr(
        webdataset, "WebDataset", lambda paths, **k: opened.append(len(paths)) or make(paths, **k)
    )
    late = stream(folder)
    late.load_state_dict(late.state_dict(batches_seen=13))
    list(late)
    assert opened == [2]  # of seven; pool 5 starts at row 48 of 60


@pytest.mark.parametrize("seen", [0, 3, 4])
def test_workers_share_the_shards_and_resume(folder, seen):
    def loader(start):
        streamed = stream(folder, num_workers=2, seed=1)
        streamed.load_state_dict(streamed.state_dict(batches_seen=start))
        return streamed, [[row.id for row, _ in batch] for batch in streamed.loader(list)]

    streamed, batches = loader(0)
    names = [name for batch in batches for name in batch]
    assert len(batches) == len(streamed) == 12 and len(set(names)) == len(names) == 48
    assert loader(seen)[1] == batches[seen:]


def test_processes_share_the_shards(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    seen = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        seen.append(told(stream(folder)))
    assert {len(each) for each in seen} == {16} and len({name for each in seen for name in each}) == 48
    monkeypatch.setenv("WORLD_SIZE", "30")
    with pytest.raises(TrainingError, match="too few shards"):
        stream(folder)


def test_another_order_is_not_resumed(folder):
    state = stream(folder).state_dict(3)
    for other in ({"seed": 1}, {"pool_batches": 2}, {"num_workers": 2}):
        with pytest.raises(TrainingError, match="another data order"):
            stream(folder, **other).load_state_dict(state)


def test_corrupt_clips_in_a_stream(folder, tmp_path, caplog):
    (tmp_path / "shards").mkdir()
    for path in (folder / "shards").iterdir():
        data = path.read_bytes()
        if path.name == "m-000002.tar":
            place = data.index(b"fLaC")
            data = data[:place] + b"xxxx" + data[place + 4 :]
        (tmp_path / "shards" / path.name).write_bytes(data)
    with pytest.raises(AudioError):
        list(stream(tmp_path))
    batches = list(stream(tmp_path, max_corrupt_share=0.05))
    assert len(batches) == 15 and len(set(told(batches))) == COUNT - 1 and "(1 so far)" in caplog.text
    assert ids(stream(tmp_path, max_corrupt_share=0.05)) == ids(batches)
    with pytest.raises(TrainingError, match="Too many"):
        list(stream(tmp_path, max_corrupt_share=0.001))


def test_unfinished_shards_are_refused(folder, tmp_path):
    with pytest.raises(ManifestError, match="no complete shards"):
        read_index(tmp_path)
    (tmp_path / "shards.json").write_text('{"shards": [{"name": "m-000000.tar", "rows": 3}]}')
    with pytest.raises(ManifestError, match="no complete shards"):
        read_index(tmp_path)
