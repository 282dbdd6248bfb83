"""``aista evaluate``: all scores of a model on held-out manifests, resumable, and how to repeat it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aista.data.collate import SpeechDataset
from aista.data.manifest import Manifest, Utterance
from aista.errors import EvaluationError
from aista.evaluation import metrics
from aista.evaluation.decode import Hypothesis, decode, longest_seconds, read_hypotheses
from aista.evaluation.inside import hears, teacher_forced_accuracy, transport_costs
from aista.evaluation.settings import EvaluateSettings
from aista.evaluation.significance import Comparison, paired_bootstrap
from aista.model.bases import locate
from aista.selection.report import LayerReport

RESULTS = "results.json"


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
        key = hashlib.sha256(repr((self.fingerprint, self.settings.limit, terms)).encode()).hexdigest()
        if path.exists() and (kept := json.loads(path.read_text()))["key"] == key:
            return kept["value"]
        value = compute()
        path.write_text(json.dumps({"key": key, "value": value}))
        return value


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Score a model and write ``results.json`` beside its hypotheses.

    Returns:
        ``scores`` (over all sets together), ``signatures``, ``by_set`` (each with its ``scores`` and
        ``num_utterances``), ``warnings``, ``seconds`` by measure, ``versions``, ``settings`` and what
        identifies them and the model. The keys of the scores: ``bleu_zh``, ``chrf_zh`` (speech translation),
        ``mt_bleu_zh``, ``mt_chrf_zh`` (text in the speech slot), ``wer_en``, ``chrf_captions``,
        ``token_accuracy`` (percent), ``log_wasserstein``.

    Raises:
        EvaluationError: Two manifests have one name, or the output belongs to another evaluation.
        ManifestError: A manifest or a row cannot be used.

    Cost:
        An evaluation that is finished is read, not repeated.
    """
    from aista.evaluation.translator import load

    names = [Path(path).stem for path in settings.data]
    if len(set(names)) < len(names):
        raise EvaluationError("Two manifests have the same file name.", got=", ".join(settings.data))
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    layers = _layers(settings)
    made_by: dict[str, Any] = {
        "settings_sha256": settings.sha256(),
        "model_fingerprint": model_fingerprint(settings.model),
        "data_sha256": {name: _sha256(path) for name, path in zip(names, settings.data, strict=True)},
        "layers": layers,
    }
    if (kept := _finished(output / RESULTS, made_by)) is not None:
        return kept
    translator = load(settings.model)
    seconds: dict[str, float] = defaultdict(float)
    parts: dict[str, _Part] = {}
    warnings: list[str] = []
    for name, path in zip(names, settings.data, strict=True):
        dataset = _dataset(settings, translator.model, translator.processor, path)
        fingerprint = f"{made_by['model_fingerprint']}/{made_by['data_sha256'][name]}"
        bench = _Bench(translator.model, translator.processor, fingerprint, settings, name, dataset, warnings)
        parts[name] = _measure(bench, layers, seconds)
        if settings.silence_check and "speech" in settings.measures:
            _check_hearing(bench, path)
    results = _results(settings, parts, warnings) | made_by
    results["seconds"] = {name: round(value, 2) for name, value in seconds.items()}
    settings.save(output / "settings.yaml")
    (output / RESULTS).write_text(json.dumps(results, ensure_ascii=False, indent=1), encoding="utf-8")
    return results


def _finished(path: Path, made_by: dict[str, Any]) -> dict[str, Any] | None:
    """Return the results of a finished evaluation if they were made by these very things."""
    if not path.exists():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept if all(kept.get(name) == value for name, value in made_by.items()) else None


def _sha256(manifest: str) -> str:
    """Return the hash of a manifest (which must be there)."""
    return hashlib.sha256(Manifest(manifest).path.read_bytes()).hexdigest()


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


@dataclass(frozen=True)
class _Part:
    """What was measured on one test set: texts to score, and sums to average."""

    num_utterances: int
    hypotheses: list[Hypothesis]
    correct_tokens: tuple[int, int]
    log_costs: dict[str, list[float]]


