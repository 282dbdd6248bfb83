"""A table or a figure as values: numbers with everything that must stand beside them.

``FOLDER/exhibits/<name>.json`` holds it; ``.csv``, ``.tex``, ``.svg`` and ``.png`` beside it are written from
it for readers who want them.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from aista.config import Settings
from aista.figures import signed
from aista.figures.charts import DRAWINGS
from aista.files import write_whole

PLACE = "exhibits"
FILES = f"{PLACE}/files"


class Cell(Settings):
    """One number and what must stand beside it.

    Attributes:
        value: The number; the mean where there are several seeds. None: not measured.
        deviation: Sample standard deviation over the seeds; None for a single run.
        values: The number of each seed, in the order of the seeds.
        seeds: Whose they are.
        paper: What the paper reports in this place (``"X"`` for its failed run).
        p_value: Paired bootstrap against the base of the same backbone; the table's notes say over what.
        note: Anything the reader of this cell must know.
        mark: Shown instead of a number, e.g. ``"X"`` for a run that diverged.
        digits: Decimals shown.
        best: Shown bold; set only where the deviations allow it.
        signed: A difference: shown with its sign.
    """

    value: float | None = None
    deviation: float | None = None
    values: list[float] = []
    seeds: list[int] = []
    paper: float | str | None = None
    p_value: float | None = None
    note: str = ""
    mark: str = ""
    digits: int = 1
    best: bool = False
    signed: bool = False

    @classmethod
    def over(
        cls, values: Sequence[float], paper: float | str | None = None, digits: int = 1,
        seeds: Sequence[int] = (),
    ) -> Cell:  # fmt: skip
        """Return mean and sample standard deviation of one value per seed."""
        return cls(
            value=fmean(values) if values else None,
            deviation=stdev(values) if len(values) > 1 else None,
            values=list(values),
            seeds=list(seeds),
            paper=paper,
            digits=digits,
        )

    def by_seed(self) -> dict[int, float]:
        """Return the values by their seeds; where these are not named, by place."""
        return dict(zip(self.seeds or range(len(self.values)), self.values, strict=True))

    def number(self) -> str:
        """Return the value with its decimals and a true minus."""
        value = self.value or 0.0
        return signed(value, self.digits) if self.signed else f"{value:,.{self.digits}f}".replace("-", "−")

    def spread(self) -> str:
        """Return `` ± 0.3``, or nothing for a single run."""
        return "" if self.deviation is None else f" ± {self.deviation:,.{self.digits}f}"

    def text(self) -> str:
        """Return ``46.0 ± 0.3``, the mark, or nothing."""
        if self.mark or self.value is None:
            return self.mark
        return f"{self.value:,.{self.digits}f}{self.spread()}"

    def paper_text(self) -> str:
        """Return the paper's value as it is printed there, or nothing."""
        if self.paper is None or isinstance(self.paper, str):
            return self.paper or ""
        return f"{self.paper:,.{self.digits}f}"


class Row(Settings):
    """A row of a table; a heading has a label and no cells.

    Attributes:
        label: What the row is about.
        cells: One for every column.
        is_heading: The rows below belong to this label.
        group: Key of the backbone the row belongs to, or empty.
        key: Key of the system, or empty.
    """

    label: str
    cells: list[Cell] = []
    is_heading: bool = False
    group: str = ""
    key: str = ""


