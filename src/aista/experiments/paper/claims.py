"""What the paper says against what came out here: sentences and verdicts that follow from the exhibits.

With several seeds a difference counts when Student's 95 % interval over the seeds leaves 0 out; with one seed
when the paired bootstrap over sentences gives p < 0.05. Anything less is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from aista.analysis.zero_shot_mt import Gain, gain
from aista.experiments.drawing import signed
from aista.experiments.results import Cell, Figure, Row, Table

LEVEL = 0.05
ALL_PANELS = "all panels"
Exhibits = Mapping[str, Table | Figure]


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
        exhibit: Where it is shown.
    """

    subject: str
    paper: str
    here: str
    verdict: Verdict
    exhibit: str


@dataclass(frozen=True)
class Compared:
    """AI-STA against base in one column of a table.

    Attributes:
        name: Backbone and column.
        gain: Over the seeds.
        paper: The paper's gain, where it has one.
        p_value: Paired bootstrap over sentences, where known.
        base, system: The cells compared.
    """

    name: str
    gain: Gain
    paper: float | None
    p_value: float | None
    base: Cell
    system: Cell

    @property
    def sign(self) -> int:
        """1 or -1 where the difference is more than chance explains, else 0."""
        clear = self.gain.is_clear or (
            len(self.gain.values) == 1 and self.p_value is not None and self.p_value < LEVEL
        )
        return (1 if self.gain.mean > 0 else -1) if clear else 0

    def told(self) -> str:
        """Say what came out."""
        text = f"{_number(self.base)} to {_number(self.system)} BLEU, {signed(self.gain.mean)}"
        if self.gain.low is not None and self.gain.high is not None:
            ends = f"{signed(self.gain.low)} to {signed(self.gain.high)}"
            return f"{text} ({len(self.gain.values)} seeds, 95 % interval {ends})"
        if self.p_value is not None:
            return f"{text} (one seed, p {_p(self.p_value)})"
        return f"{text} (one seed)"


def compared(
    table: Table, columns: Sequence[int], first: str = "base", second: str = "ai_sta"
) -> list[Compared]:
    """Compare two systems in some columns, backbone by backbone; what is not measured is left out."""
    headings = {row.group: row.label for row in table.rows if row.is_heading and row.group}
    found = []
    for group in dict.fromkeys(row.group for row in table.rows if row.key):
        rows = {row.key: row for row in table.rows if row.group == group}
        if first not in rows or second not in rows:
            continue
        for i in columns:
            base, system = rows[first].cells[i], rows[second].cells[i]
            if base.values and len(base.values) == len(system.values):
                name = f"{_backbone(headings.get(group, group))} {table.columns[i]}".strip()
                papers = (base.paper, system.paper)
                paper = papers[1] - papers[0] if all(isinstance(p, float) for p in papers) else None  # type: ignore[operator]
                found.append(
                    Compared(name, gain(base.values, system.values), paper, system.p_value, base, system)
                )
    return found


def _backbone(heading: str) -> str:
    for words in ("Our LSM with the ", "Our LSM with ", "Trained on ST: "):
        heading = heading.removeprefix(words)
    return heading


def claims(exhibits: Exhibits) -> list[Claim]:
    """Return every claim of the paper that these exhibits can speak to, in the paper's order."""
    return [
        *_translation(exhibits),
        *_early_layers(exhibits),
        *_layer_sets(exhibits),
        *_methods(exhibits),
        *_nearness(exhibits),
        *_correlated(exhibits),
        *_text(exhibits),
    ]


def headline(exhibits: Exhibits) -> str:
    """Return one sentence for the head of the page: what became of the main result."""
    table = exhibits.get("table2")
    signs = [row.sign for row in compared(table, _bleu(table))] if isinstance(table, Table) else []
    if not signs:
        return "The paper’s tables and figures, as far as they have been made."
    return {
        (True, False): "Here too, alignment makes the translation of speech better{}.",
        (False, True): "Here, alignment makes the translation of speech worse{}.",
        (False, False): "Here, alignment neither helps nor harms the translation of speech beyond chance.",
        (True, True): "Here, what alignment does to the translation of speech depends on where one looks.",
    }[max(signs) > 0, min(signs) < 0].format("" if all(signs) else ", or leaves it as it was")


def _bleu(table: Table) -> list[int]:
    """Return the columns that hold BLEU of speech translation."""
    return [i for i, name in enumerate(table.columns) if name.startswith("En-")]


def _translation(exhibits: Exhibits) -> Iterator[Claim]:
    table = exhibits.get("table2")
    if isinstance(table, Table):
        for row in compared(table, _bleu(table)):
            yield _claim(f"Speech translation, {row.name}", row, "table2")


def _text(exhibits: Exhibits) -> Iterator[Claim]:
    table = exhibits.get("table5")
    if isinstance(table, Table):
        columns = [i for i, name in enumerate(table.columns) if name.startswith("MT")]
        for row in compared(table, columns):
            if row.paper is not None:
                yield _claim(f"Zero-shot text translation, {row.name}", row, "table5")


def _claim(subject: str, row: Compared, exhibit: str) -> Claim:
    paper = "AI-STA is better"
    if row.paper is not None:
        paper = f"{row.base.paper_text()} to {row.system.paper_text()}, {signed(row.paper)}"
    verdict = {1: Verdict.AGREES, -1: Verdict.DIFFERS, 0: Verdict.OPEN}[row.sign]
    return Claim(subject, paper, row.told(), verdict, exhibit)


