"""Whole recordings: texts are cut by their references, streams are written as OmniSTEval reads them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from aista.audio import speech
from aista.cli import evaluate as evaluate_verb
from aista.data.manifest import TimedText, Utterance, write_manifest
from aista.data.text_files import read_json_lines
from aista.errors import EvaluationError
from aista.evaluation.decode import read_finished_lines
from aista.evaluation.long_form import Talk, long_form, resegmented, streamed, streaming, talks
from aista.evaluation.metrics import bleu
from aista.inference import translator
from aista.inference.translating import Answer, GenerationSettings
from tests.inference.test_streaming import Counter

needs_mweralign = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("mweralign"),
    reason="needs pip install '.[long-form]'",
)


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """Two talks of bursts, whose text the stand-in counts, as rows with places in them."""
    monkeypatch.setattr(speech, "is_installed", lambda: False)
    burst = 0.2 * np.sign(np.random.default_rng(0).standard_normal(24_000))
    burst *= np.repeat(np.tile([1.0, 0.2], 15), 800)  # not steady: that would be no speech
    samples = np.concatenate([burst, np.zeros(16_000), burst, np.zeros(16_000)])
    rows = []
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
        for number, start in enumerate((0.0, 2.5)):
            rows.append(
                Utterance(
                    id=f"{name}{number}", audio=f"{name}.wav", offset=start, duration=1.6, task="st",
                    tgt_lang="zh", translation="onetwothree",
                )
            )  # fmt: skip
    write_manifest(tmp_path / "talks.jsonl", rows)
    return talks([str(tmp_path / "talks.jsonl")])


def test_rows_become_talks(recordings, tmp_path):
    assert [len(talk.segments) for talk in recordings] == [2, 2]
    assert recordings[0].segments[1] == (2.5, 1.6, "onetwothree") and recordings[0].target == "zh"
    parts = [
        TimedText(offset=start, duration=1.0, text=f"t{start:g}", translation=f"z{start:g}")
        for start in (0.5, 2)
    ]
    row = {"audio": "a.wav", "offset": 0.5, "text": "whole", "translation": "ganz", "segments": parts}
    for task, letter in (("st", "z"), ("asr", "t")):
        code = {"st": "zh", "asr": None}[task]
        write_manifest(tmp_path / "parts.jsonl", [Utterance(id="a", task=task, tgt_lang=code, **row)])
        [talk] = talks([str(tmp_path / "parts.jsonl")])
        assert talk.segments == ((1.0, 1.0, f"{letter}0.5"), (2.5, 1.0, f"{letter}2"))
        assert talk.transcripts == ("t0.5", "t2") and talk.target == (code or "en")
    for row in ({"task": "aac", "text": "x"}, {"task": "asr", "text": "\u200b"}, {"task": "asr"}):
        write_manifest(tmp_path / "bare.jsonl", [Utterance(id="a", audio="a.wav", **row)])
        with pytest.raises(EvaluationError, match="no test set of recordings"):
            talks([str(tmp_path / "bare.jsonl")])


def test_a_recording_in_two_languages_is_refused(recordings, tmp_path):
    """The text of the whole would be cut by half of its references."""
    row = {"audio": "a.wav", "task": "st", "tgt_lang": "zh", "translation": "one", "duration": 1.0}
    rows = [Utterance(id=code, src_lang=code, **row) for code in ("en", "fr")]
    write_manifest(tmp_path / "rows.jsonl", rows)
    with pytest.raises(EvaluationError, match=r"a\.wav.*several spoken languages[^$]*en, fr"):
        talks([str(tmp_path / "rows.jsonl")])


def test_a_row_without_a_length_goes_to_the_end_and_one_without_a_reference_is_blank(recordings, tmp_path):
    common = {"audio": "a.wav", "task": "st", "tgt_lang": "zh"}
    rows = [
        Utterance(id="to", duration=1.6, **common),
        Utterance(id="end", offset=2.5, translation="three", **common),
    ]
    write_manifest(tmp_path / "rows.jsonl", rows)
    [talk] = talks([str(tmp_path / "rows.jsonl")])
    assert talk.segments == ((0.0, 1.6, ""), (2.5, 2.5, "three"))


@needs_mweralign
def test_each_channel_is_a_recording_of_its_own(recordings, tmp_path):
    sound, _ = soundfile.read(recordings[0].audio)
    soundfile.write(tmp_path / "call.wav", np.stack([sound, np.zeros_like(sound)], axis=1), 16_000)
    common = {"audio": "call.wav", "task": "st", "tgt_lang": "zh", "translation": "onetwothree"}
    write_manifest(
        tmp_path / "call.jsonl",
        [Utterance(id=f"{n}", channel=n % 2, offset=0.5 * n, duration=1.0, **common) for n in range(4)],
    )
    whole = talks([str(tmp_path / "call.jsonl")])
    assert [talk.name[-6:] for talk in whole] == [".wav#0", ".wav#1"]
    assert [[start for start, *_ in talk.segments] for talk in whole] == [[0.0, 1.0], [0.5, 1.5]]
    found = long_form(Counter(), whole, tmp_path / "out")
    assert [row["text"] for row in found["recordings"]] == ["onetwothree" * 2, ""]
    assert [streamed(Counter(), talk, 1.0)["prediction"] for talk in whole] == ["onetwothree" * 2, ""]


@needs_mweralign
def test_a_text_is_cut_where_its_references_are():
    references = ["The doctor left.", "She will return by plane.", "We sing."]
    assert resegmented(" ".join(references), references, "en") == references
    assert resegmented("", references, "en") == ["", "", ""]
    assert resegmented("a b c", [""], "en") == ["a b c"]  # which ends mweralign's process
    assert resegmented("b a", ["b ### a d", "d a c"], "en") == ["b a", ""]  # one reference, not two
    assert resegmented("医生走了。她会乘飞机回来。", ["医生走了。", "她会坐飞机回来。"], "zh") == [
        "医生走了。", "她会乘飞机回来。",
    ]  # fmt: skip


@needs_mweralign
@pytest.mark.parametrize(
    ("code", "references"),
    [
        ("zh", ["我在 New York 的 Wall Street 工作了三年。", "我喜欢 New York 。"]),
        ("ja", ["私は New York で働いた。", "OK です。"]),
    ],
)
def test_a_text_without_spaces_between_words_keeps_those_it_has(code, references):
    assert resegmented(" ".join(references), references, code) == references
    assert bleu(resegmented("".join(references), references, code), references, code).value > 99.9


@needs_mweralign
@given(
    st.lists(
        st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4).map(" ".join), min_size=1, max_size=4
    ),
    st.lists(st.sampled_from("abcxyz"), max_size=12).map(" ".join),
)
@settings(max_examples=50, deadline=None)
def test_no_word_is_lost_or_made_when_a_text_is_cut(references, text):
    cut = resegmented(text, references, "en")
    assert len(cut) == len(references) and " ".join(cut).split() == text.split()


class Listener(Counter):
    """Says what language it was asked to hear."""

    def answer(self, pieces, request):
        return [Answer(request.source) for _ in pieces]


@needs_mweralign
def test_each_recording_is_asked_about_in_its_own_language(recordings, tmp_path):
    other = replace(recordings[1], source="fr")
    found = long_form(Listener(), [recordings[0], other, recordings[0]], tmp_path)
    assert [row["text"] for row in found["recordings"]] == ["enen", "frfr", "enen"]
    assert streamed(Listener(), other, 1.0)["prediction"] == "frfr"


@needs_mweralign
def test_whole_recordings_are_scored(recordings, tmp_path):
    broken = Talk(str(tmp_path / "missing.wav"), "en", "zh", ((0.0, 1.0, "onetwothree"),))
    found = long_form(Counter(), recordings, tmp_path)
    assert found["scores"]["chrf_zh"] == pytest.approx(100.0) and found["num_segments"] == 4
    rows = [json.loads(line) for line in (tmp_path / "long_form.jsonl").read_text().split("\n") if line]
    assert {row["hypothesis"] for row in rows} == {"onetwothree"}
    with_broken = long_form(Counter(), [*recordings, broken], tmp_path / "broken")
    assert "missing.wav" in with_broken["recordings"][2]["error"]
    assert with_broken["scores"]["chrf_zh"] < 100.0
    assert "1 of 3 recordings failed" in with_broken["warnings"][0] and found["warnings"] == []


class Cut(Counter):
    """Says something that nobody sees, and is cut."""

    def answer(self, pieces, request):
        return [Answer("one\u200b", finished=False) for _ in pieces]


@needs_mweralign
def test_what_bends_the_scores_of_recordings_is_told(recordings, tmp_path):
    blank = replace(recordings[1], segments=((0.0, 1.0, ""),))
    told = long_form(Cut(), [recordings[0], blank], tmp_path)["warnings"]
    assert "1 of 3 segments have no reference" in told[0] and "nobody sees" in told[2]
    assert "2 of 2 recordings" in told[1] and "max_new_tokens = 200" in told[1]


@needs_mweralign
@pytest.mark.slow
def test_whole_recordings_go_on_after_kill_9_and_ask_again_after_an_error(recordings, tmp_path):
    lost = Path(recordings[1].audio)
    sound, away = lost.read_bytes(), tmp_path / "lost"
    lost.unlink()
    once = Counter()
    found = long_form(once, recordings, away)
    assert "error" in found["recordings"][1] and "error" not in found["recordings"][0]
    lost.write_bytes(sound)
    again = Counter()
    found = long_form(again, recordings, away)
    assert found["scores"]["chrf_zh"] == pytest.approx(100.0) and 0 < again.asked <= once.asked
    Victim.lives = once.asked  # answers to the first recording alone
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Victim, "generation", GenerationSettings(batch_size=1))
        process = multiprocessing.get_context("fork").Process(
            target=long_form, args=(Victim(), recordings, tmp_path / "killed")
        )
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(read_finished_lines(tmp_path / "killed" / "recordings.jsonl")) == 1
    Victim.lives = -1
    rest = Victim()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Victim, "generation", GenerationSettings(batch_size=1))
        resumed = long_form(rest, recordings, tmp_path / "killed")
    assert resumed["scores"] == found["scores"] and rest.asked == again.asked
    with pytest.raises(EvaluationError, match="another model"):
        long_form(Counter(), recordings, away, None, "another")


def test_a_row_of_the_log_has_a_delay_for_every_character(recordings):
    row = streamed(Counter(), recordings[0], 0.5)
    assert row["prediction"] == "onetwothree" * 2 and row["computation"] > 0
    assert len(row["delays"]) == len(row["elapsed"]) == row["prediction_length"] == 22
    assert row["delays"] == sorted(row["delays"]) and row["elapsed"] == sorted(row["elapsed"])
    assert all(late >= early for late, early in zip(row["elapsed"], row["delays"], strict=True))
    assert row["source_length"] == 5000.0 and max(row["delays"]) <= 5000.0
    assert row["delays"][10] >= 1000.0  # "three" was not said before


def test_a_system_that_is_slower_than_the_sound_falls_behind(recordings, monkeypatch):
    """Two seconds for every chunk of half a second: the next one waits for the one before."""
    clock = count(step=2.0)
    monkeypatch.setattr("aista.evaluation.long_form.time.perf_counter", lambda: next(clock))
    row = streamed(Counter(), recordings[0], 0.5)
    assert {delay % 500 for delay in row["delays"]} == {0.0}
    pushes = [delay / 500 for delay in row["delays"]]  # the end of the sound is a push of its own
    pushes = [
        push + (push == 10 and late > 20_500) for push, late in zip(pushes, row["elapsed"], strict=True)
    ]
    assert row["elapsed"] == [500 + 2000 * push for push in pushes] and row["computation"] == 22_000


@needs_mweralign
def test_by_the_command_line_in_the_precision_that_is_asked_for(recordings, tmp_path, monkeypatch):
    class Closed(Counter):
        closed = 0

        def close(self):
            assert self.vad  # of a baseline, too
            Closed.closed += 1

    loaded = []
    monkeypatch.setattr(translator, "load", lambda path, **given: loaded.append(given) or Closed())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    def run(*words):
        places = ["--set", f"model={tmp_path / 'model'}", "--data", str(tmp_path / "talks.jsonl")]
        asked = ["--long-form", *places, "--output", str(tmp_path / "out"), *words]
        return CliRunner().invoke(evaluate_verb.app, asked)

    Path(recordings[1].audio).unlink()
    first = run("--set", "dtype=bfloat16")
    assert first.exit_code == 0 and "warning: 1 of 2 recordings failed" in first.stderr
    assert loaded[0]["dtype"] == "bfloat16" and Closed.closed == 1
    mixed = run("--set", "dtype=float32")
    assert isinstance(mixed.exception, EvaluationError) and "other settings" in str(mixed.exception)
    assert Closed.closed == 2
    assert "--streaming" in str(run("--chunk-seconds", "2").exception) and len(loaded) == 2
    assert run("--streaming", "--chunk-seconds", "0").exit_code == 2 and len(loaded) == 2
    for package, extra in (("omnisteval", "streaming"), ("mweralign", "long-form")):  # before hours of work
        monkeypatch.setitem(sys.modules, package, None)
        told = run("--streaming").exception
        assert isinstance(told, EvaluationError) and f".[{extra}]" in str(told) and len(loaded) == 2


@needs_mweralign
def test_recordings_of_a_baseline_with_other_options_are_not_gone_on_with(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr("aista.baselines.baseline", lambda *_, **__: Counter())

    def run(*words):
        places = ["--data", str(tmp_path / "talks.jsonl"), "--output", str(tmp_path / "out")]
        asked = ["--long-form", "--baseline", "mine", *places, *words]
        return CliRunner().invoke(evaluate_verb.app, asked)

    assert run("--baseline-option", "dtype=float32").exit_code == 0
    assert run("--baseline-option", "dtype=float32", "--set", "generation.batch_size=2").exit_code == 0
    other = run("--baseline-option", "dtype=bfloat16")
    assert isinstance(other.exception, EvaluationError) and "other settings" in str(other.exception)


@pytest.mark.slow
def test_omnisteval_scores_what_is_written(recordings, tmp_path):
    pytest.importorskip("omnisteval", reason="needs pip install '.[streaming]'")
    found = streaming(Counter(), recordings, tmp_path, [0.5, 2.0])["by_chunk_seconds"]
    assert found["0.5"]["chrf"] == found["2"]["chrf"] == pytest.approx(100.0)
    assert 0 < found["0.5"]["long_yaal"] < found["2"]["long_yaal"]
    assert (tmp_path / "streaming.png").stat().st_size > 1_000
    blank = replace(recordings[1], segments=((0.0, 1.0, ""),))  # which OmniSTEval cannot score
    found = streaming(Counter(), [recordings[0], blank], tmp_path / "blank", [2.0])
    assert found["by_chunk_seconds"]["2"]["chrf"] == pytest.approx(100.0)
    assert "1 of 3 segments have no reference" in found["warnings"][0]
    halves = [replace(recordings[0], channel=0), replace(recordings[1], audio=recordings[0].audio)]
    found = streaming(Counter(), halves, tmp_path / "channels", [2.0])["by_chunk_seconds"]
    assert found["2"]["chrf"] == pytest.approx(100.0)


@pytest.mark.slow
def test_a_delay_that_cannot_be_told_is_left_out(recordings, tmp_path, monkeypatch):
    """NaN is no JSON."""
    pytest.importorskip("omnisteval", reason="needs pip install '.[streaming]'")
    clock = count(step=100.0)
    monkeypatch.setattr("aista.evaluation.long_form.time.perf_counter", lambda: next(clock))
    found = streaming(Counter(), recordings, tmp_path, [2.0])["by_chunk_seconds"]["2"]
    assert found["long_yaal"] > 0 and "ca_long_yaal" not in found
    assert "NaN" not in (tmp_path / "streaming.json").read_text()


class Victim(Counter):
    """Dies as by kill -9 when it is asked about the second recording."""

    def answer(self, pieces, request):
        if self.asked == Victim.lives:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(pieces, request)


@pytest.mark.slow
def test_streams_go_on_after_kill_9(recordings, tmp_path):
    pytest.importorskip("omnisteval", reason="needs pip install '.[streaming]'")
    once = Counter()
    streaming(once, recordings, tmp_path / "once", [1.0])
    Victim.lives = once.asked // 2 + 1
    process = multiprocessing.get_context("fork").Process(
        target=streaming, args=(Victim(), recordings, tmp_path / "twice", [1.0])
    )
    process.start()
    process.join()
    log = tmp_path / "twice" / "chunk-1" / "instances.log"
    assert process.exitcode == -signal.SIGKILL and len(log.read_text().splitlines()) == 1
    with log.open("a") as file:
        file.write('{"index": 1, "sour')  # of a line that was being written
    again = Counter()
    found = streaming(again, recordings, tmp_path / "twice", [1.0])["by_chunk_seconds"]["1"]
    assert again.asked == once.asked // 2 and found["chrf"] == pytest.approx(100.0)
    logs = (log, tmp_path / "once" / "chunk-1" / "instances.log")
    rows = [[row for _, row in read_json_lines(path)] for path in logs]
    same = ("index", "source", "prediction", "delays", "source_length")
    assert [[row[key] for key in same] for row in rows[0]] == [[row[key] for key in same] for row in rows[1]]
    finished = Counter()
    streaming(finished, recordings, tmp_path / "twice", [1.0])
    assert finished.asked == 0
    with pytest.raises(EvaluationError, match="another model"):
        streaming(Counter(), recordings, tmp_path / "twice", [1.0], "another")
