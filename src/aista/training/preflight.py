"""Before a joint run: how large are speech and text, how far apart, and will the alignment swamp the rest?

The literal cost is mostly norm where speech embeddings are long and text embeddings short (LOG.md); these few
figures predict it before an hour is spent.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from aista.alignment import PairedStates
from aista.alignment.base import Alignment
from aista.data.dataset import Collator, SpeechDataset
from aista.files import write_whole
from aista.model.speech_lm import eval_mode
from aista.ot.loss import ALIKE
from aista.retrieval import chance_mrr, exact_ranks
from aista.speech_llm import SpeechLM
from aista.speech_llm.pairs import paired_batches, states_of

PAIRS = 32
SWAMPED = 1.0
REPORT = "preflight.json"


@dataclass(frozen=True)
class LayerFigures:
    """One layer before training.

    Attributes:
        layer: As in ``output_hidden_states``.
        speech_norm, text_norm: Mean |h|^2 of speech and transcript tokens.
        wasserstein: Mean transport cost of matching pairs (Eq. 1).
        text_spread: Mean squared distance of transcript tokens from their mean.
        mrr: Mean reciprocal rank among the pairs looked at (Eq. 4); its chance level is ``chance_mrr``.
    """

    layer: int
    speech_norm: float
    text_norm: float
    wasserstein: float
    text_spread: float
    mrr: float


@dataclass(frozen=True)
class Preflight:
    """What a joint run starts from.

    Attributes:
        num_pairs: Utterances looked at.
        chance_mrr: The MRR of a random order of these pairs.
        cross_entropy: Of the target tokens, per token, before the first step.
        alignment: The method's own loss, averaged as Eq. 6 does; None for a method that cannot be asked here.
        ratio: (1 - alpha) alignment / (alpha cross-entropy).
        unscaled: Whether the method compares raw distances and could be told not to.
        layers: Figures of every layer that is aligned (of the embedding layer where none is).
    """

    num_pairs: int
    chance_mrr: float
    cross_entropy: float
    alignment: float | None
    ratio: float | None
    unscaled: bool
    layers: list[LayerFigures]

    @property
    def swamped(self) -> bool:
        """Whether the alignment term starts larger than the cross-entropy."""
        return self.ratio is not None and self.ratio > SWAMPED

    def save(self, folder: Path) -> None:
        """Write ``preflight.json``."""
        write_whole(folder / REPORT, json.dumps({**asdict(self), "swamped": self.swamped}, indent=1))

    def show(self, console: Console) -> None:
        """Print a table, and a warning where the alignment starts larger than the cross-entropy."""
        title = f"Before training, {self.num_pairs} pairs (MRR by chance {self.chance_mrr:.2f})"
        table = Table("layer", "|speech|²", "|text|²", "W", "W / text spread", "MRR", title=title)
        for row in self.layers:
            figures = [f"{value:.3g}" for value in (row.speech_norm, row.text_norm, row.wasserstein)]
            is_spread = row.text_spread > ALIKE * row.text_norm  # tokens that are all alike have no spread
            spread = f"{row.wasserstein / row.text_spread:.3g}" if is_spread else "-"
            table.add_row(str(row.layer), *figures, spread, f"{row.mrr:.2f}")
        console.print(table)
        told = f"cross-entropy {self.cross_entropy:.3f}"
        if self.ratio is not None:
            told += f", alignment {self.alignment:.3g}, (1 - alpha) alignment / alpha CE = {self.ratio:.2g}"
        console.print(told)
        if self.swamped:
            cure = "--set alignment.options.scale=cosine, or " if self.unscaled else ""
            console.print(
                "[yellow]The alignment starts larger than the translation loss and will be learnt first. "
                f"To keep them in proportion: {cure}a larger alignment.alpha."
            )


def before_training(
    speech_llm: SpeechLM, dataset: SpeechDataset, objective: Alignment, alpha: float, output: Path
) -> None:
    """Measure, print and keep the figures, once per run folder.

    Nothing happens without transcripts, or while an engine that shards has yet to move the model to its GPUs.
    """
    on_cpu = speech_llm.model.device.type == "cpu"
    if (output / REPORT).exists() or (torch.cuda.is_available() and on_cpu):
        return
    found = preflight(speech_llm, dataset, objective, alpha)
    if found is not None:
        found.show(Console())
        found.save(output)


@torch.no_grad()
def preflight(
    speech_llm: SpeechLM, dataset: SpeechDataset, objective: Alignment, alpha: float
) -> Preflight | None:
    """Measure the first utterances of a dataset that have sound and transcript; nothing is changed.

    Args:
        speech_llm: Its model is restored to its training mode afterwards; no random number is drawn.
        alpha: Weight of the cross-entropy (Eq. 6).

    Returns:
        The figures, or None where no utterance has both.

    Cost: one forward of ``PAIRS`` utterances through both branches.
    """
    chosen: dict[tuple[str, float, int | None], int] = {}  # the first row of every clip
    for index, row in enumerate(dataset.utterances()):
        if row.audio and row.text and row.task in ("st", "asr"):
            chosen.setdefault((row.audio, row.offset, row.channel), index)
        if len(chosen) == PAIRS:
            break
    if not chosen:
        return None
    pairs = dataset.subset(list(chosen.values()))
    items, texts = [pairs[i] for i in range(len(pairs))], [row.text or "" for row in pairs.utterances()]
    layers = tuple(objective.layers) or (0,)
    with eval_mode(speech_llm.model):
        speech, text = states_of(speech_llm, paired_batches(speech_llm.batcher, items), layers)
        batch = Collator(speech_llm.batcher)(items)["speech"]
        loss: Any = speech_llm.predict(batch.to(speech_llm.model.device)).loss
    cross_entropy, value = float(loss), _own_loss(objective, speech, text)
    count = len(speech[layers[0]])
    return Preflight(
        num_pairs=count,
        chance_mrr=chance_mrr(count, texts),
        cross_entropy=cross_entropy,
        alignment=value,
        ratio=None if value is None else (1 - alpha) * value / max(alpha * cross_entropy, 1e-12),
        unscaled=getattr(getattr(objective, "distance", None), "scale", None) in ("raw", "per_dimension")
        and not objective.state_dict(),
        layers=[_figures(layer, speech[layer], text[layer], texts) for layer in layers],
    )


def _own_loss(
    objective: Alignment, speech: dict[int, list[Tensor]], text: dict[int, list[Tensor]]
) -> float | None:
    """Return the mean of a method's losses on these states, None for one with a state of its own."""
    if not objective.layers or objective.needs_logits or objective.state_dict():
        return None

    def padded(side: dict[int, list[Tensor]]) -> tuple[dict[int, Tensor], Tensor]:
        lengths = torch.tensor([len(states) for states in next(iter(side.values()))])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        pad = torch.nn.utils.rnn.pad_sequence
        return {layer: pad(states, batch_first=True) for layer, states in side.items()}, mask

    (spoken, spoken_mask), (written, written_mask) = padded(speech), padded(text)
    states = PairedStates(
        speech=spoken,
        speech_mask=spoken_mask,
        text=written,
        text_mask=written_mask,
        transcript_ids=torch.arange(written_mask.numel()).view_as(written_mask),
    )
    parts = objective(states)
    return float(torch.stack([value.float() for value in parts.values()]).mean()) if parts else None


def _figures(layer: int, speech: list[Tensor], text: list[Tensor], texts: list[str]) -> LayerFigures:
    tokens, words = torch.cat(speech), torch.cat(text)
    ranking = exact_ranks(speech, text, texts=texts)
    return LayerFigures(
        layer=layer,
        speech_norm=float(tokens.square().sum(1).mean()),
        text_norm=float(words.square().sum(1).mean()),
        wasserstein=float(ranking.gold.mean()),
        text_spread=float((words - words.mean(0)).square().sum(1).mean()),
        mrr=ranking.mrr,
    )
