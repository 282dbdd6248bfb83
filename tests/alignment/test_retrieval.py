"""The retrieval objective against a loop over POT, and the laws of InfoNCE over a batch."""

from __future__ import annotations

import dataclasses

import ot
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aista.alignment import PairedStates, Sizes, alignment
from aista.alignment.retrieval import Method, all_distances, info_nce, max_similarities, nearest_is_own
from aista.errors import ConfigError, TransportError

WIDTH, HEARD, WRITTEN = 5, (6, 4, 5, 3), (4, 3, 2, 4)
IDS = torch.tensor([[1, 2, 3, 1], [4, 4, 5, 0], [6, 7, 0, 0], [8, 8, 2, 9]])


def paired(seed: int = 3, ids: Tensor = IDS, layers: tuple[int, ...] = (0,)) -> PairedStates:
    generator = torch.Generator().manual_seed(seed)

    def side(lengths: tuple[int, ...]) -> dict[int, Tensor]:
        shape = (len(lengths), max(lengths), WIDTH)
        return {k: torch.randn(shape, generator=generator, dtype=torch.float64) + k for k in layers}

    return PairedStates(
        speech={k: x.requires_grad_() for k, x in side(HEARD).items()},
        speech_mask=torch.arange(max(HEARD))[None] < torch.tensor(HEARD)[:, None],
        text=side(WRITTEN),
        text_mask=torch.arange(max(WRITTEN))[None] < torch.tensor(WRITTEN)[:, None],
        transcript_ids=ids,
    )


def mapped(cost: str, states: Tensor, mask: Tensor) -> Tensor:
    """The cost's map, written plainly."""
    if cost == "cosine":
        return states / states.norm(dim=-1, keepdim=True)
    if cost == "standardised":
        tokens = states.detach()[mask]
        return (states - tokens.mean(0)) / (tokens.std(0, correction=0) * WIDTH**0.5)
    return states


def by_pot(states: PairedStates, cost: str) -> Tensor:
    """All distances by POT, one problem at a time, with autograd through <plan, cost>."""
    speech = mapped(cost, states.speech[0], states.speech_mask)
    text = mapped(cost, states.text[0], states.text_mask)
    rows = []
    for x, x_mask in zip(speech, states.speech_mask, strict=True):
        row = []
        for y, y_mask in zip(text, states.text_mask, strict=True):
            costs = torch.cdist(x[x_mask], y[y_mask]).square()
            plan = torch.from_numpy(ot.emd([], [], costs.detach().numpy()))
            row.append((plan * costs).sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["squared_euclidean", "cosine", "standardised"])
def test_it_agrees_with_a_loop_over_pot(cost: str) -> None:
    given, other = paired(), paired()
    temperature = 0.7
    logits = -by_pot(other, cost) / temperature
    wanted = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    wanted.backward()
    method = alignment("retrieval", (0,), Sizes(WIDTH, 10), cost=cost, temperature=temperature).train()
    found = method(given)["retrieval_0"]
    found.backward()
    torch.testing.assert_close(found, wanted)
    real = given.speech_mask
    torch.testing.assert_close(given.speech[0].grad[real], other.speech[0].grad[real])
    assert not given.speech[0].grad[~real].any()


@pytest.mark.parametrize(
    "options", [{"similarity": "maxsim"}, {"similarity": "mean"}, {"cost": "squared_euclidean"}]
)
def test_the_gradient_is_the_derivative(options: dict[str, str]) -> None:
    given = paired()
    method = alignment("retrieval", (0,), **options)
    method(dataclasses.replace(given, text={0: (text := given.text[0].clone().requires_grad_())}))[
        "retrieval_0"
    ].backward()
    assert text.grad is None

    def loss(speech: Tensor) -> Tensor:
        states = PairedStates({0: speech}, given.speech_mask, given.text, given.text_mask, IDS)
        return method(states)["retrieval_0"]

    assert torch.autograd.gradcheck(loss, (given.speech[0],))


