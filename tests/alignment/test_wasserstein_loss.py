"""The loss against POT's plans, and its laws."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch

from aista.errors import NotFiniteError, TransportError
from aista.ot import exact
from aista.ot.kernels import CAPPED
from aista.ot.loss import SCALES, WassersteinLoss


def batch(seed=0, size=5, n=14, m=9, d=32):
    generator = torch.Generator().manual_seed(seed)
    speech = torch.randn(size, n, d, generator=generator)
    text = torch.randn(size, m, d, generator=generator) + 0.5
    speech_mask = torch.rand(size, n, generator=generator) > 0.3
    text_mask = torch.rand(size, m, generator=generator) > 0.3
    speech_mask[:, 0] = text_mask[:, 1] = True
    speech_mask[1] = False
    speech_mask[1, 4] = True  # n = 1
    text_mask[2] = False
    text_mask[2, 0] = True  # m = 1
    return speech, speech_mask, text, text_mask


def reference(speech, text):
    """POT's value and the envelope gradient of its plan, float64."""
    x, y = speech.detach().double(), text.detach().double()
    cost = (x[:, None] - y[None]).square().sum(-1)
    plan, log = ot.emd([], [], cost.numpy(), log=True)
    return log["cost"], 2 * (x / len(x) - torch.from_numpy(plan) @ y)


def test_value_and_gradient_equal_pot():
    speech, speech_mask, text, text_mask = batch()
    speech.requires_grad_()
    text.requires_grad_()
    loss = WassersteinLoss()(speech, speech_mask, text, text_mask)
    weights = torch.arange(1.0, 6.0)
    (loss * weights).sum().backward()
    assert loss.shape == (5,) and loss.dtype == torch.float32
    assert text.grad is None
    for k in range(5):
        value, slope = reference(speech[k][speech_mask[k]], text[k][text_mask[k]])
        assert loss[k].item() == pytest.approx(value, rel=1e-6)
        got = speech.grad[k][speech_mask[k]].double() / weights[k]
        assert (got - slope).abs().max() <= 1e-5 * slope.abs().max()
        assert not speech.grad[k][~speech_mask[k]].any()


