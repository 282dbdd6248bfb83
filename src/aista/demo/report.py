"""The demo's report: one HTML file with nothing outside it, to read, to look at and to listen to.

``render`` makes the page from plain results and needs no model; ``write_report`` gathers what the stages of
a demo left in its folder (results, histories, hypotheses, a few sounds and their transport plans).
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aista.demo.exhibits import exhibits
from aista.demo.findings import findings, headline
from aista.evaluation.charts import Level, Pair, Series, dumbbells, line_chart
from aista.evaluation.evaluate import compare
from aista.evaluation.page import Clip, Row, clip_card, document, signed, table, transport_figure
from aista.text.languages import language

NAMES = {"base": "base", "ai_sta": "AI-STA"}


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
    """

    results: Mapping[str, Any]
    comparisons: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clips: Sequence[Clip] = ()
    histories: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)
    notice: str = ""


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
        clips += exhibits(folder / "corpus" / f"{name}.jsonl", evaluations, models, layer)
    data = ReportData(
        results=results,
        comparisons={name: asdict(row) for name, row in compare(*evaluations.values()).items()},
        clips=clips,
        histories={key: json.loads((folder / key / "history.json").read_text()) for key in NAMES},
        configs={path.stem: path.read_text() for path in sorted((folder / "configs").glob("*.yaml"))},
    )
    path = folder / "report.html"
    path.write_text(render(data), encoding="utf-8")
    return path


def render(data: ReportData) -> str:
    """Return the whole page."""
    sections: list[tuple[str, str, str]] = []
    for name, title, make in _SECTIONS:
        body = make(data)
        if body:
            sections.append((name, title, body))
    return document(
        kicker="demo report",
        headline=headline(data.results, data.comparisons),
        lede=_lede(data.results),
        notice=data.notice,
        sections=sections,
        footer=_footer(data.results),
    )


def _lede(results: Mapping[str, Any]) -> str:
    tongues = [language(name.removeprefix("bleu_")).name for name in _scores(results, "bleu_")]
    minutes = results.get("seconds", {}).get("total", 0) / 60
    spent = f" in {minutes:.0f} minutes" if minutes >= 1 else ""
    return (
        "A small speech model was joined to a small language model and taught to translate spoken English "
        f"into {' and '.join(tongues) or 'text'} twice: once by translation alone (<em>base</em>), once "
        "while its inner states for speech were also drawn to those for the transcript by optimal transport "
        f"(<em>AI-STA</em>). Both runs share start, data, order, seed and steps. All of it was made on this "
        f"machine{spent}; these are its numbers as they came out."
    )


def _scores(results: Mapping[str, Any], prefix: str) -> list[str]:
    return [name for name in results["systems"]["base"] if name.startswith(prefix)]


# ---- sections ----


def _found(data: ReportData) -> str:
    rows = "".join(
        f"<dt>{html.escape(subject)}</dt><dd>{html.escape(text)}</dd>"
        for subject, text in findings(data.results, data.comparisons)
    )
    warnings = "".join(
        f'<p class="banner">{html.escape(text)}</p>' for text in data.results.get("warnings", [])
    )
    return (
        f'<dl class="findings">{rows}</dl>{warnings}<p class="aside">One seed and a test of a few hundred '
        "sentences: p is about the draw of sentences, not of seeds. The speech is synthetic and the grammar "
        "small; nothing here carries over to large models by itself.</p>"
    )


def _heard(data: ReportData) -> str:
    cards = "".join(clip_card(i, clip, NAMES) for i, clip in enumerate(data.clips, start=1))
    return cards and (
        '<p class="aside">The first sentences of each test set and the one on which the systems differ most; '
        "nothing else was picked. What differs from the reference is tinted, another right wording "
        f"too.</p>{cards}"
    )


