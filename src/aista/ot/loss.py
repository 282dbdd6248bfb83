"""The Wasserstein distance (Eq. 1) as a loss: exact values forward, its gradient backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aista.errors import TransportError
from aista.ot.cost import position_cost, squared_euclidean, text_spread
from aista.ot.exact import RawSolutions, solve, solve_flat, uniform_masses

SOLVERS = ("exact", "sinkhorn", "geomloss_compat")
SCALES = ("raw", "per_dimension", "text_spread", "cosine")


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
            (B,) loss per pair, float32 (float64 if the states are).

        Raises:
            TransportError: Shapes do not fit, a row has no real token, or real tokens are not finite.
        """
        check_batch(speech, speech_mask, text, text_mask)
        with torch.autocast(speech.device.type, enabled=False):
            if self.scale == "cosine":
                speech, text = (_directions(*side) for side in ((speech, speech_mask), (text, text_mask)))
            if self.solver == "geomloss_compat":
                values = self._geomloss(speech, speech_mask, text, text_mask)
            else:
                values = _Transport.apply(speech, speech_mask, text.detach(), text_mask, self)
            return values / self._unit(text.detach(), text_mask)

    def over_layers(
        self, speech: Mapping[int, Tensor], speech_mask: Tensor, text: Mapping[int, Tensor], text_mask: Tensor
    ) -> dict[int, Tensor]:
        """Loss per pair of several layers with one round trip to the solver.

        Args:
            speech: Layer number -> (B, N, d). text: Layer number -> (B, M, d), the same layers.

        Returns:
            Layer number -> (B,).
        """
        layers = sorted(speech)
        if not layers or layers != sorted(text):
            raise TransportError("speech and text must offer the same layers", got=(layers, sorted(text)))
        if self.over_batch:
            return {k: self(speech[k], speech_mask, text[k], text_mask) for k in layers}
        values = self(
            torch.cat([speech[k] for k in layers]),
            speech_mask.repeat(len(layers), 1),
            torch.cat([text[k] for k in layers]),
            text_mask.repeat(len(layers), 1),
        )
        return dict(zip(layers, values.chunk(len(layers)), strict=True))

    def plan(
        self, speech: Tensor, speech_mask: Tensor, text: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Values (B,) before scaling and transport plans (B, N, M), without gradient."""
        cost = squared_euclidean(speech.detach(), text.detach(), speech_mask, text_mask)
        if self.position_weight:
            cost = cost + position_cost(speech_mask, text_mask, self.position_weight)
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

    def _geomloss(self, speech: Tensor, speech_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        from aista.ot.sinkhorn import debiased_divergence

        if self.position_weight:
            raise TransportError(
                "geomloss_compat takes no position_weight", advice="append it as a coordinate"
            )
        return debiased_divergence(speech, speech_mask, text, text_mask)

    def _unit(self, text: Tensor, text_mask: Tensor) -> Tensor | float:
        if self.scale == "per_dimension":
            return float(text.shape[2])
        return text_spread(text, text_mask) if self.scale == "text_spread" else 1.0


def _directions(states: Tensor, mask: Tensor) -> Tensor:
    """Tokens (B, N, d) divided by their lengths; zeros where masked: nothing there spoils a gradient."""
    real = states if states.dtype == torch.float64 else states.float()
    return F.normalize(real.masked_fill(~mask[..., None], 0.0), dim=-1)


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
            x = speech.to(plan.dtype).masked_fill(~speech_mask[..., None], 0.0)
            # Both sides minus one point of the text: the same difference, without its common offset.
            centre = y.sum(1, keepdim=True) / text_mask.sum(1)[:, None, None]
            pulled = torch.baddbmm(plan.sum(2, keepdim=True) * (x - centre), plan, y - centre, alpha=-1.0)
            slope = pulled * (2.0 * grad.to(plan.dtype))[:, None, None]
        return slope.masked_fill_(~speech_mask[..., None], 0.0).to(speech.dtype), None, None, None, None


def solve_masked(cost: Tensor, row_mask: Tensor, col_mask: Tensor, threads: int) -> tuple[Tensor, Tensor]:
    """Exact values (B,) and plans (B, N, M) of padded costs with any masks; one round trip to the CPU.

    Raises:
        TransportError: A pair has no real row or column, or its costs are not finite.
    """
    host, rows, cols = cost.cpu().numpy(), row_mask.cpu().numpy(), col_mask.cpu().numpy()
    sizes = np.stack([rows.sum(1), cols.sum(1)], 1).astype(np.int64)
    if sizes.min() < 1:
        raise TransportError(
            f"pair {int(sizes.min(1).argmin())} has no real token on one side",
            advice="drop pairs without speech tokens or transcript from the alignment loss",
        )
    # Real rows and columns are moved to the front, solved there, and moved back.
    row_order = np.argsort(~rows, axis=1, kind="stable")[:, :, None]
    col_order = np.argsort(~cols, axis=1, kind="stable")[:, None, :]
    places = (np.arange(len(host))[:, None, None], row_order, col_order)
    packed = host[places]
    masses = uniform_masses(sizes)
    batch, num_rows, num_cols = packed.shape
    offsets = np.arange(batch, dtype=np.int64) * num_rows * num_cols
    strides = np.full(batch, num_cols, dtype=np.int64)
    raw = solve_flat(packed.ravel(), offsets, strides, sizes, masses, threads=threads)
    if np.isnan(raw.values).any():
        raise TransportError(
            f"pair {int(np.isnan(raw.values).argmax())} has NaN or infinite hidden states",
            advice="lower the learning rate or look at the last gradient norm; avoid float16 hidden states",
        )
    _finish_capped(raw, packed, sizes, masses)
    plan = np.empty_like(host)
    plan[places] = raw.plans.reshape(packed.shape)
    values = torch.from_numpy(raw.values).to(cost.device, cost.dtype)
    return values, torch.from_numpy(plan).to(cost.device)


def _finish_capped(
    raw: RawSolutions, packed: np.ndarray, sizes: np.ndarray, masses: tuple[np.ndarray, np.ndarray]
) -> None:
    """Answer, by the solver that has a fallback, what the fast one left after its cap of searches."""
    from aista.ot.kernels import CAPPED

    plans = raw.plans.reshape(packed.shape)
    for k in np.flatnonzero(raw.outcomes == CAPPED):
        (n, m), i, j = sizes[k], raw.row_starts[k], raw.col_starts[k]
        a, b = masses[0][i : i + n], masses[1][j : j + m]
        solution = solve(packed[k, :n, :m], a, b)
        raw.values[k], plans[k, :n, :m] = solution.value / a.sum(), solution.plan / a.sum()