def test_gradient_is_the_derivative():
    speech, speech_mask, text, text_mask = (
        x.double() if x.is_floating_point() else x for x in batch(1, 3, 6, 5, 4)
    )
    direction = torch.randn(speech.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    speech.requires_grad_()
    loss = WassersteinLoss(scale="per_dimension")
    loss(speech, speech_mask, text, text_mask).sum().backward()
    step = 1e-3
    ahead, behind = (
        loss((speech + sign * step * direction).detach(), speech_mask, text, text_mask).double().sum()
        for sign in (1, -1)
    )
    assert float((ahead - behind) / (2 * step)) == pytest.approx(
        float((speech.grad * direction).sum()), rel=1e-2
    )


@pytest.mark.parametrize(("solver", "scale"), [("exact", "raw"), ("exact", "cosine"), ("sinkhorn", "raw")])
def test_masked_places_change_nothing_and_batch_equals_loop(solver, scale):
    speech, speech_mask, text, text_mask = batch(3)
    loss = WassersteinLoss(solver, scale=scale)
    together = loss(speech, speech_mask, text, text_mask)
    spoiled = speech.masked_fill(~speech_mask[..., None], torch.nan).requires_grad_()
    dirty = loss(spoiled, speech_mask, text.masked_fill(~text_mask[..., None], torch.inf), text_mask)
    dirty.sum().backward()
    assert torch.equal(together, dirty)
    assert torch.isfinite(spoiled.grad).all()
    for k in range(5):
        alone = [x[k][mask[k]][None] for x, mask in ((speech, speech_mask), (text, text_mask))]
        ones = [torch.ones(x.shape[:2], dtype=torch.bool) for x in alone]
        assert float(loss(alone[0], ones[0], alone[1], ones[1])) == pytest.approx(
            float(together[k]), rel=1e-5
        )


def test_equal_clouds_cost_nothing_and_pull_nowhere():
    cloud = torch.randn(2, 7, 16, requires_grad=True)
    mask = torch.ones(2, 7, dtype=torch.bool)
    loss = WassersteinLoss()(cloud, mask, cloud.detach().flip(1), mask)
    loss.sum().backward()
    assert loss.abs().max() < 1e-4 and cloud.grad.abs().max() < 1e-6


def test_layers_in_one_call_equal_layers_one_by_one():
    first, second = batch(5), batch(6)
    masks = first[1], first[3]
    for scale in SCALES:
        loss = WassersteinLoss(scale=scale)
        both = loss.over_layers({0: first[0], 3: second[0]}, masks[0], {3: second[2], 0: first[2]}, masks[1])
        assert list(both) == [0, 3]
        torch.testing.assert_close(both[3], loss(second[0], masks[0], second[2], masks[1]))
    with pytest.raises(TransportError, match="same layers"):
        WassersteinLoss().over_layers({0: first[0]}, masks[0], {1: first[2]}, masks[1])


def test_scales():
    speech, speech_mask, text, text_mask = batch(7)
    raw = WassersteinLoss()(speech, speech_mask, text, text_mask)
    per_dimension = WassersteinLoss(scale="per_dimension")(speech, speech_mask, text, text_mask)
    torch.testing.assert_close(per_dimension * 32, raw)
    relative = WassersteinLoss(scale="text_spread")
    values = relative(speech, speech_mask, text, text_mask)
    larger = relative(50 * speech, speech_mask, 50 * text, text_mask)
    torch.testing.assert_close(values, larger, rtol=1e-4, atol=1e-5)
    farther = relative(speech + 40.0, speech_mask, text + 40.0, text_mask)
    torch.testing.assert_close(values, farther, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values, raw / text[text_mask].var(0, correction=0).sum())


def test_the_gradient_has_no_common_offset():
    """Where all tokens lie far out, it is the small difference of large sums."""
    speech, speech_mask, text, text_mask = batch(12)
    slopes = []
    for dtype in (torch.float32, torch.float64):
        moved = (speech + 3e4).to(dtype).requires_grad_()
        WassersteinLoss()(moved, speech_mask, (text + 3e4).to(dtype), text_mask).sum().backward()
        slopes.append(moved.grad.double())
    assert (slopes[0] - slopes[1]).abs().max() < 1e-6 * slopes[1].abs().max()


def test_the_text_is_constant_and_its_spread_too():
    speech, speech_mask, text, text_mask = batch(13)
    for scale in SCALES:
        WassersteinLoss(scale=scale)(
            speech.requires_grad_(), speech_mask, text.requires_grad_(), text_mask
        ).sum().backward()
    assert text.grad is None


@pytest.mark.parametrize(
    ("n", "m", "value"),
    [(3, 2, 1 / 3), (1, 2, 2.0), (1, 1, 0.0)],  # 4 times the transport of 0, 1/2, 1 to 0, 1; of 0 to 0, 1
)
def test_position_term_of_places_counted_by_hand(n, m, value):
    masks = [torch.zeros(1, 5, dtype=torch.bool) for _ in range(2)]
    for mask, count in zip(masks, (n, m), strict=True):
        mask[0, [1, 3, 4][:count]] = True
    loss = WassersteinLoss(position_weight=2.0)
    zeros = torch.zeros(1, 5, 4)
    assert float(loss(zeros, masks[0], zeros, masks[1])) == pytest.approx(value, abs=1e-6)


def test_position_term_prefers_the_diagonal():
    speech = torch.zeros(1, 6, 4)
    mask = torch.ones(1, 6, dtype=torch.bool)
    loss = WassersteinLoss(position_weight=2.0)
    value, plan = loss.plan(speech, mask, speech, mask)
    assert float(value) == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(plan[0].numpy(), np.eye(6) / 6)


def test_bfloat16_under_autocast_is_solved_in_float32():
    speech, speech_mask, text, text_mask = batch(8)
    half = [speech.bfloat16().requires_grad_(), text.bfloat16()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = WassersteinLoss()(half[0], speech_mask, half[1], text_mask)
    loss.sum().backward()
    wanted = WassersteinLoss()(half[0].detach().float(), speech_mask, half[1].float(), text_mask)
    assert half[0].grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, wanted)


def geomloss_by_the_book(x, y, blur=0.05, scaling=0.5):
    """Sinkhorn divergence of one pair in float64 by long annealing: what both iterations approach."""

    def potentials(a, b):
        cost = 0.5 * (a[:, None] - b[None]).square().sum(-1)
        f, g = torch.zeros(len(a)).double(), torch.zeros(len(b)).double()
        for eps in [*(10.0 ** -np.linspace(-2, 2.6, 200)), *[blur**2] * 400]:
            f = -eps * torch.logsumexp((g - cost) / eps - np.log(len(b)), 1)
            g = -eps * torch.logsumexp((f[:, None] - cost) / eps - np.log(len(a)), 0)
        return f.mean() + g.mean()

    return float(potentials(x, y) - 0.5 * potentials(x, x) - 0.5 * potentials(y, y))


def geomloss_step_by_step(x, y, blur, scaling):
    """The same by as few steps as geomloss takes: from the box around all tokens, both sides at once."""
    box = torch.cat([x, y])
    diameter = float((box.amax(0) - box.amin(0)).norm())
    falls = np.arange(2 * np.log(diameter), 2 * np.log(blur), 2 * np.log(scaling))

    def soft(eps, a, b, potential):
        cost = 0.5 * torch.cdist(a, b).square()
        return -eps * (torch.logsumexp((potential - cost) / eps, 1) - np.log(len(b)))

    clouds = {"xy": (x, y), "yx": (y, x), "xx": (x, x), "yy": (y, y)}
    back = {"xy": "yx", "yx": "xy", "xx": "xx", "yy": "yy"}
    found = {name: soft(diameter**2, a, b, torch.zeros(len(b))) for name, (a, b) in clouds.items()}
    for eps in [diameter**2, *np.exp(falls), blur**2]:
        new = {name: soft(eps, *clouds[name], found[back[name]]) for name in clouds}
        found = {name: (found[name] + new[name]) / 2 for name in clouds}
    last = {name: soft(blur**2, *clouds[name], found[back[name]]).mean() for name in clouds}
    return float(last["xy"] - last["xx"] + last["yx"] - last["yy"])


@pytest.mark.parametrize(("blur", "scaling"), [(0.05, 0.5), (0.3, 0.8), (0.3, 0.25)])
def test_geomloss_compat_takes_the_same_steps(blur, scaling):
    from aista.ot.sinkhorn import debiased_divergence

    speech, speech_mask, text, text_mask = (side[:1] for side in batch(4, d=3))
    x, y = speech[speech_mask].double(), text[text_mask].double()
    found = debiased_divergence(speech, speech_mask, text, text_mask, blur=blur, scaling=scaling)
    assert float(found) == pytest.approx(geomloss_step_by_step(x, y, blur, scaling), rel=1e-4)


def test_geomloss_compat_is_half_a_debiased_transport():
    generator = torch.Generator().manual_seed(9)
    x, y = torch.randn(6, 3, generator=generator) * 0.3, torch.randn(5, 3, generator=generator) * 0.3 + 0.2
    ones = [torch.ones(1, k, dtype=torch.bool) for k in (6, 5)]
    from aista.ot.sinkhorn import debiased_divergence

    slow = debiased_divergence(x[None], ones[0], y[None], ones[1], scaling=0.97)
    assert float(slow) == pytest.approx(geomloss_by_the_book(x.double(), y.double()), rel=0.02)
    direction = torch.randn(6, 3, generator=generator)
    ahead, behind = (
        geomloss_by_the_book((x + step * direction).double(), y.double()) for step in (1e-3, -1e-3)
    )
    speech = x[None].clone().requires_grad_()
    debiased_divergence(speech, ones[0], y[None], ones[1], scaling=0.998).sum().backward()
    assert float((speech.grad[0] * direction).sum()) == pytest.approx((ahead - behind) / 2e-3, rel=0.03)
    solver = WassersteinLoss("geomloss_compat")
    assert solver.over_batch  # the first epsilon is that of all tokens
    speech = x[None].clone().requires_grad_()
    text = y[None].clone().requires_grad_()
    loss = solver(speech, ones[0], text, ones[1])
    loss.sum().backward()
    assert text.grad is None
    assert loss.item() == pytest.approx(float(slow), rel=0.2)
    longer = torch.cat([x, x.new_full((2, 3), torch.nan)])[None].requires_grad_()
    again = solver(longer, torch.arange(8)[None] < 6, y[None], ones[1])
    again.sum().backward()
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(longer.grad, torch.cat([speech.grad, speech.new_zeros(1, 2, 3)], 1))
    exact = x[None].clone().requires_grad_()
    WassersteinLoss()(exact, ones[0], y[None], ones[1]).sum().backward()
    assert torch.cosine_similarity(speech.grad.flatten(), exact.grad.flatten(), dim=0) > 0.9


def test_sinkhorn_reports_and_approaches_exact():
    speech, speech_mask, text, text_mask = batch(10)
    loss = WassersteinLoss("sinkhorn", epsilon=0.05)
    values = loss(speech, speech_mask, text, text_mask)
    assert loss.report["problems"] == 5 and loss.report["not_converged"] == 0
    torch.testing.assert_close(
        values, WassersteinLoss()(speech, speech_mask, text, text_mask), rtol=0.03, atol=0.1
    )
    short = WassersteinLoss("sinkhorn", epsilon=0.05, max_iterations=5)
    short(speech, speech_mask, text, text_mask)
    assert short.report["not_converged"] > 0 and short.report["iterations"] == 5


def test_what_cannot_be_solved_says_so():
    speech, speech_mask, text, text_mask = batch(11)
    with pytest.raises(TransportError, match="do not fit"):
        WassersteinLoss()(speech, speech_mask[:, :3], text, text_mask)
    with pytest.raises(TransportError, match="pair 3 has no real token"):
        WassersteinLoss()(speech, speech_mask, text, text_mask & (torch.arange(5) != 3)[:, None])
    speech[4, 0] = torch.nan
    with pytest.raises(TransportError, match="pair 4: NaN"):
        WassersteinLoss()(speech, speech_mask, text, text_mask)
    with pytest.raises(TransportError, match="unknown solver"):
        WassersteinLoss("emd")
    with pytest.raises(TransportError, match="unknown scale"):
        WassersteinLoss(scale="log")


@pytest.mark.parametrize("solver", ["sinkhorn", "geomloss_compat"])
def test_every_solver_says_what_it_cannot_solve(solver):
    speech, speech_mask, text, text_mask = batch(11)
    loss = WassersteinLoss(solver)
    with pytest.raises(TransportError, match="pair 3 has no real token"):
        loss(speech, speech_mask, text, text_mask & (torch.arange(5) != 3)[:, None])
    speech[4, 0] = torch.nan
    with pytest.raises(NotFiniteError, match="pair 4: NaN"):
        loss(speech, speech_mask, text, text_mask)
    with pytest.raises(TransportError, match="epsilon must be above 0"):
        WassersteinLoss("sinkhorn", epsilon=-1.0)


@pytest.mark.parametrize("scale", ["raw", "text_spread"])
def test_states_that_are_not_finite_are_named_by_layer_and_pair(scale):
    speech, speech_mask, text, text_mask = batch(11)
    sides = {2: speech, 5: speech.clone()}, {2: text, 5: text}
    sides[0][5][4, 0] = torch.nan
    with pytest.raises(NotFiniteError, match="layer 5, pair 4: NaN"):
        WassersteinLoss(scale=scale).over_layers(sides[0], speech_mask, sides[1], text_mask)


@pytest.mark.parametrize("count", [1, 16])
def test_texts_that_are_all_one_token_have_no_spread_to_divide_by(count):
    """Commands of one word: the spread is 0, or the rounding of it, and the length takes its place."""
    speech, speech_mask = (side[:count] for side in batch(2, size=16, d=896)[:2])
    token = torch.randn(896, generator=torch.Generator().manual_seed(1))
    speech_mask[:, 0] = True
    text, text_mask = token.expand(count, 1, 896).clone(), torch.ones(count, 1, dtype=torch.bool)
    raw, relative = (WassersteinLoss(scale=scale)(speech, speech_mask, text, text_mask)
                     for scale in ("raw", "text_spread"))  # fmt: skip
    torch.testing.assert_close(relative, raw / token.square().sum())


def test_cosine_is_blind_to_norms_and_equals_the_cost_of_directions():
    speech, speech_mask, text, text_mask = batch(5)
    stretch = torch.rand(5, 14, 1, generator=torch.Generator().manual_seed(1)) * 50 + 0.1
    loss = WassersteinLoss(scale="cosine")
    values = loss(speech, speech_mask, text, text_mask)
    assert torch.allclose(values, loss(speech * stretch, speech_mask, text * 7.0, text_mask), atol=1e-5)
    unit = WassersteinLoss()(
        torch.nn.functional.normalize(speech, dim=-1), speech_mask,
        torch.nn.functional.normalize(text, dim=-1), text_mask,
    )  # fmt: skip
    assert torch.allclose(values, unit, atol=1e-6)
    moving = speech.clone().requires_grad_()
    loss(moving, speech_mask, text, text_mask).sum().backward()
    along = (moving.grad * speech).sum(-1)[speech_mask]
    assert along.abs().max() < 1e-5  # no pull on the length of a token


def test_what_the_fast_solver_gave_up_is_answered_all_the_same(monkeypatch):
    kernel = exact._by_kernel

    def gives_up(*args):
        raw = kernel(*args)
        if len(raw.values) > 1:
            raw.outcomes[:2], raw.values[:2] = CAPPED, -1.0
        return raw

    places = batch(7)
    expected = WassersteinLoss().plan(*places)
    monkeypatch.setattr(exact, "_by_kernel", gives_up)
    found = WassersteinLoss().plan(*places)
    assert torch.allclose(found[0], expected[0], rtol=1e-6)
    assert torch.allclose(found[1], expected[1], atol=1e-6)
