"""What every alignment method is: what it wants to see of a batch, and its losses (Eq. 6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aista.alignment import PairedStates
from aista.errors import ConfigError, NotFiniteError
from aista.ot.loss import Moments, standardise


def joint_loss(ce: Any, layer_losses: Mapping[Any, Any] | Iterable[Any], alpha: float) -> Any:
    """Weigh translation and alignment: alpha CE + (1 - alpha) / |I| * the sum of the layers' losses.

    Args:
        ce: Cross-entropy of the target (Eq. 2), a scalar.
        layer_losses: One scalar for each selected layer of I, or a mapping to them. Without any there is
            nothing to weigh, and the cross-entropy is returned as it is.
        alpha: Weight of the cross-entropy, 0 to 1. The paper's "OT weight 0.01" is 1 - alpha.

    Returns:
        A scalar of the kind of its inputs (tensor or number).

    Equation: 6. Gradient: as written.
    """
    losses = list(layer_losses.values() if isinstance(layer_losses, Mapping) else layer_losses)
    if not losses:
        return ce
    return alpha * ce + (1 - alpha) / len(losses) * sum(losses[1:], start=losses[0])


class Alignment(nn.Module):
    """An alignment objective over a batch of speech-text pairs; may own parameters, which are then trained.

    A method defines :meth:`pair_losses`. Its loss is the mean of these over the usable pairs **of an
    optimisation step**, however the step is cut into micro-batches and processes: a trainer divides the sum
    over each micro-batch by ``num_pairs``, the usable pairs of the step (of processes whose gradients are
    averaged, as DDP does: their mean, pairs / processes). A method whose pairs need each other
    (negatives, the spread of a batch's texts) says so by ``over_batch``: it then sees the pairs of all
    processes at once (:func:`gather_pairs`), and a step of several micro-batches is refused before training
    starts.

    Args:
        layers: Layer numbers as in ``output_hidden_states``: 0 is the embedding layer.

    Attributes:
        fixed_layers: Layers the method always works at, whatever the settings say; None: the settings'.
        needs_text: Whether it looks at the transcripts' hidden states (else ``PairedStates.text`` is empty
            in training, where no text branch runs for it).
        needs_logits: Whether it looks at the distributions over the target, given speech and given text.
        frozen_teacher: Whether the distribution given text comes from the backbone without LoRA.
        over_batch: Whether a pair's loss depends on the other pairs of the batch. May be set by ``__init__``.
        report: Figures of the last batch that are logged beside the losses and are no losses.
        read: States -> the token ids that each row's speech names; None: the method cannot be read.

    Equation: the second term of Eq. 6, see :func:`joint_loss`.
    """

    fixed_layers: ClassVar[tuple[int, ...] | None] = None
    needs_text: bool = True
    needs_logits: bool = False
    frozen_teacher: bool = False
    over_batch: bool = False
    read: Callable[[PairedStates], list[list[int]]] | None = None

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = layers
        self.report: dict[str, Tensor] = {}

    @property
    def active(self) -> bool:
        """Whether there is anything to align, and so a transcript to know."""
        return bool(self.layers) or self.needs_logits

    @property
    def loss_names(self) -> list[str]:
        """Names of the losses: ``<method>_<layer>``, or ``<method>`` for one without layers."""
        name = type(self).__module__.rpartition(".")[2]
        return [f"{name}_{layer}" for layer in self.layers] or [name] * self.needs_logits

    def usable(self, speech_mask: Tensor, text_mask: Tensor, transcript_ids: Tensor) -> Tensor:
        """Say which pairs have a loss: those with at least one token on either side.

        Args:
            speech_mask: (B, N) bool, true at the speech tokens; other places may stand around them.
            text_mask: (B, M) bool, true at the transcript's tokens. transcript_ids: (B, M).

        Returns:
            (B,) bool. It may depend on nothing but these, since a trainer counts before it computes.
        """
        return speech_mask.any(1) & text_mask.any(1)

    def pair_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Return the loss of each pair, (B,), by ``loss_names``; pairs that are not usable: anything finite.

        A method ``over_batch`` is given usable pairs alone.

        Gradient: reaches the speech side and the method's own parameters; the text side is constant.
        """
        raise NotImplementedError(f"{type(self).__module__}.Method does not define pair_losses")

    def forward(self, states: PairedStates, num_pairs: Tensor | float | None = None) -> dict[str, Tensor]:
        """Return scalar losses by name: sums over the usable pairs, divided.

        Args:
            num_pairs: The divisor: usable pairs of the whole optimisation step, over the number of processes
                if their gradients are averaged. None: those of these states.

        States that are not finite have losses of NaN.
        """
        if not (states.speech_mask.numel() and states.text_mask.numel()):
            return self._no_losses(states)
        usable = self.usable(states.speech_mask, states.text_mask, states.transcript_ids)
        if self.over_batch and not usable.all():
            if not usable.any():
                return self._no_losses(states)
            states, usable = take_pairs(states, usable), usable[usable]
        divisor = usable.sum().clamp(min=1) if num_pairs is None else num_pairs
        try:
            losses = self.pair_losses(states).items()
        except NotFiniteError:  # whoever trains decides what becomes of such a batch, and knows its clips
            total = torch.stack([side.float().sum() for side in states.speech.values()]).sum()
            return dict.fromkeys(self.loss_names, total * float("nan"))
        return {name: values.masked_fill(~usable, 0.0).sum() / divisor for name, values in losses}

    def _no_losses(self, states: PairedStates) -> dict[str, Tensor]:
        """Zeros that depend on the method's own parameters, so that engines find their gradients."""
        self.report = {}
        zero = states.speech_mask.new_zeros((), dtype=torch.float32)
        zero = sum((parameter.sum() * 0.0 for parameter in self.parameters()), start=zero)
        return dict.fromkeys(self.loss_names, zero)


