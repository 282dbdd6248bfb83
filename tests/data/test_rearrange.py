"""Splitting, cutting and mixing manifests: nothing lost, nothing shared, paths that still work."""

from __future__ import annotations

import os
import shutil
from collections import Counter

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from aista.cli.data import app
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.data.rearrange import cut, mix, split, subset, write_shards
from aista.data.recordings import same_recordings
from aista.data.too_long import Limits
from aista.errors import ConfigError, ManifestError


def manifest(path, count=200, speakers=20, prefix="u"):
    rows = [
        Utterance(
            id=f"{prefix}{i}", audio=f"clips/{i // 2}.wav", duration=2.0, text="x", speaker=f"s{i % speakers}"
        )
        for i in range(count)
    ]
    write_manifest(path, rows)
    return Manifest(path)


def test_a_split_of_two_manifests_of_one_name_tells_all_its_files(tmp_path):
    homes = [tmp_path / "a", tmp_path / "b"]
    for home in homes:
        home.mkdir()
    found = split([manifest(home / "x.jsonl", 20) for home in homes], {"train": 1, "dev": 1}, by="id")
    assert sorted(found.values()) == sorted(
        home / f"x.{part}.jsonl" for home in homes for part in ("train", "dev")
    )


@pytest.mark.parametrize("by", ["id", "audio", "speaker"])
def test_a_split_divides_all_rows_and_no_group(tmp_path, by):
    whole = manifest(tmp_path / "all.jsonl")
    paths = split(whole, {"train": 8, "dev": 1, "test": 1}, by=by, seed=1)
    parts = {name: list(Manifest(path)) for name, path in paths.items()}
    assert sorted(row.id for rows in parts.values() for row in rows) == sorted(row.id for row in whole)
    assert 150 <= len(parts["train"]) <= 170 and parts["dev"] and parts["test"]
    groups = [{getattr(row, by) for row in rows} for rows in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    again = split(whole, {"train": 8, "dev": 1, "test": 1}, tmp_path / "again", by=by, seed=1)
    assert [row.id for row in Manifest(again["dev"])] == [row.id for row in parts["dev"]]
    assert Manifest(again["dev"])[0].audio.startswith("../clips/")
    resolved = Manifest(again["dev"]).audio_path(Manifest(again["dev"])[0]).resolve()
    assert resolved.parent == (tmp_path / "clips").resolve()


def test_subsets_are_nested_and_as_large_as_asked(tmp_path):
    whole = manifest(tmp_path / "all.jsonl")
    assert subset(whole, tmp_path / "a.jsonl", count=50) == 50
    assert subset(whole, tmp_path / "b.jsonl", hours=60 / 3600) == 30
    assert subset(whole, tmp_path / "c.jsonl", count=10_000) == 200
    large, small = ({row.id for row in Manifest(tmp_path / n)} for n in ("a.jsonl", "b.jsonl"))
    assert small < large
    subset(whole, tmp_path / "d.jsonl", count=50, seed=1)
    assert {row.id for row in Manifest(tmp_path / "d.jsonl")} != large
    for wrong in ({}, {"count": 1, "hours": 1.0}):
        with pytest.raises(ConfigError):
            subset(whole, tmp_path / "e.jsonl", **wrong)


def test_a_mixture_has_its_shares(tmp_path):
    first = manifest(tmp_path / "a.jsonl", 60)
    second = manifest(tmp_path / "sub" / "b.jsonl", 20, prefix="v")
    assert mix([first, second], [1, 1], tmp_path / "out" / "m.jsonl") == 80
    rows = list(Manifest(tmp_path / "out" / "m.jsonl"))
    assert Counter(row.id[0] for row in rows) == {"u": 40, "v": 40}
    assert len({row.id for row in rows}) == 80 and sum(row.id.endswith("#2") for row in rows) == 20
    assert {row.audio.split("clips")[0] for row in rows} == {"../", "../sub/"}
    mix([first, second], [1, 1], tmp_path / "again.jsonl")
    assert [row.id for row in Manifest(tmp_path / "again.jsonl")] == [row.id for row in rows]
    with pytest.raises(ConfigError):
        mix([first, second], [1, 0], tmp_path / "wrong.jsonl")


def test_long_rows_are_cut_where_their_segments_say(tmp_path):
    segments = [{"offset": at, "duration": 8, "text": f"part {at}"} for at in (0, 10, 20, 30)]
    rows = [
        Utterance(id="talk", audio="talk.wav", duration=40, text="all of it", segments=segments),
        Utterance(id="plain", audio="talk.wav", duration=40, text="no times"),
        Utterance(id="short", audio="/elsewhere/x.wav", duration=4, text="x"),
        Utterance(id="mt", task="mt", tgt_lang="zh", text="x", translation="某"),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    command = ["cut", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "out" / "c.jsonl")]
    done = CliRunner().invoke(app, [*command, "--max-seconds", "20"])
    assert done.exit_code == 0
    assert "1 clips longer than 20 s are skipped" in done.stdout and "cut into 2" in done.stdout
    first, second, short, text = Manifest(tmp_path / "out" / "c.jsonl")
    assert (first.id, first.audio, first.duration, first.text) == (
        "talk/1",
        "../talk.wav",
        18,
        "part 0 part 10",
    )
    assert (second.offset, second.duration) == (20, 18) and (short.id, text.id) == ("short", "mt")


def test_command_line(tmp_path):
    manifest(tmp_path / "all.jsonl")
    runner = CliRunner()
    assert runner.invoke(app, ["split", str(tmp_path / "all.jsonl"), "train=0.9", "dev=0.1"]).exit_code == 0
    assert len(Manifest(tmp_path / "all.train.jsonl")) == 180
    out = ["--out", str(tmp_path / "m.jsonl")]
    parts = [f"{tmp_path}/all.train.jsonl=1", f"{tmp_path}/all.dev.jsonl=3"]
    assert runner.invoke(app, ["mix", *parts, *out, "--count", "40"]).exit_code == 0
    assert len(Manifest(tmp_path / "m.jsonl")) == 40
    assert runner.invoke(app, ["subset", str(tmp_path / "all.jsonl"), *out, "--count", "7"]).exit_code == 0
    assert len(Manifest(tmp_path / "m.jsonl")) == 7
    assert isinstance(
        runner.invoke(app, ["split", str(tmp_path / "all.jsonl"), "train"]).exception, ConfigError
    )


def test_nothing_takes_the_place_of_what_it_is_made_from(tmp_path, monkeypatch):
    """``split data/train.jsonl train=0.9 dev=0.1 --out data`` lost a tenth of the rows, each time again."""
    whole = manifest(tmp_path / "data" / "train.jsonl")
    before = whole.path.read_bytes()
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    for out in ("data", "link", tmp_path / "data"):
        with pytest.raises(ManifestError, match="would overwrite"):
            split(Manifest("data/train.jsonl"), {"dev": 1, "train": 9}, out)
    verbs = (
        lambda out: subset(whole, out, count=5),
        lambda out: mix([manifest(tmp_path / "other.jsonl"), whole], [1, 1], out),
        lambda out: cut(whole, out, max_seconds=1),
    )
    for verb in verbs:
        for out in ("data/train.jsonl", "link/train.jsonl"):
            with pytest.raises(ManifestError, match="would overwrite"):
                verb(out)
    assert whole.path.read_bytes() == before


def test_two_parts_are_not_written_to_one_file(tmp_path):
    """Part b.c of the manifest a, and part c of a.b, are both called a.b.c.jsonl."""
    both = [manifest(tmp_path / "a.jsonl"), manifest(tmp_path / "a.b.jsonl", prefix="v")]
    with pytest.raises(ConfigError, match="one file"):
        split(both, {"b.c": 1, "c": 1})
    with pytest.raises(ConfigError, match="one file"):
        split([both[0], manifest(tmp_path / "sub" / "a.jsonl")], {"x": 1, "y": 1}, tmp_path / "out")


@pytest.mark.parametrize(
    "verb",
    [
        lambda whole, out: subset(whole, out, count=-1),
        lambda whole, out: subset(whole, out, hours=float("nan")),
        lambda whole, out: subset(whole, out, hours=-1.0),
        lambda whole, out: mix([whole], [float("nan")], out),
        lambda whole, out: mix([whole], [1.0], out, count=-3),
        lambda whole, out: cut(whole, out, max_seconds=float("nan")),
        lambda whole, out: Limits(crop_seconds=0.0),
        lambda whole, out: Limits(max_seconds=float("inf")),
    ],
)
def test_a_number_out_of_range_is_refused(tmp_path, verb):
    with pytest.raises(ConfigError, match=r"out of range|positive"):
        verb(manifest(tmp_path / "all.jsonl"), tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize("verb", ["split", "mix"])
def test_a_name_with_two_numbers_is_refused(tmp_path, verb):
    path = str(manifest(tmp_path / "a.jsonl").path)
    words = [path, "train=0.9", "train=0.1"] if verb == "split" else [f"{path}=1", f"{path}=2"]
    done = CliRunner().invoke(app, [verb, *words, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, ConfigError) and "two numbers" in str(done.exception)


# ---- a recording is what its file is


def spelled(folder, number):
    """Ways to name recording ``number``: the file, and what leads to it or is equal to it."""
    name = f"{number}.wav"
    real = folder / "rec" / name
    (folder / "rec").mkdir(exist_ok=True)
    soundfile.write(real, np.tile([1.0, -1.0], 400) * 0.001 * (number + 1), 16_000)
    for place in ("linked", "hard", "copied", "deep/er"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / "linked" / name).symlink_to(real)
    os.link(real, folder / "hard" / name)
    shutil.copy(real, folder / "copied" / f"take{number}.WAV")
    if not (folder / "way").exists():
        (folder / "way").symlink_to(folder / "rec")
    return [
        f"rec/{name}", f"./rec/../rec/{name}", str(real), f"linked/{name}", f"hard/{name}",
        f"copied/take{number}.WAV", f"way/{name}", f"deep/er/../../rec//{name}",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_one_recording_under_many_names_is_in_one_part(tmp_path, seed):
    names = [spelled(tmp_path, number) for number in range(12)]
    rows = [
        Utterance(id=f"{number}/{way}", audio=ways[way], text="x")
        for way in range(8)
        for number, ways in enumerate(names)
    ]
    write_manifest(tmp_path / "all.jsonl", rows)
    paths = split(Manifest(tmp_path / "all.jsonl"), {"train": 6, "dev": 2, "test": 2}, seed=seed)
    parts = [{row.id.split("/")[0] for row in Manifest(path)} for path in paths.values()]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == 12
    assert sum(len(Manifest(path)) for path in paths.values()) == 96


def test_files_of_equal_size_are_not_one_recording(tmp_path):
    rng = np.random.default_rng(0)
    start = rng.normal(0, 0.1, 40_000)  # more than is looked at first
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", np.append(start, rng.normal(0, 0.1, 100)), 16_000)
    paths = [str(tmp_path / f"{number}.wav") for number in range(6)]
    assert same_recordings(paths) == {path: path for path in paths}
    shutil.copy(paths[3], tmp_path / "x.wav")
    assert same_recordings([*paths, str(tmp_path / "x.wav")])[str(tmp_path / "x.wav")] == paths[3]


def test_members_of_shards_are_recordings(tmp_path):
    ways = [spelled(tmp_path, number)[0] for number in range(4)]
    write_manifest(tmp_path / "all.jsonl", [Utterance(id=w, audio=w, text="x") for w in [*ways, ways[0]]])
    write_shards(Manifest(tmp_path / "all.jsonl"), tmp_path / "s", rows_per_shard=2, seed=None)
    (tmp_path / "t").symlink_to(tmp_path / "s")
    held = [str(tmp_path / "s" / str(row.audio)) for row in Manifest(tmp_path / "s" / "all.jsonl")]
    linked = [path.replace("/s/", "/t/") for path in held]
    found = same_recordings([*held, *linked])
    assert [found[path] for path in held] == [*held[:4], held[0]]  # the fifth is the first once more
    assert [found[path] for path in linked] == [found[path] for path in held]


@pytest.mark.slow
@given(
    translated=st.sets(st.integers(0, 39), min_size=8),
    seed=st.integers(0, 99),
    shares=st.lists(st.floats(0.1, 10), min_size=2, max_size=4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_manifests_split_together_share_no_recording_across_parts(tmp_path, translated, seed, shares):
    """To transcribe: 40 recordings; to translate: some of them, twice, in a folder of its own."""
    asr = [Utterance(id=f"a{i}", audio=f"rec/{i}.wav", text="x") for i in range(40)]
    st_rows = [
        Utterance(id=f"t{i}{n}", audio=f"../rec/{i}.wav", task="st", tgt_lang="zh", translation="x")
        for i in sorted(translated)
        for n in "ab"
    ]
    write_manifest(tmp_path / "asr.jsonl", asr)
    write_manifest(tmp_path / "sub" / "st.jsonl", st_rows)
    parts = {f"p{number}": share for number, share in enumerate(shares)}
    both = [Manifest(tmp_path / "asr.jsonl"), Manifest(tmp_path / "sub" / "st.jsonl")]
    written = split(both, parts, seed=seed)
    assert len(written) == 2 * len(shares)
    held = {
        name: {os.path.basename(str(row.audio)) for row in Manifest(path)} for name, path in written.items()
    }
    for one in parts:
        for other in parts:
            if one != other:
                assert not (held[f"asr.{one}"] | held[f"st.{one}"]) & (
                    held[f"asr.{other}"] | held[f"st.{other}"]
                )
    assert set.union(*(held[f"asr.{name}"] for name in parts)) == {f"{i}.wav" for i in range(40)}


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_part_gets_a_speaker_or_there_is_an_error(tmp_path, sizes, shares, seed):
    rows = [
        Utterance(id=f"{s}/{n}", audio=f"{s}-{n}.wav", text="x", speaker=f"s{s}")
        for s, size in enumerate(sizes)
        for n in range(size)
    ]
    write_manifest(tmp_path / "all.jsonl", rows)
    parts = {f"p{number}": share for number, share in enumerate(shares)}
    if len(sizes) < len(shares):
        with pytest.raises(ConfigError, match="fewer groups than parts"):
            split(Manifest(tmp_path / "all.jsonl"), parts, by="speaker", seed=seed)
        return
    written = split(Manifest(tmp_path / "all.jsonl"), parts, by="speaker", seed=seed)
    speakers = [{row.speaker for row in Manifest(path)} for path in written.values()]
    assert all(speakers) and sum(map(len, speakers)) == len(sizes)


def test_the_command_says_what_came_out(tmp_path):
    manifest(tmp_path / "asr.jsonl", 40)
    manifest(tmp_path / "st.jsonl", 20)
    command = ["split", str(tmp_path / "asr.jsonl"), str(tmp_path / "st.jsonl"), "train=0.8", "test=0.2"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and done.stdout.count("%") == 4
    assert {path.name for path in tmp_path.glob("*.t*.jsonl")} == {
        "asr.train.jsonl", "asr.test.jsonl", "st.train.jsonl", "st.test.jsonl",
    }  # fmt: skip
    for wrong in (["train=0.8"], [str(tmp_path / "asr.jsonl")]):
        assert isinstance(CliRunner().invoke(app, ["split", *wrong]).exception, ConfigError)


def test_repeated_ids_get_the_next_free_number(tmp_path):
    rows = [Utterance(id=name, audio="a.wav", text="x") for name in ("a", "a#2", "a#3", "b")]
    write_manifest(tmp_path / "m.jsonl", rows)
    source = Manifest(tmp_path / "m.jsonl")
    assert mix([source, source], [1, 1], tmp_path / "x.jsonl", count=24) == 24
    ids = [row.id for row in Manifest(tmp_path / "x.jsonl")]
    assert len(set(ids)) == 24


def test_pieces_do_not_take_the_ids_of_other_rows(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(16_000 * 4, 0.1), 16_000)
    parts = [{"offset": at, "duration": 1.9, "text": "x"} for at in (0, 2)]
    rows = [
        Utterance(id="a/1", audio="a.wav", duration=1.0, text="x"),
        Utterance(id="a", audio="a.wav", duration=4.0, text="x x", segments=parts),
        Utterance(id="a/2", audio="a.wav", duration=1.0, text="x"),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    cut(Manifest(tmp_path / "m.jsonl"), tmp_path / "c.jsonl", max_seconds=2)
    assert [row.id for row in Manifest(tmp_path / "c.jsonl")] == ["a/1", "a/1#2", "a/2", "a/2#2"]