def _early_layers(exhibits: Exhibits) -> Iterator[Claim]:
    figure = exhibits.get("figure4")
    if not isinstance(figure, Figure):
        return
    for line in figure.data["lines"]:
        mrr, chosen = line["mrr"], line["selected"]
        best = max(range(len(mrr)), key=mrr.__getitem__)
        here = f"Best at layer {best} (MRR {mrr[best]:.2f}); "
        here += f"chosen: {_layers(chosen) or 'none'} of 0-{len(mrr) - 1}."
        early = bool(chosen) and max(chosen) < len(mrr) / 2 and best <= max(1, len(mrr) // 4)
        yield Claim(
            f"Retrieval by layer, {line['title']}",
            "High in the first layers, then a steep fall: the shallow layers carry it.",
            here + ("" if early else " Late layers pass too." if chosen else ""),
            Verdict.AGREES if early else Verdict.DIFFERS,
            "figure4",
        )


def _layers(chosen: Sequence[int]) -> str:
    whole = len(chosen) > 1 and list(chosen) == list(range(chosen[0], chosen[-1] + 1))
    return f"{chosen[0]}-{chosen[-1]}" if whole else ", ".join(map(str, chosen))


def _layer_sets(exhibits: Exhibits) -> Iterator[Claim]:
    table = exhibits.get("table3")
    if not isinstance(table, Table):
        return
    rows = {row.key: row.cells[0] for row in table.rows if row.key}
    literal_first = (rows[key] for key in ("layer_1_raw", "layer_1") if key in rows)
    if alone := next((cell for cell in literal_first if cell.mark or cell.value is not None), None):
        diverged = bool(alone.mark)
        here = "It diverges here too." if diverged else f"It trains: {_number(alone)} BLEU"
        base = rows.get("base")
        here += "" if diverged else f" (base {_number(base)})." if base and base.values else "."
        verdict = Verdict.AGREES if diverged else Verdict.DIFFERS
        yield Claim("Without layer 0", "Training does not converge (X).", here, verdict, "table3")
    if (first := rows.get("layer_0")) and (chosen := rows.get("ai_sta")) and first.values and chosen.values:
        row = _between("selected layers", first, chosen)
        yield _claim("Selected layers against layer 0 alone", row, "table3")


def _between(name: str, first: Cell, second: Cell) -> Compared:
    """Compare two rows that are not base and system: no bootstrap is known for them."""
    count = min(len(first.values), len(second.values))
    papers = (first.paper, second.paper)
    paper = papers[1] - papers[0] if all(isinstance(p, float) for p in papers) else None  # type: ignore[operator]
    return Compared(name, gain(first.values[:count], second.values[:count]), paper, None, first, second)


def _methods(exhibits: Exhibits) -> Iterator[Claim]:
    table = exhibits.get("table4")
    if not isinstance(table, Table):
        return
    rows: dict[str, Row] = {row.key: row for row in table.rows if row.key}
    for key in ("ctc", "contrastive"):
        if key in rows and "ai_sta" in rows and rows[key].cells[0].values and rows["ai_sta"].cells[0].values:
            row = _between(key, rows[key].cells[0], rows["ai_sta"].cells[0])
            yield _claim(f"AI-STA against {rows[key].label}", row, "table4")


def _nearness(exhibits: Exhibits) -> Iterator[Claim]:
    figure = exhibits.get("figure5")
    if not isinstance(figure, Figure):
        return
    found: dict[str, list[Mapping[str, float]]] = {"base": [], "ai_sta": []}
    for row in figure.data["rows"]:
        if row["backbone"] == figure.data["rows"][0]["backbone"]:
            found[row["system"]].append(row)
    base, system = ([row["relative_paired_distance"] for row in found[key]] for key in ("base", "ai_sta"))
    apart = max(row["separability"] for row in found["ai_sta"])
    text = f"A clip lies {_mean(base):.1f} spreads of the text from its transcript in base, "
    text += f"{_mean(system):.1f} in AI-STA."
    text += f" A plane still parts speech from text ({100 * apart:.0f} % right)." if apart > 0.9 else ""
    closer = all(b > s for b, s in zip(base, system, strict=True))
    verdict = Verdict.AGREES if closer else Verdict.DIFFERS
    yield Claim(
        "The gap between speech and text", "AI-STA makes it significantly smaller.", text, verdict, "figure5"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _correlated(exhibits: Exhibits) -> Iterator[Claim]:
    figure = exhibits.get("figure6")
    if not isinstance(figure, Figure):
        return
    rows = [
        row
        for row in figure.data["correlations"]
        if row["coefficient"] == "Pearson" and row["low"] is not None and row["over"] != ALL_PANELS
    ]
    if not rows:
        return
    every = "; ".join(
        f"{row['over']}: {_r(row['value'])} ({_r(row['low'])} to {_r(row['high'])})" for row in rows
    )
    verdict = Verdict.AGREES if all(row["high"] < 0 for row in rows) else Verdict.OPEN
    if any(row["low"] > 0 for row in rows) and not any(row["high"] < 0 for row in rows):
        verdict = Verdict.DIFFERS
    paper = "The smaller log W, the higher BLEU: a strong correlation over four runs."
    yield Claim("Closeness goes with translation", paper, f"Pearson’s r: {every}.", verdict, "figure6")


def _r(value: float) -> str:
    return signed(value, 2)


def _number(cell: Cell) -> str:
    return f"{cell.value:.{cell.digits}f}" if cell.value is not None else cell.mark


def _p(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"= {value:.2f}"
