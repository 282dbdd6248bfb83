"""Which runs a table or a figure needs: backbones, systems and seeds as data.

A system is what is trained (base, AI-STA, another method, another set of layers); a run is a system on a
backbone with a seed. Every method found in ``aista.alignment`` is a system without an edit here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aista import alignment
from aista.errors import ConfigError

# The paper compares CTC and contrastive learning at the embedding layer (6.3); a method that is not known
# here is given that layer too.
_EMBEDDING_LAYER = [0]
_NOT_SWEPT = {"none", "wasserstein"}  # they are `base` and `ai_sta`
_TITLES = {
    "ctc": "CTC",
    "contrastive": "contrastive (N-pair)",
    "distillation": "distillation (BLSP-KD's idea)",
}


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


@dataclass(frozen=True)
class Need:
    """What a table or a figure is made of.

    Attributes:
        systems: Their keys; ``methods`` stands for every comparable method that is found.
        backbones: How many of them, from the first.
    """

    systems: tuple[str, ...] = ()
    backbones: int = 1


METHODS = "methods"
_RAW = {"options": {"scale": "raw"}}  # Eq. 1 to the letter; the small scale's default is text_spread
_PAIR = ("base", "ai_sta")
_LITERAL = ("layer_1_raw", "ai_sta_raw")
_LAYER_SETS = ("layer_0", "layers_0_5", "layer_1", "layers_1_6")
NEEDS: Mapping[str, Need] = {
    "table1": Need(),
    "table2": Need(_PAIR, backbones=2),
    "table3": Need((*_PAIR, *_LAYER_SETS, "layer_1_raw")),
    "table4": Need((*_PAIR, METHODS, "ai_sta_raw")),
    "table5": Need(_PAIR, backbones=2),
    "figure4": Need(backbones=2),
    "figure5": Need(_PAIR),
    "figure6": Need((*_PAIR, METHODS, *_LAYER_SETS, *_LITERAL)),
    "figure7": Need(_PAIR),
}


@dataclass(frozen=True)
class Scope:
    """What was asked for.

    Attributes:
        names: Tables and figures to make.
        backbones: All backbones of the scale.
        systems: Every system that can be asked for, by key.
        seeds: 1, 2, ...
        directions: ``("",)`` where one run learns all.
        root: Folder of the experiment.
        every_seed: Also train with all seeds what is otherwise trained once.
    """

    names: tuple[str, ...]
    backbones: tuple[Backbone, ...]
    systems: Mapping[str, System]
    seeds: tuple[int, ...]
    root: Path
    directions: tuple[str, ...] = ("",)
    every_seed: bool = False

    def probed(self) -> list[Backbone]:
        """Return the backbones whose layers have to be selected."""
        count = max((NEEDS[name].backbones for name in self.names if name != "table1"), default=0)
        return list(self.backbones[:count])

    def systems_of(self, name: str) -> list[System]:
        """Return the systems of a table or a figure, in the order in which they are shown."""
        return [system for key in NEEDS[name].systems for system in self._named(key)]

    def runs(self) -> list[Run]:
        """Return the runs that are needed: the first seed of everything first."""
        wanted: dict[Run, None] = {}
        for seed in self.seeds:
            for name in sorted(self.names, key=list(NEEDS).index):
                for backbone in self.backbones[: NEEDS[name].backbones]:
                    for system in self.systems_of(name):
                        if seed == self.seeds[0] or self.every_seed or not system.once:
                            wanted |= dict.fromkeys(self.runs_of(backbone.name, system.name, seed))
        return list(wanted)

    def runs_of(self, backbone: str, system: str, seed: int) -> list[Run]:
        """Return the runs of a system: one, or one per direction."""
        return [Run(backbone, system, seed, self.root, direction) for direction in self.directions]

    def _named(self, key: str) -> list[System]:
        if key == METHODS:
            return [system for system in self.systems.values() if system.name in self.methods()]
        return [self.systems[key]] if key in self.systems else []

    def methods(self) -> set[str]:
        """Return the keys of the systems that are methods of their own."""
        return set(self.systems) - set(_PAIR) - set(_LAYER_SETS) - set(_LITERAL)


@dataclass(frozen=True)
class Context:
    """What tables, figures and the page are made from.

    Attributes:
        folder: Folder of the experiment.
        scope: What was asked for.
        runs: Runs that are trained and evaluated.
        diverged: Runs whose training failed by the rule of ``measured.X_RULE``.
        layers: Backbone -> ``layers.json`` of ``aista select``, where it is there.
        tests: Manifests of the test sets.
        training: Name of a corpus -> its manifest, where it is there (Table 1).
        features: Backbone -> folder of cached encoder outputs.
        titles: Key of a backbone or system -> what a reader sees.
    """

    folder: Path
    scope: Scope
    runs: Sequence[Run]
    diverged: Sequence[Run] = ()
    layers: Mapping[str, Path] = field(default_factory=dict)
    tests: Sequence[Path] = ()
    training: Mapping[str, Path] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)

    def title(self, key: str) -> str:
        """Return what a reader sees in place of a key."""
        return self.titles.get(key, key)


def systems(num_layers: int, methods: Iterable[str] = ()) -> dict[str, System]:
    """Return every system for a backbone of ``num_layers`` blocks.

    Args:
        num_layers: Layer sets are cut off at the last block.
        methods: Dotted names of third parties' alignment methods.
    """
    found = [
        System("base", "base", {"method": "none"}),
        System("ai_sta", "AI-STA"),
        *(_method(name) for name in [*alignment.names(), *methods] if name not in _NOT_SWEPT),
        _layer_set("layer_0", "Layer 0", 0, 0, num_layers),
        _layer_set("layers_0_5", "Layer 0-5", 0, 5, num_layers),
        _layer_set("layer_1", "Layer 1", 1, 1, num_layers),
        _layer_set("layers_1_6", "Layer 1-6", 1, 6, num_layers),
        System("layer_1_raw", "Layer 1, literal cost", {"layers": [1], **_RAW}, once=True),
        System("ai_sta_raw", "AI-STA, literal cost", _RAW, once=True),
    ]
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


def _method(name: str) -> System:
    """Make a system of an alignment method; a dotted name is known by its last part."""
    key = name.rsplit(".", 1)[-1]
    alignment = {"method": name, "options": {}, "layers": _EMBEDDING_LAYER}
    return System(key, _TITLES.get(key, key), alignment)


def _layer_set(key: str, title: str, first: int, last: int, num_layers: int) -> System:
    layers = list(range(first, min(last, num_layers) + 1))
    return System(key, title, {"layers": layers}, once=True)
