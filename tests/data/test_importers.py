"""Other tools' formats: what they hold survives a round trip, their quirks are read, bad rows are named."""

from __future__ import annotations

import gzip
import json
import os

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from aista.audio import load_audio, write_audio
from aista.cli.data import app
from aista.data.checks import check
from aista.data.dataset import SpeechDataset
from aista.data.importers import Options, export_manifest, import_manifest, importer, names
from aista.data.manifest import Manifest, TimedText, Utterance, write_manifest
from aista.data.rearrange import split as split_manifest
from aista.data.rearrange import write_shards
from aista.errors import ConfigError, ManifestError

ASR = Utterance(id="a", audio="clips/a.wav", text='Say "a, b".\tTab')
ST = Utterance(
    id="b", audio="clips/b.wav", task="st", tgt_lang="zh", text="Hello.", translation="你好。", duration=0.5,
    speaker="s1", corpus="talks",
)  # fmt: skip
SPAN = ST.model_copy(update={"id": "c", "offset": 0.25, "duration": 0.25})
SUFFIX = {"table": ".csv", "salmonn": ".json"}
# What each format can hold of a translated row, beside its audio and translation.
HOLDS = {
    "table": {"id", "text", "speaker", "duration", "corpus", "tgt_lang", "task"},
    "nemo": {"id", "text", "speaker", "duration", "tgt_lang", "task"},
    "lhotse": {"id", "text", "speaker", "duration", "tgt_lang", "task"},
    "slam": {"id"},
    "salmonn": {"id", "tgt_lang", "task"},
    "qwen": {"id", "tgt_lang", "task"},
}
WRITABLE = [name for name in names() if name in HOLDS]


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        write_audio(tmp_path / "clips" / f"{name}.wav", 0.1 * np.sin(np.arange(8_000) / 7))
    return tmp_path


@pytest.mark.parametrize("name", WRITABLE)
def test_round_trip(folder, name):
    write_manifest(folder / "m.jsonl", [ST])
    file = folder / "sub" / f"x{SUFFIX.get(name, '.jsonl')}"
    assert export_manifest(name, Manifest(folder / "m.jsonl"), file) == 1
    defaults = {"task": "st", "tgt_lang": "zh"} if name == "slam" else {}
    imported = import_manifest(name, file, folder / "back" / "m.jsonl", Options(defaults))
    assert imported.rows == 1 and not imported.skipped
    row = Manifest(folder / "back" / "m.jsonl")[0]
    assert row.audio == "../clips/b.wav" and row.translation == "你好。"
    for field in HOLDS[name]:
        assert getattr(row, field) == getattr(ST, field), field
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("name", WRITABLE)
def test_transcripts_round_trip(folder, name):
    write_manifest(folder / "m.jsonl", [ASR])
    file = folder / f"x{SUFFIX.get(name, '.jsonl')}"
    export_manifest(name, Manifest(folder / "m.jsonl"), file)
    import_manifest(name, file, folder / "back.jsonl", Options())
    row = Manifest(folder / "back.jsonl")[0]
    assert (row.id, row.text, row.task, row.src_lang) == ("a", ASR.text, "asr", "en")


@pytest.mark.parametrize("name", ["table", "nemo", "lhotse"])
def test_spans_survive(folder, name):
    write_manifest(folder / "m.jsonl", [SPAN])
    export_manifest(name, Manifest(folder / "m.jsonl"), folder / f"x{SUFFIX.get(name, '.jsonl')}")
    import_manifest(name, folder / f"x{SUFFIX.get(name, '.jsonl')}", folder / "back.jsonl", Options())
    row = Manifest(folder / "back.jsonl")[0]
    assert (row.offset, row.duration) == (0.25, 0.25)


@pytest.mark.parametrize("name", ["salmonn", "qwen", "slam"])
def test_spans_are_refused_where_the_format_has_none(folder, name):
    write_manifest(folder / "m.jsonl", [SPAN])
    with pytest.raises(ManifestError):
        export_manifest(name, Manifest(folder / "m.jsonl"), folder / "x.json")
    assert not (folder / "x.json").exists()


@pytest.mark.parametrize("name", ["salmonn", "qwen", "slam"])
@pytest.mark.parametrize(("seconds", "whole"), [(0.2, False), (0.3, True), (0.5, True), (None, True)])
def test_the_first_piece_of_a_file_is_a_span_too(folder, name, seconds, whole):
    """The file has 0.5 s: 0.2 s of it miss more than the 0.25 s that headers and manifests round by."""
    write_manifest(folder / "m.jsonl", [ASR.model_copy(update={"duration": seconds})])
    if whole:
        assert export_manifest(name, Manifest(folder / "m.jsonl"), folder / "x.json") == 1
        return
    with pytest.raises(ManifestError, match="is a span of its file") as error:
        export_manifest(name, Manifest(folder / "m.jsonl"), folder / "x.json")
    assert "0.2 s of 0.50 s" in str(error.value) and not (folder / "x.json").exists()


