"""The decoder of any speech LLM: states of chosen layers, and the cross-entropy of its targets (Eq. 2)."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aista.errors import ConfigError, ModelInputError
from aista.model.processing import positions, take
from aista.model.speech_lm import eval_mode
from aista.speech_llm.batch import IGNORED


def check_layers(layers: Iterable[int], top: int) -> list[int]:
    """Demand layers between 0 and ``top``.

    Raises:
        ModelInputError: There is no such layer.
    """
    wanted = sorted({int(layer) for layer in layers})
    if wanted and not 0 <= wanted[0] <= wanted[-1] <= top:
        raise ModelInputError("There is no such layer.", got=wanted, expected=f"0 (embeddings) to {top}")
    return wanted


class Packing:
    """The rows of a batch as one sequence: what all begin with once, then the rest of each, and no pad.

    Args:
        ids: (B, T) int64. real: (B, T) bool, pads on the right alone.
        before_speech: (B, T) bool, false from the first speech token of a row on.

    Attributes:
        kept: (L,) positions that run, as numbers into B * T.
    """

    def __init__(self, ids: Tensor, real: Tensor, before_speech: Tensor) -> None:
        alike = (ids == ids[:1]).all(0) & real.all(0) & before_speech.all(0)
        shared = int(alike.cumprod(0).sum())
        runs = real.clone()
        runs[1:, :shared] = False
        self.kept = runs.flatten().nonzero()[:, 0]
        self._shape, length = ids.shape, ids.shape[1]
        row, self._place = self.kept // length, self.kept % length
        row = torch.where(self._place < shared, -1, row)
        earlier = self._place[None] <= self._place[:, None]
        self._seen = earlier & ((row[None] == row[:, None]) | (row[None] == -1))
        numbers = torch.arange(len(self.kept), device=ids.device)
        self._from = torch.zeros(ids.numel(), dtype=torch.int64, device=ids.device)
        self._from[self.kept] = numbers
        self._from.view(ids.shape)[:, :shared] = numbers[:shared]

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return which position sees which, as a decoder of transformers takes it, and its numbers."""
        seen = torch.zeros_like(self._seen, dtype=dtype)
        hidden = seen.masked_fill(~self._seen, torch.finfo(dtype).min)
        return {"attention_mask": hidden[None, None], "position_ids": self._place[None]}

    def unpacked(self, states: Tensor) -> Tensor:
        """Bring states (1, L, d) back to (B, T, d); at pads: anything. Others stay as they are."""
        if states.shape[:2] == self._shape:
            return states
        return states[0].index_select(0, self._from).unflatten(0, self._shape)


