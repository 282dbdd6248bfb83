"""The page of the paper's tables and figures: ``FOLDER/exhibits/*.json`` in, ``FOLDER/report.html`` out.

The page needs no model and no run folder. What is missing is said, and the rest is shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aista.analysis.comparison import transfer
from aista.audio.files import load_audio
from aista.errors import AudioError, ConfigError
from aista.evaluation.decode import TransportMap
from aista.experiments import page
from aista.experiments.demo_page import readme_from
from aista.experiments.page import Clip, Rendering
from aista.experiments.paper.claims import PAIR, Compared, Verdict, claims, columns_of, compared, main_signs
from aista.experiments.results import Cell, Figure, Row, Table, load_all
from aista.figures.drawing import signed
from aista.files import write_whole

EXPECTED = (*(f"table{n}" for n in range(1, 6)), *(f"figure{n}" for n in range(4, 8)), "transport")
RECORD = "reproduce.json"
Results = Mapping[str, Table | Figure]


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
    tables = [result for result in results.values() if isinstance(result, Table)]
    figures = {name: result for name, result in results.items() if isinstance(result, Figure)}
    found = claims(results)
    return page.render(
        "paper.html.j2",
        record=record,
        notice=notice,
        readme=readme_from(folder),
        signs=main_signs(results),
        claims=found,
        tally=[(verdict, sum(claim.verdict is verdict for claim in found)) for verdict in Verdict],
        missing=[name for name in EXPECTED if name not in results],
        tables=tables,
        gains=gains_of(results),
        gaps=gaps_of(results),
        figures=[row for name, row in figures.items() if name not in ("figure7", "transport")],
        distances=distances(figures["figure5"]) if "figure5" in figures else None,
        coefficients=coefficients(figures["figure6"], "correlations") if "figure6" in figures else None,
        by_seed=coefficients(figures["figure6"], "by_seed") if "figure6" in figures else None,
        cases=figures.get("figure7"),
        groups=cases_of(figures["figure7"], folder) if "figure7" in figures else [],
        transport=figures.get("transport"),
        clips=clips_of(figures["transport"], folder) if "transport" in figures else [],
        facts=_facts(record),
        listings=_listings(record),
    )


# ---- under the tables ----


def gains_of(results: Results) -> list[dict[str, Any]]:
    """Return the gains of Table 2 as they are drawn: seeds, mean, and the paper's."""
    return [
        {"name": row.name, "values": list(row.gain.values), "paper": row.paper}
        for row in _compared(results, "table2", "En-")
    ]


def gaps_of(results: Results) -> list[dict[str, Any]]:
    """Return, by backbone and direction, what each system loses between reading and hearing (Table 5)."""
    spoken, written = (
        {row.name.replace(kind, "").replace("  ", " "): row for row in _compared(results, "table5", kind)}
        for kind in ("ST", "MT")
    )
    gaps = []
    for name in (name for name in spoken if name in written):
        speech, text = spoken[name], written[name]
        found = transfer((speech.base.values, text.base.values), (speech.system.values, text.system.values))
        gaps.append({"name": name, "base": found.gap_first, "system": found.gap_second})
    return gaps


def _compared(results: Results, name: str, beginning: str) -> list[Compared]:
    table = results.get(name)
    return compared(table, columns_of(table, beginning)) if isinstance(table, Table) else []


# ---- under the figures ----


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
        cells = [cell for one in ("Pearson", "Spearman") for cell in _coefficient(kinds[one])]
        rows.append(Row(label=name, cells=[*cells, Cell(value=kinds["Pearson"]["n"], digits=0)]))
    columns = ["Pearson’s r", "95 % interval", "Spearman’s ρ", "95 % interval", "runs"]
    title = "Correlation of log W and BLEU"
    return {"table": Table(name=kind, title=title, columns=columns, rows=rows), "few": few}


def _coefficient(row: Mapping[str, Any]) -> list[Cell]:
    ends = "" if row["low"] is None else f"{signed(row['low'], 2)} to {signed(row['high'], 2)}"
    value = Cell(value=row["value"], digits=2, signed=True, p_value=row["p_value"])
    return [value, Cell(mark=ends)]


# ---- cases and transport plans ----


def cases_of(figure: Figure, folder: Path) -> list[dict[str, Any]]:
    """Return the cases of Figure 7 by backbone: ``title`` and ``cases``."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in figure.data["cases"]:
        shown = {
            "clip": _clip(case, folder),
            "case": case,
            "main": _rendering(case, PAIR),
            "others": _rendering(case, [name for name in case["texts"] if name not in PAIR]),
        }
        groups.setdefault(case["backbone"], []).append(shown)
    return [
        {"title": found[0]["case"]["panel"].rsplit(", ", 1)[0], "cases": found} for found in groups.values()
    ]


def _rendering(case: Mapping[str, Any], systems: Sequence[str]) -> Rendering:
    texts = {name: case["texts"][name] for name in systems}
    return Rendering(case["language"], case["reference"], texts, case["scores"])


def clips_of(figure: Figure, folder: Path) -> list[Clip]:
    """Return the clips whose transport plans are shown, those whose sound is there."""
    found = [_clip(case, folder) for case in figure.data["clips"]]
    return [clip for clip in found if clip.samples is not None]


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
        str(machine.get("cpu", "")),
        f"{machine['cores']} cores" if machine.get("cores") else "",
        f"{machine['ram_gb']} GB" if machine.get("ram_gb") else "",
        ", ".join(machine.get("gpus", [])),
        str(machine.get("system", "")),
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
