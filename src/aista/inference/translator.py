"""Any sound into text: ``aista.load().translate("talk.wav", target="zh")``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from aista import processes
from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.audio.speech import Segment
from aista.inference.translating import (
    Answer,
    GenerationSettings,
    Request,
    Sound,
    SpeechTranslator,
    TranslatedSegment,
    Translation,
)
from aista.inference.words import letter_times, token_times
from aista.model.bases import full_name
from aista.model.lora import to_base_dtype
from aista.speech_llm import Content, SpeechLM
from aista.text.prompts import instruction

__all__ = ["ABOUT", "SHIPPED", "Sound", "TranslatedSegment", "Translation", "Translator", "load"]

SHIPPED = "aista:model"
ABOUT = {  # what whoever uses a shipped model should know
    SHIPPED: "This is the small model that aista ships. It knows 264 English words of one grammar, in the"
    " voices of a speech synthesiser. Whatever else it hears becomes fluent nonsense.",
    "aista:base": "This is the base model that aista ships. It learnt English from six hours of one"
    " synthetic voice: of people's speech it gets many words wrong, and answers fluently all the same.",
}


def load(
    path: str | os.PathLike[str] | None = None, *, device: str | None = None, dtype: str | None = None,
    replace_bases: dict[str, str] | None = None, **options: Any,
) -> Translator:  # fmt: skip
    """Load a model and its processor, ready to translate.

    Args:
        path: Folder of a model, ``aista:NAME`` for one that comes with the package (``base``: the one over
            Whisper-base and Qwen2.5-Coder-0.5B), id or folder of any speech LLM of transformers, or ``None``
            for the small model that needs no download.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; by default a GPU where there is one.
        dtype: Of the frozen weights, e.g. ``bfloat16``; by default bfloat16 on a GPU, float32 on a CPU. LoRA
            is rounded to it: what is to be trained or saved is loaded by ``SpeechLM.load``.
        replace_bases: Where the bases of a model of ours lie on this machine, if not where they lay, e.g.
            ``{"backbone": "models/qwen2.5-0.5b"}``.
        options: Search settings, e.g. ``num_beams=4`` (see ``GenerationSettings``).

    Speech is looked for before it is translated: set ``vad`` to False to have all heard but what is steady
    (silence, noise, a tone) for two seconds at the ends of a piece.

    Raises:
        CheckpointError: There is no such model, or its parts do not belong together.
        ConfigError: An option is unknown, or there is no such device.
    """
    name = SHIPPED if path is None else full_name(os.fspath(path))
    generation = GenerationSettings.of(options, source="the options of load")

    place = processes.device_named(device)
    speech_llm = SpeechLM.load(name, dtype=dtype, replace_bases=replace_bases)
    to_base_dtype(speech_llm.model.to(place))
    translator = Translator(speech_llm.model, speech_llm.processor, name=name, generation=generation)
    translator.vad = True
    return translator


class OnSpeechLLM(SpeechTranslator):
    """Whatever asks a speech LLM: it hears as much at once as that does, in the pieces that it takes.

    Attributes:
        speech_llm: What is asked.
    """

    tasks = frozenset({"st", "asr", "aac"})
    speech_llm: SpeechLM

    @property
    def longest_seconds(self) -> float:
        """How much the model hears at once, in seconds."""
        return self.speech_llm.longest_seconds

    def pieces(self, samples: np.ndarray) -> list[Segment]:
        """Cut a recording as this kind of model hears it."""
        return self.speech_llm.pieces(samples)


class Translator(OnSpeechLLM):
    """A speech LLM that turns sound into text, in the standard wordings of this package.

    Args:
        model: Any speech LLM of transformers' contract.
        processor: Its processor.
        name: What to call it in results.
        generation: How it searches.
    """

    zero_shot = True

    def __init__(
        self, model: Any, processor: Any, *, name: str = "", generation: GenerationSettings | None = None
    ) -> None:
        self.model, self.processor = model, processor
        self.speech_llm = SpeechLM(model, processor)
        self.reads_text = not self.speech_llm.kind.takes_files
        frames = model.config.frames_per_window if self.speech_llm.is_ours else 0
        self.shortest_samples = frames * SAMPLES_PER_FRAME
        self.name = name
        self.generation = generation or GenerationSettings()

    @property
    def directions(self) -> tuple[str, ...]:
        """What the model was trained for, e.g. ``("en-zh", "en-en")``; empty where it does not say."""
        return self.speech_llm.directions

    def answer(self, pieces: Sequence[np.ndarray], request: Request) -> list[Answer]:
        """Answer pieces of sound, or cached features (frames, D), in the standard wording of the task."""
        wording = request.prompt or instruction(request.task, request.target)
        return answer(self.speech_llm, pieces, [wording] * len(pieces), self.generation)

    def answer_texts(self, texts: Sequence[str], request: Request) -> list[Answer]:
        """Answer texts that stand where the speech would stand (zero-shot text translation)."""
        wording = request.prompt or instruction(request.task, request.target)
        return answer(self.speech_llm, texts, [wording] * len(texts), self.generation)

    @torch.no_grad()
    def time_words(
        self, pieces: Sequence[np.ndarray], texts: Sequence[str], request: Request
    ) -> list[np.ndarray] | None:
        """Return when each letter of answers is heard, by time warping at the middle layer.

        The cost is one minus the cosine between hidden states of the sound and of the answer in its place.
        """
        wording = request.prompt or instruction(request.task, request.target)
        tokenizer, layer = self.processor.tokenizer, self.speech_llm.num_layers // 2
        if not getattr(tokenizer, "is_fast", False):
            return None
        spoken = self.speech_llm.batcher.translation(pieces, [wording] * len(pieces), padding_side="right")
        written = self.speech_llm.batcher.written(spoken, texts)
        device = self.model.device
        heard = self.speech_llm.states(spoken.to(device), [layer])[layer].float()
        read = self.speech_llm.text_states(written.to(device), [layer])[layer].float()
        found = []
        for row, (piece, text) in enumerate(zip(pieces, texts, strict=True)):
            if not text:
                found.append(np.zeros((0, 2)))
                continue
            windows = functional.normalize(heard[row][spoken.span[row].to(device)], dim=-1)
            tokens = functional.normalize(read[row][written.span[row].to(device)], dim=-1)
            times = token_times((1.0 - windows @ tokens.T).cpu().numpy(), len(piece) / SAMPLE_RATE_HZ)
            cut = tokenizer(  # as plain_ids cut it for the states
                text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
            )
            found.append(letter_times(cut["offset_mapping"], times, len(text)))
        return found


def answer(
    speech_llm: SpeechLM,
    contents: Sequence[Content],
    instructions: Sequence[str],
    generation: GenerationSettings,
) -> list[Answer]:
    """Let a speech LLM answer, ``generation.batch_size`` prompts at a time.

    Args:
        speech_llm: Its model in eval mode.
        contents: What stands in the prompts' speech slots, all of one kind.
        instructions: What is asked for, one for each.
        generation: How to search.

    Returns:
        One answer per prompt, in order; the batch size does not change them.
    """
    options = generation.model_dump(exclude={"batch_size"})
    tokenizer, ends = speech_llm.batcher.tokenizer, speech_llm.ends
    answers: list[Answer] = []
    for start in range(0, len(contents), generation.batch_size):
        stop = start + generation.batch_size
        batch = speech_llm.batcher.translation(contents[start:stop], instructions[start:stop])
        new_tokens = speech_llm.generate(batch.to(speech_llm.model.device), **options, do_sample=False)
        for row in new_tokens.tolist():
            end = next((token for token in row if token in ends), ends[0])
            answers.append(read_answer(row, tokenizer, end, generation.max_new_tokens))
    return answers


def read_answer(tokens: list[int], tokenizer: Any, end: int, max_new_tokens: int) -> Answer:
    """Turn the new tokens of one answer into text, up to the end token."""
    ended = end in tokens
    tokens = tokens[: tokens.index(end)] if ended else tokens
    text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return Answer(text, finished=ended or len(tokens) < max_new_tokens)
