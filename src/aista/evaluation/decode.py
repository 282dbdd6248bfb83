"""From a test set to hypotheses on disk, by any system: resumable by utterance, the same in any batch."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aista.data.dataset import SpeechDataset
from aista.data.json_lines import read_json_lines
from aista.data.manifest import Utterance
from aista.errors import AudioError, EvaluationError
from aista.files import write_whole
from aista.inference.answering import Answer
from aista.inference.translating import Request, SpeechTranslator, joined


@dataclass(frozen=True)
class Hypothesis:
    """What a system made of one utterance, beside what was expected.

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


def request_of(row: Utterance) -> Request:
    """Return what is asked for a row; a text is translated in the words in which speech is."""
    return Request("st" if row.task == "mt" else row.task, row.src_lang, row.answer_lang, row.prompt)


def decode(
    translator: SpeechTranslator,
    dataset: SpeechDataset,
    path: Path,
    *,
    from_text: bool = False,
    fingerprint: str = "",
    description: str = "decoding",
) -> list[Hypothesis]:
    """Answer every utterance of a dataset and write the hypotheses, one JSON line each, as they come.

    What the file already holds is not asked again: an interrupted decoding goes on, a finished one is read. A
    clip that cannot be read, or that the system fails on, is a row with an error; it is asked again.

    Args:
        translator: The system; the batch size may change between attempts.
        dataset: The test set; with ``from_text`` only its utterances are read, not their audio.
        path: The ``.jsonl`` file to fill; beside it lies ``.settings.json`` with what it was made by.
        from_text: Put the transcript where the speech would stand and translate it.
        fingerprint: Whatever identifies the system and the test set.
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
    search = translator.generation.model_dump(mode="json", exclude={"batch_size"})
    _claim(path, {**search, "from_text": from_text, "from": fingerprint})
    done = {row.id: row for row in read_hypotheses(path) if row.id in order and not row.error}
    todo = [index for utterance_id, index in order.items() if utterance_id not in done]
    batches = _batches(utterances, todo, translator.generation.batch_size)
    with path.open("a", encoding="utf-8") as file:
        for request, indices in tqdm(batches, desc=description, unit="batch", disable=not todo):
            for row in _answered(translator, dataset, indices, request, from_text):
                done[row.id] = row
                file.write(row.line())
            file.flush()
    return [done[utterance.id] for utterance in utterances]


def _batches(
    utterances: Sequence[Utterance], todo: Sequence[int], batch_size: int
) -> list[tuple[Request, list[int]]]:
    """Return batches of rows of which the same is asked, short ones first."""

    def key(index: int) -> tuple[Any, ...]:
        request = request_of(utterances[index])
        return request.task, request.source, request.target, request.prompt or ""

    ordered = sorted(todo, key=lambda index: (key(index), utterances[index].duration or 0.0, index))
    batches = []
    for _, group in groupby(ordered, key):
        indices = list(group)
        starts = range(0, len(indices), batch_size)
        request = request_of(utterances[indices[0]])
        batches += [(request, indices[start : start + batch_size]) for start in starts]
    return batches


def _answered(
    translator: SpeechTranslator,
    dataset: SpeechDataset,
    indices: Sequence[int],
    request: Request,
    from_text: bool,
) -> Iterator[Hypothesis]:
    """Answer a few rows; a clip that is too long to be heard at once is heard in segments."""
    pieces: list[Any] = []
    owners: list[int] = []
    errors: dict[int, str] = {}
    for index in indices:
        try:
            parts = [dataset.utterance(index).text] if from_text else _pieces(translator, dataset[index][1])
        except AudioError as error:
            errors[index], parts = str(error), []
        pieces += parts
        owners += [index] * len(parts)
    ask = translator.answer_texts if from_text else translator.answer
    answers: dict[int, list[Answer]] = defaultdict(list)
    size = translator.generation.batch_size
    for start in range(0, len(pieces), size):
        found = ask(pieces[start : start + size], request)
        for owner, result in zip(owners[start : start + size], found, strict=True):
            answers[owner].append(result)
    for index in indices:
        row, texts = dataset.utterance(index), answers[index]
        failure = errors.get(index) or next((result.error for result in texts if result.error), None)
        yield Hypothesis(
            id=row.id,
            task="mt" if from_text else row.task,
            language=row.answer_lang,
            hypothesis="" if failure else joined((result.text for result in texts), row.answer_lang),
            reference=row.target,
            source=row.text,
            error=failure,
            finished=all(result.finished for result in texts),
        )


def _pieces(translator: SpeechTranslator, content: Any) -> list[Any]:
    """Cut samples (n,) into what the system hears at once; cached features (frames, D) are heard at once."""
    if content.ndim == 2:
        return [content]
    found = translator.pieces(content)
    return [content[piece.start_sample : piece.end_sample] for piece in found if not piece.silent]


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
