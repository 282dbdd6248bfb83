"""Laws that every alignment method obeys: whatever ``names()`` finds is put through them."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from aista.alignment import PairedStates, Sizes, alignment, names
from aista.alignment.base import Alignment, take_pairs

SIZES = Sizes(hidden_size=6, vocab_size=11, seed=5)
LAYERS = (0, 2)
HEARD, WRITTEN, ANSWERED = (9, 5, 7), (4, 2, 3), (5, 2, 4)
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "wasserstein": [{}, {"scale": "cosine"}, {"scale": "standardised"}],
    "retrieval": [{}, {"cost": "standardised"}, {"similarity": "maxsim"}, {"similarity": "mean"}],
    "ctc": [{}, {"head": "embeddings"}],
    "contrastive": [{}, {"normalise": True}],
}

every = pytest.mark.parametrize("name", names())
aligning = pytest.mark.parametrize("name", [name for name in names() if name != "none"])


def build(name: str, sizes: Sizes = SIZES) -> Alignment:
    return alignment(name, LAYERS, sizes)


def pairs(seed: int = 0, sizes: Sizes = SIZES, dtype: torch.dtype = torch.float64) -> PairedStates:
    """Three pairs of different lengths, with all that any method may ask for."""
    generator = torch.Generator().manual_seed(seed)

    def draw(lengths: tuple[int, ...], width: int) -> Tensor:
        return torch.randn(len(lengths), max(lengths), width, generator=generator, dtype=torch.float64).to(
            dtype
        )

    def mask(lengths: tuple[int, ...]) -> Tensor:
        return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]

    ids = torch.randint(sizes.vocab_size, (3, max(WRITTEN)), generator=generator)
    return PairedStates(
        speech={layer: draw(HEARD, sizes.hidden_size).requires_grad_() for layer in LAYERS},
        speech_mask=mask(HEARD),
        text={layer: draw(WRITTEN, sizes.hidden_size).requires_grad_() for layer in LAYERS},
        text_mask=mask(WRITTEN),
        transcript_ids=ids,
        speech_logits=draw(ANSWERED, sizes.vocab_size).requires_grad_(),
        text_logits=draw(ANSWERED, sizes.vocab_size).requires_grad_(),
        logits_mask=mask(ANSWERED),
    )


def moved(states: PairedStates) -> list[Tensor]:
    """What a method may draw."""
    assert states.speech_logits is not None
    return [*states.speech.values(), states.speech_logits]


def total(method: Alignment, states: PairedStates) -> Tensor:
    losses = list(method(states).values())
    assert all(loss.shape == () for loss in losses)
    return torch.stack(losses).mean() if losses else torch.zeros((), requires_grad=True)


@every
def test_losses_are_finite_and_named_after_the_method(name: str) -> None:
    method, states = build(name).double(), pairs()
    losses = method(states)
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    assert list(losses) == ([f"{name}_{layer}" for layer in method.layers] or [name] * method.needs_logits)
    assert bool(losses) == method.active
    assert all(figure.shape == () and figure.isfinite() for figure in method.report.values())


@aligning
def test_masked_places_change_nothing(name: str) -> None:
    method, states = build(name).double(), pairs()
    clean = total(method, states)

    def spoil(tensor: Tensor, mask: Tensor, value: float) -> Tensor:
        return tensor.detach().masked_fill(~mask[..., None], value).requires_grad_()

    spoiled = dataclasses.replace(
        states,
        speech={k: spoil(x, states.speech_mask, torch.nan) for k, x in states.speech.items()},
        text={k: spoil(x, states.text_mask, torch.inf) for k, x in states.text.items()},
        transcript_ids=states.transcript_ids.masked_fill(~states.text_mask, 10**9),
        speech_logits=spoil(states.speech_logits, states.logits_mask, torch.nan),
        text_logits=spoil(states.text_logits, states.logits_mask, -torch.inf),
    )
    dirty = total(method, spoiled)
    assert torch.equal(clean, dirty)
    dirty.backward()
    for tensor, mask in zip(
        moved(spoiled), [states.speech_mask] * len(LAYERS) + [states.logits_mask], strict=True
    ):
        if tensor.grad is not None:
            assert tensor.grad[mask].isfinite().all() and not tensor.grad[~mask].any()


@aligning
def test_real_tokens_may_stand_anywhere(name: str) -> None:
    """Behind prompts and pads of any length, each row's own, as in a batch that a processor padded left."""
    method, states = build(name).double(), pairs()
    states = dataclasses.replace(  # rows 0 and 2 say the same
        states,
        transcript_ids=states.transcript_ids[[0, 1, 0]],
        text_mask=states.text_mask[[0, 1, 0]],
    )

    def later(tensor: Tensor, shifts: tuple[int, ...]) -> Tensor:
        moved = tensor.new_full((len(tensor), tensor.shape[1] + max(shifts), *tensor.shape[2:]), 1)
        for row, shift in enumerate(shifts):
            moved[row, shift : shift + tensor.shape[1]] = tensor[row]
        return moved

    def mask_later(mask: Tensor, shifts: tuple[int, ...]) -> Tensor:
        return later(mask.long() + 1, shifts) == 2

    heard, written = (0, 4, 2), (3, 0, 1)
    elsewhere = dataclasses.replace(
        states,
        speech={k: later(x, heard) for k, x in states.speech.items()},
        speech_mask=mask_later(states.speech_mask, heard),
        text={k: later(x, written) for k, x in states.text.items()},
        text_mask=mask_later(states.text_mask, written),
        transcript_ids=later(states.transcript_ids, written),
    )
    torch.testing.assert_close(total(method, elsewhere), total(method, states))
    if method.read is not None:
        assert method.read(elsewhere) == method.read(states)