def test_distances_of_two_sets_of_different_sizes() -> None:
    """Three clips against four transcripts: what a gathered batch asks for."""
    given = paired()
    speech = given.speech[0].detach()[:3].requires_grad_()
    some = all_distances(speech, given.speech_mask[:3], given.text[0], given.text_mask)
    torch.testing.assert_close(some, by_pot(given, "squared_euclidean")[:3])
    assert torch.autograd.gradcheck(
        lambda x: all_distances(x, given.speech_mask[:3], given.text[0], given.text_mask),
        (speech,),
        fast_mode=True,
    )


def test_the_gradient_has_no_common_offset() -> None:
    """Where all tokens lie far out, it is the small difference of large sums."""
    given, slopes = paired(), []
    for dtype in (torch.float32, torch.float64):
        x, y = ((side.detach().float() + 1e4).to(dtype) for side in (given.speech[0], given.text[0]))
        all_distances(x.requires_grad_(), given.speech_mask, y, given.text_mask).sum().backward()
        slopes.append(x.grad.double())
    assert (slopes[0] - slopes[1]).abs().max() < 1e-5 * slopes[1].abs().max()


def test_the_nearest_text_is_right_whoever_speaks_it() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.8, 0.1], [0.0, 0.7, 0.4]])
    same = torch.eye(3, dtype=torch.bool)
    assert nearest_is_own(scores, same) == pytest.approx(1 / 3)
    same[0, 1] = same[1, 0] = True
    assert nearest_is_own(scores, same) == pytest.approx(2 / 3)


def test_max_similarity_is_the_mean_over_text_of_the_best_speech_token() -> None:
    given = paired()
    found = max_similarities(given.speech[0].detach(), given.speech_mask, given.text[0], given.text_mask)
    for i in range(4):
        for j in range(4):
            products = given.speech[0].detach()[i, : HEARD[i]] @ given.text[0][j, : WRITTEN[j]].T
            torch.testing.assert_close(found[i, j], products.amax(0).mean())


def test_the_order_of_the_pairs_moves_their_losses_with_them() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, order = torch.randn(5, 5, generator=generator), torch.tensor([3, 1, 4, 0, 2])
    same = torch.eye(5, dtype=torch.bool)
    same[1, 3] = same[3, 1] = True
    turned = info_nce(logits[order][:, order], same[order][:, order])
    torch.testing.assert_close(turned, info_nce(logits, same)[order])


def test_another_clip_of_the_same_transcript_is_no_negative() -> None:
    """Rows 0 and 1 say the same: their losses are those of batches without the other."""
    ids = IDS.clone()
    ids[1] = ids[0]
    given = paired(ids=ids)
    mask = torch.arange(4)[None] < torch.tensor([4, 4, 2, 4])[:, None]
    scores = (
        alignment("retrieval", (0,))
        .similarities(0, PairedStates(given.speech, given.speech_mask, given.text, mask, ids))
        .detach()
    )
    same = (ids[:, None] == ids[None]).all(-1)
    losses = info_nce(scores, same)
    for row, rest in ((0, [0, 2, 3]), (1, [1, 2, 3])):
        alone = info_nce(scores[rest][:, rest], torch.eye(3, dtype=torch.bool))
        torch.testing.assert_close(losses[row], alone[rest.index(row)])


def test_a_batch_of_one_kind_of_transcript_has_loss_and_gradient_zero() -> None:
    for rows in (1, 3):
        given = paired(ids=IDS[:1].repeat(4, 1))
        cut = PairedStates(
            {0: given.speech[0][:rows]}, given.speech_mask[:rows], {0: given.text[0][:rows]},
            torch.ones(rows, 4, dtype=torch.bool), IDS[:1].repeat(rows, 1),
        )  # fmt: skip
        loss = alignment("retrieval", (0,))(cut)["retrieval_0"]
        loss.backward()
        assert loss == 0 and not given.speech[0].grad.any()


