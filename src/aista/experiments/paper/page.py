"""The page of the paper's tables and figures: ``FOLDER/exhibits/*.json`` in, ``FOLDER/report.html`` out.

The page needs no model and no run folder. What is missing is said, and the rest is shown. Its verdicts on
what the paper says follow from the numbers: with several seeds a difference counts when Student's 95 %
interval over the seeds leaves 0 out; with one seed when the paired bootstrap over sentences gives p < 0.05.
Anything less is open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from statistics import fmean
from typing import Any

from aista.analysis.comparison import Gain, gain
from aista.audio.files import load_audio
from aista.errors import AudioError, ConfigError
from aista.evaluation.decode import TransportMap
from aista.experiments import page
from aista.experiments.page import Clip, Rendering, chance_text, readme_from
from aista.experiments.paper.systems import PAIR
from aista.experiments.results import Cell, Figure, Row, Table, layer_range, load_all
from aista.figures import signed
from aista.figures.charts import ALL_PANELS
from aista.files import write_whole

EXPECTED = (*(f"table{n}" for n in range(1, 6)), *(f"figure{n}" for n in range(4, 8)), "transport")
RECORD = "reproduce.json"
LEVEL = 0.05
Results = Mapping[str, Table | Figure]
_HEADINGS = ("Our LSM with the ", "Our LSM with ", "Trained on ST: ", "Trained on ST and MT: ")


def write_report(folder: Path, notice: str = "") -> Path:
    """Write ``report.html`` from what a plan left in its folder.

    Args:
        folder: Holds ``exhibits/*.json`` with sounds beside them; ``reproduce.json`` says how they were made.
        notice: Shown in a box at the head.

    Returns:
        The path of the page.

    Raises:
        ConfigError: There is no table or figure, or one cannot be read.
    """
    results = load_all(folder)
    if not results:
        raise ConfigError(
            f"There is nothing to report in {folder}.",
            expected="exhibits/*.json",
            advice="Run `aista reproduce`.",
        )
    record = folder / RECORD
    values = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    path = folder / "report.html"
    write_whole(path, render(results, values, folder, notice))
    return path


def render(results: Results, record: Mapping[str, Any], folder: Path, notice: str = "") -> str:
    """Return the whole page.

    Args:
        results: Tables and figures by name.
        record: What ``reproduce.json`` holds; may be empty.
        folder: Where the sounds of cases lie.
        notice: Shown in a box at the head.
    """
    figures = {name: result for name, result in results.items() if isinstance(result, Figure)}
    main, found = _compared(results, "table2"), claims(results)
    map_of_states, scatter, cases, plans = map(figures.get, ("figure5", "figure6", "figure7", "transport"))
    return page.render(
        "paper.html.j2",
        record=record,
        notice=notice,
        readme=readme_from(folder),
        signs=[row.sign for row in main],
        claims=found,
        tally=[(verdict, sum(claim.verdict is verdict for claim in found)) for verdict in Verdict],
        missing=[name for name in EXPECTED if name not in results],
        tables=[result for result in results.values() if isinstance(result, Table)],
        gains=[{"name": row.name, "values": list(row.gain.values), "paper": row.paper} for row in main],
        gaps=gaps_of(results),
        figures=[row for name, row in figures.items() if name not in ("figure7", "transport")],
        distances=distances(map_of_states) if map_of_states else None,
        coefficients=coefficients(scatter, "correlations") if scatter else None,
        by_seed=coefficients(scatter, "by_seed") if scatter else None,
        cases=cases,
        groups=cases_of(cases, folder) if cases else [],
        transport=plans,
        clips=[_clip(case, folder) for case in plans.data["clips"]] if plans else [],
        facts=_facts(record),
        listings=_listings(record),
    )


# ---- the paper's claims ----


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
        return _paired(self.base, self.system)

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


def _paired(first: Cell, second: Cell) -> Gain:
    """Compare two cells over the seeds that both have."""
    one, other = first.by_seed(), second.by_seed()
    shared = [seed for seed in one if seed in other]
    return gain([one[seed] for seed in shared], [other[seed] for seed in shared])


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
            if base.values and base.by_seed().keys() == system.by_seed().keys():
                name = f"{backbone} {table.columns[i]}".strip()
                found.append(Compared(name, base, system, system.p_value))
    return found


def _compared(results: Results, name: str, beginning: str = "") -> list[Compared]:
    """Compare in the columns whose names begin so: ``ST`` is BLEU of speech, ``MT`` BLEU of text."""
    table = results.get(name)
    if not isinstance(table, Table):
        return []
    return compared(table, [i for i, title in enumerate(table.columns) if title.startswith(beginning)])


def claims(results: Results) -> list[Claim]:
    """Return the claims about AI-STA itself that these results can speak to, in the paper's order."""
    tables = {name: result for name, result in results.items() if isinstance(result, Table)}
    figures = {name: result for name, result in results.items() if isinstance(result, Figure)}
    found = [row.claim(f"Speech translation, {row.name}", "table2") for row in _compared(results, "table2")]
    if figure := figures.get("figure4"):
        found += [_early_layers(line) for line in figure.data["lines"]]
    if table := tables.get("table3"):
        found += _layer_sets({row.key: row.cells[0] for row in table.rows if row.key})
    if table := tables.get("table4"):
        rows = {row.key: row for row in table.rows if row.key and row.cells[0].values}
        for key in ("ctc", "contrastive"):
            if key in rows and "ai_sta" in rows:
                pair = Compared(key, rows[key].cells[0], rows["ai_sta"].cells[0])
                if pair.base.by_seed().keys() & pair.system.by_seed().keys():
                    found.append(pair.claim(f"AI-STA against {rows[key].label}", "table4"))
    if figure := figures.get("figure5"):
        found.append(_nearness(figure.data["rows"]))
    if figure := figures.get("figure6"):
        found += _correlated(figure.data["correlations"])
    for row in _compared(results, "table5", "MT"):
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


def _correlated(found: Sequence[Mapping[str, Any]]) -> Iterator[Claim]:
    """Both coefficients have to say it: few runs far off make a Pearson's r by themselves."""
    panels: dict[str, dict[str, int]] = {}  # signs of the intervals that leave 0 out
    every: dict[str, list[str]] = {}
    for row in found:
        if row["low"] is None or row["over"] == ALL_PANELS:
            continue
        name, kind, low, high = (row[key] for key in ("over", "coefficient", "low", "high"))
        ends = f"{signed(low, 2)} to {signed(high, 2)}"
        panels.setdefault(name, {})[kind] = (low > 0) - (high < 0)
        every.setdefault(kind, []).append(f"{name}: {signed(row['value'], 2)} ({ends})")
    if not panels:
        return
    agreed = {name: {*kinds.values()} for name, kinds in panels.items()}
    verdict = Verdict.AGREES if all(signs == {-1} for signs in agreed.values()) else Verdict.OPEN
    if {1} in agreed.values() and not any(-1 in signs for signs in agreed.values()):
        verdict = Verdict.DIFFERS
    paper = "The smaller log W, the higher BLEU: a strong correlation over four runs."
    titles = {"Pearson": "Pearson’s r", "Spearman": "Spearman’s ρ, which goes by ranks"}
    here = " ".join(f"{titles[kind]}: {'; '.join(texts)}." for kind, texts in every.items())
    if apart := [name for name, signs in agreed.items() if len(signs) > 1]:
        here += f" The two do not agree on {', '.join(apart)}: not decided there."
    yield Claim("Closeness goes with translation", paper, here, verdict, "figure6")


def _number(cell: Cell) -> str:
    return f"{cell.value:.{cell.digits}f}" if cell.value is not None else cell.mark


# ---- under the tables and figures ----


def gaps_of(results: Results) -> list[dict[str, Any]]:
    """Return, by backbone and direction, what each system loses between reading and hearing (Table 5)."""
    spoken, written = (
        {re.sub(rf"\b{kind} (?=\S+$)", "", row.name): row for row in _compared(results, "table5", kind)}
        for kind in ("ST", "MT")
    )
    gaps = []
    for name in (name for name in spoken if name in written):
        lost = {
            key: _paired(getattr(spoken[name], key), getattr(written[name], key)).mean
            for key in ("base", "system")
        }
        gaps.append({"name": name, **lost})
    return gaps


def distances(figure: Figure) -> Table:
    """Return the distances of Figure 5, measured in the original space, over the seeds."""
    shown = (
        ("relative_centroid_distance", 2, 1.0), ("relative_paired_distance", 2, 1.0), ("pairing", 3, 1.0),
        ("separability", 1, 100.0),
    )  # fmt: skip
    systems: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in figure.data["rows"]:
        systems.setdefault((row["backbone"], row["system"]), []).append(row)
    groups = {runs[0].get("group", key[0]) for key, runs in systems.items()}
    rows = []
    for (backbone, system), runs in systems.items():
        if len(groups) > 1 and system == PAIR[0]:
            rows.append(Row(label=runs[0].get("group", backbone), is_heading=True))
        cells = [
            Cell.over([factor * run[name] for run in runs], digits=digits) for name, digits, factor in shown
        ]
        rows.append(Row(label=runs[0]["title"], cells=cells, key=system))
    columns = ["between centres", "within pairs", "own / other text", "told apart, %"]
    return Table(name="distances", title="Distances in the original space", columns=columns, rows=rows)


def coefficients(figure: Figure, kind: str) -> dict[str, Any] | None:
    """Return the correlations of Figure 6: ``table``, and ``few``: what has too few runs for one."""
    sets: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in figure.data.get(kind) or []:
        sets.setdefault(row["over"], {})[row["coefficient"]] = row
    if not sets:
        return None
    rows, few = [], []
    for name, kinds in sets.items():
        if kinds["Pearson"]["value"] is None:
            few.append(f"{name} ({kinds['Pearson']['n']})")
            continue
        cells = []
        for row in (kinds["Pearson"], kinds["Spearman"]):
            ends = "" if row["low"] is None else f"{signed(row['low'], 2)} to {signed(row['high'], 2)}"
            value = Cell(value=row["value"], digits=2, signed=True, p_value=row["p_value"])
            cells += [value, Cell(mark=ends)]
        rows.append(Row(label=name, cells=[*cells, Cell(value=kinds["Pearson"]["n"], digits=0)]))
    columns = ["Pearson’s r", "95 % interval", "Spearman’s ρ", "95 % interval", "runs"]
    title = "Correlation of log W and BLEU"
    return {"table": Table(name=kind, title=title, columns=columns, rows=rows), "few": few}


# ---- cases and transport plans ----


def cases_of(figure: Figure, folder: Path) -> list[dict[str, Any]]:
    """Return the cases of Figure 7 by backbone: ``title`` and ``cases``."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in figure.data["cases"]:
        others = [name for name in case["texts"] if name not in PAIR]
        main, rest = (
            Rendering(
                case["language"], case["reference"], {n: case["texts"][n] for n in some}, case["scores"]
            )
            for some in (PAIR, others)
        )
        shown = {"clip": _clip(case, folder), "case": case, "main": main, "others": rest}
        groups.setdefault(case["backbone"], []).append(shown)
    return [
        {"title": found[0]["case"]["panel"].rsplit(", ", 1)[0], "cases": found} for found in groups.values()
    ]


def _clip(case: Mapping[str, Any], folder: Path) -> Clip:
    """Return a case as a clip; a sound that is gone costs the player alone."""
    try:
        samples = load_audio(folder / case["clip"])
    except AudioError:
        samples = None
    maps = {name: TransportMap(**found) for name, found in case.get("maps", {}).items()}
    return Clip(case["id"], samples, case["source"], case.get("why", ""), maps=maps)


# ---- how it was made ----


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    machine = record.get("machine", {})
    parts = [
        machine.get("cpu", ""),
        f"{machine['cores']} cores" if machine.get("cores") else "",
        f"{machine['ram_gb']} GB" if machine.get("ram_gb") else "",
        *machine.get("gpus", []),
        machine.get("system", ""),
    ]
    facts = {
        "machine": " · ".join(filter(None, parts)),
        "side by side": f"{machine['workers']} runs" if machine.get("workers") else "",
        "seeds": ", ".join(map(str, record.get("seeds", []))),
        "from, to": " to ".join(filter(None, [record.get("started", ""), record.get("finished", "")])),
    }
    return {name: text for name, text in facts.items() if text}


def _listings(record: Mapping[str, Any]) -> dict[str, str]:
    return {
        **{f"settings: {name}": text for name, text in record.get("settings", {}).items()},
        "data, sha256": "\n".join(
            f"{value}  {name}" for name, value in record.get("data_sha256", {}).items()
        ),
        "versions": "\n".join(f"{name} {value}" for name, value in record.get("versions", {}).items()),
    }