@pytest.mark.parametrize("name", WRITABLE)
def test_sounds_in_shards_are_for_this_tool_alone(folder, name):
    write_manifest(folder / "m.jsonl", [ST])
    write_shards(Manifest(folder / "m.jsonl"), folder / "shards")
    shards, file = Manifest(folder / "shards/m.jsonl"), folder / f"x{SUFFIX.get(name, '.jsonl')}"
    if name != "table":
        with pytest.raises(ManifestError, match="lies in a tar shard"):
            export_manifest(name, shards, file)
        assert not file.exists()
        return
    export_manifest(name, shards, file)
    import_manifest(name, file, folder / "back.jsonl", Options())
    back = Manifest(folder / "back.jsonl")
    heard = load_audio(back.audio_path(back[0]))
    assert np.array_equal(heard, load_audio(shards.audio_path(shards[0]))) and len(heard) == 8_000


@pytest.mark.parametrize("name", ["salmonn", "qwen", "slam"])
def test_a_text_has_no_file_to_name(folder, name):
    row = Utterance(id="t", task="mt", tgt_lang="zh", text="x", translation="x")
    write_manifest(folder / "m.jsonl", [row])
    with pytest.raises(ManifestError, match="has no audio"):
        export_manifest(name, Manifest(folder / "m.jsonl"), folder / "x.json")


@pytest.mark.parametrize("name", ["nemo", "qwen"])
@pytest.mark.parametrize("task", ["mt", "aac"])
def test_a_task_that_the_format_cannot_name_is_refused(folder, name, task):
    held = {"tgt_lang": "zh", "translation": "x"} if task == "mt" else {"audio": "clips/a.wav"}
    write_manifest(folder / "m.jsonl", [Utterance(id="t", task=task, text="x", **held)])
    with pytest.raises(ManifestError, match=r"is of task|has no audio"):
        export_manifest(name, Manifest(folder / "m.jsonl"), folder / "x.json")
    assert not (folder / "x.json").exists()


@pytest.fixture
def linked(tmp_path, monkeypatch):
    """A project whose folder data is a link, and recordings beside it; it is the working directory."""
    (tmp_path / "big" / "data").mkdir(parents=True)
    write_audio(tmp_path / "proj" / "rec" / "b.wav", 0.1 * np.sin(np.arange(8_000) / 7))
    (tmp_path / "proj" / "rec" / "b.txt").write_text("Hello.")
    (tmp_path / "proj" / "data").symlink_to(tmp_path / "big" / "data")
    monkeypatch.chdir(tmp_path / "proj")
    return tmp_path / "proj"


def test_import_into_a_folder_that_is_a_link(linked):
    import_manifest("folder", "rec", "data/own.jsonl", Options())
    manifest = Manifest("data/own.jsonl")
    (row,) = manifest
    assert (row.audio, row.duration) == ("../../proj/rec/b.wav", 0.5)
    assert manifest.audio_path(row) == linked / "rec" / "b.wav"
    assert len(SpeechDataset(manifest)[0][1]) == 8_000
    assert "unreadable audio" not in check(manifest, decode=True).problems
    export_manifest("nemo", manifest, "data/nemo.json")
    assert json.loads((linked / "data" / "nemo.json").read_text())["audio_filepath"] == str(
        linked / "rec" / "b.wav"
    )
    (part,) = split_manifest(manifest, {"all": 1.0}, "parts").values()
    assert Manifest(part)[0].audio == "../rec/b.wav"
    (back,) = split_manifest(Manifest(part), {"all": 1.0}, "data/parts").values()
    assert Manifest(back).audio_path(Manifest(back)[0]) == linked / "rec" / "b.wav"


def test_import_from_behind_a_link(linked):
    """data/../rec is big/rec to every program that opens it."""
    (linked / "rec").rename(linked.parent / "big" / "rec")
    import_manifest("folder", "data/../rec", "own.jsonl", Options())
    (row,) = Manifest("own.jsonl")
    assert (row.audio, row.duration) == ("../big/rec/b.wav", 0.5)


