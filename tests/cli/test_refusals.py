"""What the command line refuses: in words, with exit code 2, before anything is loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aista.cli import main
from aista.run_folder import held


def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2
) -> str:
    """Run a command that is refused, or ends with another code; return what is told on stderr."""
    monkeypatch.setattr(sys, "argv", ["aista", *arguments])
    monkeypatch.setattr(main, "_add_verbs", lambda: None if main.app.registered_groups else ADD())
    with pytest.raises(SystemExit) as end, handlers(*map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))):
        main.main()
    told = capsys.readouterr().err
    assert end.value.code == code and "Traceback" not in told, told
    return told


ADD = main._add_verbs
JOINT = "output: out\ninit: aista:stage1\ndata: {train: [st.jsonl], validation: [st.jsonl]}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["translate", "clip.wav", "--to", "zh", "--device", "banana"], ["no device 'banana'", "cpu"]),
        (["translate", "clip.wav", "--to", "zh", "--device", "cuda:77"], ["no device 'cuda:77'"]),
        (["translate", "clip.wav", "--to", "zh", "--device", "meta"], ["'meta'"]),
        (["translate", "clip.wav", "--to", "zh", "--output-format", "docx"], ["docx", "srt"]),
        (["reproduce", "all", "--scale", "big"], ["big", "small", "paper"]),
        (["estimate", "--preset", "banana"], ["banana"]),
        (["estimate", "--preset", "qwen2-7b", "--dtype", "int3"], ["int3"]),
        (
            ["estimate", "--preset", "qwen2-7b", "--set", "model.lora.r=64"],
            ["--set", "model.lora.r=64"],
        ),
        (["engine", "banana"], ["banana", "fsdp2"]),
        (["download", "banana"], ["banana", "whisper"]),
    ],
)
def test_an_unknown_word_is_told_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.wav").touch()
    told = said(monkeypatch, capsys, *arguments)
    assert all(word in told for word in words), told


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_steps=-1", "train.max_steps"),
        ("train.max_steps=yes", "train.max_steps"),
        ("train.learning_rate=.nan", "finite"),
        ("train.logging_steps=0", "train.logging_steps"),
        ("data.num_workers=-2", "data.num_workers"),
        ("data.max_corrupt_share=7", "data.max_corrupt_share"),
        ("seed=-1", "seed"),
        ("seed=!!python/object/apply:os.system [ls]", "seed"),
        ("data.train=[a", "data.train=[a"),
        ("train.warmup_steps=99999999", "must not exceed max_steps"),
        ("output=$NO_SUCH_VARIABLE/x", "NO_SUCH_VARIABLE"),
        ("trian.max_steps=3", "trian"),
        ("data.validation=[]", "names nothing to validate on"),
    ],
)
@pytest.mark.parametrize("verb", ["joint"])
def test_a_setting_out_of_its_range_is_named_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    verb: str,
    override: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(JOINT)
    assert words in said(monkeypatch, capsys, verb, "--config", "s.yaml", "--set", override)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]


def test_a_place_in_a_file_is_told_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line 100 of a file is no emoji."""
    from aista.cli import main
    from aista.errors import AistaError

    main._tell(AistaError("data/train.jsonl:100: :x: not a valid utterance."))
    assert "data/train.jsonl:100: :x: not" in capsys.readouterr().err


def test_a_folder_at_work_and_a_folder_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(JOINT)
    (tmp_path / "st.jsonl").write_text("{}\n")
    with held(tmp_path / "out"):
        told = said(monkeypatch, capsys, "joint", "--config", "s.yaml")
    assert "Another process" in told and str(os.getpid()) in told
    told = said(monkeypatch, capsys, "joint", "--config", "s.yaml", "--set", "output=s.yaml/x")
    assert "cannot be written" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--answer-seconds", "inf"], ["answer_seconds", "inf", "finite"]),
        (["--upload-seconds", "inf"], ["upload_seconds"]),
        (["--max-upload-mb", "inf"], ["max_upload_mb"]),
        (["--max-minutes", "nan"], ["--max-minutes"]),
        (["--host", "256.0.0.1"], ["another --host"]),
        (["--host", "192.0.2.1"], ["another --host"]),
    ],
)
def test_what_cannot_be_served_is_told_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    pytest.importorskip("fastapi")
    told = said(monkeypatch, capsys, "serve", "--model", "no-model", *arguments)
    assert all(word in told for word in words), told


