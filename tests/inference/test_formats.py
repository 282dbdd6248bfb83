"""Subtitles and tables that players and readers accept, whatever the text holds."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pysubs2
import pytest
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.errors import ConfigError
from aista.inference import formats
from aista.inference.coverage import TranslationWarning
from aista.inference.formats import (
    COLUMNS,
    FORMATS,
    SUFFIXES,
    clock,
    columns,
    cues,
    render,
    write,
)
from aista.inference.translator import TranslatedSegment, Translation
from aista.inference.words import Word

ROWS = (
    TranslatedSegment(0.0, 1.5, "医生<买>了 & 书"),
    TranslatedSegment(1.5, 3.0, "", silent=True),
    TranslatedSegment(3.0, 7.0625, "two\nlines\n\nand --> an arrow"),
)
WARNING = TranslationWarning("silence", "silent --> here", ((1.5, 3.0),))
TALK = Translation("医生<买>了 & 书 two", ROWS, "talk.wav", "en", "st", 8.0, "stand-in", warnings=(WARNING,))


def test_srt():
    assert render(TALK, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\n医生<买>了 & 书\n\n"
        "2\n00:00:03,000 --> 00:00:07,062\ntwo lines and -> an arrow\n"
    )


def test_vtt():
    assert render(TALK, "vtt") == (
        "WEBVTT\n\nNOTE warning: 1.5-3.0 s: silent -> here\n"
        "\n00:00:00.000 --> 00:00:01.500\n医生&lt;买&gt;了 &amp; 书\n"
        "\n00:00:03.000 --> 00:00:07.062\ntwo lines and -&gt; an arrow\n"
    )


def test_tsv_text_json():
    assert render(TALK, "tsv").splitlines()[1:] == [
        "0\t1500\t医生<买>了 & 书",
        "3000\t7062\ttwo lines and -> an arrow",
    ]
    assert render(TALK, "text") == TALK.text + "\n"
    back = json.loads(render(TALK, "json"))
    silent = {"start_seconds": 1.5, "end_seconds": 3.0, "text": "", "silent": True, "words": []}
    assert back["segments"][1] == silent
    assert back["warnings"] == [{"kind": "silence", "text": "silent --> here", "spans": [[1.5, 3.0]]}]
    assert back["language"] == "en" and "\n" not in render(TALK, "json").rstrip("\n")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_written_format_carries_the_warnings(kind, tmp_path):
    place = tmp_path / f"talk.en{SUFFIXES[kind]}"
    beside = tmp_path / f"{place.name}.warnings.json"
    told = write(TALK, kind, place)
    if told is None:
        assert kind in ("json", "vtt") and not beside.exists() and "silent" in place.read_text()
        return
    assert told == beside
    assert json.loads(beside.read_text()) == json.loads(render(TALK, "json"))["warnings"]
    assert place.read_text(encoding="utf-8") == render(TALK, kind)
    assert write(replace(TALK, warnings=()), kind, place) is None and not beside.exists()


@pytest.mark.parametrize("kind", ["vtt", "json", "text", "tsv"])
def test_a_second_format_keeps_the_warnings_of_the_first(kind, tmp_path):
    """It may be another model's."""
    beside = write(TALK, "srt", tmp_path / "talk.en.srt")
    told = beside.read_text()
    for warnings in ((TranslationWarning("noise", "noise"),), ()):
        write(replace(TALK, warnings=warnings), kind, tmp_path / f"talk.en{SUFFIXES[kind]}")
        assert beside.read_text() == told


def test_no_arrow_of_any_length_stays_in_a_text():
    warning = TranslationWarning("silence", "c ---> d")
    talk = replace(TALK, segments=(TranslatedSegment(0.0, 2.0, "a ----> b"),), warnings=(warning,))
    assert all(render(talk, kind).count("-->") == 1 for kind in ("srt", "vtt"))
    assert "c -> d" in render(talk, "vtt") and "\ta -> b\n" in render(talk, "tsv")


def test_the_work_of_setting_subtitles_grows_with_their_letters_alone(monkeypatch):
    measured = []
    monkeypatch.setattr(formats, "columns", lambda text: measured.append(text) or columns(text))
    rows = tuple(
        TranslatedSegment(5.0 * i, 5.0 * i + 5.0, "医生昨天在公园里买了一本书给律师") for i in range(20)
    )
    assert cues(replace(TALK, segments=rows, language="zh")) and len(measured) < 3 * 16 * 20


def test_no_subtitle_ends_after_the_sound():
    """Ours could not be imported with their sound: there a cue beyond its end is an error."""
    words = tuple(Word(f"{word}.", start, start + 0.2) for word, start in (("Yes", 0.1), ("No", 3.0)))
    rows = (TranslatedSegment(0.0, 3.25, "Yes. No.", words=words),)
    first, last = cues(replace(TALK, segments=rows, duration_seconds=3.25))
    assert (first.start_seconds, first.end_seconds) == pytest.approx((0.1, 1.1))
    assert (last.start_seconds, last.end_seconds) == pytest.approx((2.25, 3.25))
    tiny = replace(TALK, segments=(TranslatedSegment(0.0, 0.4, "Yes."),), duration_seconds=0.4)
    assert [(cue.start_seconds, cue.end_seconds) for cue in cues(tiny)] == [(0.0, 0.4)]