@aligning
def test_layers_that_nobody_asked_for_are_not_looked_at(name: str) -> None:
    """``dict(enumerate(output.hidden_states))`` is what many hand over."""
    method, states = build(name).double(), pairs()
    more = dataclasses.replace(
        states, speech={**states.speech, 1: states.speech[2]}, text={**states.text, 1: states.text[2]}
    )
    assert list(method(more)) == method.loss_names


@aligning
def test_the_text_branch_gets_no_gradient_and_the_speech_does(name: str) -> None:
    method, states = build(name).double(), pairs()
    total(method, states).backward()
    assert all(x.grad is None or not x.grad.any() for x in [*states.text.values(), states.text_logits])
    assert any(x.grad is not None and x.grad.any() for x in moved(states))
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())


@aligning
def test_the_gradient_is_the_derivative(name: str) -> None:
    method, states = build(name).double(), pairs()
    parameters = list(method.parameters())

    def value(*tensors: Tensor) -> Tensor:
        speech = dict(zip(LAYERS, tensors[: len(LAYERS)], strict=True))
        return total(method, dataclasses.replace(states, speech=speech, speech_logits=tensors[len(LAYERS)]))

    assert torch.autograd.gradcheck(value, (*moved(states), *parameters), fast_mode=True)


@aligning
@pytest.mark.parametrize("which", ["a token", "every token"])
def test_a_token_of_zeros_does_not_drown_the_gradient(name: str, which: str) -> None:
    """A projector whose last layer starts from zeros makes nothing else."""
    for given in OPTIONS.get(name, [{}]):
        states = pairs()
        with torch.no_grad():
            for side in states.speech.values():
                side[0, 1] = 0.0
                side *= which == "a token"
        total(alignment(name, LAYERS, SIZES, **given).double(), states).backward()
        grads = [x.grad for x in states.speech.values() if x.grad is not None]
        assert all(grad.isfinite().all() and grad.norm() < 100 for grad in grads), given


@aligning
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_method_may_be_cast(name: str, dtype: torch.dtype) -> None:
    """As DeepSpeed, or ``.to(dtype)`` of the module that holds it, does; moments stay in float64."""
    states = pairs(dtype=torch.float32)
    for given in OPTIONS.get(name, [{}]):
        plain, cast = (alignment(name, LAYERS, SIZES, **given) for _ in range(2))
        torch.testing.assert_close(total(cast.to(dtype), states), total(plain, states), atol=0.02, rtol=0.02)
        kept = dict(cast.named_buffers())
        assert all(torch.equal(kept[key], value) for key, value in plain.named_buffers())


@aligning
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_magnitudes_do_not_overflow(name: str, dtype: torch.dtype) -> None:
    """A first token of 1e4 and massive dimensions of 3e3, as language models grow them."""
    sizes = Sizes(hidden_size=256, vocab_size=11)
    states = pairs(sizes=sizes, dtype=dtype)
    with torch.no_grad():
        for side in (*states.speech.values(), *states.text.values()):
            side[:, 0] *= 1e4
            side[..., 7] = 3e3
        states.speech_logits[..., 3] = 1e4
        states.text_logits[..., 4] = 1e4
    loss = total(build(name, sizes), states)
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32
    assert all(x.grad is None or x.grad.isfinite().all() for x in moved(states))


@aligning
def test_states_that_are_not_finite_have_a_loss_that_is_not(name: str) -> None:
    """Nothing is raised inside a step: the trainer's ``nonfinite`` decides, and names the clips."""
    method, states = build(name).double(), pairs()
    with torch.no_grad():
        for side in (*states.speech.values(), states.speech_logits):
            side[1, 0, 0] = torch.nan
    loss = total(method, states)
    assert loss.isnan()
    loss.backward()
    assert any(x.grad is not None for x in moved(states))