class Result(Settings):
    """What a table and a figure have in common.

    Attributes:
        name: ``table2``, ``figure4``: the file names.
        title: One line.
        caption: What is shown, where it comes from, in full sentences.
        notes: Rules, departures from the paper, warnings.
    """

    name: str
    title: str
    caption: str = ""
    notes: list[str] = []

    def to_json(self) -> str:
        """Return it as JSON text."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=1)


class Table(Result):
    """A table: rows of cells.

    Attributes:
        columns: Headings of the cells (the row's label has none).
        rows: In the order in which they are printed.
        signatures: sacreBLEU's signatures of the scores shown.
    """

    kind: Literal["table"] = "table"
    columns: list[str]
    rows: list[Row]
    signatures: list[str] = []

    def grid(self) -> tuple[list[str], list[list[str]]]:
        """Return heading and rows as texts; a column that the paper has too is followed by the paper's."""
        beside = self.beside()
        heading = [""]
        for name, paper in zip(self.columns, beside, strict=True):
            heading += [name, "paper"] if paper else [name]
        rows = []
        for row in self.rows:
            texts = [row.label]
            for cell, paper in zip(row.cells, beside, strict=False):
                star = "*" if cell.p_value is not None and cell.p_value < 0.05 else ""
                texts += [cell.text() + star] + [cell.paper_text()] * paper
            rows.append(texts + [""] * (len(heading) - len(texts)))
        return heading, rows

    def beside(self) -> list[bool]:
        """Return of every column whether the paper has values in it."""
        columns = range(len(self.columns))
        return [
            any(row.cells[i].paper is not None for row in self.rows if i < len(row.cells)) for i in columns
        ]

    def to_csv(self) -> str:
        """Return one line per cell: every seed's value, mean, deviation, paper's value, p."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        measured = ("value", "deviation", "values", "paper", "p_value", "mark", "note")
        writer.writerow(["group", "key", "row", "column", *measured])
        for row in self.rows:
            for name, cell in zip(self.columns, row.cells, strict=False):
                values = {**vars(cell), "values": " ".join(f"{value:.6g}" for value in cell.values)}
                writer.writerow([row.group, row.key, row.label, name, *map(values.__getitem__, measured)])
        return out.getvalue()

    def to_latex(self) -> str:
        """Return a table for the LaTeX package ``booktabs``: bold as on the page, a star for p < 0.05."""
        heading, rows = self.grid()
        lines = [
            r"\begin{table}", r"\centering", rf"\caption{{{_tex(self.title)}. {_tex(self.caption)}}}",
            rf"\label{{tab:{self.name}}}", rf"\begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}", r"\toprule",
            " & ".join(map(_tex, heading)) + r" \\", r"\midrule",
        ]  # fmt: skip
        beside = self.beside()
        places = [1 + i + sum(beside[:i]) for i in range(len(self.columns))]
        for row, texts in zip(self.rows, rows, strict=True):
            if row.is_heading:
                lines.append(rf"\multicolumn{{{len(heading)}}}{{l}}{{\textit{{{_tex(row.label)}}}}} \\")
            else:
                shown = list(map(_tex, texts))
                for place, cell in zip(places, row.cells, strict=False):
                    shown[place] = rf"\textbf{{{shown[place]}}}" if cell.best else shown[place]
                lines.append(" & ".join(shown) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        below = " ".join([*self.notes, *self.signatures])
        lines += [rf"\par\smallskip{{\footnotesize {_tex(below)}\par}}"] if below else []
        return "\n".join([*lines, r"\end{table}", ""])

    def to_text(self, width: int = 120, hide: Collection[str] = ()) -> str:
        """Return the table as a terminal shows it, without the notes in ``hide``; * is p < 0.05."""
        heading, rows = self.grid()
        shown = RichTable(title=escape(self.title), caption=escape(self.caption), caption_justify="left")
        for i, name in enumerate(heading):
            shown.add_column(
                escape(name), justify="left" if i == 0 else "right", style="dim" if name == "paper" else ""
            )
        for row, texts in zip(self.rows, rows, strict=True):
            shown.add_row(*map(escape, texts), style="italic" if row.is_heading else "")
        console = Console(width=width, file=io.StringIO(), force_terminal=False, emoji=False)
        console.print(shown)
        for line in [*(note for note in self.notes if note not in hide), *self.signatures]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return str(console.file.getvalue())  # type: ignore[attr-defined]


class Figure(Result):
    """A picture and its numbers.

    Attributes:
        data: The numbers drawn, as JSON. Its ``rows`` (flat dictionaries), where it has them, are the CSV.
        svg: The picture.
        png: The same for LaTeX, base64; may be empty.
    """

    kind: Literal["figure"] = "figure"
    data: dict[str, Any]
    svg: str
    png: str = ""

    @classmethod
    def drawn(cls, **values: Any) -> Figure:
        """Return a figure with the picture that ``aista.figures.charts`` draws of its data."""
        return cls(**values, svg="").drawn_again()

    def drawn_again(self) -> Figure:
        """Return the figure with its picture drawn from its data; one not drawn here keeps what it has."""
        if self.name not in DRAWINGS:
            return self
        canvas = DRAWINGS[self.name](self.data)
        png = base64.b64encode(canvas.png()).decode()
        return self.model_copy(update={"svg": canvas.standalone(), "png": png})

    def to_csv(self) -> str:
        """Return ``data["rows"]`` as a table, or one line per number with the path to it."""
        out = io.StringIO()
        if rows := self.data.get("rows"):
            named = csv.DictWriter(
                out, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
            )
            named.writeheader()
            named.writerows(rows)
        else:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(["path", "value"])
            writer.writerows(_leaves(self.data, ""))
        return out.getvalue()

    def to_latex(self) -> str:
        """Return a figure that includes the PNG beside it."""
        lines = [
            r"\begin{figure}", r"\centering", rf"\includegraphics[width=\linewidth]{{{self.name}.png}}",
            rf"\caption{{{_tex(self.title)}. {_tex(self.caption)}}}", rf"\label{{fig:{self.name}}}",
            r"\end{figure}", "",
        ]  # fmt: skip
        return "\n".join(lines)


def save(result: Table | Figure, folder: Path) -> Path:
    """Write a table or a figure into ``folder/exhibits`` in all its forms and return the JSON file."""
    path = folder / PLACE / f"{result.name}.json"
    write_whole(path.with_suffix(".csv"), result.to_csv())
    write_whole(path.with_suffix(".tex"), result.to_latex())
    if isinstance(result, Figure):
        write_whole(path.with_suffix(".svg"), result.svg)
        if result.png:
            path.with_suffix(".png").write_bytes(base64.b64decode(result.png))
    write_whole(path, result.to_json())
    return path


def draw_again(folder: Path) -> None:
    """Draw every figure in ``folder/exhibits`` again from its saved numbers; tables stay as they are.

    Raises:
        ConfigError: A file there is no table and no figure.
    """
    for result in load_all(folder).values():
        if isinstance(result, Figure):
            save(result.drawn_again(), folder)


def load_all(folder: Path) -> dict[str, Table | Figure]:
    """Return the tables and figures that are in ``folder/exhibits``, by name: tables first.

    Raises:
        ConfigError: A file there is neither.
    """
    found: dict[str, Table | Figure] = {}
    for path in sorted((folder / PLACE).glob("*.json"), key=lambda path: (path.stem[0] != "t", path.stem)):
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = Figure if isinstance(values, dict) and values.get("kind") == "figure" else Table
        found[path.stem] = kind.of(values, source=str(path))
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every scalar in nested lists and dictionaries with the path to it."""
    if not isinstance(value, dict | list):
        yield path, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(inner, f"{path}/{key}" if path else str(key))


_TEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "%&_#${}"}, **{letter: f"${letter}$" for letter in "|<>"},
        "±": r"$\pm$", "×": r"$\times$", "Δ": r"$\Delta$", "α": r"$\alpha$",
        "\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}",
    }
)  # fmt: skip


def _tex(text: str) -> str:
    return text.translate(_TEX)


def layer_range(layers: Sequence[int]) -> str:
    """Return layers as ``0-1``, ``0, 3`` or ``none``."""
    joined = len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if joined else ", ".join(map(str, layers)) or "none"