class Decoder:
    """A stack of blocks with a final norm.

    Args:
        module: What runs: embeddings, blocks, norm.
        path: Dotted path, from ``module``, of the list of its blocks.
        stream: Which one is the hidden state, where blocks hand on several, (streams, B, T, d).

    Raises:
        ConfigError: There is no list of blocks.
    """

    def __init__(self, module: nn.Module, path: str = "layers", stream: int = 0) -> None:
        self.module, self.stream = module, stream
        self._packing: Packing | None = None
        parent, _, self._name = path.rpartition(".")
        try:
            self._owner: Any = reduce(getattr, parent.split("."), module) if parent else module
            self.num_layers = len(self.blocks)
        except (AttributeError, TypeError) as error:
            raise ConfigError(
                f"This decoder has no list of blocks at {path!r}, so no layer of it can be looked at.",
                got=type(module).__name__,
                advice="The backbone of a model of this package is described in a family file, see "
                "docs/guides/own-backbone.md; of any other speech LLM get_decoder() has to give its blocks.",
            ) from error

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks, first to last."""
        return getattr(self._owner, self._name)

    @contextmanager
    def capture(self, layers: Iterable[int]) -> Iterator[dict[int, Tensor]]:
        """Collect hidden states while the decoder runs, with their gradient, of the asked layers only.

        Args:
            layers: Numbered as transformers' ``output_hidden_states``: 0 enters the first block, l leaves
                block l, except that the last one, L, is taken after the final norm.

        Yields:
            {layer: (B, T, d)}, filled when the decoder has run.
        """
        states: dict[int, Tensor] = {}
        hooks = []

        def keep_input(_: nn.Module, args: tuple, kwargs: dict) -> None:
            states[0] = self._one(args[0] if args else kwargs["hidden_states"])

        def keep_output(layer: int) -> Any:
            def hook(_: nn.Module, __: tuple, output: Any) -> None:
                states[layer] = self._one(output if isinstance(output, Tensor) else output[0])

            return hook

        for layer in check_layers(layers, self.num_layers):
            if layer == self.num_layers:
                hooks.append(self.module.register_forward_hook(keep_output(layer)))
            elif layer == 0:
                hooks.append(self.blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True))
            else:
                hooks.append(self.blocks[layer - 1].register_forward_hook(keep_output(layer)))
        try:
            yield states
        finally:
            for hook in hooks:
                hook.remove()

    def _one(self, states: Tensor) -> Tensor:
        states = states[self.stream] if states.dim() == 4 else states
        return states if self._packing is None else self._packing.unpacked(states)

    @contextmanager
    def packed(self, packing: Packing | None) -> Iterator[None]:
        """Let the decoder run a batch as one sequence; what it gives, and ``capture``, is (B, T, d) again.

        Args:
            packing: Of the batch; None: it runs as it is. Enter this before ``capture``.
        """
        if packing is None:
            yield
            return

        def before(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            embeds = kwargs.get("inputs_embeds")
            if embeds is None:
                embeds = self.module.get_input_embeddings()(kwargs["input_ids"])  # type: ignore[operator]
            own = {"input_ids": None, "inputs_embeds": take(embeds, packing.kept)[None]}
            return args, {**kwargs, **own, **packing.inputs(embeds.dtype)}

        def after(_: nn.Module, __: tuple, output: Any) -> Any:
            output.last_hidden_state = packing.unpacked(output.last_hidden_state)
            return output

        hooks = (
            self.module.register_forward_pre_hook(before, with_kwargs=True),
            self.module.register_forward_hook(after),
        )
        self._packing = packing
        try:
            yield
        finally:
            self._packing = None
            for hook in hooks:
                hook.remove()

    @contextmanager
    def truncated(self, layers: Iterable[int]) -> Iterator[None]:
        """End after the blocks that the asked layers need; for layer 0 alone none computes."""
        blocks = self.blocks
        needed = max(check_layers(layers, self.num_layers), default=0)
        kept = blocks[: max(1, needed)]
        setattr(self._owner, self._name, kept)
        try:
            with contextlib.nullcontext() if needed else _passing(kept[0]):
                yield
        finally:
            setattr(self._owner, self._name, blocks)


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


# Targets x vocabulary above which training computes its logits in parts: half a gibibyte in float32.
MOST_LOGITS = 2**27


class Targets:
    """The positions of a batch that predict something, and what they should predict.

    Args:
        labels: (B, T), -100 where nothing is asked; the position t predicts the label at t + 1.
        count: How many are asked.

    Attributes:
        where: (n,) the positions, as numbers into B * T.
        ids: (n,) the right tokens.
    """

    def __init__(self, labels: Tensor, count: int) -> None:
        self.where = positions(F.pad(labels[:, 1:] != IGNORED, (0, 1)), count)
        self.ids = labels.flatten()[self.where + 1]

    def score(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy and the number of right tokens, for logits (n, V)."""
        return _score(logits, self.ids)

    def score_states(self, head: nn.Module, states: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Do the same from the states (n, d) below an LM head, keeping at most ``rows`` rows of logits.

        Cost: the head runs once more in the backward pass.
        """

        def part(states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            return _score(head(states), ids)

        parts = zip(states.split(rows), self.ids.split(rows), strict=True)
        scores = [checkpoint(part, *each, use_reentrant=False) for each in parts]
        total, correct = (torch.stack(column).sum() for column in zip(*scores, strict=True))
        return total, correct


def _score(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    total = F.cross_entropy(logits.float(), ids, reduction="sum")
    return total, (logits.detach().argmax(-1) == ids).sum()


@contextmanager
def head_at(model: Any, where: Tensor, see: int | None = None) -> Iterator[list[Tensor]]:
    """Let the LM head see only the numbered positions of a batch, as one row: logits become (1, n, V).

    Args:
        see: Only so many of them; their states are kept all the same.

    Yields:
        The states (n, d) below the head, once the model has run. What the model does to its logits
        afterwards (a soft cap, a scale) it does to these.
    """
    kept: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(take(args[0], where))
        return (kept[-1][None, :see], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(hook)
    try:
        yield kept
    finally:
        handle.remove()


@torch.no_grad()
def head_is_plain(model: Any) -> bool:
    """Whether the head's output is the logits (no soft cap, no scale after it), as seen on one token."""
    first = torch.zeros(1, dtype=torch.int64, device=model.get_input_embeddings().weight.device)
    with eval_mode(model), head_at(model, first) as states:
        logits = model(input_ids=first[None] + 3, use_cache=False).logits  # no pad, whose states are 0
    return bool(states) and torch.equal(logits, model.get_output_embeddings()(states[0][None]))
