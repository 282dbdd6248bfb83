"""The maps behind the cosine and the standardised cost, and moments that are gathered batch by batch."""

from __future__ import annotations

import pytest
import torch

from aista.alignment.base import RunningMoments
from aista.ot.loss import moments, squared_euclidean, standardise, unit_length


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed)) * torch.arange(1.0, 13.0)
    drawn[:, 3] += 5e4  # a massive dimension
    drawn[:, 5] = 2.0  # and one that says nothing
    return drawn


def test_the_cosine_cost_is_twice_one_minus_the_cosine() -> None:
    x, y = tokens(7), tokens(5, 1)
    cosines = torch.nn.functional.cosine_similarity(x[:, None].double(), y[None].double(), dim=-1)
    cost = squared_euclidean(unit_length(x.double()), unit_length(y.double()))
    torch.testing.assert_close(cost, 2 - 2 * cosines)


def test_standardised_tokens_have_equal_dimensions_and_mean_length_one() -> None:
    x = tokens(400)
    mapped = standardise(x, moments(x))
    assert mapped.dtype == torch.float32
    torch.testing.assert_close(mapped.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    spread = mapped.square().mean(0) * 12
    torch.testing.assert_close(spread, (torch.arange(12) != 5).float(), atol=1e-3, rtol=0)


def test_what_is_masked_becomes_zero_and_reaches_no_gradient() -> None:
    x = tokens(6).view(2, 3, 12)
    x[0, 2] = torch.nan
    x.requires_grad_()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    for mapped in (unit_length(x, mask), standardise(x, moments(tokens(50)), mask)):
        assert not mapped[0, 2].any()
        (slope,) = torch.autograd.grad(mapped.square().sum() + mapped.sum(), x)
        assert slope.isfinite().all() and not slope[0, 2].any()


@pytest.mark.parametrize("cuts", [(900,), (1, 899), (300, 300, 300), (10, 500, 390)])
def test_running_moments_do_not_depend_on_how_the_first_batches_are_cut(cuts: tuple[int, ...]) -> None:
    x, running = tokens(900), RunningMoments(12, momentum=1e-9)
    for part in x.split(list(cuts)):
        running.update(part)
    for found, wanted in zip(running.current(), moments(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_running_moments_forget_old_batches() -> None:
    running = RunningMoments(12, momentum=0.2)
    running.update(tokens(5000) + 100)
    for seed in range(60):
        running.update(tokens(400, seed))
    torch.testing.assert_close(running.current().mean, tokens(9000, 77).double().mean(0), atol=2.0, rtol=0)
