"""The microphone through a stand-in for sounddevice: no build machine has one."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from aista.audio import speech
from aista.cli import translate as verb
from aista.errors import AudioError
from aista.inference import streaming
from aista.inference import translator as translator_module
from aista.inference.streaming import Stream, from_microphone
from aista.inference.translator import Translator
from tests.evaluation.standins import Model, Processor, tone

SOUND = np.concatenate([tone(2.0), np.zeros(16_000, np.float32), tone(1.0)]).astype(np.float32)


class Microphone:
    """Gives a sound block by block from a thread of its own, as PortAudio does, and then calls ``after``."""

    def __init__(self, rate, blocksize, *, channels, dtype, callback):
        assert (rate, channels, dtype) == (16_000, 1, "float32")
        self.blocksize, self.callback, self.active, self.closed = blocksize, callback, False, False
        self.after, self.status = Microphone.after, Microphone.status

    after, status = staticmethod(lambda microphone: None), ""

    def start(self):
        self.active = True
        threading.Thread(target=self._record).start()

    def _record(self):
        buffer = np.zeros((self.blocksize, 1), np.float32)  # PortAudio uses its memory again
        for place in range(0, len(SOUND), self.blocksize):
            buffer[:, 0] = SOUND[place : place + self.blocksize]
            self.callback(buffer, self.blocksize, None, self.status)
        self.after(self)

    def close(self):
        self.active, self.closed = False, True


def gone(microphone):
    microphone.active = False


@pytest.fixture
def microphone(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=Microphone))
    return lambda **what: [monkeypatch.setattr(Microphone, *each) for each in what.items()]


def test_every_sample_arrives_in_order(microphone, capsys):
    microphone(after=staticmethod(gone), status="input overflow")
    blocks = list(from_microphone(threading.Event()))
    assert np.array_equal(np.concatenate(blocks), SOUND)
    assert capsys.readouterr().err.count("input overflow") == 1


def test_a_text_that_falls_behind_is_told(microphone, monkeypatch, capsys):
    """Sound waits in memory while the model is at work: on a slow machine more and more of it."""
    microphone(after=staticmethod(gone), start=lambda self: setattr(self, "active", True) or self._record())
    for seconds, times in ((10.0, 0), (2.0, 1)):
        monkeypatch.setattr(streaming, "_BEHIND_SECONDS", seconds)
        assert np.array_equal(np.concatenate([*from_microphone(threading.Event())]), SOUND)
        assert capsys.readouterr().err.count("4 s behind the sound") == times


def test_ctrl_c_ends_with_the_last_text(microphone, monkeypatch):
    monkeypatch.setattr(speech, "is_installed", lambda: False)  # loud is speech: the stand-in hears tones
    monkeypatch.setattr(translator_module, "load", lambda *_, **__: Translator(Model(), Processor()))
    microphone(after=staticmethod(lambda _: os.kill(os.getpid(), signal.SIGINT)))
    handler = signal.getsignal(signal.SIGINT)
    result = CliRunner().invoke(verb.app, ["--live", "--to", "zh"])
    assert (result.exit_code, result.stdout) == (0, "中w6中w3\n")
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_ctrl_c_ends_at_once(microphone, monkeypatch):
    monkeypatch.setattr(speech, "is_installed", lambda: False)
    monkeypatch.setattr(translator_module, "load", lambda *_, **__: Translator(Model(), Processor()))
    handler, sent = signal.getsignal(signal.SIGINT), threading.Event()

    def twice(_):
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not handler:  # the first one has been taken
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        sent.set()

    monkeypatch.setattr(Stream, "push", lambda *_: sent.wait(60) and time.sleep(1))
    microphone(after=staticmethod(twice))
    result = CliRunner().invoke(verb.app, ["--live", "--to", "zh"])
    assert result.exit_code != 0 and "中w6" not in result.stdout
    assert signal.getsignal(signal.SIGINT) is handler


def refusing(*_, **__):
    raise RuntimeError("Error querying device -1")  # as sounddevice says it where there is no device


@pytest.mark.parametrize("at", ["__init__", "start"])
def test_no_microphone(microphone, at):
    microphone(**{at: refusing})
    with pytest.raises(AudioError, match=r"no microphone.*\n.*device -1"):
        next(from_microphone(threading.Event()))


@pytest.mark.parametrize("error", ["OSError('PortAudio library not found')", "ImportError('no sounddevice')"])
def test_no_library(monkeypatch, tmp_path, error):
    (tmp_path / "sounddevice.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(AudioError, match=r"cannot be heard[^$]*(PortAudio|sounddevice)[^$]*libportaudio2"):
        next(from_microphone(threading.Event()))
