"""Subtitles come in whole, with the times they have, or not at all and with the line that says why."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from aista.audio import write_audio
from aista.cli.data import app
from aista.data.checks import check
from aista.data.importers import Options, import_manifest
from aista.data.manifest import Manifest, TimedText, Utterance, write_manifest
from aista.data.rearrange import cut
from aista.data.subtitles import read_subtitles
from aista.errors import ManifestError
from aista.inference.formats import render
from aista.inference.translator import TranslatedSegment, Translation

RELAXED = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return read_subtitles(folder / name)


def texts(subtitles):
    return [cue.text for cue in subtitles.cues]


def times(subtitles):
    return [(cue.start, cue.end) for cue in subtitles.cues]


# ---- every spelling of a cue that people write


TWO = [(1.0, 2.0), (2.5, 4.0)]
PLAIN = "1\n00:00:01,000 --> 00:00:02,000\nOne.\n\n2\n00:00:02,500 --> 00:00:04,000\nTwo.\n"
SPELLINGS = {
    "plain": PLAIN,
    "windows": PLAIN.replace("\n", "\r\n"),
    "old Mac": PLAIN.replace("\n", "\r"),
    "mark of order": "\ufeff" + PLAIN,
    "no end of line": PLAIN.rstrip(),
    "no spaces": PLAIN.replace(" --> ", "-->"),
    "points, short": PLAIN.replace(",000", ".0").replace(",500", ".5").replace("00:00:", "0:00:"),
    "no blank line": PLAIN.replace("\n\n", "\n"),
    "no numbers": PLAIN.replace("1\n0", "0").replace("2\n0", "0"),
    "neither": PLAIN.replace("1\n0", "0").replace("2\n0", "0").replace("\n\n", "\n"),
    "numbers from 7": PLAIN.replace("1\n0", "7\n0").replace("2\n0", "8\n0"),
    "all numbers 1": PLAIN.replace("2\n0", "1\n0"),
    "arrow": PLAIN.replace("-->", "→"),
    "dashes": PLAIN.replace("-->", "–>"),
    "long dash": PLAIN.replace("-->", "—>"),
    "short arrow": PLAIN.replace("-->", "->"),
    "escaped": PLAIN.replace("-->", "--&gt;"),
    "full width": PLAIN.replace(":", "：").replace(",", "，"),
    "places": PLAIN.replace("02,000", "02,000  X1:40 X2:600"),
    "blank lines": "\n\n" + PLAIN.replace("\n", "\n\n"),
    "markup": PLAIN.replace("One.", "<font color='red'>{\\an8}One.</font>").replace("Two", "<i>Two</I>"),
    "silent cue": PLAIN.replace("2\n00", "2\n00:00:02,100 --> 00:00:02,200\n\n3\n00"),
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_spellings_of_subrip(tmp_path, kind):
    found = read(tmp_path, "a.srt", SPELLINGS[kind])
    assert times(found) == TWO and texts(found) == ["One.", "Two."]
    assert found.untimed() is None


def test_times_without_thousandths(tmp_path):
    found = read(tmp_path, "a.srt", "1\n00:00:01 --> 00:00:02\nOne.\n\n2\n01:00:02 --> 01:00:04\nTwo.\n")
    assert times(found) == [(1, 2), (3602, 3604)] and texts(found) == ["One.", "Two."]


WEB = """WEBVTT - a title
Kind: captions

STYLE
::cue(b) { color: red }

NOTE
one --> two

name of the cue
00:01.000 --> 00:02.000 align:start position:0%
<v Ann>One.</v>

NOTE between

00:02.500 --> 00:04.000
<c.yellow>Two</c><00:00:03.000>.