def test_an_import_or_export_does_not_overwrite_its_source(folder):
    write_manifest(folder / "m.jsonl", [ASR])
    before = (folder / "m.jsonl").read_bytes()
    (folder / "link.jsonl").symlink_to("m.jsonl")
    for out in ("m.jsonl", "link.jsonl"):
        with pytest.raises(ManifestError, match="would overwrite"):
            export_manifest("nemo", Manifest(folder / "m.jsonl"), folder / out)
        with pytest.raises(ManifestError, match="would overwrite"):
            import_manifest("nemo", folder / "m.jsonl", folder / out, Options())
    assert (folder / "m.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options", "flag"),
    [
        ("nemo", {"columns": {"text": "sentence"}}, "--column"),
        ("folder", {"columns": {"text": "sentence"}}, "--column"),
        ("table", {"split": "test"}, "--split"),
        ("folder", {"audio_root": "elsewhere"}, "--audio-root"),
    ],
)
def test_an_option_that_a_format_would_ignore_is_refused(folder, name, options, flag):
    with pytest.raises(ConfigError, match=f"{name!r} takes no {flag}"):
        import_manifest(name, folder / "clips", folder / "m.jsonl", Options(**options))


@pytest.mark.parametrize("columns", [["text"], ["text=a", "text=b"]])
def test_a_column_that_cannot_be_read_is_refused(folder, columns):
    (folder / "t.csv").write_text("audio,text,a,b\nclips/a.wav,x,y,z\n")
    command = ["import", str(folder / "t.csv"), "--format", "table", "--out", str(folder / "m.jsonl")]
    done = CliRunner().invoke(app, [*command, *(word for column in columns for word in ("--column", column))])
    assert isinstance(done.exception, ConfigError) and not (folder / "m.jsonl").exists()


@pytest.mark.parametrize("name", WRITABLE)
def test_segments_are_refused_not_lost(folder, name):
    row = ASR.model_copy(update={"segments": (TimedText(offset=0, duration=0.2, text="x"),)})
    write_manifest(folder / "m.jsonl", [row])
    with pytest.raises(ManifestError, match="has segments"):
        export_manifest(name, Manifest(folder / "m.jsonl"), folder / "x.json")


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_salmonn_tasks_and_what_is_skipped(tmp_path):
    rows = [
        {"path": "/x/1.wav", "text": "Hi."},
        {"path": "/x/1.wav", "text": "你好。", "task": "translation_ec"},
        {"path": "/x/2.wav", "text": "Rain.", "task": "audiocaption"},
        {"path": "/x/3.wav", "text": "Yes.", "task": "QA", "Q": "Is it?"},
        {"path": "/x/4.wav", "text": "Hi.", "expand_wav": ["/x/5.wav"]},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"annotation": rows}))
    imported = import_manifest("salmonn", tmp_path / "a.json", tmp_path / "m.jsonl", Options())
    assert imported.skipped == {"task QA": 1, "several files joined (expand_wav)": 1}
    first, second, third = Manifest(tmp_path / "m.jsonl")
    assert (first.id, second.id, third.task) == ("1", "1#2", "aac")
    assert (second.task, second.tgt_lang, second.translation, second.text) == ("st", "zh", "你好。", None)


def test_qwen_directions(tmp_path):
    source = lines(
        tmp_path / "q.jsonl",
        {"audio": "1.mp3", "gt": "你好。", "source": "covost2_en_zh_test", "prompt": "?"},
        {"audio": "2.mp3", "gt": "Hello.<|ja|>こんにちは。", "source": "covost_enenja"},
        {"audio": "3.mp3", "gt": "Hello.", "source": "librispeech_test_clean"},
    )
    import_manifest("qwen", source, tmp_path / "m.jsonl", Options())
    first, second, third = Manifest(tmp_path / "m.jsonl")
    assert (first.task, first.src_lang, first.tgt_lang, first.target) == ("st", "en", "zh", "你好。")
    assert (second.tgt_lang, second.text, second.target) == ("ja", "Hello.", "こんにちは。")
    assert (third.task, third.text) == ("asr", "Hello.")


@pytest.mark.parametrize(
    ("source", "task", "src", "tgt"),
    [
        ("covost2_test_en_zh", "st", "en", "zh"),
        ("demo_en_zh", "st", "en", "zh"),
        ("st_en_ja", "st", "en", "ja"),
        ("own_de", "asr", "de", None),
        ("own", "asr", "en", None),
    ],
)
def test_the_last_languages_of_a_qwen_source_are_its_direction(tmp_path, source, task, src, tgt):
    file = lines(tmp_path / "q.jsonl", {"audio": "1.mp3", "gt": "x", "source": source})
    import_manifest("qwen", file, tmp_path / "m.jsonl", Options())
    (row,) = Manifest(tmp_path / "m.jsonl")
    assert (row.task, row.src_lang, row.tgt_lang, row.target) == (task, src, tgt, "x")


