"""Costs between clouds: squared Euclidean (Eq. 1: C_ij = ||s_i - t_j||^2), of the states or of a map of them.

The paper's cost is the squared distance of the states themselves. The two others are squared distances as
well, of tokens that were mapped first: ``cosine`` divides each token by its length, ``standardised`` takes
each side's own mean and standard deviation out of every dimension. Neither lets a few long tokens or
dimensions decide.

Two things spoil the usual ``|s|^2 + |t|^2 - 2 s.t`` in float32: a common offset of all tokens, and the few
massive dimensions that language models grow (values in the thousands). Both are taken out first: clouds are
centred on one common point, and dimensions that stand out are differenced directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: The paper's; twice one minus the cosine; and the like of it where every dimension of a side has equal say.
COSTS = ("squared_euclidean", "cosine", "standardised")

#: A dimension is massive when its largest value exceeds this many times the median dimension's largest value.
MASSIVE = 50.0
#: More massive dimensions than this are left to the product (direct differences cost n m each).
MAX_PEELED = 16


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Products in true float32, whatever autocast and ``torch.set_float32_matmul_precision`` say."""
    precision = torch.get_float32_matmul_precision()
    with torch.autocast(device.type, enabled=False):
        if precision == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


def squared_euclidean(
    speech: Tensor, text: Tensor, speech_mask: Tensor | None = None, text_mask: Tensor | None = None
) -> Tensor:
    """Pairwise squared distances of batched clouds, float32 inside whatever autocast says.

    Args:
        speech: (B, N, d) or (N, d), any float type. text: (B, M, d) or (M, d).
        speech_mask: (B, N) bool, True = real. text_mask: (B, M). Masked entries of the result mean nothing,
            but their contents (even NaN) never reach real ones.

    Returns:
        (B, N, M) or (N, M) float32 (float64 if an input is), >= 0.

    Equation: 1. Gradient: as written (the loss does not use it). Cost: 2 N M d operations, O(N M + N d)
    memory.
    """
    if speech.dim() == 2:
        masks = [None if mask is None else mask[None] for mask in (speech_mask, text_mask)]
        return squared_euclidean(speech[None], text[None], *masks)[0]
    with full_float32(speech.device):
        dtype = torch.float64 if torch.float64 in (speech.dtype, text.dtype) else torch.float32
        x, y = speech.to(dtype), text.to(dtype)
        if speech_mask is not None:
            x = x.masked_fill(~speech_mask[..., None], 0.0)
        if text_mask is not None:
            y = y.masked_fill(~text_mask[..., None], 0.0)
        centre = _mean(y, text_mask)
        x, y = x - centre, y - centre
        if text_mask is not None:
            y = y.masked_fill(~text_mask[..., None], 0.0)
        if speech_mask is not None:
            x = x.masked_fill(~speech_mask[..., None], 0.0)
        return _distances(x, y)


def _mean(y: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return y.mean(1, keepdim=True)
    return y.sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]


def _distances(x: Tensor, y: Tensor) -> Tensor:
    peeled = massive_dimensions(x, y)
    extra = None
    if peeled.numel():
        extra = sum((x[..., k, None] - y[..., None, :, k]).square() for k in peeled.tolist())
        x, y = x.clone(), y.clone()
        x[..., peeled] = 0.0
        y[..., peeled] = 0.0
    squares = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
    cost = torch.baddbmm(squares, x, y.transpose(1, 2), alpha=-2.0).clamp_(min=0.0)
    return cost if extra is None else cost + extra


def massive_dimensions(*clouds: Tensor) -> Tensor:
    """Indices of dimensions whose largest magnitude dwarfs the median one's (at most MAX_PEELED)."""
    size = torch.stack([cloud.detach().abs().flatten(0, -2).amax(0) for cloud in clouds]).amax(0)
    chosen = torch.nonzero(size > MASSIVE * size.median()).flatten()
    if chosen.numel() > MAX_PEELED:
        chosen = size.topk(MAX_PEELED).indices
    return chosen


def position_cost(speech_mask: Tensor, text_mask: Tensor, weight: float) -> Tensor:
    """(B, N, M) penalty for leaving the diagonal: ``(weight * (i/(n-1) - j/(m-1)))^2`` over real tokens."""
    places = []
    for mask in (speech_mask, text_mask):
        index = mask.cumsum(1) - 1
        places.append(index / (mask.sum(1, keepdim=True) - 1).clamp(min=1))
    return (weight * (places[0][:, :, None] - places[1][:, None, :])).square()


