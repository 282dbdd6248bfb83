"""A speech LLM answers prompts: how it searches, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from aista.audio.files import is_silent
from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.audio.segments import Segment, segment
from aista.config import Count, Settings
from aista.speech_llm import Content, SpeechLM


class GenerationSettings(Settings):
    """How an answer is searched for.

    Attributes:
        num_beams: 1 is greedy search. The paper names none; SALMONN, its base, uses 4.
        max_new_tokens: Longest answer to one segment of audio, in tokens.
        batch_size: Segments decoded at once; it does not change the answers.
        length_penalty, repetition_penalty: As in transformers; they matter with beams only and always.
    """

    harmless = frozenset({"batch_size"})

    num_beams: Count = 1
    max_new_tokens: Count = 200
    batch_size: Count = 16
    length_penalty: float = Field(default=1.0, ge=-10, le=10)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)


@dataclass(frozen=True)
class Answer:
    """The text of one answer.

    Attributes:
        text: What was answered.
        finished: Whether the model came to its end before ``max_new_tokens``.
        error: Why there is no answer, where something outside this process failed to give one.
    """

    text: str
    finished: bool = True
    error: str | None = None


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
    tokenizer, end = speech_llm.processor.tokenizer, speech_llm.model.config.end_token_id
    answers: list[Answer] = []
    for start in range(0, len(contents), generation.batch_size):
        stop = start + generation.batch_size
        batch = speech_llm.batcher.translation(contents[start:stop], instructions[start:stop])
        new_tokens = speech_llm.generate(batch.to(speech_llm.model.device), **options, do_sample=False)
        answers += [
            read_answer(row, tokenizer, end, generation.max_new_tokens) for row in new_tokens.tolist()
        ]
    return answers


def read_answer(tokens: list[int], tokenizer: Any, end: int, max_new_tokens: int) -> Answer:
    """Turn the new tokens of one answer into text, up to the end token."""
    ended = end in tokens
    tokens = tokens[: tokens.index(end)] if ended else tokens
    text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return Answer(text, finished=ended or len(tokens) < max_new_tokens)


def longest_seconds(model: Any) -> float:
    """Return how much audio a model hears at once, in seconds: all that its speech encoder takes."""
    return model.config.max_samples / SAMPLE_RATE_HZ


def pieces_of(model: Any, samples: np.ndarray) -> list[Segment]:
    """Cut a recording into what a model hears at once; every verb cuts so.

    What the speech encoder takes whole stays whole, as it is in training. The pieces of anything longer are
    whole windows at most, so that no sound is lost between them.

    Args:
        samples: float32 (n,), 16 kHz.
    """
    if 0 < len(samples) <= model.config.max_samples:
        return [Segment(0, len(samples), is_silent(samples))]
    frames = model.config.max_windows * model.config.frames_per_window
    return segment(samples, max_seconds=frames * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ)