def test_a_disk_that_refuses_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(main, "app", refuse)
    monkeypatch.setattr(main, "_add_verbs", lambda: None)
    monkeypatch.setattr(sys, "argv", ["aista"])
    with pytest.raises(SystemExit) as end:
        main.main()
    told = capsys.readouterr().err
    assert end.value.code == 2 and "No space left" in told and str(tmp_path / "x") in told


def test_an_interruption_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aista.checkpoints.doctor.examine", interrupted)
    assert "Stopped." in said(monkeypatch, capsys, "doctor", code=130)


def test_an_interruption_before_there_is_a_verb_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_add_verbs", interrupted)
    monkeypatch.setattr(sys, "argv", ["aista", "doctor"])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 130 and capsys.readouterr().err == "Stopped.\n"


@contextmanager
def handlers(of_interrupt: Any, of_termination: Any) -> Iterator[None]:
    """Set what SIGINT and SIGTERM do; a shell's background ignores the first one."""
    before = [signal.signal(signal.SIGINT, of_interrupt), signal.signal(signal.SIGTERM, of_termination)]
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize("verb", ["align", "pretrain", "select", "joint", "evaluate", "probe", "prepare"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_verb_that_goes_on_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str, number: int
) -> None:
    """Ctrl-C, and SIGTERM as schedulers send it."""

    def signalled(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    for kind in ("Align", "Pretrain", "Select", "Joint", "Probe"):
        monkeypatch.setattr(f"aista.config.{kind}Settings.of", signalled)
        monkeypatch.setattr(f"aista.config.{kind}Settings.load", signalled)
    monkeypatch.setattr("aista.evaluation.evaluate.EvaluateSettings.load", signalled)
    monkeypatch.setattr("aista.data.corpora.prepare", signalled)
    words = {
        "probe": ["probe", "aista:model", "--data", "x.jsonl", "--output", "x"],
        "prepare": ["data", "prepare", "librispeech", "--source", "x", "--out", "x"],
    }.get(verb, [verb])
    with handlers(signal.default_int_handler, signal.SIG_DFL):
        told = said(monkeypatch, capsys, *words, code=130)
    assert "what was finished is kept" in told and "Run the same command again" in told


def test_what_is_ignored_and_what_a_launcher_sends_stays_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "app", lambda: sys.exit(3))
    monkeypatch.setattr(main, "_add_verbs", lambda: None)
    for handler, processes in ((signal.SIG_IGN, "1"), (signal.SIG_DFL, "2")):
        monkeypatch.setenv("WORLD_SIZE", processes)
        with handlers(signal.default_int_handler, handler):
            with pytest.raises(SystemExit):
                main.main()
            assert signal.getsignal(signal.SIGTERM) is handler


FORKS = """
import os, signal, sys, time
from aista.cli import main

def fork_and_end():
    if (child := os.fork()) == 0:
        signal.alarm(5)
        signal.pause()
    if not EARLY:
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
    sys.exit(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

EARLY = sys.argv[1] == "early"
os.register_at_fork(after_in_child=lambda: EARLY and signal.raise_signal(signal.SIGTERM))
main.app, main._add_verbs = fork_and_end, lambda: None
main.main()
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_children_of_a_pool_are_ended_by_sigterm_without_a_word(when: str) -> None:
    """OmniSTEval ends its pool so: a child that raised would go on in what it was forked from.

    One that comes before the child is told what it means is not lost.
    """
    done = subprocess.run([sys.executable, "-c", FORKS, when], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (signal.SIGTERM, "")
