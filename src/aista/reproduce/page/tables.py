"""Tables as HTML: our value with its deviation, the paper's beside it, every seed a click away."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from html import escape

from aista.evaluation.page import Row as HtmlRow
from aista.evaluation.page import table as html_table
from aista.reproduce.exhibit import Cell, Figure, Row, Table


def table_section(table: Table, shared: Sequence[str] = (), below: str = "") -> str:
    """Return a table with caption, notes, signatures, every seed and the files to take away.

    Args:
        table: What is shown.
        shared: Notes that the page gives once for all tables.
        below: HTML right under the table.
    """
    beside = [any(cell.paper is not None for cell in _column(table, i)) for i in range(len(table.columns))]
    heads = [""]
    for name, paper in zip(table.columns, beside, strict=True):
        heads += [escape(name), '<span class="theirs">paper</span>'] if paper else [escape(name)]
    rows = [_row(row, beside) for row in table.rows]
    notes = [note for note in table.notes if note not in shared]
    return (
        f'<h3 id="{table.name}">{escape(table.title)}</h3><p class="aside">{escape(table.caption)}</p>'
        f'<div class="exhibit">{html_table(heads, rows)}</div>{below}{note_list(notes)}'
        f"{_signatures(table.signatures)}{_seeds(table)}{downloads(table)}"
    )


def shared_notes(tables: Sequence[Table]) -> list[str]:
    """Return the notes that stand under more than one table, in order of appearance."""
    counts = Counter(note for table in tables for note in dict.fromkeys(table.notes))
    return [note for note, count in counts.items() if count > 1]


def _column(table: Table, i: int) -> list[Cell]:
    return [row.cells[i] for row in table.rows if i < len(row.cells)]


def _row(row: Row, beside: Sequence[bool]) -> HtmlRow:
    if row.is_heading:
        return HtmlRow([escape(row.label)])
    texts = [escape(row.label)]
    for cell, paper in zip(row.cells, beside, strict=False):
        theirs = escape(cell.paper_text())
        below = f'<small class="below">paper {theirs}</small>' if theirs else ""
        texts += [_value(cell) + below] + [f'<span class="theirs">{theirs}</span>'] * paper
    return HtmlRow(texts, style=_style(row.key))


def _style(key: str) -> str:
    return {"base": "of-base", "ai_sta": "of-system"}.get(key, "")


def _value(cell: Cell) -> str:
    """Return a number, its deviation small behind it, and p below it."""
    if cell.mark:
        return f'<span class="failed" title="{escape(cell.note, quote=True)}">{escape(cell.mark)}</span>'
    if cell.value is None:
        return '<span class="nothing">·</span>'
    number = f"{cell.value:,.{cell.digits}f}".replace("-", "−")
    number = f"<b>{number}</b>" if cell.best else number
    spread = "" if cell.deviation is None else f"<small> ± {cell.deviation:,.{cell.digits}f}</small>"
    chance = "" if cell.p_value is None else f'<small class="p">{_p(cell.p_value)}</small>'
    title = f' title="{escape(cell.note, quote=True)}"' if cell.note else ""
    return f"<span{title}>{number}{spread}{chance}</span>"


def _p(value: float) -> str:
    return "p &lt; 0.01" if value < 0.01 else f"p = {value:.2f}"


def note_list(notes: Sequence[str]) -> str:
    """Return notes as a list, or nothing."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _signatures(signatures: Sequence[str]) -> str:
    items = []
    for line in signatures:
        name, _, signature = line.partition(": ")
        items.append(
            f"<li><b>{escape(name)}</b> {escape(signature)}</li>" if signature else f"<li>{escape(line)}</li>"
        )
    return f'<ul class="signatures">{"".join(items)}</ul>' if items else ""


def _seeds(table: Table) -> str:
    """Return what stands behind the means, folded away: each seed's number and the cell's note."""
    lines = []
    for row in table.rows:
        for name, cell in zip(table.columns, row.cells, strict=False):
            if len(cell.values) > 1 or (cell.note and (cell.values or cell.mark)):
                values = " · ".join(f"{value:.{cell.digits}f}" for value in cell.values) or escape(cell.mark)
                place = " ".join(filter(None, (row.label, name)))
                lines.append(
                    f"<tr><th>{escape(place)}</th><td>{values}</td><td>{escape(cell.note)}</td></tr>"
                )
    if not lines:
        return ""
    return (
        '<details><summary>Every seed</summary><div class="scroll"><table class="seeds"><tbody>'
        f"{''.join(lines)}</tbody></table></div></details>"
    )


def downloads(exhibit: Table | Figure) -> str:
    """Return links that hold the exhibit's CSV and LaTeX themselves."""
    files = [(f"{exhibit.name}.csv", "text/csv", exhibit.to_csv())]
    if isinstance(exhibit, Table):
        files.append((f"{exhibit.name}.tex", "application/x-tex", exhibit.to_latex()))
    links = [
        f'<a download="{name}" href="data:{kind};base64,{_base64(text)}">{label}</a>'
        for (name, kind, text), label in zip(files, ("CSV", "LaTeX"), strict=False)
    ]
    return f'<p class="downloads">{" ".join(links)}</p>'


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
