"""Numbers of run folders as cells: mean and deviation over seeds, the paper's value, the bootstrap's p."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aista.evaluation.evaluate import compare
from aista.evaluation.significance import TEST
from aista.experiments.paper.systems import Context, Run
from aista.experiments.plan import DIVERGED
from aista.experiments.results import Cell
from aista.files import write_whole

X_RULE = (
    "X: the loss stopped being finite, or the mean cross-entropy over the last tenth of the logged steps is "
    "not below that over the first tenth (of ten logs or more)."
)
P_RULE = (
    "p: paired bootstrap (1,000 resamples, two-sided, ties counted) against the base of the same backbone "
    "and seed; the median over the seeds. * p < 0.05."
)
SEED_RULE = "Mean ± sample standard deviation over the seeds; one seed has none."
_COMPARISONS = "comparisons.json"


def has_diverged(run: Run) -> bool:
    """Whether a training failed by ``X_RULE``."""
    return bool(why_diverged(run))


def why_diverged(run: Run) -> str:
    """Return in what way a training failed, or nothing."""
    if (mark := run.model / DIVERGED).exists():
        return json.loads(mark.read_text())["reason"]
    losses = cross_entropies(run)
    tenth = len(losses) // 10
    if not tenth:  # a few steps say nothing
        return ""
    first, last = statistics.fmean(losses[:tenth]), statistics.fmean(losses[-tenth:])
    return "" if last < first else f"cross-entropy {first:.2f} at the start, {last:.2f} at the end"


def cross_entropies(run: Run) -> list[float]:
    """Return the logged cross-entropies of a finished training, in order."""
    path = run.model / "history.json"
    return [row["ce"] for row in json.loads(path.read_text()) if "ce" in row] if path.exists() else []


class Measured:
    """The runs of a context, read once.

    Args:
        context: What is there.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._results: dict[str, dict[str, Any]] = {}
        self._kept = context.folder / _COMPARISONS
        self._comparisons: dict[str, Any] = json.loads(self._kept.read_text()) if self._kept.exists() else {}

    def seeds(self, backbone: str, system: str) -> list[int]:
        """Return the seeds of which every direction is there."""
        done = set(self.context.runs)
        return [s for s in self.context.scope.seeds if done.issuperset(self._runs(backbone, system, s))]

    def shared_seeds(self, backbone: str, systems: Iterable[str]) -> list[int]:
        """Return the seeds that all of these systems have which have any."""
        found = [set(seeds) for system in systems if (seeds := self.seeds(backbone, system))]
        return sorted(set.intersection(*found)) if found else []

    def score(self, backbone: str, system: str, seed: int, name: str) -> float | None:
        """Return one score of one run, e.g. ``bleu_zh``."""
        for run in self._runs(backbone, system, seed):
            if (value := self.results(run)["scores"].get(name)) is not None:
                return value
        return None

    def cell(
        self, backbone: str, system: str, name: str, *, paper: float | str | None = None,
        seeds: Sequence[int] | None = None, digits: int = 1,
    ) -> Cell:  # fmt: skip
        """Return a score over seeds as a cell."""
        chosen = self.seeds(backbone, system) if seeds is None else seeds
        found = [
            (seed, self.score(backbone, system, seed, name))
            for seed in chosen
            if self._has(backbone, system, seed)
        ]
        pairs = [(seed, value) for seed, value in found if value is not None]
        values, notes = [value for _, value in pairs], self._notes(backbone, system, name, pairs)
        p_values = self._p_values(backbone, system, name, [seed for seed, _ in pairs])
        if len(p_values) > 1:
            notes.append("p by seed: " + ", ".join(f"{p:.3f}" for p in p_values))
        failed = self._failures(backbone, system)
        return Cell.over(values, paper, digits).model_copy(
            update={
                "p_value": statistics.median(p_values) if p_values else None,
                "note": "; ".join([*notes, *failed]),
                "mark": "" if values or not failed else "X",
            }
        )

    def baselines(self) -> list[str]:
        """Return the keys of the baselines that were run: the folders of ``baselines/`` with results."""
        found = (self.context.folder / "baselines").glob("*/**/results.json")
        return sorted({path.relative_to(self.context.folder / "baselines").parts[0] for path in found})

    def baseline(self, name: str) -> dict[str, Cell]:
        """Return the BLEU of a baseline that was run, by language."""
        found: dict[str, Cell] = {}
        for path in sorted((self.context.folder / "baselines" / name).glob("**/results.json")):
            scores = json.loads(path.read_text())["scores"]
            found |= {
                key.removeprefix("bleu_"): Cell.over([value])
                for key, value in scores.items()
                if key.startswith("bleu_")
            }
        return found

    def signatures(self, names: Iterable[str]) -> list[str]:
        """Return sacreBLEU's signatures of these scores over all runs, once each."""
        wanted = list(names)
        rows = (self.results(run)["signatures"] for run in self.context.runs)
        return list(dict.fromkeys(f"{n}: {row[n]}" for row in rows for n in wanted if n in row))

    def warnings(self) -> list[str]:
        """Return what evaluation warned of, with the run's name."""
        return [f"{run.name}: {text}" for run in self.context.runs for text in self.results(run)["warnings"]]

    def results(self, run: Run) -> dict[str, Any]:
        """Return a run's evaluation."""
        if run.name not in self._results:
            self._results[run.name] = json.loads((run.evaluation / "results.json").read_text())
        return self._results[run.name]

    # ---- inside ----

    def _runs(self, backbone: str, system: str, seed: int) -> list[Run]:
        return self.context.scope.runs_of(backbone, system, seed)

    def _has(self, backbone: str, system: str, seed: int) -> bool:
        return set(self.context.runs).issuperset(self._runs(backbone, system, seed))

    def _notes(self, backbone: str, system: str, name: str, pairs: list[tuple[int, float]]) -> list[str]:
        """Return the mean on each test set, where there are several."""
        parts: dict[str, list[float]] = {}
        for seed, _ in pairs:
            for run in self._runs(backbone, system, seed):
                for test, part in self.results(run)["by_set"].items():
                    if name in part["scores"]:
                        parts.setdefault(test, []).append(part["scores"][name])
        if len(parts) < 2:
            return []
        return [", ".join(f"{test} {statistics.fmean(values):.1f}" for test, values in parts.items())]

    def _failures(self, backbone: str, system: str) -> list[str]:
        rows = [run for run in self.context.diverged if (run.backbone, run.system) == (backbone, system)]
        return [f"seed {run.seed} diverged: {why_diverged(run)}" for run in rows]

    def _p_values(self, backbone: str, system: str, name: str, seeds: Sequence[int]) -> list[float]:
        if system == "base" or not name.startswith(("bleu_", "mt_bleu_")):
            return []
        found = []
        for seed in seeds:
            if not self._has(backbone, "base", seed):
                continue
            pairs = zip(self._runs(backbone, "base", seed), self._runs(backbone, system, seed), strict=True)
            for base, run in pairs:
                if (p := self._compared(base.evaluation, run.evaluation).get(name)) is not None:
                    found.append(p)
        return found

    def _compared(self, base: Path, system: Path) -> dict[str, float]:
        """Return p per score; a comparison is made once and kept."""
        digest = hashlib.sha256(TEST.encode())
        for folder in (base, system):
            digest.update((folder / "results.json").read_bytes())
        key = digest.hexdigest()
        if key not in self._comparisons:
            self._comparisons[key] = {name: row.p_value for name, row in compare(base, system).items()}
            write_whole(self._kept, json.dumps(self._comparisons, indent=1))
        return self._comparisons[key]


def with_best(cells: Sequence[Cell]) -> list[Cell]:
    """Mark the highest mean bold if it stands above every other by more than both deviations together.

    Without deviations (one seed) nothing is bold.
    """
    marked = list(cells)
    measured = [(i, cell) for i, cell in enumerate(cells) if cell.value is not None]
    if len(measured) < 2 or any(cell.deviation is None for _, cell in measured):
        return marked
    best, top = max(measured, key=lambda pair: pair[1].value or 0.0)
    others = [cell for i, cell in measured if i != best]
    if all((top.value or 0) - (c.value or 0) > (top.deviation or 0) + (c.deviation or 0) for c in others):
        marked[best] = top.model_copy(update={"best": True})
    return marked