@pytest.mark.parametrize("row", [ASR.model_copy(update={"src_lang": "de"}), ST])
def test_what_qwen_is_exported_for_comes_back(folder, row):
    write_manifest(folder / "m.jsonl", [row.model_copy(update={"corpus": "demo"})])
    export_manifest("qwen", Manifest(folder / "m.jsonl"), folder / "q.jsonl")
    import_manifest("qwen", folder / "q.jsonl", folder / "back.jsonl", Options())
    (back,) = Manifest(folder / "back.jsonl")
    assert (back.task, back.src_lang, back.tgt_lang) == (row.task, row.src_lang, row.tgt_lang)


@pytest.mark.parametrize(
    ("given", "task", "target"),
    [
        ({"source_lang": "en", "target_lang": "zh", "text": "你好。"}, "st", "你好。"),
        ({"source_lang": "en", "target_lang": "en-US", "text": "Hi."}, "asr", "Hi."),
        ({"source_lang": "en", "target_lang": "zh", "taskname": "asr", "text": "Hi."}, "asr", "Hi."),
        ({"text": "Hi.", "answer": "na"}, "asr", "Hi."),
        ({"text": "Hi.", "answer": None}, "asr", "Hi."),
        ({"text": "", "answer": "Hi."}, "asr", "Hi."),
        ({"answer": "na"}, "asr", None),
    ],
)
def test_what_a_nemo_row_without_a_plain_task_says(tmp_path, given, task, target):
    source = lines(tmp_path / "n.json", {"audio_filepath": "a.wav", "duration": 2.5} | given)
    import_manifest("nemo", source, tmp_path / "m.jsonl", Options())
    (row,) = Manifest(tmp_path / "m.jsonl")
    assert (row.task, row.translation if task == "st" else row.text) == (task, target)


def test_nemo_translation(tmp_path):
    row = {"audio_filepath": "a.wav", "duration": 2.5, "taskname": "s2t_translation", "source_lang": "en"}
    source = lines(tmp_path / "n.json", row | {"target_lang": "de", "answer": "Hallo."})
    import_manifest("nemo", source, tmp_path / "m.jsonl", Options())
    assert Manifest(tmp_path / "m.jsonl")[0].translation == "Hallo."