def text_spread(text: Tensor, text_mask: Tensor) -> Tensor:
    """Mean squared distance of all real text tokens of a batch from their mean (a scalar, float32).

    Args:
        text: (B, M, d). text_mask: (B, M) bool.
    """
    tokens = text[text_mask].float()
    spread = (tokens - tokens.mean(0)).square().sum(1).mean()
    return spread.clamp(min=torch.finfo(torch.float32).tiny)


class Moments(NamedTuple):
    """Mean (d,) and standard deviation (d,) of one side's tokens; 1 where a dimension is constant."""

    mean: Tensor
    deviation: Tensor


def moments(tokens: Tensor) -> Moments:
    """Measure tokens (T, d), T >= 1, in float64: no massive dimension spoils another."""
    real = tokens.detach().double()
    mean, deviation = real.mean(0), real.std(0, correction=0)
    return Moments(mean, torch.where(deviation > 0, deviation, 1.0))


def unit_length(states: Tensor, mask: Tensor | None = None) -> Tensor:
    """Divide every token by its length, for the cosine cost: ||x - y||^2 = 2 - 2 cos.

    Args:
        states: (..., d). mask: (...) bool, True = real; masked tokens become zeros, so that nothing there
            reaches a gradient. A token of zeros stays one.

    Returns:
        (..., d) float32 (float64 if the states are).
    """
    return F.normalize(_real(states, mask), dim=-1)


def standardise(states: Tensor, known: Moments, mask: Tensor | None = None) -> Tensor:
    """Map each dimension to mean 0 and deviation 1 / sqrt(d): mean squared length 1, as unit vectors have.

    Args:
        states: (..., d). known: Moments of this side. They are constants: no gradient flows through them.
        mask: (...) bool; masked tokens become zeros.

    Returns:
        (..., d) float32 (float64 if the states are).
    """
    real = _real(states, mask)
    # The mean leaves in float64: where it is massive, float32 has few digits left for the rest.
    centred = (real.double() - known.mean) / (known.deviation * states.shape[-1] ** 0.5)
    return _zeros_where_masked(centred.to(real.dtype), mask)


def _real(states: Tensor, mask: Tensor | None) -> Tensor:
    return _zeros_where_masked(states if states.dtype == torch.float64 else states.float(), mask)


def _zeros_where_masked(states: Tensor, mask: Tensor | None) -> Tensor:
    return states if mask is None else states.masked_fill(~mask[..., None], 0.0)


class RunningMoments(nn.Module):
    """Moments of one side over the batches of a training run.

    The first batches are averaged over all their tokens; from then on a new batch weighs ``momentum``.

    Args:
        dim: Width d of the states. momentum: Least weight of a new batch, in (0, 1].
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("variance", torch.zeros(dim, dtype=torch.float64))

    @torch.no_grad()
    def update(self, tokens: Tensor) -> None:
        """Take a batch of tokens (T, d) in."""
        real = tokens.detach().double()
        weight = (len(real) / (self.count + len(real))).clamp(min=self.momentum)
        shift = real.mean(0) - self.mean
        spread = real.var(0, correction=0).lerp(self.variance, 1.0 - weight)
        self.variance.copy_(spread + weight * (1.0 - weight) * shift.square())
        self.mean.add_(weight * shift)
        self.count.add_(len(real))

    def current(self) -> Moments:
        """Return what is known so far."""
        deviation = self.variance.sqrt()
        return Moments(self.mean, torch.where(deviation > 0, deviation, 1.0))


class LayerMoments(nn.Module):
    """Running moments of speech and text at several layers, and the standardised states they give.

    Args:
        layers: Layer numbers. dim: Width d of the states.
    """

    def __init__(self, layers: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.sides = nn.ModuleDict(
            {f"{side}_{layer}": RunningMoments(dim) for layer in layers for side in ("speech", "text")}
        )

    def forward(self, side: str, layer: int, states: Tensor, mask: Tensor) -> Tensor:
        """Standardise one side's states (B, N, d) by its moments; in training these tokens count first."""
        running = self.sides[f"{side}_{layer}"]
        assert isinstance(running, RunningMoments)
        if self.training:
            running.update(states[mask])
        return standardise(states, running.current(), mask)
