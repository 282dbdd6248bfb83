"""Rows as other tools write them: ids and languages in any form; one bad row or file loses no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.audio.files import write_audio
from aista.data.checks import check
from aista.data.importers import Options, import_manifest
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.errors import ConfigError, ManifestError
from aista.text.prompts import LANGUAGES, code_of
from tests.audio.sounds import contained, encoded, tone

SHAPES = (
    lambda code: code,
    lambda code: code.upper(),
    lambda code: f"{code}-CN" if code == "zh" else f"{code}-{code.upper()}",
    lambda code: f"{code}_Hans" if code == "zh" else f"{code}_Latn_US",
    lambda code: LANGUAGES[code].name,
    lambda code: f" {LANGUAGES[code].name.lower()} ",
    lambda code: {"en": "eng", "zh": "zho_Hans", "ja": "jpn", "de": "deu_Latn"}.get(code, code),
)
LANGUAGE = st.tuples(st.sampled_from(sorted(LANGUAGES)), st.sampled_from(SHAPES))
BROKEN = {
    "nemo": [
        {"audio_filepath": None},
        {"duration": -1},
        {"duration": "x"},
        {"text": ["x"]},
        {"id": {}},
        None,
    ],
    "slam": [{"source": None}, {"target": {}}, {"task": "QA"}, None],
    "qwen": [{"audio": 5}, {"gt": []}, None],
}


def row_of(name: str, code: str, spelt: str, identity: object) -> dict:
    if name == "nemo":
        return {"id": identity, "audio_filepath": "a.wav", "text": 7, "lang": spelt, "duration": 1.0}
    if name == "slam":
        return {"key": identity, "source": "a.wav", "target": "x", "prompt": "Say it.", "task": "ASR"}
    return {"audio": "a.wav", "gt": "x", "source": f"set_{code}"}


@pytest.mark.slow
@given(
    st.sampled_from(sorted(BROKEN)),
    st.lists(st.tuples(LANGUAGE, st.one_of(st.integers(0, 9), st.floats(0, 9), st.text("ab", min_size=1)))),
    st.lists(st.integers(0, 5), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_good_rows_stay_and_bad_ones_are_counted(tmp_path_factory, name, good, bad):
    folder = tmp_path_factory.mktemp(name)
    rows = [row_of(name, code, shape(code), identity) for (code, shape), identity in good]
    for number in bad:
        change = BROKEN[name][number % len(BROKEN[name])]
        rows.insert(number, {"x": 1} if change is None else row_of(name, "en", "en", "z") | change)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if bad and not good:
        broken = [
            row for row in rows if row.get("task") != "QA" and row.get("audio_filepath", "") is not None
        ]
        if broken:
            with pytest.raises(ManifestError):
                import_manifest(name, folder / "rows.jsonl", folder / "m.jsonl", Options())
        return
    found = import_manifest(name, folder / "rows.jsonl", folder / "m.jsonl", Options())
    assert found.rows == len(good) and sum(found.skipped.values()) == len(bad)
    read = list(Manifest(folder / "m.jsonl")) if found.rows else []
    assert len({row.id for row in read}) == len(read)
    if name == "nemo":
        assert [row.src_lang for row in read] == [code for (code, _), _ in good]
        assert all(row.text == "7" for row in read)
    if name == "slam":
        assert all(row.prompt == "Say it." and row.task == "asr" for row in read)


@given(LANGUAGE)
def test_a_language_has_one_code_however_it_is_written(language):
    code, shape = language
    assert code_of(shape(code)) == code


@pytest.mark.parametrize("form", ["zh-TW", "zh_Hant", "klingon", "", "e n"])
def test_other_languages_are_refused(form):
    with pytest.raises(ConfigError):
        code_of(form)


def test_translations_by_language_in_any_form(tmp_path):
    datasets = pytest.importorskip("datasets")
    write_audio(tmp_path / "a.wav", tone(1.0))
    texts = [{"en": "hi", "zh-CN": "你好"}, {"en": "hi", "zh-CN": None}]
    rows = [{"id": i, "audio": str(tmp_path / "a.wav"), "translation": t} for i, t in enumerate(texts)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "d.parquet")
    options = Options({"task": "st", "tgt_lang": "zh"})
    found = import_manifest("huggingface", tmp_path / "d.parquet", tmp_path / "m.jsonl", options)
    assert found.rows == 1 and list(found.skipped.values()) == [1]
    assert Manifest(tmp_path / "m.jsonl")[0].translation == "你好"


def test_rows_that_nothing_can_be_trained_on_are_noted(tmp_path):
    write_audio(tmp_path / "a.wav", tone(1.0))
    (tmp_path / "t.tsv").write_text("audio\ttext\na.wav\t\na.wav\thello\n")
    found = import_manifest("table", tmp_path / "t.tsv", tmp_path / "m.jsonl", Options())
    assert found.rows == 2 and list(found.notes.values()) == [1]


def good_pair(folder: Path, name: str) -> None:
    (folder / f"{name}.txt").write_text("good")


SOUNDS = {suffix: {"format": suffix.upper()} for suffix in ("wav", "flac", "mp3", "aiff", "caf", "w64", "au")}
SOUNDS |= {"opus": {"format": "OGG", "subtype": "OPUS"}, "sph": {"format": "NIST"}, "voc": {"format": "VOC"}}
CONTAINERS = {"m4a": ("ipod", "aac"), "webm": ("webm", "libopus"), "mkv": ("matroska", "flac")}
CONTAINERS |= {"f4v": ("mp4", "aac"), "qt": ("mov", "aac"), "3gpp": ("3gp", "aac")}


@pytest.mark.slow
@given(st.permutations(["text folder", "latin-1", "Mac companion", "no text", "unreadable subtitles"]))
@settings(max_examples=5, deadline=None)
def test_one_bad_file_never_loses_a_folder(tmp_path_factory, faults):
    folder = tmp_path_factory.mktemp("talks")
    kinds = dict(SOUNDS)
    try:
        import av  # noqa: F401

        for suffix, (container, codec) in CONTAINERS.items():
            (folder / f"{suffix}.{suffix}").write_bytes(contained(tone(0.5, 440, 48_000), container, codec))
            good_pair(folder, suffix)
    except ModuleNotFoundError:
        pass
    for suffix, kind in kinds.items():
        (folder / f"{suffix}.{suffix}").write_bytes(encoded(tone(0.5), **kind))
        good_pair(folder, suffix)
    good = len(list(folder.glob("*.txt")))
    for number, fault in enumerate(faults):
        name = folder / f"{number} {fault}"
        name.with_suffix(".wav").write_bytes(encoded(tone(0.5), format="WAV"))
        if fault == "text folder":
            name.with_suffix(".txt").mkdir()
        elif fault == "latin-1":
            name.with_suffix(".txt").write_bytes("café".encode("latin-1"))
        elif fault == "Mac companion":
            name.with_suffix(".wav").rename(folder / "._talk.wav")
            (folder / "._talk.txt").write_bytes(b"\0\5\x16\7\xff")
        elif fault == "unreadable subtitles":
            name.with_suffix(".srt").write_bytes(b"\xff\xfe\xff")
    found = import_manifest("folder", folder, folder / "m.jsonl", Options())
    assert found.rows == good and sum(found.skipped.values()) == len(faults) - 1
    assert all(row.duration == pytest.approx(0.5, abs=0.15) for row in Manifest(folder / "m.jsonl"))


@pytest.mark.parametrize("content", ["", "\n\n", "   \n"])
def test_nothing_is_not_fit(tmp_path, content):
    (tmp_path / "m.jsonl").write_text(content)
    assert not check(Manifest(tmp_path / "m.jsonl")).ok


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0.5, 6))
@settings(max_examples=15, deadline=None)
def test_a_translation_too_long_to_be_said_is_told(tmp_path_factory, text, translation, seconds):
    folder = tmp_path_factory.mktemp("rate")
    write_audio(folder / "a.wav", tone(seconds))
    row = {"id": "a", "audio": "a.wav", "task": "st", "tgt_lang": "de"}
    write_manifest(folder / "m.jsonl", [Utterance(**row, text="a" * text, translation="b" * translation)])
    told = "odd rate" in check(Manifest(folder / "m.jsonl")).problems
    assert told == (max(text, translation) > 40 * max(round(seconds * 16_000) / 16_000, 1))
