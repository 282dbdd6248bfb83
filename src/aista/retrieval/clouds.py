"""Clouds mapped so that squared Euclidean distances between them are another cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aista.ot.cost import moments, standardise, unit_length


def under_cost(
    speech: Sequence[Tensor], text: Sequence[Tensor], cost: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Map both sides so that squared Euclidean distances between them are the named cost (``aista.ot.cost``).

    Args:
        speech, text: Clouds (n_i, d). For ``standardised`` each side is measured over all of its tokens.
        cost: One of ``aista.ot.cost.COSTS``.
    """
    if cost == "cosine":
        return [unit_length(cloud) for cloud in speech], [unit_length(cloud) for cloud in text]
    if cost == "standardised":
        known = [moments(torch.cat([cloud.float() for cloud in side])) for side in (speech, text)]
        return (
            [standardise(cloud, known[0]) for cloud in speech],
            [standardise(cloud, known[1]) for cloud in text],
        )
    return list(speech), list(text)
