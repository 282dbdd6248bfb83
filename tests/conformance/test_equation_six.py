"""The whole step of Eq. 6 against a plain implementation: the loss, and the gradient of everything trained.

The plain one (``benchmarks/step.py``: obvious_step) keeps all hidden states of two whole forward passes and
calls POT for every pair and layer; it shares the model with ours, and nothing else.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def step() -> ModuleType:
    spec = importlib.util.spec_from_file_location("step_benchmark", ROOT / "benchmarks/step.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("layers", [(0,), (0, 1, 3), (2,)])
def test_loss_and_every_gradient(step: ModuleType, layers: tuple[int, ...]) -> None:
    size = step.Size(layers=3, hidden=128, batch=3, vocabulary=300)
    model = step.model_of(size)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, which would hide the gradient of lora_A
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    batch = step.batch_of(size, model.config)
    found = []
    for variant in (step.aista_step, step.obvious_step):
        model.zero_grad()
        loss = variant(model, layers)(dict(batch))
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((loss.item(), gradients))
    (ours, mine), (plain, theirs) = found
    assert ours == pytest.approx(plain, rel=1e-5)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert mine.keys() == theirs.keys() == trained
    for name in trained:
        assert theirs[name].abs().max() > 0, name
        torch.testing.assert_close(mine[name], theirs[name], atol=1e-6, rtol=2e-4, msg=name)
