"""Learning rates per part: which parameter belongs where, and what a schedule makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aista.config import TrainSettings
from aista.errors import ConfigError
from aista.training.optimisation import part_of, split_by_part

NAMES = {
    "model.window_qformer.projection.weight": "projection",
    "model.window_qformer.query": "qformer",
    "model.window_qformer.qformer.encoder.layer.0.attention.attention.query.weight": "qformer",
    "model.backbone.model.layers.0.self_attn.q_proj.lora_A.default.weight": "lora",
    "alignment.head.weight": "alignment",
}


@pytest.mark.parametrize(("name", "part"), NAMES.items())
def test_every_parameter_has_a_part(name: str, part: str) -> None:
    assert part_of(name) == part


def test_rates_are_peaks_that_the_schedule_scales_alike() -> None:
    named = {name: nn.Parameter(torch.zeros(2)) for name in NAMES}
    first, rest = list(named.values())[:2], list(named.values())[2:]
    optimizer = torch.optim.AdamW([{"params": first, "weight_decay": 0.0}, {"params": rest}], lr=1e-3)
    split_by_part(optimizer, named.items(), {"lora": 2e-4, "projection": 5e-3})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    wanted = {"projection": 5e-3, "lora": 2e-4}
    for position, (name, parameter) in enumerate(named.items()):
        rate, decay = found[id(parameter)]
        assert rate == pytest.approx(0.5 * wanted.get(NAMES[name], 1e-3))
        assert decay == (0.0 if position < 2 else 0.01)
    assert len(found) == len(named) and schedule.get_last_lr()


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="learning_rates"):
        TrainSettings.of({"learning_rates": {"encoder": 1e-3}})
