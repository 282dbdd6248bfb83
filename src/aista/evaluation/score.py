"""Scores of any system that turns speech into text, in the form that ``aista evaluate`` gives our models.

The same files come out (``results.json``, ``NAME.speech.jsonl``, ``NAME.text.jsonl``), so rows of a table can
be compared whatever made them. A system is asked in its own words: the rows' own prompts are for our models.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from aista.audio.segments import segment
from aista.data.collate import SpeechDataset
from aista.data.manifest import Manifest, Utterance
from aista.errors import AudioError, ConfigError
from aista.evaluation.decode import Hypothesis, fill
from aista.evaluation.results import (
    RESULTS,
    Clock,
    Part,
    finished,
    has_target,
    has_text,
    part_warnings,
    remembered,
    set_names,
    sha256_of,
    write_results,
)
from aista.evaluation.settings import ScoreSettings
from aista.inference.answering import Answer
from aista.inference.translating import Request, SpeechTranslator, joined

_HEARING_CLIPS = 4


def score(
    translator: SpeechTranslator, settings: ScoreSettings, card: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Score a system and write ``results.json`` beside its hypotheses.

    A clip that cannot be read, or that the system fails on, is a row with an error: it counts as an empty
    answer, is told in the warnings, and is asked again when an unfinished evaluation goes on.

    Args:
        translator: The system.
        settings: The test sets and where the results go.
        card: What identifies the system (ids, revisions, prompts): anything JSON holds. It is kept in the
            results, and hypotheses made by another card are not gone on with.

    Returns:
        What ``evaluate`` returns, less what looks inside a model, plus ``baseline``: name, search, card.

    Raises:
        EvaluationError: Two manifests have one name, or the output belongs to another evaluation.
        ConfigError: The system can answer no row.
        ManifestError: A manifest or a row cannot be used.

    Cost:
        An evaluation that is finished is read, not repeated.
    """
    names, output = set_names(settings.data), Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    search = translator.generation.model_dump(mode="json", exclude={"batch_size"})
    system = {"name": translator.name, "generation": search, **json.loads(json.dumps(card or {}))}
    made_by: dict[str, Any] = {
        "settings_sha256": settings.sha256(),
        "model_fingerprint": hashlib.sha256(json.dumps(system, sort_keys=True).encode()).hexdigest(),
        "data_sha256": {name: sha256_of(path) for name, path in zip(names, settings.data, strict=True)},
        "layers": [],
    }
    if (kept := finished(output / RESULTS, made_by)) is not None:
        return kept
    seconds: dict[str, float] = defaultdict(float)
    parts: dict[str, Part] = {}
    warnings: list[str] = []
    for name, path in zip(names, settings.data, strict=True):
        maker = {**search, "from": f"{made_by['model_fingerprint']}/{made_by['data_sha256'][name]}"}
        bench = _Bench(translator, settings, name, maker, SpeechDataset([Manifest(path)]))
        parts[name] = bench.measure(seconds)
        warnings += bench.warnings
    if not any(part.hypotheses for part in parts.values()):
        raise ConfigError(f"{translator.name} can answer no row of these sets.", got="; ".join(warnings))
    taken = {name: round(value, 2) for name, value in seconds.items()}
    extra = {"warnings": warnings, **made_by, "baseline": system, "seconds": taken}
    return write_results(translator.name, settings, parts, extra, output)


