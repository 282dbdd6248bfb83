"""From questions to hypotheses on disk: resumable by utterance, the same in any batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aista.audio.rates import SAMPLES_PER_FRAME
from aista.audio.segments import segment
from aista.data.json_lines import read_json_lines
from aista.data.manifest import Utterance
from aista.errors import EvaluationError
from aista.files import write_whole
from aista.inference.answering import GenerationSettings, Question, answer, longest_seconds
from aista.inference.translating import joined
from aista.text.prompts import instruction

__all__ = [
    "Hypothesis",
    "Question",
    "answer",
    "decode",
    "fill",
    "instruction_of",
    "longest_seconds",
    "read_hypotheses",
]


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
        error: Why there is no hypothesis, where there is none.
        finished: Whether the model came to an end by itself; False where ``max_new_tokens`` may have cut it.
    """

    id: str
    task: str
    language: str
    hypothesis: str
    reference: str
    source: str | None
    error: str | None = None
    finished: bool = True

    def line(self) -> str:
        """Return the row as a line of JSON."""
        usual = {"error": None, "finished": True}
        row = {key: value for key, value in self.__dict__.items() if key not in usual or value != usual[key]}
        return json.dumps(row, ensure_ascii=False) + "\n"


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

    def ask(indices: list[int]) -> Iterator[Hypothesis]:
        if from_text:
            utterances = [dataset.utterance(index) for index in indices]
            return _answered(model, processor, [(row, row.text) for row in utterances], generation)
        return _answered(model, processor, [dataset[index] for index in indices], generation)

    maker = {**generation.model_dump(exclude={"batch_size"}), "from_text": from_text, "from": fingerprint}
    size = generation.batch_size
    return fill(path, list(dataset.utterances()), ask, maker=maker, batch_size=size, description=description)


def fill(
    path: Path,
    utterances: Sequence[Utterance],
    ask: Callable[[list[int]], Iterable[Hypothesis]],
    *,
    maker: dict[str, Any],
    batch_size: int,
    description: str,
    group: Callable[[Utterance], tuple[Any, ...]] = lambda _: (),
) -> list[Hypothesis]:
    """Write a hypothesis for every utterance that the file does not hold yet, short ones first.

    A row that holds an error counts as not there: it is asked again, and of two rows the later counts.

    Args:
        path: The ``.jsonl`` file; beside it lies ``.settings.json`` with ``maker``.
        utterances: The test set.
        ask: Returns the hypotheses of some utterances, given by their indices.
        maker: What the hypotheses are made by.
        batch_size: How many utterances are asked at once.
        description: Shown beside the progress bar.
        group: What the utterances of one batch should have in common.

    Returns:
        One hypothesis per utterance, in order.

    Raises:
        EvaluationError: The file was made from something else, or an id stands twice.
    """
    order = {utterance.id: index for index, utterance in enumerate(utterances)}
    if len(order) < len(utterances):
        raise EvaluationError("An id stands twice in the test set.", advice="Give every row its own id.")
    _claim(path, maker)
    done = {row.id: row for row in read_hypotheses(path) if row.id in order and not row.error}
    todo = [index for utterance_id, index in order.items() if utterance_id not in done]
    todo.sort(key=lambda index: (*group(utterances[index]), utterances[index].duration or 0.0, index))
    starts = range(0, len(todo), batch_size)
    with path.open("a", encoding="utf-8") as file:
        for start in tqdm(starts, desc=description, unit="batch", disable=not todo):
            for row in ask(todo[start : start + batch_size]):
                done[row.id] = row
                file.write(row.line())
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
        found = [next(answers) for _ in pieces]
        yield Hypothesis(
            id=utterance.id,
            task="mt" if isinstance(content, str) else utterance.task,
            language=utterance.answer_lang,
            hypothesis=joined((result.text for result in found), utterance.answer_lang),
            reference=utterance.target,
            source=utterance.text,
            finished=all(result.finished for result in found),
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


def _claim(path: Path, maker: dict[str, Any]) -> None:
    """Note what a file of hypotheses is made by; refuse one that was made by something else."""
    note = path.with_suffix(".settings.json")
    if path.exists() and note.exists() and json.loads(note.read_text()) != maker:
        raise EvaluationError(
            f"{path} holds the hypotheses of another model, another test set or other settings.",
            got=note.read_text(),
            expected=json.dumps(maker),
            advice="Choose another output, or delete that file.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(note, json.dumps(maker))


def read_hypotheses(path: Path) -> list[Hypothesis]:
    """Read the hypotheses of a file, of several rows of one id the last.

    A last line that a crash cut off is dropped from the file.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        path.write_bytes(data[:whole])
    rows = [Hypothesis(**row) for _, row in read_json_lines(path)]
    return list({row.id: row for row in rows}.values())
