"""Learning rates: over the steps of a run (docs/decisions, 8), and of the parts that are trained.

Of somebody else's model all that is trained beside LoRA is its projection.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from aista.config import TrainSettings
from aista.model.lora import is_lora


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Return the learning rate of a global step, counted from 0.

    Linear from ``warmup_start_learning_rate`` to ``learning_rate`` over ``warmup_steps``, then a cosine that
    is counted from step 0 to ``max_steps`` and ends at ``min_learning_rate``. Counting the cosine from step 0
    makes the rate drop a little where the warm-up ends (2.94e-5 instead of 3e-5 with the paper's values).

    Source: the paper's A.1 for the values; SALMONN for the form.
    Departs: SALMONN restarts the warm-up at each of its epochs; here steps are global, unless
        ``salmonn_epoch_steps`` says how long its epochs are.
    """
    peak, low = settings.learning_rate, settings.min_learning_rate
    if step < settings.warmup_steps:
        start = settings.warmup_start_learning_rate
        counted = step % settings.salmonn_epoch_steps if settings.salmonn_epoch_steps else step
        return start + (peak - start) * counted / settings.warmup_steps
    progress = min(step / settings.max_steps, 1.0)
    return low + (peak - low) / 2 * (1 + math.cos(math.pi * progress))


def part_of(name: str) -> str:
    """Return which part a parameter belongs to, by its name in the objective."""
    if "window_qformer.projection." in name:
        return "projection"
    if "window_qformer." in name:
        return "qformer"
    if name.startswith(("alignment.", "module.alignment.")):
        return "alignment"
    return "lora" if is_lora(name) else "projection"


def split_by_part(
    optimizer: torch.optim.Optimizer,
    named: Iterable[tuple[str, nn.Parameter]],
    rates: Mapping[str, float],
) -> None:
    """Give the named parts their own peak learning rate, in place, before the first step.

    Args:
        optimizer: Its groups are cut by part; what else they say (weight decay) stays.
        named: The parameters and their names.
        rates: Part -> learning rate; the others keep the group's. A schedule scales all of them alike.
    """
    parts = {id(parameter): part_of(name) for name, parameter in named}
    groups = []
    for group in optimizer.param_groups:
        members: dict[str, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            part = parts[id(parameter)]
            members.setdefault(part if part in rates else "", []).append(parameter)
        for part, parameters in members.items():
            groups.append({**group, "params": parameters, "lr": rates.get(part, group["lr"])})
    optimizer.param_groups[:] = groups
