"""A speech LLM answers prompts: how it searches, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

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
