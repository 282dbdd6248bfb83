"""The first two bounds of ``ot.bounds`` for a whole tile of products at once, on whatever device it lies.

On a GPU they keep most pairs from ever crossing to the CPU; the other stages need the compiled solver. The
sums run in float64 and maxima are exact, so no rounding enters that is not already in the products.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_ids(lengths: Tensor) -> Tensor:
    """(sum of lengths,) the segment of every element."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def _greatest(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """(count, columns) maximum of the rows of each segment."""
    empty = values.new_full((count, values.shape[1]), -torch.inf)
    return empty.scatter_reduce_(0, owner[:, None].expand_as(values), values, "amax")


def _mean(values: Tensor, owner: Tensor, lengths: Tensor) -> Tensor:
    """(segments, columns) float64 mean of the rows of each segment."""
    total = values.new_zeros(len(lengths), values.shape[1], dtype=torch.float64)
    return total.index_add_(0, owner, values.double()) / lengths[:, None]


def product_bounds(products: Tensor, text_lengths: Tensor, speech_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Upper bounds of max_Z <Z, G> for every pair of a tile.

    Args:
        products: (text tokens, speech tokens) float32 G, items one after another on both sides.
        text_lengths: (texts,) int64. speech_lengths: (items,) int64.

    Returns:
        Two (items, texts) float64: the relaxed bound (every token goes to its nearest, the better side) and
        the dual bound (u_i = max_j G_ij of text tokens, v_j = max_i G_ij - u_i of speech tokens).

    Cost: a few passes over the products; memory of two more tiles.
    """
    text, speech = segment_ids(text_lengths), segment_ids(speech_lengths)
    best_speech = _greatest(products.T, speech, len(speech_lengths)).T  # (text tokens, items)
    rows = _mean(best_speech, text, text_lengths)
    cols = _mean(_greatest(products, text, len(text_lengths)).T, speech, speech_lengths)
    rest = _greatest(products - best_speech[:, speech], text, len(text_lengths))  # (texts, speech tokens)
    dual = rows.T + _mean(rest.T, speech, speech_lengths)
    return torch.minimum(rows.T, cols), dual