@pytest.mark.parametrize(("name", "option"), [("wasserstein", "scale"), ("retrieval", "cost")])
def test_states_that_are_not_finite_leave_no_trace_in_running_moments(name: str, option: str) -> None:
    methods = [alignment(name, LAYERS, SIZES, **{option: "standardised"}) for _ in range(2)]
    bad = pairs(1)
    with torch.no_grad():
        bad.speech[2][1, 0, 0] = torch.inf
    assert all(loss.isnan() for loss in methods[0](bad).values())
    for method in methods:
        method(pairs(2))
    held = [method.state_dict() for method in methods]
    assert all(torch.equal(held[0][key], held[1][key]) for key in held[1] if key.endswith("_2.mean"))
    assert all(value.isfinite().all() for value in held[0].values())


@aligning
def test_figures_of_one_batch_are_not_told_of_the_next(name: str) -> None:
    method, states = build(name).double(), pairs()
    method(states)
    known = method.report.keys()
    losses = method(dataclasses.replace(states, speech_mask=states.speech_mask[:, :0]))
    owned = bool(list(method.parameters()))  # engines wait for their gradients, if only of zero
    assert all(loss == 0 and loss.requires_grad is owned for loss in losses.values())
    assert not method.report or (method.report.keys() == known and method.report["ctc_too_short"] == 1)


@aligning
@pytest.mark.parametrize("nothing", ["rows", "speech", "text"])
def test_a_batch_without_a_pair_has_no_loss(name: str, nothing: str) -> None:
    states = pairs()
    if nothing == "rows":
        states = take_pairs(states, torch.zeros(3, dtype=torch.bool))
    elif nothing == "speech":
        speech = {layer: side[:, :0] for layer, side in states.speech.items()}
        states = dataclasses.replace(states, speech=speech, speech_mask=states.speech_mask[:, :0])
    else:
        states = dataclasses.replace(
            states,
            text={layer: side[:, :0] for layer, side in states.text.items()},
            text_mask=states.text_mask[:, :0],
            transcript_ids=states.transcript_ids[:, :0],
        )
    for given in OPTIONS.get(name, [{}]):
        method = alignment(name, LAYERS, SIZES, **given).double()
        losses = method(states)
        assert list(losses) == method.loss_names and not any(losses.values())
        assert all(value.isfinite().all() for value in method.state_dict().values())


@aligning
def test_a_method_can_be_copied_between_its_batches(name: str) -> None:
    """As averages of weights do. What it reports holds no graph."""
    method, states = build(name).double(), pairs()
    value = total(method, states)
    assert torch.equal(total(copy.deepcopy(method), states), value)


def rows(states: PairedStates, index: Tensor) -> PairedStates:
    """Some of the pairs, with no more padding than they need."""

    def cut(tensor: Tensor, mask: Tensor) -> Tensor:
        return tensor[index, : int(mask[index].sum(1).max())]

    heard, written, answered = states.speech_mask, states.text_mask, states.logits_mask
    return PairedStates(
        speech={k: cut(x, heard) for k, x in states.speech.items()},
        speech_mask=cut(heard, heard),
        text={k: cut(x, written) for k, x in states.text.items()},
        text_mask=cut(written, written),
        transcript_ids=cut(states.transcript_ids, written),
        speech_logits=cut(states.speech_logits, answered),
        text_logits=cut(states.text_logits, answered),
        logits_mask=cut(answered, answered),
    )


@aligning
def test_a_batch_is_the_mean_of_its_pairs(name: str) -> None:
    method, states = build(name).double(), pairs()
    if method.over_batch:
        pytest.skip("does not hold: a pair's loss depends on the rest of its batch")
    singles = [total(method, rows(states, torch.tensor([row]))) for row in range(3)]
    torch.testing.assert_close(total(method, states), torch.stack(singles).mean())


@aligning
@pytest.mark.parametrize("side", ["speech_mask", "text_mask"])
def test_a_pair_without_speech_or_transcript_weighs_nothing(name: str, side: str) -> None:
    method, states = build(name).double(), pairs()
    bare = getattr(states, side) & torch.tensor([[True], [False], [True]])
    loss = total(method, dataclasses.replace(states, **{side: bare}))
    torch.testing.assert_close(loss, total(method, rows(states, torch.tensor([0, 2]))))
    loss.backward()
    for tensor in moved(states):
        assert tensor.grad is None or (tensor.grad.isfinite().all() and not tensor.grad[1].any())


@aligning
def test_the_order_of_the_pairs_does_not_matter(name: str) -> None:
    method, states = build(name).double(), pairs()
    torch.testing.assert_close(total(method, states), total(method, rows(states, torch.tensor([2, 0, 1]))))


@every
def test_building_a_method_is_repeatable_and_leaves_the_random_state(name: str) -> None:
    before = torch.random.get_rng_state()
    one, other = build(name).state_dict(), build(name).state_dict()
    drawn = build(name, dataclasses.replace(SIZES, seed=6)).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not one or any(not torch.equal(one[key], drawn[key]) for key in one)
