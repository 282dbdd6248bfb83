"""Rows that are too long: pieces that fit, hold every segment once, and say what their sound says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aista.audio import write_audio
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, TimedText, Utterance, write_manifest
from aista.data.too_long import fit
from aista.errors import ManifestError

LIMIT = 30.0


def talk(parts: list[tuple[float, float]], **fields) -> Utterance:
    """A talk to translate whose segments last and are followed by so many seconds."""
    segments, start = [], 0.0
    for number, (seconds, pause) in enumerate(parts):
        segments.append(
            TimedText(offset=start, duration=seconds, text=f"word {number}.", translation=f"词{number}。")
        )
        start += seconds + pause
    return Utterance(
        id="talk", audio="talk.wav", offset=5.0, duration=start, task="st", tgt_lang="zh", text="words",
        translation="词", segments=tuple(segments), **fields,
    )  # fmt: skip


spans = st.lists(st.tuples(st.floats(0.1, 40.0), st.floats(0.0, 5.0)), min_size=1, max_size=12)


@pytest.mark.slow
@given(spans)
@settings(max_examples=60, deadline=None)
def test_pieces_fit_and_tile_what_fits(parts):
    whole = talk(parts)
    pieces = fit(whole, LIMIT, "segment")
    assert all(piece.duration <= LIMIT + 1e-6 for piece in pieces)
    usable = [number for number, (seconds, _) in enumerate(parts) if seconds <= LIMIT]
    assert " ".join(piece.text for piece in pieces) == " ".join(f"word {number}." for number in usable)
    assert "".join(piece.translation for piece in pieces) == "".join(f"词{number}。" for number in usable)
    for piece in pieces:
        first = whole.segments[int(piece.text.split()[1].rstrip("."))]
        assert piece.offset == pytest.approx(whole.offset + first.offset, abs=1e-5)
        assert piece.segments is None and piece.id.startswith("talk/")
    ends = [piece.offset + piece.duration for piece in pieces]
    assert all(end <= later.offset + 1e-5 for end, later in zip(ends, pieces[1:], strict=False))


def test_pieces_are_as_few_as_neighbours_allow():
    assert [p.text for p in fit(talk([(9, 1)] * 4), LIMIT, "segment")] == [
        "word 0. word 1. word 2.",
        "word 3.",
    ]
    # what lasts exactly as long as the model hears is not too long
    pieces = fit(talk([(15, 0), (15, 0), (30, 0)]), LIMIT, "segment")
    assert [p.text for p in pieces] == ["word 0. word 1.", "word 2."]
    # what is too long itself is left out, and never bridged
    pieces = fit(talk([(5, 0), (31, 0), (5, 0)]), LIMIT, "segment")
    assert [(p.text, p.offset) for p in pieces] == [("word 0.", 5.0), ("word 2.", 41.0)]


def test_a_piece_has_no_transcript_where_a_part_of_it_has_none():
    """Part of it would be aligned with the sound of all of it."""
    whole = talk([(10, 0), (10, 0), (20, 0)])
    first, second, third = whole.segments
    known = whole.model_copy(update={"segments": (first, second.model_copy(update={"text": None}), third)})
    found = [(piece.text, piece.translation) for piece in fit(known, LIMIT, "segment")]
    assert found == [(None, "词0。词1。"), ("word 2.", "词2。")]


def test_what_may_not_be_cut_is_left_out():
    asr = Utterance(id="a", audio="a.wav", duration=40, text="No times.")
    caption = Utterance(id="c", audio="c.wav", offset=2.0, duration=40, text="Rain.", task="aac")
    assert fit(asr, LIMIT, "segment") == [] == fit(caption, LIMIT, "skip")
    (beginning,) = fit(caption, LIMIT, "segment")
    assert (beginning.id, beginning.offset, beginning.duration) == ("c", 2.0, LIMIT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments": []}, "at least one"),
        ({"segments": [{"offset": 0, "duration": 1, "text": "x"}]}, "needs translation"),
        ({"segments": [{"offset": 0, "duration": 9, "translation": "x"}]}, "after the row"),
        (
            {"segments": [{"offset": at, "duration": 2, "translation": "x"} for at in (0, 1)]},
            "segment 2 starts before",
        ),
        ({"segments": [{"offset": 0, "duration": 0, "translation": "x"}]}, "greater than 0"),
    ],
)
def test_segments_that_are_no_parts_are_refused(changes, message):
    row = {"id": "a", "audio": "a.wav", "duration": 4.0, "task": "st", "tgt_lang": "zh", **changes}
    with pytest.raises(ValidationError, match=message):
        Utterance(**row)


def test_segments_may_be_a_quarter_second_out():
    segments = [{"offset": at, "duration": 2.2, "text": "x"} for at in (0.0, 2.0)]
    assert Utterance(id="a", audio="a.wav", duration=4.0, segments=segments).segments[1].end == 4.2


SECONDS = np.arange(16_000 * 4) / 16_000
RISING_TONE = 0.5 * np.sin(2 * np.pi * (200 + 100 * SECONDS) * SECONDS)


@pytest.fixture
def manifest(tmp_path):
    write_audio(tmp_path / "talk.wav", RISING_TONE)
    segments = [{"offset": at, "duration": 0.9, "text": f"{at}", "translation": f"{at}"} for at in range(3)]
    rows = [
        Utterance(id="short", audio="talk.wav", duration=1.0, text="x", task="asr"),
        Utterance(
            id="talk", audio="talk.wav", offset=1.0, duration=3.0, task="st", tgt_lang="ja", segments=segments
        ),
        Utterance(id="plain", audio="talk.wav", text="x", task="asr"),
        Utterance(id="sound", audio="talk.wav", offset=1.0, text="A rising tone.", task="aac"),
        Utterance(id="text", task="mt", tgt_lang="zh", text="long " * 30, translation="长"),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert list(Manifest(tmp_path / "m.jsonl")) == rows
    return Manifest(tmp_path / "m.jsonl")


def test_a_dataset_of_pieces(manifest, caplog):
    dataset = SpeechDataset(manifest, max_seconds=2.0, too_long="segment")
    rows = list(dataset.utterances())
    assert [row.id for row in rows] == ["short", "talk/1", "talk/2", "sound", "text"]
    assert [row.duration for row in rows] == [1.0, 1.9, 0.9, 2.0, None]
    assert rows[1].translation == "01" and rows[2].text == "2"
    for index, start, end in ((1, 1.0, 2.9), (2, 3.0, 3.9), (3, 1.0, 3.0)):
        assert np.allclose(dataset[index][1], RISING_TONE[int(start * 16_000) : int(end * 16_000)], atol=1e-4)
    report = dataset.too_long
    assert (report.skipped, report.cropped, report.segmented, report.pieces) == (1, 1, 1, 2)
    assert report.seconds_lost == pytest.approx(4.0 + 1.0 + 0.2)
    for sentence in report.sentences():
        assert sentence in caplog.text
    assert dataset.account()["too_long"]["pieces"] == 2 and dataset.account()["corrupt"] == 0
    json.dumps(dataset.account())
    part = dataset.subset([2, 0])
    assert [row.id for row in part.utterances()] == ["talk/2", "short"] and part[0][1].shape == (14_400,)
    assert dataset.clips().lengths.tolist() == [1.0, 1.9, 0.9, 2.0]


def test_a_dataset_of_rows_that_fit(manifest):
    rows = list(SpeechDataset(manifest, max_seconds=2.0, too_long="skip").utterances())
    assert [row.id for row in rows] == ["short", "text"]
    with pytest.raises(ManifestError, match="3 clips are too long"):
        SpeechDataset(manifest, max_seconds=2.0)
    assert not SpeechDataset(manifest, max_seconds=5.0).too_long
