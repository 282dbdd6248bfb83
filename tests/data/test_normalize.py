"""Transcripts become sentences; scripts give foreign text away."""

from __future__ import annotations

import pytest

from aista.text.normalize import gigaspeech_text, sentence_case
from aista.text.prompts import script_complaint


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "IF THE READER WILL EXCUSE ME I WILL SAY NOTHING",
            "If the reader will excuse me I will say nothing",
        ),
        ("  I'M SURE   I'LL SAY I'VE SEEN IT'S I ", "I'm sure I'll say I've seen it's I"),
        ("'TIS DONE", "'Tis done"),
        (
            "THE U.S. ARMY AND THE B.B.C LEFT AT 5 P.M. WITH J. SMITH",
            "The U.S. army and the B.B.C left at 5 p.m. with J. Smith",
        ),
        (
            "O'NEILL'S CAT SAW O\u2019BRIEN AT SIX O'CLOCK O'ER THERE",
            "O'Neill's cat saw O\u2019Brien at six o'clock o'er there",
        ),
        ("IT WAS I. HE LEFT. I\u2019M LATE", "It was I. He left. I\u2019m late"),
        ("", ""),
    ],
)
def test_sentence_case(given, expected):
    assert sentence_case(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "THEY'RE LEAVING <COMMA> CAN I PULL IT <QUESTIONMARK> YES <PERIOD>",
            "They're leaving, can I pull it? Yes.",
        ),
        ("STOP <EXCLAMATIONPOINT>", "Stop!"),
        ("<MUSIC>", None),
        ("WELL <NOISE> NO", None),
    ],
)
def test_gigaspeech(given, expected):
    assert gigaspeech_text(given) == expected


@pytest.mark.parametrize(
    ("text", "code", "odd"),
    [
        ("你好，世界。", "zh", False), ("こんにちは", "ja", False), ("日本語", "ja", False),
        ("Grüß Gott", "de", False), ("123 !", "zh", False), ("안녕하세요", "ko", False),
        ("Привет", "ru", False), ("Hello there", "zh", True),
        ("我用iPad看书", "zh", False), ("用iPad看书", "zh", True), ("Ich lerne 日本語", "de", False),  # half
        ("優の良品はここで買った", "ja", False), ("优の良品都在这里买到了", "zh", False),
        ("私の本", "zh", True),
        ("東京都庁展望室入口", "ja", False), ("東京都庁展望室入口前", "ja", True),  # ten characters tell
        ("大韓民國", "ko", False), ("ﾊﾝﾊﾞｰｸﾞとｺｰﾋｰ", "ja", False), ("ＡＢＣ放送", "en", False),
        ("你好世界", "en", True), ("こんにちは世界", "zh", True), ("我们是一个很好的学生朋友", "ja", True),
    ],
)  # fmt: skip
def test_scripts(text, code, odd):
    assert (script_complaint(text, code) is not None) == odd
