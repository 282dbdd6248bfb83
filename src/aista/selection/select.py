"""Stage 2 (paper 4.2): at which layers does speech retrieve its own transcript? (Eq. 3-5, Figure 4)

Language models put massive activations on a few tokens, mostly the first of a sequence, in a handful of
dimensions (Sun et al. 2024; attention sinks: Xiao et al. 2024; rogue dimensions: Timkey and van Schijndel
2021). Where such a token is among those compared, a squared Euclidean cost sees little else: the report
counts them and warns.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from torch.nn import functional as F

from aista import processes, retrieval
from aista.config import SelectSettings
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, Utterance
from aista.errors import ConfigError, ManifestError
from aista.files import write_whole
from aista.model.feature_cache import cached_features
from aista.ot.loss import COSTS
from aista.retrieval.tokens import under_cost
from aista.run_folder import claim, inputs_of
from aista.selection.hidden_states import Extraction, LayerStates
from aista.speech_llm import SpeechLM

REPORT = "layers.json"
#: At least this share of the pairs drawn must be usable.
LEAST_USABLE = 0.9
#: A token is massive when its energy |x|^2 is above this many times the median token's.
MASSIVE = 10.0
#: How many dimensions "a few" are.
FEW_DIMENSIONS = 4
#: A squared cost is swamped when at least this share of a side's tokens is massive ...
_TOKENS = 0.01
#: ... and at least this share of its energy lies in those few dimensions.
_ENERGY = 0.5


class Measured(BaseModel):
    """One layer of one model, seen by one cost.

    Attributes:
        layer: 0 is the embedding layer (for speech: what enters block 1); the last lies after the final norm.
        depth: The layer's number divided by the last layer's.
        cost: Between tokens: ``squared_euclidean`` (the paper's), ``cosine``, or ``standardised``.
        cloud: Positions compared: ``span``, or ``sequence``, the prompt before the span included.
        prompt: What stands before the span: ``own``, the model's chat template, or the text that was given.
        mrr: Mean reciprocal rank of the right transcript for a clip (Eq. 4).
        mrr_text_to_speech: The same for the right clip of a transcript.
        chance: The MRR of a random order: H_Q / Q; more where transcripts are equal (``chance_mrr``).
        shuffled: MRR when every clip is given a wrong transcript of like length.
        length_only: MRR of a retriever that knows only how many tokens each side has.
        mean_distance: Mean Wasserstein distance (Eq. 1) of the matching pairs under this cost.
        norm_speech, norm_text: Mean length of the tokens' states.
        massive_speech, massive_text: Share of the tokens whose energy is above ten times the median.
        energy_top_dims_speech, energy_top_dims_text: Share of all energy in the four largest dimensions.
        cosine_of_means: Cosine of the angle between the mean state of speech and that of text.
        num_pairs: Q.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int
    depth: float
    cost: str
    cloud: str
    prompt: str
    mrr: float
    mrr_text_to_speech: float | None = None
    chance: float
    shuffled: float | None = None
    length_only: float
    mean_distance: float
    norm_speech: float
    norm_text: float
    massive_speech: float
    massive_text: float
    energy_top_dims_speech: float
    energy_top_dims_text: float
    cosine_of_means: float
    num_pairs: int

    @property
    def swamped(self) -> bool:
        """Whether squared Euclidean distances at this layer are those of a few massive tokens."""
        speech = self.massive_speech >= _TOKENS and self.energy_top_dims_speech >= _ENERGY
        return speech or (self.massive_text >= _TOKENS and self.energy_top_dims_text >= _ENERGY)


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
        chance_mrr: The MRR of a random order.
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
        return [self.rows[i].layer for i in retrieval.select_layers(self.mrr_by_layer, self.threshold)]

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
        from aista.figures import charts

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
        Path(path).write_bytes(charts.retrieval({"lines": [main, *others]}).png())


def select(settings: SelectSettings) -> LayerReport:
    """Probe a stage-1 model and write ``layers.json`` and ``layers.png`` into the output folder.

    Running it again returns the finished report; hidden states that were extracted before are used again.
    Under a launcher the processes share the pairs and then the layers; the report is that of one process.

    Raises:
        ManifestError: The manifests hold fewer usable pairs than asked for.
        ConfigError: The output folder holds another selection.
    """
    output = Path(settings.output)
    with claim(output, settings, lambda: inputs_of(settings), result=REPORT) as done:
        return LayerReport.load(output / REPORT) if done else _select(settings, output)


def _select(settings: SelectSettings, output: Path) -> LayerReport:
    place = {"": processes.device()} if torch.cuda.is_available() else None
    speech_llm = SpeechLM.load(settings.model, dtype=settings.dtype, device_map=place)
    longest = min(settings.max_seconds or math.inf, speech_llm.longest_seconds)  # others are not drawn
    store = None
    if settings.features:
        store = cached_features(
            speech_llm.model, speech_llm.processor, settings.data, settings.features,
            max_seconds=longest, too_long="skip",
        )  # fmt: skip
    dataset = SpeechDataset([Manifest(path) for path in settings.data], features=store)
    short = (dataset.lengths <= longest).tolist()
    drawn = draw_pairs(dataset.utterances(), settings.num_pairs, settings.seed, short)
    pairs = dataset.subset(drawn)
    states = output / "states" / hashlib.sha256(repr(drawn).encode()).hexdigest()[:12]  # of these pairs alone
    extraction = Extraction(speech_llm, pairs, states, settings.cloud)
    failed = extraction.run(settings.batch_size)
    texts = [row.text or "" for pair, row in enumerate(pairs.utterances()) if pair not in failed]
    if len(texts) < max(2, LEAST_USABLE * len(pairs)):
        raise ManifestError(
            "Too many pairs cannot be used: layers would be chosen by the few that are left.",
            got=f"{len(failed)} of {len(pairs)}, e.g. {next(iter(failed.values()))}",
            expected=f"at most {1 - LEAST_USABLE:.0%}",
            advice="Mend them (`aista data check --decode`); the same command tries them again.",
        )
    mine = range(processes.rank(), speech_llm.num_layers + 1, processes.count())
    report = rank_layers(extraction.layers(mine, settings.cloud), texts, settings, name=settings.model)

    def finish() -> LayerReport:
        report.plot(output / "layers.png")
        report.save(output / REPORT)  # last: with it the selection is finished
        shutil.rmtree(output / "states")
        return report

    return processes.by_main(finish)


def draw_pairs(
    utterances: Iterable[Utterance], count: int, seed: int, usable: Sequence[bool] | None = None
) -> list[int]:
    """Draw ``count`` of the ``clips_with_text``; returns their positions, in order of appearance.

    Raises:
        ManifestError: There are not enough.
    """
    found = clips_with_text(utterances, usable)
    if len(found) < count:
        raise ManifestError(
            "Not enough speech-text pairs for layer selection.",
            got=f"{len(found)} different clips with a transcript",
            expected=f"num_pairs = {count}",
            advice="Add manifests, or lower num_pairs (and set threshold_times_chance instead of threshold).",
        )
    return sorted(random.Random(seed).sample(found, count))


def clips_with_text(utterances: Iterable[Utterance], usable: Sequence[bool] | None = None) -> list[int]:
    """Return the positions of rows with speech and transcript; a clip that stands in several counts once.

    Args:
        usable: Of each row, whether it may be taken; None: all.
    """
    first: dict[tuple[str | None, float, int | None], int] = {}
    for index, row in enumerate(utterances):
        if row.audio is not None and row.text and row.task != "aac" and (usable is None or usable[index]):
            first.setdefault((row.audio, row.offset, row.channel), index)
    return sorted(first.values())


def rank_layers(
    layers: Iterable[LayerStates], texts: Sequence[str], settings: SelectSettings, name: str
) -> LayerReport:
    """Rank every layer's pairs by Wasserstein distance (Eq. 3-5).

    Args:
        layers: This process's share; the report holds the layers of all processes.
    """
    chance = retrieval.chance_mrr(len(texts), texts)
    multiple = settings.threshold_times_chance
    threshold = settings.threshold if multiple is None else multiple * chance
    shares = processes.gather([_rank_layer(states, texts, threshold, settings) for states in layers])
    rows = sorted((row for share in shares for row in share), key=lambda row: row.layer)
    return LayerReport(
        model=name,
        num_pairs=len(texts),
        threshold=threshold,
        chance_mrr=chance,
        cost=settings.cost,
        cloud=settings.cloud,
        rows=rows,
        settings_sha256=settings.sha256(),
    )


def _rank_layer(
    states: LayerStates, texts: Sequence[str], threshold: float, settings: SelectSettings
) -> LayerRow:
    start = time.perf_counter()
    clouds = as_clouds(states)
    speech, text = under_cost(*clouds, settings.cost)
    figures: dict[str, Any] = {
        **about_layer(states, texts), "cost": settings.cost, "cloud": settings.cloud, "prompt": "own",
        "chance": retrieval.chance_mrr(len(texts), texts), "num_pairs": len(texts),
    }  # fmt: skip
    if settings.mode == "decide":  # rank as few pairs as the question "MRR above the threshold?" needs
        decision = retrieval.decide_mrr(speech, text, threshold, texts=texts)
        figures |= {
            "mrr": (decision.low + decision.high) / 2, "low": decision.low, "high": decision.high,
            "selected": decision.selected, "num_ties": 0, "pairs_touched": decision.pairs_touched,
            "mean_distance": float(retrieval.pair_distances(speech, text).mean()),
        }  # fmt: skip
    else:
        ranking = retrieval.exact_ranks(speech, text, texts=texts)
        figures |= {
            "mrr": ranking.mrr, "low": ranking.mrr, "high": ranking.mrr, "selected": ranking.mrr > threshold,
            "mrr_pessimistic": ranking.mrr_pessimistic, "num_ties": ranking.num_ties,
            "shuffled": retrieval.control_ranks(speech, text, texts=texts).mrr,
            "mean_distance": float(ranking.gold.mean()),
            "stages": ranking.stages, "pairs_touched": len(texts) ** 2,
        }  # fmt: skip
        if settings.compare_costs:
            others = {
                cost: retrieval.exact_ranks(*under_cost(*clouds, cost), texts=texts).mrr
                for cost in COSTS
                if cost != settings.cost
            }
            figures["mrr_by_cost"] = {settings.cost: ranking.mrr, **others}
    return LayerRow(seconds=time.perf_counter() - start, **figures)


def about_layer(states: LayerStates, texts: Sequence[str]) -> dict[str, Any]:
    """Return the fields of ``Measured`` that do not depend on a cost; arguments as of :func:`retrieved`."""
    speech, text = as_clouds(states)
    found: dict[str, Any] = {"layer": states.layer, "depth": states.depth}
    found["length_only"] = length_only_mrr(speech, text, texts)
    sums = {}
    for side, clouds in (("speech", speech), ("text", text)):
        tokens: list[Tensor] = []
        total = dimensions = torch.zeros(clouds[0].shape[1], dtype=torch.float64)
        for cloud in clouds:
            squares = (exact := cloud.double()).square()
            tokens.append(squares.sum(1))
            dimensions, total = dimensions + squares.sum(0), total + exact.sum(0)
        energy = torch.cat(tokens)
        few = dimensions.topk(min(FEW_DIMENSIONS, len(dimensions))).values.sum()
        found[f"norm_{side}"] = float(energy.sqrt().mean())
        found[f"massive_{side}"] = float((energy > MASSIVE * energy.median()).double().mean())
        tiny = torch.finfo(torch.float64).tiny
        found[f"energy_top_dims_{side}"] = float(few / dimensions.sum().clamp(min=tiny))
        sums[side] = total
    found["cosine_of_means"] = float(F.cosine_similarity(sums["speech"], sums["text"], dim=0))
    return found


def retrieved(states: LayerStates, texts: Sequence[str], cost: str) -> dict[str, Any]:
    """Return the fields of ``Measured`` that depend on the cost.

    Args:
        states: Of Q pairs.
        texts: Their transcripts. Pairs of equal transcript are no rivals of one another.
        cost: One of ``aista.ot.loss.COSTS``.
    """
    speech, text = under_cost(*as_clouds(states), cost)
    ranking = retrieval.exact_ranks(speech, text, texts=texts)
    return {
        "cost": cost,
        "mrr": ranking.mrr,
        "mrr_text_to_speech": retrieval.exact_ranks(text, speech, texts=texts).mrr,
        "chance": ranking.chance,
        "shuffled": retrieval.control_ranks(speech, text, texts=texts).mrr,
        "mean_distance": float(ranking.gold.mean()),
        "num_pairs": len(texts),
    }


def as_clouds(states: LayerStates) -> tuple[list[Tensor], list[Tensor]]:
    """Return both sides as tensors that share the arrays' memory."""
    return [torch.from_numpy(x) for x in states.speech], [torch.from_numpy(x) for x in states.text]


def length_only_mrr(speech: Sequence[Tensor], text: Sequence[Tensor], texts: Sequence[str]) -> float:
    """Return the MRR of a retriever that knows nothing but how many tokens each cloud has.

    It guesses the text's length from the speech's by least squares over these very pairs, and ranks texts by
    how far they are from the guess; texts of equal length share their mean rank.
    """
    spoken, written = (np.array([len(cloud) for cloud in side], dtype=np.float64) for side in (speech, text))
    design = np.stack([spoken, np.ones_like(spoken)], 1)
    guess = design @ np.linalg.lstsq(design, written, rcond=None)[0]
    distance = np.abs(guess[:, None] - written[None])
    own = np.diag(distance)[:, None]
    named = np.unique(list(texts), return_inverse=True)[1]
    distance = np.where(named[:, None] == named, np.inf, distance)  # a text is no rival of its equal
    nearer, equal = (distance < own - 1e-9).sum(1), (np.abs(distance - own) <= 1e-9).sum(1)
    return retrieval.mrr(1.0 + nearer + equal / 2.0)
