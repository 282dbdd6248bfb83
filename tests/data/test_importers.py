"""Other tools' formats: what they hold survives a round trip, their quirks are read, bad rows are named."""

from __future__ import annotations

import gzip
import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from aista.audio import write_audio
from aista.cli.data import app
from aista.data.checks import check
from aista.data.importers import Options, export_manifest, import_manifest, importer, names
from aista.data.manifest import Manifest, Utterance, write_manifest
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


def test_hugging_face_data_sets(folder):
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    sounds = [
        {"bytes": (folder / "clips" / "a.wav").read_bytes(), "path": "a.wav"},
        {"bytes": None, "path": str(folder / "clips" / "b.wav")},
        {"bytes": None, "path": None},
    ]
    columns = {
        "audio": sounds,
        "sentence": ["Hello.", "Bye.", "?"],
        "translation": [
            {"en": "Hello.", "zh": "你好。"},
            {"en": "Bye.", "zh": "再见。"},
            {"en": "?", "zh": "？"},
        ],
        "speaker_id": [7, 8, 9],
    }
    parquet.write_table(pyarrow.table(columns), folder / "test.parquet")
    options = Options({"task": "st", "tgt_lang": "zh"})
    imported = import_manifest("huggingface", folder / "test.parquet", folder / "out" / "m.jsonl", options)
    manifest = Manifest(folder / "out" / "m.jsonl")
    assert imported.rows == 2 and imported.skipped == {"a row without sound": 1}
    assert [row.translation for row in manifest] == ["你好。", "再见。"]
    assert manifest[0].audio.startswith("m_audio/") and manifest[0].speaker == "7"
    assert check(manifest, decode=True).ok
    with pytest.raises(ConfigError, match="Cannot find"):
        options = Options(columns={"text": "lyrics"})
        import_manifest("huggingface", folder / "test.parquet", folder / "x.jsonl", options)
