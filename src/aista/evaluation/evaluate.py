"""``aista evaluate``: all scores of a model on held-out manifests, resumable, and how to repeat it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aista.data.collate import SpeechDataset
from aista.data.manifest import Manifest, Utterance
from aista.errors import EvaluationError
from aista.evaluation.decode import Hypothesis, decode, longest_seconds, read_hypotheses
from aista.evaluation.inside import hears, teacher_forced_accuracy, transport_costs
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
    versions,
    write_results,
)
from aista.evaluation.settings import EvaluateSettings
from aista.evaluation.significance import Comparison, paired_bootstrap
from aista.model.bases import locate
from aista.selection.report import LayerReport

__all__ = ["compare", "evaluate", "model_fingerprint", "versions"]


@dataclass(frozen=True)
class _Bench:
    """One model at work on one test set."""

    model: Any
    processor: Any
    fingerprint: str
    settings: EvaluateSettings
    name: str
    dataset: SpeechDataset
    warnings: list[str]

    def heard_whole(self) -> SpeechDataset:
        """Return the rows with sound, but what is longer than the model hears at once."""
        dataset = _only(self.dataset, lambda row: row.audio is not None)
        short = dataset.lengths <= longest_seconds(self.model)
        if not short.all():
            longer = f"{int((~short).sum())} clips are longer than {longest_seconds(self.model):.1f} s"
            self.warnings.append(
                f"{self.name}: {longer}; token accuracy and transport leave them out (their texts are scored)"
            )
        return dataset.subset(short.nonzero()[0])

    def hypotheses(self, dataset: SpeechDataset, kind: str) -> list[Hypothesis]:
        return decode(
            self.model,
            self.processor,
            dataset,
            Path(self.settings.output) / f"{self.name}.{kind}.jsonl",
            generation=self.settings.generation,
            from_text=kind == "text",
            fingerprint=self.fingerprint,
            description=f"{self.name}: {'from text' if kind == 'text' else 'from speech'}",
        )

    def remembered(self, measure: str, compute: Callable[[], Any], *terms: Any) -> Any:
        """Return a measure that an earlier attempt finished under the same terms, or compute and keep it."""
        path = Path(self.settings.output) / f"{self.name}.{measure}.json"
        return remembered(path, (self.fingerprint, self.settings.limit, terms), compute)


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Score a model and write ``results.json`` beside its hypotheses.

    Returns:
        ``scores`` (over all sets together); by score ``num_scored``, the rows behind it, and
        ``num_unfinished``, the rows whose answer ``max_new_tokens`` may have cut; ``signatures``; ``by_set``
        (each with its ``scores``, ``num_scored``, ``num_unfinished``, ``num_utterances``); ``warnings``,
        ``seconds`` by measure, ``versions``, ``settings`` and what identifies them and the model. The keys of
        the scores: ``bleu_zh``, ``chrf_zh`` (speech translation), ``mt_bleu_zh``, ``mt_chrf_zh`` (text in the
        speech slot), ``wer_en``, ``chrf_captions``, ``token_accuracy`` (percent), ``log_wasserstein``.

    Raises:
        EvaluationError: Two manifests have one name, or the output belongs to another evaluation.
        ManifestError: A manifest or a row cannot be used.

    Cost:
        An evaluation that is finished is read, not repeated.
    """
    from aista.inference.translator import load

    names = set_names(settings.data)
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    layers = _layers(settings)
    made_by: dict[str, Any] = {
        "settings_sha256": settings.sha256(),
        "model_fingerprint": model_fingerprint(settings.model),
        "data_sha256": {name: sha256_of(path) for name, path in zip(names, settings.data, strict=True)},
        "layers": layers,
    }
    if (kept := finished(output / RESULTS, made_by)) is not None:
        return kept
    translator = load(settings.model)
    seconds: dict[str, float] = defaultdict(float)
    parts: dict[str, Part] = {}
    warnings: list[str] = []
    for name, path in zip(names, settings.data, strict=True):
        dataset = _dataset(settings, translator.model, translator.processor, path)
        fingerprint = f"{made_by['model_fingerprint']}/{made_by['data_sha256'][name]}"
        bench = _Bench(translator.model, translator.processor, fingerprint, settings, name, dataset, warnings)
        parts[name] = _measure(bench, layers, seconds)
        if settings.silence_check and "speech" in settings.measures:
            _check_hearing(bench, path)
    made_by["seconds"] = {name: round(value, 2) for name, value in seconds.items()}
    return write_results(settings.model, settings, parts, {"warnings": warnings, **made_by}, output)


def _dataset(settings: EvaluateSettings, model: Any, processor: Any, path: str) -> SpeechDataset:
    store = None
    if settings.features:
        from aista.model.feature_cache import cached_features

        store = cached_features(model, processor, [path], settings.features)
    dataset = SpeechDataset([Manifest(path)], features=store)
    size = len(dataset) if settings.limit is None else min(settings.limit, len(dataset))
    return dataset.subset(range(size))


def _layers(settings: EvaluateSettings) -> list[int]:
    if isinstance(settings.layers, str):
        return LayerReport.load(settings.layers).selected
    return list(settings.layers)


