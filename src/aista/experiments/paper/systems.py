"""Which runs a table or a figure needs (backbones, systems and seeds as data), and what those runs measured.

A system is what is trained (base, AI-STA, another method, another set of layers); a run is a system on a
backbone with a seed. Every method found in ``aista.alignment`` is a system without an edit here.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aista import alignment
from aista.data.manifest import Manifest
from aista.errors import ConfigError
from aista.evaluation.evaluate import compare
from aista.evaluation.significance import TEST
from aista.experiments.plan import DIVERGED
from aista.experiments.results import Cell
from aista.files import write_whole

X_RULE = (
    "X: the loss stopped being finite, or the mean cross-entropy over the last tenth of the logged steps is "
    "not below that over the first tenth (of ten logs or more)."
)
_TITLES = {
    "ctc": "CTC",
    "contrastive": "contrastive (N-pair)",
    "distillation": "distillation (BLSP-KD's idea)",
}
_COMPARISONS = "comparisons.json"

# ---- what is trained ----


@dataclass(frozen=True)
class System:
    """One thing that is trained.

    Attributes:
        name: Key and folder name.
        title: What a reader sees.
        alignment: Alignment settings in which it differs from the shipped joint config.
        once: Trained with the first seed only, unless every seed is asked for.
    """

    name: str
    title: str
    alignment: Mapping[str, Any] = field(default_factory=dict)
    once: bool = False


@dataclass(frozen=True)
class Backbone:
    """One stage-1 model with its language model.

    Attributes:
        name: Key and folder name.
        title: What a reader sees.
        model: Stage-1 model to start from.
        paper: The paper's backbone whose numbers stand beside.
    """

    name: str
    title: str
    model: str
    paper: str


@dataclass(frozen=True)
class Run:
    """A system on a backbone with a seed.

    Attributes:
        backbone, system, seed: What it is.
        root: Folder of the experiment.
        direction: ``en-zh``, where each direction is trained apart; empty where one run learns all.
    """

    backbone: str
    system: str
    seed: int
    root: Path
    direction: str = ""

    @property
    def name(self) -> str:
        """A name that is also a path."""
        return "/".join(filter(None, (self.backbone, self.system, self.direction, f"seed_{self.seed}")))

    @property
    def model(self) -> Path:
        """Folder of the trained model."""
        return self.root / "runs" / self.name

    @property
    def evaluation(self) -> Path:
        """Folder of ``aista evaluate``."""
        return self.model / "evaluate"

    @property
    def results(self) -> dict[str, Any]:
        """What its evaluation wrote."""
        return json.loads((self.evaluation / "results.json").read_text(encoding="utf-8"))


METHODS = "methods"  # stands for every comparable method that is found
PAIR = ("base", "ai_sta")
_RAW = {"options": {"scale": "raw"}}  # Eq. 1 to the letter; the small scale's default is text_spread
_LITERAL = ("layer_1_raw", "ai_sta_raw")
_LAYER_SETS = ("layer_0", "layers_0_5", "layer_1", "layers_1_6")
# A table or a figure -> the systems it shows, and how many backbones, from the first.
NEEDS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "table1": ((), 0),
    "table2": (PAIR, 2),
    "table3": ((*PAIR, *_LAYER_SETS, "layer_1_raw"), 1),
    "table4": ((*PAIR, METHODS, "ai_sta_raw"), 1),
    "table5": (PAIR, 2),
    "figure4": ((), 2),
    "figure5": (PAIR, 1),
    "figure6": ((*PAIR, METHODS, *_LAYER_SETS, *_LITERAL), 1),
    "figure7": (PAIR, 1),
}
EVERY_DIRECTION = ("table2", "table5")  # the rest shows the first direction alone, as in the paper


def systems(num_layers: int, methods: Iterable[str] = ()) -> dict[str, System]:
    """Return every system for a backbone of ``num_layers`` blocks.

    Args:
        num_layers: Layer sets are cut off at the last block.
        methods: Dotted names of third parties' alignment methods; each is known by its last part.

    Raises:
        ConfigError: Two systems would have one key.
    """
    found = [System("base", "base", {"method": "none"}), System("ai_sta", "AI-STA")]
    for method in dict.fromkeys([*alignment.names(), *methods]):
        if method not in ("none", "wasserstein"):  # they are `base` and `ai_sta`
            key = method.rsplit(".", 1)[-1]
            # The paper compares CTC and contrastive learning at the embedding layer (6.3); a method that is
            # not known here is given that layer too.
            changes = {"method": method, "options": {}, "layers": [0]}
            found.append(System(key, _TITLES.get(key, key), changes))
    for key, first, last in (
        ("layer_0", 0, 0),
        ("layers_0_5", 0, 5),
        ("layer_1", 1, 1),
        ("layers_1_6", 1, 6),
    ):
        layers = list(range(first, min(last, num_layers) + 1))
        title = f"Layer {first}" if first == last else f"Layer {first}-{last}"
        found.append(System(key, title, {"layers": layers}, once=True))
    found += [
        System("layer_1_raw", "Layer 1, literal cost", {"layers": [1], **_RAW}, once=True),
        System("ai_sta_raw", "AI-STA, literal cost", _RAW, once=True),
    ]
    keys = [system.name for system in found]
    if taken := {key for key in keys if keys.count(key) > 1}:
        raise ConfigError(
            "A method is known by the last part of its name, and there is such a system already.",
            got=", ".join(method for method in methods if method.rsplit(".", 1)[-1] in taken),
            expected=f"none of {', '.join(dict.fromkeys(keys))}",
            advice="Give the module another name.",
        )
    return {system.name: system for system in found}


def chosen_names(names: Sequence[str]) -> tuple[str, ...]:
    """Read names of tables and figures; ``all`` is every one.

    Raises:
        ConfigError: There is no such table or figure.
    """
    if unknown := set(names) - {*NEEDS, "all"}:
        raise ConfigError(
            f"The paper has no {', '.join(sorted(unknown))} that can be reproduced.",
            expected=f"all, {', '.join(NEEDS)}",
        )
    return tuple(NEEDS) if "all" in names else tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Scope:
    """What was asked for.

    Attributes:
        names: Tables and figures to make.
        backbones: All backbones of the scale.
        systems: Every system that can be asked for, by key.
        seeds: 1, 2, ...
        root: Folder of the experiment.
        directions: ``("",)`` where one run learns all.
        every_seed: Also train with all seeds what is otherwise trained once.
    """

    names: tuple[str, ...]
    backbones: tuple[Backbone, ...]
    systems: Mapping[str, System]
    seeds: tuple[int, ...]
    root: Path
    directions: tuple[str, ...] = ("",)
    every_seed: bool = False

    def backbones_of(self, name: str) -> tuple[Backbone, ...]:
        """Return the backbones of a table or a figure."""
        return self.backbones[: NEEDS[name][1]]

    def probed(self) -> list[Backbone]:
        """Return the backbones whose layers have to be selected."""
        return list(self.backbones[: max((NEEDS[name][1] for name in self.names), default=0)])

    def systems_of(self, name: str) -> list[System]:
        """Return the systems of a table or a figure, in the order in which they are shown."""
        ours = {*PAIR, *_LAYER_SETS, *_LITERAL}
        methods = [system for key, system in self.systems.items() if key not in ours]
        found = [methods if key == METHODS else [self.systems.get(key)] for key in NEEDS[name][0]]
        return [system for part in found for system in part if system is not None]

    def seeds_of(self, system: System) -> tuple[int, ...]:
        """Return the seeds that a system is trained with."""
        return self.seeds[:1] if system.once and not self.every_seed else self.seeds

    def runs(self) -> list[Run]:
        """Return the runs that are needed: the first seed of everything first."""
        wanted: dict[Run, None] = {}
        for seed in self.seeds:
            for name in sorted(self.names, key=list(NEEDS).index):
                for backbone in self.backbones_of(name):
                    for system in self.systems_of(name):
                        if seed in self.seeds_of(system):
                            wanted |= dict.fromkeys(self.runs_of(backbone.name, system.name, seed))
        return list(wanted)

    def runs_of(self, backbone: str, system: str, seed: int) -> list[Run]:
        """Return the runs of a system: one, or one per direction where a table shows every direction."""
        is_everywhere = system in PAIR and not {*EVERY_DIRECTION}.isdisjoint(self.names)
        ways = self.directions if is_everywhere else self.directions[:1]
        return [Run(backbone, system, seed, self.root, direction) for direction in ways]


@dataclass(frozen=True)
class Context:
    """What tables, figures and the page are made from.

    Attributes:
        folder: Folder of the experiment.
        scope: What was asked for.
        runs: Runs that are trained and evaluated.
        diverged: Runs whose training failed by ``X_RULE``.
        layers: Backbone -> ``layers.json`` of ``aista select``, where it is there.
        tests: Manifests of the test sets.
        limit: Rows that are scored from the head of each; None: all.
        training: Name of a corpus -> its manifest, where it is there (Table 1).
        features: Backbone -> folder of cached encoder outputs.
        titles: Key of a system or baseline -> what a reader sees.
    """

    folder: Path
    scope: Scope
    runs: Sequence[Run]
    diverged: Sequence[Run] = ()
    layers: Mapping[str, Path] = field(default_factory=dict)
    tests: Sequence[Path] = ()
    limit: int | None = None
    training: Mapping[str, Path] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)

    def title(self, key: str) -> str:
        """Return what a reader sees in place of a system's or a baseline's key."""
        return self.titles.get(key, key)

    def backbone(self, name: str) -> str:
        """Return what a reader sees in place of a backbone's name, which may also be a system's."""
        return next((row.title for row in self.scope.backbones if row.name == name), name)


# ---- what came out ----


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
    """The numbers of a context's runs as cells: mean and deviation over seeds, the paper's value, p.

    Args:
        context: What is there.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._results = {run: run.results for run in context.runs}
        self._kept = context.folder / _COMPARISONS
        self._comparisons: dict[str, Any] = json.loads(self._kept.read_text()) if self._kept.exists() else {}

    @cached_property
    def source(self) -> str:
        """The code of the language that the test sets speak, or of several: ``de+en``."""
        found = {row.src_lang for path in self.context.tests for row in Manifest(path)}
        return "+".join(sorted(found)) or "en"

    def languages(self, both: bool = True) -> dict[str, str]:
        """Return the title of each language's column: the paper's pair, or what other tests hold.

        Args:
            both: Where one of the pair was measured, show the other too.
        """
        names = {name for row in self._results.values() for name in row["scores"]}
        found = {name.removeprefix("bleu_") for name in names if name.startswith("bleu_")}
        any_of_pair = both and found & {"zh", "ja"}
        pair = [code for code in ("zh", "ja") if not found or any_of_pair or code in found]
        source = self.source.title()
        return {code: f"{source}-{code.capitalize()}" for code in [*pair, *sorted(found - set(pair))]}

    def seeds(self, backbone: str, system: str) -> list[int]:
        """Return the seeds of which every direction is there."""
        return [seed for seed in self.context.scope.seeds if self._runs(backbone, system, seed)]

    def shared_seeds(self, backbone: str, systems: Iterable[str]) -> list[int]:
        """Return the seeds that all of these systems have which have any."""
        found = [set(seeds) for system in systems if (seeds := self.seeds(backbone, system))]
        return sorted(set.intersection(*found)) if found else []

    def cell(
        self, backbone: str, system: str, name: str, *, paper: float | str | None = None,
        seeds: Sequence[int] | None = None, digits: int = 1,
    ) -> Cell:  # fmt: skip
        """Return a score, e.g. ``bleu_zh``, over seeds as a cell; of several directions their mean."""
        values, measured, p_values, notes = [], [], [], []
        parts: dict[str, list[float]] = {}  # of each test set
        for seed in self.context.scope.seeds if seeds is None else seeds:
            runs = self._runs(backbone, system, seed)
            found = [row["scores"].get(name) for row in map(self._results.__getitem__, runs)]
            found = [value for value in found if value is not None]
            if not found:
                continue
            values.append(statistics.fmean(found))
            measured.append(seed)
            for run in runs:
                for test, part in self._results[run]["by_set"].items():
                    if name in part["scores"]:
                        parts.setdefault(test, []).append(part["scores"][name])
            if system != "base" and name.startswith(("bleu_", "mt_bleu_")):
                for base, run in zip(self._runs(backbone, "base", seed), runs, strict=False):
                    if (p := self._compared(base, run).get(name)) is not None:
                        p_values.append(p)
        if len(parts) > 1:
            notes.append(", ".join(f"{test} {statistics.fmean(found):.1f}" for test, found in parts.items()))
        if len(p_values) > 1:
            notes.append("p by seed: " + ", ".join(f"{p:.3f}" for p in p_values))
        failed = [
            f"seed {run.seed} diverged: {why_diverged(run)}"
            for run in self.context.diverged
            if (run.backbone, run.system) == (backbone, system)
        ]
        return Cell.over(values, paper, digits, measured).model_copy(
            update={
                "p_value": statistics.median(p_values) if p_values else None,
                "note": "; ".join([*notes, *failed]),
                "mark": "" if values or not failed else "X",
            }
        )

    def baselines(self) -> dict[str, dict[str, Cell]]:
        """Return the BLEU by language of every baseline that was run: the folders of ``baselines/``."""
        home, found = self.context.folder / "baselines", dict[str, dict[str, Cell]]()
        for path in sorted(home.glob("*/**/results.json")):
            cells = found.setdefault(path.relative_to(home).parts[0], {})
            for key, value in json.loads(path.read_text())["scores"].items():
                if key.startswith("bleu_"):
                    cells[key.removeprefix("bleu_")] = Cell.over([value])
        return found

    def signatures(self, names: Iterable[str]) -> list[str]:
        """Return sacreBLEU's signatures of these scores over all runs, once each."""
        wanted = list(names)
        rows = (row["signatures"] for row in self._results.values())
        return list(dict.fromkeys(f"{n}: {row[n]}" for row in rows for n in wanted if n in row))

    def warnings(self) -> list[str]:
        """Return what evaluation warned of, with the run's name."""
        return [f"{run.name}: {text}" for run, row in self._results.items() for text in row["warnings"]]

    def _runs(self, backbone: str, system: str, seed: int) -> list[Run]:
        """Return the runs of a system with a seed; none where a direction is missing."""
        runs = self.context.scope.runs_of(backbone, system, seed)
        return runs if self._results.keys() >= set(runs) else []

    def _compared(self, base: Run, run: Run) -> dict[str, float]:
        """Return p per score; a comparison is made once and kept."""
        digest = hashlib.sha256(TEST.encode())
        for folder in (base.evaluation, run.evaluation):
            digest.update((folder / "results.json").read_bytes())
        key = digest.hexdigest()
        if key not in self._comparisons:
            found = compare(base.evaluation, run.evaluation)
            self._comparisons[key] = {name: row.p_value for name, row in found.items()}
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