def test_lhotse_supervisions_and_what_is_skipped(tmp_path):
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "/x/r.flac"}]}
    supervisions = [
        {"id": "s1", "start": 0.0, "duration": 1.5, "text": "One.", "language": "English"},
        {"id": "s2", "start": 1.5, "duration": 2.0, "text": "Two.", "speaker": "z"},
    ]
    cut = {"id": "c", "start": 10.0, "duration": 4.0, "recording": recording, "type": "MonoCut"}
    rows = [
        {**cut, "supervisions": supervisions}, {**cut, "supervisions": []}, {"id": "m", "type": "MixedCut"},
        {**cut, "recording": {"sources": [{"type": "command"}]}},
    ]  # fmt: skip
    with gzip.open(tmp_path / "cuts.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, rows)))
    imported = import_manifest("lhotse", tmp_path / "cuts.jsonl.gz", tmp_path / "m.jsonl", Options())
    assert len(imported.skipped) == 3
    first, second = Manifest(tmp_path / "m.jsonl")
    assert (first.id, first.offset, first.duration, first.src_lang) == ("s1", 10.0, 1.5, "en")
    assert (second.offset, second.duration, second.speaker) == (11.5, 2.0, "z")


def test_a_window_that_begins_or_ends_within_what_is_said(tmp_path):
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "/x/r.flac"}]}
    cut = {"id": "c", "start": 30.0, "duration": 20.0, "recording": recording, "type": "MonoCut"}
    windows = [(30.0, -5.0), (30.0, 15.0), (2.0, -5.0), (30.0, 5.0), (0.0, -0.001)]
    rows = [
        {
            **cut,
            "id": f"c{at}",
            "start": start,
            "supervisions": [{"id": f"s{at}", "start": said, "duration": 8, "text": "x"}],
        }
        for at, (start, said) in enumerate(windows)
    ]
    imported = import_manifest("lhotse", lines(tmp_path / "c.jsonl", *rows), tmp_path / "m.jsonl", Options())
    assert imported.skipped == {"a supervision that begins before its recording": 1}
    assert [(row.id, row.offset, row.duration) for row in Manifest(tmp_path / "m.jsonl")] == [
        ("s0", 25.0, 8.0), ("s1", 45.0, 8.0), ("c3", 30.0, 20.0), ("c4", 0.0, 20.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file"), [("table", "t.tsv.gz"), ("table", "t.csv.gz"), ("salmonn", "a.json.gz")]
)
def test_what_is_not_read_packed_is_not_called_so(folder, name, file):
    write_manifest(folder / "m.jsonl", [ST])
    with pytest.raises(ConfigError, match="packed"):
        export_manifest(name, Manifest(folder / "m.jsonl"), folder / file)
    assert not (folder / file).exists()


def test_a_packed_export_comes_back(folder):
    write_manifest(folder / "m.jsonl", [SPAN])
    export_manifest("lhotse", Manifest(folder / "m.jsonl"), folder / "cuts.jsonl.gz")
    packed = (folder / "cuts.jsonl.gz").read_bytes()
    assert packed.startswith(b"\x1f\x8b\x08\x00\x00\x00\x00\x00")  # no name, no time: the same each time
    import_manifest("lhotse", folder / "cuts.jsonl.gz", folder / "back.jsonl", Options())
    assert Manifest(folder / "back.jsonl")[0].text == SPAN.text


@pytest.mark.parametrize("name", ["t.TSV", "t.CSV"])
def test_paths_ids_and_texts_keep_their_blanks_in_a_table(folder, name):
    write_audio(folder / "two  and\u3000one\xa0.wav", 0.1 * np.sin(np.arange(8_000) / 7))
    row = Utterance(id="a  b", audio="two  and\u3000one\xa0.wav", text='x  "y"\u3000z')
    write_manifest(folder / "m.jsonl", [row])
    export_manifest("table", Manifest(folder / "m.jsonl"), folder / name)
    import_manifest("table", folder / name, folder / "back.jsonl", Options())
    (back,) = Manifest(folder / "back.jsonl")
    assert (back.id, back.audio, back.text, back.duration) == (row.id, row.audio, row.text, 0.5)


def test_a_path_that_a_tsv_would_change_is_refused(folder):
    write_manifest(folder / "m.jsonl", [ASR.model_copy(update={"audio": "clips/a\tb.wav"})])
    with pytest.raises(ManifestError, match="cannot hold its path"):
        export_manifest("table", Manifest(folder / "m.jsonl"), folder / "x.tsv")


def test_tables_with_mapped_columns(folder):
    (folder / "t.tsv").write_text(
        'path\tsentence\tzh\tn\nclips/a.wav\tShe said "no\t不。\t1\n', encoding="utf-8"
    )
    columns = {"audio": "path", "text": "sentence", "translation": "zh"}
    options = Options({"task": "st", "tgt_lang": "zh"}, columns)
    import_manifest("table", folder / "t.tsv", folder / "m.jsonl", options)
    row = Manifest(folder / "m.jsonl")[0]
    assert (row.id, row.text, row.translation) == ("a", 'She said "no', "不。")
    for columns in ({"audio": "file"}, {"sound": "path"}, {}):
        with pytest.raises(ConfigError):
            import_manifest("table", folder / "t.tsv", folder / "x.jsonl", Options({}, columns))


def test_a_folder_of_sounds_and_texts(folder):
    (folder / "clips" / "a.txt").write_text("First\nline.\n")
    (folder / "clips" / "a.zh.txt").write_text("第一行。", encoding="utf-8")
    imported = import_manifest("folder", folder, folder / "asr.jsonl", Options())
    assert imported.rows == 1 and imported.skipped == {"no transcript beside it": 1}
    import_manifest("folder", folder, folder / "st.jsonl", Options({"tgt_lang": "zh"}))
    row = Manifest(folder / "st.jsonl")[0]
    assert (row.id, row.audio, row.text, row.translation) == (
        "clips/a",
        "clips/a.wav",
        "First line.",
        "第一行。",
    )
    assert check(Manifest(folder / "st.jsonl"), decode=True).ok


@pytest.mark.parametrize("code", ["zh", "zh-CN"])
def test_lines_of_chinese_texts_in_a_folder_are_joined_without_spaces(folder, code):
    (folder / "clips" / "a.txt").write_text("The bell\nrings.")
    (folder / "clips" / f"a.{code}.txt").write_text("铃响了，\n很晚了。\n", encoding="utf-8")
    (folder / "clips" / "b.srt").write_text(SRT)
    (folder / "clips" / f"b.{code}.srt").write_text(SRT.replace("<i>First</i>\nline", "第一\n行"))
    import_manifest("folder", folder / "clips", folder / "st.jsonl", Options({"tgt_lang": code}))
    first, second = Manifest(folder / "st.jsonl")
    assert (first.text, first.translation, first.tgt_lang) == ("The bell rings.", "铃响了，很晚了。", "zh")
    assert second.segments[0].translation == "第一行." and second.translation == "第一行. Second line."


SRT = """1
00:00:00,000 --> 00:00:00,200
<i>First</i>
line.

2
00:00:00,250 --> 00:00:00,450 align:start
{\\an8}Second line.
"""
VTT = """WEBVTT

NOTE times without hours

00:00.010 --> 00:00.210
第一行。

00:00.240 --> 00:00.440
<v Ann>第二行。</v>
"""


def test_subtitles_say_what_is_said_when(folder):
    (folder / "clips" / "a.srt").write_text(SRT)
    import_manifest("folder", folder / "clips", folder / "asr.jsonl", Options())
    (row,) = Manifest(folder / "asr.jsonl")
    assert row.text == "First line. Second line."
    assert [(part.offset, part.duration, part.text) for part in row.segments] == [
        (0.0, 0.2, "First line."), (0.25, 0.2, "Second line."),
    ]  # fmt: skip
    (folder / "clips" / "a.zh.vtt").write_text(VTT, encoding="utf-8")
    import_manifest("folder", folder / "clips", folder / "st.jsonl", Options({"tgt_lang": "zh"}))
    (row,) = Manifest(folder / "st.jsonl")
    assert row.translation == "第一行。第二行。" and [p.translation for p in row.segments] == [
        "第一行。",
        "第二行。",
    ]
    assert check(Manifest(folder / "st.jsonl"), decode=True).ok
    pieces = SpeechDataset(Manifest(folder / "st.jsonl"), max_seconds=0.3, too_long="segment")
    assert [(u.text, u.translation) for u in pieces.utterances()] == [
        ("First line.", "第一行。"), ("Second line.", "第二行。"),
    ]  # fmt: skip


def test_subtitles_that_do_not_fit(folder):
    (folder / "clips" / "a.srt").write_text(SRT)
    (folder / "clips" / "a.zh.srt").write_text(
        SRT.replace("00:00:00,250", "00:00:00,950").replace(",450", ",999")
    )
    imported = import_manifest("folder", folder / "clips", folder / "x.jsonl", Options({"tgt_lang": "zh"}))
    assert imported.skipped["subtitles whose times are others in zh"] == 1
    (folder / "clips" / "a.srt").write_text(SRT.replace("00:00:00,250", "00:00:00,750"))
    imported = import_manifest("folder", folder / "clips", folder / "x.jsonl", Options())
    assert imported.rows == 0 and imported.skipped["subtitles that cannot be read"] == 1
    assert (
        "a.srt:7: the times of this cue cannot be read"
        in imported.examples["subtitles that cannot be read"][0]
    )


BAD = {
    "nemo": [{"duration": 1}, {"audio_filepath": "a.wav", "duration": -1, "text": "x"}],
    "qwen": [{"gt": "x"}, {"audio": {"array": []}, "gt": "x"}],
    "slam": [{"key": "a"}],
    "lhotse": [{"id": "x", "recording": {"sources": [{"type": "file", "source": "x"}]}}],
}


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, rows in BAD.items() for row in rows])
def test_bad_rows_are_named(tmp_path, name, row):
    with pytest.raises(ManifestError, match=r"x\.jsonl:1"):
        import_manifest(name, lines(tmp_path / "x.jsonl", row), tmp_path / "m.jsonl", Options())
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize("name", [n for n in names() if n != "huggingface"])
def test_garbage_and_missing_files_are_refused(tmp_path, name):
    (tmp_path / "x.json").write_bytes(os.urandom(300).replace(b"\n", b"") + b"\nnot json\n")
    for source in ("x.json", "missing.json"):
        with pytest.raises((ManifestError, ConfigError)):
            import_manifest(name, tmp_path / source, tmp_path / "m.jsonl", Options())


