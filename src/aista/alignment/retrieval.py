"""Retrieval as a loss: in a batch, speech is to find its own transcript, and the transcript its speech."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aista.alignment import PairedStates, Sizes
from aista.alignment.base import Alignment, LayerMoments, require_positive
from aista.alignment.contrastive import masked_mean, same_transcript
from aista.errors import ConfigError, TransportError
from aista.ot.exact import solve_flat
from aista.ot.loss import COSTS, refuse_nonfinite, squared_euclidean, unit_length

SIMILARITIES = ("wasserstein", "maxsim", "mean")


class Method(Alignment):
    """InfoNCE over the transport distances of all pairs of a batch, in both directions, at every layer.

    It trains what layer selection measures: with W_ij the distance of speech i and transcript j, and
    l_ij = -W_ij / temperature, a pair's loss is the mean of -log softmax_j(l_ij) and -log softmax_j(l_ji) at
    j = i. It cannot be lowered by making states short.

    Args:
        layers: Layers to align.
        sizes: Of the backbone; needed for ``cost="standardised"`` alone.
        temperature: Divides the similarities; above 0.
        similarity: ``wasserstein``: minus the exact distance; or cheaper: ``maxsim``: each transcript token's
            best cosine among the speech tokens, averaged; ``mean``: the cosine of the two mean states.
        cost: Of ``wasserstein``: ``cosine``, ``standardised`` (each side by its running mean and deviation)
            or ``squared_euclidean``. The first two have the same scale: one temperature serves both.
        threads: CPU threads for the exact solver; 0 = torch's number.

    A pair with the same transcript is no negative, whoever speaks it. A batch without negatives has loss 0.

    Attributes:
        report: ``retrieval_accuracy``: the share of the batch's speech whose own transcript is the nearest.

    Equation: 1 for the distances.
    Gradient: into the speech alone. Envelope theorem: plans are constants, dW_ij/ds = 2 (a s - Z_ij t).
    Cost: B^2 exact solves a layer (about 10 us each at 10 x 12 tokens) and two products of 2 B^2 N M d
        operations.
    Source: van den Oord et al. 2018 for InfoNCE; Khattab and Zaharia 2020 for MaxSim.
    """

    over_batch = True

    def __init__(
        self,
        layers: tuple[int, ...],
        sizes: Sizes | None = None,
        *,
        temperature: float = 0.1,
        similarity: Literal["wasserstein", "maxsim", "mean"] = "wasserstein",
        cost: Literal["squared_euclidean", "cosine", "standardised"] = "cosine",
        threads: int = 0,
    ) -> None:
        super().__init__(layers)
        for name, value, known in (("similarity", similarity, SIMILARITIES), ("cost", cost, COSTS)):
            if value not in known:
                raise ConfigError(f"Unknown {name} of the retrieval objective.", got=value, expected=known)
        require_positive(temperature)
        if similarity != "wasserstein" and cost != "cosine":
            raise ConfigError(
                f"similarity={similarity!r} compares cosines: it takes no other cost.", got=f"cost={cost!r}"
            )
        self.temperature, self.similarity, self.cost, self.threads = temperature, similarity, cost, threads
        self.moments: LayerMoments | None = None
        if cost == "standardised":
            if sizes is None:
                raise ConfigError("cost='standardised' needs the backbone's sizes.", got=None)
            self.moments = LayerMoments(layers, sizes.hidden_size)

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return ``retrieval_<layer>`` of each pair, (B,)."""
        same = same_transcript(states.transcript_ids, states.text_mask)
        losses, hits = {}, []
        for layer in self.layers:
            scores = self.similarities(layer, states)
            losses[f"retrieval_{layer}"] = info_nce(scores / self.temperature, same)
            hits.append(nearest_is_own(scores.detach(), same))
        self.report = {"retrieval_accuracy": torch.stack(hits).mean()} if hits else {}
        return losses

    def similarities(self, layer: int, states: PairedStates) -> Tensor:
        """Return how near every speech is to every transcript of the batch: (B, B), larger is nearer."""
        speech, text = states.speech[layer], states.text[layer].detach()
        speech_mask, text_mask = states.speech_mask, states.text_mask
        with torch.autocast(speech.device.type, enabled=False):
            if self.similarity == "mean":
                sides = (masked_mean(speech, speech_mask), masked_mean(text, text_mask))
                ends = [unit_length(side) for side in sides]
                return ends[0] @ ends[1].T
            if self.similarity == "maxsim":
                return max_similarities(
                    unit_length(speech, speech_mask), speech_mask, unit_length(text, text_mask), text_mask
                )
            # Tokens go to where squared distances are the chosen cost.
            if self.cost == "cosine":
                speech, text = unit_length(speech, speech_mask), unit_length(text, text_mask)
            elif self.moments is not None:
                speech = self.moments("speech", layer, speech, speech_mask)
                text = self.moments("text", layer, text, text_mask)
            return -all_distances(speech, speech_mask, text, text_mask, threads=self.threads)


def info_nce(logits: Tensor, same: Tensor) -> Tensor:
    """InfoNCE in both directions.

    Args:
        logits: (B, B), row i: how near speech i is to each text; the diagonal holds the pairs.
        same: (B, B) bool, symmetric: pairs whose texts are equal are not each other's negatives.

    Returns:
        (B,) loss of each pair, >= 0.
    """
    own = torch.arange(len(logits), device=logits.device)
    others = same & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    open_to = logits.masked_fill(others, float("-inf"))
    directions = [F.cross_entropy(side, own, reduction="none") for side in (open_to, open_to.T)]
    return (directions[0] + directions[1]) / 2


