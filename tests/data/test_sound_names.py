"""Sounds are named by their content, and named again only when they changed."""

from __future__ import annotations

import pickle

import pytest

from aista.data.recordings import MEMO, SoundNames
from aista.errors import AudioError


@pytest.fixture
def files(tmp_path):
    for name, content in {"a": b"one", "b": b"one", "c": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_content_makes_the_name(files):
    names = SoundNames()
    assert names[files / "a"] == names[files / "b"] != names[files / "c"]
    (files / "c").write_bytes(b"one")
    assert names[files / "c"] == names[files / "a"]
    with pytest.raises(AudioError, match="missing"):
        names[files / "missing"]


def test_names_are_remembered_across_runs(files, monkeypatch):
    names = SoundNames(files / "memo")
    known = {name: names[files / name] for name in "abc"}
    names.save()
    names.save()
    assert len((files / "memo" / MEMO).read_text().splitlines()) == 3
    monkeypatch.setattr("hashlib.file_digest", None)  # nothing is read again
    for again in (SoundNames(files / "memo"), pickle.loads(pickle.dumps(names))):
        assert {name: again[files / name] for name in "abc"} == known


def test_a_damaged_memo_costs_time_not_truth(files):
    names = SoundNames(files)
    expected = names[files / "a"]
    names.save()
    memo = files / MEMO
    memo.write_bytes(b"x\ty\n\xff\xfe\t\n" + memo.read_bytes()[:-9] + b"\n3\t1\t")
    assert SoundNames(files)[files / "a"] == expected


def test_a_name_with_a_tab_is_not_written(files):
    odd = files / "tab\tor\nline"
    odd.write_bytes(b"one")
    names = SoundNames(files)
    assert names[odd] == names[files / "a"]
    names.save()
    assert len((files / MEMO).read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["\0a.wav", "half\ud800.wav"])
def test_a_name_no_file_can_have_is_an_error_of_ours(name):
    with pytest.raises(AudioError, match="no file can have this name"):
        SoundNames()[name]
