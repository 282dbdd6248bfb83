"""``aista translate`` as a user meets it: many files, formats, places, and bad input beside good."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tarfile
import threading
import wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from aista.cli import evaluate as evaluate_verb
from aista.cli import translate as translate_verb
from aista.errors import ConfigError, Interrupted
from aista.inference import formats, streaming
from aista.inference import translator as translator_module
from aista.inference.translating import GenerationSettings
from tests.audio.sounds import encoded
from tests.evaluation.standins import Model, Processor, tone

run = CliRunner()


def write_wav(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return str(path)


@pytest.fixture
def talk(tmp_path):
    return write_wav(tmp_path / "talk.wav", tone(1.0))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    def load(path, *, device=None, dtype=None, bases=None, **options):
        return translator_module.Translator(
            Model(), Processor(), name=path or "shipped", generation=GenerationSettings.of(options)
        )

    monkeypatch.setattr(translator_module, "load", load)


def translate(*words, **options):
    """Of tones, which are no speech."""
    vad = [] if "--live" in words else ["--vad", "off"]
    return run.invoke(translate_verb.app, [*(str(word) for word in words), *vad], **options)


def test_one_file_prints_the_text_alone(talk):
    result = translate(talk, "--to", "zh")
    assert (result.exit_code, result.stdout) == (0, "中w3\n")


def test_several_files_are_named_and_a_bad_one_stops_no_other(talk, tmp_path):
    (tmp_path / "broken.wav").write_text("not sound")
    silent = write_wav(tmp_path / "silent.wav", np.zeros(16_000))
    bad = [tmp_path / "broken.wav", tmp_path / "missing.wav", tmp_path]
    result = translate(talk, *bad, silent, talk, "--to", "zh")
    assert result.exit_code == 1
    assert result.stdout == f"{talk}: 中w3\n{silent}: \n{talk}: 中w3\n"
    for words in (
        "broken.wav: cannot be decoded",
        "missing.wav: no such file",
        "silent.wav: the recording is silent",
        f"Name what is in it: {tmp_path}/*",
    ):
        assert words in result.stderr
    assert "3 of 6 files could not be translated" in result.stderr


def test_stdin_is_a_file(talk):
    with open(talk, "rb") as file:
        assert translate("-", "--to", "ja", input=file.read()).stdout == "日w3\n"
    bad = translate("-", "--to", "ja", input=b"")
    assert bad.exit_code == 1 and "<stdin>: " in bad.stderr


def test_json_goes_to_stdout_one_object_a_line(talk):
    rows = [
        json.loads(line)
        for line in translate(talk, talk, "--to", "zh", "--output-format", "json").stdout.strip().split("\n")
    ]
    assert [row["text"] for row in rows] == ["中w3", "中w3"]
    assert rows[0]["model"] == "shipped" and rows[0]["settings"]["num_beams"] == 1


def test_search_options_and_model_arrive(talk):
    words = ["--beams", "4", "--batch-size", "3", "--model", "mine", "--output-format", "json"]
    row = json.loads(translate(talk, "--to", "zh", *words).stdout)
    assert row["model"] == "mine"
    assert (row["settings"]["num_beams"], row["settings"]["batch_size"]) == (4, 3)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("text", "txt"), ("srt", "srt"), ("vtt", "vtt"), ("tsv", "tsv"), ("json", "json")]
)
def test_a_folder_takes_a_file_each(talk, tmp_path, kind, suffix):
    out = tmp_path / "new" / "out"
    result = translate(talk, "--to", "zh", "--output-format", kind, "--output-dir", out)
    assert result.exit_code == 0 and result.stdout == ""
    assert "中w3" in (out / f"talk.zh.{suffix}").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_told_before_the_model_is_asked(talk, monkeypatch):
    monkeypatch.setattr(translator_module, "load", None)
    told = translate(talk, "--to", "zh", "--output-dir", f"{talk}/below").exception
    assert isinstance(told, ConfigError) and "cannot be written" in str(told)


def test_two_files_of_one_name_do_not_overwrite_each_other(talk, tmp_path):
    (tmp_path / "sub").mkdir()
    twin = write_wav(tmp_path / "sub" / "talk.wav", tone(2.0))
    result = translate(talk, twin, "--to", "zh", "--output-dir", tmp_path / "out")
    assert isinstance(result.exception, ConfigError) and "one place" in str(result.exception)
    other = write_wav(tmp_path / "talk.wave", tone(2.0))
    translate(talk, other, "--to", "zh", "--output-dir", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.txt")} == {"talk.wav.zh.txt", "talk.wave.zh.txt"}
    same = translate(
        talk, tmp_path / "sub" / ".." / "talk.wav", "--to", "zh", "--output-dir", tmp_path / "same"
    )
    assert same.exit_code == 0 and (tmp_path / "same" / "talk.zh.txt").exists()


@pytest.fixture
def asked(monkeypatch):
    """Numbers of tokens of the pieces that the model was asked about; it is interrupted at ``asked.stop``."""

    class Asked(list):
        stop = None

    asked, answer = Asked(), translator_module.Translator.answer

    def counted(self, pieces, request):
        if asked.stop == len(asked):
            raise KeyboardInterrupt
        asked.append(round(sum(map(len, pieces)) / 16_000))
        return answer(self, pieces, request)

    monkeypatch.setattr(translator_module.Translator, "answer", counted)
    return asked


def test_an_interrupted_call_goes_on(tmp_path, monkeypatch, asked):
    talks = [write_wav(tmp_path / f"{n}.wav", tone(float(n))) for n in (1, 2, 3)]
    words = [*talks, "--to", "zh", "--output-dir", tmp_path / "out", "--batch-size", "1"]
    asked.stop = 1
    stopped = translate(*words).exception
    assert isinstance(stopped, Interrupted) and "same command" in str(stopped)
    assert [path.name for path in (tmp_path / "out").glob("*.txt")] == ["1.zh.txt"]
    asked.stop = None
    again = translate(*words)
    assert again.exit_code == 0 and asked == [1, 2, 3]
    assert (
        again.stderr.count("finished before") == 1 and f"{talks[0]}: {tmp_path}/out/1.zh.txt" in again.stderr
    )
    monkeypatch.setattr(translator_module, "load", None)  # nothing is left to do: no model is loaded
    assert translate(*words).stderr.count("finished before") == 3


def test_only_what_would_come_out_again_is_kept(talk, tmp_path, asked):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    out = tmp_path / "out"

    def count(*more):
        before = len(asked)
        result = translate(talk, "--to", "zh", "--output-dir", out, *more)
        assert result.exit_code == 0, result.stderr
        return len(asked) - before

    assert (count(), count(), count("--batch-size", "1")) == (1, 0, 0)
    mine = ["--model", tmp_path / "mine"]
    changes = (["--beams", "2"], ["--max-new-tokens", "9"], ["--channel", "0"], ["--coverage", "fail"], mine)
    for more in (*changes, ["--dtype", "bfloat16"], ["--output-format", "srt"]):
        assert (count(*more), count(*more)) == (1, 0), more
    assert count() == 1  # what is there was made by other settings
    (tmp_path / "mine" / "config.json").write_text('{"other": 1}')
    assert count(*mine) == 1
    write_wav(tmp_path / "talk.wav", tone(2.0))
    assert (count(*mine), count(*mine)) == (1, 0) and (out / "talk.zh.txt").read_text() == "中w6\n"
    assert (count(*mine, "--overwrite"), count(*mine)) == (1, 0)
    (out / "talk.zh.txt").unlink()
    assert count(*mine) == 1


def test_nothing_is_lost_in_two_calls(talk, tmp_path, asked):
    """Another recording of the same name, a text that was corrected by hand, a second pipe."""
    out, other = tmp_path / "out", write_wav(tmp_path / "talk.wave", tone(2.0))
    fresh = write_wav(tmp_path / "fresh.wav", tone(1.0))
    words = ["--to", "zh", "--output-dir", out]
    assert translate(talk, *words).exit_code == 0
    refused = translate(other, fresh, *words)
    assert refused.exit_code == 1 and "1 of 2 files" in refused.stderr and asked == [1, 1]
    told = "".join(refused.stderr.split("\n"))
    assert "another recording" in told and talk in told and "--overwrite" in told
    assert (out / "talk.zh.txt").read_text() == "中w3\n" and (out / "fresh.zh.txt").exists()
    (out / "talk.zh.txt").write_text("corrected")
    assert "changed since" in translate(talk, *words).stderr
    assert (out / "talk.zh.txt").read_text() == "corrected"
    assert translate(other, *words, "--overwrite").exit_code == 0
    assert (out / "talk.zh.txt").read_text() == "中w6\n"
    for content, code in ((talk, 0), (other, 1), (talk, 0)):
        with open(content, "rb") as file:
            assert translate("-", *words, input=file.read()).exit_code == code
    (tmp_path / "moved").mkdir()
    (tmp_path / "fresh.wav").rename(tmp_path / "moved" / "fresh.wav")
    assert "finished before" in translate(tmp_path / "moved" / "fresh.wav", *words).stderr


def test_a_process_may_die_at_any_time(talk, tmp_path, asked, monkeypatch):
    out, words = tmp_path / "out", [talk, "--to", "zh", "--output-dir", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(formats, "write_whole", lambda *_: 1 / 0)
        assert isinstance(translate(*words).exception, ZeroDivisionError)
    record = out / ".translations.jsonl"
    assert record.exists() and not (out / "talk.zh.txt").exists()
    record.write_bytes(record.read_bytes()[:-20] + b"\xff")
    assert translate(*words).exit_code == 0 and len(asked) == 2
    assert "finished before" in translate(*words).stderr
    write_wav(tmp_path / "talk.wav", tone(2.0))
    with monkeypatch.context() as patch:
        patch.setattr(formats, "write_whole", lambda *_: 1 / 0)
        translate(*words)
    assert translate(*words).exit_code == 0 and (out / "talk.zh.txt").read_text() == "中w6\n"


def test_two_calls_at_once_do_not_write_over_each_other(talk, tmp_path, monkeypatch):
    """What another call has written since this one began is kept as what was there before."""
    out, words = tmp_path / "out", ["--to", "zh", "--output-dir", tmp_path / "out"]
    (tmp_path / "other").mkdir()
    other = write_wav(tmp_path / "other" / "talk.wav", tone(2.0))
    fresh = write_wav(tmp_path / "fresh.wav", tone(1.0))
    answer, inner = translator_module.Translator.answer, []

    def while_the_other_writes(self, pieces, request):
        if not inner:
            inner.append(None)
            inner.append(translate(other, *words))
        return answer(self, pieces, request)

    monkeypatch.setattr(translator_module.Translator, "answer", while_the_other_writes)
    outer = translate(talk, fresh, *words)
    assert inner[1].exit_code == 0 and (out / "talk.zh.txt").read_text() == "中w6\n"
    assert outer.exit_code == 1 and "1 of 2 files" in outer.stderr and (out / "fresh.zh.txt").exists()
    assert "another recording" in outer.stderr and "--overwrite" in outer.stderr
    assert "finished before" in translate(other, *words).stderr
    inner.clear()
    assert translate(talk, *words, "--overwrite").exit_code == 0
    assert (out / "talk.zh.txt").read_text() == "中w3\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_read_once(talk, tmp_path):
    """As of `aista translate <(ffmpeg ...)`: its digest took it all, and then it was waited for."""
    out, pipe = tmp_path / "out", tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    content = Path(talk).read_bytes()
    for words, wanted in ((["--output-dir", out], ""), (["--output-dir", out], ""), ([], "中w3\n")):
        writer = threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True)
        writer.start()
        result = translate(pipe, "--to", "zh", *words)
        writer.join(10)
        assert (result.exit_code, result.stdout) == (0, wanted) and not writer.is_alive()
    assert (out / "pipe.zh.txt").read_text() == "中w3\n"


def test_recordings_in_archives_are_told_apart(tmp_path):
    out, words = tmp_path / "out", ["--to", "zh", "--output-dir", tmp_path / "out"]
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(write_wav(tmp_path / "new.wav", tone(seconds)), "talk.wav")
    assert translate(tmp_path / "one.tar" / "talk.wav", *words).exit_code == 0
    assert "finished before" in translate(tmp_path / "one.tar" / "talk.wav", *words).stderr
    refused = translate(tmp_path / "two.tar" / "talk.wav", *words)
    assert refused.exit_code == 1 and "another recording" in refused.stderr
    assert (out / "talk.zh.txt").read_text() == "中w3\n"


def test_several_subtitle_files_need_a_folder_and_stdin_comes_once(talk):
    assert "--output-dir" in str(translate(talk, talk, "--to", "zh", "--output-format", "srt").exception)
    assert "only once" in str(translate("-", "-", "--to", "zh", input=b"").exception)


def test_a_language_the_model_does_not_know(talk):
    assert "en-zh, en-ja, en-en" in str(translate(talk, "--to", "de").exception)
    assert translate(talk).exit_code == 2  # --to is needed


@pytest.mark.parametrize("verb", [translate_verb, evaluate_verb])
def test_help_shows_examples(verb):
    text = run.invoke(verb.app, ["--help"]).stdout
    assert "Examples" in text and "aista " in text


def pcm(samples) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def test_live_from_a_pipe_gives_text_as_it_becomes_stable(monkeypatch):
    from aista.audio import speech

    monkeypatch.setattr(speech, "is_installed", lambda: False)  # loud is speech: the stand-in hears tones
    sound = np.concatenate([tone(2.0), np.zeros(16_000), tone(1.0)])
    result = translate("-", "--to", "zh", "--live", input=pcm(sound))
    assert (result.exit_code, result.stdout) == (0, "中w6中w3\n")
    rows = translate("-", "--to", "zh", "--live", "--output-format", "json", input=pcm(sound)).stdout.split(
        "\n"
    )
    emissions = [json.loads(row) for row in rows if row]
    assert "".join(row["text"] for row in emissions) == "中w6中w3"
    assert [row["end"] for row in emissions] == sorted(row["end"] for row in emissions)


@pytest.mark.parametrize(
    "option",
    [
        ["--output-dir", "out"], ["--output-format", "srt"], ["--output-format", "vtt"],
        ["--output-format", "tsv"], ["--channel", "0"], ["--coverage", "fail"], ["--coverage", "retry"],
        ["--max-minutes", "5"], ["--vad", "off"], ["--overwrite"],
    ],
)  # fmt: skip
def test_live_refuses_what_is_for_files(monkeypatch, option):
    monkeypatch.setenv("COLUMNS", "200")
    refused = translate("-", "--to", "zh", "--live", *option, input=pcm(tone(1.0)))
    assert refused.exit_code == 2
    told = " ".join(option) if option[0] in ("--output-format", "--coverage", "--vad") else option[0]
    assert f"leave out {told}" in refused.stderr


def test_chunks_are_of_live_alone(talk):
    assert translate(talk, "--to", "zh", "--chunk-seconds", "1").exit_code == 2
    assert translate(talk, "--to", "zh", "--overwrite").exit_code == 2  # nor is this of stdout


class Terminal(io.StringIO):
    """Four rows of 20 columns and what has scrolled off them."""

    def isatty(self):
        return True

    @property
    def rows(self):
        rows, top, row = [""], 0, 0
        for number, command, letter in re.findall(
            r"\x1b\[\??(\d*(?:;\d+)*)([A-Za-z])|([^\x1b])", self.getvalue()
        ):
            if letter == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
                top = max(top, row - 3)
            elif letter == "\r":
                pass  # every line is erased, or written whole
            elif command == "A":
                row = max(top, row - int(number or 1))
            elif command == "K":
                rows[row] = ""
            elif letter:
                rows[row] += letter
        return [row.rstrip() for row in rows]


def test_a_long_live_text_is_drawn_once(monkeypatch):
    """Lines that a terminal has scrolled away cannot be drawn anew: they were, at every tenth of a second."""
    said = [f"word{number}" for number in range(60)]

    class Talking:
        text = unstable = ""

        def __init__(self, *_, **__):
            self._left = iter(said)

        def push(self, samples):
            word = next(self._left, "")
            self.text, self.unstable = f"{self.text} {word}".strip(), "and perhaps more"
            return None

        def finish(self):
            self.unstable = ""

    screen = Terminal()
    monkeypatch.setattr(streaming, "Stream", Talking)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(bytes(3200 * 70))))
    for name, value in (("COLUMNS", "20"), ("LINES", "4"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    translate_verb._live(None, "en", "en", 1.0, piped=True, as_json=False)
    assert " ".join(screen.rows).split() == said


def test_ctrl_c_while_a_sentence_is_answered_keeps_it(monkeypatch):
    from aista.audio import speech

    monkeypatch.setattr(speech, "is_installed", lambda: False)
    answered, answer = [], translator_module.Translator.answer

    def interrupted_once(self, pieces, request):
        answered.append(len(pieces[0]))
        if len(answered) == 3:  # the first sentence has ended: it was asked about twice before
            raise KeyboardInterrupt
        return answer(self, pieces, request)

    monkeypatch.setattr(translator_module.Translator, "answer", interrupted_once)
    sound = np.concatenate([tone(2.0), np.zeros(16_000), tone(1.0)])
    result = translate("-", "--to", "zh", "--live", input=pcm(sound))
    assert (result.exit_code, result.stdout) == (0, "中w6\n") and len(answered) == 4


def test_live_takes_samples_not_files_and_one_source(talk):
    with open(talk, "rb") as file:
        wav = file.read()
    webm = bytes.fromhex("1a45dfa39f4286810142f7810142f2810442f381084282847765626d") + bytes(4_000)
    for content in (wav, encoded(tone(1.0), format="AIFF"), webm, b"ID3\x04" + bytes(4_000)):
        assert "raw samples" in str(translate("-", "--to", "zh", "--live", input=content).exception)
    assert translate(talk, "--to", "zh", "--live").exit_code == 2
    assert translate("--to", "zh").exit_code == 2
