"""A speech LLM of this package answers questions: an instruction, and sound or text in the speech slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field

from aista.audio.files import is_silent
from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.audio.segments import Segment, segment
from aista.config import Count, Settings


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
class Question:
    """One thing to ask the model: an instruction, and what stands in the speech slot.

    Exactly one of ``samples``, ``features`` and ``source_text`` is given.

    Attributes:
        instruction: What is asked for.
        samples: float32 (n,), 16 kHz; no longer than the model hears at once.
        features: (frames, D) cached outputs of the frozen encoders, with ``num_samples`` of their audio.
        source_text: Text that stands where speech would stand (zero-shot text translation).
    """

    instruction: str
    samples: np.ndarray | None = None
    features: np.ndarray | None = None
    num_samples: int | None = None
    source_text: str | None = None


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


@torch.no_grad()
def answer(
    model: Any, processor: Any, questions: Sequence[Question], generation: GenerationSettings
) -> list[Answer]:
    """Ask the model, ``generation.batch_size`` questions at a time.

    Args:
        model: An ``AistaForConditionalGeneration`` in eval mode.
        processor: Its processor.
        questions: All of one kind: samples, features, or text.
        generation: How to search.

    Returns:
        One answer per question, in order; the batch size does not change them.
    """
    answers: list[Answer] = []
    for start in range(0, len(questions), generation.batch_size):
        batch = questions[start : start + generation.batch_size]
        inputs = processor(text=[row.instruction for row in batch], padding_side="left", **_slot(batch))
        inputs = {key: _placed(value, model) for key, value in inputs.items()}
        options = generation.model_dump(exclude={"batch_size"})
        new_tokens = model.generate(**inputs, **options, do_sample=False)
        end = model.config.end_token_id
        answers += [
            read_answer(row, processor.tokenizer, end, generation.max_new_tokens)
            for row in new_tokens.tolist()
        ]
    return answers


def _slot(batch: Sequence[Question]) -> dict[str, Any]:
    """Return the processor's arguments for what stands in the speech slot."""
    if batch[0].source_text is not None:
        return {"source_text": [row.source_text for row in batch]}
    if batch[0].features is not None:
        return {
            "features": [row.features for row in batch],
            "num_samples": [row.num_samples for row in batch],
        }
    return {"audio": [row.samples for row in batch], "sampling_rate": SAMPLE_RATE_HZ}


def _placed(value: Any, model: Any) -> Any:
    return value.to(model.device) if isinstance(value, torch.Tensor) else value


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
