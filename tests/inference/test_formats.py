"""Subtitles and tables that players and readers accept, whatever the text holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aista.errors import ConfigError
from aista.inference.formats import FORMATS, clock, render
from aista.inference.translator import TranslatedSegment, Translation

ROWS = (
    TranslatedSegment(0.0, 1.5, "医生<买>了 & 书"),
    TranslatedSegment(1.5, 3.0, "", silent=True),
    TranslatedSegment(3.0, 3661.0625, "two\nlines\n\nand --> an arrow"),
)
TALK = Translation("医生<买>了 & 书 two", ROWS, "talk.wav", "zh", "st", 3661.0625, "stand-in")


def test_srt():
    assert render(TALK, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\n医生<买>了 & 书\n\n"
        "2\n00:00:03,000 --> 01:01:01,062\ntwo lines and -> an arrow\n"
    )


def test_vtt():
    assert render(TALK, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n医生&lt;买&gt;了 &amp; 书\n"
        "\n00:00:03.000 --> 01:01:01.062\ntwo lines and -&gt; an arrow\n"
    )


def test_tsv_text_json():
    assert render(TALK, "tsv").splitlines()[1:] == [
        "0\t1500\t医生<买>了 & 书",
        "3000\t3661062\ttwo lines and -> an arrow",
    ]
    assert render(TALK, "text") == TALK.text + "\n"
    back = json.loads(render(TALK, "json"))
    assert back["segments"][1] == {"start_seconds": 1.5, "end_seconds": 3.0, "text": "", "silent": True}
    assert back["language"] == "zh" and "\n" not in render(TALK, "json").rstrip("\n")


def test_unknown_format():
    with pytest.raises(ConfigError, match="text, json, srt, vtt, tsv"):
        render(TALK, "ass")


@given(st.lists(st.text(min_size=1), max_size=4))
def test_no_text_breaks_a_format(texts):
    rows = tuple(TranslatedSegment(float(i), i + 1.0, text) for i, text in enumerate(texts))
    talk = Translation(" ".join(texts), rows, "x", "en", "st", len(texts), "m")
    spoken = [row for row in rows if row.text]
    assert render(talk, "srt").count(" --> ") == render(talk, "vtt").count(" --> ") == len(spoken)
    assert len(render(talk, "tsv").rstrip("\n").split("\n")) == 1 + len(spoken)
    assert all(render(talk, name).endswith("\n") or not spoken for name in FORMATS)


@given(st.floats(0, 360_000))
def test_the_clock_reads_back(seconds):
    hours, minutes, rest = clock(seconds).split(":")
    assert abs(int(hours) * 3600 + int(minutes) * 60 + float(rest) - seconds) <= 0.0005 + 1e-9