def test_unknown_formats_are_refused(folder):
    write_manifest(folder / "m.jsonl", [ASR])
    with pytest.raises(ConfigError, match="no format"):
        importer("kaldi")
    with pytest.raises(ConfigError, match="only be read"):
        export_manifest("folder", Manifest(folder / "m.jsonl"), folder / "x")


def test_command_line(folder):
    (folder / "clips" / "a.txt").write_text("Hello.")
    runner = CliRunner()
    out = str(folder / "m.jsonl")
    done = runner.invoke(app, ["import", str(folder / "clips"), "--format", "folder", "--out", out])
    assert done.exit_code == 0 and "skipped: no transcript" in done.stdout
    done = runner.invoke(app, ["export", out, "--format", "nemo", "--out", str(folder / "n.json")])
    assert done.exit_code == 0 and json.loads((folder / "n.json").read_text())["text"] == "Hello."


@pytest.fixture
def data_set(folder, monkeypatch):
    """A real ``datasets.Dataset`` with an Audio column: a sound inside, one beside it, one missing."""
    datasets = pytest.importorskip("datasets")
    import pyarrow

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    inside = {"bytes": (folder / "clips" / "a.wav").read_bytes(), "path": "a.wav"}
    columns = {
        "id": ["talk.1", "talk.2", "talk/2", "none"],
        "audio": [inside, {"bytes": None, "path": str(folder / "clips" / "b.wav")}, inside,
                  {"bytes": None, "path": None}],
        "sentence": ["Hello.", "Bye.", "Again.", "?"],
        "translation": [{"en": t, "zh": z} for t, z in (("Hello.", "你好。"), ("Bye.", "再见。"),
                                                        ("Again.", "再来。"), ("?", "？"))],
        "speaker_id": [7, 8, 9, 9],
    }  # fmt: skip
    data = datasets.Dataset(pyarrow.table(columns)).cast_column("audio", datasets.Audio())
    assert isinstance(data.features["audio"], datasets.Audio) and data.features["audio"].decode
    return data


