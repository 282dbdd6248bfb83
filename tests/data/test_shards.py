"""Shards hold what the manifest holds, are read at random as a manifest, and lead nowhere else."""

from __future__ import annotations

import os
import shutil
import tarfile

import numpy as np
import pytest
import soundfile

from aista.audio import load_audio, probe, write_audio
from aista.data.checks import check
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.data.rearrange import subset, write_shards
from aista.data.sampling import LengthGroupedSampler
from aista.errors import AudioError, ManifestError

COUNT = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty spans of 0.1 to 0.5 s in seven shards."""
    place = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(COUNT):
        write_audio(place / f"{i}.wav", np.tile([1.0, -1.0], 8_000) * (i + 1) / 100)
        duration = round(float(rng.uniform(0.1, 0.5)), 3)
        rows.append(Utterance(id=f"u{i}", audio=f"{i}.wav", offset=0.25, duration=duration, text=f"{i}"))
    write_manifest(place / "m.jsonl", rows)
    paths = write_shards(Manifest(place / "m.jsonl"), place / "shards", rows_per_shard=9)
    assert [path.name for path in paths] == [f"m-{i:06d}.tar" for i in range(7)]
    return place


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
        assert np.allclose(np.abs(samples), (int(row.text) + 1) / 100, atol=1e-4)
    assert len(dataset.clips()) == COUNT and len(set(dataset.archives.tolist())) == 7


def test_the_order_stays_within_few_shards_and_is_whole(folder):
    dataset = SpeechDataset([Manifest(folder / "shards" / "m.jsonl"), Manifest(folder / "m.jsonl")])
    sampler = LengthGroupedSampler(dataset.lengths, 4, blocks=dataset.archives, pool_batches=3)
    orders = [sampler.order(epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(2 * COUNT)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    alone = LengthGroupedSampler(dataset.lengths[:COUNT], 12, blocks=dataset.archives[:COUNT], pool_batches=1)
    order = alone.order(0)
    opened = [len(set(dataset.archives[order[i : i + 12]])) for i in range(0, COUNT, 12)]
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


# ---- what a shard or its manifest may not do


@pytest.mark.parametrize(
    "name",
    [
        "pipe:touch PWNED; cat m-000000.tar",
        "pipe:touch PWNED",
        "|touch PWNED",
        "http://127.0.0.1:9/m-000000.tar/000000.flac",
        "file:m-000000.tar/000000.flac",
        "m-000000.tar/../../secret.wav",
        "m-{000000..000006}.tar/000000.flac",
        "m-*.tar/000000.flac",
    ],
)
def test_a_path_in_a_manifest_of_shards_is_a_path_and_nothing_else(folder, tmp_path, monkeypatch, name):
    """Read in the shards' own folder, where a name could be taken for a command."""
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "m-000000.tar").write_bytes((folder / "shards" / "m-000000.tar").read_bytes())
    write_manifest(shards / "m.jsonl", [Utterance(id="u", audio=name, text="x")])
    monkeypatch.chdir(shards)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(AudioError):
        _ = SpeechDataset(Manifest("m.jsonl"))[0]
    assert not check(Manifest("m.jsonl"), decode=True).ok
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_member_that_leads_out_of_its_shard_is_not_followed(folder, tmp_path, kind, absolute):
    secret = folder / "0.wav"
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        member = tarfile.TarInfo("000000.flac")
        member.type = kind
        member.linkname = str(secret) if absolute else os.path.relpath(secret, tmp_path)
        tar.addfile(member)
    with pytest.raises(AudioError, match="no such file in the archive"):
        load_audio(tmp_path / "bad.tar" / "000000.flac")


def test_members_that_tar_names_from_the_folder_are_found(folder, tmp_path):
    """By ``tar cf x.tar .``: ``./0.wav``."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(folder / "0.wav", arcname="./0.wav")
        assert tar.getnames() == ["./0.wav"]
    assert np.array_equal(load_audio(tmp_path / "x.tar" / "0.wav"), load_audio(folder / "0.wav"))


def test_members_with_paths_stay_in_their_shard(folder, tmp_path):
    """Nothing is unpacked: a member called ../x is at most the member of that name."""
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        for name in ("../escaped.wav", str(tmp_path / "absolute.wav")):
            tar.add(folder / "0.wav", arcname=name)
    with pytest.raises(AudioError, match="no such file in the archive"):
        load_audio(tmp_path / "bad.tar" / "x.wav")
    assert np.allclose(np.abs(load_audio(tmp_path / "bad.tar" / ".." / "escaped.wav")), 0.01, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar"]


# ---- what writing keeps


def test_a_manifest_is_not_replaced_by_that_of_its_shards(folder):
    before = (folder / "m.jsonl").read_bytes()
    with pytest.raises(ManifestError, match="would overwrite"):
        write_shards(Manifest(folder / "m.jsonl"), folder)
    assert (folder / "m.jsonl").read_bytes() == before and not list(folder.glob("*.tar"))


def test_shards_are_not_replaced_while_they_are_read(folder, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(folder / "shards", shards)
    subset(Manifest(shards / "m.jsonl"), tmp_path / "m.jsonl", count=20)
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    with pytest.raises(ManifestError, match="would overwrite"):
        write_shards(Manifest(tmp_path / "m.jsonl"), shards)
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before


def test_rows_of_text_are_refused_before_the_first_shard(folder, tmp_path):
    rows = [Utterance(id=f"u{i}", audio=str(folder / f"{i}.wav"), text="x") for i in range(3)]
    text = Utterance(id="t", task="mt", tgt_lang="zh", text="x", translation="x")
    write_manifest(tmp_path / "m.jsonl", [*rows, text])
    with pytest.raises(ManifestError, match="'t' has no audio"):
        write_shards(Manifest(tmp_path / "m.jsonl"), tmp_path / "out", rows_per_shard=2, seed=None)
    assert not (tmp_path / "out").exists()


def test_nothing_half_written_stays(folder, tmp_path):
    rows = [Utterance(id=f"u{i}", audio=str(folder / f"{i}.wav"), text="x") for i in range(3)]
    write_manifest(tmp_path / "m.jsonl", [*rows, Utterance(id="gone", audio="gone.wav", text="x")])
    with pytest.raises(AudioError, match="no such file"):
        write_shards(Manifest(tmp_path / "m.jsonl"), tmp_path / "out", rows_per_shard=2, seed=None)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m-000000.tar"]


def test_sound_beyond_full_scale_is_made_quieter_not_clipped(tmp_path, caplog):
    samples = 2.5 * np.sin(np.arange(16_000) / 9).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", samples, 16_000, subtype="FLOAT")
    write_manifest(tmp_path / "m.jsonl", [Utterance(id="loud", audio="loud.wav", text="x")])
    write_shards(Manifest(tmp_path / "m.jsonl"), tmp_path / "out")
    _, held = SpeechDataset(Manifest(tmp_path / "out" / "m.jsonl"))[0]
    original = load_audio(tmp_path / "loud.wav")
    assert np.allclose(held, original / np.abs(original).max(), atol=1e-3)
    assert "loud goes beyond full scale" in caplog.text
