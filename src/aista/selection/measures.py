"""What is measured at one layer of a speech LLM, under one cost: retrieval (Eq. 3-4), and what can spoil it.

Language models put massive activations on a few tokens, mostly the first of a sequence, in a handful of
dimensions (Sun et al. 2024; attention sinks: Xiao et al. 2024; rogue dimensions: Timkey and van Schijndel
2021). Where such a token is among those compared, a squared Euclidean cost sees little else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F

from aista import retrieval
from aista.retrieval.tokens import under_cost
from aista.selection.hidden_states import LayerStates

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
        chance: H_Q / Q, the MRR of a random order.
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
        massive, energy = (
            (self.massive_speech, self.massive_text),
            (self.energy_top_dims_speech, self.energy_top_dims_text),
        )
        return any(m >= _TOKENS and e >= _ENERGY for m, e in zip(massive, energy, strict=True))


def about_layer(states: LayerStates) -> dict[str, Any]:
    """Return the fields of ``Measured`` that do not depend on a cost."""
    speech, text = as_clouds(states)
    found: dict[str, Any] = {"layer": states.layer, "depth": states.depth}
    found["length_only"] = length_only_mrr(speech, text)
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
        texts: Their transcripts. Pairs of equal transcript count as right for one another.
        cost: One of ``aista.ot.loss.COSTS``.
    """
    speech, text = under_cost(*as_clouds(states), cost)
    ranking = retrieval.exact_ranks(speech, text, texts=texts)
    return {
        "cost": cost,
        "mrr": ranking.mrr,
        "mrr_text_to_speech": retrieval.exact_ranks(text, speech, texts=texts).mrr,
        "chance": ranking.chance,
        "shuffled": retrieval.control_ranks(speech, text).mrr,
        "mean_distance": float(ranking.gold.mean()),
        "num_pairs": len(texts),
    }


def as_clouds(states: LayerStates) -> tuple[list[Tensor], list[Tensor]]:
    """Return both sides as tensors that share the arrays' memory."""
    return [torch.from_numpy(x) for x in states.speech], [torch.from_numpy(x) for x in states.text]


def length_only_mrr(speech: Sequence[Tensor], text: Sequence[Tensor]) -> float:
    """Return the MRR of a retriever that knows nothing but how many tokens each cloud has.

    It guesses the text's length from the speech's by least squares over these very pairs, and ranks texts by
    how far they are from the guess; texts of equal length share their mean rank.
    """
    spoken, written = (np.array([len(cloud) for cloud in side], dtype=np.float64) for side in (speech, text))
    design = np.stack([spoken, np.ones_like(spoken)], 1)
    guess = design @ np.linalg.lstsq(design, written, rcond=None)[0]
    distance = np.abs(guess[:, None] - written[None])
    own = np.diag(distance)[:, None]
    nearer, equal = (distance < own - 1e-9).sum(1), (np.abs(distance - own) <= 1e-9).sum(1)
    return retrieval.mrr(1.0 + nearer + (equal - 1) / 2.0)