def _measure(bench: _Bench, layers: list[int], seconds: dict[str, float]) -> Part:
    """Take every measure that is asked for on one test set."""
    asked = bench.settings.measures
    found: list[Hypothesis] = []
    correct, num_rows, log_costs = (0, 0), 0, {}
    spoken = _only(bench.dataset, lambda row: row.audio is not None and has_target(row))
    written = _only(bench.dataset, lambda row: row.task in ("st", "mt") and has_text(row) and has_target(row))
    whole = bench.heard_whole() if {"token_accuracy", "log_wasserstein"} & set(asked) else bench.dataset
    if "speech" in asked and len(spoken):
        with Clock(seconds, "speech"):
            found += bench.hypotheses(spoken, "speech")
    if "text_translation" in asked and len(written):
        with Clock(seconds, "text_translation"):
            found += bench.hypotheses(written, "text")
    if "token_accuracy" in asked and len(rows := _only(whole, has_target)):
        num_rows = len(rows)
        with Clock(seconds, "token_accuracy"):
            correct = bench.remembered(
                "token_accuracy", lambda: teacher_forced_accuracy(bench.model, bench.processor, rows)
            )
    pairs = _only(whole, lambda row: row.task != "aac" and has_text(row)).clips()
    if "log_wasserstein" in asked and len(pairs):
        with Clock(seconds, "log_wasserstein"):
            log_costs = bench.remembered(
                "log_wasserstein",
                lambda: transport_costs(bench.model, bench.processor, pairs, layers),
                layers,
            )
    most = bench.settings.generation.max_new_tokens
    bench.warnings.extend(part_warnings(bench.name, bench.dataset.utterances(), found, most))
    return Part(len(bench.dataset), found, (correct[0], correct[1]), num_rows, log_costs)


def _only(dataset: SpeechDataset, keep: Callable[[Utterance], bool]) -> SpeechDataset:
    return dataset.subset([i for i, row in enumerate(dataset.utterances()) if keep(row)])


def _check_hearing(bench: _Bench, path: str) -> None:
    """Warn of a model that answers silence as it answers speech."""
    sounds = SpeechDataset([Manifest(path)])
    tasks = ("asr", "st")
    clips = [i for i, row in enumerate(sounds.utterances()) if row.audio is not None and row.task in tasks][
        :4
    ]
    if not clips:
        return
    if not bench.remembered(
        "hears", lambda: hears(bench.model, bench.processor, [sounds[i] for i in clips]), clips
    ):
        bench.warnings.append(
            f"{bench.name}: the answers are the same without the sound: the model does not hear"
        )


def compare(base: str | Path, system: str | Path) -> dict[str, Comparison]:
    """Compare the hypotheses of two evaluations on the same manifests by paired bootstrap.

    Args:
        base, system: Output folders of ``aista evaluate``.

    Returns:
        One comparison per score name (``bleu_zh``, ``mt_bleu_ja``, ...), all test sets together.

    Raises:
        EvaluationError: The folders do not hold answers to the same questions: rows, sources, references, or
            the manifests themselves differ.
    """
    one, other = _hypotheses_of(Path(base)), _hypotheses_of(Path(system))
    if one.keys() != other.keys():
        raise EvaluationError(
            "The two evaluations did not answer the same questions.",
            got=f"{len(one.keys() ^ other.keys())} rows stand in one of them only",
            advice="Evaluate both models on the same manifests.",
        )
    _check_same_rows(one, other)
    _check_same_manifests(Path(base), Path(system))
    groups: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for key, row in one.items():
        if row.task in ("st", "mt"):
            groups[row.task, row.language].append(key)
    comparisons = {}
    for (task, code), keys in sorted(groups.items()):
        name = f"{'mt_' if task == 'mt' else ''}bleu_{code}"
        comparisons[name] = paired_bootstrap(
            [one[key].hypothesis for key in keys],
            [other[key].hypothesis for key in keys],
            [one[key].reference for key in keys],
            code,
        )
    return comparisons


def _check_same_rows(
    one: dict[tuple[str, str], Hypothesis], other: dict[tuple[str, str], Hypothesis]
) -> None:
    """Refuse rows that have one id and another content."""
    for what in ("reference", "source", "task", "language"):
        odd = [key for key, row in one.items() if getattr(row, what) != getattr(other[key], what)]
        if odd:
            values = " and ".join(repr(getattr(rows[odd[0]], what)) for rows in (one, other))
            raise EvaluationError(
                f"The two evaluations do not have the same {what}s: their scores cannot be compared.",
                got=f"{len(odd)} rows differ, e.g. {odd[0][1]}: {values}",
                advice="Evaluate both models on the same manifests.",
            )


def _check_same_manifests(base: Path, system: Path) -> None:
    """Refuse test sets that have one name and another content (the sound, say), as far as they are known."""
    paths = [folder / RESULTS for folder in (base, system)]
    if not all(path.exists() for path in paths):
        return
    one, other = (json.loads(path.read_text(encoding="utf-8")).get("data_sha256", {}) for path in paths)
    if odd := [name for name in one.keys() & other.keys() if one[name] != other[name]]:
        raise EvaluationError(
            "The two evaluations were made on different versions of a manifest.",
            got=", ".join(odd),
            advice="Evaluate both models on the same manifests.",
        )


def _hypotheses_of(folder: Path) -> dict[tuple[str, str], Hypothesis]:
    files = sorted(folder.glob("*.speech.jsonl")) + sorted(folder.glob("*.text.jsonl"))
    return {(file.name, row.id): row for file in files for row in read_hypotheses(file)}


def model_fingerprint(name: str) -> str:
    """Identify a model folder by the content of its configuration and weights."""
    digest = hashlib.sha256()
    folder = locate(name)
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        if path.name not in ("training.json", "history.json"):
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
