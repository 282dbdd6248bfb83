"""What the paper says against what came out here: verdicts that follow from the tables and figures.

With several seeds a difference counts when Student's 95 % interval over the seeds leaves 0 out; with one seed
when the paired bootstrap over sentences gives p < 0.05. Anything less is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean

from aista.analysis.comparison import Gain, gain
from aista.experiments.page import chance_text
from aista.experiments.results import Cell, Figure, Table
from aista.figures.charts import ALL_PANELS
from aista.figures.drawing import signed

LEVEL = 0.05
PAIR = ("base", "ai_sta")
Results = Mapping[str, Table | Figure]
_HEADINGS = ("Our LSM with the ", "Our LSM with ", "Trained on ST: ")


class Verdict(Enum):
    """How a claim stands; the value is what the page says."""

    AGREES = "as in the paper"
    DIFFERS = "not as in the paper"
    OPEN = "not decided"


@dataclass(frozen=True)
class Claim:
    """One thing the paper reports and what came out here.

    Attributes:
        subject: What it is about.
        paper: The paper's words and numbers.
        here: Ours.
        verdict: Whether they agree.
        result: The table or figure in which it is shown.
    """

    subject: str
    paper: str
    here: str
    verdict: Verdict
    result: str


@dataclass(frozen=True)
class Compared:
    """One system against another in one column of a table.

    Attributes:
        name: Backbone and column.
        base, system: The cells compared.
        p_value: Paired bootstrap over sentences, where known.
    """

    name: str
    base: Cell
    system: Cell
    p_value: float | None = None

    @property
    def gain(self) -> Gain:
        """The difference over the seeds that both have."""
        count = min(len(self.base.values), len(self.system.values))
        return gain(self.base.values[:count], self.system.values[:count])

    @property
    def paper(self) -> float | None:
        """The paper's gain, where it has one."""
        base, system = self.base.paper, self.system.paper
        return system - base if isinstance(base, float) and isinstance(system, float) else None

    @property
    def sign(self) -> int:
        """1 or -1 where the difference is more than chance explains, else 0."""
        one_seed = len(self.gain.values) == 1 and self.p_value is not None and self.p_value < LEVEL
        return (1 if self.gain.mean > 0 else -1) if self.gain.is_clear or one_seed else 0

    def claim(self, subject: str, result: str) -> Claim:
        """Return it as a claim that the system is better."""
        paper = "AI-STA is better"
        if self.paper is not None:
            paper = f"{self.base.paper_text()} to {self.system.paper_text()}, {signed(self.paper)}"
        found, rest = self.gain, "one seed"
        if found.low is not None and found.high is not None:
            ends = f"{signed(found.low)} to {signed(found.high)}"
            rest = f"{len(found.values)} seeds, 95 % interval {ends}"
        elif self.p_value is not None:
            rest = f"one seed, {chance_text(self.p_value)}"
        here = f"{_number(self.base)} to {_number(self.system)} BLEU, {signed(found.mean)} ({rest})"
        verdict = {1: Verdict.AGREES, -1: Verdict.DIFFERS, 0: Verdict.OPEN}[self.sign]
        return Claim(subject, paper, here, verdict, result)


def compared(table: Table, columns: Sequence[int]) -> list[Compared]:
    """Compare base and AI-STA in some columns, backbone by backbone; what is not measured is left out."""
    headings = {row.group: row.label for row in table.rows if row.is_heading and row.group}
    found = []
    for group in dict.fromkeys(row.group for row in table.rows if row.key):
        rows = {row.key: row for row in table.rows if row.group == group}
        if not rows.keys() >= set(PAIR):
            continue
        backbone = headings.get(group, group)
        for words in _HEADINGS:
            backbone = backbone.removeprefix(words)
        for i in columns:
            base, system = (rows[name].cells[i] for name in PAIR)
            if base.values and len(base.values) == len(system.values):
                name = f"{backbone} {table.columns[i]}".strip()
                found.append(Compared(name, base, system, system.p_value))
    return found


def columns_of(table: Table, beginning: str) -> list[int]:
    """Return the columns whose names begin so: ``En-`` is BLEU of speech, ``MT`` BLEU of text."""
    return [i for i, name in enumerate(table.columns) if name.startswith(beginning)]


def main_signs(results: Results) -> list[int]:
    """Return the sign of AI-STA's gain in every column of Table 2: 1, -1, or 0 where chance explains it."""
    table = results.get("table2")
    return [row.sign for row in compared(table, columns_of(table, "En-"))] if isinstance(table, Table) else []