"""


def test_webvtt(tmp_path):
    found = read(tmp_path, "a.vtt", WEB)
    assert times(found) == TWO and texts(found) == ["One.", "Two."]
    with pytest.raises(ManifestError, match=r"a\.vtt:1: no WebVTT"):
        read(tmp_path, "a.vtt", SPELLINGS["plain"])


def test_substation(tmp_path):
    events = [
        "Dialogue: 0,0:00:02.50,0:00:04.00,Default,,0,0,0,,{\\i1}Two{\\i0}.",
        "Comment: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,not said",
        "Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,One\\N(again).",
        "Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\p1}m 0 0 l 9 9{\\p0}",
    ]
    head = "[Script Info]\nScriptType: v4.00+\n\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, "
    found = read(tmp_path, "a.ass", head + "MarginR, MarginV, Effect, Text\n" + "\n".join(events) + "\n")
    assert times(found) == TWO and texts(found) == ["One (again).", "Two."]
    assert [cue.line for cue in found.cues] == [8, 6]


# ---- nothing that is said is lost


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("First.\n\nSecond.", "First. Second."),
        ("We count:\n42", "We count: 42"),
        ("We count:\n\n1984\n\nand on", "We count: 1984 and on"),
        ("If x < 5 then y > 3.", "If x < 5 then y > 3."),
        ("a<b and b>c", "a<b and b>c"),
        ("I <3 you, AT&T & co; R&D", "I <3 you, AT&T & co; R&D"),
        ("Tom &amp; Ann&#39;s caf&eacute; sells 3 &lt; 5&nbsp;buns", "Tom & Ann's café sells 3 < 5 buns"),
        ("&lt;i&gt;", "<i>"),
        ("one\u2028two\x85three", "one two three"),
        ("{not markup} [nor this]", "{not markup} [nor this]"),
    ],
)
@pytest.mark.parametrize("web", [False, True])
def test_texts_stay(tmp_path, said, wanted, web):
    mark, head = (".", "WEBVTT\n\n") if web else (",", "")
    cues = [
        f"{n}\n00:00:0{n}{mark}000 --> 00:00:0{n}{mark}900\n{text}\n\n"
        for n, text in ((1, "Before."), (2, said), (3, "After."), (4, said))
    ]
    found = read(tmp_path, "a.vtt" if web else "a.srt", head + "".join(cues))
    assert texts(found) == ["Before.", wanted, "After.", wanted]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (2, "1\n00:00:02,000 --> 00:00:01,000\nx\n"),
        (6, "1\n00:00:01,000 --> 00:00:02,000\nx\n\n2\n00:00:03,000 --> 00:0:x4,000\ny\n"),
        (2, "1\n00:00:75,000 --> 00:02:00,000\nx\n"),
        (2, "1\n00: 00: 01,000 --> 00: 00: 02,000\nx\n"),
        (2, "1\n00:00:01:12 --> 00:00:02:24\nx\n"),
        (2, "1\n--> 00:00:02,000\nx\n"),
        (5, "1\n00:00:01,000 --> 00:00:02,000\nx\n\n00:03,000 -> 00:04\ny\n"),
    ],
)
def test_a_time_that_cannot_be_read_is_named(tmp_path, line, text):
    with pytest.raises(ManifestError, match=rf"a\.srt:{line}: the times of this cue cannot be read"):
        read(tmp_path, "a.srt", text)


@pytest.mark.parametrize("text", ["Only text.\n", "A title.\n\n1\n00:00:01,000 --> 00:00:02,000\nx\n"])
def test_text_outside_cues_is_an_error(tmp_path, text):
    with pytest.raises(ManifestError, match=r"a\.srt"):
        read(tmp_path, "a.srt", text)


words = st.text(alphabet="abc 你é&<>'\"5-.\u2028", min_size=1, max_size=16).filter(lambda text: text.strip())
plain_words = words.filter(lambda text: "-->" not in text and not text.strip().isdigit())


@given(said=st.lists(plain_words, min_size=1, max_size=6), web=st.booleans())
@RELAXED
def test_what_translate_writes_comes_back(tmp_path, said, web):
    # Two seconds each and six apart: subtitles of their own, long enough to be read.
    segments = [TranslatedSegment(8 * n, 8 * n + 2, text, 1) for n, text in enumerate(said)]
    talk = Translation(" ".join(said), segments, "t.wav", "en", "st", len(said), "stand-in")
    found = read(tmp_path, "t.vtt" if web else "t.srt", render(talk, "vtt" if web else "srt"))
    assert texts(found) == [" ".join(text.split()) for text in said]
    assert times(found) == [(8 * n, 8 * n + 2) for n in range(len(said))]


def test_two_lines_of_chinese_are_one_text_without_a_space(tmp_path):
    (tmp_path / "a.srt").write_text(PLAIN.replace("One.", "铃响\n了。").replace("Two.", "很\n晚了。"))
    found = read_subtitles(tmp_path / "a.srt", "zh")
    assert texts(found) == ["铃响了。", "很晚了。"] and found.joined("zh") == "铃响了。很晚了。"
    assert texts(read_subtitles(tmp_path / "a.srt", "ko")) == ["铃响 了。", "很 晚了。"]


@pytest.mark.parametrize(
    "text", ["铃响了很晚了我们回家吧" * 3, "我们用deep learning and much of our own data训练"]
)
def test_chinese_that_translate_writes_in_two_lines_comes_back_whole(tmp_path, text):
    talk = Translation(text, [TranslatedSegment(0, 6, text, 1)], "t.wav", "zh", "st", 6, "stand-in")
    (tmp_path / "t.srt").write_text(render(talk, "srt"), encoding="utf-8")
    found = read_subtitles(tmp_path / "t.srt", "zh")
    assert [len(cue.texts) for cue in found.cues] == [2] and found.joined("zh") == text


# ---- captions that roll


def rolling(lines, rows=2, web=True):
    """Captions as video sites make them: each shows the line before once more, with a blink between."""
    out = ["WEBVTT\nKind: captions\n"] if web else []
    for at, line in enumerate(lines):
        shown = lines[max(0, at - rows + 1) : at]
        first, *rest = line.split(" ", 1)
        new = line if not web else first + "".join(f"<00:00:{at:02}.500><c> {r}</c>" for r in rest)
        for start, end, body in (
            (at, at + 0.99, [*(shown or ([" "] if web else [])), new]),
            (at + 0.99, at + 1, [*lines[max(0, at - rows + 2) : at + 1], " "]),
        ):
            stamp = f"00:00:{int(start):02}.{round(start % 1 * 100):02}0 --> " + (
                f"00:00:{int(end):02}.{round(end % 1 * 100):02}0"
            )
            out.append((stamp if web else stamp.replace(".", ",")) + "\n" + "\n".join(body) + "\n")
    return "\n".join(out)


@pytest.mark.parametrize("web", [True, False])
@pytest.mark.parametrize("rows", [2, 3])
def test_rolling_captions_give_every_line_once(tmp_path, web, rows):
    lines = ["good morning to all", "the bell rings", "it is late", "no", "no", "we go home"]
    found = read(tmp_path, "a.vtt" if web else "a.srt", rolling(lines, rows, web))
    assert " ".join(texts(found)).startswith("good morning to all the bell rings it is late no")
    assert " ".join(texts(found)).endswith("we go home") and len(texts(found)) in (5, 6)
    assert found.untimed() is None
    assert min(cue.end - cue.start for cue in found.cues) > 0.5


def test_a_line_that_grows_is_one_line(tmp_path):
    shown = ["good", "good morning", "good morning to all", "the", "the bell", "the bell rings"]
    text = "".join(
        f"{n + 1}\n00:00:0{n},000 --> 00:00:0{n + 1},000\n{line}\n\n" for n, line in enumerate(shown)
    )
    assert " ".join(texts(read(tmp_path, "a.srt", text))) == "good morning to all the bell rings"


@pytest.mark.parametrize(
    "said",
    [
        ["No.", "No.", "Why not?", "No."],
        ["Hello.", "Hello, Ann.", "How are you?", "Well.", "And you?", "Well."],
        ["la la la", "la la la", "la la la", "la la la"],
        ["Wait", "Waiting is hard", "Go", "Gone"],
    ],
)
def test_what_is_said_twice_stays_twice(tmp_path, said):
    text = "".join(
        f"{n + 1}\n00:00:0{n},000 --> 00:00:0{n + 1},000\n{line}\n\n" for n, line in enumerate(said)
    )
    assert texts(read(tmp_path, "a.srt", text)) == said


# ---- in a folder: the row as it can be, or counted; never the whole folder


@pytest.fixture
def talks(tmp_path):
    for name in ("good", "talk", "other"):
        write_audio(tmp_path / "in" / f"{name}.wav", 0.1 * np.sin(np.arange(5 * 16_000) / 9))
        (tmp_path / "in" / f"{name}.srt").write_text(SPELLINGS["plain"])
    return tmp_path


def imported(folder, **defaults):
    result = import_manifest("folder", folder / "in", folder / "x.jsonl", Options(defaults))
    return result, {row.id: row for row in Manifest(folder / "x.jsonl")}


@pytest.mark.parametrize(
    "text",
    [
        "1\n00:00:01,000 --> 00:00:03,000\nOne.\n\n2\n00:00:02,000 --> 00:00:04,000\nTwo.\n",
        "1\n00:00:01,000 --> 00:00:01,000\nOne.\n\n2\n00:00:02,000 --> 00:00:04,000\nTwo.\n",
        "2\n00:00:02,000 --> 00:00:02,000\nTwo.\n\n1\n00:00:01,000 --> 00:00:02,000\nOne.\n",
    ],
)
def test_times_that_divide_nothing_give_a_row_without_segments(talks, text):
    (talks / "in" / "talk.srt").write_text(text)
    result, rows = imported(talks)
    assert result.rows == 3 and not result.skipped and rows["talk"].text == "One. Two."
    assert rows["talk"].segments is None and len(rows["good"].segments) == 2
    ((note, count),) = result.notes.items()
    assert count == 1 and "talk.srt:" in result.examples[note][0]
    assert check(Manifest(talks / "x.jsonl"), decode=True).ok


@pytest.mark.parametrize(
    ("data", "reason", "place"),
    [
        (b"1\n00:00:01,000 --> 00:00:0x\nOne.\n", "cannot be read", "talk.srt:2"),
        ("Où?".encode("latin-1"), "cannot be read", "talk.srt"),
        (b"1\n00:00:01,000 --> 00:00:02,000\nx\n\n2\n00:10:01,000 --> 00:10:02,000\ny\n", "after the sound",
         "talk.srt:6"),
    ],
)  # fmt: skip
def test_subtitles_that_cannot_be_used_cost_their_own_sound_alone(talks, data, reason, place):
    (talks / "in" / "talk.srt").write_bytes(data)
    result, rows = imported(talks)
    assert set(rows) == {"good", "other"}
    ((said, count),) = result.skipped.items()
    assert count == 1 and reason in said and place in result.examples[said][0]
    command = ["import", str(talks / "in"), "--format", "folder", "--out", str(talks / "y.jsonl")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and place in done.stdout


def test_a_text_in_utf_16_is_read(talks):
    (talks / "in" / "talk.srt").write_bytes(SPELLINGS["plain"].replace("One", "Où").encode("utf-16"))
    _, rows = imported(talks)
    assert rows["talk"].text == "Où. Two."


def test_segments_after_the_sound_are_found_and_not_cut(talks):
    """In a manifest of another tool's making, with a duration or without one."""
    late = (TimedText(offset=0, duration=2, text="x"), TimedText(offset=603, duration=2, text="y"))
    for duration in (None, 700.0):
        row = Utterance(id="u", audio="in/good.wav", duration=duration, text="x y", segments=late)
        write_manifest(talks / "m.jsonl", [row])
        for decode in (False, True):
            report = check(Manifest(talks / "m.jsonl"), decode=decode)
            assert not report.ok and "a segment ends at 605.00 s" in json.dumps(report.to_dict())
        with pytest.raises(ManifestError, match="go on after its sound"):
            cut(Manifest(talks / "m.jsonl"), talks / "c.jsonl", max_seconds=2)