def test_pairs_that_match_have_a_smaller_loss_than_pairs_that_do_not() -> None:
    """Speech that is its own text, at any length: nothing of the loss is the tokens' length."""
    given = paired()
    near = PairedStates({0: 1000 * given.text[0]}, given.text_mask, given.text, given.text_mask, IDS)
    method = alignment("retrieval", (0,))
    assert method(near)["retrieval_0"] < 0.05 < method(given)["retrieval_0"]
    method(near)
    assert method.report["retrieval_accuracy"] == 1


def test_standardised_layers_keep_their_own_moments() -> None:
    given = paired(layers=(0, 3))
    method = alignment("retrieval", (0, 3), Sizes(WIDTH, 10), cost="standardised").train()
    method(given)
    held = method.state_dict()
    assert {name.split(".")[2] for name in held} == {"speech_0", "speech_3", "text_0", "text_3"}
    torch.testing.assert_close(held["moments.sides.text_3.mean"], given.text[3][given.text_mask].mean(0))
    method.eval()
    method(paired(seed=4, layers=(0, 3)))  # validation moves nothing
    assert all(torch.equal(value, method.state_dict()[name]) for name, value in held.items())


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"similarity": "dot"},
        {"cost": "l1"},
        {"similarity": "mean", "cost": "standardised"},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Method((0,), **options)  # type: ignore[arg-type]


def test_clouds_without_tokens_and_states_that_are_not_finite_are_named() -> None:
    given = paired()
    speech, mask = given.speech[0].detach().clone(), given.speech_mask.clone()
    mask[2] = False
    with pytest.raises(TransportError, match="no real token"):
        all_distances(speech, mask, given.text[0], given.text_mask)
    speech[1, 0, 0] = torch.nan
    with pytest.raises(TransportError, match="clouds 1 and 0"):
        all_distances(speech, given.speech_mask, given.text[0], given.text_mask)
    speech[1, 0, 0] = 0.0
    speech[1, 5] = torch.nan  # behind the four tokens of clip 1
    assert all_distances(speech, given.speech_mask, given.text[0], given.text_mask).isfinite().all()


@pytest.mark.parametrize("threads", [1, 3])
def test_real_tokens_may_stand_anywhere(threads: int) -> None:
    """Masks with holes and clouds of every shape: the distances are those of the tokens taken out."""
    generator = torch.Generator().manual_seed(9)
    x, y = torch.randn(7, 9, 3, generator=generator), torch.randn(5, 12, 3, generator=generator)
    x_mask, y_mask = torch.rand(7, 9, generator=generator) < 0.6, torch.rand(5, 12, generator=generator) < 0.4
    x_mask[:, 3] = y_mask[:, 7] = True
    found = all_distances(x, x_mask, y, y_mask, threads=threads)
    for i in range(7):
        for j in range(5):
            wanted = ot.emd2([], [], torch.cdist(x[i][x_mask[i]], y[j][y_mask[j]]).square().double().numpy())
            assert float(found[i, j]) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
def test_the_papers_loss_can_be_standardised_too() -> None:
    """The mean of the matching pairs' standardised distances; its gradient is the derivative."""
    given = paired()
    method = alignment("wasserstein", (0,), Sizes(WIDTH, 10), scale="standardised").train()
    assert method.over_batch and method.cost == "standardised"
    found = method(given)["wasserstein_0"]
    torch.testing.assert_close(found, by_pot(paired(), "standardised").diag().mean())
    method.eval()

    def loss(speech: Tensor) -> Tensor:
        states = PairedStates({0: speech}, given.speech_mask, given.text, given.text_mask, IDS)
        return method(states)["wasserstein_0"]

    assert torch.autograd.gradcheck(loss, (given.speech[0],), fast_mode=True)
    with pytest.raises(ConfigError, match="sizes"):
        alignment("wasserstein", (0,), scale="standardised")
