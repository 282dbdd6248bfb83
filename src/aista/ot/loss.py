"""The Wasserstein distance (Eq. 1) as a loss: costs, exact values forward, the gradient backward.

The paper's cost is the squared distance of the states themselves, C_ij = ||s_i - t_j||^2. The two others are
squared distances as well, of tokens that were mapped first: ``cosine`` divides each token by its length,
``standardised`` takes each side's own mean and standard deviation out of every dimension. Neither lets a few
long tokens or dimensions decide.

Two things spoil the usual ``|s|^2 + |t|^2 - 2 s.t`` in float32: a common offset of all tokens, and the few
massive dimensions that language models grow (values in the thousands). Both are taken out first: clouds are
centred on one common point, and dimensions that stand out are differenced directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aista.errors import NotFiniteError, TransportError
from aista.ot.exact import solve_flat, starts

SOLVERS = ("exact", "sinkhorn", "geomloss_compat")
SCALES = ("raw", "per_dimension", "text_spread", "cosine")
#: The paper's; twice one minus the cosine; and the like of it where every dimension of a side has equal say.
COSTS = ("squared_euclidean", "cosine", "standardised")

#: A dimension is massive when its largest value exceeds this many times the median dimension's largest value.
MASSIVE = 50.0
#: A spread of less than this share of the squared length is rounding.
ALIKE = 1e-6
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
        if text_mask is not None:
            y = y.masked_fill(~text_mask[..., None], 0.0)
        count = y.shape[1] if text_mask is None else text_mask.sum(1).clamp(min=1)[:, None, None]
        centre = y.sum(1, keepdim=True) / count
        x, y = x - centre, y - centre
        if text_mask is not None:
            y = y.masked_fill(~text_mask[..., None], 0.0)
        if speech_mask is not None:
            x = x.masked_fill(~speech_mask[..., None], 0.0)
        return _distances(x, y)


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
            reaches a gradient. A token of zeros stays one, and has no direction: no gradient reaches it.

    Returns:
        (..., d) float32 (float64 if the states are).
    """
    states = _wide(states)
    directed = states.any(-1)
    return F.normalize(_zeros_where_masked(states, directed if mask is None else directed & mask), dim=-1)


def standardise(states: Tensor, known: Moments, mask: Tensor | None = None) -> Tensor:
    """Map each dimension to mean 0 and deviation 1 / sqrt(d): mean squared length 1, as unit vectors have.

    Args:
        states: (..., d). known: Moments of this side. They are constants: no gradient flows through them.
        mask: (...) bool; masked tokens become zeros.

    Returns:
        (..., d) float32 (float64 if the states are).
    """
    real = _zeros_where_masked(_wide(states), mask)
    # The mean leaves in float64: where it is massive, float32 has few digits left for the rest.
    centred = (real.double() - known.mean) / (known.deviation * states.shape[-1] ** 0.5)
    return _zeros_where_masked(centred.to(real.dtype), mask)


def _wide(states: Tensor) -> Tensor:
    return states if states.dtype == torch.float64 else states.float()


def _zeros_where_masked(states: Tensor, mask: Tensor | None) -> Tensor:
    return states if mask is None else states.masked_fill(~mask[..., None], 0.0)


def text_spread(text: Tensor, text_mask: Tensor) -> Tensor:
    """Mean squared distance of all real text tokens of a batch from their mean (a scalar, float32).

    Args:
        text: (B, M, d). text_mask: (B, M) bool.

    Tokens that are all alike (commands of one word) have no spread: then it is their mean squared length.
    """
    tokens = text[text_mask].float()
    spread, size = (tokens - tokens.mean(0)).square().sum(1).mean(), tokens.square().sum(1).mean()
    spread = torch.where(spread > ALIKE * size, spread, size)
    return spread.clamp(min=torch.finfo(torch.float32).tiny)


