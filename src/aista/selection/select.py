"""Stage 2 (paper 4.2): at which layers does speech retrieve its own transcript?"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aista import processes, retrieval
from aista.config import SelectSettings
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, Utterance
from aista.errors import ManifestError
from aista.model.feature_cache import cached_features
from aista.ot.loss import COSTS
from aista.retrieval.tokens import under_cost
from aista.run_folder import claim, inputs_of
from aista.selection.hidden_states import Extraction, LayerStates
from aista.selection.measures import about_layer, as_clouds
from aista.selection.report import LayerReport, LayerRow
from aista.speech_llm import SpeechLM

REPORT = "layers.json"


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
    speech_llm = _load(settings)
    store = None
    if settings.features:
        store = cached_features(speech_llm.model, speech_llm.processor, settings.data, settings.features)
    dataset = SpeechDataset([Manifest(path) for path in settings.data], features=store)
    drawn = draw_pairs(dataset.utterances(), settings.num_pairs, settings.seed, _limits(dataset, settings))
    pairs = dataset.subset(drawn)
    extraction = Extraction(speech_llm, pairs, output / "states", settings.cloud)
    failed = extraction.run(settings.batch_size)
    texts = [row.text or "" for pair, row in enumerate(pairs.utterances()) if pair not in failed]
    mine = range(processes.rank(), speech_llm.num_layers + 1, processes.count())
    report = rank_layers(extraction.layers(mine, settings.cloud), texts, settings, name=settings.model)
    return processes.by_main(lambda: _finish(output, report))


def _finish(output: Path, report: LayerReport) -> LayerReport:
    """Write what was found, the report last, and drop the hidden states."""
    report.plot(output / "layers.png")
    report.save(output / REPORT)
    shutil.rmtree(output / "states")
    return report


def _load(settings: SelectSettings) -> SpeechLM:
    """Load a model onto this process's device."""
    place = {"": processes.device()} if torch.cuda.is_available() else None
    return SpeechLM.load(settings.model, dtype=settings.dtype, device_map=place)


def _limits(dataset: SpeechDataset, settings: SelectSettings) -> Sequence[bool] | None:
    """Say of each row whether it is short enough, where there is a limit."""
    return None if settings.max_seconds is None else (dataset.lengths <= settings.max_seconds).tolist()


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
    chance = retrieval.chance_mrr(len(texts))
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
    speech, text = as_clouds(states)
    measure = _decided if settings.mode == "decide" else _exact
    about = {
        **about_layer(states),
        "cost": settings.cost,
        "cloud": settings.cloud,
        "prompt": "own",
        "chance": retrieval.chance_mrr(len(texts)),
        "num_pairs": len(texts),
    }
    figures = measure(*under_cost(speech, text, settings.cost), texts, threshold)
    if settings.mode == "exact" and settings.compare_costs:
        others = {
            cost: retrieval.exact_ranks(*under_cost(speech, text, cost), texts=texts).mrr
            for cost in COSTS
            if cost != settings.cost
        }
        figures["mrr_by_cost"] = {settings.cost: figures["mrr"], **others}
    return LayerRow(seconds=time.perf_counter() - start, **figures, **about)


def _exact(
    speech: list[Tensor], text: list[Tensor], texts: Sequence[str], threshold: float
) -> dict[str, Any]:
    """Rank all pairs; the control gives every clip a wrong text of like length."""
    ranking = retrieval.exact_ranks(speech, text, texts=texts)
    control = retrieval.control_ranks(speech, text)
    return {
        "mrr": ranking.mrr,
        "low": ranking.mrr,
        "high": ranking.mrr,
        "selected": ranking.mrr > threshold,
        "mean_distance": float(ranking.gold.mean()),
        "shuffled": control.mrr,
        "mrr_pessimistic": ranking.mrr_pessimistic,
        "num_ties": ranking.num_ties,
        "stages": ranking.stages,
        "pairs_touched": len(texts) ** 2,
    }


def _decided(
    speech: list[Tensor], text: list[Tensor], texts: Sequence[str], threshold: float
) -> dict[str, Any]:
    """Rank as few pairs as the question "MRR above the threshold?" needs."""
    decision = retrieval.decide_mrr(speech, text, threshold, texts=texts)
    return {
        "mrr": (decision.low + decision.high) / 2,
        "low": decision.low,
        "high": decision.high,
        "selected": decision.selected,
        "mean_distance": float(retrieval.pair_distances(speech, text).mean()),
        "num_ties": 0,
        "pairs_touched": decision.pairs_touched,
    }
