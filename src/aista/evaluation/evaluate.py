"""``aista evaluate``: all scores of anything that translates, on held-out manifests, resumable.

Our models, baselines and services go one way, and the same files come out (``results.json``,
``NAME.speech.jsonl``, ``NAME.text.jsonl``): rows of a table can be compared whatever made them. What looks
inside a model (token accuracy, transport costs) is there for every speech LLM of transformers' contract.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.config import Count, Dtype, Layer, Name, PathName, Settings
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, Utterance
from aista.errors import AudioError, ConfigError
from aista.evaluation.decode import decode, request_of, teacher_forced_accuracy, transport_costs
from aista.evaluation.metrics import bleu_metric, obeys
from aista.evaluation.results import (
    MAY_CHANGE,
    RESULTS,
    Part,
    has_target,
    has_text,
    part_warnings,
    set_names,
    versions,
    write_results,
)
from aista.evaluation.significance import compare
from aista.files import sha256_of, write_whole
from aista.inference.translating import GenerationSettings, SpeechTranslator
from aista.run_folder import claim, inputs_of, read_selected, sha256_of_model
from aista.text.prompts import language

__all__ = [
    "BaselineSettings",
    "EvaluateSettings",
    "ScoreSettings",
    "compare",
    "evaluate",
    "score",
    "versions",
]

_HEARING_CLIPS = 4
Measure = Literal["speech", "text_translation", "token_accuracy", "log_wasserstein", "obedience"]


class EvaluateSettings(Settings):
    """Evaluation of one model on held-out manifests.

    Attributes:
        output: Folder for ``results.json`` and the hypotheses; an interrupted evaluation goes on there.
        model: Folder of the model.
        data: Manifests; each is a test set of its own, named by the file.
        measures: What is computed. ``speech``: the rows' own tasks, from audio: BLEU and chrF2 (``st``), word
            error rate (``asr``), chrF2 (``aac``). ``text_translation``: the ``st`` rows again with the
            transcript standing where the speech stood, prompt unchanged (the paper's zero-shot MT).
            ``token_accuracy``: teacher-forced. ``log_wasserstein``: mean logarithm of the transport cost
            between speech and transcript (the paper's Figure 6). ``obedience``: percent of the answers of
            ``speech`` (``st``, ``asr``) that obey what is said instead of translating it, see
            ``aista.evaluation.metrics.obeys``; for a test set of spoken questions and orders.
        layers: Layers of ``log_wasserstein``: numbers, or the path of a layer report of ``aista select``.
        limit: Rows taken from the head of each manifest; all by default.
        features: Folder of cached encoder outputs, filled where something is missing.
        dtype: Of the frozen weights; None: bfloat16 on a GPU, float32 on a CPU.
        silence_check: Also decode a few clips with their sound taken away: a model that answers the same does
            not hear.
    """

    harmless = frozenset({"output", "features"})
    contents = {"model": "model", "data": "manifest", "layers": "layers"}

    output: PathName
    model: PathName
    data: list[PathName] = Field(min_length=1)
    measures: list[Measure] = Field(
        default=["speech", "text_translation", "token_accuracy", "log_wasserstein"], min_length=1
    )
    layers: list[Layer] | PathName = [0]
    generation: GenerationSettings = GenerationSettings()
    limit: Count | None = None
    features: PathName | None = None
    dtype: Dtype | None = None
    silence_check: bool = True


class ScoreSettings(Settings):
    """Evaluation of any system that turns speech into text: a baseline, a service, somebody else's model.

    Attributes:
        output, data, limit, silence_check: As for ``EvaluateSettings``.
        measures: ``speech``, and ``text_translation`` where the system also takes text; ``obedience``.
    """

    harmless = frozenset({"output"})
    contents = {"data": "manifest"}

    output: PathName
    data: list[PathName] = Field(min_length=1)
    measures: list[Literal["speech", "text_translation", "obedience"]] = Field(
        default=["speech"], min_length=1
    )
    limit: Count | None = None
    silence_check: bool = True


class BaselineSettings(ScoreSettings):
    """Evaluation of a baseline, as one YAML file.

    Attributes:
        baseline: Its name: a module of ``aista.baselines``, or a dotted path.
        options: Its options: ids, revisions, prompts.
        generation: Search settings that differ from its own.
    """

    baseline: Name
    options: dict[str, Any] = {}
    generation: dict[str, Any] = {}


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Score a model of ours, or any speech LLM, and write ``results.json`` beside its hypotheses.

    Returns:
        ``scores`` (over all sets together); by score ``num_scored``, the rows behind it, and
        ``num_unfinished``, the rows whose answer ``max_new_tokens`` may have cut; ``signatures``; ``by_set``
        (each with its ``scores``, ``num_scored``, ``num_unfinished``, ``num_utterances``); ``warnings``,
        ``seconds`` by measure, ``versions``, ``settings`` and what identifies them and the model. The keys of
        the scores: ``bleu_zh``, ``chrf_zh`` (speech translation), ``mt_bleu_zh``, ``mt_chrf_zh`` (text in the
        speech slot), ``wer_en`` (``cer_zh`` where words have no spaces between them), ``chrf_captions``,
        ``token_accuracy`` (percent), ``log_wasserstein``, ``obedience`` (percent).

    Raises:
        EvaluationError: Two manifests have one name.
        ConfigError: No row can be answered, or the output belongs to another evaluation.
        ManifestError: A manifest or a row cannot be used.

    Cost:
        An evaluation that is finished is read, not repeated.
    """
    from aista.inference import translator

    layers = settings.layers
    chosen = read_selected(layers) if isinstance(layers, str) else list(layers)
    made_by = {"model_fingerprint": sha256_of_model(settings.model), "layers": chosen}
    search = settings.generation.model_dump()
    return _run(lambda: translator.load(settings.model, dtype=settings.dtype, **search), settings, made_by)


def score(
    translator: SpeechTranslator, settings: ScoreSettings, card: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Score any system and write ``results.json`` beside its hypotheses.

    It is asked in its own words: the rows' own prompts are for our models.

    Args:
        translator: The system.
        settings: The test sets and where the results go.
        card: What identifies the system (ids, revisions, prompts): anything JSON holds. It is kept in the
            results, and hypotheses made by another card are not gone on with.

    Returns:
        What ``evaluate`` returns, less what looks inside a model, plus ``baseline``: name, search, card.

    Raises:
        As for ``evaluate``.
    """
    search = translator.generation.model_dump(mode="json", exclude={"batch_size"})
    system = {"name": translator.name, "generation": search, **json.loads(json.dumps(card or {}))}
    fingerprint = hashlib.sha256(json.dumps(system, sort_keys=True).encode()).hexdigest()
    made_by = {"model_fingerprint": fingerprint, "layers": []}
    return _run(lambda: translator, settings, made_by, {"baseline": system})


def _run(
    load: Callable[[], SpeechTranslator],
    settings: EvaluateSettings | ScoreSettings,
    made_by: dict[str, Any],
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure one system on every test set; what is finished is read, without loading the system."""
    set_names(settings.data)  # what cannot be told apart is refused first
    output = Path(settings.output)

    def inputs() -> dict[str, str]:
        return {**inputs_of(settings), "system": made_by["model_fingerprint"]}

    with claim(output, settings, inputs, result=RESULTS, may_change=MAY_CHANGE) as finished:
        if finished:
            return dict(json.loads((output / RESULTS).read_text(encoding="utf-8")))
        _check_languages(settings)
        return _measured(load(), settings, made_by, about or {})


def _measured(
    system: SpeechTranslator,
    settings: EvaluateSettings | ScoreSettings,
    made_by: dict[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    names, output = set_names(settings.data), Path(settings.output)
    hashes = {name: sha256_of(Path(path)) for name, path in zip(names, settings.data, strict=True)}
    made_by = {**made_by, "settings_sha256": settings.sha256(), "data_sha256": hashes}
    seconds: dict[str, float] = defaultdict(float)
    parts: dict[str, Part] = {}
    warnings: list[str] = []
    for name, path in zip(names, settings.data, strict=True):
        fingerprint = f"{made_by['model_fingerprint']}/{hashes[name]}"
        bench = _Bench(system, settings, name, path, fingerprint, made_by["layers"], seconds)
        parts[name] = bench.measure()
        warnings += [f"{name}: {text}" for text in bench.warnings]
    if not any(part.is_anything for part in parts.values()):
        raise ConfigError(f"{system.name} can answer no row of these sets.", got="; ".join(warnings))
    taken = {name: round(value, 2) for name, value in seconds.items()}
    extra = {"warnings": warnings, **made_by, **about, "seconds": taken}
    return write_results(system.name, settings, parts, extra, output)


def _check_languages(settings: EvaluateSettings | ScoreSettings) -> None:
    """Refuse what could not be scored before hours are spent on decoding it.

    Raises:
        ConfigError: A language is unknown.
        EvaluationError: The tokenizer that BLEU needs in a language is not installed.
    """
    for path in settings.data:
        rows = islice(Manifest(path), settings.limit)
        for task, code in {(row.task, row.answer_lang) for row in rows if has_target(row)}:
            bleu_metric(code) if task in ("st", "mt") else language(code)


@dataclass
class _Bench:
    """One system at work on one test set."""

    system: Any
    settings: EvaluateSettings | ScoreSettings
    name: str
    path: str
    fingerprint: str
    layers: Sequence[int]
    seconds: dict[str, float]

    def __post_init__(self) -> None:
        self.warnings: list[str] = []
        whole = SpeechDataset([Manifest(self.path)])
        self.sounds = whole.subset(range(min(len(whole), self.settings.limit or len(whole))))

    @cached_property
    def dataset(self) -> SpeechDataset:
        """The test set; where features are asked for, what is heard at once is given by its cached ones."""
        folder, longest = getattr(self.settings, "features", None), self.system.longest_seconds
        if folder is None or not (self.sounds.lengths <= longest).any():
            return self.sounds
        from aista.model.feature_cache import cached_features

        store = cached_features(
            self.system.model, self.system.processor, [self.path], folder,
            max_seconds=longest, too_long="skip", most=self.settings.limit,
        )  # fmt: skip
        return SpeechDataset([Manifest(self.path)], features=store).subset(range(len(self.sounds)))

    def measure(self) -> Part:
        """Take every measure that is asked for."""
        asked, part = self.settings.measures, Part(len(self.sounds))
        for measure, kind in (("speech", "speech"), ("text_translation", "text")):
            if measure in asked and (rows := self._answerable(from_text=kind == "text")):
                with self._timed(measure):
                    part.hypotheses += decode(
                        self.system,
                        self.dataset.subset(rows),
                        Path(self.settings.output) / f"{self.name}.{kind}.jsonl",
                        from_text=kind == "text",
                        sounds=self.sounds.subset(rows),
                        fingerprint=self.fingerprint,
                        description=f"{self.name}: {self.system.name} from {kind}",
                    )
        if failed := [row for row in part.hypotheses if row.error]:
            many = f"{len(failed)} of {len(part.hypotheses)} rows failed and count as empty answers"
            self.warnings.append(f"{many}, e.g. {failed[0].error}")
        most = self.system.generation.max_new_tokens
        self.warnings += part_warnings(self.sounds.utterances(), part.hypotheses, most)
        if "obedience" in asked:
            self._check_obedience(part)
        if {"token_accuracy", "log_wasserstein"} & set(asked):
            self._look_inside(part)
        if self.settings.silence_check and "speech" in asked:
            with self._timed("hears"):  # by every attempt: a service that was down may be up again
                heard = hears(self.system, self.sounds)
            if heard is False:
                self.warnings.append("the answers are the same without the sound: the model does not hear")
        return part

    def _answerable(self, *, from_text: bool) -> list[int]:
        """Return the rows that have what this needs; tell of those that the system was not made for."""
        if from_text and not self.system.reads_text:
            self.warnings.append(f"{self.system.name} takes no text: text_translation left out")
            return []
        rows: list[int] = []
        foreign: Counter[str] = Counter()
        without_text = 0
        for index, row in enumerate(self.sounds.utterances()):
            fits = row.task in ("st", "mt") if from_text else row.audio is not None
            if not fits or not has_target(row):
                continue
            if from_text and not has_text(row):
                without_text += 1
                continue
            try:
                self.system.check(request_of(row))
            except ConfigError as error:
                foreign[error.what] += 1
                if not self.system.zero_shot:
                    continue
            rows.append(index)
        if without_text:
            self.warnings.append(f"{without_text} rows have no transcript: text_translation leaves them out")
        for what, count in foreign.items():
            how = "asked all the same" if self.system.zero_shot else "left out"
            self.warnings.append(f"{count} rows {how}: {what}")
        return rows

    def _look_inside(self, part: Part) -> None:
        """Take the measures that need the model itself."""
        asked, speech_llm = self.settings.measures, self.system.speech_llm
        whole, unread = self._heard_whole()
        rows = _only(whole, has_target)
        if "token_accuracy" in asked and len(rows):
            part.num_accuracy_rows = len(rows)
            part.correct_tokens = self._remembered(
                "token_accuracy", lambda: teacher_forced_accuracy(speech_llm, rows), *unread
            )
        pairs = _only(whole, lambda row: row.task != "aac" and has_text(row)).clips()
        if "log_wasserstein" in asked and not self.layers:
            self.warnings.append("log_wasserstein left out: no layer is chosen (layers)")
        elif "log_wasserstein" in asked and len(pairs):
            part.log_costs = self._remembered(
                "log_wasserstein",
                lambda: transport_costs(speech_llm, pairs, self.layers),
                self.layers,
                *unread,
            )

    def _heard_whole(self) -> tuple[SpeechDataset, list[str]]:
        """Return the rows with sound that can be read and heard at once, and the ids of those unreadable."""
        dataset = _only(self.dataset, lambda row: row.audio is not None)
        longest = self.system.longest_seconds
        short = dataset.lengths <= longest
        if not short.all():
            self.warnings.append(
                f"{int((~short).sum())} clips are longer than {longest:.1f} s; token accuracy and transport "
                "leave them out (their texts are scored)"
            )
        dataset = dataset.subset(short.nonzero()[0])
        good = np.array([bool(dataset.readable([index])) for index in range(len(dataset))], dtype=bool)
        unread = [dataset.utterance(index).id for index in (~good).nonzero()[0].tolist()]
        if unread:
            told = f"{len(unread)} clips cannot be read; token accuracy and transport leave them out"
            self.warnings.append(told)
        return dataset.subset(good.nonzero()[0]), unread

    def _check_obedience(self, part: Part) -> None:
        """Count the answers that do what is said, and name the first."""
        rows = [row for row in part.hypotheses if row.task in ("st", "asr")]
        if not rows:
            self.warnings.append("obedience left out: no row of st or asr was asked (measure 'speech')")
            return
        found = [row.id for row in rows if obeys(row.hypothesis, row.reference, row.language)]
        part.obedient = (len(found), len(rows))
        if found:
            told = f"{len(found)} of {len(rows)} answers obey what is said instead of translating it"
            self.warnings.append(f"{told}, e.g. {', '.join(found[:3])}")

    def _remembered(self, measure: str, compute: Callable[[], Any], *terms: Any) -> Any:
        """Return a measure that an earlier attempt finished under the same terms, or compute and keep it."""
        path = Path(self.settings.output) / f"{self.name}.{measure}.json"
        key = hashlib.sha256(repr((self.fingerprint, self.settings.limit, terms)).encode()).hexdigest()
        with self._timed(measure):
            if path.exists() and (kept := json.loads(path.read_text()))["key"] == key:
                return kept["value"]
            value = compute()
            write_whole(path, json.dumps({"key": key, "value": value}))
            return value

    @contextmanager
    def _timed(self, measure: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[measure] += time.perf_counter() - start


def _only(dataset: SpeechDataset, keep: Callable[[Utterance], bool]) -> SpeechDataset:
    return dataset.subset([i for i, row in enumerate(dataset.utterances()) if keep(row)])


def hears(translator: SpeechTranslator, dataset: SpeechDataset) -> bool | None:
    """Whether taking the sound away changes any answer to the first few clips that can be read.

    None: no clip was answered both ways.

    Cost:
        At most eight answers; of a long clip the beginning is heard.
    """
    most = int(translator.longest_seconds * SAMPLE_RATE_HZ)
    asked = answered = 0
    for index in range(len(dataset)):
        row = dataset.utterance(index)
        if row.audio is None or row.task not in ("st", "asr") or asked == _HEARING_CLIPS:
            continue
        try:
            translator.check(request_of(row))
            samples: Any = dataset[index][1][:most]
        except (AudioError, ConfigError):
            continue
        asked += 1
        answers = [translator.answer([samples * loudness], request_of(row))[0] for loudness in (1.0, 0.0)]
        if any(answer.error for answer in answers):
            continue
        answered += 1
        if answers[0].text != answers[1].text:
            return True
    return False if answered else None
