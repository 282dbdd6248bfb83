"""From a test set to hypotheses on disk, by any system; and what looks inside one: accuracy, transport."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from aista import ot
from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, SAMPLES_PER_WINDOW
from aista.data.dataset import Collator, SpeechDataset
from aista.data.manifest import Utterance
from aista.data.text_files import read_json_lines
from aista.errors import AistaError, AudioError, EvaluationError
from aista.files import write_whole
from aista.inference.translating import Answered, Request, SpeechTranslator, joined
from aista.retrieval import pair_distances
from aista.speech_llm import Content, SpeechLM
from aista.speech_llm.pairs import paired_states
from aista.text.prompts import plain_ids

_BATCH = 16


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
    sounds: SpeechDataset | None = None,
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
        sounds: The same rows without cached features, for those of which these do not say the same.
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
        twice = next(row.id for index, row in enumerate(utterances) if order[row.id] != index)
        advice = "Give every row its own id: aista data check names those that stand twice."
        raise EvaluationError("An id stands twice in the test set.", got=twice, advice=advice)
    search = translator.generation.model_dump(mode="json", exclude={"batch_size"})
    claim_file(path, {**search, "from_text": from_text, "from": fingerprint})
    done = {row.id: row for row in read_hypotheses(path) if row.id in order and not row.error}
    todo = [index for utterance_id, index in order.items() if utterance_id not in done]
    # Only what is asked and given alike can share a batch.
    groups: dict[tuple[Request, SpeechDataset], list[int]] = defaultdict(list)
    for index in sorted(todo, key=lambda index: (utterances[index].duration or 0.0, index)):
        given = dataset
        if sounds is not None and dataset.features is not None and not from_text:
            given = dataset if _says_the_same(translator, dataset, sounds, index) else sounds
        groups[request_of(utterances[index]), given].append(index)
    with path.open("a", encoding="utf-8") as file, tqdm(total=len(todo), desc=description, unit="row") as bar:
        for (request, given), indices in groups.items():
            contents = (_content(given, index, from_text) for index in indices)
            for index, answered in zip(indices, translator.answer_all(contents, request), strict=True):
                row = _hypothesis(utterances[index], answered, from_text)
                done[row.id] = row
                file.write(row.line())
                file.flush()
                bar.update()
    return [done[utterance.id] for utterance in utterances]


def _says_the_same(
    translator: SpeechTranslator, dataset: SpeechDataset, sounds: SpeechDataset, index: int
) -> bool:
    """Whether a clip's cached features are of all that the system hears of it, at once and to its edges."""
    assert dataset.features is not None
    with suppress(AudioError):  # which the sound's own decoding tells
        utterance, samples = sounds[index]
        assert not isinstance(samples, str)
        known = dataset.feature_key(utterance) in dataset.features
        return known and translator.hears_whole(samples, utterance.task)
    return False


def _content(dataset: SpeechDataset, index: int, from_text: bool) -> Content | AistaError:
    """Return what is asked about, or why it cannot be read."""
    try:
        return dataset.utterance(index).text or "" if from_text else dataset[index][1]
    except AudioError as error:
        return error


def _hypothesis(row: Utterance, answered: Answered | AistaError, from_text: bool) -> Hypothesis:
    error = str(answered) if isinstance(answered, AistaError) else answered.error
    texts = [] if isinstance(answered, AistaError) or error else answered.texts
    return Hypothesis(
        id=row.id,
        task="mt" if from_text else row.task,
        language=row.answer_lang,
        hypothesis=joined(texts, row.answer_lang),
        reference=row.target,
        source=row.text,
        error=error,
        finished=isinstance(answered, AistaError) or answered.finished,
    )


def claim_file(path: Path, maker: dict[str, Any]) -> None:
    """Note what a file of hypotheses is made by.

    Raises:
        EvaluationError: It was made by something else.
    """
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
    """Read the hypotheses of a file, of several rows of one id the last."""
    rows = [Hypothesis(**row) for row in read_finished_lines(path)]
    return list({row.id: row for row in rows}.values())


def read_finished_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines that is being filled; a last line that a crash cut off is dropped from it."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        path.write_bytes(data[:whole])
    return [row for _, row in read_json_lines(path)]


@torch.no_grad()
def teacher_forced_accuracy(speech_llm: SpeechLM, dataset: SpeechDataset) -> tuple[int, int]:
    """Return (right target tokens, target tokens) of a model that is shown the right beginning."""
    right = total = 0
    collator = Collator(speech_llm.batcher)
    for start in tqdm(range(0, len(dataset), _BATCH), desc="token accuracy", unit="batch"):
        rows = [dataset[i] for i in range(start, min(start + _BATCH, len(dataset)))]
        batch = collator(rows)["speech"].to(speech_llm.model.device)
        found: Any = speech_llm.predict(batch).correct
        right += int(found)
        total += batch.num_targets
    return right, total


def transport_costs(
    speech_llm: SpeechLM, dataset: SpeechDataset, layers: Sequence[int]
) -> dict[str, list[float]]:
    """Return log W between the speech and the transcript of every utterance, by layer.

    W is the exact optimal transport cost (Eq. 1) with uniform masses on speech and transcript tokens.

    Returns:
        Layer number (as text) -> one logarithm per utterance.
    """
    costs: dict[str, list[float]] = {str(layer): [] for layer in layers}
    for speech, text in paired_states(speech_llm, dataset, tuple(layers), _BATCH):
        for layer in layers:
            distances = pair_distances(speech[layer], text[layer])
            costs[str(layer)] += np.log(np.maximum(distances, np.finfo(float).tiny)).tolist()
    return costs


@dataclass(frozen=True)
class TransportMap:
    """The optimal transport plan between the windows of a clip and the tokens of its transcript.

    Attributes:
        layer: Where the hidden states were taken.
        tokens: m transcript tokens as text.
        plan: n rows of m numbers: the mass that moves from window i to token j; all sum to 1.
        value: The transport cost W.
        token_seconds: Of sound that a window stands for; by default one of the paper's.
    """

    layer: int
    tokens: list[str]
    plan: list[list[float]]
    value: float
    token_seconds: float = SAMPLES_PER_WINDOW / SAMPLE_RATE_HZ


def transport_map(speech_llm: SpeechLM, dataset: SpeechDataset, layer: int) -> list[TransportMap]:
    """Return the exact transport plan of every utterance of a (small) dataset at one layer."""
    maps: list[TransportMap] = []
    texts = iter(dataset.utterances())
    for speech, text in paired_states(speech_llm, dataset, (layer,), _BATCH):
        for s, t in zip(speech[layer], text[layer], strict=True):
            solution = ot.solve(ot.squared_euclidean(s, t).numpy())
            tokenizer = speech_llm.batcher.tokenizer
            tokens = [tokenizer.decode([token]) for token in plain_ids(tokenizer, next(texts).text or "")]
            each = float(dataset.lengths[len(maps)]) / len(s)
            if speech_llm.is_ours:
                config = speech_llm.model.config
                frames = config.frames_per_window / config.queries_per_window
                each = frames * SAMPLES_PER_FRAME / SAMPLE_RATE_HZ
            maps.append(TransportMap(layer, tokens, solution.plan.tolist(), solution.value, each))
    return maps
