"""Every corpus in miniature: prepared, checked, read back; what is missing is counted."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from aista.cli.data import app
from aista.data.checks import check
from aista.data.corpora import Expected, SplitReport, corpus, names, prepare
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest
from aista.data.text_files import array_items
from aista.data.too_long import Limits
from aista.errors import ConfigError, ManifestError
from tests.data import miniatures

OPTIONS = {"covost2": {"direction": "en-ja"}}


def test_every_corpus_has_a_miniature():
    assert set(names()) == set(miniatures.ALL)


@pytest.mark.parametrize("name", names())
def test_prepare_check_read(tmp_path, name):
    expected = miniatures.ALL[name](tmp_path / "source")
    reports = prepare(name, tmp_path / "source", tmp_path / "out", workers=2, **OPTIONS.get(name, {}))
    prepared = {report.split: report for report in reports if report.split in expected}
    assert set(prepared) == set(expected)
    for split, report in prepared.items():
        manifest = Manifest(report.manifest)
        assert [row.id for row in manifest] == expected[split] and report.rows == len(manifest)
        assert report.hours == pytest.approx(sum(row.duration for row in manifest) / 3600)
        assert report.note.startswith(corpus(name).NOTE)
        assert (report.missing > 0) == (report.expected.rows is not None)
        assert (report.missing_hours > 0) == (report.expected.hours is not None)
        checked = check(manifest, decode=True)
        # One segment alone of a long recording looks like a wrong duration.
        assert (
            checked.ok
            and set(checked.problems) <= {"duration mismatch"}
            and (split == "M" or not checked.problems)
        )
        dataset = SpeechDataset(manifest)
        for index, row in enumerate(manifest):
            _, samples = dataset[index]
            assert len(samples) / 16_000 == pytest.approx(row.duration, abs=0.06)
            assert row.target and row.corpus == name


def reasons(name, folder, split, **options):
    miniatures.ALL[name](folder / "source")
    report = prepare(name, folder / "source", folder / "out", splits=[split], **options)[0]
    return report.left_out


def test_what_is_left_out_is_counted(tmp_path):
    assert reasons("librispeech", tmp_path / "l", "dev-clean") == {"audio is missing": 1}
    assert reasons("gigaspeech", tmp_path / "g", "XL") == {
        "garbage utterance (silence, music, noise or other)": 1, "the segment ends after its recording": 1,
    }  # fmt: skip
    assert reasons("wavcaps", tmp_path / "w", "BBC_Sound_Effects") == {"longer than 180 s": 1}
    overlap = "also in a test set of captions (blacklist_exclude_test_ac.json)"
    assert reasons("wavcaps", tmp_path / "w2", "AudioSet_SL") == {"audio is missing": 1, overlap: 1}
    assert reasons("wavcaps", tmp_path / "w3", "FreeSound") == {overlap: 1}
    assert reasons("audiocaps", tmp_path / "a", "train") == {"audio is missing": 1}
    assert reasons("covost2", tmp_path / "c", "train", direction="en-ja") == {
        "empty sentence or translation": 1, "not in this Common Voice release": 1, "audio is missing": 1,
    }  # fmt: skip


def test_the_blacklist_of_wavcaps(tmp_path):
    miniatures.wavcaps(tmp_path / "source")

    def prepared(out, split="FreeSound", **options):
        return prepare("wavcaps", tmp_path / "source", tmp_path / out, splits=[split], **options)[0]

    assert prepared("shipped").rows == 1 and "was used" in prepared("shipped").note
    assert prepared("none", blacklist="none").rows == 2
    assert "would be tainted" in prepared("none", blacklist="none").note
    (tmp_path / "own.json").write_text(json.dumps({"AudioSet": [], "FreeSound": ["180913"]}))
    own = prepared("own", blacklist=str(tmp_path / "own.json"))
    assert own.left_out == {"also in a test set of captions (own.json)": 1}
    with pytest.raises(ConfigError, match="no blacklist"):
        prepared("x", blacklist="missing.json")
    for broken in ("[]", "{", '{"FreeSound": 3}'):
        (tmp_path / "own.json").write_text(broken)
        with pytest.raises(ManifestError, match="is no blacklist"):
            prepared("x", blacklist=str(tmp_path / "own.json"))
    # the other collections have no sounds that AudioCaps or Clotho took
    assert prepared("bbc", "BBC_Sound_Effects").rows == 2


def test_published_sizes_of_gigaspeech():
    published = {split: corpus("gigaspeech").expected(split) for split in corpus("gigaspeech").SPLITS}
    hours = {"XS": 10, "S": 250, "M": 1_000, "L": 2_500, "XL": 10_000, "DEV": 12, "TEST": 40}
    assert {split: size.hours for split, size in published.items()} == hours
    assert published["XL"].rows == 8_282_988 and published["TEST"].rows == 19_930


def test_what_is_missing_in_hours():
    report = SplitReport("c", "s", "m.jsonl", {}, hours=90.0, expected=Expected(hours=100.0))
    assert report.missing_hours == pytest.approx(10.0) and report.missing == 0
    report.hours = 99.5  # published hours are rounded
    assert report.missing_hours == 0


@pytest.mark.parametrize("name", names())
def test_metadata_that_nobody_foresaw_is_no_traceback(tmp_path, name):
    """Every text file of a corpus, cut off and garbled: rows, or an error of ours."""
    miniatures.ALL[name](tmp_path / "source")
    texts = [
        path
        for path in sorted((tmp_path / "source").rglob("*"))
        if path.suffix in (".json", ".tsv", ".csv", ".txt")
    ]
    for number, path in enumerate(texts):
        whole = path.read_bytes()
        rng = np.random.default_rng(number)
        for trial in range(8):
            garbled = bytearray(whole[: int(rng.integers(0, len(whole)))] if trial % 2 else whole)
            for place in rng.integers(0, max(1, len(garbled)), 5):
                garbled[place : place + 1] = rng.bytes(1)
            path.write_bytes(garbled)
            with contextlib.suppress(ManifestError):
                prepare(name, tmp_path / "source", tmp_path / f"{number}-{trial}", **OPTIONS.get(name, {}))
        path.write_bytes(whole)


def test_rows_of_another_shape_are_named(tmp_path):
    miniatures.wavcaps(tmp_path / "source")
    file = tmp_path / "source" / "json_files" / "BBC_Sound_Effects" / "bbc_final.json"
    file.write_text(json.dumps({"data": [{"id": "a", "caption": "Rain."}, ["no object"]]}))
    with pytest.raises(ManifestError, match="broken at the row after a"):
        prepare("wavcaps", tmp_path / "source", tmp_path / "out", splits=["BBC_Sound_Effects"])


def test_transcripts_are_normalised(tmp_path):
    for name in ("librispeech", "gigaspeech"):
        miniatures.ALL[name](tmp_path / name)
        prepare(name, tmp_path / name, tmp_path / f"{name}-out")
    assert (
        Manifest(tmp_path / "librispeech-out" / "dev-clean.jsonl")[0].text == "Chapter one missus I'm lynde"
    )
    rows = list(Manifest(tmp_path / "gigaspeech-out" / "XL.jsonl"))
    assert [row.text for row in rows] == ["As they're leaving, can I go?", "Douglas mcgray is your guide."]
    assert [(row.offset, row.duration) for row in rows] == [(0.0, 2.0), (3.5, 2.0)]


def test_covost_quirks_and_directions(tmp_path):
    miniatures.covost2(tmp_path / "source", "en-zh")
    reports = prepare("covost2", tmp_path / "source", tmp_path / "out", direction="en-zh")
    first, second = Manifest(reports[0].manifest)
    assert first.text == '"Oh," she said, ""no"".' and second.text == "A back\\slash."
    assert (first.src_lang, first.tgt_lang, first.task) == ("en", "zh", "st") and first.speaker == "ab" * 8
    assert reports[0].expected.rows == 289_430 and reports[0].expected.hours == 364.0
    assert [corpus("covost2").expected(s, "en-ja").rows for s in ("dev", "test")] == [15_531, 15_531]
    for wrong in ("ja", "fr-de", "en-en", "en-zh-CN"):
        with pytest.raises(ConfigError):
            prepare("covost2", tmp_path / "source", tmp_path / "x", direction=wrong)


def test_the_splits_made_by_covosts_own_script_are_read_too(tmp_path):
    miniatures.covost2(tmp_path)
    (tmp_path / "covost_v2.en_ja.tsv").unlink()
    home = tmp_path / "cv-corpus-4-2019-12-10" / "en"
    lines = "path\tsentence\ttranslation\tclient_id\ncommon_voice_en_7.mp3\tFor the test.\t試験。\tab\n"
    (home / "covost_v2.en_ja.test.tsv").write_text(lines, encoding="utf-8")
    (home / "validated.tsv").unlink()
    report = prepare("covost2", home, tmp_path / "out", direction="en-ja")[0]
    assert report.split == "test" and [r.id for r in Manifest(report.manifest)] == ["common_voice_en_7.en-ja"]


def test_crop_and_longest(tmp_path):
    miniatures.librispeech(tmp_path / "source")
    cropped = prepare(
        "librispeech",
        tmp_path / "source",
        tmp_path / "a",
        splits=["dev-clean"],
        limits=Limits(crop_seconds=0.5),
    )
    assert {row.duration for row in Manifest(cropped[0].manifest)} == {0.5}
    assert cropped[0].cropped == 3
    with pytest.raises(ManifestError, match="longer than 1 s"):
        prepare("librispeech", tmp_path / "source", tmp_path / "b", splits=["dev-clean"], limits=Limits(1.0))


def test_long_clips_are_an_error_or_used_as_far_as_is_honest(tmp_path):
    miniatures.librispeech(tmp_path / "speech")
    miniatures.audiocaps(tmp_path / "sounds")

    def prepared(name, out, **how):
        return prepare(name, tmp_path / out.split("-")[0], tmp_path / out, limits=Limits(0.5, **how))[0]

    captions = prepared("audiocaps", "sounds-a", too_long="segment")
    assert captions.cropped == captions.rows == 1 and "longer than 0.5 s" not in captions.left_out
    assert Manifest(captions.manifest)[0].duration == 0.5
    shorter = prepared("audiocaps", "sounds-c", too_long="segment", crop_seconds=0.3)
    assert shorter.cropped == 1 and Manifest(shorter.manifest)[0].duration == 0.3
    with pytest.raises(ManifestError, match="nothing says where its words are"):
        prepared("librispeech", "speech-a", too_long="segment")
    with pytest.raises(ManifestError, match="are too long"):
        prepared("audiocaps", "sounds-b", too_long="error")
    with pytest.raises(ConfigError, match="Too long for what"):
        prepare("audiocaps", tmp_path / "sounds", tmp_path / "c", limits=Limits(too_long="segment"))


def test_interrupted_goes_on_and_finished_is_kept(tmp_path, monkeypatch):
    miniatures.librispeech(tmp_path / "source")
    arguments = {"splits": ["dev-clean"], "workers": 1}
    monkeypatch.setattr("aista.data.corpora._ROWS_AT_ONCE", 2)

    def stop(split, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("librispeech", tmp_path / "source", tmp_path / "out", progress=stop, **arguments)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".dev-clean.durations.tsv"]
    import aista.data.corpora as module

    measured, probe = [], module.probe
    monkeypatch.setattr(module, "probe", lambda path: measured.append(path) or probe(path))
    first = prepare("librispeech", tmp_path / "source", tmp_path / "out", **arguments)[0]
    assert len(measured) == 2 and first.rows == 3  # two of four files were measured before
    again = prepare("librispeech", tmp_path / "source", tmp_path / "out", **arguments)[0]
    assert again == first and len(measured) == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "dev-clean.jsonl",
        "dev-clean.report.json",
    ]
    (tmp_path / "out" / "dev-clean.jsonl").unlink()  # its report alone is nothing finished
    assert prepare("librispeech", tmp_path / "source", tmp_path / "out", **arguments)[0] == first
    assert len(Manifest(first.manifest)) == 3
    with pytest.raises(ConfigError, match="prepared otherwise"):
        prepare(
            "librispeech", tmp_path / "source", tmp_path / "out", limits=Limits(crop_seconds=3.0), **arguments
        )


def test_wrong_requests_are_refused(tmp_path):
    for arguments in (
        {"name": "mustc"}, {"name": "librispeech", "splits": ["train"]},
        {"name": "librispeech", "direction": "en-ja"}, {"name": "covost2"},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            prepare(source=tmp_path, out=tmp_path / "out", **arguments)
    for name in names():
        with pytest.raises(ManifestError):
            prepare(name, tmp_path, tmp_path / "out", **OPTIONS.get(name, {}))


def test_a_third_party_corpus_is_a_dotted_name(tmp_path, monkeypatch):
    code = "from aista.data.corpora.speech import LIBRISPEECH as it\n" + (
        "NOTE, SPLITS, expected, rows = it.NOTE, it.SPLITS, it.expected, it.rows\n"
    )
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "__init__.py").touch()
    (tmp_path / "house" / "talks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    miniatures.librispeech(tmp_path / "source")
    assert len(prepare("house.talks", tmp_path / "source", tmp_path / "out")) == 2


@pytest.mark.parametrize("chunk", [7, 64, 1 << 20])
def test_big_json_is_read_in_pieces(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("aista.data.text_files._CHUNK_CHARACTERS", chunk)
    items = [{"id": i, "text": 'a ] tricky [ " { text ' * i, "more": [1, {"x": None}]} for i in range(20)]
    path = tmp_path / "big.json"
    for indent in (None, 2):
        path.write_text(json.dumps({"about": "[", "data": items, "end": 1}, indent=indent))
        assert list(array_items(path, "data")) == items
    path.write_text(json.dumps(items))
    assert list(array_items(path, "data")) == items
    path.write_text(json.dumps({"data": items})[:-20])
    with pytest.raises(ManifestError, match="broken JSON"):
        list(array_items(path, "data"))
    with pytest.raises(ManifestError, match="has no array"):
        list(array_items(path, "rows"))


def test_command_line(tmp_path):
    miniatures.covost2(tmp_path / "source")
    arguments = ["prepare", "covost2", "--source", str(tmp_path / "source"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--direction", "en-ja"])
    assert result.exit_code == 0 and "289,428 rows and 364.0 h are missing" in " ".join(result.stdout.split())
    assert "Common Voice 4" in result.stdout
    told = CliRunner().invoke(app, [*arguments, "--direction", "en-ja", "--json"])
    assert [report["split"] for report in json.loads(told.stdout)] == ["train", "dev", "test"]


def test_hidden_companions_in_librispeech_are_passed_over(tmp_path):
    wanted = miniatures.librispeech(tmp_path)["dev-clean"]
    chapter = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "1240"
    (chapter / "._84-1240.trans.txt").write_bytes(b"\x00\x05\x16\x07\xff\xfe")
    (chapter.parent / "._1240").mkdir()
    (report,) = prepare("librispeech", tmp_path, tmp_path / "out", splits=["dev-clean"])
    assert [row.id for row in Manifest(report.manifest)] == wanted


def test_a_separator_of_unicode_in_a_transcript_or_a_path_ends_no_line(tmp_path):
    wanted = miniatures.librispeech(tmp_path / "a\u2028b")["dev-clean"]
    text = tmp_path / "a\u2028b" / "LibriSpeech/dev-clean/84/1240/84-1240.trans.txt"
    text.write_text(text.read_text().replace("CHAPTER ONE", "CHAPTER\u2028ONE"))
    (report,) = prepare("librispeech", tmp_path / "a\u2028b", tmp_path / "out", splits=["dev-clean"])
    assert [row.id for row in Manifest(report.manifest)] == wanted


def test_prepare_into_a_folder_that_is_a_link(tmp_path, monkeypatch):
    miniatures.librispeech(tmp_path / "proj" / "source")
    (tmp_path / "big" / "data").mkdir(parents=True)
    (tmp_path / "proj" / "data").symlink_to(tmp_path / "big" / "data")
    monkeypatch.chdir(tmp_path / "proj")
    prepare("librispeech", "source", "data", splits=["dev-clean"])
    manifest = Manifest("data/dev-clean.jsonl")
    assert manifest[0].audio.startswith("../../proj/source/LibriSpeech/")
    assert check(manifest, decode=True).ok and len(SpeechDataset(manifest)[0][1])
