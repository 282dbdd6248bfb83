"""The demo's page: one HTML file with nothing outside it, to read, to look at and to listen to.

``render`` makes the page from plain results and needs no model; ``write_report`` gathers what the stages of
a demo left in its folder (results, histories, hypotheses, a few sounds and their transport plans).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aista.audio.files import load_audio
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, Utterance
from aista.evaluation.decode import TransportMap, read_hypotheses, transport_map
from aista.evaluation.evaluate import compare
from aista.experiments import page
from aista.experiments.page import Clip, Rendering
from aista.experiments.results import Cell, Row, Table
from aista.figures.charts import role_of
from aista.files import write_whole
from aista.text.normalize import edit_distance
from aista.text.prompts import language

NAMES = {"base": "base", "ai_sta": "AI-STA"}
LEVEL = 0.05
# Table 2 of the paper: base and AI-STA on CoVoST2 with Qwen2-7B.
PAPER = {"zh": (45.3, 46.0), "ja": (31.0, 31.4)}
_FIRST = 2
_HIDDEN = ("steps", "best_validation_accuracy")
_TITLES = {
    "token_accuracy": "token accuracy, %", "log_wasserstein": "log transport cost ↓",
    "chrf_captions": "captions, chrF2", "bleu": "BLEU", "chrf": "chrF2", "wer": "word error rate, % ↓",
    "cer": "character error rate, % ↓",
}  # fmt: skip


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows.

    Attributes:
        results: What ``results.json`` holds.
        comparisons: Score name -> fields of ``aista.evaluation.significance.Comparison``.
        clips: Recordings with both systems' translations; those with ``maps`` are also shown as heat maps.
        histories: System -> logged rows of its training (``step`` and ``ce``, ``wasserstein...`` or
            ``eval_token_accuracy``).
        configs: Name -> YAML text of the settings.
        notice: Shown in a box at the head, e.g. that the numbers are made up.
        readme: Address of the README; empty: it is not linked.
    """

    results: Mapping[str, Any]
    comparisons: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clips: Sequence[Clip] = ()
    histories: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)
    notice: str = ""
    readme: str = ""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from what the stages of a demo left in its folder.

    Args:
        folder: Holds ``results.json``, the models ``base`` and ``ai_sta`` with their ``history.json``, their
            evaluations under ``evaluate``, the test sets under ``corpus`` and settings under ``configs``.

    Returns:
        The path of the page.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    evaluations = {key: folder / "evaluate" / key for key in NAMES}
    models = {key: str(folder / key) for key in NAMES}
    layer = min(results["selected_layers"], default=0)
    clips = []
    for name in results["systems"]["base"].get("by_set", {}):
        clips += chosen_clips(folder / "corpus" / f"{name}.jsonl", evaluations, models, layer)
    data = ReportData(
        results=results,
        comparisons={name: asdict(row) for name, row in compare(*evaluations.values()).items()},
        clips=clips,
        histories={key: json.loads((folder / key / "history.json").read_text()) for key in NAMES},
        configs={path.stem: path.read_text() for path in sorted((folder / "configs").glob("*.yaml"))},
        readme=page.readme_from(folder),
    )
    path = folder / "report.html"
    write_whole(path, render(data))
    return path


