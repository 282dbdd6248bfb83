"""Any speech LLM that transformers can load, by its id: Granite Speech, Voxtral, Qwen2-Audio, GLM-ASR, ...

A best effort: the form of the prompt follows the processor, and anything that does not fit is an error that
says what. A model with a module of its own (``qwen2_audio``) is better asked there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from transformers import AutoConfig, AutoProcessor

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.baselines.base import Baseline, identity, worded
from aista.baselines.pretrained import ask, load_model, load_processor
from aista.errors import ConfigError
from aista.inference.answering import Answer, GenerationSettings
from aista.inference.translating import Request
from aista.model.bases import locate, refusal
from aista.speech_llm.adapter import auto_class

PROMPTS = {
    "st": "Translate the speech into {language}. Answer with the translation only.",
    "asr": "Transcribe the speech in {language}. Answer with the transcript only.",
    "aac": "Describe the sound in one sentence.",
}
CHAT, TOKEN, FILES = "chat", "token", "files"
# Where the processor does not say it: Granite's template takes text with its audio token inside; Voxtral's
# tokenizer reads sound files itself.
_FORMS = {"granite_speech": TOKEN, "granite_speech_plus": TOKEN, "voxtral": FILES}
_OF_TEXT = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


class System(Baseline):
    """A speech LLM of transformers.

    Attributes:
        prompts: Wordings by task, see ``worded``.
        kind: What it is called in the card.
        only_type: The one ``model_type`` that a subclass takes.
        own_form, own_model: What a subclass takes unless told otherwise.

    Args:
        model: Folder or hub id.
        revision: Commit of a hub id.
        prompt: Wording for ``st`` in place of the standard one; see ``worded`` for its fields.
        form: How sound and instruction are put together. ``chat``: parts of a message, through the chat
            template. ``token``: the audio token in the text of a message. ``files``: as ``chat``, the sound
            as files. Or a text with ``{audio}`` and ``{instruction}`` in it, without any template.
        longest: Seconds that are heard at once; what is longer is cut at quiet places.
        dtype: E.g. ``bfloat16``; by default that on a GPU, else float32.
        generation, device: As for ``Baseline``. Clips are answered one by one unless ``batch_size`` is set:
            not every class masks padded sound.

    Raises:
        CheckpointError: The model or its processor cannot be loaded.
        ConfigError: It is no speech LLM, or its prompt has no form known here.
    """

    tasks = frozenset({"st", "asr", "aac"})
    own_generation = GenerationSettings(max_new_tokens=256, batch_size=1)
    prompts = PROMPTS
    kind = "speech_llm"
    only_type: str | None = None
    own_form: str | None = None
    own_model: str | None = None

    def __init__(
        self,
        model: str | None = None,
        *,
        revision: str | None = None,
        prompt: str | None = None,
        form: str | None = None,
        longest: float = 30.0,
        dtype: str | None = None,
        generation: dict[str, Any] | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__(generation=generation, device=device)
        model = model or self.own_model
        if model is None:
            raise ConfigError("Which speech LLM?", expected="the option model: a folder or a hub id")
        model_type, auto = _class_of(model, revision)
        if self.only_type not in (None, model_type):
            raise ConfigError(
                f"This is no {self.only_type}.", got=model_type, advice="Use the baseline speech_llm for it."
            )
        self.processor = load_processor(AutoProcessor, model, revision)
        self.form = form or self.own_form or _form_of(model_type, self.processor)
        self.model = load_model(auto, model, revision, dtype, self.device)
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        self.tokenizer.padding_side = "left"
        self.prompt = prompt
        extractor = getattr(self.processor, "feature_extractor", None)
        span = getattr(extractor, "n_samples", None)
        self._longest = min(float(longest), span / SAMPLE_RATE_HZ if span else float(longest))
        self.name = Path(model).name
        self.card = {
            "system": self.kind,
            "model": identity(model, revision),
            "class": type(self.model).__name__,
            "form": self.form,
            "prompts": self.prompts if prompt is None else self.prompts | {"st": prompt},
            "longest_seconds": self._longest,
        }
        worded(self.prompts, Request("st", "en", "zh"), prompt)

    @property
    def longest_seconds(self) -> float:
        """What is heard at once; Whisper's encoder inside most of them takes 30 s and drops the rest."""
        return self._longest

    def answer(self, pieces: Sequence[np.ndarray], request: Request) -> list[Answer]:
        """Answer pieces of sound, a batch at a time."""
        wording = worded(self.prompts, request, self.prompt)
        answers: list[Answer] = []
        for start in range(0, len(pieces), self.generation.batch_size):
            batch = pieces[start : start + self.generation.batch_size]
            answers += ask(self.model, self.tokenizer, self._inputs(batch, wording), self.generation)
        return answers

    def _inputs(self, pieces: Sequence[np.ndarray], wording: str) -> Any:
        """Return what the model takes.

        Raises:
            ConfigError: The processor does not put the sound in: the model would answer without hearing it.
        """
        if self.form == FILES:
            inputs = self._from_files(pieces, wording)
        else:
            inputs = self.processor(
                text=[self._text(wording)] * len(pieces),
                audio=list(pieces),  # `audios` is the old name: it would be ignored without a word
                sampling_rate=SAMPLE_RATE_HZ,
                text_kwargs={"padding": True},  # of the text alone: each extractor knows how sound is padded
                return_tensors="pt",
            )
        if not set(inputs) - _OF_TEXT:
            raise ConfigError(
                "The processor left the sound out.", got=", ".join(inputs), advice="Choose another form."
            )
        return inputs

    def _text(self, wording: str) -> str:
        if self.form == CHAT:
            content: Any = [{"type": "audio"}, {"type": "text", "text": wording}]
            return self._templated(self.processor, content)
        if self.form == TOKEN:
            templated = self.processor if self.processor.chat_template else self.tokenizer
            return self._templated(templated, f"{self.processor.audio_token}{wording}")
        return self.form.format(audio=self.processor.audio_token, instruction=wording)

    @staticmethod
    def _templated(templated: Any, content: Any) -> str:
        message = {"role": "user", "content": content}
        return templated.apply_chat_template([message], add_generation_prompt=True, tokenize=False)

    def _from_files(self, pieces: Sequence[np.ndarray], wording: str) -> Any:
        with TemporaryDirectory(prefix="aista-") as folder:
            messages = []
            for number, samples in enumerate(pieces):
                path = Path(folder) / f"{number}.wav"
                soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="FLOAT")
                content = [{"type": "audio", "path": str(path)}, {"type": "text", "text": wording}]
                messages.append([{"role": "user", "content": content}])
            return self.processor.apply_chat_template(messages)


