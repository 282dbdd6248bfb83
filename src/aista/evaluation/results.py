"""What an evaluation comes to: the scores of hypotheses, and a ``results.json`` that says how it was made."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from unicodedata import is_normalized

from aista import __version__
from aista.config import Settings
from aista.data.manifest import Manifest, Utterance
from aista.errors import EvaluationError
from aista.evaluation import metrics
from aista.evaluation.decode import Hypothesis, read_hypotheses
from aista.files import write_whole
from aista.text.normalize import is_blank, without_invisible
from aista.text.prompts import chinese_form, language

RESULTS = "results.json"
# Another attempt may ask for more in the same folder: what is there is used again, the results are made anew.
MAY_CHANGE = ("measures", "limit", "layers", "silence_check")


@dataclass
class Part:
    """What was measured on one test set: texts to score, and sums to average."""

    num_utterances: int
    hypotheses: list[Hypothesis] = field(default_factory=list)
    correct_tokens: Sequence[int] = (0, 0)
    num_accuracy_rows: int = 0
    obedient: Sequence[int] = (0, 0)
    log_costs: dict[str, list[float]] = field(default_factory=dict)

    @property
    def is_anything(self) -> bool:
        """Whether any measure could be taken."""
        return bool(self.hypotheses or self.correct_tokens[1] or self.log_costs)


def set_names(manifests: Sequence[str]) -> list[str]:
    """Return the names of test sets: those of their files.

    Raises:
        EvaluationError: Two have one name.
    """
    names = [Path(path).stem for path in manifests]
    if len(set(names)) < len(names):
        raise EvaluationError("Two manifests have the same file name.", got=", ".join(manifests))
    return names


def has_target(row: Utterance) -> bool:
    """Whether there is something to score an answer by: a text or translation that is not blank."""
    return not is_blank((row.text if row.task in ("asr", "aac") else row.translation) or "")


def has_text(row: Utterance) -> bool:
    """Whether there is a transcript to translate."""
    return not is_blank(row.text or "")


def part_warnings(
    utterances: Iterable[Utterance], found: Sequence[Hypothesis], max_new_tokens: int
) -> list[str]:
    """Say what a reader of a test set's scores should know of its texts.

    Args:
        utterances: All rows of the test set.
        found: The answers to them.
        max_new_tokens: Where an answer is cut.
    """
    rows = list(utterances)
    told = []
    if bare := [row.id for row in rows if not has_target(row)]:
        told.append(f"{_some(bare, len(rows))} have no reference, or a blank one, and are not scored")
    groups = defaultdict(list)
    for row in found:
        groups[row.task, row.language].append(row)
    for (task, code), answers in sorted(groups.items()):
        rate = "wer" if language(code).spaces else "cer"
        names = {"asr": f"{rate}_{code}", "aac": "chrf_captions"}
        names |= {"mt": f"mt_bleu_{code}", "st": f"bleu_{code}"}
        if cut := [row.id for row in answers if not row.finished]:
            told.append(
                f"{_some(cut, len(answers))} ({names[task]}) reached max_new_tokens = "
                f"{max_new_tokens} and may be cut: the scores count them as they are"
            )
    spoken = [row for row in found if row.task == "asr"]
    if mute := [row.id for row in spoken if not metrics.units(row.reference, row.language)]:
        told.append(f"{_some(mute, len(spoken))} have a reference without a word: no error rate counts them")
    raw = [row for row in found if row.task != "asr"]  # WER takes both away
    if odd := [row.id for row in raw if any(without_invisible(t) != t for t in _texts_of(row))]:
        told.append(
            f"{_some(odd, len(raw))} hold format or control characters that nobody sees (zero-width spaces, "
            "soft hyphens, ...): BLEU and chrF count them as differences"
        )
    if odd := [row.id for row in raw if not all(is_normalized("NFC", text) for text in _texts_of(row))]:
        told.append(
            f"{_some(odd, len(raw))} are not in Unicode's composed form (NFC): BLEU and chrF count the same "
            "letter in two forms as a difference"
        )
    chinese = [row for row in found if row.language == "zh"]
    if odd := [row.id for row in chinese if len({*map(chinese_form, _texts_of(row))} - {None}) == 2]:
        told.append(
            f"{_some(odd, len(chinese))} are answered in traditional characters where the reference has "
            "simplified ones, or the other way round: every score counts them as differences"
        )
    return told


def _some(ids: Sequence[str], total: int) -> str:
    more = ", ..." if len(ids) > 3 else ""
    return f"{len(ids)} of {total} rows ({', '.join(ids[:3])}{more})"


def _texts_of(row: Hypothesis) -> tuple[str, str]:
    return row.hypothesis, row.reference


def write_results(
    model: str, settings: Settings, parts: dict[str, Part], extra: dict[str, Any], output: Path
) -> dict[str, Any]:
    """Write ``results.json`` and the settings, and return the results.

    Args:
        model: What was evaluated.
        settings: How.
        parts: What was found on each test set.
        extra: Further entries: warnings, seconds, whatever identifies model, data and settings.
        output: The folder.
    """
    by_set = {}
    for name, part in parts.items():
        found = _scores([part])
        counts = {key: found[key] for key in ("scores", "num_scored", "num_unfinished")}
        by_set[name] = {"num_utterances": part.num_utterances, **counts}
    results = {
        "model": model,
        **_scores(parts.values()),
        "by_set": by_set,
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
        **extra,
    }
    settings.save(output / "settings.yaml")
    write_whole(output / RESULTS, json.dumps(results, ensure_ascii=False, indent=1))
    return results


def add_comet(output: Path, scorer: metrics.Comet) -> dict[str, Any]:
    """Add COMET of the speech translations to the results of a finished evaluation, ``comet_zh``.

    Args:
        output: Folder of the evaluation.
        scorer: The model that scores.

    Raises:
        EvaluationError: A row has no transcript.
    """
    results = json.loads((output / RESULTS).read_text(encoding="utf-8"))
    whole: dict[str, list[metrics.Score]] = defaultdict(list)
    for path in results["settings"]["data"]:
        part = results["by_set"][Path(path).stem]
        ids = {row.id for row in islice(Manifest(path), results["settings"]["limit"])}
        groups = defaultdict(list)
        for row in read_hypotheses(output / f"{Path(path).stem}.speech.jsonl"):
            if row.task == "st" and row.id in ids:
                groups[row.language].append(row)
        for code, rows in groups.items():
            texts = zip(*((row.hypothesis, row.reference, row.source) for row in rows), strict=True)
            score = scorer.score(*texts)
            whole[code].append(score)
            part["scores"][f"comet_{code}"] = score.value
            part["num_scored"][f"comet_{code}"] = score.num_segments
    for code, scores in whole.items():
        total = sum(score.num_segments for score in scores)
        mean = sum(score.value * score.num_segments for score in scores) / total
        results["scores"][f"comet_{code}"], results["num_scored"][f"comet_{code}"] = mean, total
        results["signatures"][f"comet_{code}"] = scores[0].signature
    write_whole(output / RESULTS, json.dumps(results, ensure_ascii=False, indent=1))
    return results


def _scores(parts: Iterable[Part]) -> dict[str, Any]:
    """Score one set, or several together.

    Returns:
        ``scores``; ``num_scored``, the rows behind each; ``num_unfinished``, the rows whose answer may have
        been cut; ``signatures``; ``log_wasserstein_by_layer``.
    """
    parts = list(parts)
    groups: dict[tuple[str, str], list[Hypothesis]] = defaultdict(list)
    for part in parts:
        for row in part.hypotheses:
            groups[row.task, row.language].append(row)
    values: dict[str, float] = {}
    num_scored: dict[str, int] = {}
    num_unfinished: dict[str, int] = {}
    signatures: dict[str, str] = {}
    for (task, code), rows in groups.items():
        for name, score in _texts(task, code, rows):
            values[name], signatures[name] = score.value, score.signature
            num_scored[name] = score.num_segments
            num_unfinished[name] = sum(not row.finished for row in rows)
    right, total = (sum(part.correct_tokens[i] for part in parts) for i in (0, 1))
    if total:
        values["token_accuracy"] = 100 * right / total
        num_scored["token_accuracy"] = sum(part.num_accuracy_rows for part in parts)
    obeyed, told = (sum(part.obedient[i] for part in parts) for i in (0, 1))
    if told:
        values["obedience"], num_scored["obedience"] = 100 * obeyed / told, told
    by_layer = {}
    for layer in {layer for part in parts for layer in part.log_costs}:
        costs = [cost for part in parts for cost in part.log_costs.get(layer, [])]
        by_layer[layer] = sum(costs) / len(costs)
        num_scored["log_wasserstein"] = len(costs)
    if by_layer:
        values["log_wasserstein"] = sum(by_layer.values()) / len(by_layer)
    return {
        "scores": values,
        "num_scored": num_scored,
        "num_unfinished": num_unfinished,
        "signatures": signatures,
        "log_wasserstein_by_layer": by_layer,
    }


def _texts(task: str, code: str, rows: Sequence[Hypothesis]) -> list[tuple[str, metrics.Score]]:
    """Score the texts of one task and language."""
    hypotheses, references = [row.hypothesis for row in rows], [row.reference for row in rows]
    if task == "asr" and not any(metrics.units(text, code) for text in references):
        return []
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


def versions() -> dict[str, str]:
    """Return the versions of everything a score may depend on."""
    packages = [
        "torch",
        "transformers",
        "peft",
        "tokenizers",
        "sacrebleu",
        "numpy",
        "soundfile",
        "soxr",
    ]
    ours = {"python": platform.python_version(), "aista": __version__}  # a source tree is not installed
    return ours | {name: importlib.metadata.version(name) for name in packages}