def render(data: ReportData) -> str:
    """Return the whole page."""
    results, systems = data.results, data.results["systems"]
    speech, text = (_changes(systems, data.comparisons, prefix) for prefix in ("bleu_", "mt_bleu_"))
    never = results.get("untaught") or {"systems": {}, "significance": {}}
    untaught = _changes(never["systems"], never["significance"], "bleu_") if never["systems"] else []
    return page.render(
        "demo.html.j2",
        data=data,
        results=results,
        titles=NAMES,
        signs=[row["sign"] for row in speech],
        layers=_layers(results),
        speech=speech,
        text=text,
        cost=_pair(results, "log_wasserstein"),
        accuracy=_pair(results, "token_accuracy"),
        retrieval={
            "lines": [
                {
                    "title": "right transcript", "mrr": results["mrr_by_layer"],
                    "selected": results["selected_layers"], "threshold": results.get("threshold") or 0.0,
                    "chance": results["chance_mrr"], "shuffled": results.get("shuffled_mrr_by_layer") or [],
                }
            ]
        },
        pairs={"rows": [*speech, *text]},
        untaught=untaught,
        untaught_signs=[row["sign"] for row in untaught],
        untaught_pairs={"rows": untaught},
        untaught_table=_table("untaught", "Scores", never["systems"], never["significance"]),
        table=_table("scores", "Scores over all sentences", systems, data.comparisons),
        tables=[
            _table(name, page.words(name), {key: systems[key]["by_set"][name] for key in NAMES}, {})
            for name in systems["base"].get("by_set", {})
        ],
        signatures=[
            f"{title_of(name)}: {value}" for name, value in (results.get("bleu_signature") or {}).items()
        ],
        curves=[row for row in _curves(data.histories) if row["series"]],
        level=LEVEL,
    )  # fmt: skip


def _pair(results: Mapping[str, Any], name: str) -> dict[str, float] | None:
    base, system = (results["systems"][key].get(name) for key in NAMES)
    if base is None or system is None:
        return None
    return {"base": base, "system": system, "factor": math.exp(min(abs(base - system), 50.0))}


def _changes(
    systems: Mapping[str, Mapping[str, Any]], comparisons: Mapping[str, Mapping[str, Any]], prefix: str
) -> list[dict[str, Any]]:
    """Return what AI-STA changed in the scores that begin so, with the paper's change where it has one."""
    changes = []
    for name in (n for n in systems["base"] if n.startswith(prefix) and n in systems["ai_sta"]):
        base, system = (systems[key][name] for key in NAMES)
        code, test = name.rsplit("_", 1)[-1], comparisons.get(name, {})
        p, gain = test.get("p_value"), system - base
        changes.append(
            {
                "name": title_of(name), "language": language(code).name, "base": base, "system": system,
                **{f"{key}_half": test.get(f"{key}_half_width") or 0.0 for key in ("base", "system")},
                "gain": gain, "p": p, "paper": PAPER.get(code) if prefix == "bleu_" else None,
                # 1 or -1 where a change is more than chance explains.
                "sign": 0 if p is None or p >= LEVEL else 1 if gain > 0 else -1,
            }
        )  # fmt: skip
    return changes


def _layers(results: Mapping[str, Any]) -> dict[str, Any]:
    mrr, chosen = results["mrr_by_layer"], results["selected_layers"]
    best = max(range(len(mrr)), key=mrr.__getitem__)
    return {
        "best": best, "mrr": mrr[best], "times": mrr[best] / results["chance_mrr"], "chosen": chosen,
        "are_early": bool(chosen) and max(chosen) <= len(mrr) // 2, "last": len(mrr) - 1,
    }  # fmt: skip


def _table(
    name: str, title: str, systems: Mapping[str, Mapping[str, Any]],
    comparisons: Mapping[str, Mapping[str, Any]],
) -> Table:  # fmt: skip
    """Return all scores of both systems with their difference, and its p where it was tested."""
    rows = []
    for score, base in systems.get("base", {}).items():
        system = systems["ai_sta"].get(score)
        if not (isinstance(base, int | float) and isinstance(system, int | float)) or score in _HIDDEN:
            continue
        digits = 2 if score == "log_wasserstein" else 1
        p = comparisons.get(score, {}).get("p_value")
        cells = [Cell(value=float(value), digits=digits) for value in (base, system)]
        cells.append(Cell(value=system - base, digits=digits, signed=True, p_value=p))
        rows.append(Row(label=title_of(score), cells=cells, key=score))
    return Table(name=name, title=title, columns=["base", "AI-STA", "difference"], rows=rows)


