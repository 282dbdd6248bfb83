"""What layer selection found: MRR of every layer, the threshold, the chosen set; as JSON and as Figure 4."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from aista.errors import ConfigError
from aista.files import write_whole
from aista.retrieval.scores import select_layers
from aista.selection.measures import Measured


class LayerRow(Measured):
    """Retrieval at one layer.

    Attributes:
        mrr: In ``decide`` mode the middle of [low, high].
        low, high: Certified bounds of the MRR; equal to it in ``exact`` mode.
        selected: Whether the MRR exceeds the threshold (Eq. 5).
        mrr_pessimistic: MRR when every tie counts against the right text (``exact`` mode).
        num_ties: Texts exactly as far as the right one, other than equal texts.
        pairs_touched: Transport problems looked at.
        stages: How many pairs each stage of the cascade of bounds decided (``exact`` mode).
        mrr_by_cost: MRR under every cost that was compared, by name.
        seconds: Time for this layer.
    """

    low: float
    high: float
    selected: bool
    mrr_pessimistic: float | None = None
    num_ties: int
    pairs_touched: int
    stages: dict[str, int] = {}
    mrr_by_cost: dict[str, float] = {}
    seconds: float


class LayerReport(BaseModel):
    """Layer selection of one model (paper 4.2).

    Attributes:
        model: The stage-1 model that was probed.
        num_pairs: Q, the number of speech-text pairs.
        threshold: What the MRR has to exceed.
        chance_mrr: H_Q / Q, the MRR of a random order.
        cost: Between tokens. cloud: Which positions were compared, ``span`` or ``sequence``.
        rows: One row per layer, embedding layer first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    num_pairs: int
    threshold: float
    chance_mrr: float
    cost: str = "squared_euclidean"
    cloud: str = "span"
    rows: list[LayerRow]
    settings_sha256: str = ""

    @property
    def selected(self) -> list[int]:
        """The chosen set of layers I (Eq. 5)."""
        return [self.rows[i].layer for i in select_layers(self.mrr_by_layer, self.threshold)]

    @property
    def mrr_by_layer(self) -> list[float]:
        """MRR of every layer, embedding layer first."""
        return [row.mrr for row in self.rows]

    @property
    def warnings(self) -> list[str]:
        """What a reader of the MRRs has to know, in sentences; none where there is nothing."""
        swamped = [row.layer for row in self.rows if row.swamped]
        if self.cost != "squared_euclidean" or not swamped:
            return []
        return [
            f"At layers {swamped} a few massive tokens hold most of the energy: squared Euclidean distances "
            "compare these and hardly the rest, and a low MRR there says little. Attention sinks lie inside "
            "the compared positions: let a prompt stand before the speech (template qwen_chat), or set "
            "cost=cosine or cost=standardised."
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, the chosen set spelled out."""
        values = {"selected": self.selected, **self.model_dump()}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), json.dumps(values, indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LayerReport:
        """Read a report.

        Raises:
            ConfigError: The file is missing or is no layer report.
        """
        try:
            values = json.loads(Path(path).read_text())
            values.pop("selected", None)
            return cls.model_validate(values)
        except (OSError, ValueError, AttributeError, ValidationError) as error:
            raise ConfigError(
                f"Cannot read the layer report {path}.",
                got=str(error),
                advice="Write one with `aista select`.",
            ) from None

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw MRR over layers with threshold and controls, as the paper's Figure 4 (PNG)."""
        from aista.figures.charts import retrieval

        main = {
            "title": self.cost.replace("_", " "),
            "mrr": self.mrr_by_layer,
            "low": [row.low for row in self.rows],
            "high": [row.high for row in self.rows],
            "selected": self.selected,
            "threshold": self.threshold,
            "chance": self.chance_mrr,
            "length_only": self.rows[0].length_only,
        }
        others = [
            {**main, "title": cost.replace("_", " "), "selected": [], "low": None, "high": None}
            | {"mrr": [row.mrr_by_cost[cost] for row in self.rows]}
            for cost in self.rows[0].mrr_by_cost
            if cost != self.cost
        ]
        Path(path).write_bytes(retrieval({"lines": [main, *others]}).png())