def require_positive(temperature: float) -> None:
    """Refuse a temperature that would turn a loss around, or divide by zero.

    Raises:
        ConfigError: It is not above 0.
    """
    if not temperature > 0:
        raise ConfigError("The temperature must be above 0.", got=temperature, advice="Leave it out.")


def take_pairs(states: PairedStates, chosen: Tensor) -> PairedStates:
    """Return some of the pairs.

    Args:
        chosen: (B,) bool.
    """

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {layer: side[chosen] for layer, side in value.items()}
        return value if value is None else value[chosen]

    fields = (field.name for field in dataclasses.fields(states))
    return PairedStates(**{name: cut(getattr(states, name)) for name in fields})


def real_first(values: Tensor, mask: Tensor) -> Tensor:
    """Move what is marked to the front of each row, in its order: (B, N, ...) -> (B, N, ...).

    Args:
        mask: (B, N) bool.
    """
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return values[torch.arange(len(order), device=order.device)[:, None], order]


def gather_pairs(states: PairedStates) -> PairedStates:
    """Put the pairs of all processes into one batch, in the order of their ranks; every process calls it.

    For methods ``over_batch``: each process then computes the loss of the whole batch, and averaging the
    gradients of the processes (as DDP does) gives the gradient of that one loss. Without torch.distributed
    the states come back as they are.

    Gradient: of a process's own states, the sum of what all processes ask of them.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return states
    if states.speech_logits is not None:
        raise NotImplementedError("a method over the batch cannot look at logits")
    largest = torch.tensor(
        [*states.speech_mask.shape, states.text_mask.shape[1]], device=states.speech_mask.device
    )
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    rows, wide, read_wide = largest.tolist()
    masks = _pad(states.speech_mask, rows, wide), _pad(states.text_mask, rows, read_wide)
    return PairedStates(
        speech={layer: _Gather.apply(_pad(side, rows, wide)) for layer, side in states.speech.items()},
        speech_mask=_Gather.apply(masks[0].to(torch.uint8)).bool(),
        text={
            layer: _Gather.apply(_pad(side.detach(), rows, read_wide)) for layer, side in states.text.items()
        },
        text_mask=_Gather.apply(masks[1].to(torch.uint8)).bool(),
        transcript_ids=_Gather.apply(_pad(states.transcript_ids, rows, read_wide)),
    )


def _pad(values: Tensor, rows: int, width: int) -> Tensor:
    """Zeros (false) behind the rows (B, N, ...) and behind each of them, up to (rows, width, ...)."""
    padded = values.new_zeros(rows, width, *values.shape[2:])
    padded[: values.shape[0], : values.shape[1]] = values
    return padded


class _Gather(torch.autograd.Function):
    """Rows of all processes, one after another."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


class RunningMoments(nn.Module):
    """Moments of one side over the batches of a training run.

    The first batches are averaged over all their tokens; from then on a new batch weighs ``momentum``.

    Args:
        dim: Width d of the states. momentum: Least weight of a new batch, in (0, 1].
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("variance", torch.zeros(dim, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RunningMoments:
        """Move where the module moves, and stay in float64 whatever it is cast to."""

        def moved(buffer: Tensor) -> Tensor:
            asked = fn(buffer)
            return asked if asked.dtype == buffer.dtype else buffer.to(asked.device)

        return super()._apply(moved, recurse)

    @torch.no_grad()
    def update(self, tokens: Tensor) -> None:
        """Take a batch of tokens (T, d) in.

        Raises:
            NotFiniteError: They are not finite, and would stay in the mean for good.
        """
        real = tokens.detach().double()
        if not real.isfinite().all():
            raise NotFiniteError("NaN or infinite hidden states")
        weight = (len(real) / (self.count + len(real))).clamp(min=self.momentum)
        shift = real.mean(0) - self.mean
        spread = real.var(0, correction=0).lerp(self.variance, 1.0 - weight)
        self.variance.copy_(spread + weight * (1.0 - weight) * shift.square())
        self.mean.add_(weight * shift)
        self.count.add_(len(real))

    def current(self) -> Moments:
        """Return what is known so far."""
        deviation = self.variance.sqrt()
        return Moments(self.mean, torch.where(deviation > 0, deviation, 1.0))


class LayerMoments(nn.Module):
    """Running moments of speech and text at several layers, and the standardised states they give.

    Args:
        layers: Layer numbers. dim: Width d of the states.
    """

    def __init__(self, layers: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.sides = nn.ModuleDict(
            {f"{side}_{layer}": RunningMoments(dim) for layer in layers for side in ("speech", "text")}
        )

    def forward(self, side: str, layer: int, states: Tensor, mask: Tensor) -> Tensor:
        """Standardise one side's states (B, N, d) by its moments; in training these tokens count first."""
        running = self.sides[f"{side}_{layer}"]
        assert isinstance(running, RunningMoments)
        if self.training:
            running.update(states[mask])
        return standardise(states, running.current(), mask)