def nearest_is_own(scores: Tensor, same: Tensor) -> Tensor:
    """Share of the rows of (B, B) scores whose best column holds the row's own text (scalar)."""
    best = scores.argmax(1)
    return same[torch.arange(len(scores), device=scores.device), best].to(scores.dtype).mean()


def all_distances(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor, *, threads: int = 0) -> Tensor:
    """Exact transport distance of every cloud of x to every cloud of y: squared cost, uniform masses.

    Args:
        x: (B, N, d) any float type, on any device. x_mask: (B, N) bool, True = real token.
        y: (C, M, d). y_mask: (C, M).
        threads: CPU threads for the solver; 0 = torch's number.

    Returns:
        (B, C) float32 (float64 if the states are).

    Raises:
        TransportError: A cloud has no real token.
        NotFiniteError: Real tokens are not finite.

    Equation: 1. Gradient: envelope theorem, the plans are constants, dW/dx_i = 2 (a_i x_i - sum_j Z_ij y_j);
        none into y.
    Cost: on the real tokens alone, n of x and m of y in all: two products of 2 n m d operations, B C solves,
        memory n m.
    """
    threads = threads or torch.get_num_threads()
    with torch.autocast(x.device.type, enabled=False):
        return _AllTransports.apply(x, x_mask, y.detach(), y_mask, threads)


class _AllTransports(torch.autograd.Function):
    """Distances forward, envelope gradient backward; everything lies in one (n, m) matrix of all tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor, threads: int) -> Tensor:
        rows, cols = x[x_mask], y[y_mask]
        lengths = [mask.sum(1) for mask in (x_mask, y_mask)]
        cost = squared_euclidean(rows, cols)
        values, plans = _solve_blocks(cost, lengths[0].tolist(), lengths[1].tolist(), threads)
        ctx.save_for_backward(rows, cols, x_mask, *lengths, plans)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, cols, x_mask, x_lengths, y_lengths, plans = ctx.saved_tensors
        with torch.autocast(rows.device.type, enabled=False):
            weight = grad.to(plans.dtype).repeat_interleave(x_lengths, 0).repeat_interleave(y_lengths, 1)
            weight = weight * plans
            y = cols.to(plans.dtype)
            # Both sides minus one point of y: the same difference, without its common offset.
            centre = y.mean(0)
            slope = weight.sum(1, keepdim=True) * (rows.to(plans.dtype) - centre) - weight @ (y - centre)
            back = slope.new_zeros(*x_mask.shape, slope.shape[-1])
            back[x_mask] = 2.0 * slope
        return back.to(rows.dtype), None, None, None, None


def _solve_blocks(
    cost: Tensor, row_lengths: list[int], col_lengths: list[int], threads: int
) -> tuple[Tensor, Tensor]:
    """Solve every block of a (n, m) cost matrix: values (B, C) and the plans, laid out as the costs."""
    if not row_lengths or not col_lengths or min(row_lengths) < 1 or min(col_lengths) < 1:
        raise TransportError(
            "a cloud has no real token",
            got=f"lengths {row_lengths} and {col_lengths}",
            advice="drop pairs without speech tokens or transcript from the alignment loss",
        )
    host = cost.cpu().numpy()
    ns, ms = np.array(row_lengths, dtype=np.int64), np.array(col_lengths, dtype=np.int64)
    tops, lefts = np.cumsum(ns) - ns, np.cumsum(ms) - ms
    offsets = (tops[:, None] * host.shape[1] + lefts[None]).ravel()
    sizes = np.stack([np.repeat(ns, len(ms)), np.tile(ms, len(ns))], 1)
    strides = np.full(len(sizes), host.shape[1], dtype=np.int64)
    raw = solve_flat(host.ravel(), offsets, strides, sizes, threads=threads)
    solved = raw.values.reshape(len(ns), len(ms))
    refuse_nonfinite(np.isfinite(solved), "clouds {} and {}")
    values = torch.from_numpy(solved).to(cost.device, cost.dtype)
    return values, torch.from_numpy(raw.plans.reshape(host.shape)).to(cost.device, cost.dtype)


def max_similarities(x: Tensor, x_mask: Tensor, y: Tensor, y_mask: Tensor) -> Tensor:
    """Mean over the tokens of y of the largest inner product with a token of x, for all pairs of clouds.

    Args:
        x: (B, N, d), x_mask: (B, N) bool. y: (C, M, d), y_mask: (C, M) bool.

    Returns:
        (B, C). Gradient: as written. Cost: on real tokens alone, as :func:`all_distances` without the solves.

    Source: Khattab and Zaharia 2020 (MaxSim).
    """
    lengths = x_mask.sum(1), y_mask.sum(1)
    products = x[x_mask] @ y[y_mask].T
    owner = torch.arange(len(x), device=x.device).repeat_interleave(lengths[0])
    best = products.new_full((len(x), products.shape[1]), float("-inf"))
    best = best.scatter_reduce(0, owner[:, None].expand_as(products), products, "amax")
    column = torch.arange(len(y), device=x.device).repeat_interleave(lengths[1])
    totals = best.new_zeros(len(x), len(y)).index_add(1, column, best)
    return totals / lengths[1]