def _class_of(source: str, revision: str | None) -> tuple[str, Any]:
    """Return the type of a model, and the Auto class that loads it.

    Raises:
        ConfigError: transformers knows no such model, or it takes no speech and instruction.
    """
    try:
        config = AutoConfig.from_pretrained(locate(source, revision=revision), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        told = refusal("", source, error)
        raise ConfigError(
            f"transformers knows no model at {source}.",
            got=told.got,
            expected=told.expected,
            advice=told.advice,
        ) from error
    return str(config.model_type), auto_class(config)


def _form_of(model_type: str, processor: Any) -> str:
    """Return the form of the prompt that suits a processor.

    Raises:
        ConfigError: It has no chat template and no audio token.
    """
    if model_type in _FORMS:
        return _FORMS[model_type]
    if getattr(processor, "chat_template", None):
        return CHAT
    tokenizer = getattr(processor, "tokenizer", None)
    if getattr(tokenizer, "chat_template", None) and hasattr(processor, "audio_token"):
        return TOKEN
    raise ConfigError(
        "Nothing says how this model is asked: its processor has no chat template.",
        got=type(processor).__name__,
        advice="Set form to a text with {audio} and {instruction} in it."
        if hasattr(processor, "audio_token")
        else "A Whisper belongs into cascade, a model of ours into --set model=.",
    )
