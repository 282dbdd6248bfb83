"""One side of a retrieval problem: centred tokens on demand, and what is known of every item (Eq. 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aista.errors import TransportError
from aista.ot.loss import moments, standardise, unit_length

#: Unit roundoff of float32 and float64.
ROUND32, ROUND64 = 2.0**-24, 2.0**-53
#: Norms that were computed in float32 are raised by this factor before they enter a bound.
RAISED = 1.001
#: Statistics are taken of pieces this many times smaller than a block: they are copied to float64.
MEASURED = 4
#: Text rows are multiplied once each when at most this fraction of them is distinct (as at the embedding
#: layer).
DISTINCT = 0.6


def check_pairs(
    speech: Sequence[Tensor], text: Sequence[Tensor], queries: Sequence[int] | None = None
) -> None:
    """Refuse what cannot be compared: unequal counts, empty clouds, other dimensions, NaN.

    Args:
        queries: Which speech items are looked at; None: all.

    Raises:
        TransportError: Naming the item.
    """
    if len(speech) != len(text) or not len(speech):
        raise TransportError(
            "speech and text must come in pairs, at least one", got=f"{len(speech)} and {len(text)} items"
        )
    chosen = range(len(speech)) if queries is None else queries
    if not len(chosen) or min(chosen) < 0 or max(chosen) >= len(text):
        raise TransportError(
            "queries must name items", got=list(chosen)[:9], expected=f"0 to {len(text) - 1}"
        )
    dims = set()
    for name, clouds, items in (("speech", speech, chosen), ("text", text, range(len(text)))):
        for i in items:
            cloud = clouds[i]
            if cloud.dim() != 2 or 0 in cloud.shape:
                raise TransportError(
                    f"{name} item {i} must be (tokens, dimension) with at least one token",
                    got=f"shape {tuple(cloud.shape)}",
                    advice="leave items without speech tokens or transcript out",
                )
            if not all(torch.isfinite(end) for end in torch.aminmax(cloud)):
                raise TransportError(
                    f"{name} item {i} holds NaN or infinity",
                    advice="extract hidden states in float32 or bfloat16, not float16",
                )
            dims.add(cloud.shape[1])
    if len(dims) > 1:
        raise TransportError("all items must have one dimension", got=sorted(dims))


def blocks(
    items: NDArray[np.int64], lengths: NDArray[np.int64], block_size: int
) -> Iterator[NDArray[np.int64]]:
    """Cut a list of items into runs of about ``block_size`` tokens."""
    edges = np.searchsorted(
        np.cumsum(lengths[items]), np.arange(block_size, lengths[items].sum(), block_size)
    )
    for part in np.split(items, np.unique(edges)):
        if len(part):
            yield part


class Side:
    """What is known of every item of one side; the states themselves stay where they are.

    The tokens x that enter products are float32: x = fl(s - offset), with an offset for each item (about the
    mean of its tokens, so that x is small) or, where ``own_centre`` is False, the centre.

    Attributes:
        lengths: (K,) tokens of each item.
        offsets: (K or 1, d) float32. shifts: (K or 1, d) float64 offset less the centre.
        means: (K, d) float64 mean of x + shift.
        power: (K,) E|x + shift|^2. size: rms|x|. largest: max|x|. All float64; the last two never too small.
        moved: (K,) bound on the rms distance by which rounding moved the tokens.
    """

    def __init__(self, clouds: Sequence[Tensor], centre: Tensor, own_centre: bool, block_size: int) -> None:
        self.clouds, self.centre, self.own_centre = clouds, centre, own_centre
        count, dim = len(clouds), clouds[0].shape[1]
        self.lengths = np.array([len(cloud) for cloud in clouds], dtype=np.int64)
        self.offsets = centre[None]
        if own_centre:
            self.offsets = torch.stack([cloud.detach().float().mean(0) for cloud in clouds])
        self.shifts = self.offsets.double() - centre.double()
        self.means = torch.empty(count, dim, dtype=torch.float64, device=centre.device)
        self.power, self.size, self.largest, self.moved = np.empty((4, count))
        for items in blocks(np.arange(count), self.lengths, max(1, block_size // MEASURED)):
            self._measure(items)

    def _measure(self, items: NDArray[np.int64]) -> None:
        place = slice(int(items[0]), int(items[-1]) + 1)
        owner = self._owners(items) - place.start
        average = torch.zeros(len(items), len(owner), dtype=torch.float64, device=owner.device)
        average[owner, torch.arange(len(owner), device=owner.device)] = 1.0
        average /= average.sum(1, keepdim=True)
        x = self.tokens(items).double()
        norms = torch.linalg.vector_norm(x, dim=1)
        means, power = average @ x, average @ norms.square()
        size = moved = power.sqrt()
        if any(self.clouds[i].dtype == torch.float64 for i in items):  # rounded once more, to float32
            states = torch.cat([self.clouds[i].detach().double() for i in items])
            moved = moved + (average @ torch.linalg.vector_norm(states, dim=1).square()).sqrt()
        shift = self.shifts[place if self.own_centre else slice(0, 1)]
        self.means[place] = means + shift
        power = power + 2.0 * (means * shift).sum(1) + shift.square().sum(1)
        largest = torch.zeros_like(size).scatter_reduce_(0, owner, norms, "amax")
        known = torch.stack([power, size * RAISED, largest * RAISED, moved * (RAISED * ROUND32)])
        self.power[place], self.size[place], self.largest[place], self.moved[place] = known.cpu().numpy()

    def _owners(self, items: NDArray[np.int64]) -> Tensor:
        """The item of every token."""
        return torch.from_numpy(np.repeat(items, self.lengths[items])).to(self.centre.device)

    def tokens(self, items: NDArray[np.int64]) -> Tensor:
        """(sum of lengths, d) float32 tokens of some items, as they enter products."""
        if self.centre.device.type != "cpu":
            x = torch.cat([self.clouds[i].detach().float() for i in items])
            return x.sub_(self.offsets[self._owners(items)] if self.own_centre else self.offsets)
        x = torch.empty(int(self.lengths[items].sum()), self.offsets.shape[1])
        for part, i in zip(x.split(self.lengths[items].tolist()), items.tolist(), strict=True):
            torch.sub(self.clouds[i].detach().float(), self.offsets[i if self.own_centre else 0], out=part)
        return x


def distinct_rows(side: Side) -> tuple[list[Tensor], Tensor | None]:
    """Token index of each text into its distinct centred rows, or ([], None) when few rows repeat."""
    total, limit = int(side.lengths.sum()), int(DISTINCT * side.lengths.sum())
    seen: dict[bytes, int] = {}
    index, rows, passed = [], [], 0
    for cloud in side.clouds:
        host = cloud.detach().float().cpu().numpy()
        names = [blake2b(row.tobytes(), digest_size=16).digest() for row in host]
        for k, name in enumerate(names):
            if name not in seen:
                seen[name] = len(seen)
                rows.append(cloud.detach()[k])
        index.append(torch.tensor([seen[name] for name in names], device=side.centre.device))
        passed += len(names)
        if len(seen) > limit or (passed > 0.05 * total + 200 and len(seen) > 0.98 * passed):
            return [], None
    return index, torch.stack(rows).float() - side.centre


def under_cost(
    speech: Sequence[Tensor], text: Sequence[Tensor], cost: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Map both sides so that squared Euclidean distances between them are the named cost.

    Args:
        speech, text: Clouds (n_i, d). For ``standardised`` each side is measured over all of its tokens.
        cost: One of ``aista.ot.loss.COSTS``.
    """
    mapped = []
    for side in (speech, text):
        if cost == "standardised":
            known = moments(torch.cat([cloud.float() for cloud in side]))
            mapped.append([standardise(cloud, known) for cloud in side])
        else:
            mapped.append([unit_length(cloud) if cost == "cosine" else cloud for cloud in side])
    return mapped[0], mapped[1]
