"""Any speech LLM that transformers can load, by its id, asked in words that none was trained on here.

A model with a module of its own (``qwen2_audio``) is better asked there. `aista evaluate --set model=ID` asks
in the wordings that models of this package are trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aista.baselines.base import Baseline, identity, worded
from aista.errors import ConfigError
from aista.inference.translating import Answer, GenerationSettings, Request
from aista.inference.translator import OnSpeechLLM, answer
from aista.speech_llm import SpeechLM

PROMPTS = {
    "st": "Translate the speech into {language}. Answer with the translation only.",
    "asr": "Transcribe the speech in {language}. Answer with the transcript only.",
    "aac": "Describe the sound in one sentence.",
}
CHAT = "chat"


class InTheirWords(OnSpeechLLM, Baseline):
    """A baseline that asks a speech LLM in its authors' words.

    Attributes:
        prompts: Wordings by task, see ``worded``.
        prompt: Wording for ``st`` in their stead; None: theirs.
    """

    prompts = PROMPTS
    prompt: str | None

    def answer(self, pieces: Sequence[np.ndarray], request: Request) -> list[Answer]:
        """Answer pieces of sound, a batch at a time."""
        wording = worded(self.prompts, request, self.prompt)
        return answer(self.speech_llm, pieces, [wording] * len(pieces), self.generation)


class System(InTheirWords):
    """A speech LLM of transformers.

    Attributes:
        kind: What it is called in the card.
        only_type: The one ``model_type`` that a subclass takes.
        own_form, own_model: What a subclass takes unless told otherwise.

    Args:
        model: Folder or hub id.
        revision: Commit of a hub id.
        prompt: Wording for ``st`` in place of the standard one; see ``worded`` for its fields.
        form: How a request is written: ``chat``, as the model's class says, or a text with ``{audio}`` and
            ``{instruction}`` in it, without any template.
        dtype: E.g. ``bfloat16``; by default that on a GPU, else float32.
        generation, device: As for ``Baseline``. Clips are answered one by one unless ``batch_size`` is set:
            not every class masks padded sound.

    Raises:
        CheckpointError: The model or its processor cannot be loaded.
        ConfigError: It is no speech LLM, or its class cannot be used.
    """

    own_generation = GenerationSettings(max_new_tokens=256, batch_size=1)
    kind = "speech_llm"
    only_type: str | None = None
    own_form = CHAT
    own_model: str | None = None

    def __init__(
        self,
        model: str | None = None,
        *,
        revision: str | None = None,
        prompt: str | None = None,
        form: str | None = None,
        dtype: str | None = None,
        generation: dict[str, Any] | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(generation=generation, device=device)
        model = model or self.own_model
        if model is None:
            raise ConfigError("Which speech LLM?", expected="the option model: a folder or a hub id")
        self.form = form or self.own_form
        written = None if self.form == CHAT else self.form
        self.speech_llm = SpeechLM.load(model, revision=revision, form=written, dtype=dtype)
        self.model = self.speech_llm.model.to(self.device)
        if self.only_type not in (None, found := self.model.config.model_type):
            raise ConfigError(
                f"This is no {self.only_type}.", got=found, advice="Use the baseline speech_llm for it."
            )
        self.prompt = prompt
        self.name = Path(model).name
        self.card = {
            "system": self.kind,
            "model": identity(model, revision),
            "class": type(self.model).__name__,
            "form": self.form,
            "prompts": self.prompts if prompt is None else self.prompts | {"st": prompt},
            "longest_seconds": self.longest_seconds,
        }
        worded(self.prompts, Request("st", "en", "zh"), prompt)
