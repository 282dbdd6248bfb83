"""Regularised transport, for comparison with prior work: nothing in this package needs it.

Entropy blurs the plan, and with it every value and rank; the exact solver is faster at these sizes. Two
forms:

* :func:`sinkhorn_batch`: log domain, masked, annealed, every problem stopped by its own marginal error.
  Epsilon is relative to the standard deviation of the double-centred cost, the only part of a cost that moves
  a plan.
* :func:`debiased_divergence`: what ``geomloss.SamplesLoss("sinkhorn", p=2, blur, scaling)`` computes: half
  the squared distance, symmetric updates, an epsilon that falls geometrically from the diameter, self-terms
  subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log

import torch
from torch import Tensor

from aista.errors import TransportError
from aista.ot.loss import squared_euclidean

NEVER = -1e30


@dataclass(frozen=True)
class SinkhornResult:
    """Regularised plans of a batch.

    Attributes:
        values: (B,) <plan, cost>. plan: (B, N, M), zero at masked places.
        converged: (B,) whether the marginal error fell below the tolerance, at the epsilon asked for.
        iterations: (B,) updates used. error: (B,) L1 error of the row marginals.
    """

    values: Tensor
    plan: Tensor
    converged: Tensor
    iterations: Tensor
    error: Tensor


def centred_spread(cost: Tensor, row_mask: Tensor, col_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Double-centred cost (B, N, M), zero where masked, and its standard deviation (B,)."""
    weights = (row_mask[:, :, None] & col_mask[:, None, :]).to(cost.dtype)
    cost = cost.masked_fill(weights == 0, 0.0)
    n, m = row_mask.sum(1)[:, None, None], col_mask.sum(1)[:, None, None]
    rows, cols = cost.sum(2, keepdim=True) / m, cost.sum(1, keepdim=True) / n
    centred = (cost - rows - cols + rows.sum(1, keepdim=True) / n) * weights
    deviation = (centred.square().sum((1, 2)) / weights.sum((1, 2))).sqrt()
    return centred, deviation


@torch.no_grad()
def sinkhorn_batch(
    cost: Tensor,
    row_mask: Tensor,
    col_mask: Tensor,
    *,
    epsilon: float = 0.1,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
) -> SinkhornResult:
    """Entropic transport of padded uniform problems.

    Args:
        cost: (B, N, M) finite where both masks hold. row_mask: (B, N) bool. col_mask: (B, M) bool.
        epsilon: Regularisation in standard deviations of the double-centred cost; < 0.1 converges slowly.
        tolerance: Largest L1 error of the row marginals of a problem that counts as converged.
        max_iterations: Updates after which a problem is given back as it is, marked not converged.

    Returns:
        The plans, and which of them to trust.
    """
    if epsilon <= 0:
        raise TransportError(
            "epsilon must be positive", got=epsilon, advice="use solver='exact' for epsilon = 0"
        )
    centred, deviation = centred_spread(cost.float(), row_mask, col_mask)
    target = (epsilon * deviation).clamp(min=1e-30)
    log_a, log_b = _log_uniform(row_mask), _log_uniform(col_mask)
    f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
    eps = torch.maximum(deviation, target)
    active = torch.ones_like(deviation, dtype=torch.bool)
    iterations = torch.zeros_like(deviation, dtype=torch.int64)
    error = torch.full_like(deviation, torch.inf)
    for step in range(max_iterations):
        if step % 5 == 0 and step:  # before the updates at this epsilon, so that a plan fits its own
            eps = torch.maximum(0.7 * eps, target)
        e = eps[:, None, None]
        new_f = -eps[:, None] * torch.logsumexp(log_b[:, None, :] + (g[:, None, :] - centred) / e, 2)
        error = torch.where(
            active, (log_a.exp() * torch.expm1((f - new_f) / eps[:, None])).abs().sum(1), error
        )
        active &= ~((error < tolerance) & (eps <= target))
        if not bool(active.any()):
            break
        iterations += active
        f = torch.where(active[:, None], new_f, f)
        new_g = -eps[:, None] * torch.logsumexp(log_a[:, :, None] + (f[:, :, None] - centred) / e, 1)
        g = torch.where(active[:, None], new_g, g)
    exponent = (f[:, :, None] + g[:, None, :] - centred) / eps[:, None, None]
    plan = (log_a[:, :, None] + log_b[:, None, :] + exponent).exp()
    values = (plan.double() * cost.double().masked_fill(plan == 0, 0.0)).sum((1, 2)).float()
    return SinkhornResult(values, plan, (error < tolerance) & (eps <= target), iterations, error)


