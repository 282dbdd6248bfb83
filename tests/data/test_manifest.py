"""Manifests: lazy, exact about where a bad row stands, tolerant of what editors do to text files."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.audio import write_audio
from aista.data.checks import check
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.errors import ManifestError

ASR = Utterance(id="a", audio="clips/a.wav", duration=1.5, text="Hello there.")
ST = Utterance(
    id="b",
    audio="clips/b.mp3",
    offset=0.25,
    duration=2.0,
    task="st",
    tgt_lang="zh",
    text="Hi.",
    translation="你好。",
)
MT = Utterance(
    id="c", task="mt", tgt_lang="ja", text="Hi.", translation="こんにちは。", speaker="s", corpus="x"
)

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_names = _texts.filter(bool)
utterances = st.builds(
    Utterance,
    id=_names,
    audio=_names,
    offset=st.floats(0, 1e6),
    duration=st.none() | st.floats(1e-3, 1e6),
    task=st.sampled_from(["asr", "aac", "st"]),
    tgt_lang=st.sampled_from(["zh", "ja", "de"]),
    text=st.none() | _texts,
    translation=st.none() | _texts,
    speaker=st.none() | _texts,
)


def test_lines_are_found_whatever_block_they_begin_in(tmp_path, monkeypatch):
    write_manifest(tmp_path / "m.jsonl", [ASR, ST, MT] * 5)
    monkeypatch.setattr("aista.data.manifest._CHUNK_BYTES", 64)  # a row has more
    assert list(Manifest(tmp_path / "m.jsonl")) == [ASR, ST, MT] * 5


def test_round_trip(tmp_path):
    path = tmp_path / "sub" / "m.jsonl"
    assert write_manifest(path, iter([ASR, ST, MT])) == 3
    manifest = Manifest(path)
    assert list(manifest) == [ASR, ST, MT] and manifest[-1] == MT and manifest[:2] == [ASR, ST]
    assert manifest.audio_path(ST) == path.parent / "clips" / "b.mp3"
    assert [u.target for u in manifest] == ["Hello there.", "你好。", "こんにちは。"]
    assert [u.answer_lang for u in manifest] == ["en", "zh", "ja"]
    assert "null" not in path.read_text(encoding="utf-8") and "你好" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["m.jsonl"]
    assert list(pickle.loads(pickle.dumps(manifest))) == [ASR, ST, MT]


@given(st.lists(utterances, max_size=5))
@settings(max_examples=40, deadline=None)
def test_any_utterance_survives(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    write_manifest(path, rows)
    assert list(Manifest(path)) == rows


def test_what_editors_do_to_text_files(tmp_path):
    line = json.dumps({"id": "a", "audio": "x.wav", "text": "hi"}).encode()
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n  \n" + line + b"\r\n" + line)
    manifest = Manifest(path)
    assert len(manifest) == 3 and {u.id for u in manifest} == {"a"}
    assert [manifest.where(i) for i in range(3)] == [f"{path}:1", f"{path}:4", f"{path}:5"]
    path.write_bytes(b"")
    assert len(Manifest(path)) == 0


BAD_ROWS = {
    "not json": "JSON",
    "[1, 2]": "object",
    '{"id": "a", "audio": "x.wav", "lang": "en"}': "lang: Extra inputs",
    '{"id": "", "audio": "x.wav"}': "id: ",
    '{"id": "a"}': "needs audio",
    '{"id": "a", "audio": "x.wav", "duration": 0}': "duration: Input should be greater than 0",
    '{"id": "a", "audio": "x.wav", "duration": NaN}': "duration",
    '{"id": "a", "audio": "x.wav", "offset": -1}': "offset",
    '{"id": "a", "audio": "x.wav", "task": "tts"}': "task",
    '{"id": "a", "audio": "x.wav", "task": "st"}': "needs tgt_lang",
    '{"id": "a", "audio": "x.wav", "task": "st", "tgt_lang": "zh-CN"}': "tgt_lang",
    '{"id": "a", "audio": "x.wav", "task": "mt", "tgt_lang": "zh", "text": "x"}': "no audio",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row):
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "ok", "audio": "x.wav"}\n' + row + "\n", encoding="utf-8")
    manifest = Manifest(path)
    assert manifest[0].id == "ok"
    with pytest.raises(ManifestError) as caught:
        manifest[1]
    assert f"{path}:2" in str(caught.value) and BAD_ROWS[row] in str(caught.value)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_utterances_or_manifest_errors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(data)
    manifest = Manifest(path)
    for index in range(len(manifest)):
        with pytest.raises(ManifestError):
            manifest[index]


def test_missing_and_missing_parts(tmp_path):
    with pytest.raises(ManifestError, match="no such manifest"):
        Manifest(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match="cannot be read"):
        Manifest(tmp_path)
    with pytest.raises(ManifestError, match="has no translation"):
        _ = ST.model_copy(update={"translation": None}).target
    write_manifest(tmp_path / "m.jsonl", [MT])
    with pytest.raises(ManifestError, match="has no audio"):
        Manifest(tmp_path / "m.jsonl").audio_path(MT)


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.jsonl"
    write_manifest(path, [ASR])

    def failing():
        yield ST
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(path, failing())
    assert list(Manifest(path)) == [ASR] and len(list(tmp_path.iterdir())) == 1


def test_many_rows_open_without_a_look_into_them(tmp_path, monkeypatch):
    path = tmp_path / "big.jsonl"
    line = json.dumps({"id": "x", "audio": "clips/common_voice_en_1234567.mp3", "text": "word " * 12}) + "\n"
    path.write_text(line * 100_000)
    parsed, parse = [], Utterance.model_validate_json
    monkeypatch.setattr(Utterance, "model_validate_json", lambda raw: parsed.append(raw) or parse(raw))
    manifest = Manifest(path)
    assert len(manifest) == 100_000 and not parsed
    assert manifest[99_999].text == "word " * 12 and len(parsed) == 1


def test_paths_start_in_the_real_folder_whoever_reads_them(tmp_path, monkeypatch):
    """proj/data is a link to big/data: ``..`` leads to big, for the check as for the training."""
    write_audio(tmp_path / "big" / "audio" / "a.wav", 0.1 * np.sin(np.arange(8_000) / 7))
    write_manifest(
        tmp_path / "big" / "data" / "m.jsonl", [Utterance(id="a", audio="../audio/a.wav", text="x")]
    )
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "data").symlink_to(tmp_path / "big" / "data")
    monkeypatch.chdir(tmp_path / "proj")
    linked, real = Manifest("data/m.jsonl"), Manifest(tmp_path / "big" / "data" / "m.jsonl")
    assert linked.audio_path(linked[0]) == tmp_path / "big" / "audio" / "a.wav"
    dataset, other = SpeechDataset(linked), SpeechDataset(real)
    assert dataset.utterance(0) == other.utterance(0)  # the same row, so the same features and sounds
    assert dataset.feature_key(dataset.utterance(0)) == other.feature_key(other.utterance(0))
    assert len(dataset[0][1]) == 8_000 and "unreadable audio" not in check(linked).problems
