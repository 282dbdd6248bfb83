"""What can swamp a cost: a few tokens with nearly all the energy, a few dimensions with nearly all of it.

Language models put massive activations on a few tokens, mostly the first of a sequence, in a handful of
dimensions (Sun et al. 2024; attention sinks: Xiao et al. 2024; rogue dimensions: Timkey and van Schijndel
2021). Where such a token is among those compared, a squared Euclidean cost sees little else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from aista.retrieval import mrr

#: A token is massive when its energy |x|^2 is above this many times the median token's.
MASSIVE = 10.0
#: How many dimensions "a few" are.
FEW_DIMENSIONS = 4
#: A squared cost is swamped when at least this share of a side's tokens is massive ...
_TOKENS = 0.01
#: ... and at least this share of its energy lies in those few dimensions.
_ENERGY = 0.5


class Crowding(BaseModel):
    """One side's tokens at one layer.

    Attributes:
        massive_tokens: Share of the tokens whose energy is above ten times the median.
        top_energy: Share of all energy that the four largest dimensions hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    massive_tokens: float
    top_energy: float

    @property
    def swamps(self) -> bool:
        """Whether squared Euclidean distances between such tokens say little of the rest."""
        return self.massive_tokens >= _TOKENS and self.top_energy >= _ENERGY


def crowding(clouds: Sequence[Tensor]) -> Crowding:
    """Measure one side's clouds (n_i, d)."""
    squares = torch.cat([cloud.detach().double().square() for cloud in clouds])
    tokens, dimensions = squares.sum(1), squares.sum(0)
    few = dimensions.topk(min(FEW_DIMENSIONS, len(dimensions))).values.sum()
    return Crowding(
        massive_tokens=float((tokens > MASSIVE * tokens.median()).double().mean()),
        top_energy=float(few / dimensions.sum().clamp(min=torch.finfo(torch.float64).tiny)),
    )


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
    return mrr(1.0 + nearer + (equal - 1) / 2.0)
