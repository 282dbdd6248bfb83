"""One self-contained page of every exhibit: ``FOLDER/exhibits/*.json`` in, ``FOLDER/report.html`` out.

The page needs no model and no run folder. What is missing is said, and the rest is shown.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from aista.analysis.zero_shot_mt import transfer
from aista.errors import ConfigError
from aista.evaluation.page import document
from aista.reproduce import drawing, scatter
from aista.experiments.paper.claims import Claim, Verdict, claims, compared, headline
from aista.experiments.results import Figure, Table, load_all
from aista.reproduce.page.figures import both, cases, coefficients, distances, figure_section, plans
from aista.reproduce.page.made import footer, made
from aista.reproduce.page.tables import note_list, shared_notes, table_section

EXPECTED = (*(f"table{n}" for n in range(1, 6)), *(f"figure{n}" for n in range(4, 8)), "transport")
RECORD = "reproduce.json"
Exhibits = Mapping[str, Table | Figure]


def write_report(folder: Path, notice: str = "") -> Path:
    """Write ``report.html`` from what a sweep left in its folder.

    Args:
        folder: Holds ``exhibits/*.json`` with sounds beside them; ``reproduce.json`` says how they were made.
        notice: Shown in a box at the head.

    Returns:
        The path of the page.

    Raises:
        ConfigError: There is no exhibit, or one cannot be read.
    """
    exhibits = load_all(folder)
    if not exhibits:
        raise ConfigError(
            f"There is nothing to report in {folder}.",
            expected="exhibits/*.json",
            advice="Run `aista reproduce`.",
        )
    record = folder / RECORD
    told = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    path = folder / "report.html"
    path.write_text(render(exhibits, told, folder, notice), encoding="utf-8")
    return path


def render(exhibits: Exhibits, record: Mapping[str, Any], folder: Path, notice: str = "") -> str:
    """Return the whole page.

    Args:
        exhibits: By name.
        record: What ``reproduce.json`` holds; may be empty.
        folder: Where the sounds of cases lie.
        notice: Shown in a box at the head.
    """
    sections = []
    for name, title, make in _SECTIONS:
        body = make(exhibits, record, folder)
        if body:
            sections.append((name, title, body))
    style = (files("aista.reproduce") / "page" / "report.css").read_text(encoding="utf-8")
    return document(
        kicker="reproduction report",
        headline=headline(exhibits),
        lede=_lede(record),
        notice=notice,
        sections=sections,
        footer=footer(record),
        style=style,
    )


def _lede(record: Mapping[str, Any]) -> str:
    count = len(record.get("seeds", []))
    seeds = "" if not count else f", {count} seed{'s' * (count > 1)}"
    scale = record.get("scale", "")
    size = {
        "small": " at small scale: synthetic English speech, language models of a few million parameters",
        "nano": " at the scale of a test: no number here means anything",
        "paper": " at the paper’s scale",
    }.get(scale, "")
    return (
        "<em>Adaptive Inner Speech-Text Alignment</em> joins a speech encoder to a language model and, while "
        "it learns to translate, draws the inner states of speech to those of its transcript by optimal "
        f"transport. These are the paper’s tables and figures made again{size}{seeds}. The paper’s numbers "
        "stand beside; where they do not come out, the page says so."
    )


# ---- sections ----


def _agreement(exhibits: Exhibits, record: Mapping[str, Any], folder: Path) -> str:
    found = claims(exhibits)
    missing = [name for name in EXPECTED if name not in exhibits]
    told = ""
    if missing:
        names = ", ".join(name.replace("table", "Table ").replace("figure", "Figure ") for name in missing)
        told = f'<p class="banner">Not made yet, so not on this page: {names}.</p>'
    if not found:
        return told
    counts = [(verdict, sum(claim.verdict is verdict for claim in found)) for verdict in Verdict]
    tally = " · ".join(
        f'<span class="{verdict.name.lower()}">{n} {verdict.value}</span>' for verdict, n in counts if n
    )
    rows = "".join(_claim(claim) for claim in found)
    rule = (
        "With several seeds a difference counts when the 95 % interval over the seeds leaves zero out, with "
        "one seed when the paired bootstrap over sentences gives p &lt; 0.05; anything less is not decided."
    )
    if record.get("scale") != "paper":
        rule += (
            " Synthetic speech and tiny models are another world than the paper’s: what comes out otherwise "
            "here does not refute it, and what agrees does not confirm it."
        )
    return f'{told}<p class="tally">{tally}</p><ol class="claims">{rows}</ol><p class="aside">{rule}</p>'


def _claim(claim: Claim) -> str:
    style = claim.verdict.name.lower()
    return (
        f'<li class="{style}"><h4><a href="#{claim.exhibit}">{html.escape(claim.subject)}</a></h4>'
        f'<p class="verdict">{claim.verdict.value}</p><dl><dt>paper</dt><dd>{html.escape(claim.paper)}</dd>'
        f"<dt>here</dt><dd>{html.escape(claim.here)}</dd></dl></li>"
    )


def _tables(exhibits: Exhibits, record: Mapping[str, Any], folder: Path) -> str:
    tables = [exhibit for exhibit in exhibits.values() if isinstance(exhibit, Table)]
    if not tables:
        return ""
    shared = shared_notes(tables)
    reading = (
        f"<details><summary>How to read the tables</summary>{note_list(shared)}</details>" if shared else ""
    )
    parts = []
    for table in tables:
        below = {"table2": _gains, "table5": _gaps}.get(table.name)
        parts.append(table_section(table, shared, below(table) if below else ""))
    return reading + "".join(parts)


def _gains(table: Table) -> str:
    """Return the gains of Table 2 as a picture: seeds, mean, and the paper's."""
    columns = _columns(table, "En-")
    rows = [
        {"name": r.name, "values": list(r.gain.values), "paper": r.paper} for r in compared(table, columns)
    ]
    if not rows:
        return ""
    drawn = both(scatter.gains(rows, drawing.WIDE), scatter.gains(rows, drawing.NARROW))
    return (
        f'<figure class="pictured">{drawn}<figcaption>Gain of AI-STA over base in BLEU. Every seed is '
        "compared with the base of the same seed.</figcaption></figure>"
    )


def _gaps(table: Table) -> str:
    """Say what each system loses between reading and hearing."""
    spoken, written = (
        {row.name.replace(kind, "").replace("  ", " "): row for row in compared(table, _columns(table, kind))}
        for kind in ("ST", "MT")
    )
    told = []
    for name in (name for name in spoken if name in written):
        speech, text = spoken[name], written[name]
        found = transfer((speech.base.values, text.base.values), (speech.system.values, text.system.values))
        told.append(f"{html.escape(name)}: base {found.gap_first:.1f}, AI-STA {found.gap_second:.1f}")
    if not told:
        return ""
    return f'<p class="fine">BLEU from text less BLEU from speech, what hearing costs. {"; ".join(told)}.</p>'


def _columns(table: Table, beginning: str) -> list[int]:
    return [i for i, name in enumerate(table.columns) if name.startswith(beginning)]


def _figures(exhibits: Exhibits, record: Mapping[str, Any], folder: Path) -> str:
    below: dict[str, Callable[[Figure], str]] = {"figure5": distances, "figure6": coefficients}
    parts = []
    for name, exhibit in exhibits.items():
        if isinstance(exhibit, Figure) and name not in ("figure7", "transport"):
            body = below[name](exhibit) if name in below else ""
            parts.append(figure_section(exhibit, body))
    return "".join(parts)


def _cases(exhibits: Exhibits, record: Mapping[str, Any], folder: Path) -> str:
    figure = exhibits.get("figure7")
    return figure_section(figure, cases(figure, folder)) if isinstance(figure, Figure) else ""


def _plans(exhibits: Exhibits, record: Mapping[str, Any], folder: Path) -> str:
    figure = exhibits.get("transport")
    return plans(figure, folder) if isinstance(figure, Figure) else ""


def _made(exhibits: Exhibits, record: Mapping[str, Any], folder: Path) -> str:
    return made(record) if record else ""


_Section = Callable[[Exhibits, Mapping[str, Any], Path], str]
_SECTIONS: Sequence[tuple[str, str, _Section]] = (
    ("agreement", "The paper and this run", _agreement),
    ("tables", "Tables", _tables),
    ("figures", "Figures", _figures),
    ("cases", "Listen", _cases),
    ("transport", "From sound to token", _plans),
    ("made", "How it was made", _made),
)
