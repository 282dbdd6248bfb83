"""From questions to answers: batches through the model, hypotheses on disk, resumable by utterance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.audio.segments import segment
from aista.data.manifest import Utterance
from aista.errors import EvaluationError
from aista.evaluation.settings import GenerationSettings
from aista.text.languages import language
from aista.text.prompts import instruction


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
    """The text of one answer, and whether the model came to its end before ``max_new_tokens``."""

    text: str
    finished: bool


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
        answers += [_read(row, model, processor, generation.max_new_tokens) for row in new_tokens.tolist()]
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


def _read(tokens: list[int], model: Any, processor: Any, max_new_tokens: int) -> Answer:
    """Turn new tokens into text, up to the end token."""
    end = model.config.end_token_id
    ended = end in tokens
    tokens = tokens[: tokens.index(end)] if ended else tokens
    text = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return Answer(text, finished=ended or len(tokens) < max_new_tokens)


def instruction_of(utterance: Utterance) -> str:
    """Return the instruction of an utterance: its own, or the first wording of its task."""
    return utterance.prompt or instruction(utterance.task, utterance.answer_lang)


@dataclass(frozen=True)
class Hypothesis:
    """What a model made of one utterance, beside what was expected.

    Attributes:
        id: The utterance's.
        task: The utterance's; ``mt`` where the transcript stood in the speech slot.
        language: ISO code of the answer.
        hypothesis, reference, source: Texts; ``source`` is the transcript where there is one.
    """

    id: str
    task: str
    language: str
    hypothesis: str
    reference: str
    source: str | None


def decode(
    model: Any,
    processor: Any,
    dataset: Any,
    path: Path,
    *,
    generation: GenerationSettings,
    from_text: bool = False,
    fingerprint: str = "",
    description: str = "decoding",
) -> list[Hypothesis]:
    """Answer every utterance of a dataset and write the hypotheses, one JSON line each, as they come.

    What the file already holds is not asked again: an interrupted decoding goes on, a finished one is read.

    Args:
        model, processor: As for :func:`answer`.
        dataset: A ``SpeechDataset``; with ``from_text`` only its utterances are read, not their audio.
        path: The ``.jsonl`` file to fill; beside it lies ``.settings.json`` with what it was made by.
        generation: How to search; the batch size may change between attempts.
        from_text: Put the transcript where the speech would stand and translate it.
        fingerprint: Whatever identifies the model's weights and the test set.
        description: Shown beside the progress bar.

    Returns:
        One hypothesis per utterance, in the dataset's order.

    Raises:
        EvaluationError: The file was made from something else, or an id stands twice.
    """
    utterances = list(dataset.utterances())
    order = {utterance.id: index for index, utterance in enumerate(utterances)}
    if len(order) < len(utterances):
        raise EvaluationError("An id stands twice in the test set.", advice="Give every row its own id.")
    _claim(path, generation, fingerprint, from_text)
    done = {row.id: row for row in read_hypotheses(path) if row.id in order}
    todo = [index for utterance_id, index in order.items() if utterance_id not in done]
    todo.sort(key=lambda index: (utterances[index].duration or 0.0, index))
    starts = range(0, len(todo), generation.batch_size)
    with path.open("a", encoding="utf-8") as file:
        for start in tqdm(starts, desc=description, unit="batch", disable=not todo):
            batch = todo[start : start + generation.batch_size]
            if from_text:
                items = [(utterances[index], utterances[index].text) for index in batch]
            else:
                items = [dataset[index] for index in batch]
            for row in _answered(model, processor, items, generation):
                done[row.id] = row
                file.write(json.dumps(row.__dict__, ensure_ascii=False) + "\n")
            file.flush()
    return [done[utterance.id] for utterance in utterances]


def _answered(
    model: Any, processor: Any, items: Sequence[tuple[Utterance, Any]], generation: GenerationSettings
) -> Iterator[Hypothesis]:
    """Answer a few utterances; audio that is too long to be heard at once is heard in segments."""
    questions = [list(_questions(utterance, content, model)) for utterance, content in items]
    flat = [question for pieces in questions for question in pieces]
    answers = iter(answer(model, processor, flat, generation))
    for (utterance, content), pieces in zip(items, questions, strict=True):
        texts = [next(answers).text for _ in pieces]
        yield Hypothesis(
            id=utterance.id,
            task="mt" if isinstance(content, str) else utterance.task,
            language=utterance.answer_lang,
            hypothesis=joined(texts, utterance.answer_lang),
            reference=utterance.target,
            source=utterance.text,
        )


def _questions(utterance: Utterance, content: Any, model: Any) -> Iterator[Question]:
    wording = instruction_of(utterance)
    if isinstance(content, str):
        yield Question(wording, source_text=content)
    elif content.ndim == 2:
        yield Question(wording, features=content, num_samples=len(content) * SAMPLES_PER_FRAME)
    else:
        for piece in segment(content, max_seconds=longest_seconds(model)):
            if not piece.silent:
                yield Question(wording, samples=content[piece.start_sample : piece.end_sample])


def longest_seconds(model: Any) -> float:
    """Return how much audio a model hears at once, in seconds: its encoder's span, in whole windows."""
    windows = model.config.max_windows
    return windows * model.config.frames_per_window * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ


def joined(texts: Iterable[str], code: str) -> str:
    """Join the texts of adjoining segments as their language does: with spaces, or without."""
    return (" " if language(code).spaces else "").join(text for text in texts if text)


def _claim(path: Path, generation: GenerationSettings, fingerprint: str, from_text: bool) -> None:
    """Note what a file of hypotheses is made by; refuse one that was made by something else."""
    maker = {**generation.model_dump(exclude={"batch_size"}), "from_text": from_text, "from": fingerprint}
    note = path.with_suffix(".settings.json")
    if path.exists() and note.exists() and json.loads(note.read_text()) != maker:
        raise EvaluationError(
            f"{path} holds the hypotheses of another model, another test set or other settings.",
            got=note.read_text(),
            expected=json.dumps(maker),
            advice="Choose another output, or delete that file.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(maker))


def read_hypotheses(path: Path) -> list[Hypothesis]:
    """Read the hypotheses of a file; a last line that a crash cut off is dropped from it."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        path.write_bytes(data[:whole])
    return [Hypothesis(**json.loads(line)) for line in data[:whole].decode().splitlines()]
