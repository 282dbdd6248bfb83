"""Learning rates of the parts that are trained: Q-Former, projection, LoRA, the alignment method's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn


def part_of(name: str) -> str:
    """Return which part a parameter belongs to, by its name in the objective."""
    if "window_qformer.projection." in name:
        return "projection"
    if "window_qformer." in name:
        return "qformer"
    return "alignment" if name.startswith(("alignment.", "module.alignment.")) else "lora"


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