def _saved(data, folder, kind):
    """Write a data set in one of the ways people keep them; return its path and the split to name."""
    from datasets import DatasetDict

    if kind == "file":
        data.to_parquet(folder / "test.parquet")
        return folder / "test.parquet", None
    if kind == "folder of parquet":
        (folder / "kept").mkdir()
        data.to_parquet(folder / "kept" / "test.parquet")
        return folder / "kept", "test"
    data = data.select([0, 1, 2])  # save_to_disk takes no row without sound, and puts every sound inside
    (data if kind == "saved" else DatasetDict(train=data, test=data)).save_to_disk(folder / "kept")
    return folder / "kept", None if kind == "saved" else "test"


@pytest.mark.parametrize("kind", ["file", "folder of parquet", "saved", "saved splits"])
def test_hugging_face_data_sets(folder, data_set, kind):
    source, split = _saved(data_set, folder, kind)
    options = Options({"task": "st", "tgt_lang": "zh"}, split=split)
    imported = import_manifest("huggingface", source, folder / "out" / "m.jsonl", options)
    manifest = Manifest(folder / "out" / "m.jsonl")
    saved = kind.startswith("saved")
    assert imported.rows == 3 and imported.skipped == ({} if saved else {"a row without sound": 1})
    assert [(row.id, row.translation, row.speaker) for row in manifest] == [
        ("talk.1", "你好。", "7"), ("talk.2", "再见。", "8"), ("talk/2", "再来。", "9"),
    ]  # fmt: skip
    assert [row.audio for row in manifest] == [
        "m_audio/talk.1.wav", "m_audio/talk.2.wav" if saved else "../clips/b.wav", "m_audio/talk_2.wav",
    ]  # fmt: skip
    report = check(manifest, decode=True)
    assert report.ok and report.hours == pytest.approx(1.5 / 3600)


def test_hugging_face_columns_and_splits_have_to_be_named(folder, data_set):
    source, _ = _saved(data_set, folder, "saved splits")
    with pytest.raises(ConfigError, match="Which split"):
        import_manifest("huggingface", source, folder / "x.jsonl", Options())
    options = Options(columns={"text": "lyrics"}, split="test")
    with pytest.raises(ConfigError, match="Cannot find"):
        import_manifest("huggingface", source, folder / "x.jsonl", options)


@pytest.mark.parametrize(("channels", "wanted"), [([0, 1], [0, 1]), (["TED", "BBC"], [None, None])])
def test_channels_of_hugging_face_data_sets(folder, channels, wanted):
    datasets = pytest.importorskip("datasets")
    columns = {"id": ["u", "v"], "audio": ["clips/a.wav", "clips/b.wav"], "text": ["x", "y"]}
    datasets.Dataset.from_dict({**columns, "channel": channels}).to_parquet(folder / "t.parquet")
    options = Options(audio_root=folder)
    import_manifest("huggingface", folder / "t.parquet", folder / "m.jsonl", options)
    assert [row.channel for row in Manifest(folder / "m.jsonl")] == wanted


def test_a_field_or_a_split_that_is_not_there_is_refused(folder, data_set):
    data_set.to_parquet(folder / "test.parquet")
    for options, message in [
        (Options(columns={"txt": "sentence"}), "cannot be mapped"),
        (Options(split="test"), "one split alone"),
    ]:
        with pytest.raises(ConfigError, match=message):
            import_manifest("huggingface", folder / "test.parquet", folder / "x.jsonl", options)


def test_sounds_unpacked_behind_a_link_lie_beside_the_manifest(linked, folder, data_set):
    data_set.select([0]).to_parquet(folder / "one.parquet")
    import_manifest("huggingface", folder / "one.parquet", "data/own.jsonl", Options())
    (row,) = Manifest("data/own.jsonl")
    assert (row.audio, row.duration) == ("own_audio/talk.1.wav", 0.5)