class WassersteinLoss(torch.nn.Module):
    """Wasserstein loss between masked batches of clouds, differentiable in the speech side only.

    Args:
        solver: ``exact`` (Eq. 1 as written, the default); for comparison with prior work ``sinkhorn``
            (entropic plan, value <plan, cost>) or ``geomloss_compat`` (HALF the squared cost, debiased, blur
            0.05, scaling 0.5: alpha does not carry over).
        scale: ``raw`` (sum over dimensions, as the paper), ``per_dimension`` (divided by d), or
            ``text_spread`` (divided by the mean squared distance of the batch's text tokens from their mean,
            so that 1 means "as far as texts are wide" in every layer and backbone, and one alpha transfers),
            or ``cosine`` (every token divided by its length: twice one minus the cosine, norms play no part).
        position_weight: Adds ``(weight * (i/(n-1) - j/(m-1)))^2`` to the cost, before scaling. 0 = none.
        epsilon, max_iterations: Of ``sinkhorn``, see :func:`aista.ot.sinkhorn.sinkhorn_batch`.
        threads: CPU threads for the exact solver; 0 = torch's number.

    Attributes:
        report: After a ``sinkhorn`` call: problems, how many did not converge, most iterations.

    Equation: 1, the term L_Wass of Eq. 6.
    Gradient: Envelope theorem, dW/ds_i = 2 (a_i s_i - sum_j Z_ij t_j); the plan Z is a constant, text
    detached.
    Cost: Two batched products of 2 B N M d operations and B exact solves (10-300 us each); on a GPU costs and
        gradient stay there and one round trip carries costs out and plans back.
    """

    def __init__(
        self,
        solver: str = "exact",
        *,
        scale: str = "raw",
        position_weight: float = 0.0,
        epsilon: float = 0.1,
        max_iterations: int = 2000,
        threads: int = 0,
    ) -> None:
        super().__init__()
        for name, value, known in (("solver", solver, SOLVERS), ("scale", scale, SCALES)):
            if value not in known:
                raise TransportError(f"unknown {name} {value!r}", expected=" | ".join(known))
        if solver == "geomloss_compat" and position_weight:
            raise TransportError(
                "geomloss_compat takes no position_weight", advice="append it as a coordinate"
            )
        if solver == "sinkhorn" and not epsilon > 0:
            raise TransportError(
                "epsilon must be above 0", got=epsilon, advice="use solver='exact' for epsilon = 0"
            )
        self.solver, self.scale, self.position_weight = solver, scale, position_weight
        self.epsilon, self.max_iterations, self.threads = epsilon, max_iterations, threads
        self.report: dict[str, int] = {}

    @property
    def over_batch(self) -> bool:
        """Whether a pair's value depends on the other pairs of its batch."""
        return self.scale == "text_spread" or self.solver == "geomloss_compat"

    def forward(self, speech: Tensor, speech_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Distance of each pair.

        Args:
            speech: (B, N, d) any float type, on any device. speech_mask: (B, N) bool, True = real token.
            text: (B, M, d). text_mask: (B, M).

        Returns:
            (B,) loss per pair, float32 (float64 if the states are, by the exact solver).

        Raises:
            TransportError: Shapes do not fit, or a row has no real token.
            NotFiniteError: Real tokens are not finite.
        """
        check_batch(speech, speech_mask, text, text_mask)
        if self.solver != "exact":  # which looks at both itself
            require_tokens(speech_mask.sum(1), text_mask.sum(1))
            sides = (speech, speech_mask), (text, text_mask)
            fine = [side.isfinite().all(-1).logical_or(~mask).all(1) for side, mask in sides]
            refuse_nonfinite((fine[0] & fine[1]).cpu().numpy(), "pair {}")
        with torch.autocast(speech.device.type, enabled=False):
            if self.scale == "cosine":
                speech, text = unit_length(speech, speech_mask), unit_length(text, text_mask)
            if self.solver == "geomloss_compat":
                from aista.ot.sinkhorn import debiased_divergence

                values = debiased_divergence(speech, speech_mask, text, text_mask)
            else:
                values = _Transport.apply(speech, speech_mask, text.detach(), text_mask, self)
            if self.scale == "per_dimension":
                return values / text.shape[2]
            return values / text_spread(text.detach(), text_mask) if self.scale == "text_spread" else values

    def over_layers(
        self, speech: Mapping[int, Tensor], speech_mask: Tensor, text: Mapping[int, Tensor], text_mask: Tensor
    ) -> dict[int, Tensor]:
        """Loss per pair of several layers with one round trip to the solver.

        Args:
            speech: Layer number -> (B, N, d). text: Layer number -> (B, M, d), the same layers.

        Returns:
            Layer number -> (B,).

        Raises:
            TransportError: The sides have other layers, shapes do not fit, or a row has no real token.
            NotFiniteError: Real tokens are not finite; the message names layer and pair.
        """
        layers = sorted(speech)
        if not layers or layers != sorted(text):
            raise TransportError("speech and text must offer the same layers", got=(layers, sorted(text)))
        if not self.over_batch:
            with suppress(NotFiniteError):  # which counts the pairs of all layers: one by one it is named
                values = self(
                    torch.cat([speech[k] for k in layers]),
                    speech_mask.repeat(len(layers), 1),
                    torch.cat([text[k] for k in layers]),
                    text_mask.repeat(len(layers), 1),
                )
                return dict(zip(layers, values.chunk(len(layers)), strict=True))
        found = {}
        for k in layers:
            try:
                found[k] = self(speech[k], speech_mask, text[k], text_mask)
            except NotFiniteError as error:
                raise NotFiniteError(f"layer {k}, {error.what}", advice=error.advice) from None
        return found

    def plan(
        self, speech: Tensor, speech_mask: Tensor, text: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Values (B,) before scaling and transport plans (B, N, M), without gradient."""
        cost = squared_euclidean(speech.detach(), text.detach(), speech_mask, text_mask)
        if self.position_weight:
            rows, cols = (
                (mask.cumsum(1) - 1) / (mask.sum(1, keepdim=True) - 1).clamp(min=1)
                for mask in (speech_mask, text_mask)
            )
            cost = cost + (self.position_weight * (rows[:, :, None] - cols[:, None, :])).square()
        if self.solver == "sinkhorn":
            from aista.ot.sinkhorn import sinkhorn_batch

            result = sinkhorn_batch(
                cost, speech_mask, text_mask, epsilon=self.epsilon, max_iterations=self.max_iterations
            )
            self.report = {
                "problems": len(result.converged),
                "not_converged": int((~result.converged).sum()),
                "iterations": int(result.iterations.max()),
            }
            return result.values, result.plan
        return solve_masked(cost, speech_mask, text_mask, self.threads or torch.get_num_threads())


def check_batch(speech: Tensor, speech_mask: Tensor, text: Tensor, text_mask: Tensor) -> None:
    """Refuse shapes that do not belong together."""
    shapes = [tuple(x.shape) for x in (speech, speech_mask, text, text_mask)]
    fits = (
        speech.dim() == text.dim() == 3
        and speech.shape[0] == text.shape[0] > 0
        and speech.shape[2] == text.shape[2] > 0
        and speech_mask.shape == speech.shape[:2]
        and text_mask.shape == text.shape[:2]
        and speech_mask.dtype == text_mask.dtype == torch.bool
    )
    if not fits:
        raise TransportError(
            "speech and text batches do not fit together",
            got=f"speech {shapes[0]}, speech_mask {shapes[1]} {speech_mask.dtype}, "
            f"text {shapes[2]}, text_mask {shapes[3]} {text_mask.dtype}",
            expected="speech (B, N, d), speech_mask (B, N) bool, text (B, M, d), text_mask (B, M) bool",
        )


class _Transport(torch.autograd.Function):
    """Value forward, envelope gradient backward."""

    @staticmethod
    def forward(
        ctx: Any, speech: Tensor, speech_mask: Tensor, text: Tensor, text_mask: Tensor, loss: WassersteinLoss
    ) -> Tensor:
        values, plan = loss.plan(speech, speech_mask, text, text_mask)
        ctx.save_for_backward(speech, text, speech_mask, text_mask, plan)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        speech, text, speech_mask, text_mask, plan = ctx.saved_tensors
        with torch.autocast(speech.device.type, enabled=False):
            y = text.to(plan.dtype).masked_fill(~text_mask[..., None], 0.0)
            x = speech.to(plan.dtype)
            # Both sides minus one point of the text: the same difference, without its common offset.
            centre = y.sum(1, keepdim=True) / text_mask.sum(1)[:, None, None]
            pulled = torch.baddbmm(plan.sum(2, keepdim=True) * (x - centre), plan, y - centre, alpha=-1.0)
            slope = pulled * (2.0 * grad.to(plan.dtype))[:, None, None]
        return slope.masked_fill_(~speech_mask[..., None], 0.0).to(speech.dtype), None, None, None, None


def refuse_nonfinite(fine: np.ndarray, what: str) -> None:
    """Name the first of some distances that is none.

    Args:
        fine: Bool, of any shape. what: Takes the place's numbers, such as "pair {}".

    Raises:
        NotFiniteError: One of them is false.
    """
    if not fine.all():
        raise NotFiniteError(
            f"{what.format(*np.argwhere(~fine)[0])}: NaN or infinite hidden states",
            advice="lower the learning rate or look at the last gradient norm; avoid float16 hidden states",
        )


def require_tokens(rows: Tensor, cols: Tensor) -> np.ndarray:
    """Return the sizes (B, 2) of pairs, given how many real tokens each side has.

    Raises:
        TransportError: A side has none.
    """
    sizes = torch.stack([rows, cols], 1).cpu().numpy()
    if sizes.min() < 1:
        raise TransportError(
            f"pair {int(sizes.min(1).argmin())} has no real token on one side",
            advice="drop pairs without speech tokens or transcript from the alignment loss",
        )
    return sizes


def solve_masked(cost: Tensor, row_mask: Tensor, col_mask: Tensor, threads: int) -> tuple[Tensor, Tensor]:
    """Exact values (B,) and plans (B, N, M) of padded costs with any masks; only real costs go to the CPU.

    Raises:
        TransportError: A pair has no real row or column.
        NotFiniteError: Its costs are not finite.
    """
    sizes = require_tokens(row_mask.sum(1), col_mask.sum(1))
    real = row_mask[:, :, None] & col_mask[:, None, :]
    costs = cost.masked_select(real).cpu().numpy()  # one pair after another, row by row
    raw = solve_flat(costs, starts(sizes.prod(1)), sizes[:, 1], sizes, threads=threads)
    refuse_nonfinite(np.isfinite(raw.values), "pair {}")
    values, plans = (torch.from_numpy(x).to(cost.device, cost.dtype) for x in (raw.values, raw.plans))
    return values, torch.zeros_like(cost).masked_scatter_(real, plans)