def _layers(data: ReportData) -> str:
    results = data.results
    mrr = results["mrr_by_layer"]
    last = len(mrr) - 1
    points = list(enumerate(mrr))
    series = [Series("MRR", points, "system", dots=True, marked=results["selected_layers"])]
    shuffled = results.get("shuffled_mrr_by_layer") or []
    if any(value is not None for value in shuffled):
        measured = [(i, value) for i, value in enumerate(shuffled) if value is not None]
        series.append(Series("shuffled pairs", measured, "shuffled"))
    levels = [Level("chance", results["chance_mrr"], "chance")]
    if results.get("threshold") is not None:
        levels.append(Level("threshold", results["threshold"]))
    chart = line_chart(
        series,
        label="Mean reciprocal rank of the right transcript at every layer",
        x_label=f"layer (0 = what enters the language model, {last} = after its final norm)",
        levels=levels,
        y_range=(0.0, max(*mrr, results.get("threshold") or 0) * 1.12),
        x_ticks=list(range(last + 1)) if last <= 14 else None,
    )
    return (
        f"<p>At every layer, each clip looks for its own transcript among {results['num_pairs']} by the cost "
        "of moving its states onto those of the text. The mean reciprocal rank says how early the right one "
        "turns up; 1 is always first. Layers above the threshold are aligned in training.</p>"
        f'<figure class="wide">{chart}<figcaption>Filled: the chosen layers. The paper sets the threshold at '
        "0.05 for 1,000 candidates, which is 6.7 times chance.</figcaption></figure>"
    )


def _compared(data: ReportData) -> str:
    results = data.results
    pairs = []
    for name in [*_scores(results, "bleu_"), *_scores(results, "mt_bleu_")]:
        test = data.comparisons.get(name, {})
        base, system = (results["systems"][key].get(name) for key in NAMES)
        if base is not None and system is not None:
            widths = test.get("base_half_width") or 0.0, test.get("system_half_width") or 0.0
            pairs.append(Pair(_title(name), base, system, *widths))
    figure = dumbbells(pairs, label="BLEU of both systems", names=("base", "AI-STA")) if pairs else ""
    signatures = results.get("bleu_signature") or {}
    signatures = signatures if isinstance(signatures, Mapping) else {"BLEU": signatures}
    listed = "".join(f"<li><b>{_title(k)}</b> {html.escape(v)}</li>" for k, v in signatures.items())
    shown = (
        f'<figure class="wide dumb">{figure}<figcaption>BLEU over all test sentences; the pale bars are 95 % '
        "bootstrap intervals.</figcaption></figure>"
        if figure
        else ""
    )
    return f'{shown}{_score_table(data)}<ul class="signatures">{listed}</ul>'


def _score_table(data: ReportData) -> str:
    """Return the table of all scores over all sentences and, folded away, those of each test set."""
    systems = data.results["systems"]
    sets = {
        name: {key: systems[key]["by_set"][name] for key in NAMES}
        for name in systems["base"].get("by_set", {})
    }
    details = "".join(
        f"<details><summary>{_words(name)}</summary>{_scores_of(scores, {})}</details>"
        for name, scores in sets.items()
    )
    return _scores_of(systems, data.comparisons) + details


def _scores_of(systems: Mapping[str, Mapping[str, Any]], comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, base in systems["base"].items():
        system = systems["ai_sta"].get(name)
        if isinstance(base, int | float) and isinstance(system, int | float) and name not in _HIDDEN:
            rows.append(_score_row(name, base, system, comparisons.get(name, {}).get("p_value")))
    return table(["", "base", "AI-STA", "difference", "p" if comparisons else ""], rows)


_HIDDEN = ("steps", "best_validation_accuracy")


def _score_row(name: str, base: float, system: float, p: float | None) -> Row:
    digits = 2 if name == "log_wasserstein" else 1
    told = "" if p is None else "&lt; 0.01" if p < 0.01 else f"{p:.2f}"
    return Row(
        [_title(name), f"{base:.{digits}f}", f"{system:.{digits}f}", signed(system - base, digits), told]
    )


def _title(name: str) -> str:
    """Return what a score is called on the page."""
    fixed = {
        "token_accuracy": "token accuracy, %",
        "log_wasserstein": "log transport cost ↓",
        "chrf_captions": "captions, chrF2",
    }
    if name in fixed:
        return fixed[name]
    *kind, code = name.split("_")
    what = {
        "bleu": "BLEU",
        "chrf": "chrF2",
        "wer": "word error rate, % ↓",
        "cer": "character error rate, % ↓",
    }
    from_text = kind[0] == "mt"
    measure = what.get(kind[-1], kind[-1])
    if kind[-1] in ("wer", "cer"):
        return f"{language(code).name}, {measure}"
    return f"{'text' if from_text else 'speech'} → {language(code).name}, {measure}"


def _plans(data: ReportData) -> str:
    figures = "".join(transport_figure(clip, NAMES) for clip in data.clips if clip.maps)
    return figures and (
        "<p>Each column is a third of a second of sound, each row a token of the transcript, and the tint "
        "says where the mass of that window goes in the cheapest transport. When speech has become text, the "
        f"dark cells run down the diagonal.</p>{figures}"
    )


def _learnt(data: ReportData) -> str:
    charts = []
    losses = [(key, _curve(rows, "ce")) for key, rows in data.histories.items()]
    costs = [(key, _curve(rows, "wasserstein")) for key, rows in data.histories.items()]
    accuracy = [(key, _curve(rows, "eval_token_accuracy")) for key, rows in data.histories.items()]
    for curves, title, log in (
        (losses, "cross-entropy of the translation, per token", False),
        (costs, "alignment loss, mean of the aligned layers", True),
        (accuracy, "token accuracy on held-out sentences", False),
    ):
        series = [
            Series(NAMES[key], points, "system" if key == "ai_sta" else "base", dots=len(points) < 15)
            for key, points in curves
            if points
        ]
        if series:
            chart = line_chart(series, label=title, x_label="step", log=log, height=230)
            charts.append(f'<figure class="wide"><h4>{title}</h4>{chart}</figure>')
    return (charts and f'<div class="smalls">{"".join(charts)}</div>') or ""


def _curve(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """Return (step, value) of one logged figure; of several layers' costs, their mean."""
    points = []
    for row in rows:
        values = [value for key, value in row.items() if key == name or (key.startswith(f"{name}_"))]
        if values and "step" in row:
            points.append((float(row["step"]), sum(values) / len(values)))
    return points


def _made(data: ReportData) -> str:
    seconds = {k: v for k, v in data.results.get("seconds", {}).items() if k != "total" and v}
    total = sum(seconds.values()) or 1
    bars = "".join(
        f'<i style="flex:{value / total:.4f};--o:{0.85 - 0.13 * (i % 5):.2f}" title="{_words(name)}: '
        f'{_duration(value)}"></i>'
        for i, (name, value) in enumerate(seconds.items())
    )
    times = "".join(
        f"<div><dt>{_words(name)}</dt><dd>{_duration(value)}</dd></div>" for name, value in seconds.items()
    )
    versions = "\n".join(f"{name} {version}" for name, version in data.results.get("versions", {}).items())
    listings = {**data.configs, "versions": versions}
    details = "".join(
        f"<details><summary>{_words(name)}</summary><pre>{html.escape(text)}</pre></details>"
        for name, text in listings.items()
        if text
    )
    timeline = f'<div class="timeline" aria-hidden="true">{bars}</div><dl class="times">{times}</dl>'
    return (timeline if seconds else "") + details


def _words(name: str) -> str:
    return html.escape(name.replace("ai_sta", "AI-STA").replace("_", " "))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _footer(results: Mapping[str, Any]) -> str:
    facts = [
        f"configuration {results['config_sha256'][:12]}" if results.get("config_sha256") else "",
        f"seed {results['seed']}" if "seed" in results else "",
        f"aista {results.get('versions', {}).get('aista', '')}",
    ]
    told = " · ".join(html.escape(fact) for fact in facts if fact.strip())
    paper = "Adaptive Inner Speech-Text Alignment for LLM-based Speech Translation"
    return f"{told}<br>The method: <cite>{paper}</cite>."


_SECTIONS: Sequence[tuple[str, str, Callable[[ReportData], str]]] = (
    ("found", "What came out", _found),
    ("heard", "Listen", _heard),
    ("compared", "Base and AI-STA", _compared),
    ("layers", "Where speech finds its text", _layers),
    ("plans", "From sound to token", _plans),
    ("learnt", "Learning", _learnt),
    ("made", "How it was made", _made),
)