@dataclass
class _Bench:
    """One system at work on one test set."""

    translator: SpeechTranslator
    settings: ScoreSettings
    name: str
    maker: dict[str, Any]
    dataset: SpeechDataset
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = len(self.dataset)
        self.dataset = self.dataset.subset(range(min(size, self.settings.limit or size)))

    def measure(self, seconds: dict[str, float]) -> Part:
        """Take every measure that is asked for."""
        found: list[Hypothesis] = []
        for measure in self.settings.measures:
            rows = self._answerable(from_text=measure == "text_translation")
            if rows:
                with Clock(seconds, measure):
                    found += self._hypotheses(rows, from_text=measure == "text_translation")
        most = self.maker["max_new_tokens"]
        self.warnings += part_warnings(self.name, self.dataset.utterances(), found, most)
        failed = [row for row in found if row.error]
        if failed:
            reason = failed[0].error
            self._warn(f"{len(failed)} of {len(found)} rows failed and count as empty answers, e.g. {reason}")
        if self.settings.silence_check and "speech" in self.settings.measures:
            self._check_hearing()
        return Part(len(self.dataset), found)

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self.name}: {text}")

    def _answerable(self, *, from_text: bool) -> list[int]:
        """Return the rows that have what this needs; tell of those that the system was not made for."""
        if from_text and not self.translator.reads_text:
            self._warn(f"{self.translator.name} takes no text: text_translation left out")
            return []
        rows: list[int] = []
        refused: Counter[str] = Counter()
        for index, row in enumerate(self.dataset.utterances()):
            fits = row.task in ("st", "mt") and has_text(row) if from_text else row.audio is not None
            if not fits or not has_target(row):
                continue
            try:
                self.translator.check(_request(row))
                rows.append(index)
            except ConfigError as error:
                refused[error.what] += 1
        for what, count in refused.items():
            self._warn(f"{count} rows left out: {what}")
        return rows

    def _hypotheses(self, rows: list[int], *, from_text: bool) -> list[Hypothesis]:
        kind = "text" if from_text else "speech"
        dataset = self.dataset.subset(rows)

        def ask(indices: list[int]) -> Iterator[Hypothesis]:
            for request, group in groupby(indices, lambda index: _request(dataset.utterance(index))):
                if from_text:
                    yield from _read(self.translator, dataset, list(group), request)
                else:
                    yield from _heard(self.translator, dataset, list(group), request)

        return fill(
            Path(self.settings.output) / f"{self.name}.{kind}.jsonl",
            list(dataset.utterances()),
            ask,
            maker={**self.maker, "from_text": from_text},
            batch_size=self.translator.generation.batch_size,
            description=f"{self.name}: {self.translator.name} from {kind}",
            group=lambda row: (row.task, row.src_lang, row.answer_lang),
        )

    def _check_hearing(self) -> None:
        """Warn of a system that answers silence as it answers speech."""
        path = Path(self.settings.output) / f"{self.name}.hears.json"
        if not remembered(path, self.maker, lambda: hears(self.translator, self.dataset)):
            self._warn("the answers are the same without the sound: the model does not hear")


def _request(row: Utterance) -> Request:
    return Request("st" if row.task == "mt" else row.task, row.src_lang, row.answer_lang)


def _heard(
    translator: SpeechTranslator, dataset: SpeechDataset, indices: Sequence[int], request: Request
) -> Iterator[Hypothesis]:
    """Answer a few clips, in segments where they are long; what cannot be read is a row with an error."""
    pieces: list[np.ndarray] = []
    owners: list[int] = []
    errors: dict[int, str] = {}
    for index in indices:
        try:
            samples: Any = dataset[index][1]
        except AudioError as error:
            errors[index] = str(error)
            continue
        for piece in segment(samples, max_seconds=translator.longest_seconds):
            if not piece.silent:
                pieces.append(samples[piece.start_sample : piece.end_sample])
                owners.append(index)
    answers: dict[int, list[Answer]] = defaultdict(list)
    size = translator.generation.batch_size
    for start in range(0, len(pieces), size):
        found = translator.answer(pieces[start : start + size], request)
        for owner, result in zip(owners[start : start + size], found, strict=True):
            answers[owner].append(result)
    for index in indices:
        yield _row(dataset.utterance(index), request.task, answers[index], errors.get(index))


def _read(
    translator: SpeechTranslator, dataset: SpeechDataset, indices: Sequence[int], request: Request
) -> Iterator[Hypothesis]:
    """Answer the transcripts of a few rows."""
    rows = [dataset.utterance(index) for index in indices]
    answers = translator.answer_texts([row.text or "" for row in rows], request)
    for row, result in zip(rows, answers, strict=True):
        yield _row(row, "mt", [result], None)


def _row(row: Utterance, task: str, answers: Sequence[Answer], error: str | None) -> Hypothesis:
    error = error or next((result.error for result in answers if result.error), None)
    return Hypothesis(
        id=row.id,
        task=task,
        language=row.answer_lang,
        hypothesis="" if error else joined((result.text for result in answers), row.answer_lang),
        reference=row.target,
        source=row.text,
        error=error,
        finished=all(result.finished for result in answers),
    )


def hears(translator: SpeechTranslator, dataset: SpeechDataset) -> bool:
    """Whether taking the sound away changes any answer to the first few clips that can be read.

    Cost:
        At most eight answers; of a long clip the beginning is heard.
    """
    most = int(translator.longest_seconds * 16_000)
    asked = 0
    for index in range(len(dataset)):
        row = dataset.utterance(index)
        if row.audio is None or row.task not in ("st", "asr") or asked == _HEARING_CLIPS:
            continue
        try:
            translator.check(_request(row))
            samples: Any = dataset[index][1][:most]
        except (AudioError, ConfigError):
            continue
        asked += 1
        answers = [translator.answer([samples * loudness], _request(row))[0] for loudness in (1.0, 0.0)]
        if answers[0].text != answers[1].text:
            return True
    return asked == 0