def test_what_is_no_data_set_is_refused(folder, data_set):
    (folder / "broken.parquet").write_bytes(b"PAR1 not really PAR1")
    for source in (folder / "broken.parquet", folder / "missing"):
        with pytest.raises(ManifestError, match="cannot be loaded"):
            import_manifest("huggingface", source, folder / "x.jsonl", Options())


# ---- folders as people have them


FORMATS = {
    "a.wav": "WAV", "b.flac": "FLAC", "c.mp3": "MP3", "d.ogg": "OGG", "e.oga": "OGG", "f.aiff": "AIFF",
    "g.aif": "AIFF", "h.au": "AU", "i.caf": "CAF", "j.w64": "W64", "k.WAV": "WAV", "l.sph": "NIST",
    "m.rf64": "RF64", "n.snd": "AU",
}  # fmt: skip


def test_every_kind_of_sound_that_is_read_is_imported(tmp_path):
    """m4a, mp4 and webm too, of which only the names count here: what is in them is looked at later."""
    samples = 0.1 * np.sin(np.arange(8_000) / 7)
    for name, kind in FORMATS.items():
        soundfile.write(tmp_path / name, samples, 16_000, format=kind)
        (tmp_path / name).with_suffix(".txt").write_text("Hello.")
    for name in ("p.m4a", "q.mp4", "r.webm", "s.mkv", "t.mov"):
        (tmp_path / name).write_bytes(b"a container")
        (tmp_path / name).with_suffix(".txt").write_text("Hello.")
    imported = import_manifest("folder", tmp_path, tmp_path / "m.jsonl", Options())
    assert imported.rows == len(FORMATS) + 5 and not imported.skipped
    rows = {str(row.audio): row for row in Manifest(tmp_path / "m.jsonl")}
    assert all(rows[name].duration == pytest.approx(0.5, abs=0.1) for name in FORMATS)
    assert rows["p.m4a"].duration is None


def test_hidden_files_are_passed_over_and_links_are_followed(tmp_path):
    (tmp_path / "in").mkdir()
    write_audio(tmp_path / "far" / "talk.wav", 0.1 * np.sin(np.arange(8_000) / 7))
    (tmp_path / "far" / "talk.txt").write_text("Hello.")
    (tmp_path / "far" / "again").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "far")
    for name in ("._talk.wav", "._talk.txt", ".hidden.wav", "__MACOSX/talk.wav", ".git/talk.wav"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"\x00\x05\x16\x07\xff")
    imported = import_manifest("folder", tmp_path / "in", tmp_path / "m.jsonl", Options())
    assert imported.rows == 1 and not imported.skipped
    assert Manifest(tmp_path / "m.jsonl")[0].id == "linked/talk"


def test_what_is_not_imported_of_a_folder_is_counted(folder):
    clips = folder / "clips"
    (clips / "a.txt").write_text("Hello.")
    (clips / "b.txt").write_bytes("Où?".encode("latin-1"))
    write_audio(clips / "a.flac", 0.1 * np.sin(np.arange(8_000) / 7))
    (clips / "nothing.txt").write_text("No sound.")
    name = os.fsencode(clips) + b"/caf\xe9.wav"
    with open(name, "wb") as file:
        file.write((clips / "b.wav").read_bytes())
    imported = import_manifest("folder", clips, folder / "m.jsonl", Options())
    assert imported.rows == 1 and imported.skipped == {
        "another sound has this name": 1,
        "a text that is not UTF-8": 1,
        "a text without a sound beside it": 1,
        "a name that is no UTF-8": 1,
    }
    assert imported.examples["a text that is not UTF-8"] == [str(clips / "b.txt")]


def test_durations_are_written_and_serve_subset(folder):
    (folder / "t.tsv").write_text(
        "audio\ttext\toffset\nclips/a.wav\tx\t0.2\nclips/b.wav\ty\t\ngone.wav\tz\t\n"
    )
    import_manifest("table", folder / "t.tsv", folder / "m.jsonl", Options())
    assert [row.duration for row in Manifest(folder / "m.jsonl")] == [0.3, 0.5, None]
    command = ["import", str(folder / "clips"), "--format", "folder", "--out", str(folder / "f.jsonl")]
    assert CliRunner().invoke(app, command).exit_code == 1  # no transcripts: nothing to train on
    for name in "ab":
        (folder / "clips" / f"{name}.txt").write_text("Hello.")
    assert CliRunner().invoke(app, command).exit_code == 0
    less = ["subset", str(folder / "f.jsonl"), "--hours", str(0.6 / 3600), "--out", str(folder / "s.jsonl")]
    assert CliRunner().invoke(app, less).exit_code == 0 and len(Manifest(folder / "s.jsonl")) == 1
