"""Splitting, cutting and mixing manifests: nothing lost, nothing shared, paths that still work."""

from __future__ import annotations

from collections import Counter

import pytest
from typer.testing import CliRunner

from aista.cli.data import app
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.data.rearrange import mix, split, subset
from aista.errors import ConfigError


def manifest(path, count=200, speakers=20, prefix="u"):
    rows = [
        Utterance(
            id=f"{prefix}{i}", audio=f"clips/{i // 2}.wav", duration=2.0, text="x", speaker=f"s{i % speakers}"
        )
        for i in range(count)
    ]
    write_manifest(path, rows)
    return Manifest(path)


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