def _measure(bench: _Bench, layers: list[int], seconds: dict[str, float]) -> _Part:
    """Take every measure that is asked for on one test set."""
    asked = bench.settings.measures
    found: list[Hypothesis] = []
    correct, log_costs = (0, 0), {}
    spoken = _only(bench.dataset, lambda row: row.audio is not None and _has_target(row))
    written = _only(
        bench.dataset, lambda row: row.task in ("st", "mt") and bool(row.text) and _has_target(row)
    )
    whole = bench.heard_whole() if {"token_accuracy", "log_wasserstein"} & set(asked) else bench.dataset
    if "speech" in asked and len(spoken):
        with _Clock(seconds, "speech"):
            found += bench.hypotheses(spoken, "speech")
    if "text_translation" in asked and len(written):
        with _Clock(seconds, "text_translation"):
            found += bench.hypotheses(written, "text")
    if "token_accuracy" in asked and len(rows := _only(whole, _has_target)):
        with _Clock(seconds, "token_accuracy"):
            correct = bench.remembered(
                "token_accuracy", lambda: teacher_forced_accuracy(bench.model, bench.processor, rows)
            )
    pairs = _only(whole, lambda row: row.task != "aac" and bool(row.text)).clips()
    if "log_wasserstein" in asked and len(pairs):
        with _Clock(seconds, "log_wasserstein"):
            log_costs = bench.remembered(
                "log_wasserstein",
                lambda: transport_costs(bench.model, bench.processor, pairs, layers),
                layers,
            )
    return _Part(len(bench.dataset), found, (correct[0], correct[1]), log_costs)


def _only(dataset: SpeechDataset, keep: Callable[[Utterance], bool]) -> SpeechDataset:
    return dataset.subset([i for i, row in enumerate(dataset.utterances()) if keep(row)])


def _has_target(row: Utterance) -> bool:
    return bool(row.text if row.task in ("asr", "aac") else row.translation)


class _Clock:
    """Adds the time spent inside it to an entry of a dictionary."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] += time.perf_counter() - self.start


def _results(settings: EvaluateSettings, parts: dict[str, _Part], warnings: list[str]) -> dict[str, Any]:
    scores, signatures, by_layer = _scores(parts.values())
    by_set = {}
    for name, part in parts.items():
        by_set[name] = {"num_utterances": part.num_utterances, "scores": _scores([part])[0]}
    return {
        "model": settings.model,
        "scores": scores,
        "signatures": signatures,
        "log_wasserstein_by_layer": by_layer,
        "by_set": by_set,
        "warnings": warnings,
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
    }


def _scores(parts: Iterable[_Part]) -> tuple[dict[str, float], dict[str, str], dict[str, float]]:
    """Return the scores of one set or of several together, their signatures, and log W by layer."""
    parts = list(parts)
    groups: dict[tuple[str, str], list[Hypothesis]] = defaultdict(list)
    for part in parts:
        for row in part.hypotheses:
            groups[row.task, row.language].append(row)
    found = {name: score for (task, code), rows in groups.items() for name, score in _texts(task, code, rows)}
    values = {name: score.value for name, score in found.items()}
    right, total = (sum(part.correct_tokens[i] for part in parts) for i in (0, 1))
    if total:
        values["token_accuracy"] = 100 * right / total
    by_layer = {}
    for layer in {layer for part in parts for layer in part.log_costs}:
        costs = [cost for part in parts for cost in part.log_costs.get(layer, [])]
        by_layer[layer] = sum(costs) / len(costs)
    if by_layer:
        values["log_wasserstein"] = sum(by_layer.values()) / len(by_layer)
    return values, {name: score.signature for name, score in found.items()}, by_layer


def _texts(task: str, code: str, rows: Sequence[Hypothesis]) -> list[tuple[str, metrics.Score]]:
    """Score the texts of one task and language."""
    hypotheses, references = [row.hypothesis for row in rows], [row.reference for row in rows]
    if task == "asr":
        score = metrics.wer(hypotheses, references, code)
        return [(f"{score.name.lower()}_{code}", score)]
    if task == "aac":
        return [("chrf_captions", metrics.chrf(hypotheses, references))]
    prefix = "mt_" if task == "mt" else ""
    return [
        (f"{prefix}bleu_{code}", metrics.bleu(hypotheses, references, code)),
        (f"{prefix}chrf_{code}", metrics.chrf(hypotheses, references)),
    ]


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
        EvaluationError: The folders do not hold answers to the same questions.
    """
    one, other = _hypotheses_of(Path(base)), _hypotheses_of(Path(system))
    if one.keys() != other.keys():
        raise EvaluationError(
            "The two evaluations did not answer the same questions.",
            got=f"{len(one.keys() ^ other.keys())} rows stand in one of them only",
            advice="Evaluate both models on the same manifests.",
        )
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


def versions() -> dict[str, str]:
    """Return the versions of everything a score may depend on."""
    packages = (
        "aista",
        "torch",
        "transformers",
        "peft",
        "tokenizers",
        "sacrebleu",
        "numpy",
        "soundfile",
        "soxr",
    )
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }
