"""Figures, cases and transport plans as HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from aista.audio.files import load_audio
from aista.errors import AudioError
from aista.evaluation.inside import TransportMap
from aista.evaluation.page import (
    HTML_LANGUAGES,
    Clip,
    Row,
    marked_difference,
    player,
    signed,
    table,
    transport_figure,
)
from aista.reproduce.drawing import NARROW, WIDE, can_draw, draw
from aista.reproduce.exhibit import Figure
from aista.reproduce.page.tables import downloads, note_list
from aista.reproduce.styles import short_title
from aista.text.languages import language

_MAIN = ("base", "ai_sta")


def figure_section(figure: Figure, body: str = "") -> str:
    """Return a figure with caption, what stands under it, notes and its numbers to take away."""
    return (
        f'<h3 id="{figure.name}">{escape(figure.title)}</h3><figure class="pictured">{pictures(figure)}'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>{body}{note_list(figure.notes)}"
        f"{downloads(figure)}"
    )


def pictures(figure: Figure) -> str:
    """Return a figure drawn wide and, for a phone, narrow; one not drawn here as the picture it has."""
    if can_draw(figure.name):
        return both(draw(figure.name, figure.data, WIDE), draw(figure.name, figure.data, NARROW))
    data = base64.b64encode(figure.svg.encode()).decode()
    return f'<img alt="{escape(figure.title, quote=True)}" src="data:image/svg+xml;base64,{data}">'


def both(wide: str, narrow: str) -> str:
    """Return two drawings of one thing, of which the page shows the one that fits."""
    return f'<div class="for-wide">{wide}</div><div class="for-narrow">{narrow}</div>'


def distances(figure: Figure) -> str:
    """Return the table of distances under Figure 5."""
    rows = []
    systems: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in figure.data["rows"]:
        systems.setdefault((row["backbone"], row["system"]), []).append(row)
    groups = {runs[0].get("group", key[0]) for key, runs in systems.items()}
    for (backbone, system), runs in systems.items():
        if len(groups) > 1 and system == _MAIN[0]:
            rows.append(Row([escape(runs[0].get("group", backbone))]))
        cells = [
            _over_seeds(runs, "relative_centroid_distance", 2),
            _over_seeds(runs, "relative_paired_distance", 2),
            _over_seeds(runs, "pairing", 3),
            _over_seeds(runs, "separability", 1, 100),
        ]
        style = {"base": "of-base", "ai_sta": "of-system"}.get(system, "")
        rows.append(Row([escape(runs[0]["title"]), *cells], style))
    heads = ["in the original space", "between centres", "within pairs", "own / other text", "told apart, %"]
    note = (
        "Distances in units of the texts’ own spread. Own / other text: distance to the own transcript over "
        "that to others; 1 where a clip is no nearer to its own. Told apart: how often a linear classifier "
        "knows speech from text on pairs it has not seen; 50 where they are mixed."
    )
    return f'<div class="exhibit">{table(heads, rows)}</div><p class="fine">{note}</p>'


def _over_seeds(runs: Sequence[Mapping[str, Any]], name: str, digits: int, factor: float = 1.0) -> str:
    values = [factor * row[name] for row in runs]
    spread = f"<small> ± {stdev(values):.{digits}f}</small>" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def coefficients(figure: Figure) -> str:
    """Return the table of correlations under Figure 6."""
    heads = [
        "correlation of log W and BLEU",
        "Pearson’s r",
        "95 % interval",
        "Spearman’s ρ",
        "95 % interval",
        "runs",
    ]
    shown = _coefficients(figure.data["correlations"], heads)
    if seeds := figure.data.get("by_seed"):
        shown += f"<details><summary>Seed by seed</summary>{_coefficients(seeds, heads)}</details>"
    return shown


def _coefficients(found: Sequence[Mapping[str, Any]], heads: Sequence[str]) -> str:
    """Return one row per set of runs; sets that are too small for a coefficient are named below."""
    sets: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in found:
        sets.setdefault(row["over"], {})[row["coefficient"]] = row
    rows, few = [], []
    for name, kinds in sets.items():
        if kinds["Pearson"]["value"] is None:
            few.append(f"{name} ({kinds['Pearson']['n']})")
            continue
        cells = [cell for kind in ("Pearson", "Spearman") for cell in _coefficient(kinds[kind])]
        rows.append(Row([escape(name), *cells, str(kinds["Pearson"]["n"])]))
    shown = f'<div class="exhibit">{table(heads, rows)}</div>' if rows else ""
    return shown + (
        f'<p class="fine">Too few runs for a coefficient: {escape(", ".join(few))}.</p>' if few else ""
    )


def _coefficient(row: Mapping[str, Any]) -> list[str]:
    """Return a coefficient with its p below it, and its interval."""
    p = row["p_value"]
    chance = "" if p is None else f'<small class="p">{"p &lt; 0.01" if p < 0.01 else f"p = {p:.2f}"}</small>'
    interval = "" if row["low"] is None else f"{signed(row['low'], 2)} to {signed(row['high'], 2)}"
    return [signed(row["value"], 2) + chance, interval]


def cases(figure: Figure, folder: Path) -> str:
    """Return the cards of Figure 7: the first backbone's open, the others' folded."""
    by_backbone: dict[str, list[Mapping[str, Any]]] = {}
    for case in figure.data["cases"]:
        by_backbone.setdefault(case["backbone"], []).append(case)
    parts, number = [], 0
    for place, (_, shown) in enumerate(by_backbone.items()):
        cards = []
        for case in shown:
            number += 1
            cards.append(_case(number, case, figure.data["titles"], folder))
        title = shown[0]["panel"].rsplit(", ", 1)[0]
        body = "".join(cards)
        parts.append(body if place == 0 else f"<details><summary>{escape(title)}</summary>{body}</details>")
    return "".join(parts)


def _case(number: int, case: Mapping[str, Any], titles: Mapping[str, str], folder: Path) -> str:
    clip = clip_of(case, folder)
    change = signed(case["difference"])
    seeds = ", ".join(signed(value) for value in case["other_seeds"])
    later = f"; other seeds {seeds}" if seeds else ""
    head = (
        f'<header><span class="number">{number}</span>'
        f'<p class="source" lang="en">{escape(case["source"])}</p><p class="note"><b class="{case["way"]}">'
        f"{change}</b> chrF2 with AI-STA{later}<span>{escape(case['panel'])}</span>"
        "</p></header>"
    )
    others = [name for name in case["texts"] if name not in _MAIN]
    return (
        f'<article class="clip case">{head}{player(clip) if clip else ""}{_texts(case, _MAIN, titles, True)}'
        + (
            f"<details><summary>Other systems</summary>{_texts(case, others, titles, False)}</details>"
            if others
            else ""
        )
        + "</article>"
    )


def _texts(
    case: Mapping[str, Any], systems: Sequence[str], titles: Mapping[str, str], with_reference: bool
) -> str:
    tongue = language(case["language"])
    lang = HTML_LANGUAGES.get(tongue.code, tongue.code)
    lines = []
    if with_reference:
        lines.append(f'<dt>reference</dt><dd lang="{lang}">{escape(case["reference"])}</dd><dd></dd>')
    for name in systems:
        text = case["texts"][name]
        body = marked_difference(text, case["reference"], tongue.spaces)
        tick = (
            '<span class="exact" title="equals the reference">✓</span>' if text == case["reference"] else ""
        )
        shown = escape(short_title(name, titles.get(name, name)))
        lines.append(
            f'<dt class="{name}">{shown}</dt><dd lang="{lang}">{body}{tick}</dd>'
            f'<dd class="score">{case["scores"][name]:.0f}</dd>'
        )
    return f'<dl class="texts">{"".join(lines)}</dl>'


def clip_of(case: Mapping[str, Any], folder: Path) -> Clip | None:
    """Return a clip saved beside the exhibits, with its transport plans; None if its file is gone."""
    try:
        samples = load_audio(folder / case["clip"])
    except AudioError:
        return None
    maps = {name: TransportMap(**found) for name, found in case.get("maps", {}).items()}
    return Clip(case["id"], samples, case["source"], case.get("why", ""), maps=maps)


def plans(figure: Figure, folder: Path) -> str:
    """Return the transport plans under their sounds."""
    parts = [f'<p class="aside">{escape(figure.caption)}</p>']
    names = {key: short_title(key, title) for key, title in figure.data["titles"].items()}
    for case in figure.data["clips"]:
        if clip := clip_of(case, folder):
            why = f'<p class="fine">{escape(case["why"])}</p>'
            drawn = transport_figure(clip, names)
            parts.append(drawn.replace('<div class="player"', why + '<div class="player"', 1))
    return "".join(parts) + note_list(figure.notes) + downloads(figure)
