"""Whatever lies in a manifest, another tool's file or an audio file: a row noted, or an error of ours."""

from __future__ import annotations

import contextlib
import io
import json
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aista.audio import load_audio, write_audio
from aista.data.checks import check
from aista.data.importers import Options, import_manifest, names
from aista.data.manifest import Manifest, Utterance
from aista.errors import AistaError, AudioError

RELAXED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

odd_numbers = st.sampled_from([0, -1, 1e-320, 1e18, 1e308, float("inf"), float("nan"), 2**70, True])
odd_text = st.sampled_from(
    ["", " ", "\0", "\ud800", "..", "/", "a.wav/b", "a.wav\0", "x" * 5_000, "con\nvert", "a.tar/x"]
)
anything = st.recursive(
    st.none() | st.booleans() | odd_numbers | odd_text | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
sound = {"id": "u", "audio": "a.wav", "duration": 1.0, "text": "A tone.", "task": "asr", "src_lang": "en"}
segment = st.fixed_dictionaries({}, optional={"offset": anything, "duration": anything, "text": anything})
near_rows = st.builds(
    lambda changes, removed: {k: v for k, v in {**sound, **changes}.items() if k not in removed},
    st.fixed_dictionaries(
        {},
        optional={name: anything for name in Utterance.model_fields if name != "segments"}
        | {"segments": st.lists(segment, max_size=3) | anything, "unknown": anything},
    ),
    st.sets(st.sampled_from(sorted(sound)), max_size=2),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzz")
    write_audio(place / "a.wav", 0.1 * np.sin(np.arange(16_000) / 7))
    return place


@pytest.mark.slow
@given(rows=st.lists(near_rows | anything, min_size=1, max_size=4))
@RELAXED
def test_any_row_is_checked_without_a_traceback(folder, rows):
    lines = [json.dumps(row).encode("utf-8", "surrogatepass") for row in rows]
    (folder / "m.jsonl").write_bytes(b"\n".join(lines))
    report = check(Manifest(folder / "m.jsonl"), decode=True, workers=1)
    assert report.rows == len(rows)
    json.dumps(report.to_dict(), allow_nan=False)


def encoded(kind, subtype=None):
    stream = io.BytesIO()
    soundfile.write(stream, 0.1 * np.sin(np.arange(8_000) / 7), 16_000, format=kind, subtype=subtype)
    return stream.getvalue()


KINDS = {
    "wav": encoded("WAV"), "flac": encoded("FLAC"), "mp3": encoded("MP3"), "ogg": encoded("OGG"),
    "opus": encoded("OGG", "OPUS"), "au": encoded("AU"), "aiff": encoded("AIFF"),
}  # fmt: skip


@pytest.mark.slow
@given(data=st.data())
@RELAXED
def test_garbled_files_are_noted_and_cost_no_memory(folder, data):
    rows = []
    for kind in data.draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3, unique=True)):
        whole = bytearray(KINDS[kind])
        for _ in range(data.draw(st.integers(0, 6))):
            place = data.draw(st.integers(0, min(200, len(whole) - 1)))
            whole[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        kept = data.draw(st.sampled_from([0, 1, 44, 60, len(whole) // 2, len(whole)]))
        (folder / f"g.{kind}").write_bytes(whole[:kept])
        rows.append(
            {**sound, "id": kind, "audio": f"g.{kind}", "duration": data.draw(st.sampled_from([None, 0.5]))}
        )
    (folder / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tracemalloc.start()
    try:
        report = check(Manifest(folder / "g.jsonl"), decode=True, workers=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.rows == len(rows) and peak < 64 << 20


def test_a_header_that_promises_hours_costs_no_memory():
    """A WAV of half a second that says it holds 4 GB."""
    lying = bytearray(KINDS["wav"])
    lying[4:8] = lying[40:44] = (0xFFFFFFF0).to_bytes(4, "little")
    tracemalloc.start()
    try:
        with contextlib.suppress(AudioError):
            load_audio(bytes(lying))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


KEYS = {
    "nemo": [
        "audio_filepath",
        "duration",
        "text",
        "offset",
        "taskname",
        "source_lang",
        "target_lang",
        "answer",
    ],
    "qwen": ["audio", "gt", "source"],
    "slam": ["key", "source", "target"],
    "lhotse": ["id", "start", "duration", "recording", "supervisions", "type"],
    "salmonn": ["path", "text", "task", "expand_wav"],
}


@pytest.mark.parametrize("name", sorted(KEYS))
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_tools_files_are_imported_or_refused(folder, name, data):
    recording = st.fixed_dictionaries(
        {},
        optional={
            "sources": anything
            | st.lists(
                st.fixed_dictionaries({}, optional={"type": st.just("file"), "source": anything}), max_size=2
            )
        },
    )
    special = {
        "recording": recording | anything,
        "supervisions": anything
        | st.lists(
            st.fixed_dictionaries({}, optional={"start": anything, "duration": anything, "custom": anything}),
            max_size=2,
        ),
    }
    row = st.fixed_dictionaries({}, optional={key: special.get(key, anything) for key in KEYS[name]})
    rows = data.draw(st.lists(row | anything, max_size=3))
    text = json.dumps({"annotation": rows}) if name == "salmonn" else "\n".join(map(json.dumps, rows))
    (folder / "other.jsonl").write_text(text)
    with contextlib.suppress(AistaError):
        import_manifest(name, folder / "other.jsonl", folder / "i.jsonl", Options())
        check(Manifest(folder / "i.jsonl"), workers=1)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tables_are_imported_or_refused(folder, suffix, data):
    table = "audio,text,offset,duration\na.wav,Hi,0,1\n".replace(
        ",", "," if suffix == ".csv" else "\t"
    ).encode()
    garbled = bytearray(table)
    for _ in range(data.draw(st.integers(0, 5))):
        place = data.draw(st.integers(0, len(garbled)))
        garbled[place:place] = data.draw(
            st.sampled_from([b'"', b"\t", b"\n", b"\r", b"\0", b"\xff", b",", b"\\", b"9"])
        )
    (folder / f"t{suffix}").write_bytes(garbled)
    with contextlib.suppress(AistaError):
        import_manifest("table", folder / f"t{suffix}", folder / "i.jsonl", Options())
        check(Manifest(folder / "i.jsonl"), workers=1)


@pytest.mark.parametrize("name", ["\0a.wav", "a\0.wav", "a.tar/\0", "x" * 5_000])
def test_an_impossible_file_name_in_a_table_is_noted(folder, name):
    (folder / "n.csv").write_text(f"audio,text,offset\n{name},Hi,0.5\n")
    import_manifest("table", folder / "n.csv", folder / "i.jsonl", Options())
    report = check(Manifest(folder / "i.jsonl"), workers=1)
    assert report.rows == 1 and not report.ok


def test_every_text_format_is_fuzzed():
    assert set(names()) == {*KEYS, "table", "folder", "huggingface"}