def claims(results: Results) -> list[Claim]:
    """Return every claim of the paper that these results can speak to, in the paper's order."""
    tables = {name: result for name, result in results.items() if isinstance(result, Table)}
    figures = {name: result for name, result in results.items() if isinstance(result, Figure)}
    found: list[Claim] = []
    if table := tables.get("table2"):
        for row in compared(table, columns_of(table, "En-")):
            found.append(row.claim(f"Speech translation, {row.name}", "table2"))
    if figure := figures.get("figure4"):
        found += [_early_layers(line) for line in figure.data["lines"]]
    if table := tables.get("table3"):
        found += _layer_sets({row.key: row.cells[0] for row in table.rows if row.key})
    if table := tables.get("table4"):
        rows = {row.key: row for row in table.rows if row.key and row.cells[0].values}
        for key in ("ctc", "contrastive"):
            if key in rows and "ai_sta" in rows:
                pair = Compared(key, rows[key].cells[0], rows["ai_sta"].cells[0])
                found.append(pair.claim(f"AI-STA against {rows[key].label}", "table4"))
    if figure := figures.get("figure5"):
        found.append(_nearness(figure.data["rows"]))
    if figure := figures.get("figure6"):
        found += _correlated(figure.data["correlations"])
    if table := tables.get("table5"):
        for row in compared(table, columns_of(table, "MT")):
            if row.paper is not None:
                found.append(row.claim(f"Zero-shot text translation, {row.name}", "table5"))
    return found


def _early_layers(line: Mapping[str, list]) -> Claim:
    mrr, selected = line["mrr"], line["selected"]
    best = max(range(len(mrr)), key=mrr.__getitem__)
    early = bool(selected) and max(selected) < len(mrr) / 2 and best <= max(1, len(mrr) // 4)
    late = "" if early or not selected else " Late layers pass too."
    here = f"Best at layer {best} (MRR {mrr[best]:.2f}); chosen: {layer_range(selected)} of 0-{len(mrr) - 1}."
    return Claim(
        f"Retrieval by layer, {line['title']}",
        "High in the first layers, then a steep fall: the shallow layers carry it.",
        here + late,
        Verdict.AGREES if early else Verdict.DIFFERS,
        "figure4",
    )


def layer_range(layers: Sequence[int]) -> str:
    """Return layers as ``0-1``, ``0, 3`` or ``none``."""
    joined = len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if joined else ", ".join(map(str, layers)) or "none"


def _layer_sets(cells: Mapping[str, Cell]) -> Iterator[Claim]:
    literal_first = [cells[key] for key in ("layer_1_raw", "layer_1") if key in cells]
    for cell in [cell for cell in literal_first if cell.mark or cell.value is not None][:1]:
        base = f" (base {_number(cells['base'])})" if "base" in cells and cells["base"].values else ""
        here = "It diverges here too." if cell.mark else f"It trains: {_number(cell)} BLEU{base}."
        verdict = Verdict.AGREES if cell.mark else Verdict.DIFFERS
        yield Claim("Without layer 0", "Training does not converge (X).", here, verdict, "table3")
    if all(key in cells and cells[key].values for key in ("layer_0", "ai_sta")):
        pair = Compared("selected layers", cells["layer_0"], cells["ai_sta"])
        yield pair.claim("Selected layers against layer 0 alone", "table3")


def _nearness(rows: Sequence[Mapping[str, float]]) -> Claim:
    first = [row for row in rows if row["backbone"] == rows[0]["backbone"]]
    base, system = (
        [row["relative_paired_distance"] for row in first if row["system"] == name] for name in PAIR
    )
    apart = max(row["separability"] for row in first if row["system"] == PAIR[1])
    here = f"A clip lies {fmean(base):.1f} spreads of the text from its transcript in base, "
    here += f"{fmean(system):.1f} in AI-STA."
    here += f" A plane still parts speech from text ({100 * apart:.0f} % right)." if apart > 0.9 else ""
    closer = all(b > s for b, s in zip(base, system, strict=True))
    verdict = Verdict.AGREES if closer else Verdict.DIFFERS
    paper = "AI-STA makes it significantly smaller."
    return Claim("The gap between speech and text", paper, here, verdict, "figure5")


def _correlated(found: Sequence[Mapping[str, float]]) -> Iterator[Claim]:
    rows = [
        row
        for row in found
        if row["coefficient"] == "Pearson" and row["low"] is not None and row["over"] != ALL_PANELS
    ]
    if not rows:
        return
    every = (
        f"{row['over']}: {signed(row['value'], 2)} ({signed(row['low'], 2)} to {signed(row['high'], 2)})"
        for row in rows
    )
    verdict = Verdict.AGREES if all(row["high"] < 0 for row in rows) else Verdict.OPEN
    if any(row["low"] > 0 for row in rows) and not any(row["high"] < 0 for row in rows):
        verdict = Verdict.DIFFERS
    paper = "The smaller log W, the higher BLEU: a strong correlation over four runs."
    here = f"Pearson’s r: {'; '.join(every)}."
    yield Claim("Closeness goes with translation", paper, here, verdict, "figure6")


def _number(cell: Cell) -> str:
    return f"{cell.value:.{cell.digits}f}" if cell.value is not None else cell.mark
