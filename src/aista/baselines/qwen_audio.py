"""Qwen-Audio, whose code on the hub runs with transformers 4.32 only: asked in an environment of its own."""

from __future__ import annotations

import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.baselines.base import Baseline, worded
from aista.errors import ConfigError, EvaluationError
from aista.inference.translating import Answer, GenerationSettings, Request

# The tags of its own evaluation of speech translation; it knows these languages.
PROMPTS = {
    "st": "<|startoftranscript|><|{source}|><|translate|><|{target}|><|notimestamps|><|itn|>",
    "asr": "<|startoftranscript|><|{source}|><|transcribe|><|{target}|><|notimestamps|><|itn|>",
}
LANGUAGES = ("en", "zh", "de", "es", "ko", "fr", "ja", "it")


@dataclass(frozen=True)
class Options:
    """What is asked, and in which environment.

    Attributes:
        python: The interpreter of its environment (``runners/qwen_audio.requirements.txt``).
        model: Hub id, or folder.
        revision: Commit of the hub id.
        runner: A script that speaks the protocol of ``runners/qwen_audio.py``, in place of that.
        start_seconds, answer_seconds: How long loading and one answer may take.
    """

    python: str = ""
    model: str = "Qwen/Qwen-Audio"
    revision: str | None = None
    runner: str | None = None
    start_seconds: float = 3600.0
    answer_seconds: float = 600.0


class System(Baseline):
    """Qwen-Audio (the base model): greedy, at most 256 new tokens, one clip at a time.

    Args:
        options: Its model and its environment.
        generation, device: As for ``Baseline``.

    Raises:
        ConfigError: The interpreter is not there.
        EvaluationError: The runner did not get ready.
    """

    options = Options
    own_generation = GenerationSettings(max_new_tokens=256, batch_size=1)

    def __init__(
        self, options: Options, *, generation: dict[str, Any] | None = None, device: str | None = None
    ) -> None:
        super().__init__(generation=generation, device=device)
        if not options.python:
            raise ConfigError(
                "Qwen-Audio needs an environment of its own.",
                expected="the option python: the interpreter of that environment",
                advice=f"Make one from {script('qwen_audio.requirements.txt')}.",
            )
        model, revision = options.model, options.revision
        command = [options.python, str(options.runner or script("qwen_audio.py")), "--model", model]
        command += ["--device", str(self.device), *(["--revision", revision] if revision else [])]
        self.runner = Runner(
            command, start_seconds=options.start_seconds, answer_seconds=options.answer_seconds
        )
        self.runner.start()
        self.name = Path(model).name
        self.card = {
            "system": "qwen_audio",
            "model": {"source": model, "revision": revision},
            "prompts": PROMPTS,
            "versions": self.runner.versions,
        }

    @property
    def longest_seconds(self) -> float:
        """30 s: its Whisper encoder drops the rest."""
        return 30.0

    @property
    def directions(self) -> tuple[str, ...]:
        """Every pair of the languages that have a tag."""
        return tuple(f"{source}-{target}" for source in LANGUAGES for target in LANGUAGES)

    def answer(self, pieces: Sequence[np.ndarray], request: Request) -> list[Answer]:
        """Answer pieces of sound, each through a file that the runner reads."""
        prompt = worded(PROMPTS, request)
        search = self.generation.model_dump(exclude={"batch_size"})
        answers = []
        with TemporaryDirectory(prefix="aista-") as folder:
            for number, samples in enumerate(pieces):
                path = Path(folder) / f"{number}.wav"
                soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
                row = {"id": str(number), "audio": str(path), "prompt": prompt, **search}
                answers.append(self.runner.ask(row))
        return answers

    def close(self) -> None:
        """End the runner."""
        self.runner.stop()


_MOST_DEATHS = 3


class Runner:
    """The near end of the pipe. It starts when it is first asked, and again after a death.

    Args:
        command: What to run.
        start_seconds: How long loading the model may take.
        answer_seconds: How long one answer may take; a runner that takes longer is ended.
    """

    def __init__(
        self, command: list[str], *, start_seconds: float = 3600.0, answer_seconds: float = 600.0
    ) -> None:
        self.command = command
        self.start_seconds, self.answer_seconds = start_seconds, answer_seconds
        self.versions: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._deaths = 0

    def start(self) -> None:
        """Start the process and wait until it is ready; nothing if it runs.

        Raises:
            ConfigError: There is no such program.
            EvaluationError: It did not get ready; the message ends with what it said.
        """
        if self._process is not None:
            return
        try:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            raise ConfigError(
                "The runner cannot be started.",
                got=f"{self.command[0]}: {error.strerror}",
                advice="Make its environment first, see docs/guides/baselines.md.",
            ) from None
        self._process, self._lines = process, queue.Queue()
        threading.Thread(target=_pump, args=(process, self._lines), daemon=True).start()
        greeting = self._next(self.start_seconds)
        if greeting is None or not greeting.get("ready"):
            self.stop()
            raise EvaluationError("The runner did not get ready.", got=self.last_words())
        self.versions = dict(greeting.get("versions") or {})

    def ask(self, row: dict[str, Any]) -> Answer:
        """Ask for one answer; a failure of the row, or of the runner on the row, is an answer with an error.

        Raises:
            EvaluationError: The runner dies again and again.
        """
        self.start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._process.stdin.flush()
            found = self._next(self.answer_seconds)
        except OSError:
            found = None
        if found is None or found.get("id") != row["id"]:
            self.stop()
            self._deaths += 1
            if self._deaths >= _MOST_DEATHS:
                raise EvaluationError("The runner dies again and again.", got=self.last_words())
            return Answer("", error=f"the runner gave no answer: {self.last_words()}")
        self._deaths = 0
        error = str(found["error"]) if found.get("error") else None
        return Answer(str(found.get("hyp") or ""), bool(found.get("finished", True)), error)

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """Return the next line as an object; None at the end, after too long, or where it is none."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        try:
            found = json.loads(line or "null")
        except json.JSONDecodeError:
            return None
        return found if isinstance(found, dict) else None

    def last_words(self) -> str:
        """Return the end of what the process wrote to stderr."""
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        self._log.seek(0, 2)
        return " / ".join(lines[-3:]) or "it said nothing"

    def stop(self) -> None:
        """End the process, politely first."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        try:
            process.wait(timeout=0.5 if self._deaths else 2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Move lines from the process to the queue, and a None when it ends."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def script(name: str) -> Path:
    """Return the path of a runner that comes with this package."""
    return Path(__file__).with_name("runners") / name