def title_of(score: str) -> str:
    """Return what a score is called on the page."""
    if score in _TITLES:
        return _TITLES[score]
    *kind, code = score.split("_")
    measure = _TITLES.get(kind[-1], kind[-1])
    if kind[-1] in ("wer", "cer"):
        return f"{language(code).name}, {measure}"
    return f"{'text' if kind[0] == 'mt' else 'speech'} → {language(code).name}, {measure}"


def _curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Return the three drawings of the trainings."""
    drawings = []
    for key, title, log in (
        ("ce", "cross-entropy of the translation, per token", False),
        ("wasserstein", "alignment loss, mean of the aligned layers", True),
        ("eval_token_accuracy", "token accuracy on held-out sentences", False),
    ):
        series = [
            {"name": NAMES[system], "role": role_of(system), "points": points}
            for system, rows in histories.items()
            if (points := _points(rows, key))
        ]
        drawings.append({"title": title, "log": log, "series": series})
    return drawings


def _points(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """Return (step, value) of one logged quantity; of several layers' costs, their mean."""
    points = []
    for row in rows:
        values = [value for key, value in row.items() if key == name or key.startswith(f"{name}_")]
        if values and "step" in row and math.isfinite(mean := sum(values) / len(values)):
            points.append((float(row["step"]), mean))
    return points


# ---- recordings, chosen by rule ----

_Rows = list[tuple[int, Utterance]]


def chosen_clips(
    manifest: Path, evaluations: Mapping[str, Path], models: Mapping[str, str], layer: int
) -> list[Clip]:
    """Return the first clips of a test set and the one on which the systems differ most.

    Args:
        manifest: The test set; rows that share a recording are shown together.
        evaluations: System -> output folder of its ``aista evaluate``.
        models: System -> model folder; the transport plans of the first clip are taken from them.
        layer: Layer of the transport plans.

    Raises:
        EvaluationError, ManifestError, AudioError: What the stages left behind cannot be read.
    """
    texts = {
        key: {row.id: row.hypothesis for row in read_hypotheses(folder / f"{manifest.stem}.speech.jsonl")}
        for key, folder in evaluations.items()
    }
    groups: dict[Any, _Rows] = defaultdict(list)  # by recording, in order of appearance
    for index, row in enumerate(Manifest(manifest)):
        if row.task == "st" and row.translation and all(row.id in found for found in texts.values()):
            groups[row.audio, row.offset, row.channel].append((index, row))
    names = list(groups)
    chosen, rest = names[:_FIRST], names[_FIRST:]
    if rest:
        chosen.append(max(rest, key=lambda name: _disagreement(groups[name], texts)))
    title = page.words(manifest.stem.removeprefix("test_"))
    clips = []
    for number, name in enumerate(chosen, start=1):
        (index, first), *_ = rows = groups[name]
        why = "where the two differ most" if name in rest else f"number {number}"
        clips.append(
            Clip(
                f"{manifest.stem}-{first.id}",
                load_audio(Manifest(manifest).audio_path(first), **first.span),
                first.text or "",
                f"{title} words · {why}",
                [
                    Rendering(
                        row.answer_lang, row.target, {key: found[row.id] for key, found in texts.items()}
                    )
                    for _, row in rows
                ],
                _maps(manifest, index, models, layer) if number == 1 else {},
            )
        )
    return clips


def _disagreement(rows: _Rows, texts: Mapping[str, Mapping[str, str]]) -> int:
    """Count the edits between the systems' translations."""
    total = 0
    for _, row in rows:
        one, *others = (found[row.id] for found in texts.values())
        total += sum(edit_distance(one, other) for other in others)
    return total


def _maps(manifest: Path, index: int, models: Mapping[str, str], layer: int) -> dict[str, TransportMap]:
    """Return each system's transport plan for one row."""
    from aista.inference.translator import load

    clip = SpeechDataset([Manifest(manifest)]).subset([index])
    maps = {}
    for key, folder in models.items():
        translator = load(folder)
        maps[key] = transport_map(translator.speech_llm, clip, layer)[0]
    return maps