def _log_uniform(mask: Tensor) -> Tensor:
    """(B, N) log masses: -log(count) where the mask holds, never elsewhere."""
    return torch.where(mask, -mask.sum(1, keepdim=True).float().log(), NEVER)


def debiased_divergence(
    speech: Tensor,
    speech_mask: Tensor,
    text: Tensor,
    text_mask: Tensor,
    *,
    blur: float = 0.05,
    scaling: float = 0.5,
) -> Tensor:
    """Sinkhorn divergence with half the squared distance as cost: the loss of Siamese-PT and ZeroSwot.

    Args:
        speech: (B, N, d). speech_mask: (B, N) bool. text: (B, M, d). text_mask: (B, M).
        blur: Final epsilon is blur squared. scaling: Epsilon falls by scaling squared at each step.

    Returns:
        (B,) float32, differentiable in ``speech``.

    Source: Feydy et al. 2019, "Interpolating between optimal transport and MMD", symmetric annealed updates.
    """
    x, y = speech.float(), text.detach().float()
    # Epsilon falls geometrically from the squared diagonal of the box around all tokens to the squared blur.
    tokens = torch.cat([x[speech_mask], y[text_mask]]).detach()
    diameter = max(float((tokens.amax(0) - tokens.amin(0)).norm()), 1e-6)
    num_falls = max(0, ceil(log(blur / diameter) / log(scaling)))
    steps = [diameter**2, *(diameter**2 * scaling ** (2 * k) for k in range(num_falls)), blur**2]
    xy = 0.5 * _differentiable_cost(x, y, speech_mask, text_mask)
    xx = 0.5 * _differentiable_cost(x, x.detach(), speech_mask, speech_mask)
    yy = 0.5 * _differentiable_cost(y, y, text_mask, text_mask)
    log_a, log_b = _log_uniform(speech_mask), _log_uniform(text_mask)
    with torch.no_grad():
        f, g = _softmin(steps[0], xy, log_b), _softmin(steps[0], xy.mT, log_a)
        p, q = _softmin(steps[0], xx, log_a), _softmin(steps[0], yy, log_b)
        for eps in steps:
            new_f, new_g = _softmin(eps, xy, log_b + g / eps), _softmin(eps, xy.mT, log_a + f / eps)
            new_p, new_q = _softmin(eps, xx, log_a + p / eps), _softmin(eps, yy, log_b + q / eps)
            f, g, p, q = (f + new_f) / 2, (g + new_g) / 2, (p + new_p) / 2, (q + new_q) / 2
    last_f = _softmin(eps, xy, log_b + g / eps) - _softmin(eps, xx, log_a + p / eps)
    with torch.no_grad():
        last_g = _softmin(eps, xy.mT, log_a + f / eps) - _softmin(eps, yy, log_b + q / eps)
    ends = (last_f, speech_mask), (last_g, text_mask)
    first, second = (values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1) for values, mask in ends)
    return first + second


def _differentiable_cost(x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> Tensor:
    """Accurate values from :func:`squared_euclidean`, gradient of |x - y|^2 in x."""
    cost = squared_euclidean(x.detach(), y.detach(), x_mask, y_mask)
    if not x.requires_grad:
        return cost
    x, y = x.masked_fill(~x_mask[..., None], 0.0), y.masked_fill(~y_mask[..., None], 0.0)
    slope = x.square().sum(-1)[..., None] - 2.0 * x @ y.mT
    return cost + slope - slope.detach()


def _softmin(eps: float, cost: Tensor, weights: Tensor) -> Tensor:
    return -eps * torch.logsumexp(weights[:, None, :] - cost / eps, 2)