def test_unknown_format():
    with pytest.raises(ConfigError, match="text, json, srt, vtt, tsv"):
        render(TALK, "ass")


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), max_size=4), st.sampled_from(["en", "zh"]))
def test_no_text_breaks_a_format(texts, code):
    rows = tuple(TranslatedSegment(float(i), i + 1.0, text) for i, text in enumerate(texts))
    talk = Translation(" ".join(texts), rows, "x", code, "st", len(texts), "m")
    assert render(talk, "srt").count(" --> ") == render(talk, "vtt").count(" --> ") == len(cues(talk))
    assert len(render(talk, "tsv").rstrip("\n").split("\n")) == 1 + len(rows)
    assert all(render(talk, name).endswith("\n") or not cues(talk) for name in FORMATS)


LETTERS = st.text(st.sampled_from("abc。，,.!?é"), min_size=1, max_size=12)
HAN = st.text(st.sampled_from("医生买了书在图书馆。，！"), min_size=1, max_size=60)
TEXTS = {"en": st.lists(LETTERS, min_size=1, max_size=40).map(" ".join), "zh": HAN, "ja": HAN}


@st.composite
def talks(draw):
    """Talks whose segments follow one another, with and without pauses, at speeds that can be read."""
    code = draw(st.sampled_from(sorted(TEXTS)))
    rows, at = [], 0.0
    for text in draw(st.lists(TEXTS[code], min_size=1, max_size=6)):
        seconds = columns(text) / draw(st.floats(8.0, 16.0)) + 0.2
        rows.append(TranslatedSegment(at, at + seconds, text))
        at += seconds + draw(st.sampled_from([0.0, 0.3, 4.0]))
    return Translation("", tuple(rows), "x", code, "st", at, "m")


@settings(max_examples=50, deadline=None)
@given(talks())
def test_subtitles_are_as_subtitlers_set_them(talk):
    found = cues(talk)
    for cue in found:
        assert 1 <= len(cue.lines) <= 2 and all(columns(line) <= COLUMNS for line in cue.lines)
        assert 0 < cue.end_seconds - cue.start_seconds <= 7.0 + 1e-9
        assert cue.end_seconds <= talk.duration_seconds + 1e-9
    assert all(a.end_seconds <= b.start_seconds + 1e-9 for a, b in pairwise(found))
    kept = "".join("".join(line.split()) for cue in found for line in cue.lines)
    assert kept == "".join("".join(row.text.split()) for row in talk.segments)
    for number, cue in enumerate(found):  # shorter than a second only where both neighbours leave no room
        if cue.end_seconds - cue.start_seconds < 1.0 - 1e-9:
            before = found[number - 1].end_seconds if number else 0.0
            assert cue.start_seconds == pytest.approx(before)
            last = number + 1 == len(found)
            limit = talk.duration_seconds if last else found[number + 1].start_seconds
            assert cue.end_seconds == pytest.approx(limit)


@settings(max_examples=50, deadline=None)
@given(talks())
def test_readers_of_subtitles_read_the_same_times(talk):
    found = cues(talk)
    srt = pysubs2.SSAFile.from_string(render(talk, "srt"), format_="srt") if found else []
    vtt = webvtt.from_string(render(talk, "vtt")) if found else []
    assert len(srt) == len(vtt) == len(found)
    for cue, row, caption in zip(found, srt, vtt, strict=True):
        assert (row.start / 1000, row.end / 1000) == pytest.approx(
            (cue.start_seconds, cue.end_seconds), abs=1e-3
        )
        assert len(caption.lines) == len(cue.lines)


def test_a_sentence_has_a_subtitle_of_its_own_and_lines_break_at_punctuation():
    text = "The doctor has bought it for the lawyer, and the cook reads it to him. They left."
    talk = replace(TALK, segments=(TranslatedSegment(0.0, 6.0, text),))
    first, second = cues(talk)
    assert second.lines == ("They left.",)
    assert first.lines == ("The doctor has bought it for the lawyer,", "and the cook reads it to him.")
    words = tuple(Word(word, i, i + 0.5) for i, word in enumerate(["one", "two", "three", "four"]))
    spread = replace(TALK, segments=(TranslatedSegment(0.0, 20.0, "one two three four", words=words),))
    assert cues(spread)[0].start_seconds == 0.0
    assert cues(spread)[-1].end_seconds == pytest.approx(3.5)


@given(st.floats(0, 360_000))
def test_the_clock_reads_back(seconds):
    hours, minutes, rest = clock(seconds).split(":")
    assert abs(int(hours) * 3600 + int(minutes) * 60 + float(rest) - seconds) <= 0.0005 + 1e-9
