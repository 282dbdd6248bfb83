"""Looking inside: hidden states of chosen layers, and a backbone that runs no further than needed."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from aista.errors import ModelInputError
from aista.model.backbones import Family
from aista.model.layout import take


def _first(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


def check_layers(layers: Iterable[int], top: int) -> list[int]:
    """Demand layers between 0 and ``top``.

    Raises:
        ModelInputError: There is no such layer.
    """
    wanted = sorted({int(layer) for layer in layers})
    if wanted and not 0 <= wanted[0] <= wanted[-1] <= top:
        raise ModelInputError("There is no such layer.", got=wanted, expected=f"0 (embeddings) to {top}")
    return wanted


@contextmanager
def capture(
    backbone: nn.Module, family: Family, layers: Iterable[int], top: int | None = None
) -> Iterator[dict[int, Tensor]]:
    """Collect hidden states while the backbone runs, with their gradient, of the asked layers only.

    Args:
        backbone: The causal LM.
        family: Where its blocks are.
        layers: Numbered as transformers' ``output_hidden_states``: 0 enters the first block, l leaves
        block l,
            except that the last one, L, is taken after the final norm.
        top: L; by default the number of blocks. A truncated backbone has more layers than blocks.

    Yields:
        {layer: (B, T, d)}, filled when the backbone has run.
    """
    blocks = family.blocks_of(backbone)
    top = len(blocks) if top is None else top
    states: dict[int, Tensor] = {}
    hooks = []

    def keep_input(layer: int):
        def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
            states[layer] = args[0] if args else kwargs["hidden_states"]

        return hook

    def keep_output(layer: int):
        def hook(_: nn.Module, __: tuple, output: Any) -> None:
            states[layer] = _first(output)

        return hook

    for layer in check_layers(layers, top):
        if layer == top:
            hooks.append(family.decoder_of(backbone).register_forward_hook(keep_output(layer)))
        elif layer == 0:
            hooks.append(blocks[0].register_forward_pre_hook(keep_input(layer), with_kwargs=True))
        else:
            hooks.append(blocks[layer - 1].register_forward_hook(keep_output(layer)))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def truncated(backbone: nn.Module, family: Family, layers: Iterable[int]) -> Iterator[int]:
    """Let the backbone end after the blocks that the asked layers need; for layer 0 alone none computes.

    Yields:
        The full number of blocks, L.
    """
    blocks = family.blocks_of(backbone)
    needed = max(check_layers(layers, len(blocks)), default=0)
    kept = blocks[: max(1, needed)]
    family.replace_blocks(backbone, kept)
    try:
        with contextlib.nullcontext() if needed else _passing(kept[0]):
            yield len(blocks)
    finally:
        family.replace_blocks(backbone, blocks)


@contextmanager
def _passing(block: nn.Module) -> Iterator[None]:
    """Let a block hand on what enters it. Blocks that may return more than a tensor are left to compute."""
    if inspect.signature(type(block).forward).return_annotation not in (Tensor, "torch.Tensor", "Tensor"):
        yield
        return
    replaced = block.__dict__.get("forward")  # accelerate puts one there when it spreads a model
    block.forward = lambda hidden_states, *_, **__: hidden_states
    try:
        yield
    finally:
        del block.forward
        if replaced is not None:
            block.forward = replaced


@contextmanager
def head_at(backbone: Any, where: Tensor, see: int | None = None) -> Iterator[list[Tensor]]:
    """Let the LM head see only the numbered places of a batch, as one row: logits become (1, n, vocabulary).

    Args:
        see: Only so many of them; their states are kept all the same.

    Yields:
        The states (n, d) below the head, once the backbone has run. What the backbone does to its logits
        afterwards (a soft cap, a scale) it does to these.
    """
    kept: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(take(args[0], where))
        return (kept[-1][None, :see], *args[1:])

    handle = backbone.get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield kept
    finally:
        handle.remove()


@torch.no_grad()
def head_is_plain(backbone: Any) -> bool:
    """Whether the head's output is the logits (no soft cap, no scale after it), as seen on one token."""
    weight = backbone.get_input_embeddings().weight
    token = torch.linspace(-1, 1, weight.shape[1], dtype=weight.dtype, device=weight.device)[None, None]
    first = torch.zeros(1, dtype=torch.int64, device=weight.device)
    with eval_mode(backbone), head_at(backbone, first) as states:
        logits = backbone(inputs_embeds=token, use_cache=False).logits
    return bool(states) and torch.equal(logits, backbone.get_output_embeddings()(states[0][None]))


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextmanager
def salmonn_positions(backbone: Any, active: bool) -> Iterator[None]:
    """Let ``generate`` count positions as SALMONN's transformers 4.28 did, pads on the right included.

    At every step positions come from the whole mask, and a pad's is 1. transformers 5 counts on from the last
    column instead, which is the same only where that column is no pad.
    """
    original = backbone.prepare_inputs_for_generation

    @functools.wraps(original)
    def prepare(input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> dict[str, Any]:
        inputs = original(input_ids, attention_mask=attention_mask, **options)
        if attention_mask is None:  # there are no pads
            return inputs
        embeds = inputs.get("inputs_embeds")
        length = (inputs["input_ids"] if embeds is None else embeds).shape[1]
        positions = (attention_mask.long().cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)
        return {**inputs, "position_ids": positions[:, -length:]}

    if active:
        backbone.prepare_inputs_for_generation = prepare
    try:
        yield
    finally:
        if active:
            del backbone.prepare_inputs_for_generation


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed of its own, and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
