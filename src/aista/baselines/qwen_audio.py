"""Qwen-Audio, whose code on the hub runs with transformers 4.32 only: asked in an environment of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.baselines.base import Baseline, worded
from aista.baselines.runner import Runner, script
from aista.errors import ConfigError
from aista.inference.answering import Answer, GenerationSettings
from aista.inference.translating import Request

# The tags of its own evaluation of speech translation; it knows these languages.
PROMPTS = {
    "st": "<|startoftranscript|><|{source}|><|translate|><|{target}|><|notimestamps|><|itn|>",
    "asr": "<|startoftranscript|><|{source}|><|transcribe|><|{target}|><|notimestamps|><|itn|>",
}
LANGUAGES = ("en", "zh", "de", "es", "ko", "fr", "ja", "it")


class System(Baseline):
    """Qwen-Audio (the base model): greedy, at most 256 new tokens, one clip at a time.

    Args:
        python: The interpreter of its environment (``runners/qwen_audio.requirements.txt``).
        model: Hub id, or folder.
        revision: Commit of the hub id.
        runner: A script that speaks the protocol of ``runners/qwen_audio.py``, in place of that.
        start_seconds, answer_seconds: How long loading and one answer may take.
        generation, device: As for ``Baseline``.

    Raises:
        ConfigError: The interpreter is not there.
        EvaluationError: The runner did not get ready.
    """

    own_generation = GenerationSettings(max_new_tokens=256, batch_size=1)

    def __init__(
        self,
        python: str = "",
        *,
        model: str = "Qwen/Qwen-Audio",
        revision: str | None = None,
        runner: str | None = None,
        start_seconds: float = 3600.0,
        answer_seconds: float = 600.0,
        generation: dict[str, Any] | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(generation=generation, device=device)
        if not python:
            raise ConfigError(
                "Qwen-Audio needs an environment of its own.",
                expected="the option python: the interpreter of that environment",
                advice=f"Make one from {script('qwen_audio.requirements.txt')}.",
            )
        command = [python, str(runner or script("qwen_audio.py")), "--model", model]
        command += ["--device", str(self.device), *(["--revision", revision] if revision else [])]
        self.runner = Runner(command, start_seconds=start_seconds, answer_seconds=answer_seconds)
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
